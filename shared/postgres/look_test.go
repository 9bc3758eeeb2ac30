package postgres_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A timeline shows each step's attempts, how long it was due before them, and in
// which states it spent its time.
func TestTimeline(t *testing.T) {
	t.Parallel()
	s := setup(t)
	began := time.Now()
	r, steps := s.create(t, "a:", "m: a", "z: m")
	s.do(t, steps["a"].ID, "interrupted")
	s.exec(t, "UPDATE nofx.step SET ready_at = ready_at - interval '3 seconds' WHERE id = $1", steps["a"].ID)
	s.do(t, steps["a"].ID, "succeed")
	s.do(t, steps["m"].ID, "approval")
	s.exec(t, "UPDATE nofx.event SET at = at - interval '1 minute' WHERE run_id = $1", r.ID) // as if all that was a minute ago
	s.exec(t, "UPDATE nofx.attempt SET started_at = started_at - interval '1 minute', ended_at = ended_at - interval '1 minute'")

	tl, err := s.Timeline(s.ctx, s.tenant, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began) // whatever happened really has happened within it
	if tl.Run.ID != r.ID || len(tl.Rows) != 3 || tl.At.IsZero() {
		t.Fatalf("Timeline() = %+v, want the run and its three steps", tl)
	}
	states := func(row run.TimelineRow) (words []string) {
		for _, span := range row.Spans {
			end := "open"
			if span.End != nil {
				end = "ended"
			}
			words = append(words, string(span.State)+" "+end)
		}
		return words
	}
	for i, want := range []string{
		"[ready ended running ended ready ended running ended]",
		"[ready ended running ended waiting open]",
		"[]",
	} {
		if got := fmt.Sprint(states(tl.Rows[i])); got != want {
			t.Errorf("spans of step %d = %s, want %s", i, got, want)
		}
	}
	a, m, z := tl.Rows[0], tl.Rows[1], tl.Rows[2]
	if len(a.Attempts) != 2 || a.Attempts[0].Outcome != "interrupted" || !a.Attempts[1].Accepted || len(m.Attempts) != 1 || len(z.Attempts) != 0 {
		t.Errorf("attempts = %+v, %+v, %+v, want two, one and none", a.Attempts, m.Attempts, z.Attempts)
	}
	if got := a.Waited(tl.At); got < 3*time.Second || got > 3*time.Second+took || a.Attempts[1].Wait < 3*time.Second || a.Attempts[0].Wait > took {
		t.Errorf("a waited %s, before its attempts %s and %s, want 3 s before the second", got, a.Attempts[0].Wait, a.Attempts[1].Wait)
	}
	if got := a.Ran(tl.At); got <= 0 || got > took {
		t.Errorf("a ran for %s, want what its attempts took", got)
	}
	if held := tl.At.Sub(m.Spans[2].Start); held < 59*time.Second {
		t.Errorf("m waits for %s, want a minute", held)
	}
	_, err = s.Timeline(s.ctx, s.Tenant(t), r.ID)
	wantKind(t, "Timeline(another tenant's)", err, fault.NotFound, "not-found")

	// A step that runs, and one that is due, have taken their time until now.
	_, steps = s.create(t, "a:", "b:")
	c := s.claim(t, steps["a"].ID)
	s.exec(t, "UPDATE nofx.attempt SET started_at = started_at - interval '5 seconds' WHERE step_id = $1", c.StepID)
	s.exec(t, "UPDATE nofx.step SET ready_at = ready_at - interval '7 seconds' WHERE id = $1", steps["b"].ID)
	if tl, err = s.Timeline(s.ctx, s.tenant, c.RunID); err != nil {
		t.Fatal(err)
	}
	if ran, waited := tl.Rows[0].Ran(tl.At), tl.Rows[1].Waited(tl.At); ran < 5*time.Second || waited < 7*time.Second {
		t.Errorf("a has run for %s, b has waited %s, want 5 s and 7 s at least", ran, waited)
	}
}

// Workers are known from their first word on, by what they said last, until they
// leave or have been silent for long.
func TestWorkers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]postgres.Config{"direct": {}, "pooled": {Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, c)
			w := postgres.WorkerInfo{ID: "host/1", PID: 7, Host: "host", Version: "v1", Queues: []string{"step", "other"}, SlotsMax: 8, SandboxTier: 2}
			beat := func(w postgres.WorkerInfo) []string {
				t.Helper()
				paused, err := s.BeatWorker(s.ctx, w)
				if err != nil {
					t.Fatalf("BeatWorker() = %v", err)
				}
				return paused
			}
			if paused := beat(w); len(paused) != 0 {
				t.Errorf("BeatWorker() = %v, want no queue paused", paused)
			}
			other := w
			other.ID = "host/2"
			beat(other)
			w.Draining, w.WaitsFor = true, "storage"
			beat(w)
			s.exec(t, "UPDATE nofx.worker SET seen_at = seen_at - interval '20 minutes' WHERE id = 'host/2'")
			list, err := s.Workers(s.ctx)
			if err != nil || len(list) != 2 {
				t.Fatalf("Workers() = %v, %v, want two", list, err)
			}
			got := list[0]
			if got.Silence > time.Minute || list[1].Silence < 20*time.Minute {
				t.Errorf("Workers() = %+v, want one seen now and one silent for 20 minutes", list)
			}
			got.Silence = 0
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", w) {
				t.Errorf("Workers()[0] = %+v, want %+v", got, w)
			}
			s.exec(t, "UPDATE nofx.worker SET seen_at = seen_at - interval '50 minutes' WHERE id = 'host/2'")
			if list, err := s.Workers(s.ctx); err != nil || len(list) != 1 {
				t.Errorf("Workers() = %v, %v, want the other forgotten", list, err)
			}
			beat(w)
			if n := one[int](t, s, "SELECT count(*) FROM nofx.worker"); n != 1 {
				t.Errorf("%d rows of workers, want the silent one's gone", n)
			}
			if err := s.LeaveWorker(s.ctx, w.ID); err != nil {
				t.Errorf("LeaveWorker() = %v", err)
			}
			beat(w) // one that was given up, and reaches the database only now
			never := w
			never.ID = "host/3"
			if err := s.LeaveWorker(s.ctx, never.ID); err != nil {
				t.Errorf("LeaveWorker() before a beat arrived = %v", err)
			}
			beat(never)
			if list, err := s.Workers(s.ctx); err != nil || len(list) != 0 {
				t.Errorf("Workers() after they left = %v, %v, want none", list, err)
			}
		})
	}
}

// A worker that died is seen to be silent, without the step that another took over, as
// soon as its lease is taken away, and one that was only late when it speaks again.
func TestLostWorker(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:", "b:")
	w := postgres.WorkerInfo{ID: "w1", PID: 1, Host: "host", Queues: []string{"step"}, SlotsMax: 4}
	beat := func() {
		t.Helper()
		if _, err := s.BeatWorker(s.ctx, w); err != nil {
			t.Fatalf("BeatWorker() = %v, want nil", err)
		}
	}
	want := func(when string, used, serving int, silent bool) {
		t.Helper()
		list, err := s.Workers(s.ctx)
		if err != nil || len(list) != 1 || list[0].SlotsUsed != used || list[0].Silent() != silent {
			t.Errorf("Workers() %s = %+v, %v, want one with %d slots used, silent = %v", when, list, err, used, silent)
		}
		queues, err := s.Queues(s.ctx)
		if i := slices.IndexFunc(queues, func(q postgres.Queue) bool { return q.Name == "step" }); err != nil || queues[i].Workers != serving {
			t.Errorf("Queues() %s = %+v, %v, want %d workers of step", when, queues, err, serving)
		}
	}
	beat()
	s.claim(t, steps["a"].ID)
	s.claim(t, steps["b"].ID)
	want("while it works", 2, 1, false)
	s.expire(t, steps["a"].ID)
	s.sweep(t, postgres.SweepRules{})
	want("when a lease of it was taken away", 1, 0, true)
	beat()
	want("when it spoke again", 1, 1, false)
}

// A step that runs says what is known of its worker, however it is read: that it waits
// for something, and since when it has been silent.
func TestHolderOfAStep(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b:")
	step := steps["a"].ID
	beat := func(waitsFor string) {
		t.Helper()
		if _, err := s.BeatWorker(s.ctx, postgres.WorkerInfo{ID: "w1", Queues: []string{"step"}, WaitsFor: waitsFor}); err != nil {
			t.Fatalf("BeatWorker() = %v, want nil", err)
		}
	}
	want := func(when string, silent bool, waitsFor string) {
		t.Helper()
		alone, _, err := s.Step(s.ctx, s.tenant, step)
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.RunDetail(s.ctx, s.tenant, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		for name, got := range map[string]run.Step{"Step()": alone, "RunDetail()": d.Steps[0]} {
			if (got.WorkerSilentSince != nil) != silent || got.WorkerWaitsFor != waitsFor {
				t.Errorf("%s %s = silent since %v, waits for %q, want silent = %v, %q", name, when, got.WorkerSilentSince, got.WorkerWaitsFor, silent, waitsFor)
			}
		}
		if other := d.Steps[1]; other.WorkerSilentSince != nil || other.WorkerWaitsFor != "" {
			t.Errorf("RunDetail() %s says of a step that does not run %+v, want nothing of a worker", when, other)
		}
		if silent && !alone.WorkerSilentSince.Before(time.Now()) {
			t.Errorf("Step() %s = silent since %v, want a time that is over", when, alone.WorkerSilentSince)
		}
	}
	beat("storage")
	want("before its claim", false, "")
	s.claim(t, step)
	want("with a worker that waits", false, "storage")
	beat("")
	want("with a worker that works", false, "")
	s.exec(t, "UPDATE nofx.worker SET seen_at = seen_at - interval '16 seconds'")
	want("after 16 s without a word", true, "")
	beat("")
	want("when the worker spoke again", false, "")
	s.expire(t, step)
	want("when its lease has run out and nobody took it away", true, "")
	s.exec(t, "DELETE FROM nofx.worker")
	want("when the worker is forgotten", true, "")
	s.sweep(t, postgres.SweepRules{})
	want("when the lease was taken away", false, "")
}

// A queue is known before any worker served it, and whoever runs the installation can
// pause it.
func TestQueues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]postgres.Config{"direct": {}, "pooled": {Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, c)
			c.URL = s.AdminURL
			admin := s.Open(t, c)
			step := func() postgres.Queue {
				t.Helper()
				list, err := s.Queues(s.ctx)
				if err != nil || len(list) != 3 || list[0].Name != "maintenance" || list[1].Name != "review" || list[2].Name != "step" {
					t.Fatalf("Queues() = %+v, %v, want the queues maintenance, review and step", list, err)
				}
				if r := list[1]; r.PausedAt != nil || r.Workers != 0 {
					t.Errorf("Queues() = %+v, want nothing in review", list)
				}
				return list[2]
			}
			s.exec(t, "INSERT INTO river.river_queue (name) VALUES ('step_reserve')") // as workers do that keep slots
			if q := step(); q.PausedAt != nil || q.Workers != 0 {
				t.Errorf("Queues() at first = %+v, want nothing in it", q)
			}
			for i, w := range []postgres.WorkerInfo{{}, {Draining: true}, {}} {
				w.ID, w.Queues = fmt.Sprint("w", i), []string{"step"}
				if _, err := s.BeatWorker(s.ctx, w); err != nil {
					t.Fatal(err)
				}
			}
			s.exec(t, "UPDATE nofx.worker SET seen_at = seen_at - interval '16 seconds' WHERE id = 'w2'")
			s.create(t, "a:", "b:")
			s.exec(t, "UPDATE river.river_job SET scheduled_at = scheduled_at - interval '9 seconds'")
			if q := step(); q.Workers != 1 {
				t.Errorf("Queues() = %+v, want one worker that serves", q)
			}
			if d, err := s.QueueDepths(s.ctx); err != nil || len(d) != 1 || d[0].Queue != "step" || d[0].State != "available" || d[0].Count != 2 || d[0].OldestAge < 9*time.Second {
				t.Errorf("QueueDepths() = %+v, %v, want two jobs, the oldest 9 s old", d, err)
			}
			for range 2 {
				if err := admin.PauseQueueForAll(s.ctx, "step", "moving"); err != nil {
					t.Fatalf("PauseQueueForAll(step) = %v", err)
				}
			}
			if q := step(); q.PausedAt == nil || q.PausedBy != "tester" || q.Reason != "moving" {
				t.Errorf("Queues() = %+v, want it paused by tester", q)
			}
			if paused, err := s.BeatWorker(s.ctx, postgres.WorkerInfo{ID: "w0", Queues: []string{"step", "x"}}); err != nil || !slices.Equal(paused, []string{"step"}) {
				t.Errorf("BeatWorker() = %v, %v, want step paused", paused, err)
			}
			for range 2 {
				if err := admin.ResumeQueueForAll(s.ctx, "step"); err != nil {
					t.Fatalf("ResumeQueueForAll(step) = %v", err)
				}
			}
			if q := step(); q.PausedAt != nil || q.PausedBy != "" {
				t.Errorf("Queues() = %+v, want it resumed", q)
			}
			for _, name := range []string{"none", "*", "", "step_reserve"} {
				wantKind(t, "PauseQueueForAll("+name+")", admin.PauseQueueForAll(s.ctx, name, ""), fault.NotFound, "not-found")
			}
			if q := step(); q.PausedAt != nil {
				t.Errorf("Queues() after a pause of nothing = %+v, want none paused", q)
			}
		})
	}
}

// The inbox can be narrowed, and pages neither skip nor repeat.
func TestGateFilters(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var want, others []uuid.UUID
	for range 5 {
		_, steps := s.create(t, "m:", "mx:", "a:")
		want = append(want, s.do(t, steps["m"].ID, "approval").Gate.ID)
		others = append(others, s.do(t, steps["mx"].ID, "approval").Gate.ID)
	}
	s.exec(t, "UPDATE nofx.gate SET name = 'other' WHERE step_id IN (SELECT id FROM nofx.step WHERE name = 'mx')")
	for _, c := range []struct {
		f    postgres.GateFilter
		want []uuid.UUID
	}{
		{postgres.GateFilter{Name: "ok", Project: "default", State: run.Pending, Kind: run.ManualGate, Limit: 2}, want},
		{postgres.GateFilter{Name: "ok", Limit: 3}, want},
		{postgres.GateFilter{Name: "other", Limit: 3}, others},
		{postgres.GateFilter{Name: "mx", Project: "default", Limit: 3}, others}, // the step's name
		{postgres.GateFilter{Name: "none", Limit: 3}, nil},
		{postgres.GateFilter{Project: "none", Limit: 3}, nil},
	} {
		var got []uuid.UUID
		for {
			page, more, err := s.Gates(s.ctx, s.tenant, c.f)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range page {
				got = append(got, g.ID)
				if want := map[string]string{"ok": "m", "other": "mx"}[g.Name]; g.StepName != want {
					t.Errorf("gate %s is of step %q, want %q", g.Name, g.StepName, want)
				}
			}
			if c.f.After = more; more == nil {
				break
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("Gates(%+v) = %v, want %v", c.f, got, c.want)
		}
	}
}

// After an outage, in which no worker could speak, none is called silent until it had
// the time to: neither the worker itself nor the holder of a step.
func TestNobodyIsSilentAfterAnOutage(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	step := steps["a"].ID
	if _, err := s.BeatWorker(s.ctx, postgres.WorkerInfo{ID: "w1", Queues: []string{"step"}}); err != nil {
		t.Fatal(err)
	}
	s.claim(t, step)
	s.expire(t, step)
	s.exec(t, "UPDATE nofx.worker SET seen_at = seen_at - interval '25 seconds'")
	want := func(when string, silent bool) {
		t.Helper()
		got, _, err := s.Step(s.ctx, s.tenant, step)
		if err != nil || (got.WorkerSilentSince != nil) != silent {
			t.Errorf("Step() %s = silent since %v, %v, want silent = %v", when, got.WorkerSilentSince, err, silent)
		}
		list, err := s.Workers(s.ctx)
		if err != nil || len(list) != 1 || list[0].Silent() != silent {
			t.Errorf("Workers() %s = %+v, %v, want one, silent = %v", when, list, err, silent)
		}
	}
	s.exec(t, "DELETE FROM nofx.contact")
	s.exec(t, "INSERT INTO nofx.contact (seen_at, resumed_at) VALUES (clock_timestamp(), clock_timestamp() - interval '1 hour')")
	want("while others speak", true)
	s.exec(t, "UPDATE nofx.contact SET resumed_at = clock_timestamp()")
	want("just after an outage", false)
	s.exec(t, "UPDATE nofx.contact SET resumed_at = clock_timestamp() - interval '16 seconds'")
	want("16 s after it", true)
}
