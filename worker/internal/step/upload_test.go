package step

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
)

// announce makes an artifact of content, of which put is at its URL, unless that is "",
// and returns it with the run that is to verify it.
func (b *bundle) announce(t *testing.T, content, put string) (run.Artifact, run.Run) {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	a := run.Artifact{ID: run.NewID(), Name: "x", MediaType: "text/plain", Size: int64(len(content)), SHA256: sum[:]}
	a.Key = blob.UploadKey(b.tenant, a.ID)
	a, err := b.db.CreateUpload(b.ctx, b.tenant, a)
	if err != nil {
		t.Fatalf("CreateUpload() = %v", err)
	}
	if put != "" {
		if err := b.blobs.Put(b.ctx, a.Key, strings.NewReader(put), int64(len(put)), blob.PutOptions{}); err != nil {
			t.Fatalf("Put() = %v", err)
		}
	}
	p, err := run.SystemPlan(run.ToolVerify, "verify", run.VerifyInputs{ArtifactID: run.ArtifactID.Format(a.ID)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.db.StartWork(b.ctx, b.tenant, postgres.Work{Key: a.Key, Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartWork() = %v", err)
	}
	return a, r
}

func serveMaintenance(c *Config) { c.Queues = []string{run.MaintenanceQueue} }

// What was put is readable once it is what was announced. A system step leaves no
// checkpoint.
func TestVerifyUpload(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, serveMaintenance)
	large := strings.Repeat("0123456789abcdef", 5<<16) // several parts
	for name, tt := range map[string]struct {
		content, put string
		reason       string // "": it is readable
	}{
		"as announced": {"hello", "hello", ""},
		"in parts":     {large + large + large + large, large + large + large + large, ""},
		"other bytes":  {"hello", "HELLO", "what was put is not 5 bytes with the SHA-256 2cf24dba"},
		"more bytes":   {"hello", "hello!", "what was put is not 5 bytes"},
		"fewer bytes":  {"hello", "hell", "what was put is not 5 bytes"},
		"nothing":      {"hello", "", "nothing was put at the artifact's URL"},
	} {
		t.Run(name, func(t *testing.T) {
			a, r := b.announce(t, tt.content, tt.put)
			want := run.Succeeded
			if tt.reason != "" {
				want = run.Failed
			}
			d := b.until(t, r.ID, want)
			if s := d.Steps[0]; tt.reason != "" && (!strings.HasPrefix(s.Reason, tt.reason) || s.FailureClass != run.ClassInvalid || s.Attempts != 1) {
				t.Errorf("step = %s after %d attempts: %q, want invalid after one: %q", s.FailureClass, s.Attempts, s.Reason, tt.reason)
			}
			if list, err := b.db.Checkpoints(b.ctx, b.tenant, r.ID, 0, 10); err != nil || len(list) != 0 {
				t.Errorf("Checkpoints() = %d, %v, want none", len(list), err)
			}
			got, err := b.db.Artifact(b.ctx, b.tenant, a.ID)
			if tt.reason != "" {
				if !errors.Is(err, fault.NotFound) {
					t.Errorf("Artifact() = %v, %v, want it still unknown", got.State, err)
				}
				return
			}
			if err != nil || got.Key != blob.BlobKey(b.tenant, [32]byte(a.SHA256)) {
				t.Fatalf("Artifact() = %s, %v, want it at the key of its digest", got.Key, err)
			}
			rc, err := b.blobs.Open(b.ctx, got.Key, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			if content, err := io.ReadAll(rc); err != nil || !bytes.Equal(content, []byte(tt.content)) {
				t.Errorf("content = %d bytes, %v, want %d", len(content), err, len(tt.content))
			}
		})
	}
}

// A worker that was killed while it verified, or between the artifact's being readable
// and the step's end, costs another attempt and nothing else; it can write nothing any
// more when it comes back.
func TestVerifyUploadAfterAKilledWorker(t *testing.T) {
	t.Parallel()
	for name, completes := range map[string]bool{"while it read": false, "after it was readable": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			a, r := b.announce(t, "hello", "hello")
			d, err := b.db.RunDetail(b.ctx, b.tenant, r.ID)
			if err != nil {
				t.Fatal(err)
			}
			dead := b.claimAs(t, d.Steps[0], "worker-dead")
			key := blob.BlobKey(b.tenant, [32]byte(a.SHA256))
			if completes {
				if err := b.db.CompleteUpload(b.ctx, dead, a.ID, key); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Admin.Exec(b.ctx, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 second'"); err != nil {
				t.Fatal(err)
			}
			b.worker(t, serveMaintenance)
			d = b.until(t, r.ID, run.Succeeded)
			if s := d.Steps[0]; s.Attempts != 2 {
				t.Errorf("attempts = %d, want two", s.Attempts)
			}
			if got, err := b.db.Artifact(b.ctx, b.tenant, a.ID); err != nil || got.State != run.Ready {
				t.Errorf("Artifact() = %s, %v, want it ready", got.State, err)
			}
			if err := b.db.CompleteUpload(b.ctx, dead, a.ID, key); !errors.Is(err, fault.Fenced) {
				t.Errorf("CompleteUpload(of the dead worker) = %v, want fenced", err)
			}
		})
	}
}

// claimAs claims a ready step for another worker.
func (b *bundle) claimAs(t *testing.T, s run.Step, worker string) *postgres.Claim {
	t.Helper()
	c, err := pgtest.Claim(b.ctx, b.db, postgres.Wake{
		Job: job.Step{TenantID: b.tenant, StepID: s.ID, WakeSeq: 1}, Span: trace.SpanContextFromContext(b.ctx),
		Pre: func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) { return nil, nil },
	}, postgres.Worker{ID: worker, PID: 1}, time.Minute)
	if err != nil || c == nil {
		t.Fatalf("Claim() = %v, %v, want a claim", c, err)
	}
	return c
}
