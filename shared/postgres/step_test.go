package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// image returns every row of every tenant table, so that two of them can be compared.
func (s *store) image(t testing.TB) map[string]string {
	t.Helper()
	rows := map[string]string{}
	for _, table := range all[string](t, s, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
		WHERE schemaname = 'nofx' OR tablename = 'river_job'`) {
		rows[table] = one[string](t, s, "SELECT coalesce(string_agg(x::text, E'\n' ORDER BY x::text), '') FROM "+table+" AS x")
	}
	return rows
}

// wantUntouched fails unless the database is as it was.
func (s *store) wantUntouched(t testing.TB, what string, before map[string]string) {
	t.Helper()
	if diff := cmp.Diff(before, s.image(t)); diff != "" {
		t.Errorf("%s wrote (-before +after):\n%s", what, diff)
	}
}

// One run from its first claim to its end: what a claim brings, what a finish
// leaves.
func TestRunToTheEnd(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a", "c: a", "d: b c")
	s.wantStates(t, r.ID, "queued a:ready b:pending c:pending d:pending")

	c := s.claim(t, steps["a"].ID)
	if c.Fence != 1 || c.Attempt != 1 || c.MaxAttempts != 1 || c.Name != "a" || c.Tool != "bash" || len(c.Parents) != 0 ||
		string(c.Spec.Inputs) != `{"script": "true"}` || c.Traceparent != r.Traceparent || c.PlanDigest != r.PlanDigest || c.RunID != r.ID {
		t.Errorf("Claim(a) = %+v, want the first attempt of a", c)
	}
	pre := checkpoint(run.PreCheckpoint)
	if err := s.RecordCheckpoint(s.ctx, c, pre); err != nil {
		t.Fatalf("RecordCheckpoint() = %v, want nil", err)
	}
	f := outcome(c, "succeed")
	post := checkpoint(run.PostCheckpoint, pre.ID)
	post.Blobs = []tree.Blob{{SHA256: tree.Digest{1}, Location: tree.Location{Size: 5, Len: 5}}}
	post.Objects = []tree.Object{{Key: "t/x/blob/01", SHA256: tree.Digest{1}, Bytes: 5, Kind: "blob"}}
	f.Checkpoints = []*postgres.Checkpoint{post}
	f.Artifacts = []run.Artifact{{ID: run.NewID(), Name: "out.txt", Key: "t/x/blob/01", MediaType: "text/plain", Size: 5, SHA256: make([]byte, 32)}}
	f.Usage = run.Usage{RunMillis: 12}
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatalf("FinishStep(a) = %v, want nil", err)
	}
	s.wantStates(t, r.ID, "running a:succeeded b:ready c:ready d:pending")

	s.do(t, steps["b"].ID, "succeed")
	s.wantStates(t, r.ID, "running a:succeeded b:succeeded c:ready d:pending")
	cc := s.claim(t, steps["c"].ID)
	if len(cc.Parents) != 1 || cc.Parents[0].ID != post.ID || cc.Parents[0].Digest != post.Digest || string(cc.Parents[0].State) != "{}" {
		t.Errorf("Claim(c).Parents = %+v, want the post checkpoint %s of a", cc.Parents, post.ID)
	}
	s.finish(t, cc, "succeed")
	s.do(t, steps["d"].ID, "succeed")
	s.wantStates(t, r.ID, "succeeded a:succeeded b:succeeded c:succeeded d:succeeded")

	done, err := s.Run(s.ctx, s.tenant, r.ID)
	if err != nil || done.HeadCheckpointID == nil || *done.HeadCheckpointID != post.ID || done.FinishedAt == nil || done.StartedAt == nil {
		t.Errorf("Run() = %+v, %v, want head %s and its times", done, err, post.ID)
	}
	a, attempts, err := s.Step(s.ctx, s.tenant, steps["a"].ID)
	if err != nil || string(a.Outputs) != `{"by": "a"}` || len(attempts) != 1 || !attempts[0].Accepted || attempts[0].Usage.RunMillis != 12 || attempts[0].Outcome != "succeed" {
		t.Errorf("Step(a) = %+v, %+v, %v, want one accepted attempt", a, attempts, err)
	}
	list, err := s.Checkpoints(s.ctx, s.tenant, r.ID, 0, 10)
	if err != nil || len(list) != 2 || list[1].ID != post.ID || len(list[1].Parents) != 1 || list[1].Parents[0] != pre.ID {
		t.Errorf("Checkpoints() = %+v, %v, want pre and post", list, err)
	}
	events, err := s.Events(s.ctx, s.tenant, r.ID, 0, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for i, e := range events {
		if e.Seq != int64(i+1) || e.TraceID != r.TraceID {
			t.Errorf("event %d = seq %d trace %s, want seq %d of trace %s", i, e.Seq, e.TraceID, i+1, r.TraceID)
		}
		types = append(types, e.Type)
	}
	want := "run.created step.ready run.running step.running checkpoint.created checkpoint.created artifact.created step.succeeded step.ready step.ready " +
		"step.running step.succeeded step.running step.succeeded step.ready step.running step.succeeded run.succeeded"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("events = %s\nwant %s", got, want)
	}
	s.wantSound(t)
}

// A wake-up is worth something once: not under another wake_seq, not for a run
// that ended, and of eight workers that have it at once one gets the step.
func TestClaimOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:", "b: a")
	a := steps["a"].ID
	before := s.image(t)
	for what, j := range map[string]struct {
		step uuid.UUID
		seq  int64
	}{"older": {a, 0}, "newer": {a, 2}, "pending step": {steps["b"].ID, 0}, "unknown step": {uuid.New(), 1}} {
		c, err := s.Claim(s.ctx, wakeUp(s.tenant, j.step, j.seq), postgres.Worker{ID: "w"}, ttl, noCheckpoint)
		if c != nil || err != nil {
			t.Errorf("Claim(%s) = %v, %v, want nothing", what, c, err)
		}
	}
	s.wantUntouched(t, "a stale claim", before)

	var mu sync.Mutex
	var won []*postgres.Claim
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, err := s.Claim(s.ctx, wakeUp(s.tenant, a, 1), postgres.Worker{ID: fmt.Sprint("w", i), PID: i}, ttl, noCheckpoint)
			if err != nil {
				t.Errorf("Claim() = %v, want nil", err)
			}
			if c != nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, c)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("8 claims of one wake-up: %d won, want 1", len(won))
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.attempt"); n != 1 {
		t.Errorf("attempts = %d, want 1", n)
	}
	s.finish(t, won[0], "interrupted")
	if seq := s.wakeSeq(t, a); seq != 2 {
		t.Errorf("wake_seq after interrupted = %d, want 2", seq)
	}
	if c := s.claim(t, a); c.Attempt != 1 || c.Fence != 2 {
		t.Errorf("Claim() after interrupted = attempt %d fence %d, want 1 and 2: the attempt was given back", c.Attempt, c.Fence)
	}
}

// A job whose step is not there any more does not keep a batch from locking the
// runs of the others: their claims see what is being written.
func TestClaimBesideAStepThatIsGone(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]bool{"last": true, "first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:")
			wake := func(id uuid.UUID) postgres.Wake {
				return postgres.Wake{Job: wakeUp(s.tenant, id, 1), Span: trace.SpanContextFromContext(s.ctx), Pre: noCheckpoint}
			}
			wakes := []postgres.Wake{wake(steps["a"].ID), wake(uuid.New())}
			if !last {
				slices.Reverse(wakes)
			}
			tx, err := s.Admin.Begin(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(s.ctx)
			if _, err := tx.Exec(s.ctx, "SET LOCAL search_path = nofx, pg_temp"); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(s.ctx, "SELECT append_event($1, $2, NULL, 'test.told', NULL, '{}')", s.tenant, r.ID); err != nil {
				t.Fatal(err)
			}
			var claims []postgres.Claimed
			done := make(chan error, 1)
			go func() {
				var err error
				claims, err = s.ClaimSteps(s.ctx, wakes, postgres.Worker{ID: "w1", PID: 1}, ttl)
				done <- err
			}()
			s.untilBlocked(t)
			if err := tx.Commit(s.ctx); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatalf("ClaimSteps() = %v, want the claim of a step", err)
			}
			if got := fmt.Sprint(claims[0].Claim != nil, claims[1].Claim != nil); got != fmt.Sprint(last, !last) {
				t.Errorf("ClaimSteps() claimed %s, want %t %t", got, last, !last)
			}
			s.wantSound(t)
		})
	}
}

// untilBlocked waits until somebody in the database waits for a lock.
func (s *store) untilBlocked(t testing.TB) {
	t.Helper()
	s.until(t, "somebody waits for a lock", "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')")
}

// until asks a question of the database until the answer is yes.
func (s *store) until(t testing.TB, what, question string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !one[bool](t, s, question) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited a minute until %s", what)
		}
	}
}

// Whoever lost the lease changes nothing: not a row in any table. Nor does one whose
// lease has run out, until it is renewed.
func TestFenced(t *testing.T) {
	t.Parallel()
	const ranOut = "lease ran out"
	for name, lose := range map[string]func(t *testing.T, s *store, c *postgres.Claim){
		ranOut: func(t *testing.T, s *store, c *postgres.Claim) { s.expire(t, c.StepID) },
		"swept": func(t *testing.T, s *store, c *postgres.Claim) {
			s.expire(t, c.StepID)
			s.sweep(t, postgres.SweepRules{})
		},
		"runs elsewhere": func(t *testing.T, s *store, c *postgres.Claim) {
			s.expire(t, c.StepID)
			s.sweep(t, postgres.SweepRules{})
			s.claim(t, c.StepID)
		},
		"done elsewhere": func(t *testing.T, s *store, c *postgres.Claim) {
			s.expire(t, c.StepID)
			s.sweep(t, postgres.SweepRules{})
			s.do(t, c.StepID, "succeed")
		},
		"cancelled": func(t *testing.T, s *store, c *postgres.Claim) {
			if _, err := s.CancelRun(s.ctx, s.tenant, c.RunID, postgres.Verb{Reason: "enough"}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			_, steps := s.create(t, "a:", "b: a")
			c := s.claim(t, steps["a"].ID)
			lose(t, s, c)
			before := s.image(t)
			want := fault.Fenced
			if name == ranOut {
				want = fault.Unavailable
			}
			for _, event := range []string{"succeed", "fail", "retry", "interrupted", "timer", "approval", "gate failed"} {
				f := outcome(c, event)
				ck := checkpoint(run.PostCheckpoint)
				ck.Blobs = []tree.Blob{{SHA256: tree.Digest{9}, Location: tree.Location{Size: 1, Len: 1}}}
				f.Checkpoints = append(f.Checkpoints, ck)
				f.Artifacts = []run.Artifact{{ID: run.NewID(), Name: "x", Key: "k", MediaType: "text/plain", SHA256: make([]byte, 32)}}
				if err := s.FinishStep(s.ctx, f); !errors.Is(err, want) {
					t.Errorf("FinishStep(%s) = %v, want %v", event, err, want)
				}
			}
			if err := s.RecordCheckpoint(s.ctx, c, checkpoint(run.PreCheckpoint)); !errors.Is(err, want) {
				t.Errorf("RecordCheckpoint() = %v, want %v", err, want)
			}
			if err := s.RecordLogChunk(s.ctx, c, postgres.LogChunk{N: 1, Key: "k", SHA256: make([]byte, 32)}); !errors.Is(err, want) {
				t.Errorf("RecordLogChunk() = %v, want %v", err, want)
			}
			if err := s.BeginTool(s.ctx, c); !errors.Is(err, want) {
				t.Errorf("BeginTool() = %v, want %v", err, want)
			}
			s.wantUntouched(t, "a fenced worker", before)
		})
	}
}

// A finish whose answer got lost may be sent again.
func TestFinishTwice(t *testing.T) {
	t.Parallel()
	for _, event := range []string{"succeed", "fail", "retry", "interrupted", "timer", "approval", "gate failed"} {
		t.Run(event, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			_, steps := s.create(t, "a:", "b: a")
			f := s.do(t, steps["a"].ID, event)
			before := s.image(t)
			if err := s.FinishStep(s.ctx, f); err != nil {
				t.Errorf("second FinishStep(%s) = %v, want nil", event, err)
			}
			s.wantUntouched(t, "the second finish", before)
			other := outcome(f.Claim, map[bool]string{true: "fail", false: "succeed"}[event == "succeed"])
			if other.Outcome != f.Outcome {
				if err := s.FinishStep(s.ctx, other); !errors.Is(err, fault.Fenced) {
					t.Errorf("FinishStep(%s) after %s = %v, want fenced", other.Outcome, event, err)
				}
			}
		})
	}
}

// A chunk of a log whose answer got lost is recorded again, and is there once.
func TestRecordLogChunkTwice(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	chunk := postgres.LogChunk{N: 1, Bytes: 3, Lines: 1, Key: "k", SHA256: make([]byte, 32)}
	for range 2 {
		if err := s.RecordLogChunk(s.ctx, c, chunk); err != nil {
			t.Fatalf("RecordLogChunk() = %v, want nil", err)
		}
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.log_chunk WHERE step_id = $1", c.StepID); n != 1 {
		t.Errorf("%d chunks, want 1", n)
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.event WHERE step_id = $1 AND type = 'step.log'", c.StepID); n != 1 {
		t.Errorf("%d events of it, want 1", n)
	}
	for _, size := range []int64{3, 10, 10, 12} { // nothing is missing, then 7 bytes: said once
		if err := s.MarkLog(s.ctx, c, size); err != nil {
			t.Fatalf("MarkLog(%d) = %v, want nil", size, err)
		}
	}
	l, err := s.Log(s.ctx, s.tenant, c.StepID, nil, 0, 0)
	if err != nil || len(l.Chunks) != 2 || !strings.Contains(l.Chunks[1].Mark, " 7 bytes ") || l.Size != 3+int64(len(l.Chunks[1].Mark)) {
		t.Errorf("Log() = %+v, %v, want the chunk and a mark of 7 bytes", l, err)
	}
	s.expire(t, c.StepID)
	wantKind(t, "MarkLog() after the lease", s.MarkLog(s.ctx, c, 20), fault.Unavailable, "lease-lapsed")
}

// A step that failed for good ends what has not begun; siblings that run may
// end, and the last of them settles the run.
func TestFailWithRunningSiblings(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b:", "c:", "d:", "m:", "after_a: a", "both: a b", "after_b: b", "far: after_a", "e:")
	a, b, c := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID), s.claim(t, steps["c"].ID)
	s.do(t, steps["m"].ID, "approval")
	retrying := outcome(s.claim(t, steps["d"].ID), "retry")
	retrying.Delay = time.Hour
	if err := s.FinishStep(s.ctx, retrying); err != nil {
		t.Fatal(err)
	}
	s.finish(t, a, "fail")
	s.wantStates(t, r.ID, "running a:failed b:running c:running d:cancelled m:cancelled after_a:skipped both:skipped after_b:skipped far:skipped e:cancelled")
	for name, reason := range map[string]string{
		"after_a": "upstream_failed", "both": "upstream_failed", "far": "upstream_failed", "after_b": "run_failed", "e": "run_failed", "d": "run_failed",
	} {
		if step, _, err := s.Step(s.ctx, s.tenant, steps[name].ID); err != nil || step.Reason != reason {
			t.Errorf("Step(%s).Reason = %q, %v, want %q", name, step.Reason, err, reason)
		}
	}
	if state := one[string](t, s, "SELECT state FROM nofx.gate"); state != "expired" {
		t.Errorf("gate of the cancelled step = %s, want expired (withdrawn)", state)
	}
	s.finish(t, b, "succeed")
	s.wantStates(t, r.ID, "running a:failed b:succeeded c:running d:cancelled m:cancelled after_a:skipped both:skipped after_b:skipped far:skipped e:cancelled")
	s.finish(t, c, "fail")
	done, err := s.Run(s.ctx, s.tenant, r.ID)
	if err != nil || done.State != run.Failed || done.FailureClass != run.ClassTool || done.Reason != "step a: exit status 1" {
		t.Errorf("Run() = %s %s %q, %v, want failed by a, the first", done.State, done.FailureClass, done.Reason, err)
	}
	s.wantSound(t)
}

// A sibling of a failed step may end, and has no more turns: it does not wait,
// nor is it tried again. One that somebody has run beside an old failure does
// and is.
func TestNothingIsToComeOfAFailedRun(t *testing.T) {
	t.Parallel()
	lose := func(t *testing.T, s *store, c *postgres.Claim) {
		s.expire(t, c.StepID)
		s.sweep(t, postgres.SweepRules{})
	}
	signal := func(t *testing.T, s *store, c *postgres.Claim) {
		f := outcome(c, "timer")
		f.Wait = &postgres.NewWait{Kind: "signal", Key: "k", After: time.Hour}
		if err := s.FinishStep(s.ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	by := func(event string) func(*testing.T, *store, *postgres.Claim) {
		return func(t *testing.T, s *store, c *postgres.Claim) { s.finish(t, c, event) }
	}
	for name, c := range map[string]struct {
		step  string
		end   func(*testing.T, *store, *postgres.Claim)
		alive string // its state when no step has failed meanwhile
	}{
		"approval": {"m", by("approval"), "waiting"}, "timer": {"w", by("timer"), "waiting"}, "signal": {"s", signal, "waiting"},
		"retry": {"b", by("retry"), "retrying"}, "interrupted": {"b", by("interrupted"), "ready"}, "lost": {"b", lose, "ready"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", c.step+":")
			a, b := s.claim(t, steps["a"].ID), s.claim(t, steps[c.step].ID)
			s.finish(t, a, "fail")
			c.end(t, s, b)
			s.wantStates(t, r.ID, "failed a:failed "+c.step+":cancelled")
			if step, _, err := s.Step(s.ctx, s.tenant, b.StepID); err != nil || step.Reason != "run_failed" {
				t.Errorf("Step().Reason = %q, %v, want run_failed", step.Reason, err)
			}
			if gates := all[string](t, s, "SELECT state FROM nofx.gate"); len(gates) > 0 {
				t.Errorf("gates %v were opened in a run that failed", gates)
			}

			// Of two that failed one is retried: the other's failure is from before.
			r, steps = s.create(t, "a:", c.step+":")
			a, b = s.claim(t, steps["a"].ID), s.claim(t, steps[c.step].ID)
			s.finish(t, b, "fail")
			s.finish(t, a, "fail")
			if _, _, err := s.RetryStep(s.ctx, s.tenant, b.StepID, false, "again"); err != nil {
				t.Fatal(err)
			}
			c.end(t, s, s.claim(t, b.StepID))
			if step, _, err := s.Step(s.ctx, s.tenant, b.StepID); err != nil || string(step.State) != c.alive {
				t.Errorf("beside an old failure the step is %s, %v, want %s", step.State, err, c.alive)
			}
			s.wantSound(t)
		})
	}
}

// Reasons are text of tools: of any length, in any bytes. They must not stand in
// the way of the finish, or the step could never end.
func TestHostileReasons(t *testing.T) {
	t.Parallel()
	for name, reason := range map[string]string{
		"long":        strings.Repeat("x", 5000),
		"wide":        strings.Repeat("漢", 2000),
		"wide at cut": strings.Repeat("😀", 511) + "abc" + strings.Repeat("é", 50),
		"just fits":   strings.Repeat("漢", 682) + "xx",
		"NUL":         "exit\x00 status",
		"broken":      strings.Repeat("\xff\xfe", 1500),
		"empty":       "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:")
			f := outcome(s.claim(t, steps["a"].ID), "fail")
			f.Reason = reason
			if err := s.FinishStep(s.ctx, f); err != nil {
				if reason == "" {
					wantKind(t, "FinishStep(fail without reason)", err, fault.Invalid, "reason-required")
					return
				}
				t.Fatalf("FinishStep(fail, %q…) = %v, want nil", reason[:10], err)
			}
			s.wantStates(t, r.ID, "failed a:failed")
			if step, _, err := s.Step(s.ctx, s.tenant, steps["a"].ID); err != nil || step.Reason == "" || len(step.Reason) > run.MaxReasonBytes {
				t.Errorf("Step().Reason has %d bytes, %v, want up to %d", len(step.Reason), err, run.MaxReasonBytes)
			}
		})
	}
}

// Outputs that Postgres can never store are the step's fault, said so by kind,
// so that its worker fails it instead of trying for ever.
func TestHostileOutputs(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	for name, outputs := range map[string]string{
		"NUL": `{"x":"\u0000"}`, "lone surrogate": `{"x":"\ud800"}`, "too large": `{"x":"` + strings.Repeat("y", 300<<10) + `"}`, "huge number": `{"x":1e400000}`,
	} {
		f := outcome(c, "succeed")
		f.Outputs = json.RawMessage(outputs)
		if err := s.FinishStep(s.ctx, f); !errors.Is(err, fault.Invalid) {
			t.Errorf("FinishStep(outputs: %s) = %v, want invalid", name, err)
		}
	}
	s.finish(t, c, "fail")
	s.wantStates(t, r.ID, "failed a:failed")
}

// A retry waits for its time and the sweep readies it, each attempt under its
// own fence.
func TestRetries(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	a := steps["a"].ID
	for attempt := 1; attempt <= 3; attempt++ {
		c := s.claim(t, a)
		if c.Attempt != attempt || c.Fence != int64(attempt) {
			t.Errorf("Claim() = attempt %d fence %d, want %d and %d", c.Attempt, c.Fence, attempt, attempt)
		}
		f := outcome(c, "retry")
		f.Delay = time.Hour
		if err := s.FinishStep(s.ctx, f); err != nil {
			t.Fatal(err)
		}
		s.wantStates(t, r.ID, "running a:retrying")
		if made := s.sweep(t, postgres.SweepRules{}); made != nil {
			t.Errorf("sweep before the time = %v, want nothing", made)
		}
		s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp(), retry_at = clock_timestamp() WHERE id = $1", a)
		if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[backoff_elapsed]" {
			t.Errorf("sweep when due = %v, want [backoff_elapsed]", made)
		}
		s.wantStates(t, r.ID, "running a:ready")
	}
	s.do(t, a, "succeed")
	s.wantStates(t, r.ID, "succeeded a:succeeded")
	s.wantSound(t)
}

// Failures of the infrastructure use up none of a step's attempts. The first of them
// is remembered until an attempt ends otherwise, whichever worker comes next, and
// whoever retries the step grants it all its time anew.
func TestInfrastructureRetriesHaveTimeNotAttempts(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	a := steps["a"].ID
	failing := func() *postgres.Claim {
		t.Helper()
		c := s.claim(t, a)
		f := outcome(c, "retry")
		f.FailureClass = run.ClassInfrastructure
		if err := s.FinishStep(s.ctx, f); err != nil {
			t.Fatalf("FinishStep(retry) = %v, want nil", err)
		}
		s.sweep(t, postgres.SweepRules{Lost: ttl})
		return c
	}
	if c := failing(); c.Attempt != 1 || c.FailingSince != nil {
		t.Errorf("first claim = attempt %d, failing since %v, want 1, never", c.Attempt, c.FailingSince)
	}
	second, third := failing(), failing()
	if second.Attempt != 1 || third.Attempt != 1 || second.FailingSince == nil || third.FailingSince == nil || !second.FailingSince.Equal(*third.FailingSince) {
		t.Errorf("claims after failures = attempts %d and %d, failing since %v and %v, want 1 and 1, the same time", second.Attempt, third.Attempt, second.FailingSince, third.FailingSince)
	}
	if second.ClaimedAt.Before(*second.FailingSince) {
		t.Errorf("claimed at %s, failing since %s, want that before", second.ClaimedAt, second.FailingSince)
	}
	s.do(t, a, "retry")
	s.sweep(t, postgres.SweepRules{Lost: ttl})
	c := failing()
	if c.Attempt != 2 || c.FailingSince != nil {
		t.Errorf("claim after a retry of the tool = attempt %d, failing since %v, want 2, never", c.Attempt, c.FailingSince)
	}
	exhausted := outcome(s.claim(t, a), "fail")
	exhausted.FailureClass = run.ClassExhausted
	if err := s.FinishStep(s.ctx, exhausted); err != nil {
		t.Fatalf("FinishStep(fail) = %v, want nil", err)
	}
	if _, _, err := s.RetryStep(s.ctx, s.tenant, a, false, "again"); err != nil {
		t.Fatalf("RetryStep() = %v, want nil", err)
	}
	if c := s.claim(t, a); c.Attempt != 1 || c.FailingSince != nil {
		t.Errorf("claim after somebody's retry = attempt %d, failing since %v, want 1, never", c.Attempt, c.FailingSince)
	}
}
