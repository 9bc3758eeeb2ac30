package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// inState returns a run, and its step a, brought to a state by what leads there.
func (s *store) inState(t testing.TB, state string) (run.Run, map[string]run.Step) {
	t.Helper()
	must := func(_ run.Run, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("to %s: %v", state, err)
		}
	}
	var r run.Run
	var steps map[string]run.Step
	switch state {
	case "queued", "paused from queued":
		r, steps = s.create(t, "a:", "b: a")
	case "running", "paused from running":
		r, steps = s.create(t, "a:", "b: a")
		s.claim(t, steps["a"].ID)
	case "waiting", "paused from waiting":
		r, steps = s.create(t, "m:", "b: m")
		s.do(t, steps["m"].ID, "approval")
	case "succeeded":
		r, steps = s.create(t, "a:")
		s.do(t, steps["a"].ID, "succeed")
	case "failed":
		r, steps = s.create(t, "a:", "b: a")
		s.do(t, steps["a"].ID, "fail")
	case "cancelled":
		r, steps = s.create(t, "a:", "b: a")
		s.claim(t, steps["a"].ID)
		must(s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}))
	}
	if strings.HasPrefix(state, "paused") {
		must(s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{}))
	}
	return r, steps
}

// What each verb does to a run in each state: the states after it and the events
// that it wrote, or the refusal.
func TestVerbs(t *testing.T) {
	t.Parallel()
	verbs := map[string]func(*store, uuid.UUID, postgres.Verb) (run.Run, error){
		"pause": func(s *store, id uuid.UUID, v postgres.Verb) (run.Run, error) {
			return s.PauseRun(s.ctx, s.tenant, id, v)
		},
		"resume": func(s *store, id uuid.UUID, v postgres.Verb) (run.Run, error) {
			return s.ResumeRun(s.ctx, s.tenant, id, v)
		},
		"retry": func(s *store, id uuid.UUID, v postgres.Verb) (run.Run, error) {
			return s.RetryRun(s.ctx, s.tenant, id, v)
		},
		"cancel": func(s *store, id uuid.UUID, v postgres.Verb) (run.Run, error) {
			return s.CancelRun(s.ctx, s.tenant, id, v)
		},
	}
	const refused = "refused"
	want := map[string]map[string]string{
		"pause": {
			"queued":              "paused a:ready b:pending | run.paused(pause)",
			"running":             "paused a:running b:pending | run.paused(pause)",
			"waiting":             "paused m:waiting b:pending | run.paused(pause)",
			"paused from queued":  refused,
			"paused from running": refused,
			"paused from waiting": refused,
			"succeeded":           refused,
			"failed":              refused,
			"cancelled":           refused,
		},
		"resume": {
			"queued":              refused,
			"running":             refused,
			"waiting":             refused,
			"paused from queued":  "queued a:ready b:pending | run.queued(resume_queued)",
			"paused from running": "running a:running b:pending | run.running(resume)",
			"paused from waiting": "waiting m:waiting b:pending | run.waiting(resume_waiting)",
			"succeeded":           refused,
			"failed":              "running a:ready b:pending | run.running(resume) step.ready(retry) step.pending(reopen)",
			"cancelled":           "running a:ready b:pending | run.running(resume) step.pending(reopen) step.pending(reopen) step.ready(deps_met)",
		},
		"retry": {
			"queued":              refused,
			"running":             refused,
			"waiting":             refused,
			"paused from queued":  refused,
			"paused from running": refused,
			"paused from waiting": refused,
			"succeeded":           refused,
			"failed":              "running a:ready b:pending | run.running(retry) step.ready(retry) step.pending(reopen)",
			"cancelled":           "running a:ready b:pending | run.running(retry) step.pending(reopen) step.pending(reopen) step.ready(deps_met)",
		},
		"cancel": {
			"queued":              "cancelled a:cancelled b:cancelled | step.cancelled(cancel) step.cancelled(cancel) run.cancelled(cancel)",
			"running":             "cancelled a:cancelled b:cancelled | step.cancelled(cancel) step.cancelled(cancel) run.cancelled(cancel)",
			"waiting":             "cancelled m:cancelled b:cancelled | gate.expired(withdraw) step.cancelled(cancel) step.cancelled(cancel) run.cancelled(cancel)",
			"paused from queued":  "cancelled a:cancelled b:cancelled | step.cancelled(cancel) step.cancelled(cancel) run.cancelled(cancel)",
			"paused from running": "cancelled a:cancelled b:cancelled | step.cancelled(cancel) step.cancelled(cancel) run.cancelled(cancel)",
			"paused from waiting": "cancelled m:cancelled b:cancelled | gate.expired(withdraw) step.cancelled(cancel) step.cancelled(cancel) run.cancelled(cancel)",
			"succeeded":           refused,
			"failed":              refused,
			"cancelled":           refused,
		},
	}
	for verb, states := range want {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			for state, want := range states {
				r, _ := s.inState(t, state)
				before := s.states(t, r.ID)
				seq := one[int64](t, s, "SELECT event_seq FROM nofx.run WHERE id = $1", r.ID)
				stale := int64(77)
				_, err := verbs[verb](s, r.ID, postgres.Verb{Reason: "because", Version: &stale})
				wantKind(t, fmt.Sprintf("%s of a run %s at a stale version", verb, state), err, fault.Conflict, "stale-version")
				after, err := verbs[verb](s, r.ID, postgres.Verb{Reason: "because"})
				if want == refused {
					e := wantKind(t, fmt.Sprintf("%s of a run %s", verb, state), err, fault.Conflict, "illegal-transition")
					from, _, _ := strings.Cut(state, " ")
					if got := e.Transition; got == nil || got.Machine != "run" || got.From != from || got.Event != verb || got.Allowed == nil {
						t.Errorf("%s of a run %s: %+v, want a transition of a run from %s by %s, and what is allowed", verb, state, got, from, verb)
					}
					s.wantStates(t, r.ID, before)
					continue
				}
				if err != nil {
					t.Errorf("%s of a run %s = %v, want %s", verb, state, err, want)
					continue
				}
				events := all[string](t, s, "SELECT type || '(' || event || ')' FROM nofx.event WHERE run_id = $1 AND seq > $2 ORDER BY seq", r.ID, seq)
				got := s.states(t, r.ID) + " | " + strings.Join(events, " ")
				if got != want {
					t.Errorf("%s of a run %s:\n got %s\nwant %s", verb, state, got, want)
				}
				if wantState, _, _ := strings.Cut(want, " "); string(after.State) != wantState || after.Reason != "because" {
					t.Errorf("%s of a run %s answers %s, %q, want %s, because", verb, state, after.State, after.Reason, wantState)
				}
			}
			s.wantSound(t)
		})
	}
}

// A paused run hands out nothing, takes what its running steps come to, and goes
// on where it stands when it is resumed, although its wake-ups were spent.
func TestPause(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b:", "c: a", "w:")
	a := s.claim(t, steps["a"].ID)
	s.do(t, steps["w"].ID, "timer")
	if _, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	stale := wakeUp(s.tenant, steps["b"].ID, s.wakeSeq(t, steps["b"].ID))
	if c, err := s.Claim(s.ctx, stale, postgres.Worker{ID: "w1", PID: 1}, ttl, noCheckpoint); c != nil || err != nil {
		t.Fatalf("Claim() in a paused run = %v, %v, want nothing", c, err)
	}
	s.finish(t, a, "succeed")
	if made := s.sweep(t, postgres.SweepRules{}); !slices.Equal(made, []string{"elapsed"}) {
		t.Errorf("sweep of a paused run = %v, want its timer alone: no wake-ups", made)
	}
	s.wantStates(t, r.ID, "paused a:succeeded b:ready c:ready w:succeeded")
	if n := one[int](t, s, "SELECT count(*) FROM nofx.step WHERE run_id = $1 AND name = 'c' AND job_id IS NOT NULL", r.ID); n != 0 {
		t.Error("a step readied in a paused run has a job, want none before it is resumed")
	}
	if _, err := s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:succeeded b:ready c:ready w:succeeded")
	if c, err := s.Claim(s.ctx, stale, postgres.Worker{ID: "w1", PID: 1}, ttl, noCheckpoint); c != nil || err != nil {
		t.Errorf("Claim() by a wake-up of before the pause = %v, %v, want nothing", c, err)
	}
	fresh := one[int](t, s, `SELECT count(*) FROM nofx.step s JOIN river.river_job j ON j.id = s.job_id AND j.state = 'available'
		AND (j.args->>'wake_seq')::bigint = s.wake_seq WHERE s.run_id = $1 AND s.state = 'ready'`, r.ID)
	if fresh != 2 {
		t.Errorf("ready steps with a job of their own = %d, want 2", fresh)
	}
	s.do(t, steps["b"].ID, "succeed")
	s.do(t, steps["c"].ID, "succeed")
	s.wantStates(t, r.ID, "succeeded a:succeeded b:succeeded c:succeeded w:succeeded")

	// With siblings that run: the last of them ends the run, paused or not.
	r, steps = s.create(t, "a:", "b:", "c: b")
	a, b := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID)
	if _, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	s.finish(t, a, "fail")
	s.wantStates(t, r.ID, "paused a:failed b:running c:skipped")
	if _, err := s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:failed b:running c:skipped")
	s.finish(t, b, "succeed")
	s.wantStates(t, r.ID, "failed a:failed b:succeeded c:skipped")
	s.wantSound(t)
}

// A step that is retried takes along what fell with it, and nothing that waits
// for another failure.
func TestRetryStep(t *testing.T) {
	t.Parallel()
	s := setup(t)
	verbFor := func(cascade bool) func(id uuid.UUID) error {
		return func(id uuid.UUID) error {
			_, _, err := s.RetryStep(s.ctx, s.tenant, id, cascade, "again")
			return err
		}
	}
	alone, cascade := verbFor(false), verbFor(true)

	r, steps := s.create(t, "a:", "b: a", "c: b", "d:", "e:", "f: d e")
	e := s.claim(t, steps["e"].ID)
	s.do(t, steps["a"].ID, "fail")
	s.wantStates(t, r.ID, "running a:failed b:skipped c:skipped d:cancelled e:running f:skipped")
	for name, want := range map[string]string{"b": "skipped", "d": "cancelled", "e": "running"} {
		err := cascade(steps[name].ID)
		f := wantKind(t, "RetryStep("+name+")", err, fault.Conflict, "illegal-transition")
		if got := f.Transition; got == nil || got.From != want || got.Event != "retry" || slices.Contains(got.Allowed, "retry") {
			t.Errorf("RetryStep(%s): %+v, want from %s, event retry, and other events", name, got, want)
		}
	}
	// While siblings still run the run goes on.
	if err := cascade(steps["a"].ID); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:ready b:pending c:pending d:ready e:running f:pending")
	s.finish(t, e, "fail")
	s.wantStates(t, r.ID, "failed a:cancelled b:skipped c:skipped d:cancelled e:failed f:skipped")
	s.wantSound(t)

	// Two have failed: what hangs on the other one stays, and the run fails by it.
	r, steps = s.create(t, "a:", "b:", "x: a", "y: a b", "z: y")
	a, b := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID)
	s.finish(t, a, "fail")
	s.finish(t, b, "fail")
	if err := cascade(steps["a"].ID); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:ready b:failed x:pending y:skipped z:skipped")
	s.do(t, steps["a"].ID, "succeed")
	s.wantStates(t, r.ID, "running a:succeeded b:failed x:ready y:skipped z:skipped")
	s.do(t, steps["x"].ID, "succeed")
	s.wantStates(t, r.ID, "failed a:succeeded b:failed x:succeeded y:skipped z:skipped")
	if err := cascade(steps["b"].ID); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:succeeded b:ready x:succeeded y:pending z:pending")
	for _, name := range []string{"b", "y", "z"} {
		s.do(t, steps[name].ID, "succeed")
	}
	s.wantStates(t, r.ID, "succeeded a:succeeded b:succeeded x:succeeded y:succeeded z:succeeded")

	// Alone it leaves the others out, and a run that left steps out has not succeeded.
	r, steps = s.create(t, "a:", "b: a")
	s.do(t, steps["a"].ID, "fail")
	if err := alone(steps["a"].ID); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:ready b:skipped")
	s.do(t, steps["a"].ID, "succeed")
	s.wantStates(t, r.ID, "failed a:succeeded b:skipped")
	if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.Reason != "step b: skipped, and was not retried" || d.FailureClass != run.ClassCancelled {
		t.Errorf("Run() = %s %q, %v, want cancelled, and which step was left out", d.FailureClass, d.Reason, err)
	}
	if _, err := s.RetryRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "the rest"}); err != nil {
		t.Fatal(err)
	}
	s.do(t, steps["b"].ID, "succeed")
	s.wantStates(t, r.ID, "succeeded a:succeeded b:succeeded")

	// In a cancelled run it takes along what is below it; what somebody cancelled stays.
	r, steps = s.create(t, "a:", "b: a", "c:", "d:")
	s.claim(t, steps["c"].ID)
	s.claim(t, steps["d"].ID)
	s.do(t, steps["a"].ID, "fail")
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	if err := cascade(steps["a"].ID); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running a:ready b:pending c:cancelled d:cancelled")
	s.do(t, steps["a"].ID, "succeed")
	s.do(t, steps["b"].ID, "succeed")
	s.wantStates(t, r.ID, "failed a:succeeded b:succeeded c:cancelled d:cancelled")
	s.wantSound(t)
}

// A run that comes back has all its attempts and all its time.
func TestRetryGrantsAnew(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b:")
	s.do(t, steps["a"].ID, "retry")
	s.sweep(t, postgres.SweepRules{})
	s.claim(t, steps["a"].ID)
	s.claim(t, steps["b"].ID)
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", r.ID)
	if made := s.sweep(t, postgres.SweepRules{}); !slices.Equal(made, []string{"fail"}) {
		t.Fatalf("sweep at the deadline = %v, want fail", made)
	}
	s.wantStates(t, r.ID, "failed a:cancelled b:cancelled")
	back, err := s.RetryRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "once more"})
	if err != nil || left(back) < run.RunDeadline-time.Minute || back.FinishedAt != nil || back.FailureClass != "" {
		t.Errorf("RetryRun() = deadline %v, finished %v, %q, %v, want a new deadline and no end", back.Deadline, back.FinishedAt, back.FailureClass, err)
	}
	if made := s.sweep(t, postgres.SweepRules{}); made != nil {
		t.Errorf("sweep after the retry = %v, want nothing", made)
	}
	if c := s.claim(t, steps["a"].ID); c.Attempt != 1 {
		t.Errorf("Claim() after the retry = attempt %d, want 1", c.Attempt)
	}
	s.wantSound(t)
}

// left returns how long r has until its deadline.
func left(r run.Run) time.Duration {
	if r.Deadline == nil {
		return 0
	}
	return time.Until(*r.Deadline)
}

// A run has the time that its plan gives it, and that again when it comes back.
func TestDeadlineOfThePlan(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const given = 90 * 24 * time.Hour
	p := plan(t, "a:")
	p.DeadlineS = new(int(given.Seconds()))
	wantLeft := func(what string, r run.Run, err error) {
		t.Helper()
		if left := left(r); err != nil || left > given || left < given-time.Hour {
			t.Errorf("%s = %v left, %v, want about %v", what, left, err, given)
		}
	}
	r, steps, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "author"})
	wantLeft("CreateRun()", r, err)
	for what, again := range map[string]func() (run.Run, error){
		"RetryRun()":  func() (run.Run, error) { return s.RetryRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "again"}) },
		"ResumeRun()": func() (run.Run, error) { return s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "again"}) },
		"RetryStep()": func() (run.Run, error) {
			_, r, err := s.RetryStep(s.ctx, s.tenant, steps[0].ID, true, "again")
			return r, err
		},
	} {
		s.do(t, steps[0].ID, "fail")
		s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", r.ID)
		back, err := again()
		wantLeft(what, back, err)
	}
	s.wantSound(t)
}

// While a run is paused its deadline stands still: it is never due, and what was left
// is left when the run goes on.
func TestPausedRunsKeepTheirTime(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for _, state := range []string{"queued", "running", "waiting"} {
		r, _ := s.inState(t, state)
		s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() + interval '1 hour' WHERE id = $1", r.ID)
		paused, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{})
		if err != nil || paused.Deadline != nil {
			t.Errorf("PauseRun(%s) = deadline %v, %v, want none while it is paused", state, paused.Deadline, err)
		}
		// As if it had been paused for ten days.
		s.exec(t, "UPDATE nofx.run SET paused_at = paused_at - interval '10 days', stopped_deadline = stopped_deadline - interval '10 days' WHERE id = $1", r.ID)
		if made := s.sweep(t, postgres.SweepRules{}); made != nil {
			t.Errorf("sweep of a paused run = %v, want nothing", made)
		}
		if event, err := s.Sweep(s.ctx, postgres.Due{TenantID: s.tenant, RunID: r.ID, Kind: postgres.DueDeadline}, postgres.SweepRules{}, nil); event != "" || err != nil {
			t.Errorf("Sweep(paused run) = %q, %v, want nothing", event, err)
		}
		back, err := s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{})
		if left := left(back); err != nil || left < 50*time.Minute || left > time.Hour {
			t.Errorf("ResumeRun(%s) = %v left, %v, want what was left", state, left, err)
		}
		s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", r.ID)
		if made := s.sweep(t, postgres.SweepRules{}); !slices.Equal(made, []string{"fail"}) {
			t.Errorf("sweep at the deadline after the pause = %v, want fail", made)
		}
	}
	// One that ends while it is paused has a deadline like any other.
	r, _ := s.inState(t, "paused from running")
	ended, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"})
	if left := left(ended); err != nil || left < time.Hour || left > run.RunDeadline {
		t.Errorf("CancelRun(paused) = %v left, %v, want what was left", left, err)
	}
	r, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	if _, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	if err := s.FinishStep(s.ctx, outcome(c, "succeed")); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "succeeded a:succeeded")
	if n := one[int](t, s, "SELECT count(*) FROM nofx.run WHERE deadline = 'infinity'"); n != 0 {
		t.Errorf("%d runs have no deadline, want none", n)
	}
	s.wantSound(t)
}

// Many at once who retry or resume a failed run: one does, and a decision is as
// late as it is.
func TestVerbsAtOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for range 20 {
		r, steps := s.inState(t, "failed")
		var won atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 9 {
			wg.Go(func() {
				<-start
				var err error
				switch i % 3 {
				case 0:
					_, err = s.RetryRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "r"})
				case 1:
					_, err = s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "r"})
				case 2:
					_, _, err = s.RetryStep(s.ctx, s.tenant, steps["a"].ID, true, "r")
				}
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, fault.Conflict) {
					t.Errorf("verb = %v, want nil or conflict", err)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := won.Load(); n != 1 {
			t.Errorf("9 verbs at once: %d taken, want 1", n)
		}
		s.wantStates(t, r.ID, "running a:ready b:pending")
	}
	s.wantSound(t)
}

// Steps that were given up are listed, newest first, until somebody requeues them.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var ids []uuid.UUID
	for i := range 5 {
		_, steps := s.create(t, "a:", "b: a")
		f := outcome(s.claim(t, steps["a"].ID), "fail")
		f.FailureClass = []run.FailureClass{run.ClassExhausted, run.ClassTool}[i%2]
		if err := s.FinishStep(s.ctx, f); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			ids = append([]uuid.UUID{steps["a"].ID}, ids...)
		}
	}
	list := func(f postgres.DeadLetterFilter) (got []uuid.UUID) {
		t.Helper()
		if f.Limit == 0 {
			f.Limit = 10
		}
		letters, err := s.DeadLetters(s.ctx, s.tenant, f)
		if err != nil {
			t.Fatalf("DeadLetters(%+v) = %v", f, err)
		}
		for _, l := range letters {
			if l.Run.ID != l.Step.RunID || l.Run.State != run.Failed {
				t.Errorf("DeadLetters(): step of run %s with run %s, %s", l.Step.RunID, l.Run.ID, l.Run.State)
			}
			got = append(got, l.Step.ID)
		}
		return got
	}
	for what, c := range map[string]struct {
		filter postgres.DeadLetterFilter
		want   []uuid.UUID
	}{
		"all":         {postgres.DeadLetterFilter{}, ids},
		"a page":      {postgres.DeadLetterFilter{Limit: 2}, ids[:2]},
		"the next":    {postgres.DeadLetterFilter{Before: &ids[1]}, ids[2:]},
		"by tool":     {postgres.DeadLetterFilter{Tool: "bash"}, ids},
		"other tool":  {postgres.DeadLetterFilter{Tool: "http"}, nil},
		"by class":    {postgres.DeadLetterFilter{Class: run.ClassExhausted}, ids},
		"other class": {postgres.DeadLetterFilter{Class: run.ClassPoisoned}, nil},
		"by project":  {postgres.DeadLetterFilter{Project: "default"}, ids},
		"no project":  {postgres.DeadLetterFilter{Project: "other"}, nil},
	} {
		if diff := cmp.Diff(c.want, list(c.filter)); diff != "" {
			t.Errorf("DeadLetters, %s (-want +got):\n%s", what, diff)
		}
	}
	if _, _, err := s.RetryStep(s.ctx, s.tenant, ids[1], true, "requeued"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uuid.UUID{ids[0], ids[2]}, list(postgres.DeadLetterFilter{})); diff != "" {
		t.Errorf("DeadLetters after a requeue (-want +got):\n%s", diff)
	}
	s.wantSound(t)
}
