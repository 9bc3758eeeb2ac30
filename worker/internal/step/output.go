package step

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/pause"
	"nofx.dev/worker/internal/steplog"
)

// openLog starts the log of the attempt. It is uploaded under ctx, the lease's,
// so that the log of a tool that was ended is kept.
func (a *attempt) openLog(ctx context.Context) *steplog.Writer {
	c := a.claim
	return steplog.Open(ctx, steplog.Config{
		Key: func(n int) string { return blob.LogKey(c.TenantID, c.RunID, c.StepID, c.Fence, n) },
		Put: func(ctx context.Context, key string, data []byte) error {
			if err := a.leases.Fresh(ctx, c); err != nil {
				return err
			}
			err := a.blobs.Put(ctx, key, bytes.NewReader(data), int64(len(data)), blob.PutOptions{ContentType: "text/plain; charset=utf-8"})
			a.storage.Note(err)
			return err
		},
		Record: func(ctx context.Context, l steplog.Chunk) error {
			return a.db.RecordLogChunk(ctx, c, postgres.LogChunk{N: l.N, Start: l.Start, Bytes: l.Bytes, Lines: l.Lines, Key: l.Key, SHA256: l.SHA256})
		},
		Mark:   func(ctx context.Context, size int64) error { return a.db.MarkLog(ctx, c, size) },
		Redact: a.redactor.String,
	})
}

// logClose is how long the end of a step's log may hold the step up while storage
// answers.
const logClose = 15 * time.Second

// closeLog stores what is left of the log. While storage is away it waits as a save
// does: the log of a tool that failed says why.
func (a *attempt) closeLog(ctx, toolCtx context.Context, log *steplog.Writer) {
	patience, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		defer cancel()
		for pause.For(patience, logClose) == nil && a.storage.Away() != nil {
			a.awaitStorage(toolCtx, 0, a.budgetLeft())
			if toolCtx.Err() != nil || a.budgetLeft() <= 0 {
				return
			}
		}
	})
	err := log.Close(ctx, patience)
	cancel()
	waiting.Wait()
	if err != nil {
		a.log.WarnContext(ctx, "step log is incomplete", "error", err)
	}
}

// openArtifact opens an artifact of the run's tenant for a tool. What it reads is
// verified against the row.
func (a *attempt) openArtifact(ctx context.Context, id string) (io.ReadCloser, int64, error) {
	parsed, err := run.ArtifactID.Parse(id)
	if err != nil {
		return nil, 0, err
	}
	art, err := a.db.Artifact(ctx, a.claim.TenantID, parsed)
	if err != nil {
		return nil, 0, err
	}
	r, err := a.blobs.Open(ctx, art.Key, 0, -1)
	if err != nil {
		return nil, 0, err
	}
	return struct {
		io.Reader
		io.Closer
	}{blob.Verify(r, [32]byte(art.SHA256), art.Size), r}, art.Size, nil
}

// evidence stores what a gate saw as an artifact of its step, for audit.
func (a *attempt) evidence(ctx context.Context, f *postgres.Finish) error {
	doc, err := json.MarshalIndent(map[string]any{
		"gate": run.GateID.Format(f.Gate.ID), "name": f.Gate.Name, "verdict": verdicts[f.Gate.Event],
		"run": run.RunID.Format(a.claim.RunID), "step": a.claim.Name, "fence": a.claim.Fence,
		"input_digest": f.Gate.InputDigest, "judged": f.Gate.ShownDigest, "evidence": f.Gate.Evidence,
		"at": time.Now().UTC().Format(time.RFC3339),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("evidence as JSON: %w", err)
	}
	if err := a.leases.Fresh(ctx, a.claim); err != nil {
		return err
	}
	sum := sha256.Sum256(doc)
	key := blob.CopyKey(a.claim.TenantID, sum, blob.NewCopy())
	if err := a.blobs.Put(ctx, key, bytes.NewReader(doc), int64(len(doc)), blob.PutOptions{ContentType: "application/json"}); err != nil {
		return err
	}
	f.Artifacts = append(f.Artifacts, run.Artifact{
		ID: run.NewID(), Name: a.claim.Name + "-evidence.json", Key: key, MediaType: "application/json", Size: int64(len(doc)), SHA256: sum[:],
	})
	return nil
}
