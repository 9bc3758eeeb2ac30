package system

import (
	"context"
	"encoding/json"
	"errors"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/gc"
	"nofx.dev/worker/internal/tool"
)

// collect deletes what no checkpoint needs from storage, and reports it as its outputs.
func collect(ctx context.Context, cfg Config, c Call, in run.GCInputs) (tool.Result, error) {
	report, err := gc.Collect(ctx, job(cfg, c), in.DryRun)
	if err != nil {
		return tool.Result{}, err
	}
	return outputs(report)
}

// verifyStorage compares rows and objects. What it finds is its outputs; it fails only if it
// could not look.
func verifyStorage(ctx context.Context, cfg Config, c Call, in run.VerifyStorageInputs) (tool.Result, error) {
	found, err := gc.Verify(ctx, job(cfg, c), in.Deep)
	if err != nil {
		return tool.Result{}, err
	}
	return outputs(found)
}

// purge deletes the bytes of content that has a tombstone.
func purge(ctx context.Context, cfg Config, c Call, in run.PurgeInputs) (tool.Result, error) {
	d, err := tree.ParseDigest("sha256:" + in.SHA256)
	if err != nil {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
	}
	erased, err := gc.Purge(ctx, job(cfg, c), d)
	if err != nil {
		return tool.Result{}, err
	}
	return outputs(erased)
}

func job(cfg Config, c Call) gc.Job {
	return gc.Job{
		Config: gc.Config{DB: cfg.DB, Blobs: cfg.Blobs, Metrics: cfg.Metrics, Grace: cfg.Grace},
		Claim:  c.Claim, Log: c.Log, Fresh: c.Fresh,
	}
}

// outputs returns a report as the outputs of a step.
func outputs(report any) (r tool.Result, err error) {
	raw, err := json.Marshal(report)
	return r, errors.Join(err, json.Unmarshal(raw, &r.Outputs))
}
