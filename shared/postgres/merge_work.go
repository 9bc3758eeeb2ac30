package postgres

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// MergeWork is what the computation of a merge needs.
type MergeWork struct {
	Merge          run.Merge
	Ours, Theirs   []Parent // the leaves of both runs
	Base           Parent
	Shared         []Parent // the nearest common checkpoints
	Target, Source run.Run
	Decided        []run.MergeConflict // conflicts with a resolution, or with one that does not stand any more
}

// MergeWork returns what there is to merge, or fault.NotFound. fault.Conflict is
// no-common-base or ambiguous-base, where that came up since the merge was asked for.
func (db *DB) MergeWork(ctx context.Context, tenant, id uuid.UUID) (w MergeWork, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		if w.Merge, err = oneMerge(ctx, tx, tenant, id); err != nil {
			return err
		}
		if w.Target, err = oneRun(ctx, tx, tenant, w.Merge.TargetRunID); err != nil {
			return err
		}
		if w.Source, err = oneRun(ctx, tx, tenant, w.Merge.SourceRunID); err != nil {
			return err
		}
		if w.Decided, err = conflictsOf(ctx, tx, tenant, id, "(c.resolution IS NOT NULL OR c.reason IS NOT NULL) ORDER BY c.n"); err != nil {
			return err
		}
		var ours, theirs []uuid.UUID
		if err := tx.QueryRow(ctx, "SELECT target_leaves, source_leaves FROM nofx.merge WHERE tenant_id = $1 AND id = $2", tenant, id).Scan(&ours, &theirs); err != nil {
			return err
		}
		if w.Ours, err = parentsOf(ctx, tx, tenant, ours); err != nil {
			return err
		}
		if w.Theirs, err = parentsOf(ctx, tx, tenant, theirs); err != nil {
			return err
		}
		if w.Shared, err = sharedAncestors(ctx, tx, tenant, ours, theirs); err != nil {
			return err
		}
		base := w.Merge.AskedBaseID
		if base == nil {
			b, err := BaseOf(w.Shared, ours, theirs)
			if err != nil {
				return err
			}
			base = &b
		}
		list, err := parentsOf(ctx, tx, tenant, []uuid.UUID{*base})
		if err == nil {
			w.Base = list[0]
		}
		return err
	})
	return w, err
}

// MergeResult is what the computation of a merge came to.
type MergeResult struct {
	Outcome   run.MergeOutcome
	BaseID    uuid.UUID
	Conflicts []run.MergeConflict
	Preview   run.MergePreview

	// The result, if nothing is left to decide: the checkpoints that the commit inserts,
	// the merge's own last, none where there is nothing to merge.
	Tree, State *tree.Digest
	Checkpoints []*Checkpoint

	Failure *fault.Error // why it cannot be computed; then the rest is empty
}

// RecordMerge records what the attempt of c has computed of a merge at a version, with the
// blobs that were stored for it. A merge that has moved on does not change. fault.Fenced
// means that c no longer holds its step.
func (db *DB) RecordMerge(ctx context.Context, c *Claim, id uuid.UUID, version int64, r MergeResult) error {
	doc := map[string]any{"outcome": r.Outcome, "base_id": r.BaseID, "preview": r.Preview, "conflicts": r.Conflicts}
	if r.Conflicts == nil {
		doc["conflicts"] = []any{}
	}
	if r.Tree != nil {
		prepared := []any{}
		for _, ck := range r.Checkpoints {
			prepared = append(prepared, ck.document())
		}
		doc["result_tree"], doc["result_state"], doc["prepared"] = r.Tree, r.State, prepared
	}
	if r.Failure != nil {
		doc = map[string]any{"code": r.Failure.Code, "reason": r.Failure.Detail}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("merge as JSON: %w", err)
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.record_merge($1, $2, $3, $4, $5)", c.StepID, c.Fence, id, version, string(raw)); err != nil {
			return err
		}
		var blobs []tree.Blob
		var objects []tree.Object
		for _, ck := range r.Checkpoints {
			blobs, objects = append(blobs, ck.Blobs...), append(objects, ck.Objects...)
		}
		insertBlobs(tx, c.TenantID, blobs, objects)
		return nil
	})
}
