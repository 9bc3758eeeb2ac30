package gc

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/snapshot"
)

// Erased is what a purge deleted.
type Erased struct {
	Objects  int64 `json:"objects"`  // deleted from storage
	Repacked int64 `json:"repacked"` // packs that were written again without the content
	Derived  int64 `json:"derived"`  // objects that may have held it: of diffs, archives and uploads
	Pending  int64 `json:"pending"`  // packs of attempts that run, which the next collection looks at
}

// clocksDiffer is how far the clocks of database and storage may be apart.
const clocksDiffer = time.Minute

// Purge deletes the bytes of a content that has a tombstone from wherever they are: all
// copies in objects of their own, those of artifacts among them, and every pack whose index
// names it, which is written again without it. A pack that has no row is deleted if no attempt
// runs that may have stored it, since nobody can make its row then; otherwise the next
// collection looks again. What was made of the
// content goes as well, and is made anew without it when it is asked for: diffs and
// archives.
func Purge(ctx context.Context, j Job, d tree.Digest) (Erased, error) {
	var e Erased
	var doomed []string
	tenant := j.Claim.TenantID
	if err := j.Blobs.List(ctx, blob.BlobKey(tenant, d), func(page []blob.Listed) error {
		for _, o := range page {
			doomed = append(doomed, o.Key)
		}
		return nil
	}); err != nil {
		return e, err
	}
	if len(doomed) > 0 {
		if err := j.DB.CondemnCopies(ctx, j.Claim, doomed); err != nil {
			return e, err
		}
	}
	store := snapshot.New(snapshot.Config{Blobs: j.Blobs, Index: j.DB})
	looked := 0
	if err := j.Blobs.List(ctx, blob.Prefix(tenant, "pack"), func(page []blob.Listed) error {
		// Asked before the rows are: an attempt that ends in between has made its row by then.
		oldest, err := j.DB.OldestAttempt(ctx, j.Claim)
		if err != nil {
			return err
		}
		for _, o := range j.packsWith(ctx, store, page, d) {
			moved, err := j.repack(ctx, store, o.Key)
			switch {
			case err != nil:
				return err
			case moved:
				e.Repacked++
			case oldest != nil && oldest.Before(o.Modified.Add(clocksDiffer)):
				e.Pending++
				continue
			}
			doomed = append(doomed, o.Key)
		}
		looked += len(page)
		j.say("looked at %d packs, %d written again", looked, e.Repacked)
		return ctx.Err()
	}); err != nil {
		return e, err
	}
	if err := failpoint.Hit(failpoint.InGC); err != nil {
		return e, err
	}
	if err := j.Fresh(ctx); err != nil {
		return e, err
	}
	for _, key := range doomed {
		if err := j.Blobs.Delete(ctx, key); err != nil {
			return e, err
		}
		e.Objects++
	}
	if err := j.forget(ctx, doomed); err != nil {
		return e, err
	}
	if err := j.dropDerived(ctx, d, &e); err != nil {
		return e, err
	}
	j.say("%d objects deleted, and %d of diffs, archives and uploads", e.Objects, e.Derived)
	if e.Pending > 0 {
		j.say("%d packs of steps that run may hold it still; the next collection looks at them", e.Pending)
	}
	return e, j.DB.FinishPurge(ctx, j.Claim, d, e.Pending > 0)
}

// dropDerived deletes what may hold purged content besides its copies and packs. Work that
// may have read the content before it was purged is cancelled first: it can store what it
// made, but no row will name that, and so the collection finds it.
func (j Job) dropDerived(ctx context.Context, d tree.Digest, e *Erased) error {
	runs, err := j.DB.Deriving(ctx, j.Claim.TenantID)
	if err != nil {
		return err
	}
	for _, id := range runs {
		_, err := j.DB.CancelRun(postgres.WithActor(ctx, "system"), j.Claim.TenantID, id, postgres.Verb{Reason: "content that it may have read was purged: ask for it again"})
		if err != nil && !errors.Is(err, fault.Conflict) && !errors.Is(err, fault.NotFound) { // it has ended
			return err
		}
	}
	for {
		keys, err := j.DB.DropDerived(ctx, j.Claim, d, sweptAtOnce)
		if err != nil || len(keys) == 0 {
			return err
		}
		if err := j.Fresh(ctx); err != nil {
			return err
		}
		for _, key := range keys {
			if err := j.Blobs.Delete(ctx, key); err != nil {
				return err
			}
			e.Derived++
		}
		if err := j.forget(ctx, keys); err != nil {
			return err
		}
	}
}

// packsWith returns the packs of a page whose index names a content, or cannot be read and
// so may hold it: those have no whole content for anybody.
func (j Job) packsWith(ctx context.Context, store *snapshot.Store, page []blob.Listed, d tree.Digest) (packs []blob.Listed) {
	holds := make([]bool, len(page))
	var g errgroup.Group
	g.SetLimit(looks)
	for i, o := range page {
		g.Go(func() error {
			list, err := store.Packed(ctx, o.Key, o.Size)
			if err != nil {
				j.say("%s: %v", o.Key, err)
			}
			for _, b := range list {
				holds[i] = holds[i] || b.SHA256 == d
			}
			return nil
		})
	}
	_ = g.Wait() // nothing above is an error
	for i, o := range page {
		if holds[i] {
			packs = append(packs, o)
		}
	}
	return packs
}

// repack writes a pack again with the blobs that rows name, of which purged ones are none,
// and condemns its object. It does nothing with a pack that has no row yet.
func (j Job) repack(ctx context.Context, store *snapshot.Store, key string) (moved bool, err error) {
	var pack tree.Digest
	if _, err := hex.Decode(pack[:], []byte(path.Base(key))); err != nil {
		return false, fmt.Errorf("key %s: %w", key, err)
	}
	blobs, known, err := j.DB.BlobsOfPack(ctx, j.Claim.TenantID, pack, key)
	if err != nil || !known {
		return false, err
	}
	var object tree.Object
	if len(blobs) > 0 {
		if err := j.Fresh(ctx); err != nil {
			return false, err
		}
		if object, blobs, err = store.Repack(ctx, j.Claim.TenantID, blobs); err != nil {
			return false, err
		}
	}
	return true, j.DB.MoveBlobs(ctx, j.Claim, pack, key, object, blobs)
}

// purges deletes the bytes of purged contents that an earlier purge has not found.
func (c *collector) purges(ctx context.Context) error {
	if c.col.Dry {
		return nil
	}
	list, err := c.DB.Unpurged(ctx, c.Claim.TenantID)
	for i := 0; err == nil && i < len(list); i++ {
		_, err = Purge(ctx, c.Job, list[i])
	}
	return err
}
