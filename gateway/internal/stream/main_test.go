package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

func TestMain(m *testing.M) {
	// Spans need valid ids, since rows carry them.
	_, err := telemetry.Setup(context.Background(), telemetry.Config{
		Service: "test", Env: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
		Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test"), Redactor: telemetry.NewRedactor(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "telemetry:", err)
		os.Exit(1)
	}
	pgtest.Main(m)
}

// bench is a hub on a database of its own, behind HTTP.
type bench struct {
	*testing.T
	pg     *pgtest.Database
	db     *postgres.DB
	hub    *Hub
	tenant uuid.UUID
	http   *httptest.Server
	answer chan error // what Serve came to, per request
}

// quick are limits that keep tests short.
var quick = Limits{PollBusy: time.Millisecond, PollIdle: 10 * time.Millisecond}

func newBench(t *testing.T, limits Limits) *bench {
	t.Helper()
	t.Parallel()
	pg := pgtest.New(t)
	b := &bench{T: t, pg: pg, db: pg.Open(t, postgres.Config{MaxConns: 8}), tenant: pg.Tenant(t), answer: make(chan error, 1000)}
	b.start(limits)
	return b
}

// start starts the hub.
func (b *bench) start(limits Limits) {
	b.hub = NewHub(Config{
		Store: b.db, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test"),
		Log: slog.New(slog.NewTextHandler(b.Output(), nil)), Limits: limits,
	})
	ctx, cancel := context.WithCancel(context.Background())
	tailed := make(chan struct{})
	go func() {
		defer close(tailed)
		b.hub.Run(ctx)
	}()
	b.Cleanup(func() {
		b.hub.Shutdown()
		if b.http != nil {
			b.http.Close()
		}
		cancel()
		<-tailed
	})
}

// serve answers every request with the stream that q asks for, from the cursor of
// its Last-Event-ID on; a path names another project than q's.
func (b *bench) serve(q Request) {
	q.Tenant = b.tenant
	if q.Check == nil {
		q.Check = func(context.Context) error { return nil }
	}
	b.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := q
		if project := strings.TrimPrefix(r.URL.Path, "/"); project != "" {
			q.Project = project
		}
		var err error
		if last := r.Header.Get("Last-Event-ID"); last != "" {
			q.Resumed = true
			if q.Run != uuid.Nil {
				q.After.Seq, err = ParseSeq(last)
			} else {
				q.After, err = ParseFeed(last)
			}
		}
		if err == nil {
			err = b.hub.Serve(w, r, q)
		}
		if err != nil {
			w.WriteHeader(http.StatusTeapot)
		}
		b.answer <- err
	}))
	b.http.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(4096) // so that a reader who stops is felt soon
		return ctx
	}
	b.http.Start()
}

// reader reads a stream frame by frame.
type reader struct {
	*bench
	resp   *http.Response
	frames *api.FrameReader
	cancel context.CancelFunc
	last   string // the newest id, also of frames without data
}

func (b *bench) read(last string) *reader {
	b.Helper()
	return b.readOf("", last)
}

// readOf returns read for a project.
func (b *bench) readOf(project, last string) *reader {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	b.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.http.URL+"/"+project, nil)
	if err != nil {
		b.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { resp.Body.Close() })
	return &reader{b, resp, api.NewFrameReader(resp.Body), cancel, last}
}

// next returns the next frame that has an event, or false at the end.
func (r *reader) next() (api.Frame, bool) {
	for {
		f, err := r.frames.Next()
		if err != nil {
			return f, false
		}
		if f.ID != "" {
			r.last = f.ID
		}
		if f.Event != "" {
			return f, true
		}
	}
}

func (r *reader) want(event string) api.Frame {
	r.Helper()
	f, ok := r.next()
	if !ok || f.Event != event {
		r.Fatalf("frame = %+v, %v, want %s", f, ok, event)
	}
	return f
}

// leave closes the connection from the reader's side.
func (r *reader) leave() {
	r.cancel()
	r.resp.Body.Close()
}

// create makes a run of n steps, all ready at once: n + 1 events.
func (b *bench) create(n int) run.Run {
	b.Helper()
	return b.createIn("default", n)
}

func (b *bench) createIn(project string, n int) run.Run {
	b.Helper()
	p := run.Plan{Goal: "x"}
	for i := range n {
		p.Steps = append(p.Steps, run.PlanStep{Name: fmt.Sprintf("s%d", i), Tool: "sleep", Inputs: json.RawMessage(`{"duration_s":0}`), DependsOn: []string{}})
	}
	p, err := p.Normalise()
	if err != nil {
		b.Fatal(err)
	}
	ctx, span := otel.Tracer("test").Start(postgres.WithActor(context.Background(), "test"), "create")
	defer span.End()
	r, _, err := b.db.CreateRun(ctx, b.tenant, postgres.NewRun{Project: project, Plan: p, CreatedBy: "test"})
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// cancel ends a run: an event per step and one of the run.
func (b *bench) cancel(r run.Run) {
	b.Helper()
	if _, err := b.db.CancelRun(context.Background(), b.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
		b.Fatal(err)
	}
}

// eventually waits for what nothing signals.
func (b *bench) eventually(what string, ok func() bool) {
	b.Helper()
	deadline := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-deadline:
			b.Fatalf("%s: not within two minutes", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func eventOf(t testing.TB, f api.Frame) (e api.Event) {
	t.Helper()
	if err := json.Unmarshal([]byte(f.Data), &e); err != nil {
		t.Fatalf("data of %+v: %v", f, err)
	}
	return e
}

func controlOf(t testing.TB, f api.Frame) (c api.StreamControl) {
	t.Helper()
	if err := json.Unmarshal([]byte(f.Data), &c); err != nil {
		t.Fatalf("data of %+v: %v", f, err)
	}
	return c
}

var errRevoked = fault.New(fault.Unauthenticated, "unauthenticated", "revoked")
