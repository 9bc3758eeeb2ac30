package postgres_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
)

// refused reports whether a wake-up of a step is spent without a claim.
func (s *store) refused(t testing.TB, step uuid.UUID) bool {
	t.Helper()
	c, err := s.Claim(s.ctx, wakeUp(s.tenant, step, s.wakeSeq(t, step)), postgres.Worker{ID: "w1", PID: 1}, ttl, noCheckpoint)
	if err != nil {
		t.Fatalf("Claim(%s) = %v, want nil", step, err)
	}
	return c == nil
}

func (s *store) pause(t testing.TB) {
	t.Helper()
	if err := s.PauseQueue(s.ctx, s.tenant, run.StepQueue, "moving"); err != nil {
		t.Fatalf("PauseQueue() = %v, want nil", err)
	}
}

func (s *store) resume(t testing.TB) {
	t.Helper()
	if err := s.ResumeQueue(s.ctx, s.tenant, run.StepQueue, ""); err != nil {
		t.Fatalf("ResumeQueue() = %v, want nil", err)
	}
}

// stepQueue returns what the tenant has in the queue step.
func (s *store) stepQueue(t testing.TB) postgres.TenantQueue {
	t.Helper()
	list, err := s.TenantQueues(s.ctx, s.tenant)
	if err != nil || len(list) != 3 || list[0].Name != run.MaintenanceQueue || list[1].Name != run.ReviewQueue || list[2].Name != run.StepQueue {
		t.Fatalf("TenantQueues() = %+v, %v, want the queues maintenance, review and step", list, err)
	}
	return list[2]
}

// later ends all jobs and makes the ready steps old, so that a sweep finds each whose
// wake-up is lost.
func (s *store) later(t testing.TB) {
	t.Helper()
	s.exec(t, `UPDATE nofx.step SET ready_at = ready_at - interval '1 hour', due_at = due_at - interval '1 hour' WHERE state = 'ready'`)
	s.exec(t, `UPDATE river.river_job SET state = 'completed', finalized_at = now()`)
}

// A paused queue of a tenant is closed to claims, chains included, and open to those
// of others; what came meanwhile is ready, no sweep looks at it, and it goes on after.
func TestPauseQueue(t *testing.T) {
	t.Parallel()
	s := setup(t)
	other := *s
	other.tenant = s.Tenant(t)
	r, steps := s.create(t, "a:", "b: a", "c:")
	running := s.claim(t, steps["a"].ID)
	_, theirs := other.create(t, "a:")
	for range 2 {
		s.pause(t)
	}
	if q := s.stepQueue(t); q.PausedAt == nil || q.PausedBy != "tester" || q.Reason != "moving" || q.Ready != 1 || q.Running != 1 || q.PausedForAll {
		t.Errorf("TenantQueues() = %+v, want it paused by tester, one step ready and one running", q)
	}
	if q := other.stepQueue(t); q.PausedAt != nil || q.Ready != 1 || q.Running != 0 {
		t.Errorf("TenantQueues() of another = %+v, want one step ready and nothing paused", q)
	}
	other.do(t, theirs["a"].ID, "succeed")

	f := outcome(running, "succeed")
	f.Chain = &postgres.Chain{Queue: run.StepQueue, Pre: noCheckpoint}
	if done, err := pgtest.FinishStep(s.ctx, s.DB, f, postgres.Worker{ID: "w1"}, ttl); err != nil || done.Next != nil {
		t.Fatalf("FinishStep() with a chain = %+v, %v, want nothing taken", done.Next, err)
	}
	s.wantStates(t, r.ID, "running a:succeeded b:ready c:ready")
	for _, name := range []string{"b", "c"} {
		if !s.refused(t, steps[name].ID) {
			t.Fatalf("Claim(%s) in a paused queue = a claim, want none", name)
		}
	}
	s.later(t)
	if made := s.sweep(t, postgres.SweepRules{}); made != nil {
		t.Errorf("sweep while the queue is paused = %v, want nothing", made)
	}
	if err := s.WakeParked(s.ctx); err != nil {
		t.Fatal(err)
	}
	if !s.refused(t, steps["b"].ID) {
		t.Error("Claim(b) after WakeParked of a paused queue = a claim, want none")
	}
	if q := s.stepQueue(t); q.Ready != 2 {
		t.Errorf("TenantQueues() = %+v, want two steps ready", q)
	}

	seq := s.wakeSeq(t, steps["b"].ID)
	for range 2 {
		s.resume(t)
	}
	if got := s.wakeSeq(t, steps["b"].ID); got != seq+1 {
		t.Errorf("wake_seq after a resume = %d, want %d", got, seq+1)
	}
	if n := one[int](t, s, `SELECT count(*) FROM nofx.step s JOIN river.river_job j ON j.id = s.job_id AND j.state = 'available' AND j.metadata ? 'traceparent'
		WHERE s.state = 'ready' AND (j.args->>'wake_seq')::bigint = s.wake_seq`); n != 2 {
		t.Errorf("ready steps with a live job = %d, want 2", n)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.queue_pause"); n != 0 {
		t.Errorf("rows of pauses = %d, want none", n)
	}
	s.do(t, steps["b"].ID, "succeed")
	s.do(t, steps["c"].ID, "succeed")
	s.wantStates(t, r.ID, "succeeded a:succeeded b:succeeded c:succeeded")
	for _, name := range []string{"none", "*", ""} {
		wantKind(t, "PauseQueue("+name+")", s.PauseQueue(s.ctx, s.tenant, name, ""), fault.NotFound, "not-found")
		wantKind(t, "ResumeQueue("+name+")", s.ResumeQueue(s.ctx, s.tenant, name, ""), fault.NotFound, "not-found")
	}
	s.wantSound(t)
}

// A run's own pause and the queue's do not get into each other's way.
func TestPauseOfRunAndQueue(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	s.pause(t)
	if !s.refused(t, steps["a"].ID) {
		t.Fatal("Claim() in a paused queue = a claim, want none")
	}
	if _, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	s.resume(t)
	if !s.refused(t, steps["a"].ID) {
		t.Fatal("Claim() in a paused run = a claim, want none")
	}
	if _, err := s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	s.do(t, steps["a"].ID, "succeed")
	s.wantStates(t, r.ID, "succeeded a:succeeded")

	r, steps = s.create(t, "a:")
	s.pause(t)
	if !s.refused(t, steps["a"].ID) {
		t.Fatal("Claim() in a paused queue = a claim, want none")
	}
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	s.resume(t)
	s.wantStates(t, r.ID, "cancelled a:cancelled")
	s.wantSound(t)
}

// More steps than a request wakes are woken by the workers, also by one that comes
// after another died; a pause in between stops that.
func TestResumeInBatches(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const many = 1300
	s.backlog(t, many)
	s.exec(t, "UPDATE nofx.step SET due_at = 'infinity'") // as claims leave them
	s.pause(t)
	live := func() int {
		return one[int](t, s, "SELECT count(*) FROM nofx.step s JOIN river.river_job j ON j.id = s.job_id AND j.state = 'available' WHERE s.due_at = s.ready_at")
	}
	s.resume(t)
	if n := live(); n != 200 {
		t.Errorf("steps woken by the request = %d, want 200", n)
	}
	s.pause(t)
	if err := s.WakeParked(s.ctx); err != nil || live() != 200 {
		t.Errorf("steps woken while the queue is paused again = %d, %v, want still 200", live(), err)
	}
	s.resume(t)
	s.exec(t, "ANALYZE nofx.step")
	if err := s.WakeParked(s.ctx); err != nil || live() != many {
		t.Errorf("steps woken in the end = %d, %v, want %d", live(), err, many)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.queue_pause"); n != 0 {
		t.Errorf("rows of pauses = %d, want none", n)
	}
}

// backlog inserts ready steps whose wake-ups are spent, each of a run of its own.
func (s *store) backlog(t testing.TB, n int) {
	t.Helper()
	s.exec(t, "ALTER TABLE nofx.run DISABLE TRIGGER USER")
	s.exec(t, "ALTER TABLE nofx.step DISABLE TRIGGER USER")
	s.exec(t, `WITH r AS (
			INSERT INTO nofx.run (tenant_id, id, project_id, goal, event_seq, ready_steps, plan, plan_digest, root_run_id, trace_id, traceparent, created_by, deadline)
			SELECT $1, x.id, p.id, 'g', 1, 1, '{}', 'd', x.id, md5(i::text), '00-' || md5(i::text) || '-b7ad6b7169203331-01', 'x', now() + interval '1 day'
			FROM generate_series(1, $2) AS i, LATERAL (SELECT gen_random_uuid() AS id WHERE i > 0) AS x, nofx.project p WHERE p.tenant_id = $1
			RETURNING id)
		INSERT INTO nofx.step (tenant_id, id, run_id, idx, name, tool, queue, spec, max_attempts, deps_left, state, version, wake_seq, ready_at, due_at)
		SELECT $1, gen_random_uuid(), r.id, 0, 'a', 'bash', 'step', '{}', 1, 0, 'ready', 2, 1, now() - interval '1 minute', now() - interval '1 minute' FROM r`, s.tenant, n)
	s.exec(t, "ALTER TABLE nofx.run ENABLE TRIGGER USER")
	s.exec(t, "ALTER TABLE nofx.step ENABLE TRIGGER USER")
}

// Whatever claims and resumes do at once, no step stays parked in a queue that is not
// paused.
func TestPauseRaces(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const rounds, width = 30, 8
	for round := range rounds {
		var ids []uuid.UUID
		for range width {
			_, steps := s.create(t, "a:")
			ids = append(ids, steps["a"].ID)
		}
		s.pause(t)
		var wg sync.WaitGroup
		for _, id := range ids {
			j := wakeUp(s.tenant, id, s.wakeSeq(t, id))
			wg.Go(func() {
				if _, err := s.Claim(s.ctx, j, postgres.Worker{ID: "w1", PID: 1}, ttl, noCheckpoint); err != nil {
					t.Errorf("Claim() = %v, want nil", err)
				}
			})
		}
		wg.Go(func() {
			if err := s.ResumeQueue(s.ctx, s.tenant, run.StepQueue, ""); err != nil {
				t.Errorf("ResumeQueue() = %v, want nil", err)
			}
		})
		wg.Wait()
		for range width { // steps that were locked are left for a later batch
			if err := s.WakeParked(s.ctx); err != nil {
				t.Fatalf("WakeParked() = %v, want nil", err)
			}
		}
		if n := one[int](t, s, "SELECT count(*) FROM nofx.step WHERE due_at = 'infinity'"); n != 0 {
			t.Fatalf("round %d: %d steps are parked for ever, want none", round, n)
		}
		// Each is running, or has a job for its newest wake-up.
		if lost := all[string](t, s, `SELECT s.state || ' ' || s.wake_seq FROM nofx.step s WHERE s.state <> 'running' AND NOT EXISTS (
			SELECT FROM river.river_job j WHERE j.id = s.job_id AND (j.args->>'wake_seq')::bigint = s.wake_seq)`); len(lost) != 0 {
			t.Fatalf("round %d: steps without a live wake-up: %s, want none", round, fmt.Sprint(lost))
		}
	}
}

// What a tenant asks of its queue, and what wakes its steps, reads none of others',
// also while the statistics know of one tenant alone.
func TestQueuesReadNoOthers(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 1})
	other := *s
	other.tenant = s.Tenant(t)
	const others = 5000
	other.backlog(t, others)
	s.exec(t, "UPDATE nofx.step SET due_at = 'infinity'")
	s.exec(t, "VACUUM ANALYZE nofx.step")
	s.create(t, "a:")
	s.pause(t)
	read := func() int64 {
		if _, err := s.Pool().Exec(s.ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
			t.Fatal(err)
		}
		return one[int64](t, s, "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE schemaname = 'nofx' AND relname = 'step'")
	}
	before := read()
	if q := s.stepQueue(t); q.Ready != 1 || q.More {
		t.Errorf("TenantQueues() = %+v, want one step", q)
	}
	s.resume(t)
	if n := read() - before; n > others/10 {
		t.Errorf("TenantQueues() and ResumeQueue() read %d entries of indexes of steps, want about 1 beside %d of others", n, others)
	}
}
