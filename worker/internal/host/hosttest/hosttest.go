// Package hosttest runs whole workers for tests, on a database and on object storage of
// their own.
package hosttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/servertest/s3server"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
	"nofx.dev/worker/internal/tool"
)

const bucket = "nofx-worker"

var storageServer *s3server.Server

// Main runs the tests of a package beside the servers that they need, and returns the
// exit code.
func Main(m *testing.M) int {
	ctx := context.Background()
	stop, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres:", err)
		return 1
	}
	defer stop()
	if storageServer, err = s3server.Start(ctx, s3server.Config{}); err == nil {
		defer storageServer.Stop()
		err = storageServer.MakeBucket(ctx, bucket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	return m.Run()
}

// StorageEndpoint returns where object storage is.
func StorageEndpoint() string { return storageServer.Endpoint }

// Bundle is one test's database, storage and tenant.
type Bundle struct {
	*pgtest.Database
	DB       *postgres.DB // for what gateways do, too
	Blobs    *blob.Store
	TenantID uuid.UUID
	Ctx      context.Context // in a span of a trace
}

// Setup makes a Bundle.
func Setup(t *testing.T) *Bundle {
	t.Helper()
	d := pgtest.New(t)
	id, span := uuid.New(), uuid.New()
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(id), SpanID: trace.SpanID(span[:8]), TraceFlags: trace.FlagsSampled,
	}))
	return &Bundle{Database: d, DB: d.Open(t, postgres.Config{}), Blobs: OpenBlobs(t, storageServer.Endpoint), TenantID: d.Tenant(t), Ctx: postgres.WithActor(ctx, "tester")}
}

// OpenBlobs opens object storage at an endpoint, which may be a proxy.
func OpenBlobs(t *testing.T, endpoint string) *blob.Store {
	t.Helper()
	s := storageServer
	blobs, err := blob.Open(blob.Config{Endpoint: endpoint, Bucket: bucket, Region: s.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey})
	if err != nil {
		t.Fatalf("blob.Open() = %v", err)
	}
	return blobs
}

// openDB opens the database as a worker does.
func openDB(t *testing.T, d *pgtest.Database, m *telemetry.Metrics) *postgres.DB {
	t.Helper()
	return d.Open(t, postgres.Config{Role: postgres.WorkerRole, JobMiddleware: []rivertype.Middleware{telemetry.NewCarrier(m)}})
}

// New makes a worker that does not run yet.
func (b *Bundle) New(t *testing.T, edit func(*host.Config)) *host.Host {
	t.Helper()
	m := telemetry.NewMetrics(prometheus.NewRegistry(), "test")
	cfg := host.Config{
		ID: "worker-" + uuid.NewString()[:8], PID: os.Getpid(), Version: "test",
		Work: openDB(t, b.Database, m), River: openDB(t, b.Database, m), Heartbeat: openDB(t, b.Database, m), Blobs: b.Blobs,
		Tools: tool.New(tool.Config{Sandbox: sandboxtest.Bare()}), Metrics: m, Log: slog.New(slog.DiscardHandler),
		Queues: []string{"step"}, Concurrency: 4, LeaseTTL: 5 * time.Second, DrainGrace: 100 * time.Millisecond, Budget: 15 * time.Minute,
		WorkspaceDir: t.TempDir(),
	}
	if edit != nil {
		edit(&cfg)
	}
	h, err := host.New(cfg)
	if err != nil {
		t.Fatalf("host.New() = %v", err)
	}
	return h
}

// Worker starts a worker that stops with the test, or when stop is called.
func (b *Bundle) Worker(t *testing.T, edit func(*host.Config)) (h *host.Host, stop func()) {
	t.Helper()
	h = b.New(t, edit)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx, context.Background()) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return h, stop
}

// Create creates a run of a plan with the steps.
func (b *Bundle) Create(t *testing.T, steps ...run.PlanStep) run.Run {
	t.Helper()
	p, err := run.Plan{Goal: "test", Steps: steps}.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v", err)
	}
	r, _, err := b.DB.CreateRun(b.Ctx, b.TenantID, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("CreateRun() = %v", err)
	}
	return r
}

// Script returns a step that runs a script.
func Script(name, text string, needs ...string) run.PlanStep {
	inputs, _ := json.Marshal(run.BashInputs{Script: text})
	return run.PlanStep{Name: name, Tool: run.ToolBash, Inputs: inputs, DependsOn: needs, TimeoutS: new(60)}
}

// Until waits for the run to reach one of the states.
func (b *Bundle) Until(t *testing.T, id uuid.UUID, states ...run.State) postgres.RunDetail {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := b.DB.RunDetail(ctx, b.TenantID, id)
		if err != nil {
			t.Fatalf("RunDetail(%s) = %v", id, err)
		}
		for _, s := range states {
			if d.Run.State == s {
				return d
			}
		}
		if run.RunMachine.Terminal(d.Run.State) {
			t.Fatalf("run is %s (%s), want %v", d.Run.State, d.Run.Reason, states)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("run is still %s, want %v; steps %+v", d.Run.State, states, d.Steps)
		}
	}
}

// Log returns what a step printed.
func (b *Bundle) Log(t *testing.T, step uuid.UUID) string {
	t.Helper()
	l, err := b.DB.Log(b.Ctx, b.TenantID, step, nil, 0, 100)
	if err != nil {
		t.Fatalf("Log() = %v", err)
	}
	var text strings.Builder
	for _, c := range l.Chunks {
		r, err := b.Blobs.Open(b.Ctx, c.Key, 0, -1)
		if err != nil {
			t.Fatalf("Open(%s) = %v", c.Key, err)
		}
		_, err = io.Copy(&text, r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatalf("read %s: %v", c.Key, err)
		}
	}
	return text.String()
}

// File returns the content of a file in the newest checkpoint of a run.
func (b *Bundle) File(t *testing.T, d postgres.RunDetail, path string) string {
	t.Helper()
	if d.Run.HeadCheckpointID == nil {
		t.Fatalf("run %s has no head checkpoint", d.Run.ID)
	}
	ck, err := b.DB.Checkpoint(b.Ctx, b.TenantID, d.Run.ID, *d.Run.HeadCheckpointID)
	if err != nil {
		t.Fatalf("Checkpoint() = %v", err)
	}
	root, err := tree.ParseDigest(ck.TreeDigest)
	if err != nil {
		t.Fatal(err)
	}
	source := &tree.Source{Blobs: b.Blobs, Locator: b.DB}
	r, _, err := source.Tree(b.TenantID, root).Open(b.Ctx, path)
	if err != nil {
		t.Fatalf("Open(%s) = %v", path, err)
	}
	defer r.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(r); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return buf.String()
}

// Step returns a step of a tool.
func Step(name, tool string, inputs any, needs ...string) run.PlanStep {
	raw, _ := json.Marshal(inputs)
	return run.PlanStep{Name: name, Tool: tool, Inputs: raw, DependsOn: needs, TimeoutS: new(60)}
}

// Wait waits until the answer to a question is yes.
func (b *Bundle) Wait(t *testing.T, what, question string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var yes bool
		if err := b.Admin.QueryRow(ctx, question).Scan(&yes); err != nil {
			t.Fatalf("not in time: %s: %v", what, err)
		}
		if yes {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
