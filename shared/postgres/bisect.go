package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Candidate is a checkpoint that a bisection may look at.
type Candidate struct {
	ID         uuid.UUID
	TreeDigest tree.Digest
}

// Candidates returns the checkpoints on the way from good to bad that changed the
// workspace, oldest first, beginning with good and ending with bad's workspace. The way is
// that of first parents, as with `git bisect --first-parent`. Without good it begins at the
// line's first checkpoint with files, if a later one changed them. An unknown bad is fault.NotFound; good not on the way and a way
// of more than [run.MaxCandidates] changes are fault.Invalid.
func (db *DB) Candidates(ctx context.Context, tenant uuid.UUID, good *uuid.UUID, bad uuid.UUID) (list []Candidate, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			WITH RECURSIVE line (id, tree_digest, n) AS (
				SELECT c.id, c.tree_digest, 0 FROM nofx.checkpoint c WHERE c.tenant_id = $1 AND c.id = $2
				UNION ALL
				SELECT c.id, c.tree_digest, l.n + 1 FROM line l
				JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = l.id AND p.ord = 1
				JOIN nofx.checkpoint c ON c.tenant_id = $1 AND c.id = p.parent_id
				WHERE l.id IS DISTINCT FROM $3
			)
			SELECT id, tree_digest FROM line ORDER BY n`, tenant, bad, good)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Candidate])
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, missing(pgx.ErrNoRows, "checkpoint")
	}
	slices.Reverse(list)
	if good != nil && list[0].ID != *good {
		return nil, fault.New(fault.Invalid, "invalid-field", "checkpoint %s is not on the line of first parents that leads to %s",
			run.CheckpointID.Format(*good), run.CheckpointID.Format(bad))
	}
	// The first one with a workspace stands for those after it that did not change it.
	list = slices.CompactFunc(list, func(a, b Candidate) bool { return a.TreeDigest == b.TreeDigest })
	if good == nil && len(list) > 2 && list[0].TreeDigest == tree.Empty {
		list = list[1:] // most commands fail before there is a workspace
	}
	if len(list) > run.MaxCandidates {
		return nil, fault.New(fault.Invalid, "invalid-field", "%d checkpoints changed the workspace; a bisection looks at %d at most, so name a later good one", len(list), run.MaxCandidates)
	}
	return list, nil
}

// RecordProbe records the result of a bisection's command at a checkpoint. fault.Fenced
// means that the lease is lost.
func (db *DB) RecordProbe(ctx context.Context, c *Claim, p run.Probe) error {
	doc, err := document(p)
	if err != nil {
		return err
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.record_probe($1, $2, $3)", c.StepID, c.Fence, doc)
		return err
	})
}

// Probes returns the results that the bisection of a system run has so far, oldest first.
func (db *DB) Probes(ctx context.Context, tenant, runID uuid.UUID) ([]run.Probe, error) {
	events, err := db.Events(ctx, tenant, runID, 0, []string{"bisect.probed"}, run.MaxCandidates)
	if err != nil {
		return nil, err
	}
	list := make([]run.Probe, len(events))
	for i, e := range events {
		if err := json.Unmarshal(e.Data, &list[i]); err != nil {
			return nil, fmt.Errorf("probe %d of run %s: %w", e.Seq, runID, err)
		}
	}
	return list, nil
}

// Author is who made a checkpoint.
type Author struct {
	RunID    uuid.UUID
	StepID   *uuid.UUID // nil: no step of the run
	StepName string
}

// CheckpointAuthor returns who made a checkpoint of any run, or fault.NotFound.
func (db *DB) CheckpointAuthor(ctx context.Context, tenant, id uuid.UUID) (a Author, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT c.run_id, c.step_id, coalesce(s.name, '') FROM nofx.checkpoint c
			LEFT JOIN nofx.step s ON s.tenant_id = c.tenant_id AND s.id = c.step_id
			WHERE c.tenant_id = $1 AND c.id = $2`, tenant, id).Scan(&a.RunID, &a.StepID, &a.StepName)
		return missing(err, "checkpoint")
	})
	return a, err
}
