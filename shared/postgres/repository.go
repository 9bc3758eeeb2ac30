package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// Repository is a repository of a forge, with what holds for its reviews.
type Repository struct {
	ID            uuid.UUID
	TenantID      uuid.UUID
	Provider      review.Provider
	Name          string // OWNER/NAME
	Project       string // of the runs
	Enabled       bool   // if not, what its webhook tells is skipped
	Policy        string // of its reviews, where the base of a change has none; "": none, and in lists
	Credential    string // name of a token of the workers; "": their own
	SecretVersion int    // of the webhook's secret
	Version       int64
	CreatedBy     string
	CreatedAt     time.Time
	UpdatedAt     time.Time

	LastDeliveryAt *time.Time
	LastResult     string // of the newest delivery
}

// repositorySelect selects repositories; its one verb is for their policies.
const repositorySelect = `SELECT r.id, r.tenant_id, r.provider, r.name, p.slug, r.enabled, %s, coalesce(r.credential, ''), r.secret_version, r.version, r.created_by, r.created_at, r.updated_at, d.received_at, coalesce(d.result, '')
	FROM nofx.repository r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
	LEFT JOIN LATERAL (SELECT x.received_at, x.result FROM nofx.webhook_delivery x WHERE x.tenant_id = r.tenant_id AND x.repository_id = r.id ORDER BY x.received_at DESC LIMIT 1) d ON true
	WHERE r.tenant_id = $1 `

// oneRepository returns the repository for which a condition holds.
func oneRepository(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, condition string, args ...any) (Repository, error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(repositorySelect, "coalesce(r.policy, '')")+"AND "+condition, append([]any{tenant}, args...)...)
	if err != nil {
		return Repository{}, err
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Repository])
	return r, missing(err, "repository")
}

// Repository returns one repository, or fault.NotFound.
func (db *DB) Repository(ctx context.Context, tenant, id uuid.UUID) (r Repository, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		r, err = oneRepository(ctx, tx, tenant, "r.id = $2", id)
		return err
	})
	return r, err
}

// NamedRepository returns the repository that a forge has under a name, or fault.NotFound.
func (db *DB) NamedRepository(ctx context.Context, tenant uuid.UUID, p review.Provider, name string) (r Repository, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		r, err = oneRepository(ctx, tx, tenant, "r.provider = $2 AND lower(r.name) = lower($3)", p, name)
		return err
	})
	return r, err
}

// Repositories lists repositories without their policies, newest first, before one of them.
func (db *DB) Repositories(ctx context.Context, tenant uuid.UUID, before *uuid.UUID, limit int) (list []Repository, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, fmt.Sprintf(repositorySelect, "''")+"AND ($2::uuid IS NULL OR r.id < $2) ORDER BY r.id DESC LIMIT $3", tenant, before, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Repository])
		return err
	})
	return list, err
}

// CreateRepository binds a repository to the tenant and a project. One that is bound already
// is fault.Conflict (name-taken), an unknown project fault.NotFound.
func (db *DB) CreateRepository(ctx context.Context, tenant uuid.UUID, r Repository) (made Repository, err error) {
	doc, err := document(map[string]any{"provider": r.Provider, "name": r.Name, "project": r.Project, "enabled": r.Enabled, "policy": nullable(r.Policy), "credential": nullable(r.Credential), "created_by": r.CreatedBy})
	if err != nil {
		return made, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		id := run.NewID()
		if _, err := tx.Exec(ctx, "SELECT nofx.create_repository($1, $2)", id, doc); err != nil {
			if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "repository_name" {
				return fault.New(fault.Conflict, "name-taken", "%s of %s is bound already", r.Name, r.Provider).Because(err)
			}
			return err
		}
		made, err = oneRepository(ctx, tx, tenant, "r.id = $2", id)
		return err
	})
	return made, err
}

// RepositoryChange changes what it names of a repository.
type RepositoryChange struct {
	Enabled    *bool   `json:"enabled,omitempty"`
	Project    *string `json:"project,omitempty"`
	Policy     *string `json:"policy,omitempty"`     // "" removes it
	Credential *string `json:"credential,omitempty"` // "" removes it
	Rotate     bool    `json:"rotate"`               // the webhook gets another secret
}

// ChangeRepository changes a repository and returns it. Another version than the one given
// is fault.Conflict (stale-version).
func (db *DB) ChangeRepository(ctx context.Context, tenant, id uuid.UUID, c RepositoryChange, version *int64) (changed Repository, err error) {
	doc, err := document(c)
	if err != nil {
		return changed, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.change_repository($1, $2, $3)", id, doc, version); err != nil {
			return err
		}
		changed, err = oneRepository(ctx, tx, tenant, "r.id = $2", id)
		return err
	})
	return changed, err
}

// DeleteRepository takes a binding back. An unknown one is fault.NotFound.
func (db *DB) DeleteRepository(ctx context.Context, tenant, id uuid.UUID) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var found bool
		if err := tx.QueryRow(ctx, "SELECT nofx.delete_repository($1)", id).Scan(&found); err != nil || found {
			return err
		}
		return missing(pgx.ErrNoRows, "repository")
	})
}

// RepositoryOfWebhook returns the repository, of any tenant, that a webhook names, or
// fault.NotFound. Nothing may be done for it before the signature of the request was
// verified.
func (db *DB) RepositoryOfWebhook(ctx context.Context, id uuid.UUID) (r Repository, err error) {
	type found struct {
		TenantID      uuid.UUID
		Provider      review.Provider
		Name, Project string
		Enabled       bool
		SecretVersion int
	}
	list, err := across(ctx, db, pgx.RowToStructByPos[found], "SELECT tenant_id, provider, name, project, enabled, secret_version FROM nofx.find_repository($1)", id)
	if err != nil {
		return r, err
	}
	if len(list) == 0 {
		return r, missing(pgx.ErrNoRows, "repository")
	}
	f := list[0]
	return Repository{ID: id, TenantID: f.TenantID, Provider: f.Provider, Name: f.Name, Project: f.Project, Enabled: f.Enabled, SecretVersion: f.SecretVersion}, nil
}

// Delivery is a request of a webhook.
type Delivery struct {
	ID          string     `json:"delivery"` // by the forge
	Event       string     `json:"event"`
	PullRequest *int       `json:"pull_request"` // that it is about
	SubjectAt   *time.Time `json:"subject_at"`   // when that changed
}

// Delivered is what came of a delivery.
type Delivered struct {
	Result   string // started, settled, exists, skipped, ignored, stale or duplicate
	Reason   string
	ReviewID *uuid.UUID
	Thread   *SettledThread // of a settled one
}

// Deliver records a delivery and has do act upon it, in one transaction. It does not for one
// that was recorded within a week, or where a later change of its pull request was.
func (db *DB) Deliver(ctx context.Context, r Repository, d Delivery, do func(context.Context) (Delivered, error)) (out Delivered, err error) {
	doc, err := document(d)
	if err != nil {
		return out, err
	}
	err = db.tx(ctx, r.TenantID, func(tx pgx.Tx) error {
		var begun string
		if err := tx.QueryRow(ctx, "SELECT nofx.begin_delivery($1, $2)", r.ID, doc).Scan(&begun); err != nil {
			return err
		}
		switch begun {
		case "duplicate":
			out = Delivered{Result: begun, Reason: "it was delivered before"}
			return nil
		case "stale":
			out = Delivered{Result: begun, Reason: "a later change of the pull request was delivered before"}
		default:
			if out, err = do(context.WithValue(ctx, txKey{}, joined{tx, r.TenantID})); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "SELECT nofx.end_delivery($1, $2, $3, $4)", r.ID, d.ID, out.Result, out.ReviewID)
		return err
	})
	return out, err
}
