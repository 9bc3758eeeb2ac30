package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Grace is how long a blob that no checkpoint names stays live after it was last used, and
// readable after it was condemned. It is far longer than any checkpoint takes from its first
// question to its row.
const Grace = 24 * time.Hour

// Root is a checkpoint as the collection sees it: where its tree and its state begin.
type Root struct {
	ID          uuid.UUID
	TreeDigest  tree.Digest
	StateDigest tree.Digest
	State       []byte // nil: a blob of StateDigest
}

// Roots lists the checkpoints of a tenant, in the order of their ids, after one of them:
// those that there are, and those that merges have prepared for their commit.
func (db *DB) Roots(ctx context.Context, tenant, after uuid.UUID, limit int) (list []Root, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT r.id, r.tree_digest, r.state_digest, r.state_inline FROM (
				(SELECT c.id, c.tree_digest, c.state_digest, c.state_inline FROM nofx.checkpoint c
				WHERE c.tenant_id = $1 AND c.id > $2 ORDER BY c.id LIMIT $3)
				UNION ALL
				(SELECT p.id, p.tree_digest, p.state_digest, decode(p.state_inline, 'base64') FROM nofx.merge m,
					jsonb_to_recordset(m.prepared) AS p (id uuid, tree_digest text, state_digest text, state_inline text)
				WHERE m.tenant_id = $1 AND m.state = 'ready' AND m.prepared IS NOT NULL AND p.id > $2)) AS r
			ORDER BY r.id LIMIT $3`, tenant, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Root])
		return err
	})
	return list, err
}

// Collection is what the statements of one collection have in common.
type Collection struct {
	Claim *Claim // of the step that collects
	At    time.Time
	Grace time.Duration
	Dry   bool // nothing is condemned or deleted
}

// BeginCollection returns a collection that begins now, by the clock of the database.
func (db *DB) BeginCollection(ctx context.Context, c *Claim, grace time.Duration, dry bool) (Collection, error) {
	col := Collection{Claim: c, Grace: grace, Dry: dry}
	err := db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&col.At)
	})
	return col, err
}

// Marked is a blob that a checkpoint names.
type Marked struct {
	SHA256 tree.Digest
	Bytes  int64 // in storage
	First  bool  // it was not marked before
}

// MarkBlobs records that checkpoints which are kept name the digests, and returns those that
// are stored. fault.Fenced means that the step of the collection is lost.
func (db *DB) MarkBlobs(ctx context.Context, col Collection, digests []tree.Digest) (list []Marked, err error) {
	err = db.tx(ctx, col.Claim.TenantID, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT sha256, bytes, first FROM nofx.mark_blobs($1, $2, $3, $4)", col.Claim.StepID, col.Claim.Fence, col.At, sums(digests))
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Marked])
		return err
	})
	return list, err
}

// Swept is a blob, an object or an artifact that nothing needs, and what became of it:
// condemned or deleted. A pack that is sparse holds little that is needed.
type Swept struct {
	Name  string // digest of a blob in hex digits, key of an object
	Bytes int64
	What  string
}

// SweepBlobs condemns and deletes blobs that are not marked, of limit blobs after one, and
// returns them, and the place to go on from; "" is the beginning and the end.
func (db *DB) SweepBlobs(ctx context.Context, col Collection, after string, limit int) ([]Swept, string, error) {
	return db.sweep(ctx, col, "SELECT encode(sha256, 'hex'), bytes, what FROM nofx.sweep_blobs($1, $2, $3, $4, decode($5, 'hex'), $6, $7)", after, limit)
}

// SweepObjects condemns objects that hold no live blob and no artifact, of limit objects
// after one, and returns them and those that the caller is to delete from storage and then
// from the database ([DB.ForgetObjects]), and packs that are worth writing again.
func (db *DB) SweepObjects(ctx context.Context, col Collection, after string, limit int) ([]Swept, string, error) {
	return db.sweep(ctx, col, "SELECT key, bytes, what FROM nofx.sweep_objects($1, $2, $3, $4, $5, $6, $7)", after, limit)
}

// SweepArtifacts deletes artifacts that clients uploaded longer ago than runs are kept and
// that nothing names any more, of limit artifacts after one, and returns them, and the
// place to go on from; the zero id is the beginning, "" the end.
func (db *DB) SweepArtifacts(ctx context.Context, col Collection, after string, limit int) ([]Swept, string, error) {
	return db.sweepBy(ctx, col, "SELECT id::text, bytes, what FROM nofx.sweep_artifacts($1, $2, $3, $4::uuid, $5, $6)", col.At, after, limit, col.Dry)
}

func (db *DB) sweep(ctx context.Context, col Collection, sql, after string, limit int) (list []Swept, next string, err error) {
	return db.sweepBy(ctx, col, sql, col.At, col.Grace, after, limit, col.Dry)
}

func (db *DB) sweepBy(ctx context.Context, col Collection, sql string, args ...any) (list []Swept, next string, err error) {
	err = db.tx(ctx, col.Claim.TenantID, func(tx pgx.Tx) error {
		list, next = nil, ""
		rows, err := tx.Query(ctx, sql, append([]any{col.Claim.StepID, col.Claim.Fence}, args...)...)
		if err != nil {
			return err
		}
		var s Swept
		_, err = pgx.ForEachRow(rows, []any{&s.Name, &s.Bytes, &s.What}, func() error {
			if s.What == "next" {
				next = s.Name
			} else {
				list = append(list, s)
			}
			return nil
		})
		return err
	})
	return list, next, err
}

// UnknownKeys returns those of keys that no object of the tenant has.
func (db *DB) UnknownKeys(ctx context.Context, tenant uuid.UUID, keys []string) (unknown []string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT nofx.unknown_keys($1)", keys)
		if err != nil {
			return err
		}
		unknown, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return unknown, err
}

// DueCollections lists at most limit tenants whose last collection that deletes, a system
// run with that key, was begun more than a day ago.
func (db *DB) DueCollections(ctx context.Context, key string, limit int) ([]uuid.UUID, error) {
	return across(ctx, db, pgx.RowTo[uuid.UUID], "SELECT nofx.due_collections($1, $2)", key, limit)
}

// Object is the row of an object in storage.
type Object struct {
	Key    string
	SHA256 tree.Digest
	Bytes  int64
	Kind   string // blob, pack, log, upload or diff
}

// Objects lists the live objects of a tenant, in the order of their keys, after one of them.
func (db *DB) Objects(ctx context.Context, tenant uuid.UUID, after string, limit int) (list []Object, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT o.key, o.sha256, o.bytes, o.kind FROM nofx.object o
			WHERE o.tenant_id = $1 AND o.key > $2 AND o.state = 'live' ORDER BY o.key LIMIT $3`, tenant, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Object])
		return err
	})
	return list, err
}

// IsLive reports whether there is a live object at key.
func (db *DB) IsLive(ctx context.Context, tenant uuid.UUID, key string) (live bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM nofx.object o WHERE o.tenant_id = $1 AND o.key = $2 AND o.state = 'live')", tenant, key).Scan(&live)
	})
	return live, err
}

// UnbackedBlobs returns the digests, in hex digits, of live blobs whose object has no row, of
// limit blobs after one, and the place to go on from; "" is the beginning and the end.
func (db *DB) UnbackedBlobs(ctx context.Context, tenant uuid.UUID, after string, limit int) (list []string, next string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		list, next = nil, ""
		rows, err := tx.Query(ctx, "SELECT encode(sha256, 'hex'), what FROM nofx.unbacked_blobs(decode($1, 'hex'), $2)", after, limit)
		if err != nil {
			return err
		}
		var digest, what string
		_, err = pgx.ForEachRow(rows, []any{&digest, &what}, func() error {
			if what == "next" {
				next = digest
			} else {
				list = append(list, digest)
			}
			return nil
		})
		return err
	})
	return list, next, err
}

// Tombstone is what is known of purged content.
type Tombstone struct {
	By     string
	At     time.Time
	Reason string
}

// PurgeBlob replaces stored content by a tombstone, or returns the one that there is.
// Content that is not stored is fault.NotFound.
func (db *DB) PurgeBlob(ctx context.Context, tenant uuid.UUID, d tree.Digest, reason string) (t Tombstone, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT purged_by, purged_at, reason FROM nofx.purge_blob($1, $2)", d[:], reason).Scan(&t.By, &t.At, &t.Reason)
	})
	return t, err
}

// OldestAttempt returns when the oldest attempt that runs began, besides that of c, or nil
// if there is none.
func (db *DB) OldestAttempt(ctx context.Context, c *Claim) (began *time.Time, err error) {
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT min(a.started_at) FROM nofx.step_lease l
			JOIN nofx.attempt a ON a.tenant_id = l.tenant_id AND a.step_id = l.step_id AND a.fence = l.fence
			WHERE l.tenant_id = $1 AND l.step_id <> $2`, c.TenantID, c.StepID).Scan(&began)
	})
	return began, err
}

// Tombstones returns all contents of a tenant that were purged.
func (db *DB) Tombstones(ctx context.Context, tenant uuid.UUID) (map[tree.Digest]bool, error) {
	return db.whichBlobs(ctx, tenant, "SELECT sha256 FROM nofx.blob WHERE tenant_id = $1 AND state = 'tombstone'", tenant)
}

// Unpurged lists purged contents of a tenant whose bytes are not deleted yet.
func (db *DB) Unpurged(ctx context.Context, tenant uuid.UUID) (list []tree.Digest, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT sha256 FROM nofx.blob WHERE tenant_id = $1 AND state = 'tombstone' AND len > 0 ORDER BY sha256", tenant)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowTo[tree.Digest])
		return err
	})
	return list, err
}

// BlobsOfPack lists the blobs of a pack that are not purged, in the order of their places,
// and whether the pack's object has a row.
func (db *DB) BlobsOfPack(ctx context.Context, tenant uuid.UUID, pack tree.Digest, key string) (list []tree.Blob, known bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM nofx.object WHERE tenant_id = $1 AND key = $2)", tenant, key).Scan(&known); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT sha256, size, off, len FROM nofx.blob
			WHERE pack_sha256 = $2 AND tenant_id = $1 AND state IN ('live', 'condemned') ORDER BY off`, tenant, pack[:])
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (b tree.Blob, err error) {
			b.Pack = &pack
			err = row.Scan(&b.SHA256, &b.Size, &b.Off, &b.Len)
			return b, err
		})
		return err
	})
	return list, known, err
}

// MoveBlobs records that blobs of a pack are in another one now, whose object to was stored,
// and condemns the object of the first. fault.Fenced means that the step of c is lost.
func (db *DB) MoveBlobs(ctx context.Context, c *Claim, from tree.Digest, fromKey string, to tree.Object, blobs []tree.Blob) error {
	digests := make([]tree.Digest, len(blobs))
	offs := make([]int64, len(blobs))
	for i, b := range blobs {
		digests[i], offs[i] = b.SHA256, b.Off
	}
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.move_blobs($1, $2, $3, $4, $5, $6, $7, $8, $9)",
			c.StepID, c.Fence, from[:], fromKey, to.SHA256[:], to.Key, to.Bytes, sums(digests), offs)
		return err
	})
}

// CondemnCopies condemns the objects at keys, which hold purged content.
func (db *DB) CondemnCopies(ctx context.Context, c *Claim, keys []string) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.condemn_copies($1, $2, $3)", c.StepID, c.Fence, keys)
		return err
	})
}

// Deriving lists live system runs of a tenant that make something of contents which is
// stored: diffs, archives and merges.
func (db *DB) Deriving(ctx context.Context, tenant uuid.UUID) (runs []uuid.UUID, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT r.id FROM nofx.run r JOIN nofx.step s ON s.tenant_id = r.tenant_id AND s.run_id = r.id
			WHERE r.tenant_id = $1 AND r.kind = 'system' AND r.state IN ('queued', 'running', 'waiting', 'paused') AND s.tool = ANY ($2) ORDER BY r.id`,
			tenant, []string{run.ToolDiff, run.ToolArchive, run.ToolMerge})
		if err != nil {
			return err
		}
		runs, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	return runs, err
}

// DropDerived drops what may hold purged content besides its copies and packs, at most limit
// things, and returns the keys of their objects, for the caller to delete from storage and
// then from the database ([DB.ForgetObjects]). None means that nothing is left.
func (db *DB) DropDerived(ctx context.Context, c *Claim, d tree.Digest, limit int) (keys []string, err error) {
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT nofx.drop_derived($1, $2, $3, $4)", c.StepID, c.Fence, d[:], limit)
		if err != nil {
			return err
		}
		keys, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return keys, err
}

// FinishPurge takes out what merges quote of purged content and, unless some are pending,
// records that its bytes are deleted.
func (db *DB) FinishPurge(ctx context.Context, c *Claim, d tree.Digest, pending bool) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.finish_purge($1, $2, $3, $4)", c.StepID, c.Fence, d[:], pending)
		return err
	})
}
