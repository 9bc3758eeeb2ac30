package postgres_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
)

// await claims a step and has it wait for a signal.
func (s *store) await(t testing.TB, step uuid.UUID, key string) {
	t.Helper()
	if err := s.awaitNow(s.claim(t, step), key); err != nil {
		t.Fatal(err)
	}
}

func (s *store) awaitNow(c *postgres.Claim, key string) error {
	return s.FinishStep(s.ctx, postgres.Finish{Claim: c, Outcome: "wait", Reason: "waits for signal " + key,
		Wait: &postgres.NewWait{Kind: "signal", After: time.Hour, Key: key}})
}

func (s *store) signal(t testing.TB, key, payload string) (taken bool) {
	t.Helper()
	_, taken, err := s.SendSignal(s.ctx, s.tenant, key, json.RawMessage(payload))
	if err != nil {
		t.Fatalf("SendSignal(%s) = %v, want nil", key, err)
	}
	return taken
}

// A signal is found whether it comes before the wait or after it, wakes one step
// only, and wakes it once.
func TestSignal(t *testing.T) {
	t.Parallel()
	s := setup(t)
	plan := []string{"s:", "b: s"}

	after, steps := s.create(t, plan...)
	s.await(t, steps["s"].ID, "deploy/1")
	s.wantStates(t, after.ID, "waiting s:waiting b:pending")
	if got, _, err := s.Step(s.ctx, s.tenant, steps["s"].ID); err != nil || got.SignalKey != "deploy/1" || got.Queue != "step" {
		t.Errorf("Step() = signal %q, queue %q, %v; want deploy/1, step", got.SignalKey, got.Queue, err)
	}
	if s.signal(t, "deploy/2", "1") {
		t.Error("SendSignal(another key) was taken, want it kept")
	}
	if !s.signal(t, "deploy/1", `{"by":"ci"}`) {
		t.Error("SendSignal(deploy/1) was kept, want it taken by the step that waits")
	}
	s.wantStates(t, after.ID, "running s:ready b:pending")
	if got, _, err := s.Step(s.ctx, s.tenant, steps["s"].ID); err != nil || got.SignalKey != "" {
		t.Errorf("Step() of one that waits no more = signal %q, %v; want none", got.SignalKey, err)
	}
	c := s.claim(t, steps["s"].ID)
	if string(c.Signal) != `{"by": "ci"}` || c.Attempt != 1 {
		t.Errorf("Claim() = signal %s, attempt %d, want the payload and the attempt that waited", c.Signal, c.Attempt)
	}
	// The payload is the step's, however often it is tried.
	s.expire(t, steps["s"].ID)
	s.sweep(t, postgres.SweepRules{})
	if c = s.claim(t, steps["s"].ID); string(c.Signal) != `{"by": "ci"}` {
		t.Errorf("Claim().Signal after a lost lease = %s, want the payload", c.Signal)
	}
	s.finish(t, c, "succeed")

	before, steps := s.create(t, plan...)
	c = s.claim(t, steps["s"].ID)
	if c.Signal != nil {
		t.Errorf("Claim().Signal before any = %s, want none", c.Signal)
	}
	if err := s.awaitNow(c, "deploy/2"); err != nil {
		t.Fatal(err)
	}
	s.wantStates(t, before.ID, "running s:ready b:pending")
	if n := one[int](t, s, "SELECT count(*) FROM nofx.step s JOIN river.river_job j ON j.id = s.job_id WHERE s.id = $1", steps["s"].ID); n != 1 {
		t.Errorf("jobs of a step whose signal had come = %d, want 1", n)
	}
	if c = s.claim(t, steps["s"].ID); string(c.Signal) != "1" {
		t.Errorf("Claim().Signal = %s, want that of before", c.Signal)
	}

	// Several wait: the one that waited longest; several come: the oldest.
	r1, steps1 := s.create(t, plan...)
	r2, steps2 := s.create(t, plan...)
	s.await(t, steps1["s"].ID, "k")
	s.await(t, steps2["s"].ID, "k")
	s.signal(t, "k", "1")
	s.wantStates(t, r1.ID, "running s:ready b:pending")
	s.wantStates(t, r2.ID, "waiting s:waiting b:pending")
	// A paused run takes its signal, and hands it out when it goes on.
	if _, err := s.PauseRun(s.ctx, s.tenant, r2.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	s.signal(t, "k", "2")
	s.wantStates(t, r2.ID, "paused s:ready b:pending")
	if _, err := s.ResumeRun(s.ctx, s.tenant, r2.ID, postgres.Verb{}); err != nil {
		t.Fatal(err)
	}
	if c = s.claim(t, steps2["s"].ID); string(c.Signal) != "2" {
		t.Errorf("Claim().Signal = %s, want the second", c.Signal)
	}

	// Nobody sends: it expires, and what comes later waits for whoever waits next.
	r3, steps3 := s.create(t, plan...)
	s.await(t, steps3["s"].ID, "late")
	s.exec(t, "UPDATE nofx.step SET wait_until = clock_timestamp() WHERE id = $1", steps3["s"].ID)
	if s.signal(t, "late", "3") {
		t.Error("SendSignal() was taken by a step whose time is up, want it kept")
	}
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[expire]" {
		t.Errorf("sweep = %s, want [expire]", made)
	}
	s.wantStates(t, r3.ID, "failed s:failed b:skipped")
	s.wantSound(t)
}

// At the same instant, a thousand times: no signal and no wait is lost.
func TestSignalMeetsWait(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const lanes, rounds = 8, 40
	taken := make([]int, lanes)
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			for i := range rounds {
				key := fmt.Sprint("k", (lane+i)%3) // shared with others: the signals of all are for all
				r, steps := s.create(t, "s:")
				c := s.claim(t, steps["s"].ID)
				var both sync.WaitGroup
				both.Go(func() {
					if err := s.awaitNow(c, key); err != nil {
						t.Errorf("FinishStep(wait) of run %s = %v, want nil", r.ID, err)
					}
				})
				both.Go(func() {
					if s.signal(t, key, fmt.Sprint(i)) {
						taken[lane]++
					}
				})
				both.Wait()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range taken {
		total += n
	}
	t.Logf("%d signals: %d found their step waiting, the others were found by it", lanes*rounds, total)
	if n := one[int](t, s, "SELECT count(*) FROM nofx.inbox WHERE step_id IS NULL"); n != 0 {
		t.Errorf("signals that nobody took = %d, want 0", n)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.step WHERE state <> 'ready'"); n != 0 {
		t.Errorf("steps that were not woken = %d, want 0", n)
	}
	if n := one[int](t, s, "SELECT count(DISTINCT step_id) FROM nofx.inbox"); n != lanes*rounds {
		t.Errorf("steps with a signal of their own = %d, want %d", n, lanes*rounds)
	}
	s.wantSound(t)
}

// Signals go when their time has passed, some at a time, but not from under a step
// that took one and is not over.
func TestExpireSignals(t *testing.T) {
	t.Parallel()
	s := setup(t)
	expire := func(limit int, want int64) {
		t.Helper()
		if n, err := s.ExpireSignals(s.ctx, limit); n != want || err != nil {
			t.Errorf("ExpireSignals(%d) = %d, %v, want %d", limit, n, err, want)
		}
	}
	_, steps := s.create(t, "s:")
	s.await(t, steps["s"].ID, "taken")
	s.signal(t, "taken", `"payload"`)
	for _, key := range []string{"a", "b", "c"} {
		s.signal(t, key, "1")
	}
	expire(10, 0)
	s.exec(t, "UPDATE nofx.inbox SET expires_at = clock_timestamp() WHERE key <> 'c'")
	expire(1, 1)
	expire(10, 1)
	if left := all[string](t, s, "SELECT key FROM nofx.inbox ORDER BY key"); !slices.Equal(left, []string{"c", "taken"}) {
		t.Errorf("signals left = %v, want the one in time and the one of a step that has to run", left)
	}
	c := s.claim(t, steps["s"].ID)
	if string(c.Signal) != `"payload"` {
		t.Errorf("Claim().Signal = %s, want the payload", c.Signal)
	}
	expire(10, 0)
	s.finish(t, c, "succeed")
	expire(10, 1)
	expire(10, 0)
}

// What a signal reads does not grow with the waits that there were under its key, nor
// with those that there are.
func TestSignalsReadNoOthers(t *testing.T) {
	t.Parallel()
	for name, over := range map[string]bool{"waits that are over": true, "waits that go on": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const others = 200
			s := setupWith(t, postgres.Config{MaxConns: 1})
			for _, table := range []string{"run", "step", "wait", "inbox"} {
				s.exec(t, "ALTER TABLE nofx."+table+" SET (autovacuum_enabled = off)")
			}
			read := func() int64 {
				if _, err := s.Pool().Exec(s.ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
					t.Fatal(err)
				}
				return one[int64](t, s, "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relid = ANY (ARRAY['nofx.step', 'nofx.wait']::regclass[])")
			}
			wait := func() {
				_, steps := s.create(t, "s:")
				s.await(t, steps["s"].ID, "nightly")
			}
			cost := func() int64 {
				before := read()
				if !s.signal(t, "nightly", "1") {
					t.Fatal("SendSignal() was kept, want it taken")
				}
				return read() - before
			}
			wait()
			cost() // plans
			wait()
			first := cost()
			for range others {
				wait()
				if over {
					s.signal(t, "nightly", "1")
				}
			}
			if over {
				s.exec(t, "VACUUM nofx.step")
				wait()
			}
			if last := cost(); first == 0 || last > first+others/2 {
				t.Errorf("with %d %s SendSignal reads %d rows, want about the %d of the first", others, name, last, first)
			}
		})
	}
}
