package step

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// One step whose wait cannot be ended must not keep the waits after it waiting.
func TestSweepGoesOnPastOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
	nap := func(duration string) run.Run {
		return b.create(t, run.PlanStep{Name: "nap", Tool: run.ToolSleep, Inputs: json.RawMessage(`{"duration_s":` + duration + `}`)})
	}
	broken := b.until(t, nap("1.5").ID, run.Waiting)
	if _, err := b.Admin.Exec(b.ctx, `
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON nofx.step FOR EACH ROW WHEN (OLD.id = '`+broken.Steps[0].ID.String()+`') EXECUTE FUNCTION public.refuse()`); err != nil {
		t.Fatal(err)
	}
	b.until(t, nap("1.6").ID, run.Succeeded)
	d, err := b.db.RunDetail(b.ctx, b.tenant, broken.Run.ID)
	if err != nil || d.Run.State != run.Waiting {
		t.Errorf("the run that cannot go on is %s, %v, want waiting: the test looks at nothing", d.Run.State, err)
	}
}

// A pass that had much to do is no outage, after which leases would be left alone.
func TestSweepIsNoOutage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.create(t, script("a", "true"))
	d, err := b.db.RunDetail(b.ctx, b.tenant, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	wake := postgres.Wake{
		Job: job.Step{TenantID: b.tenant, StepID: d.Steps[0].ID, WakeSeq: 1},
		Pre: func(*postgres.Claim) (*postgres.Checkpoint, error) { return nil, nil },
	}
	const ttl = time.Second
	gone := postgres.Worker{ID: "gone", PID: 1}
	c, err := b.db.Claim(b.ctx, wake, gone, ttl)
	if err != nil || c == nil {
		t.Fatalf("Claim() = %v, %v, want a claim", c, err)
	}
	nap := postgres.Finish{Claim: c, Outcome: "wait", Reason: "sleeping", Wait: &postgres.NewWait{Kind: "timer"}}
	if _, err := b.db.FinishStep(b.ctx, nap, gone, ttl); err != nil {
		t.Fatalf("FinishStep() = %v, want nil", err)
	}
	if _, err := b.Admin.Exec(b.ctx, `
		CREATE FUNCTION public.linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2.2); RETURN NEW; END $$;
		CREATE TRIGGER linger BEFORE UPDATE ON nofx.step FOR EACH ROW WHEN (OLD.state = 'waiting') EXECUTE FUNCTION public.linger()`); err != nil {
		t.Fatal(err)
	}
	s := newSweeper(b.db, ttl, slog.New(slog.DiscardHandler), telemetry.NewMetrics(prometheus.NewRegistry(), "test"))
	began := time.Now()
	for range 2 {
		if err := s.pass(b.ctx); err != nil {
			t.Fatalf("pass() = %v, want nil", err)
		}
	}
	if took := time.Since(began); took < 2*ttl {
		t.Fatalf("two passes took %v: the test looks at nothing", took)
	}
	if !s.resume.IsZero() {
		t.Errorf("leases are left alone until %v, want them swept", s.resume)
	}
}
