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

// Project is a part of a tenant that runs belong to.
type Project struct {
	Slug      string
	CreatedAt time.Time
}

// Projects lists the projects of a tenant by name, after one of them.
func (db *DB) Projects(ctx context.Context, tenant uuid.UUID, after string, limit int) (list []Project, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT slug, created_at FROM nofx.project WHERE tenant_id = $1 AND slug COLLATE "C" > $2 ORDER BY slug COLLATE "C" LIMIT $3`, tenant, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Project])
		return err
	})
	return list, err
}

// CreateProject makes a project. A slug that there is already is fault.Conflict (name-taken).
func (db *DB) CreateProject(ctx context.Context, tenant uuid.UUID, slug string) (p Project, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.create_project($1, $2)", run.NewID(), slug); err != nil {
			if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "project_tenant_id_slug_key" {
				return fault.New(fault.Conflict, "name-taken", "there is a project %s already", slug).Because(err)
			}
			return err
		}
		return tx.QueryRow(ctx, "SELECT slug, created_at FROM nofx.project WHERE tenant_id = $1 AND slug = $2", tenant, slug).Scan(&p.Slug, &p.CreatedAt)
	})
	return p, err
}

// DeleteProject deletes a project. One that runs or repositories belong to, and the default
// one, is fault.Conflict (project-in-use), an unknown one fault.NotFound.
func (db *DB) DeleteProject(ctx context.Context, tenant uuid.UUID, slug string) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var has *string
		if err := tx.QueryRow(ctx, "SELECT nofx.delete_project($1)", slug).Scan(&has); err != nil || has == nil {
			return err
		}
		switch *has {
		case "default":
			return fault.New(fault.Conflict, "project-in-use", "the project default stays: requests that name no project are for it")
		case "repositories":
			return fault.New(fault.Conflict, "project-in-use", "repositories are bound to the project; remove them or give them another project first")
		}
		return fault.New(fault.Conflict, "project-in-use", "the project has runs; it can be deleted once they have expired")
	})
}
