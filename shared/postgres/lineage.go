package postgres

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CommonAncestor returns the nearest checkpoint that all of the given ones descend from,
// itself included, or nil when they share none.
func (db *DB) CommonAncestor(ctx context.Context, tenant uuid.UUID, checkpoints []uuid.UUID) (p *Parent, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		p = &Parent{}
		err := tx.QueryRow(ctx, `
			WITH RECURSIVE ancestor (of, id) AS (
				SELECT c, c FROM unnest($2::uuid[]) AS c
				UNION
				SELECT a.of, p.parent_id FROM ancestor a
				JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = a.id
			)
			SELECT c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline FROM nofx.checkpoint c
			JOIN (SELECT id FROM ancestor GROUP BY id HAVING count(*) = cardinality($2)) shared USING (id)
			WHERE c.tenant_id = $1 ORDER BY c.generation DESC, c.id LIMIT 1`, tenant, checkpoints).
			Scan(&p.ID, &p.Digest, &p.Generation, &p.TreeDigest, &p.StateDigest, &p.State)
		if errors.Is(err, pgx.ErrNoRows) {
			p = nil
			return nil
		}
		return err
	})
	return p, err
}

// Ancestor is a checkpoint that another one descends from.
type Ancestor struct {
	ID         uuid.UUID
	TreeDigest string
}

// Ancestors lists the nearest checkpoints that the given one descends from, at most
// 100 of them, the nearest first.
func (db *DB) Ancestors(ctx context.Context, tenant, checkpoint uuid.UUID) (list []Ancestor, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			WITH RECURSIVE ancestor (id) AS (
				SELECT $2::uuid
				UNION
				SELECT p.parent_id FROM ancestor a
				JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = a.id
			)
			SELECT c.id, c.tree_digest FROM ancestor a JOIN nofx.checkpoint c ON c.tenant_id = $1 AND c.id = a.id
			WHERE c.id <> $2 ORDER BY c.generation DESC, c.seq DESC LIMIT 100`, tenant, checkpoint)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Ancestor])
		return err
	})
	return list, err
}

// Traceparent is the root context of a step's run, or fault.NotFound.
func (db *DB) Traceparent(ctx context.Context, tenant, stepID uuid.UUID) (parent string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT r.traceparent FROM nofx.step s JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
			WHERE s.tenant_id = $1 AND s.id = $2`, tenant, stepID).Scan(&parent)
		return missing(err, "step")
	})
	return parent, err
}
