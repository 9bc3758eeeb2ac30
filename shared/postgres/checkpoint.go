package postgres

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Checkpoint is a checkpoint to be recorded. Its bytes are in storage already:
// those that were new are listed as blobs and objects.
type Checkpoint struct {
	ID          uuid.UUID
	Kind        run.CheckpointKind
	Generation  int
	Digest      tree.Digest
	Manifest    []byte
	StateDigest tree.Digest
	State       []byte // ≤ 64 KiB; nil: a blob of StateDigest
	TreeDigest  tree.Digest
	Parents     []uuid.UUID
	BytesNew    int64
	Label       string
	Blobs       []tree.Blob
	Objects     []tree.Object
}

func (c *Checkpoint) document() map[string]any {
	doc := map[string]any{"id": c.ID, "kind": c.Kind, "generation": c.Generation, "digest": c.Digest,
		"manifest": base64.StdEncoding.EncodeToString(c.Manifest), "state_digest": c.StateDigest,
		"tree_digest": c.TreeDigest, "bytes_new": c.BytesNew}
	if len(c.Parents) > 0 {
		doc["parents"] = c.Parents
	}
	if c.Label != "" {
		doc["label"] = c.Label
	}
	if c.State != nil {
		doc["state_inline"] = base64.StdEncoding.EncodeToString(c.State)
	}
	return doc
}

// item returns c as nofx.record_checkpoints reads it.
func (c *Checkpoint) item(of *Claim, span trace.SpanContext) map[string]any {
	return map[string]any{"run_id": of.RunID, "step_id": of.StepID, "fence": of.Fence, "traceparent": spanParent(span), "checkpoint": c.document()}
}

// parent returns c as a checkpoint that a step starts from.
func (c *Checkpoint) parent() Parent {
	return Parent{ID: c.ID, Digest: c.Digest, Generation: c.Generation, TreeDigest: c.TreeDigest, StateDigest: c.StateDigest, State: c.State}
}

// insertBlobs records what was stored, with the next statement or the commit.
// What is known already stays as it is, since the same digest is the same bytes, unless
// it is condemned, or a collection deletes it in between: only where something was known
// is that looked at. To learn
// that of a row that another transaction has just inserted is to wait for its end,
// as for a lock: so a transaction records all that it has at once, in the order of
// digests and keys, after it has locked its runs.
func insertBlobs(tx pgx.Tx, tenant uuid.UUID, blobs []tree.Blob, objects []tree.Object) {
	if len(objects) > 0 {
		var keys, kinds []string
		var sums [][]byte
		var sizes []int64
		for _, o := range slices.SortedFunc(slices.Values(objects), func(a, b tree.Object) int { return strings.Compare(a.Key, b.Key) }) {
			keys, kinds = append(keys, o.Key), append(kinds, o.Kind)
			sums, sizes = append(sums, o.SHA256[:]), append(sizes, o.Bytes)
		}
		queue(tx, `WITH stored AS (
				INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind)
				SELECT $1, o.* FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::text[]) AS o
				ON CONFLICT DO NOTHING RETURNING 1
			) SELECT nofx.renew_objects($2) WHERE (SELECT count(*) FROM stored) < cardinality($2)`, tenant, keys, sums, sizes, kinds)
	}
	if len(blobs) > 0 {
		var sums, packs [][]byte
		var sizes, offs, lens, copies []int64
		for _, b := range slices.SortedFunc(slices.Values(blobs), func(a, b tree.Blob) int { return bytes.Compare(a.SHA256[:], b.SHA256[:]) }) {
			var pack []byte
			if b.Pack != nil {
				pack = b.Pack[:]
			}
			sums, packs = append(sums, b.SHA256[:]), append(packs, pack)
			sizes, offs, lens, copies = append(sizes, b.Size), append(offs, b.Off), append(lens, b.Len), append(copies, b.Copy)
		}
		queue(tx, `WITH stored AS (
				INSERT INTO nofx.blob (tenant_id, sha256, size, pack_sha256, off, len, copy)
				SELECT $1, b.* FROM unnest($2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[]) AS b
				ON CONFLICT DO NOTHING RETURNING 1
			) SELECT nofx.renew_blobs($2, $3, $4, $5, $6, $7) WHERE (SELECT count(*) FROM stored) < cardinality($2)`, tenant, sums, sizes, packs, offs, lens, copies)
	}
}

// CondemnObject records that the object at key is gone or corrupt, so that the next
// checkpoint that names its content stores it again.
func (db *DB) CondemnObject(ctx context.Context, tenant uuid.UUID, key string) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.condemn_object($1)", key)
		return err
	})
}

// RecordCorrupt records that bytes of a checkpoint which the running attempt needs are gone
// or corrupt, as code says, and the nearest ancestor that has all its bytes, or nil.
// fault.Fenced means that the lease is lost.
func (db *DB) RecordCorrupt(ctx context.Context, c *Claim, checkpoint uuid.UUID, code string, ancestor *uuid.UUID) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.record_corrupt($1, $2, $3, $4, $5)", c.StepID, c.Fence, checkpoint, code, ancestor)
		return err
	})
}

// LocateBlobs returns the locations of the digests that are stored for tenant, including
// condemned ones, and those that were purged. Digests that are not stored are absent.
func (db *DB) LocateBlobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (at map[tree.Digest]tree.Location, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		at = make(map[tree.Digest]tree.Location, len(digests))
		rows, err := tx.Query(ctx, `SELECT sha256, size, pack_sha256, off, len, copy, state = 'tombstone' FROM nofx.blob
			WHERE tenant_id = $1 AND sha256 = ANY ($2) `, tenant, sums(digests))
		if err != nil {
			return err
		}
		var b tree.Blob
		_, err = pgx.ForEachRow(rows, []any{&b.SHA256, &b.Size, &b.Pack, &b.Off, &b.Len, &b.Copy, &b.Purged}, func() error {
			at[b.SHA256] = b.Location
			return nil
		})
		return err
	})
	return at, err
}

// KnownBlobs returns which of the digests are stored for tenant and not condemned, or were
// purged and so must not be stored again. It records that a checkpoint is about to name
// them: the collection does not condemn them for the grace that follows.
func (db *DB) KnownBlobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error) {
	return db.whichBlobs(ctx, tenant, "SELECT nofx.reuse_blobs($1)", sums(digests))
}

// LiveBlobs returns which of the digests are stored for tenant and can be read.
func (db *DB) LiveBlobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error) {
	return db.whichBlobs(ctx, tenant, `SELECT b.sha256 FROM nofx.blob b
		WHERE b.tenant_id = $1 AND b.sha256 = ANY ($2) AND (b.state = 'live' OR b.condemned_at IS NOT NULL)`, tenant, sums(digests))
}

// whichBlobs returns the digests that a query names.
func (db *DB) whichBlobs(ctx context.Context, tenant uuid.UUID, sql string, args ...any) (named map[tree.Digest]bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		named, err = blobsOf(ctx, tx, sql, args...)
		return err
	})
	return named, err
}

func blobsOf(ctx context.Context, tx pgx.Tx, sql string, args ...any) (map[tree.Digest]bool, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	named := map[tree.Digest]bool{}
	var d tree.Digest
	_, err = pgx.ForEachRow(rows, []any{&d}, func() error {
		named[d] = true
		return nil
	})
	return named, err
}

// sums returns digests as an argument of a statement.
func sums(digests []tree.Digest) [][]byte {
	list := make([][]byte, len(digests))
	for i := range digests {
		list[i] = digests[i][:]
	}
	return list
}

// RecordCheckpoint inserts a checkpoint of a running attempt. fault.Fenced means
// that the lease is lost and nothing was written.
func (db *DB) RecordCheckpoint(ctx context.Context, c *Claim, ck *Checkpoint) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		if err := recordCheckpoints(tx, []map[string]any{ck.item(c, trace.SpanContextFromContext(ctx))}); err != nil {
			return err
		}
		insertBlobs(tx, c.TenantID, ck.Blobs, ck.Objects)
		return nil
	})
}

func recordCheckpoints(tx pgx.Tx, items []map[string]any) error {
	if len(items) == 0 {
		return nil
	}
	doc, err := document(items)
	if err != nil {
		return err
	}
	queue(tx, "SELECT nofx.record_checkpoints($1)", doc)
	return nil
}

const checkpointColumns = `c.id, c.run_id, c.seq, c.kind, c.step_id, c.fence, c.generation, c.digest, c.state_digest, c.tree_digest,
	ARRAY(SELECT p.parent_id FROM nofx.checkpoint_parent p WHERE p.tenant_id = c.tenant_id AND p.checkpoint_id = c.id ORDER BY p.ord),
	c.bytes_new, coalesce(c.label, ''), c.hold, c.created_at`

func scanCheckpoint(row pgx.CollectableRow) (c run.Checkpoint, err error) {
	err = row.Scan(checkpointFields(&c)...)
	return c, err
}

func checkpointFields(c *run.Checkpoint) []any {
	return []any{&c.ID, &c.RunID, &c.Seq, &c.Kind, &c.StepID, &c.Fence, &c.Generation, &c.Digest, &c.StateDigest, &c.TreeDigest,
		&c.Parents, &c.BytesNew, &c.Label, &c.Hold, &c.CreatedAt}
}

// Checkpoints lists the checkpoints of a run with a seq above after, oldest first. An
// unknown run is fault.NotFound.
func (db *DB) Checkpoints(ctx context.Context, tenant, runID uuid.UUID, after int64, limit int) (list []run.Checkpoint, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+checkpointColumns+` FROM nofx.checkpoint c
			WHERE c.tenant_id = $1 AND c.run_id = $2 AND c.seq > $3 ORDER BY c.seq LIMIT $4`, tenant, runID, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanCheckpoint)
		return err
	})
	return list, err
}

// readable is the condition that checkpoint c can be read through run $2: it is of the run,
// or of those that a branch began from.
const readable = `(c.run_id = $2 OR EXISTS (SELECT FROM nofx.run b WHERE b.tenant_id = $1 AND b.id = $2 AND b.parent_checkpoint_id = c.id)
	OR EXISTS (SELECT FROM nofx.step s WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.head_checkpoint_id = c.id))`

// Checkpoint returns one checkpoint of a run with its manifest, or fault.NotFound. Those
// that a branch began from count as its own.
func (db *DB) Checkpoint(ctx context.Context, tenant, runID, id uuid.UUID) (c run.Checkpoint, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		c, err = oneCheckpoint(ctx, tx, tenant, runID, id)
		return err
	})
	return c, err
}

func oneCheckpoint(ctx context.Context, tx pgx.Tx, tenant, runID, id uuid.UUID) (c run.Checkpoint, err error) {
	var manifest []byte
	err = tx.QueryRow(ctx, "SELECT "+checkpointColumns+`, c.manifest FROM nofx.checkpoint c
		WHERE c.tenant_id = $1 AND c.id = $3 AND `+readable, tenant, runID, id).
		Scan(append(checkpointFields(&c), &manifest)...)
	c.Manifest = manifest
	return c, missing(err, "checkpoint")
}

// Mark is a change of what people say about a checkpoint. Nil leaves a member as it is.
type Mark struct {
	Label  *string // "" removes it
	Hold   *bool
	Reason string // of the hold or of its end
}

// MarkCheckpoint changes the label and the hold of a checkpoint and returns the checkpoint.
// An unknown one is fault.NotFound.
func (db *DB) MarkCheckpoint(ctx context.Context, tenant, runID, id uuid.UUID, m Mark) (c run.Checkpoint, err error) {
	var reason *string
	if m.Reason != "" {
		reason = &m.Reason
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.mark_checkpoint($1, $2, $3, $4, $5)", runID, id, m.Label, m.Hold, reason); err != nil {
			return err
		}
		c, err = oneCheckpoint(ctx, tx, tenant, runID, id)
		return err
	})
	return c, err
}

// AddCheckpoint inserts a checkpoint of a run that the system step of c made. A checkpoint
// that is there already does not change. fault.Fenced means that the lease is lost,
// fault.NotFound that the run is gone; then nothing was written.
func (db *DB) AddCheckpoint(ctx context.Context, c *Claim, runID uuid.UUID, ck *Checkpoint) error {
	doc, err := document(ck.document())
	if err != nil {
		return err
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.add_checkpoint($1, $2, $3, $4)", c.StepID, c.Fence, runID, doc); err != nil {
			return err
		}
		insertBlobs(tx, c.TenantID, ck.Blobs, ck.Objects)
		return nil
	})
}

// Leaves returns the ids of the checkpoints from which the next steps of a run start,
// without those from which another of them descends, in the order of the plan. An unknown
// run is fault.NotFound.
func (db *DB) Leaves(ctx context.Context, tenant, runID uuid.UUID) (ids []uuid.UUID, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT nofx.run_leaves($1)", runID)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	return ids, err
}

// Parents returns checkpoints of any runs of a tenant as parents of another one, in the
// order of ids. An unknown one is fault.NotFound.
func (db *DB) Parents(ctx context.Context, tenant uuid.UUID, ids []uuid.UUID) (list []Parent, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		list, err = parentsOf(ctx, tx, tenant, ids)
		return err
	})
	return list, err
}

func parentsOf(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, ids []uuid.UUID) ([]Parent, error) {
	rows, err := tx.Query(ctx, `SELECT c.id, c.digest, c.generation, c.tree_digest, c.state_digest, c.state_inline FROM nofx.checkpoint c
		WHERE c.tenant_id = $1 AND c.id = ANY ($2) ORDER BY array_position($2, c.id)`, tenant, ids)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Parent])
	if err == nil && len(list) < len(ids) {
		err = missing(pgx.ErrNoRows, "checkpoint")
	}
	return list, err
}
