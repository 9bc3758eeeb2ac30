// Package gc keeps the object storage of a tenant in step with its rows: [Collect]
// deletes what no checkpoint needs, and [Verify] compares rows and objects.
//
// A collection marks and then sweeps. It walks the trees and states of all checkpoints, in
// pages, and marks what they name in the database; the marks are also what tells it where
// it has been, so that its memory does not grow with the storage. What is not marked goes
// in two phases with a grace between them, and rows go before objects: a worker that is
// killed in between leaves work for the next collection and never a row without its bytes.
// Why that cannot hit what a checkpoint that is being written relies on is said in
// migrations/functions/gc.sql. Start reading at [Collect], then mark.go and sweep.go.
package gc

import (
	"context"
	"fmt"
	"io"
	"time"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
)

// Config is what collections and verifications work with.
type Config struct {
	DB      *postgres.DB
	Blobs   *blob.Store
	Metrics *telemetry.Metrics
	Grace   time.Duration // postgres.Grace if it is 0; tests alone have another
}

// Job is one collection or verification: an attempt at a system step.
type Job struct {
	Config
	Claim *postgres.Claim
	Log   io.Writer                   // of the step: progress
	Fresh func(context.Context) error // returns once the attempt may write, or that it may no more
}

func (j Job) source() *tree.Source { return &tree.Source{Blobs: j.Blobs, Locator: j.DB} }

func (j Job) say(format string, args ...any) { fmt.Fprintf(j.Log, format+"\n", args...) }

// maxItems is the number of things that a report lists; it counts all.
const maxItems = 200

// Item is one thing of a report.
type Item struct {
	Kind  string `json:"kind"` // blob, object, orphan, content or artifact
	ID    string `json:"id"`   // digest of a blob or a content, key of an object, id of an artifact
	Bytes int64  `json:"bytes"`
	What  string `json:"what"`
}

// Items are the first things of a report.
type Items struct {
	Items     []Item `json:"items"`
	Truncated bool   `json:"items_truncated"` // there are more than are listed
}

func (l *Items) add(i Item) {
	if len(l.Items) == maxItems {
		l.Truncated = true
		return
	}
	l.Items = append(l.Items, i)
}

// Count is a number of things and what they take in storage.
type Count struct {
	N     int64 `json:"n"`
	Bytes int64 `json:"bytes"`
}

func (c *Count) add(bytes int64) {
	c.N++
	c.Bytes += bytes
}

// Report is what a collection did, or would do.
type Report struct {
	DryRun      bool  `json:"dry_run"`
	Checkpoints int64 `json:"checkpoints"` // that were walked
	Named       Count `json:"named"`       // blobs that they name
	Condemned   Count `json:"condemned"`   // blobs, to be deleted after the grace
	Deleted     Count `json:"deleted"`     // blobs
	Artifacts   Count `json:"artifacts"`   // of clients, deleted: no run that is not over names them
	Rewritten   Count `json:"rewritten"`   // packs of which little was needed, with what they took before
	Objects     Count `json:"objects"`     // deleted from storage
	Orphans     Count `json:"orphans"`     // objects without a row, deleted from storage
	Uploads     int   `json:"uploads"`     // in parts, never completed
	Lost        int64 `json:"lost"`        // contents that a checkpoint names and that cannot be read
	Items
}

// collector is one collection on its way.
type collector struct {
	Job
	col    postgres.Collection
	trees  *tree.Source
	report Report
}

// Collect deletes what the tenant of the job's claim does not need any more, or with dry
// reports what that is. fault.Fenced means that the attempt has lost its step.
func Collect(ctx context.Context, j Job, dry bool) (Report, error) {
	if j.Grace == 0 {
		j.Grace = postgres.Grace
	}
	col, err := j.DB.BeginCollection(ctx, j.Claim, j.Grace, dry)
	if err != nil {
		return Report{}, err
	}
	c := &collector{Job: j, col: col, trees: j.source(), report: Report{DryRun: dry, Items: Items{Items: []Item{}}}}
	for _, phase := range []func(context.Context) error{c.purges, c.mark, c.artifacts, c.blobs, c.objects, c.orphans} {
		if err := phase(ctx); err != nil {
			return c.report, err
		}
	}
	return c.report, nil
}
