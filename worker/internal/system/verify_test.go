package system_test

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
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// announce makes an artifact of content, of which put is at its URL, unless that is "",
// and returns it with the run that is to verify that. What is put after that takes its
// place before anybody looks.
func announce(t *testing.T, b *hosttest.Bundle, content, put string, after ...string) (run.Artifact, run.Run) {
	t.Helper()
	in := run.VerifyInputs{}
	sum := sha256.Sum256([]byte(content))
	a := run.Artifact{ID: run.NewID(), Name: "x", MediaType: "text/plain", Size: int64(len(content)), SHA256: sum[:]}
	a.Key = blob.UploadKey(b.TenantID, a.ID)
	a, err := b.DB.CreateUpload(b.Ctx, b.TenantID, a)
	if err != nil {
		t.Fatalf("CreateUpload() = %v", err)
	}
	for i, bytes := range append([]string{put}, after...) {
		if bytes == "" {
			break
		}
		if err := b.Blobs.Put(b.Ctx, a.Key, strings.NewReader(bytes), int64(len(bytes)), blob.PutOptions{}); err != nil {
			t.Fatalf("Put() = %v", err)
		}
		if i == 0 {
			info, err := b.Blobs.Stat(b.Ctx, a.Key)
			if err != nil {
				t.Fatalf("Stat() = %v", err)
			}
			in.ETag = info.ETag
		}
	}
	in.ArtifactID = run.ArtifactID.Format(a.ID)
	p, err := run.SystemPlan(run.ToolVerify, "verify", in)
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.DB.StartWork(b.Ctx, b.TenantID, postgres.Work{Key: a.Key, Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartWork() = %v", err)
	}
	return a, r
}

func serveMaintenance(c *host.Config) { c.Queues = []string{run.MaintenanceQueue} }

// What was put is readable once it is what was announced. A system step leaves no
// checkpoint.
func TestVerifyUpload(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveMaintenance)
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
			a, r := announce(t, b, tt.content, tt.put)
			want := run.Succeeded
			if tt.reason != "" {
				want = run.Failed
			}
			d := b.Until(t, r.ID, want)
			if s := d.Steps[0]; tt.reason != "" && (!strings.HasPrefix(s.Reason, tt.reason) || s.FailureClass != run.ClassInvalid || s.Attempts != 1) {
				t.Errorf("step = %s after %d attempts: %q, want invalid after one: %q", s.FailureClass, s.Attempts, s.Reason, tt.reason)
			}
			if list, err := b.DB.Checkpoints(b.Ctx, b.TenantID, r.ID, 0, 10); err != nil || len(list) != 0 {
				t.Errorf("Checkpoints() = %d, %v, want none", len(list), err)
			}
			got, err := b.DB.Artifact(b.Ctx, b.TenantID, a.ID)
			if tt.reason != "" {
				if !errors.Is(err, fault.NotFound) {
					t.Errorf("Artifact() = %v, %v, want it still unknown", got.State, err)
				}
				return
			}
			if err != nil || !strings.HasPrefix(got.Key, blob.BlobKey(b.TenantID, [32]byte(a.SHA256))) {
				t.Fatalf("Artifact() = %s, %v, want it at the key of its digest", got.Key, err)
			}
			rc, err := b.Blobs.Open(b.Ctx, got.Key, 0, -1)
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

// What was put in the place of other bytes and is not right says nothing of those, so
// that they may be put once more; what is right may be kept.
func TestVerifyUploadPutAgain(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveMaintenance)
	for name, tt := range map[string]struct {
		put, after string
		want       run.State
	}{
		"wrong after right": {"hello", "HELLO", run.Failed},
		"wrong after wrong": {"hellO", "HELLO", run.Failed},
		"right after wrong": {"HELLO", "hello", run.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, r := announce(t, b, "hello", tt.put, tt.after)
			d := b.Until(t, r.ID, tt.want)
			s := d.Steps[0]
			if tt.want == run.Failed && (d.Run.FailureClass == run.ClassInvalid || !strings.Contains(s.Reason, "other bytes were put after")) {
				t.Errorf("run = %s, %q, want it not invalid, since other bytes were put after", d.Run.FailureClass, s.Reason)
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
			b := hosttest.Setup(t)
			a, r := announce(t, b, "hello", "hello")
			d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID)
			if err != nil {
				t.Fatal(err)
			}
			dead := claimAs(t, b, d.Steps[0], "worker-dead")
			key := blob.BlobKey(b.TenantID, [32]byte(a.SHA256))
			if completes {
				if err := b.DB.CompleteUpload(b.Ctx, dead, a.ID, key); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Admin.Exec(b.Ctx, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 second'"); err != nil {
				t.Fatal(err)
			}
			b.Worker(t, serveMaintenance)
			d = b.Until(t, r.ID, run.Succeeded)
			if s := d.Steps[0]; s.Attempts != 2 {
				t.Errorf("attempts = %d, want two", s.Attempts)
			}
			if got, err := b.DB.Artifact(b.Ctx, b.TenantID, a.ID); err != nil || got.State != run.Ready {
				t.Errorf("Artifact() = %s, %v, want it ready", got.State, err)
			}
			if err := b.DB.CompleteUpload(b.Ctx, dead, a.ID, key); !errors.Is(err, fault.Fenced) {
				t.Errorf("CompleteUpload(of the dead worker) = %v, want fenced", err)
			}
		})
	}
}

// claimAs claims a ready step for another worker.
func claimAs(t *testing.T, b *hosttest.Bundle, s run.Step, worker string) *postgres.Claim {
	t.Helper()
	c, err := pgtest.Claim(b.Ctx, b.DB, postgres.Wake{
		Job: job.Step{TenantID: b.TenantID, StepID: s.ID, WakeSeq: 1}, Span: trace.SpanContextFromContext(b.Ctx),
		Pre: func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) { return nil, nil },
	}, postgres.Worker{ID: worker, PID: 1}, time.Minute)
	if err != nil || c == nil {
		t.Fatalf("Claim() = %v, %v, want a claim", c, err)
	}
	return c
}
