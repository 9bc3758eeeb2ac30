package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

func (s *store) decide(id uuid.UUID, event string) (run.Gate, error) {
	return s.DecideGate(s.ctx, s.tenant, id, postgres.Decision{Event: event, Reason: "because"})
}

// waiting returns a run whose step m waits for its gate, with b after it.
func (s *store) waiting(t testing.TB) (run.Run, map[string]run.Step, uuid.UUID) {
	t.Helper()
	r, steps := s.create(t, "m:", "b: m")
	f := s.do(t, steps["m"].ID, "approval")
	s.wantStates(t, r.ID, "waiting m:waiting b:pending")
	return r, steps, f.Gate.ID
}

// What each decision on a waiting step leads to.
func TestDecide(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]struct{ gate, states string }{
		"approve": {"passed", "running m:succeeded b:ready"},
		"waive":   {"waived", "running m:succeeded b:ready"},
		"reject":  {"failed", "failed m:failed b:skipped"},
	} {
		t.Run(event, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps, gate := s.waiting(t)
			if list, _, err := s.Gates(s.ctx, s.tenant, postgres.GateFilter{State: run.Pending, Kind: run.ManualGate, Limit: 10}); err != nil || len(list) != 1 || list[0].ID != gate {
				t.Errorf("Gates(pending) = %v, %v, want %s", list, err, gate)
			}
			stale := int64(7)
			_, err := s.DecideGate(s.ctx, s.tenant, gate, postgres.Decision{Event: event, Reason: "because", Version: &stale})
			wantKind(t, "DecideGate(version 7)", err, fault.Conflict, "stale-version")
			if event != "approve" {
				_, err := s.DecideGate(s.ctx, s.tenant, gate, postgres.Decision{Event: event})
				wantKind(t, "DecideGate without reason", err, fault.Invalid, "reason-required")
			}
			g, err := s.decide(gate, event)
			if err != nil || string(g.State) != want.gate || g.DecidedBy != "tester" || g.Reason != "because" || g.DecidedAt == nil || g.Version != 2 {
				t.Errorf("DecideGate(%s) = %+v, %v, want %s by tester", event, g, err, want.gate)
			}
			s.wantStates(t, r.ID, want.states)
			if event == "reject" {
				if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassGateRejected {
					t.Errorf("Run().FailureClass = %s, %v, want %s", d.FailureClass, err, run.ClassGateRejected)
				}
			} else {
				s.do(t, steps["b"].ID, "succeed")
				s.wantStates(t, r.ID, "succeeded m:succeeded b:succeeded")
			}
			_, err = s.decide(gate, "approve")
			e := wantKind(t, "a second decision", err, fault.Conflict, "illegal-transition")
			if e.Transition == nil || e.Transition.From != want.gate {
				t.Errorf("a second decision: %+v, want a transition from %s", e.Transition, want.gate)
			}
			s.wantSound(t)
		})
	}
}

// Of two decisions, of a decision and the deadline, of a decision and a cancel:
// one wins, whatever the moment, and the other is told. NOFX_TEST_DEADLINES is how many
// decisions race a deadline (200 if unset).
func TestDecisionRaces(t *testing.T) {
	t.Parallel()
	deadlines := 200
	if n, err := strconv.Atoi(os.Getenv("NOFX_TEST_DEADLINES")); err == nil {
		deadlines = n
	}
	rules := postgres.SweepRules{Limit: 10}
	races := map[string]struct {
		rounds int
		other  func(s *store, r run.Run, step, gate uuid.UUID) (won bool, err error)
		ends   map[bool]string // by whether the approval won
	}{
		"expiry": {deadlines, func(s *store, r run.Run, step, gate uuid.UUID) (bool, error) {
			event, err := s.Sweep(s.ctx, postgres.Due{TenantID: s.tenant, RunID: r.ID, StepID: &step, Kind: postgres.DueWait}, rules, func() error { return nil })
			return event == "expire", err
		}, map[bool]string{true: "running m:succeeded b:ready", false: "failed m:failed b:skipped"}},
		"reject": {100, func(s *store, _ run.Run, _, gate uuid.UUID) (bool, error) {
			_, err := s.decide(gate, "reject")
			return err == nil, ignoreConflict(err)
		}, map[bool]string{true: "running m:succeeded b:ready", false: "failed m:failed b:skipped"}},
		"cancel": {100, func(s *store, r run.Run, _, _ uuid.UUID) (bool, error) {
			_, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"})
			return err == nil, err
		}, map[bool]string{true: "cancelled m:succeeded b:cancelled", false: "cancelled m:cancelled b:cancelled"}},
	}
	for name, race := range races {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			approvals := 0
			for i := range race.rounds {
				r, steps, gate := s.waiting(t)
				if name == "expiry" {
					// Due at a moment near both, on one side of it or the other.
					s.exec(t, `WITH d AS (SELECT clock_timestamp() + make_interval(secs => $2) AS at), g AS (UPDATE nofx.gate SET expires_at = d.at FROM d WHERE id = $1 RETURNING step_id, d.at)
						UPDATE nofx.step s SET wait_until = g.at FROM g WHERE s.id = g.step_id`, gate, float64(i%5)/1000)
				}
				var approved, other bool
				var errA, errB error
				var wg sync.WaitGroup
				wg.Go(func() {
					_, errA = s.decide(gate, "approve")
					approved, errA = errA == nil, ignoreConflict(errA)
				})
				wg.Go(func() { other, errB = race.other(s, r, steps["m"].ID, gate) })
				wg.Wait()
				if err := errors.Join(errA, errB); err != nil {
					t.Fatalf("round %d: %v, want conflicts at most", i, err)
				}
				if !approved && !other { // too late for the one, a moment too early for the sweep
					s.sweep(t, rules)
				}
				if approved {
					approvals++
				}
				s.wantStates(t, r.ID, race.ends[approved])
				if n := one[int](t, s, "SELECT count(*) FROM nofx.event WHERE run_id = $1 AND type IN ('gate.passed', 'gate.failed', 'gate.expired')", r.ID); n != 1 {
					t.Errorf("round %d: %d gate events, want 1", i, n)
				}
			}
			t.Logf("approve against %s: %d of %d approved, one winner each", name, approvals, race.rounds)
			s.wantSound(t)
		})
	}
}

func ignoreConflict(err error) error {
	if errors.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// A gate that nobody decided fails its step; what has a deadline in the past
// cannot be approved, even before the sweep came.
func TestGateExpires(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps, gate := s.waiting(t)
	if made := s.sweep(t, postgres.SweepRules{}); made != nil {
		t.Errorf("sweep before the deadline = %v, want nothing", made)
	}
	s.exec(t, "UPDATE nofx.gate SET expires_at = clock_timestamp() WHERE id = $1", gate)
	s.exec(t, "UPDATE nofx.step SET wait_until = clock_timestamp() WHERE id = $1", steps["m"].ID)
	_, err := s.decide(gate, "approve")
	if e := wantKind(t, "DecideGate after the deadline", err, fault.Conflict, "illegal-transition"); e.Transition == nil || e.Transition.From != "expired" {
		t.Errorf("DecideGate after the deadline: %+v, want a transition from expired", e.Transition)
	}
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[expire]" {
		t.Errorf("sweep = %s, want [expire]", made)
	}
	s.wantStates(t, r.ID, "failed m:failed b:skipped")
	if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassExpired {
		t.Errorf("Run().FailureClass = %s, %v, want expired", d.FailureClass, err)
	}
	if _, err := s.decide(gate, "waive"); err != nil {
		t.Errorf("DecideGate(waive an expired gate) = %v, want nil", err)
	}
	s.wantStates(t, r.ID, "running m:ready b:pending")
	s.wantSound(t)
}

// A timer ends by itself, and a step that waits for nothing known never passes.
func TestTimers(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "w:", "b: w")
	s.do(t, steps["w"].ID, "timer")
	s.wantStates(t, r.ID, "waiting w:waiting b:pending")
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[elapsed]" {
		t.Errorf("sweep = %s, want [elapsed]", made)
	}
	s.wantStates(t, r.ID, "running w:succeeded b:ready")

	r, steps = s.create(t, "m:")
	f := outcome(s.claim(t, steps["m"].ID), "approval")
	f.Gate, f.Wait.After = nil, 0
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatal(err)
	}
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[expire]" {
		t.Errorf("sweep of an approval without a gate = %s, want [expire]: it must not pass", made)
	}
	s.wantStates(t, r.ID, "failed m:failed")
	s.wantSound(t)
}

// A failed gate that is waived lets the run go on: the step runs again knowing
// the waiver, and what was skipped or cancelled reopens.
func TestWaiveAfterFailure(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "g:", "h:", "b: g", "c: b h", "m:")
	s.do(t, steps["m"].ID, "approval")
	first := s.do(t, steps["g"].ID, "gate failed")
	s.wantStates(t, r.ID, "failed g:failed h:cancelled b:skipped c:skipped m:cancelled")
	if _, err := s.decide(first.Gate.ID, "approve"); !errors.Is(err, fault.Conflict) {
		t.Errorf("DecideGate(approve a command gate) = %v, want conflict", err)
	}
	if _, err := s.decide(first.Gate.ID, "waive"); err != nil {
		t.Fatalf("DecideGate(waive) = %v, want nil", err)
	}
	s.wantStates(t, r.ID, "running g:ready h:ready b:pending c:pending m:ready")
	c := s.claim(t, steps["g"].ID)
	if want := (postgres.Waiver{InputDigest: "sha256:in", By: "tester", ByName: "tester", Reason: "because"}); c.Waiver == nil || *c.Waiver != want || c.Attempt != 1 {
		t.Errorf("Claim() = waiver %+v, attempt %d, want %+v and 1", c.Waiver, c.Attempt, want)
	}
	// The input was another one: the gate runs and fails again, in a new round.
	again := s.finish(t, c, "gate failed")
	s.wantStates(t, r.ID, "failed g:failed h:cancelled b:skipped c:skipped m:cancelled")
	if _, err := s.decide(again.Gate.ID, "waive"); err != nil {
		t.Fatalf("DecideGate(waive round 2) = %v, want nil", err)
	}
	if g, err := s.Gate(s.ctx, s.tenant, again.Gate.ID); err != nil || g.Round != 2 || g.State != run.Waived {
		t.Errorf("Gate() = round %d %s, %v, want round 2, waived", g.Round, g.State, err)
	}
	for _, name := range []string{"g", "h", "b", "c"} {
		s.do(t, steps[name].ID, "succeed")
	}
	m := s.do(t, steps["m"].ID, "approval")
	if _, err := s.decide(m.Gate.ID, "approve"); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "succeeded g:succeeded h:succeeded b:succeeded c:succeeded m:succeeded")
	s.wantSound(t)
}

// A waiver of an older round holds for the newest one, which judged the same; while a
// newer round waits for a decision, that is the one to decide.
func TestWaiveAnOlderRound(t *testing.T) {
	t.Parallel()
	s := setup(t)
	again := func(id uuid.UUID) {
		t.Helper()
		if _, err := s.RetryRun(s.ctx, s.tenant, id, postgres.Verb{Reason: "again"}); err != nil {
			t.Fatal(err)
		}
	}
	r, steps := s.create(t, "g:", "b: g")
	first := s.do(t, steps["g"].ID, "gate failed")
	again(r.ID)
	s.do(t, steps["g"].ID, "gate failed")
	s.wantStates(t, r.ID, "failed g:failed b:skipped")
	if _, err := s.decide(first.Gate.ID, "waive"); err != nil {
		t.Fatalf("DecideGate(waive the first of two rounds) = %v, want nil", err)
	}
	s.wantStates(t, r.ID, "running g:ready b:pending")
	if c := s.claim(t, steps["g"].ID); c.Waiver == nil {
		t.Error("Claim() has no waiver, want that of the first round")
	}

	r, steps, old := s.waiting(t)
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	again(r.ID)
	s.do(t, steps["m"].ID, "approval")
	_, err := s.decide(old, "waive")
	wantKind(t, "DecideGate(waive the first round while the second is pending)", err, fault.Conflict, "illegal-transition")
	s.wantStates(t, r.ID, "waiting m:waiting b:pending")
	s.wantSound(t)
}

// While another step has failed the waiver only stays on record; and a waiver
// given while siblings still run keeps the run from failing at all.
func TestWaiveOneOfTwo(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "g:", "h:", "b: g")
	g, h := s.claim(t, steps["g"].ID), s.claim(t, steps["h"].ID)
	one, two := s.finish(t, g, "gate failed"), s.finish(t, h, "gate failed")
	if _, err := s.decide(one.Gate.ID, "waive"); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "failed g:failed h:failed b:skipped")
	if _, err := s.decide(two.Gate.ID, "waive"); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running g:ready h:ready b:pending")

	r, steps = s.create(t, "g:", "h:", "b: g")
	g, h = s.claim(t, steps["g"].ID), s.claim(t, steps["h"].ID)
	one = s.finish(t, g, "gate failed")
	s.wantStates(t, r.ID, "running g:failed h:running b:skipped")
	if _, err := s.decide(one.Gate.ID, "waive"); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "running g:ready h:running b:pending")
	s.finish(t, h, "succeed")
	s.do(t, steps["g"].ID, "succeed")
	s.do(t, steps["b"].ID, "succeed")
	s.wantStates(t, r.ID, "succeeded g:succeeded h:succeeded b:succeeded")

	// Nobody's waiver brings a cancelled run back.
	r, steps = s.create(t, "g:", "h:")
	g, _ = s.claim(t, steps["g"].ID), s.claim(t, steps["h"].ID)
	one = s.finish(t, g, "gate failed")
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.decide(one.Gate.ID, "waive"); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, r.ID, "cancelled g:failed h:cancelled")
	s.wantSound(t)
}

// With four-eyes on, the author of a run lets nothing pass in it; others do.
func TestFourEyes(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.exec(t, `UPDATE nofx.tenant SET settings = '{"four_eyes": true}' WHERE tenant_id = $1`, s.tenant)
	_, _, gate := s.waiting(t)
	author := *s
	author.ctx = postgres.WithActor(s.ctx, "author")
	for _, event := range []string{"approve", "waive"} {
		_, err := author.decide(gate, event)
		wantKind(t, "DecideGate("+event+") by the author", err, fault.Forbidden, "four-eyes")
	}
	if _, err := s.decide(gate, "approve"); err != nil {
		t.Errorf("DecideGate(approve) by another = %v, want nil", err)
	}
	_, _, gate = s.waiting(t)
	if _, err := author.decide(gate, "reject"); err != nil {
		t.Errorf("DecideGate(reject) by the author = %v, want nil", err)
	}
	nobody := *s
	nobody.ctx = postgres.WithActor(s.ctx, "")
	_, _, gate = s.waiting(t)
	if _, err := nobody.decide(gate, "approve"); err == nil {
		t.Error("DecideGate(approve) by nobody = nil, want an error")
	}
}

// Of many decisions at once one is taken.
func TestDecideAtOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, _, gate := s.waiting(t)
	var won atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 16 {
		wg.Go(func() {
			<-start
			ctx := postgres.WithActor(s.ctx, fmt.Sprint("p", i))
			_, err := s.DecideGate(ctx, s.tenant, gate, postgres.Decision{Event: []string{"approve", "reject", "waive"}[i%3], Reason: "because"})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, fault.Conflict) {
				t.Errorf("DecideGate() = %v, want nil or conflict", err)
			}
		})
	}
	close(start)
	wg.Wait()
	// A waiver may come after a rejection: that is its point.
	if n := won.Load(); n != 1 && !(n == 2 && one[string](t, s, "SELECT state FROM nofx.gate") == "waived") {
		t.Errorf("16 decisions at once: %d taken, want 1", n)
	}
	if got := one[time.Time](t, s, "SELECT decided_at FROM nofx.gate"); got.IsZero() {
		t.Error("decided_at is not set")
	}
	s.wantSound(t)
}

// A gate that wants several approvals passes with the last of them, whoever
// comes at once; nobody counts twice, and one rejection ends it.
func TestSeveralApprovers(t *testing.T) {
	t.Parallel()
	s := setup(t)
	open := func() (run.Run, uuid.UUID) {
		r, steps := s.create(t, "m:", "b: m")
		f := outcome(s.claim(t, steps["m"].ID), "approval")
		f.Wait.Quorum = 2
		if err := s.FinishStep(s.ctx, f); err != nil {
			t.Fatal(err)
		}
		return r, f.Gate.ID
	}
	as := func(who, event string, gate uuid.UUID) (run.Gate, error) {
		return s.DecideGate(postgres.WithActor(s.ctx, who), s.tenant, gate, postgres.Decision{Event: event, Reason: "because"})
	}
	events := func(r run.Run) string {
		return fmt.Sprint(all[string](t, s, `SELECT type || coalesce(' ' || (data->>'by') || ' ' || (data->>'given') || '/' || (data->>'wanted'), '')
			FROM nofx.event WHERE run_id = $1 AND (type LIKE 'gate.%' OR type LIKE 'approval.%') ORDER BY seq`, r.ID))
	}

	r, gate := open()
	for range 2 { // the second time changes nothing
		g, err := as("ann", "approve", gate)
		if err != nil || g.State != run.Pending || g.Quorum != 2 || len(g.Approvals) != 1 || g.Approvals[0].By != "ann" || g.Version != 1 {
			t.Fatalf("DecideGate(approve) by the first = %+v, %v, want pending with one approval of 2", g, err)
		}
	}
	s.wantStates(t, r.ID, "waiting m:waiting b:pending")
	if g, err := as("bob", "approve", gate); err != nil || g.State != run.Passed || g.DecidedBy != "bob" || len(g.Approvals) != 2 {
		t.Fatalf("DecideGate(approve) by the second = %+v, %v, want passed", g, err)
	}
	s.wantStates(t, r.ID, "running m:succeeded b:ready")
	if got, want := events(r), "[gate.pending approval.decided ann 1/2 approval.decided bob 2/2 gate.passed]"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}

	r, gate = open()
	if _, err := as("ann", "approve", gate); err != nil {
		t.Fatal(err)
	}
	if g, err := as("ann", "reject", gate); err != nil || g.State != run.Failed {
		t.Errorf("DecideGate(reject) after one's own approval = %s, %v, want failed", g.State, err)
	}
	s.wantStates(t, r.ID, "failed m:failed b:skipped")

	for range 50 {
		r, gate := open()
		var wg sync.WaitGroup
		for _, who := range []string{"ann", "bob"} {
			wg.Go(func() {
				if _, err := as(who, "approve", gate); err != nil {
					t.Errorf("DecideGate(approve) by %s, two at once = %v, want nil", who, err)
				}
			})
		}
		wg.Wait()
		s.wantStates(t, r.ID, "running m:succeeded b:ready")
		if n := one[int](t, s, "SELECT count(*) FROM nofx.event WHERE run_id = $1 AND type = 'gate.passed'", r.ID); n != 1 {
			t.Errorf("two approvers at once: %d gate.passed, want 1", n)
		}
	}
	s.wantSound(t)
}
