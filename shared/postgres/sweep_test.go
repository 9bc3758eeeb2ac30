package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
)

// jobs counts the River jobs that would wake the step at its present wake_seq.
func (s *store) jobs(t testing.TB, step uuid.UUID) int {
	t.Helper()
	return one[int](t, s, `SELECT count(*) FROM river.river_job j JOIN nofx.step s ON s.id = (j.args->>'step_id')::uuid AND s.wake_seq = (j.args->>'wake_seq')::bigint
		WHERE s.id = $1 AND s.job_id = j.id AND j.state = 'available'`, step)
}

// A River job ends with the lease that it carried, and when another takes its place;
// what is left with a worker that is gone, or that could not complete it, a while later.
func TestJobsThatNobodyEnds(t *testing.T) {
	t.Parallel()
	const started = "UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() - interval '1 minute', attempted_by = '{w1}' WHERE id = $1"
	chain := func(t *testing.T, s *store, c *postgres.Claim, job int64) *postgres.Claim {
		f := outcome(c, "succeed")
		f.Checkpoints, f.Chain = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}, &postgres.Chain{Queue: run.StepQueue, JobID: job, Pre: noCheckpoint}
		done, err := pgtest.FinishStep(s.ctx, s.DB, f, postgres.Worker{ID: "w1", PID: 1}, ttl)
		if err != nil {
			t.Fatalf("FinishStep() = %v", err)
		}
		return done.Next
	}
	for name, tt := range map[string]struct {
		do   func(t *testing.T, s *store, r run.Run, c *postgres.Claim, job int64)
		want string // state of the job
	}{
		"the lease expires": {func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, _ int64) {
			s.expire(t, c.StepID)
			s.sweep(t, postgres.SweepRules{})
		}, "cancelled"},
		"the lease of a chained step expires": {func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, job int64) {
			s.expire(t, chain(t, s, c, job).StepID)
			s.sweep(t, postgres.SweepRules{})
		}, "cancelled"},
		"the run is cancelled": {func(t *testing.T, s *store, r run.Run, _ *postgres.Claim, _ int64) {
			if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
				t.Fatal(err)
			}
		}, "cancelled"},
		"a chained step runs": {func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, job int64) {
			chain(t, s, c, job)
		}, "running"},
		"nobody told River of the finish": {func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, _ int64) {
			s.finish(t, c, "succeed")
		}, "cancelled"},
		"the finish is just over": {func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, job int64) {
			s.finish(t, c, "succeed")
			s.exec(t, "UPDATE river.river_job SET attempted_at = clock_timestamp() WHERE id = $1", job)
		}, "running"},
		"the step waits for it": {func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, job int64) {
			s.finish(t, c, "interrupted")
			s.exec(t, "UPDATE nofx.step SET job_id = $1 WHERE id = $2", job, c.StepID)
		}, "running"},
		"the step of a paused run would wait for it": {func(t *testing.T, s *store, r run.Run, c *postgres.Claim, job int64) {
			s.finish(t, c, "interrupted")
			s.exec(t, "UPDATE nofx.step SET job_id = $1 WHERE id = $2", job, c.StepID)
			if _, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "wait"}); err != nil {
				t.Fatal(err)
			}
		}, "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", "b: a")
			job := one[int64](t, s, "SELECT job_id FROM nofx.step WHERE id = $1", steps["a"].ID)
			s.exec(t, started, job)
			c, err := pgtest.Claim(s.ctx, s.DB, postgres.Wake{Job: wakeUp(s.tenant, steps["a"].ID, 1), JobID: job, Pre: noCheckpoint}, postgres.Worker{ID: "w1", PID: 1}, ttl)
			if err != nil || c == nil {
				t.Fatalf("Claim() = %v, %v", c, err)
			}
			tt.do(t, s, r, c, job)
			if _, err := s.EndStrayJobs(s.ctx, 100); err != nil {
				t.Fatalf("EndStrayJobs() = %v", err)
			}
			if got := one[string](t, s, "SELECT state::text FROM river.river_job WHERE id = $1", job); got != tt.want {
				t.Errorf("the job is %s, want %s", got, tt.want)
			}
		})
	}
}

// Whatever many wake-ups wait their turn, the look goes through all of them, bit by
// bit, and begins anew.
func TestLostWakeUpsInABacklog(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var text []string
	for i := range 100 {
		text = append(text, fmt.Sprintf("a%d:", i))
	}
	_, steps := s.create(t, text...)
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 minute', due_at = clock_timestamp() - interval '1 minute' WHERE idx % 2 = 0") // at one moment
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 minute', due_at = clock_timestamp() - interval '1 minute' + idx * interval '1 ms' WHERE idx % 2 = 1")
	lost := []uuid.UUID{steps["a7"].ID, steps["a66"].ID, steps["a98"].ID, steps["a99"].ID}
	s.exec(t, "DELETE FROM river.river_job WHERE id IN (SELECT job_id FROM nofx.step WHERE id = ANY ($1))", lost)
	rules := postgres.SweepRules{LeaseRules: calm, Lost: time.Second, Limit: 15}
	var place postgres.SweepPlace
	for round := range 2 {
		var found []uuid.UUID
		for look := 1; ; look++ {
			due, err := s.Due(s.ctx, postgres.DueWakeUp, rules, &place)
			if err != nil {
				t.Fatalf("Due(wakeup) = %v", err)
			}
			for _, d := range due {
				found = append(found, *d.StepID)
			}
			if place == (postgres.SweepPlace{}) {
				if look != 7 {
					t.Errorf("round %d took %d looks, want 7 of at most 15 rows", round, look)
				}
				break
			}
		}
		slices.SortFunc(found, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		if !slices.Equal(found, lost) {
			t.Errorf("round %d: lost wake-ups = %v, want %v", round, found, lost)
		}
	}
}

// A wake-up that got lost makes a step late, never stuck.
func TestLostWakeUps(t *testing.T) {
	t.Parallel()
	rules := postgres.SweepRules{Lost: 5 * time.Second}
	for name, tt := range map[string]struct {
		lose string // what happens to the job $1
		want string // after the step was ready for longer than rules.Lost
	}{
		"job waits its turn":           {"SELECT $1::bigint", "[]"},
		"job deleted":                  {"DELETE FROM river.river_job WHERE id = $1", "[wakeup]"},
		"job just fetched":             {"UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() WHERE id = $1", "[]"},
		"job of a dead worker":         {"UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() - interval '6 s' WHERE id = $1", "[wakeup]"},
		"job completed without claim":  {"UPDATE river.river_job SET state = 'completed', finalized_at = clock_timestamp() WHERE id = $1", "[wakeup]"},
		"job discarded":                {"UPDATE river.river_job SET state = 'discarded', finalized_at = clock_timestamp() WHERE id = $1", "[wakeup]"},
		"job retryable soon":           {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() + interval '1 s' WHERE id = $1", "[]"},
		"job retryable a while ago":    {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() - interval '4 s' WHERE id = $1", "[]"},
		"job retryable for a minute":   {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() - interval '1 minute' WHERE id = $1", "[wakeup]"},
		"job retryable in two minutes": {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() + interval '2 minutes' WHERE id = $1", "[wakeup]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			_, steps := s.create(t, "a:")
			a := steps["a"].ID
			s.exec(t, tt.lose, one[int64](t, s, "SELECT job_id FROM nofx.step WHERE id = $1", a))
			if made := s.sweep(t, rules); made != nil {
				t.Errorf("sweep at once = %v, want nothing", made)
			}
			s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '6 s', due_at = clock_timestamp() - interval '6 s' WHERE id = $1", a)
			seq := s.wakeSeq(t, a)
			if made := fmt.Sprint(s.sweep(t, rules)); made != tt.want {
				t.Errorf("sweep = %s, want %s", made, tt.want)
			}
			if tt.want == "[]" {
				return
			}
			if now := s.wakeSeq(t, a); now != seq+1 || s.jobs(t, a) != 1 {
				t.Errorf("wake_seq = %d with %d jobs, want %d with 1", now, s.jobs(t, a), seq+1)
			}
			if c, err := s.Claim(s.ctx, wakeUp(s.tenant, a, seq), postgres.Worker{ID: "late"}, ttl, noCheckpoint); c != nil || err != nil {
				t.Errorf("Claim(the lost wake-up) = %v, %v, want nothing", c, err)
			}
			s.do(t, a, "succeed")
			s.wantSound(t)
		})
	}
}

// Sweepers need no leader: what eight of them find at once is done once.
func TestSweepersAtOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	rules := postgres.SweepRules{LeaseRules: postgres.LeaseRules{Gap: time.Hour}, Lost: time.Millisecond, Limit: 100}
	late, _ := s.create(t, "x:")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", late.ID)
	_, steps := s.create(t, "a:", "b:", "w:", "m:", "r:")
	s.do(t, steps["w"].ID, "timer")
	s.do(t, steps["r"].ID, "retry")
	s.claim(t, steps["a"].ID)
	s.expire(t, steps["a"].ID)
	s.exec(t, "DELETE FROM river.river_job")
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE state = 'ready'")
	due, err := s.due(s.ctx, rules)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var made []string
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, d := range due {
				event, err := s.Sweep(s.ctx, d, rules, func() error { return nil })
				if err != nil {
					t.Errorf("Sweep(%s) = %v, want nil", d.Kind, err)
				}
				if event != "" {
					mu.Lock()
					made = append(made, event)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	made = append(made, s.sweep(t, rules)...) // what they passed over while another held its run
	slices.Sort(made)
	if want := "[backoff_elapsed elapsed fail lease_expired wakeup wakeup]"; fmt.Sprint(made) != want { // b, m
		t.Errorf("8 sweepers made %v, want %s", made, want)
	}
	s.wantSound(t)
}

// A run that somebody holds, however long, is passed over: what is due behind it
// does not wait.
func TestSweepPassesOverAHeldRun(t *testing.T) {
	t.Parallel()
	s := setup(t)
	held, a := s.create(t, "a:", "b:", "w:")
	late, _ := s.create(t, "a:")
	free, b := s.create(t, "a:")
	s.claim(t, a["a"].ID)
	s.expire(t, a["a"].ID)
	s.do(t, a["b"].ID, "retry")
	s.do(t, a["w"].ID, "timer")
	s.do(t, b["a"].ID, "retry")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", late.ID)
	rules := postgres.SweepRules{LeaseRules: postgres.LeaseRules{Gap: time.Hour}, Lost: time.Minute, Limit: 100}
	due, err := s.due(s.ctx, rules)
	if err != nil || len(due) != 5 {
		t.Fatalf("Due() = %+v, %v, want 5", due, err)
	}
	tx, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx)
	if _, err := tx.Exec(s.ctx, "SELECT FROM nofx.run WHERE id = ANY ($1) FOR NO KEY UPDATE", []uuid.UUID{held.ID, late.ID}); err != nil {
		t.Fatal(err)
	}
	for _, d := range due {
		want := map[bool]string{true: "backoff_elapsed"}[d.RunID == free.ID]
		if made, err := s.Sweep(s.ctx, d, rules, func() error { return nil }); made != want || err != nil {
			t.Errorf("Sweep(%s of run %s) = %q, %v, want %q", d.Kind, d.RunID, made, err, want)
		}
	}
	if err := tx.Rollback(s.ctx); err != nil {
		t.Fatal(err)
	}
	if made := fmt.Sprint(s.sweep(t, rules)); made != "[backoff_elapsed elapsed fail lease_expired]" {
		t.Errorf("sweep afterwards = %s, want all that was passed over", made)
	}
	s.wantSound(t)
}

// A run that is over its deadline fails with all that is left of it.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "m:", "b: a")
	c := s.claim(t, steps["a"].ID)
	s.do(t, steps["m"].ID, "approval")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", r.ID)
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[fail]" {
		t.Errorf("sweep = %s, want [fail]", made)
	}
	s.wantStates(t, r.ID, "failed a:cancelled m:cancelled b:cancelled")
	if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassTimeout {
		t.Errorf("Run().FailureClass = %s, %v, want timeout", d.FailureClass, err)
	}
	if err := s.FinishStep(s.ctx, outcome(c, "succeed")); !errors.Is(err, fault.Fenced) {
		t.Errorf("FinishStep() after the deadline = %v, want fenced", err)
	}
	s.wantSound(t)
}

// Cancelling ends everything at once, twice is a conflict, and an If-Match of
// another version is refused.
func TestCancel(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "m:", "r:", "b: a")
	s.claim(t, steps["a"].ID)
	s.do(t, steps["m"].ID, "approval")
	s.do(t, steps["r"].ID, "retry")
	stale := int64(1)
	_, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough", Version: &stale})
	if e := wantKind(t, "CancelRun(version 1)", err, fault.Conflict, "stale-version"); e.Stale == nil || e.Stale.Version != 2 {
		t.Errorf("CancelRun(version 1): stale = %+v, want that version 2 is current", e.Stale)
	}
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: ""}); !errors.Is(err, fault.Invalid) {
		t.Errorf("CancelRun(without reason) = %v, want invalid", err)
	}
	current := int64(2)
	done, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough", Version: &current})
	if err != nil || done.State != run.Cancelled || done.Reason != "enough" {
		t.Errorf("CancelRun() = %+v, %v, want cancelled", done, err)
	}
	s.wantStates(t, r.ID, "cancelled a:cancelled m:cancelled r:cancelled b:cancelled")
	_, err = s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "again"})
	e := wantKind(t, "CancelRun() again", err, fault.Conflict, "illegal-transition")
	want := &fault.Transition{Machine: "run", From: "cancelled", Event: "cancel", Allowed: []string{"resume", "retry"}}
	if diff := cmp.Diff(want, e.Transition); diff != "" {
		t.Errorf("CancelRun() again (-want +got):\n%s", diff)
	}
	_, err = s.CancelRun(s.ctx, s.tenant, uuid.New(), postgres.Verb{Reason: "x"})
	wantKind(t, "CancelRun(unknown)", err, fault.NotFound, "not-found")
	s.wantSound(t)
}
