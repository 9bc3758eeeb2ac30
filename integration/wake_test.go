package integration_test

import (
	"fmt"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestWakeUps treats the queue as badly as a crash could: wake-ups arrive many
// times, for what has moved on, and not at all. Each step runs, once.
func TestWakeUps(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{})
	twice, lost := s.create(t, bash("a", "echo ran"), bash("b", "echo ran")), s.create(t, bash("a", "echo ran"))
	const copies = `INSERT INTO river.river_job (kind, queue, args, metadata, max_attempts, priority, state)
		SELECT kind, queue, %s, metadata, max_attempts, priority, 'available' FROM river.river_job, generate_series(1, %d)
		WHERE args->>'step_id' = $1::uuid::text RETURNING id`
	for _, q := range []string{fmt.Sprintf(copies, "args", 10), fmt.Sprintf(copies, "jsonb_set(args, '{wake_seq}', '99')", 1)} {
		if got := list[int64](t, s, q, uuidOf(twice.Steps[0].ID)); len(got) == 0 {
			t.Fatal("no wake-up was doubled, want some")
		}
	}
	if got := list[int64](t, s, "DELETE FROM river.river_job WHERE args->>'step_id' = $1::uuid::text RETURNING id", uuidOf(lost.Steps[0].ID)); len(got) != 1 {
		t.Fatalf("wake-ups deleted = %d, want 1", len(got))
	}
	for range 3 {
		if _, err := s.AddWorker(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, created := range []api.CreatedRun{twice, lost} {
		for _, st := range s.await(t, created.Run.ID, api.RunStatusSucceeded).Steps {
			if attempts := s.attempts(t, st.ID); len(attempts) != 1 || s.log(t, st.ID) != "ran\n" {
				t.Errorf("step %s = %d attempts, its log %q; want it run once", st.Name, len(attempts), s.log(t, st.ID))
			}
		}
	}
	until(t, "all wake-ups have been heard", 3*time.Minute, func() bool {
		return one[int](t, s, "SELECT count(*)::int FROM river.river_job WHERE state <> 'completed'") == 0
	})
}

// TestPoison has a step that kills its worker each time. The third time that it does so
// while nothing else runs there it is given up; the workers and their other steps live on.
func TestPoison(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2, WorkerEnv: map[string]string{"NOFX_WORKER_CONCURRENCY": "2"}})
	// The parent of a script watches over it; the worker is above.
	id := s.create(t, bash("poison", `worker=$(cut -d' ' -f4 /proc/$PPID/stat); echo killing $worker; kill -9 $worker; sleep 60`)).Run.ID
	innocent := make([]string, 4)
	for i := range innocent {
		innocent[i] = s.create(t, bash("a", "sleep 0.2"), bash("b", "true")).Run.ID
	}
	for _, id := range innocent {
		s.await(t, id, api.RunStatusSucceeded)
	}
	var d api.RunDetail
	until(t, "the poison is found out", 3*time.Minute, func() bool {
		d = s.run(t, id)
		return ended[d.Run.Status]
	})
	attempts := s.attempts(t, d.Steps[0].ID)
	var outcomes []string
	for _, a := range attempts {
		outcomes = append(outcomes, deref(a.Outcome))
	}
	st := d.Steps[0]
	kills := one[int](t, s, "SELECT kills FROM nofx.step WHERE id = $1", uuidOf(st.ID))
	// At first it may have company; from the third time on it has none.
	if deref(st.FailureClass) != api.FailureClassPoisoned || kills != 3 || len(outcomes) < 3 || len(outcomes) > 5 || outcomes[len(outcomes)-1] != "poison" {
		t.Errorf("a step that kills its workers = %s after %v, %d of them alone; want poisoned after three alone", deref(st.FailureClass), outcomes, kills)
	}
	s.await(t, s.create(t, bash("a", "true")).Run.ID, api.RunStatusSucceeded)
}
