package system

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/content"
	"nofx.dev/worker/internal/diff"
	"nofx.dev/worker/internal/tool"
)

// computeDiff computes what lies between two checkpoints and stores it, in JSON and as a
// patch. An attempt that finds it stored has nothing left to do.
func computeDiff(ctx context.Context, cfg Config, c Call, in run.DiffInputs) (tool.Result, error) {
	tenant := c.Claim.TenantID
	began := time.Now()
	from, to, err := diffEnds(in)
	if err != nil {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
	}
	if known, err := cfg.DB.Diff(ctx, tenant, from, to, in.Options()); err == nil && !known.Lost {
		return tool.Result{}, nil
	} else if err != nil && !errors.Is(err, fault.NotFound) {
		return tool.Result{}, err
	}
	content := content.New(cfg.DB, cfg.Blobs, tenant)
	var sides [2]diff.Checkpoint
	runs := make([]uuid.UUID, 2)
	for i, id := range []uuid.UUID{from, to} {
		if id == uuid.Nil {
			continue
		}
		if sides[i], runs[i], err = content.Checkpoint(ctx, id); errors.Is(err, fault.NotFound) {
			return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
		} else if err != nil {
			return tool.Result{}, err
		}
	}
	gates, err := cfg.DB.GateNames(ctx, tenant, runs...)
	if err != nil {
		return tool.Result{}, err
	}
	doc, err := diff.Compute(ctx, content.Source(), sides[0], sides[1],
		diff.Options{Path: in.Path, From: in.First, Gates: gates, Redactor: cfg.Redactor})
	if err != nil {
		return tool.Result{}, err
	}
	if doc.Replaced {
		cfg.Metrics.DiffReplaced.Inc()
	}
	d := postgres.Diff{
		From: from, To: to, Options: in.Options(), Files: doc.Summary.Files.Total(), LinesAdded: doc.Summary.Lines.Added,
		LinesDeleted: doc.Summary.Lines.Deleted, Truncated: doc.Truncated,
	}
	objects, err := storeDiff(ctx, cfg.Blobs, tenant, doc, &d)
	if err != nil {
		return tool.Result{}, err
	}
	if err := c.Fresh(ctx); err != nil {
		return tool.Result{}, err
	}
	if err := cfg.DB.RecordDiff(ctx, c.Claim, d, objects); errors.Is(err, fault.NotFound) {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
	} else if err != nil {
		return tool.Result{}, err
	}
	cfg.Metrics.DiffDuration.Observe(ctx, time.Since(began).Seconds())
	fmt.Fprintln(c.Log, doc.Summary.Text)
	return tool.Result{}, nil
}

// diffEnds returns the ids of the checkpoints that a diff is of. That of no checkpoint is
// zero.
func diffEnds(in run.DiffInputs) (from, to uuid.UUID, err error) {
	if in.From != "" {
		if from, err = run.CheckpointID.Parse(in.From); err != nil {
			return from, to, err
		}
	}
	to, err = run.CheckpointID.Parse(in.To)
	return from, to, err
}

// storeDiff stores both forms of a diff and notes them in d.
func storeDiff(ctx context.Context, blobs *blob.Store, tenant uuid.UUID, doc *diff.Document, d *postgres.Diff) ([]tree.Object, error) {
	text, err := doc.Encode()
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	patch := doc.Patch()
	d.JSON, d.JSONBytes = tree.Sum(packed.Bytes()), int64(len(text))
	d.Patch, d.PatchBytes = tree.Sum(patch), int64(len(patch))
	d.Copy = blob.NewCopy()
	objects := []tree.Object{
		{Key: blob.DiffKey(tenant, d.JSON, d.Copy, "json"), SHA256: d.JSON, Bytes: int64(packed.Len()), Kind: "diff"},
		{Key: blob.DiffKey(tenant, d.Patch, d.Copy, "patch"), SHA256: d.Patch, Bytes: d.PatchBytes, Kind: "diff"},
	}
	for i, put := range []struct {
		bytes []byte
		opts  blob.PutOptions
	}{
		{packed.Bytes(), blob.PutOptions{ContentType: "application/json", ContentEncoding: "gzip"}},
		{patch, blob.PutOptions{ContentType: "text/x-diff"}},
	} {
		if err := blobs.Put(ctx, objects[i].Key, bytes.NewReader(put.bytes), int64(len(put.bytes)), put.opts); err != nil {
			return nil, err
		}
	}
	return objects, nil
}
