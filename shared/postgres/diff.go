package postgres

import (
	"context"
	"encoding/hex"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Diff is a stored diff of two checkpoints. From is zero for what was before the first
// checkpoint of a run.
type Diff struct {
	From, To     uuid.UUID
	Options      string // what was asked for, by run.DiffInputs
	Copy         int64  // of the keys of its objects
	JSON         tree.Digest
	JSONBytes    int64 // before compression
	Patch        tree.Digest
	PatchBytes   int64
	Files        int
	LinesAdded   int
	LinesDeleted int
	Truncated    bool
	Lost         bool // storage has lost an object of it, and it is to be computed anew
	Losses       int
}

// Diff returns the stored diff of two checkpoints, or fault.NotFound.
func (db *DB) Diff(ctx context.Context, tenant, from, to uuid.UUID, options string) (d Diff, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		d = Diff{From: from, To: to, Options: options}
		return missing(tx.QueryRow(ctx, `SELECT copy, json_sha256, json_bytes, patch_sha256, patch_bytes, files, lines_added, lines_deleted, truncated, state = 'lost', losses
			FROM nofx.diff WHERE tenant_id = $1 AND to_id = $2 AND from_id = $3 AND options = $4`, tenant, to, from, options).
			Scan(&d.Copy, &d.JSON, &d.JSONBytes, &d.Patch, &d.PatchBytes, &d.Files, &d.LinesAdded, &d.LinesDeleted, &d.Truncated, &d.Lost, &d.Losses), "diff")
	})
	return d, err
}

// RecordDiff records a diff whose objects are stored, with the fence of the step that has
// computed it. fault.Fenced means that the lease is lost, fault.NotFound that a checkpoint
// is gone; then nothing was written.
func (db *DB) RecordDiff(ctx context.Context, c *Claim, d Diff, objects []tree.Object) error {
	list := make([]map[string]any, len(objects))
	for i, o := range objects {
		list[i] = map[string]any{"key": o.Key, "sha256": hex.EncodeToString(o.SHA256[:]), "bytes": o.Bytes}
	}
	doc, err := document(map[string]any{
		"from_id": d.From, "to_id": d.To, "options": d.Options, "copy": d.Copy, "json_sha256": hex.EncodeToString(d.JSON[:]), "json_bytes": d.JSONBytes,
		"patch_sha256": hex.EncodeToString(d.Patch[:]), "patch_bytes": d.PatchBytes, "files": d.Files, "lines_added": d.LinesAdded,
		"lines_deleted": d.LinesDeleted, "truncated": d.Truncated, "objects": list,
	})
	if err != nil {
		return err
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.record_diff($1, $2, $3)", c.StepID, c.Fence, doc)
		return err
	})
}

// LoseDiff records that storage has lost the object at key, one of a diff, so that the next
// request for the diff has it computed anew.
func (db *DB) LoseDiff(ctx context.Context, tenant uuid.UUID, d Diff, key string) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.lose_diff($1, $2, $3, $4)", d.From, d.To, d.Options, key)
		return err
	})
}

// CheckpointContent returns what a checkpoint is of and its run, or fault.NotFound.
func (db *DB) CheckpointContent(ctx context.Context, tenant, id uuid.UUID) (p Parent, runID uuid.UUID, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return missing(tx.QueryRow(ctx, `SELECT id, digest, generation, tree_digest, state_digest, state_inline, run_id
			FROM nofx.checkpoint WHERE tenant_id = $1 AND id = $2`, tenant, id).
			Scan(&p.ID, &p.Digest, &p.Generation, &p.TreeDigest, &p.StateDigest, &p.State, &runID), "checkpoint")
	})
	return p, runID, err
}

// Base returns the nearest checkpoint that a checkpoint of a branch descends from in the run
// that the branch left, or in those that this one descends from. Without one it is
// fault.NotFound. What a merge brought in from the parent counts, as with a merge base in
// git: the rest is what only the branch changed.
func (db *DB) Base(ctx context.Context, tenant, id uuid.UUID) (base uuid.UUID, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return missing(tx.QueryRow(ctx, `
			WITH RECURSIVE above (id) AS (
				SELECT r.parent_run_id FROM nofx.checkpoint c JOIN nofx.run r ON r.tenant_id = $1 AND r.id = c.run_id
				WHERE c.tenant_id = $1 AND c.id = $2 AND r.parent_run_id IS NOT NULL
				UNION
				SELECT r.parent_run_id FROM above a JOIN nofx.run r ON r.tenant_id = $1 AND r.id = a.id WHERE r.parent_run_id IS NOT NULL
			), line (id, generation, above) AS (
				SELECT c.id, c.generation, false FROM nofx.checkpoint c WHERE c.tenant_id = $1 AND c.id = $2 AND EXISTS (SELECT FROM above)
				UNION
				SELECT c.id, c.generation, c.run_id IN (SELECT a.id FROM above a) FROM line l
				JOIN nofx.checkpoint_parent p ON p.tenant_id = $1 AND p.checkpoint_id = l.id
				JOIN nofx.checkpoint c ON c.tenant_id = $1 AND c.id = p.parent_id
				WHERE NOT l.above
			)
			SELECT id FROM line WHERE above ORDER BY generation DESC, id LIMIT 1`, tenant, id).Scan(&base), "base")
	})
	return base, err
}

// GateNames returns the names of the gates of runs, by the names of their steps.
func (db *DB) GateNames(ctx context.Context, tenant uuid.UUID, runs ...uuid.UUID) (names map[string]string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		names = map[string]string{}
		rows, err := tx.Query(ctx, `SELECT name, tool FROM nofx.step
			WHERE tenant_id = $1 AND run_id = ANY ($2) AND (tool LIKE $3 || '%' OR tool LIKE $4 || '%')`, tenant, runs, run.GateFamily, run.ManualFamily)
		if err != nil {
			return err
		}
		var step, tool string
		_, err = pgx.ForEachRow(rows, []any{&step, &tool}, func() error {
			row, _ := run.ToolOf(tool)
			names[step] = tool[len(row.Name):]
			return nil
		})
		return err
	})
	return names, err
}

// PurgedBlobs returns which of the digests were purged for tenant.
func (db *DB) PurgedBlobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error) {
	return db.whichBlobs(ctx, tenant, purgedBlobs, tenant, sums(digests))
}

const purgedBlobs = "SELECT sha256 FROM nofx.blob WHERE tenant_id = $1 AND sha256 = ANY ($2) AND state = 'tombstone'"
