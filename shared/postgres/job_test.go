package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/riverqueue/river"

	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// stepWorker takes the steps of River's jobs to their end, and hears of each
// job once more after that.
type stepWorker struct {
	river.WorkerDefaults[job.Step]
	s    *store
	done chan error
}

func (w *stepWorker) Work(ctx context.Context, j *river.Job[job.Step]) error {
	c, err := w.s.Claim(w.s.ctx, j.Args, postgres.Worker{ID: "w"}, ttl, noCheckpoint)
	if err == nil && c != nil {
		f := outcome(c, "succeed")
		// The River client is in ctx, the span and the actor in the test's.
		err = w.s.FinishStep(postgres.WithActor(traced(ctx), "w"), f)
	}
	w.done <- err
	return err
}

// Steps are delivered by River and their jobs completed with them, over one
// connection each for us and for it, also as behind a transaction pooler.
func TestRiverDelivers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]postgres.Config{"direct": {}, "pooled": {Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, c)
			w := &stepWorker{s: s, done: make(chan error, 10)}
			workers := river.NewWorkers()
			river.AddWorker(workers, w)
			client, err := s.NewQueueClient(river.Config{
				Workers: workers, PollOnly: true, FetchCooldown: 10 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
				Queues: map[string]river.QueueConfig{run.StepQueue: {MaxWorkers: 2}},
			}, postgres.Reserve{})
			if err != nil {
				t.Fatal(err)
			}
			r, _ := s.create(t, "a:", "b: a", "c: a", "d: b c")
			if err := client.Start(s.ctx); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				select {
				case err := <-w.done:
					if err != nil {
						t.Errorf("work: %v", err)
					}
				case <-time.After(2 * time.Minute):
					t.Fatal("no job came")
				}
			}
			if err := client.Stop(context.WithoutCancel(s.ctx)); err != nil {
				t.Error(err)
			}
			s.wantStates(t, r.ID, "succeeded a:succeeded b:succeeded c:succeeded d:succeeded")
			if got := all[string](t, s, "SELECT state::text || ' ' || attempt FROM river.river_job"); len(got) != 4 || got[0] != "completed 1" || got[3] != "completed 1" {
				t.Errorf("jobs = %v, want four completed at the first attempt", got)
			}
			s.wantSound(t)
		})
	}
}

// The wake-up's number is part of what makes a job unique: a new one is never
// swallowed by what an older one has left behind, in whatever state.
func TestWakeUpsAreUnique(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	a := steps["a"].ID
	for _, state := range []string{"available", "running", "completed", "retryable", "discarded", "cancelled"} {
		s.exec(t, `UPDATE river.river_job SET state = $1::text::river.river_job_state,
			finalized_at = CASE WHEN $1::text IN ('completed', 'discarded', 'cancelled') THEN clock_timestamp() END`, state)
		s.do(t, a, "interrupted")
		if n := s.jobs(t, a); n != 1 {
			t.Errorf("jobs of the new wake-up beside one that is %s = %d, want 1", state, n)
		}
	}
}
