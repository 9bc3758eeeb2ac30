package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
)

// Secret is a secret of a tenant, without what it is.
type Secret struct {
	Name      string
	Version   int64
	CreatedBy string
	CreatedAt time.Time
	UpdatedBy string
	UpdatedAt time.Time
}

// SealedSecret is a secret as it is stored.
type SealedSecret struct {
	TenantID uuid.UUID
	Name     string
	Version  int64
	Sealed   []byte
}

// Bound returns the names that the sealed text is bound to, see package seal.
func (s SealedSecret) Bound() []string {
	return []string{"secret", s.TenantID.String(), s.Name, strconv.FormatInt(s.Version, 10)}
}

const secretColumns = "SELECT name, version, created_by, created_at, updated_by, updated_at FROM nofx.secret WHERE tenant_id = $1 AND sealed IS NOT NULL "

// Secrets lists the secrets of a tenant by name, after one of them.
func (db *DB) Secrets(ctx context.Context, tenant uuid.UUID, after string, limit int) (list []Secret, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, secretColumns+`AND name COLLATE "C" > $2 ORDER BY name COLLATE "C" LIMIT $3`, tenant, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Secret])
		return err
	})
	return list, err
}

// Secret returns a secret, or fault.NotFound.
func (db *DB) Secret(ctx context.Context, tenant uuid.UUID, name string) (s Secret, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		s, err = oneSecret(ctx, tx, tenant, name)
		return err
	})
	return s, err
}

func oneSecret(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, name string) (Secret, error) {
	rows, err := tx.Query(ctx, secretColumns+"AND name = $2", tenant, name)
	if err != nil {
		return Secret{}, err
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Secret])
	return s, missing(err, "secret")
}

// SetSecret sets a secret to what seal makes of its new version. Another version than the one
// given, 0 for none, is fault.Conflict (stale-version), one secret too many fault.Conflict
// (secret-limit); an error of seal is returned, and nothing changes.
func (db *DB) SetSecret(ctx context.Context, tenant uuid.UUID, name string, version *int64, seal func(SealedSecret) ([]byte, error)) (s Secret, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		next := SealedSecret{TenantID: tenant, Name: name}
		if err := tx.QueryRow(ctx, "SELECT nofx.begin_secret($1, $2)", name, version).Scan(&next.Version); err != nil {
			return err
		}
		if next.Sealed, err = seal(next); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT nofx.set_secret($1, $2, $3)", name, next.Version, next.Sealed); err != nil {
			return err
		}
		s, err = oneSecret(ctx, tx, tenant, name)
		return err
	})
	return s, err
}

// DeleteSecret deletes a secret. An unknown one is fault.NotFound.
func (db *DB) DeleteSecret(ctx context.Context, tenant uuid.UUID, name string) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var found bool
		if err := tx.QueryRow(ctx, "SELECT nofx.delete_secret($1)", name).Scan(&found); err != nil || found {
			return err
		}
		return missing(pgx.ErrNoRows, "secret")
	})
}

// SealedSecrets returns those of the named secrets that there are, each after what it was
// before it was set again.
func (db *DB) SealedSecrets(ctx context.Context, tenant uuid.UUID, names []string) (list []SealedSecret, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id, name, version, sealed FROM nofx.secret WHERE tenant_id = $1 AND name = ANY ($2) AND sealed IS NOT NULL
			UNION ALL SELECT tenant_id, name, version, sealed FROM nofx.secret_past WHERE tenant_id = $1 AND name = ANY ($2)
			ORDER BY name, version`, tenant, names)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[SealedSecret])
		return err
	})
	return list, err
}

// SubjectSecrets returns the names of the secrets in the plans of the runs that a system run
// works on: its subject, and the source of the merge that it computes.
func (db *DB) SubjectSecrets(ctx context.Context, tenant, id uuid.UUID) (names []string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `WITH subject AS (SELECT w.id, w.subject_run_id FROM nofx.run w WHERE w.tenant_id = $1 AND w.id = $2)
			SELECT DISTINCT n.name FROM (SELECT s.subject_run_id AS id FROM subject s
				UNION SELECT m.source_run_id FROM subject s JOIN nofx.merge m ON m.tenant_id = $1 AND m.target_run_id = s.subject_run_id AND m.work_run_id = s.id) x,
				LATERAL (SELECT r.plan FROM nofx.run r WHERE r.tenant_id = $1 AND r.id = x.id OFFSET 0) y,
				jsonb_array_elements_text(coalesce(y.plan->'policy'->'secrets', '[]')) AS n (name)`, tenant, id)
		if err != nil {
			return err
		}
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return names, err
}

// SealedProbe returns a sealed secret of any tenant, which every process must be able to open;
// none while there is none.
func (db *DB) SealedProbe(ctx context.Context) (list []SealedSecret, err error) {
	return across(ctx, db, pgx.RowToStructByPos[SealedSecret], "SELECT tenant_id, name, version, sealed FROM nofx.sealed_probe()")
}

// CheckKey returns nil when a key can be used and opens what is stored, and otherwise
// fault.Unavailable.
func (db *DB) CheckKey(ctx context.Context, key *seal.Key) error {
	if err := key.Ready(); err != nil || key.Verified() {
		return err
	}
	list, err := db.SealedProbe(ctx)
	if err != nil {
		return err
	}
	for _, probe := range list {
		if _, err := key.Open(probe.Sealed, probe.Bound()...); err != nil {
			return fault.New(fault.Unavailable, "unavailable", "NOFX_KEK names another key than secrets are sealed with").Because(err)
		}
		key.Verify()
	}
	return nil
}

// checkSecrets returns fault.Invalid with a field for each secret that a plan names and the
// tenant does not have.
func checkSecrets(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, p run.Plan) error {
	if p.Policy == nil || len(p.Policy.Secrets) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, "SELECT name FROM nofx.secret WHERE tenant_id = $1 AND name = ANY ($2) AND sealed IS NOT NULL", tenant, p.Policy.Secrets)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&name}, func() error {
		known[name] = true
		return nil
	}); err != nil {
		return err
	}
	var fields []fault.Field
	for i, name := range p.Policy.Secrets {
		if !known[name] {
			fields = append(fields, fault.Field{Pointer: "/plan/policy/secrets/" + strconv.Itoa(i), Detail: "the tenant has no secret " + name})
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return fault.OfFields("invalid-plan", fields...)
}
