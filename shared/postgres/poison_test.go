package postgres_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// hasten makes a step due at once that was delayed, and wakes it.
func (s *store) hasten(t testing.TB, step uuid.UUID) {
	t.Helper()
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE id = $1", step)
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[wakeup]" || s.jobs(t, step) != 1 {
		t.Fatalf("sweep after the delay = %s and %d jobs, want [wakeup] and 1", made, s.jobs(t, step))
	}
}

// The third worker that a step takes with it while it runs alone there is the last, and
// so is the tenth in whatever company. From the second loss on it is kept from others
// for a while.
func TestPoison(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		company bool // another step runs in the worker
		begins  bool // the tool begins, which is noted from the second attempt on
		losses  int  // until it is poisoned
	}{
		"alone":               {false, true, 3},
		"beside another":      {true, true, 10},
		"before it had begun": {false, false, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", "b: a")
			a := steps["a"].ID
			for loss := 1; loss <= tt.losses; loss++ {
				lost := []uuid.UUID{a}
				c := s.claim(t, a)
				if tt.company {
					_, other := s.create(t, "o:")
					s.claim(t, other["o"].ID)
					lost = append(lost, other["o"].ID)
				}
				if tt.begins {
					if err := s.BeginTool(s.ctx, c); err != nil {
						t.Fatalf("BeginTool() = %v, want nil", err)
					}
				}
				s.expire(t, lost...)
				made := s.sweep(t, postgres.SweepRules{})
				if got, want := slices.Contains(made, "poison"), loss == tt.losses; got != want || len(made) != len(lost) {
					t.Fatalf("sweep after loss %d = %v, want poison: %v", loss, made, want)
				}
				for _, other := range lost[1:] {
					s.do(t, other, "succeed")
				}
				if loss == tt.losses {
					break
				}
				delay := one[float64](t, s, "SELECT extract(epoch FROM ready_at - clock_timestamp())::float8 FROM nofx.step WHERE id = $1", a)
				if jobs := s.jobs(t, a); loss == 1 && (delay > 0 || jobs != 1) || loss > 1 && (delay > 31 || jobs != 0) {
					t.Errorf("after loss %d: due in %.1f s with %d jobs, want at once with one, or 10–30 s with none", loss, delay, jobs)
				}
				if loss > 1 {
					s.hasten(t, a)
				}
			}
			s.wantStates(t, r.ID, "failed a:failed b:skipped")
			if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassPoisoned {
				t.Errorf("Run().FailureClass = %s, %v, want poisoned", d.FailureClass, err)
			}
			s.wantSound(t)
		})
	}
}

// Of the steps that a worker takes with it none counts, in whatever order and by
// however many sweepers they are taken away.
func TestLossesInCompany(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		owners []string // of the running steps
		kills  []int    // of each
	}{
		"one worker of several steps": {[]string{"w1", "w1", "w1", "w1", "w1", "w1"}, []int{0, 0, 0, 0, 0, 0}},
		"the only step":               {[]string{"w1"}, []int{1}},
		"two workers":                 {[]string{"w1", "w1", "w2"}, []int{0, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			var ids []uuid.UUID
			for _, owner := range tt.owners {
				_, steps := s.create(t, "a:")
				c, err := s.Claim(s.ctx, wakeUp(s.tenant, steps["a"].ID, 1), postgres.Worker{ID: owner}, ttl, noCheckpoint)
				if err != nil || c == nil {
					t.Fatalf("Claim() = %v, %v", c, err)
				}
				ids = append(ids, c.StepID)
			}
			s.expire(t, ids...)
			var sweepers sync.WaitGroup
			for range 4 {
				sweepers.Go(func() { s.sweep(t, postgres.SweepRules{}) })
			}
			sweepers.Wait()
			s.sweep(t, postgres.SweepRules{})
			if got := all[int](t, s, "SELECT kills FROM nofx.step WHERE id = ANY ($1) AND lost_leases = 1 ORDER BY id", ids); !slices.Equal(got, tt.kills) {
				t.Errorf("losses that count = %v, want %v", got, tt.kills)
			}
		})
	}
}

// A step that two workers died under runs alone: a worker that runs anything else does
// not take it, nor one that takes others in the same transaction or another one at the
// same time. After a minute in vain it runs beside others, but not beside another one.
func TestSuspectsRunAlone(t *testing.T) {
	t.Parallel()
	s := setup(t)
	w1, w2 := postgres.Worker{ID: "w1", PID: 1}, postgres.Worker{ID: "w2", PID: 2}
	plain := func() uuid.UUID {
		_, steps := s.create(t, "a:")
		return steps["a"].ID
	}
	suspect := func() uuid.UUID {
		id := plain()
		for range 2 {
			s.claim(t, id)
			s.expire(t, id)
			s.sweep(t, postgres.SweepRules{})
		}
		s.hasten(t, id)
		return id
	}
	wake := func(steps ...uuid.UUID) (list []postgres.Wake) {
		for _, id := range steps {
			list = append(list, postgres.Wake{Job: wakeUp(s.tenant, id, s.wakeSeq(t, id)), Span: trace.SpanContextFromContext(s.ctx), Pre: noCheckpoint})
		}
		return list
	}
	taken := func(w postgres.Worker, steps ...uuid.UUID) (ids []uuid.UUID) {
		claims, err := s.ClaimSteps(s.ctx, wake(steps...), w, ttl)
		if err != nil {
			t.Fatalf("ClaimSteps(%v) = %v", steps, err)
		}
		for _, c := range claims {
			if c.Claim != nil {
				ids = append(ids, c.Claim.StepID)
			}
		}
		return ids
	}
	want := func(what string, got []uuid.UUID, want ...uuid.UUID) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Fatalf("%s: claimed %v, want %v", what, got, want)
		}
	}
	a, b, c := suspect(), suspect(), plain()
	want("two suspects and another in one transaction", taken(w1, a, c, b), c)
	delay := one[float64](t, s, "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM nofx.step WHERE id = $1 AND job_id IS NULL AND ready_at = due_at", b)
	if delay < 0.5 || delay > 4 {
		t.Errorf("the suspect is due in %.1f s, want 2–4", delay)
	}
	s.hasten(t, a)
	want("a suspect, by a worker that runs something", taken(w1, a))
	s.hasten(t, a)
	want("a suspect, by one that runs nothing", taken(w2, a), a)
	waited := func(id uuid.UUID) {
		s.hasten(t, id)
		s.exec(t, "UPDATE nofx.attempt SET ended_at = ended_at - interval '2 minutes' WHERE step_id = $1", id)
	}
	waited(b)
	want("one that has waited, beside a suspect", taken(w2, b))
	waited(b)
	want("one that has waited, beside another step", taken(w1, b), b)

	// Two transactions of a worker at once.
	idle := postgres.Worker{ID: "w3", PID: 3}
	var both sync.WaitGroup
	var n atomic.Int64
	for _, list := range [][]postgres.Wake{wake(suspect()), wake(suspect())} {
		both.Go(func() {
			claims, err := s.ClaimSteps(s.ctx, list, idle, ttl)
			if err != nil {
				t.Errorf("ClaimSteps() = %v", err)
			} else if claims[0].Claim != nil {
				n.Add(1)
			}
		})
	}
	both.Wait()
	if n := n.Load(); n != 1 {
		t.Errorf("suspects claimed by two transactions at once = %d, want 1", n)
	}
	s.wantSound(t)
}
