package postgres_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const ttl = time.Minute

// store is a database with one tenant, seen as one process sees it.
type store struct {
	*pgtest.Database
	*postgres.DB
	tenant uuid.UUID
	ctx    context.Context // of an actor, inside a span
}

func setup(t testing.TB) *store { return setupWith(t, postgres.Config{}) }

func setupWith(t testing.TB, c postgres.Config) *store {
	t.Helper()
	d := pgtest.New(t)
	c.LockWait = cmp.Or(c.LockWait, 2*time.Second) // the machine may be slow
	c.URL = cmp.Or(c.URL, d.AppURL+"&options=-c%20lock_timeout%3D60s%20-c%20statement_timeout%3D60s")
	return &store{Database: d, DB: d.Open(t, c), tenant: d.Tenant(t), ctx: traced(postgres.WithActor(t.Context(), "tester"))}
}

// traced returns ctx inside a new span of a new trace.
func traced(ctx context.Context) context.Context {
	id, span := uuid.New(), uuid.New()
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(id), SpanID: trace.SpanID(span[:8]), TraceFlags: trace.FlagsSampled,
	}))
}

// plan makes a plan of lines such as "c: a b", a step and what it depends on.
// Names that begin with m are manual steps, with w timers, with s waits for a
// signal; the rest runs bash.
func plan(t testing.TB, text ...string) run.Plan {
	t.Helper()
	p, err := lines(text...).Normalise()
	if err != nil {
		t.Fatalf("Normalise(%q) = %v, want nil", text, err)
	}
	return p
}

func lines(text ...string) run.Plan {
	p := run.Plan{Goal: "test"}
	for _, line := range text {
		name, deps, _ := strings.Cut(line, ":")
		s := run.PlanStep{Name: name, Tool: run.ToolBash, Inputs: json.RawMessage(`{"script":"true"}`), DependsOn: append([]string{}, strings.Fields(deps)...)}
		switch name[0] {
		case 'm':
			s.Tool, s.Inputs = run.ManualFamily+"ok", json.RawMessage(`{"message":"go on?"}`)
		case 'w':
			s.Tool, s.Inputs = run.ToolSleep, json.RawMessage(`{"duration_s":1}`)
		case 's':
			s.Tool, s.Inputs = run.ToolSignal, json.RawMessage(`{"key":"k"}`)
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

// create makes a run of plan(text...) and returns its steps by name.
func (s *store) create(t testing.TB, text ...string) (run.Run, map[string]run.Step) {
	t.Helper()
	r, list, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: plan(t, text...), CreatedBy: "author"})
	if err != nil {
		t.Fatalf("CreateRun(%q) = %v, want nil", text, err)
	}
	steps := make(map[string]run.Step, len(list))
	for _, step := range list {
		steps[step.Name] = step
	}
	return r, steps
}

func wakeUp(tenant, step uuid.UUID, seq int64) job.Step {
	return job.Step{TenantID: tenant, StepID: step, WakeSeq: seq}
}

// wakeSeq returns the step's present wake_seq.
func (s *store) wakeSeq(t testing.TB, step uuid.UUID) int64 {
	t.Helper()
	return one[int64](t, s, "SELECT wake_seq FROM nofx.step WHERE id = $1", step)
}

// Claim takes the step that j wakes for, in ctx's span.
func (s *store) Claim(ctx context.Context, j job.Step, w postgres.Worker, ttl time.Duration, pre postgres.Pre) (*postgres.Claim, error) {
	return pgtest.Claim(ctx, s.DB, postgres.Wake{Job: j, Span: trace.SpanContextFromContext(ctx), Pre: pre}, w, ttl)
}

// FinishStep finishes in ctx's span.
func (s *store) FinishStep(ctx context.Context, f postgres.Finish) error {
	f.Span = trace.SpanContextFromContext(ctx)
	_, err := pgtest.FinishStep(ctx, s.DB, f, postgres.Worker{ID: "w1", PID: 1}, ttl)
	return err
}

func noCheckpoint(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) { return nil, nil }

// claim takes a ready step for the worker w1.
func (s *store) claim(t testing.TB, step uuid.UUID) *postgres.Claim {
	t.Helper()
	c, err := s.Claim(s.ctx, wakeUp(s.tenant, step, s.wakeSeq(t, step)), postgres.Worker{ID: "w1", PID: 1}, ttl, noCheckpoint)
	if err != nil || c == nil {
		t.Fatalf("Claim(%s) = %v, %v, want a claim", step, c, err)
	}
	return c
}

// outcome returns a finish with what each outcome wants.
func outcome(c *postgres.Claim, event string) postgres.Finish {
	f := postgres.Finish{Claim: c, Outcome: event}
	switch event {
	case "succeed":
		f.Outputs = json.RawMessage(`{"by":"` + c.Name + `"}`)
	case "fail":
		f.Reason, f.FailureClass = "exit status 1", run.ClassTool
	case "retry":
		f.Reason, f.FailureClass = "exit status 1", run.ClassTool
	case "interrupted":
		f.Reason = "the worker is stopping"
	case "timer":
		f.Outcome, f.Reason = "wait", "sleeping"
		f.Wait = &postgres.NewWait{Kind: "timer"}
	case "approval":
		f.Outcome, f.Reason = "wait", "waits for approval"
		f.Wait = &postgres.NewWait{Kind: "approval", After: time.Hour}
		ck := checkpoint(run.WaitCheckpoint)
		f.Checkpoints = []*postgres.Checkpoint{ck}
		f.Gate = &postgres.NewGate{ID: run.NewID(), Name: "ok", Kind: run.ManualGate, Message: "go on?", InputDigest: "sha256:in",
			ShownCheckpoint: ck.ID, ShownDigest: ck.Digest}
	case "gate failed":
		ck := checkpoint(run.GateFailedCheckpoint)
		f.Outcome, f.Reason, f.FailureClass = "fail", "gate ok failed", run.ClassGateFailed
		f.Checkpoints = []*postgres.Checkpoint{ck}
		f.Gate = &postgres.NewGate{ID: run.NewID(), Name: "ok", Kind: run.CommandGate, InputDigest: "sha256:in",
			ShownCheckpoint: ck.ID, ShownDigest: ck.Digest, Evidence: map[string]any{"exit_code": 1}, Event: "fail", Reason: "exit status 1"}
	}
	return f
}

func checkpoint(kind run.CheckpointKind, parents ...uuid.UUID) *postgres.Checkpoint {
	digest := tree.Sum([]byte("x"))
	return &postgres.Checkpoint{ID: run.NewID(), Kind: kind, Generation: 1 + len(parents), Digest: digest, Manifest: []byte(`{"v":1}`),
		StateDigest: digest, State: []byte(`{}`), TreeDigest: digest, Parents: parents}
}

// finish records an outcome, which must be accepted.
func (s *store) finish(t testing.TB, c *postgres.Claim, event string) postgres.Finish {
	t.Helper()
	f := outcome(c, event)
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatalf("FinishStep(%s, %s) = %v, want nil", c.Name, event, err)
	}
	return f
}

// do claims a step and records what it came to.
func (s *store) do(t testing.TB, step uuid.UUID, event string) postgres.Finish {
	t.Helper()
	return s.finish(t, s.claim(t, step), event)
}

// due returns everything that is due.
func (s *store) due(ctx context.Context, r postgres.SweepRules) (list []postgres.Due, err error) {
	r.Gap = cmp.Or(r.Gap, time.Hour)
	for _, kind := range postgres.DueKinds {
		more, err := s.Due(ctx, kind, r, &postgres.SweepPlace{})
		if err != nil {
			return nil, fmt.Errorf("due as %s: %w", kind, err)
		}
		list = append(list, more...)
	}
	return list, nil
}

// sweep handles everything that is due and returns the transitions made. Unless the
// rules tell a gap, there was no outage.
func (s *store) sweep(t testing.TB, r postgres.SweepRules) []string {
	t.Helper()
	r.Limit, r.Gap = 200, cmp.Or(r.Gap, time.Hour)
	due, err := s.due(s.ctx, r)
	if err != nil {
		t.Fatalf("Due(%+v) = %v", r, err)
	}
	var made []string
	for _, d := range due {
		event, err := s.Sweep(s.ctx, d, r, func() error { return nil })
		if err != nil {
			t.Fatalf("Sweep(%+v) = %v", d, err)
		}
		if event != "" {
			made = append(made, event)
		}
	}
	slices.Sort(made)
	return made
}

// expire makes the leases of the steps old enough to be lost.
func (s *store) expire(t testing.TB, steps ...uuid.UUID) {
	t.Helper()
	s.exec(t, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 second' WHERE step_id = ANY ($1)", steps)
}

func (s *store) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := s.Admin.Exec(s.ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the single value that a query of the administrator gives.
func one[T any](t testing.TB, s *store, sql string, args ...any) T {
	t.Helper()
	list := all[T](t, s, sql, args...)
	if len(list) != 1 {
		t.Fatalf("%s, %v: %d rows, want 1", sql, args, len(list))
	}
	return list[0]
}

// all returns the values of the first column that a query gives.
func all[T any](t testing.TB, s *store, sql string, args ...any) []T {
	t.Helper()
	rows, err := s.Admin.Query(s.ctx, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// states returns the states of a run and, by name, of its steps.
func (s *store) states(t testing.TB, id uuid.UUID) string {
	t.Helper()
	d, err := s.RunDetail(s.ctx, s.tenant, id)
	if err != nil {
		t.Fatalf("RunDetail(%s) = %v", id, err)
	}
	words := []string{string(d.Run.State)}
	for _, step := range d.Steps {
		words = append(words, fmt.Sprintf("%s:%s", step.Name, step.State))
	}
	return strings.Join(words, " ")
}

func (s *store) wantStates(t testing.TB, id uuid.UUID, want string) {
	t.Helper()
	if got := s.states(t, id); got != want {
		t.Fatalf("states = %s, want %s", got, want)
	}
}

// wantKind fails unless err has the kind and code.
func wantKind(t testing.TB, what string, err error, kind fault.Kind, code string) *fault.Error {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != kind || f.Code != code {
		t.Fatalf("%s = %v, want %s (%s)", what, err, kind, code)
	}
	return f
}
