package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/tree"
)

// SharedAncestors returns the nearest checkpoints that both any of the given ones and any
// of the others descend from, themselves included: those from which no other such one
// descends. There may be none, or several where what they left came together more than
// once.
func (db *DB) SharedAncestors(ctx context.Context, tenant uuid.UUID, others []uuid.UUID, checkpoints ...uuid.UUID) (list []Parent, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		list, err = sharedAncestors(ctx, tx, tenant, others, checkpoints)
		return err
	})
	return list, err
}

const shared = `WITH RECURSIVE ancestor (id) AS (
		SELECT unnest($3::uuid[])
		UNION
		SELECT p.parent_id FROM ancestor a
		JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = a.id
	), other (id) AS (
		SELECT unnest($2::uuid[])
		UNION
		SELECT p.parent_id FROM other o
		JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = o.id
	), shared AS (
		SELECT id FROM ancestor INTERSECT SELECT id FROM other
	)`

func sharedAncestors(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, others, checkpoints []uuid.UUID) ([]Parent, error) {
	rows, err := tx.Query(ctx, shared+`, nearest AS (
			SELECT id FROM shared
			EXCEPT
			SELECT p.parent_id FROM shared s
			JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = s.id
		)
		SELECT c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline
		FROM nearest JOIN nofx.checkpoint c ON c.tenant_id = $1 AND c.id = nearest.id
		ORDER BY c.generation DESC, c.id`, tenant, others, checkpoints)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Parent])
}

// sharesAncestor reports whether both sides descend from a checkpoint, or are it.
func sharesAncestor(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, others, checkpoints []uuid.UUID, id uuid.UUID) (yes bool, err error) {
	err = tx.QueryRow(ctx, shared+" SELECT EXISTS (SELECT FROM shared WHERE id = $4)", tenant, others, checkpoints, id).Scan(&yes)
	return yes, err
}

// Ancestor is a checkpoint that another one descends from.
type Ancestor struct {
	ID         uuid.UUID
	TreeDigest tree.Digest
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

// Traceparent returns the root context of a step's run, or fault.NotFound.
func (db *DB) Traceparent(ctx context.Context, tenant, stepID uuid.UUID) (parent string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT r.traceparent FROM nofx.step s JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
			WHERE s.tenant_id = $1 AND s.id = $2`, tenant, stepID).Scan(&parent)
		return missing(err, "step")
	})
	return parent, err
}
