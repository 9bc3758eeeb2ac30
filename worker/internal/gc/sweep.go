package gc

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/snapshot"
)

// How much is swept in one transaction, and how many objects are deleted side by side.
const (
	sweptAtOnce = 500
	deletes     = 8
)

// kinds are the kinds of objects, as their keys have them, all of whose objects have rows. An
// object of one of them without a row is what a crash has left.
var kinds = []string{"blob", "pack", "log", "upload", "diff"}

// artifacts deletes what clients uploaded long ago and nothing names.
func (c *collector) artifacts(ctx context.Context) error {
	for after := uuid.Nil.String(); after != ""; {
		list, next, err := c.DB.SweepArtifacts(ctx, c.col, after, sweptAtOnce)
		if err != nil {
			return err
		}
		for _, s := range list {
			c.report.Artifacts.add(s.Bytes)
			id, err := uuid.Parse(s.Name)
			if err != nil {
				return err
			}
			c.report.add(Item{Kind: "artifact", ID: run.ArtifactID.Format(id), Bytes: s.Bytes, What: s.What})
		}
		after = next
	}
	c.say("%d artifacts of clients deleted", c.report.Artifacts.N)
	return nil
}

// blobs condemns and deletes blobs that are not marked.
func (c *collector) blobs(ctx context.Context) error {
	for after := ""; ; {
		list, next, err := c.DB.SweepBlobs(ctx, c.col, after, sweptAtOnce)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.What == "condemned" {
				c.report.Condemned.add(s.Bytes)
				c.count("condemned", s.Bytes)
			} else {
				c.report.Deleted.add(s.Bytes)
			}
			c.report.add(Item{Kind: "blob", ID: s.Name, Bytes: s.Bytes, What: s.What})
		}
		if after = next; after == "" {
			break
		}
	}
	c.say("%d blobs condemned, %d deleted", c.report.Condemned.N, c.report.Deleted.N)
	return nil
}

// count adds to the metrics of what was done.
func (c *collector) count(what string, bytes int64) {
	if c.col.Dry {
		return
	}
	switch what {
	case "condemned":
		c.Metrics.BlobsCondemned.Add(1)
	default:
		c.Metrics.ObjectsCollected.Add(1, what)
		c.Metrics.BytesCollected.Add(float64(bytes), what)
	}
}

// objects deletes objects that hold nothing any more, and writes packs again that hold
// little.
func (c *collector) objects(ctx context.Context) error {
	for after := ""; ; {
		list, next, err := c.DB.SweepObjects(ctx, c.col, after, sweptAtOnce)
		if err != nil {
			return err
		}
		var doomed []blob.Listed
		for _, s := range list {
			switch s.What {
			case "deleted":
				doomed = append(doomed, blob.Listed{Key: s.Name, Size: s.Bytes})
			case "sparse":
				if err := c.rewrite(ctx, s); err != nil {
					return err
				}
			}
		}
		gone, err := c.delete(ctx, doomed, &c.report.Objects, "object")
		if err != nil {
			return err
		}
		if err := c.forget(ctx, gone); err != nil {
			return err
		}
		if after = next; after == "" {
			break
		}
	}
	c.say("%d objects of %d bytes deleted", c.report.Objects.N, c.report.Objects.Bytes)
	return nil
}

// rewrite writes a pack again with what is needed of it. The first one is condemned: who
// has begun to read it can go on for the grace.
func (c *collector) rewrite(ctx context.Context, s postgres.Swept) error {
	if !c.col.Dry {
		_, err := c.repack(ctx, snapshot.New(snapshot.Config{Blobs: c.Blobs, Index: c.DB}), s.Name)
		if _, lost := blob.Lost(err); lost {
			c.say("%s: %v", s.Name, err)
			return c.DB.CondemnObject(ctx, c.Claim.TenantID, s.Name)
		}
		if err != nil {
			return err
		}
		c.Metrics.PacksRewritten.Inc()
	}
	c.report.Rewritten.add(s.Bytes)
	c.report.add(Item{Kind: "object", ID: s.Name, Bytes: s.Bytes, What: "rewritten"})
	return nil
}

// forget deletes the rows of condemned objects that are gone.
func (j Job) forget(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	list := make([]postgres.Garbage, len(keys))
	for i, key := range keys {
		list[i] = postgres.Garbage{TenantID: j.Claim.TenantID, Key: key}
	}
	return j.DB.ForgetObjects(ctx, list)
}

// orphans deletes objects without a row that are older than the grace, and uploads in parts
// that were never completed.
func (c *collector) orphans(ctx context.Context) error {
	before := c.col.At.Add(-c.Grace)
	for _, kind := range kinds {
		err := c.Blobs.List(ctx, blob.Prefix(c.Claim.TenantID, kind), func(page []blob.Listed) error {
			orphans, err := c.withoutRow(ctx, page, func(o blob.Listed) bool { return o.Modified.Before(before) })
			if err == nil {
				_, err = c.delete(ctx, orphans, &c.report.Orphans, "orphan")
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("objects without a row: %w", err)
		}
	}
	if !c.col.Dry {
		var err error
		if c.report.Uploads, err = c.Blobs.AbortUploads(ctx, blob.TenantPrefix(c.Claim.TenantID), before); err != nil {
			return fmt.Errorf("uploads that were never completed: %w", err)
		}
	}
	c.say("%d objects without a row of %d bytes deleted, %d uploads ended", c.report.Orphans.N, c.report.Orphans.Bytes, c.report.Uploads)
	return nil
}

// withoutRow returns those objects of a page that meet a condition and have no row.
func (j Job) withoutRow(ctx context.Context, page []blob.Listed, meets func(blob.Listed) bool) ([]blob.Listed, error) {
	byKey := map[string]blob.Listed{}
	var keys []string
	for _, o := range page {
		if meets(o) {
			byKey[o.Key] = o
			keys = append(keys, o.Key)
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	unknown, err := j.DB.UnknownKeys(ctx, j.Claim.TenantID, keys)
	var list []blob.Listed
	for _, key := range unknown {
		list = append(list, byKey[key])
	}
	return list, err
}

// delete deletes objects from storage unless the collection is dry, counts and lists them,
// and returns the keys of those that are gone. The first error ends it.
func (c *collector) delete(ctx context.Context, list []blob.Listed, n *Count, kind string) (gone []string, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	if !c.col.Dry {
		if err := failpoint.Hit(failpoint.InGC); err != nil {
			return nil, err
		}
		if err := c.Fresh(ctx); err != nil {
			return nil, err
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deletes)
	for _, o := range list {
		g.Go(func() error {
			if !c.col.Dry {
				if err := c.Blobs.Delete(ctx, o.Key); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			n.add(o.Size)
			c.count(kind, o.Size)
			c.report.add(Item{Kind: kind, ID: o.Key, Bytes: o.Size, What: "deleted"})
			if !c.col.Dry {
				gone = append(gone, o.Key)
			}
			return nil
		})
	}
	return gone, g.Wait()
}
