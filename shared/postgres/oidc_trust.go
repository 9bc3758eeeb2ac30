package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// OIDCTrust lets the workflows of a repository on GitHub start and read its reviews.
type OIDCTrust struct {
	ID                uuid.UUID
	Repository        string // OWNER/NAME
	RepositoryID      int64
	RepositoryOwnerID int64
	Ref               string // of the workflow run; "": any
	JobWorkflowRef    string // the same
	EventName         string // the same
	CreatedBy         string
	CreatedAt         time.Time
}

const trustSelect = `SELECT o.id, o.repository, o.repository_id, o.repository_owner_id, coalesce(o.ref, ''), coalesce(o.job_workflow_ref, ''), coalesce(o.event_name, ''), o.created_by, o.created_at
	FROM nofx.oidc_trust o WHERE o.tenant_id = $1 `

// OIDCTrusts lists the trusts of tenant, newest first, before one of them.
func (db *DB) OIDCTrusts(ctx context.Context, tenant uuid.UUID, before *uuid.UUID, limit int) (list []OIDCTrust, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, trustSelect+"AND ($2::uuid IS NULL OR o.id < $2) ORDER BY o.id DESC LIMIT $3", tenant, before, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[OIDCTrust])
		return err
	})
	return list, err
}

// CreateOIDCTrust trusts the workflows of a repository. The same trust again is
// fault.Conflict (name-taken).
func (db *DB) CreateOIDCTrust(ctx context.Context, tenant uuid.UUID, t OIDCTrust) (made OIDCTrust, err error) {
	doc, err := document(map[string]any{
		"repository": t.Repository, "repository_id": t.RepositoryID, "repository_owner_id": t.RepositoryOwnerID,
		"ref": nullable(t.Ref), "job_workflow_ref": nullable(t.JobWorkflowRef), "event_name": nullable(t.EventName), "created_by": t.CreatedBy,
	})
	if err != nil {
		return made, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		id := run.NewID()
		if _, err := tx.Exec(ctx, "SELECT nofx.create_oidc_trust($1, $2)", id, doc); err != nil {
			if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "oidc_trust_same" {
				return fault.New(fault.Conflict, "name-taken", "the workflows of repository %d are trusted under the same conditions already", t.RepositoryID).Because(err)
			}
			return err
		}
		rows, err := tx.Query(ctx, trustSelect+"AND o.id = $2", tenant, id)
		if err != nil {
			return err
		}
		made, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[OIDCTrust])
		return err
	})
	return made, err
}

// DeleteOIDCTrust takes a trust back. An unknown one is fault.NotFound.
func (db *DB) DeleteOIDCTrust(ctx context.Context, tenant, id uuid.UUID) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var found bool
		if err := tx.QueryRow(ctx, "SELECT nofx.delete_oidc_trust($1)", id).Scan(&found); err != nil || found {
			return err
		}
		return missing(pgx.ErrNoRows, "OIDC trust")
	})
}

// WorkflowClaims are the claims of a workflow's verified token by which trusts are found.
type WorkflowClaims struct {
	Tenant            string // slug; "": of any tenant
	RepositoryID      int64
	RepositoryOwnerID int64
	Repository        string
	Ref               string
	JobWorkflowRef    string
	EventName         string
}

// MetTrust is a trust that a token meets.
type MetTrust struct {
	Tenant     uuid.UUID
	ID         uuid.UUID
	Repository string
}

// MetTrusts returns the oldest trust of each tenant that the claims meet, of two tenants at
// most. The token must have been verified.
func (db *DB) MetTrusts(ctx context.Context, c WorkflowClaims) ([]MetTrust, error) {
	return across(ctx, db, pgx.RowToStructByPos[MetTrust], "SELECT tenant_id, id, repository FROM nofx.find_oidc_trusts($1, $2, $3, $4, $5, $6, $7)",
		nullable(c.Tenant), c.RepositoryID, c.RepositoryOwnerID, c.Repository, c.Ref, c.JobWorkflowRef, c.EventName)
}
