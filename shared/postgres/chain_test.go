package postgres_test

import (
	"encoding/json"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
)

// A finish takes a successor along only on the queue that it was told; one of
// another queue gets a job there, for whoever serves it.
func TestChainKeepsToItsQueue(t *testing.T) {
	t.Parallel()
	s := setup(t)
	p, err := run.Plan{Goal: "g", Steps: []run.PlanStep{
		{Name: "a", Tool: "bash", Inputs: json.RawMessage(`{"script":"true"}`)},
		{Name: "b", Tool: "codegen", Inputs: json.RawMessage(`{"instruction":"write"}`)},
		{Name: "c", Tool: "bash", Inputs: json.RawMessage(`{"script":"true"}`)},
		{Name: "d", Tool: "bash", Inputs: json.RawMessage(`{"script":"true"}`)},
	}}.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	_, steps, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "t"})
	if err != nil {
		t.Fatal(err)
	}
	queues := func() []string {
		return all[string](t, s, "SELECT queue FROM river.river_job ORDER BY id")
	}
	c := s.claim(t, steps[0].ID)
	for i, want := range []struct {
		queue string // that the finish may go on with
		next  string // the step taken
		jobs  int    // in all, afterwards
	}{
		{run.StepQueue, "", 2},   // b waits in the queue review
		{run.ReviewQueue, "", 3}, // c in the queue step
		{run.StepQueue, "d", 3},
	} {
		f := outcome(c, "succeed")
		f.Span, f.Checkpoints = trace.SpanContextFromContext(s.ctx), []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}
		f.Chain = &postgres.Chain{Queue: want.queue, Span: trace.SpanContextFromContext(s.ctx), Pre: noCheckpoint}
		done, err := pgtest.FinishStep(s.ctx, s.DB, f, postgres.Worker{ID: "w"}, ttl)
		if err != nil {
			t.Fatal(err)
		}
		next := ""
		if done.Next != nil {
			next = done.Next.Name
		}
		if got := queues(); next != want.next || len(got) != want.jobs {
			t.Errorf("finish of %s on %s took %q, jobs on %v; want %q and %d jobs", steps[i].Name, want.queue, next, got, want.next, want.jobs)
		}
		if i < 2 {
			c = s.claim(t, steps[i+1].ID)
		}
	}
	if got := queues(); got[1] != run.ReviewQueue || got[2] != run.StepQueue {
		t.Errorf("jobs are on %v, want codegen's on review and the others' on step", got)
	}
}

// In one transaction a step succeeds and takes a successor along, and then another
// step fails for good. What the successor comes to is decided by that order: it may
// end, but it does not wait, and its run does not wait for anybody.
func TestChainBesideAFailure(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for _, event := range []string{"approval", "timer", "retry", "interrupted"} {
		for _, plan := range [][]string{{"b:", "a:", "m: b"}, {"a:", "b:", "m: b"}} {
			r, steps := s.create(t, plan...)
			succeeds := outcome(s.claim(t, steps["b"].ID), "succeed")
			succeeds.Checkpoints = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}
			succeeds.Chain = &postgres.Chain{Queue: run.StepQueue, Pre: noCheckpoint}
			batch := []postgres.Finish{succeeds, outcome(s.claim(t, steps["a"].ID), "fail")}
			done, err := s.FinishSteps(s.ctx, batch, postgres.Worker{ID: "w1", PID: 1}, ttl)
			if err != nil || done[0].Err != nil || done[1].Err != nil {
				t.Fatalf("FinishSteps() = %v, %v, want both recorded", done, err)
			}
			if next := done[0].Next; next != nil {
				s.finish(t, next, event)
			}
			if got := s.states(t, r.ID); !strings.HasPrefix(got, "failed ") {
				t.Errorf("plan %q, then %s: states = %s, want a failed run", plan, event, got)
			}
		}
	}
	s.wantSound(t)
}
