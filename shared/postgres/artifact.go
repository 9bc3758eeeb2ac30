package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

const artifactColumns = `id, run_id, step_id, name, key, media_type, size_bytes, sha256, state, created_at FROM nofx.artifact`

func scanArtifact(row pgx.CollectableRow) (a run.Artifact, err error) {
	err = row.Scan(&a.ID, &a.RunID, &a.StepID, &a.Name, &a.Key, &a.MediaType, &a.Size, &a.SHA256, &a.State, &a.CreatedAt)
	return a, err
}

// Artifacts lists what a run produced, oldest first, after one of them (nil:
// from the first). An unknown run is fault.NotFound.
func (db *DB) Artifacts(ctx context.Context, tenant, runID uuid.UUID, after *uuid.UUID, limit int) (list []run.Artifact, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+artifactColumns+`
			WHERE tenant_id = $1 AND run_id = $2 AND ($3::uuid IS NULL OR id > $3) AND state = 'ready'
			ORDER BY id LIMIT $4`, tenant, runID, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanArtifact)
		return err
	})
	return list, err
}

// Artifact returns one artifact whose bytes can be read, or fault.NotFound.
func (db *DB) Artifact(ctx context.Context, tenant, id uuid.UUID) (run.Artifact, error) {
	a, err := db.Upload(ctx, tenant, id)
	if err == nil && a.State != run.Ready {
		return run.Artifact{}, missing(pgx.ErrNoRows, "artifact")
	}
	return a, err
}

// Upload returns one artifact, ready or not, or fault.NotFound.
func (db *DB) Upload(ctx context.Context, tenant, id uuid.UUID) (a run.Artifact, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		a, err = oneArtifact(ctx, tx, tenant, id)
		return err
	})
	return a, err
}

func oneArtifact(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (run.Artifact, error) {
	rows, err := tx.Query(ctx, "SELECT "+artifactColumns+" WHERE tenant_id = $1 AND id = $2", tenant, id)
	if err != nil {
		return run.Artifact{}, err
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanArtifact)
	return a, missing(err, "artifact")
}

// CreateUpload inserts an artifact whose bytes a client will put at its key. It
// is pending until [DB.CompleteUpload], and given up after a day.
func (db *DB) CreateUpload(ctx context.Context, tenant uuid.UUID, a run.Artifact) (run.Artifact, error) {
	a.State = run.Pending
	err := db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT nofx.create_upload($1, $2, $3, $4, $5, $6)",
			a.ID, a.Name, a.Key, a.MediaType, a.Size, a.SHA256).Scan(&a.CreatedAt)
	})
	return a, err
}

// CompleteUpload makes an artifact ready whose bytes the attempt of c has verified and
// stored at key. An artifact that is already ready does not change; an abandoned one is
// fault.NotFound. fault.Fenced means that c no longer holds its step.
func (db *DB) CompleteUpload(ctx context.Context, c *Claim, id uuid.UUID, key string) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.complete_upload($1, $2, $3, $4)", c.StepID, c.Fence, id, key)
		return err
	})
}

// ExpireUploads abandons at most limit uploads of all tenants that were not completed
// within a day, and returns their number.
func (db *DB) ExpireUploads(ctx context.Context, limit int) (int64, error) {
	expired, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.expire_uploads($1)", limit)
	if err != nil {
		return 0, err
	}
	return expired[0], nil
}

// Garbage is an object that no row needs any more.
type Garbage struct {
	TenantID  uuid.UUID
	Key       string
	CreatedAt time.Time
}

// CondemnedObjects lists at most limit objects of all tenants that are to be
// deleted from storage and then forgotten, the oldest first, of those made after a
// time.
func (db *DB) CondemnedObjects(ctx context.Context, after time.Time, limit int) ([]Garbage, error) {
	return across(ctx, db, pgx.RowToStructByPos[Garbage], "SELECT tenant_id, key, created_at FROM nofx.condemned_objects($1, $2)", after, limit)
}

// ForgetObjects deletes the rows of objects that were deleted from storage.
func (db *DB) ForgetObjects(ctx context.Context, list []Garbage) error {
	tenants := make([]uuid.UUID, len(list))
	keys := make([]string, len(list))
	for i, g := range list {
		tenants[i], keys[i] = g.TenantID, g.Key
	}
	_, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.forget_objects($1, $2)", tenants, keys)
	return err
}

// checkArtifacts returns fault.Invalid with a field for each artifact that a plan names
// and that is not there, or whose bytes were not verified yet.
func checkArtifacts(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, p run.Plan) error {
	refs := p.Artifacts()
	if len(refs) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(refs))
	for i, r := range refs {
		ids[i] = r.ID
	}
	rows, err := tx.Query(ctx, "SELECT id, state FROM nofx.artifact WHERE tenant_id = $1 AND id = ANY ($2)", tenant, ids)
	if err != nil {
		return err
	}
	states := map[uuid.UUID]run.State{}
	var id uuid.UUID
	var state run.State
	if _, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		states[id] = state
		return nil
	}); err != nil {
		return err
	}
	var fields []fault.Field
	for _, r := range refs {
		switch states[r.ID] {
		case run.Ready:
		case run.Pending:
			fields = append(fields, fault.Field{Pointer: r.Pointer, Detail: "the upload of this artifact is not complete"})
		default:
			fields = append(fields, fault.Field{Pointer: r.Pointer, Detail: "no such artifact"})
		}
	}
	if len(fields) == 0 {
		return nil
	}
	e := fault.New(fault.Invalid, "invalid-plan", "%s: %s", fields[0].Pointer, fields[0].Detail)
	e.Fields = fields[:min(len(fields), 100)]
	return e
}

// CheckPlan returns fault.Invalid when p names artifacts that cannot be read, secrets that the
// tenant does not have, or hosts that it does not grant; CreateRun asks the same.
func (db *DB) CheckPlan(ctx context.Context, tenant uuid.UUID, p run.Plan) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error { return checkPlan(ctx, tx, tenant, p) })
}

func checkPlan(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, p run.Plan) error {
	if err := checkArtifacts(ctx, tx, tenant, p); err != nil {
		return err
	}
	if err := checkSecrets(ctx, tx, tenant, p); err != nil {
		return err
	}
	return checkNetwork(ctx, tx, tenant, p)
}
