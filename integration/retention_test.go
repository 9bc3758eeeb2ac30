package integration_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestRetention has runs expire, with all around them as it runs in production. Of one with
// a label on a checkpoint, logs and events go, rows and bytes, and so do they of the parent
// of a younger branch, which still starts from it; one that nothing needs goes whole, and
// after it what only it had in storage. A younger run stays. Finished jobs go too.
func TestRetention(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2})
	const ofStep = "SELECT count(*) = 0 FROM river.river_job WHERE (args->>'step_id')::uuid = $1"
	plan := func(name string) string {
		return s.create(t, bash("print", "echo printed; echo file > file; echo "+name+" > own"), bash("again", "cat own", "print")).Run.ID
	}
	old, parent, whole, young := plan("old"), plan("parent"), plan("whole"), plan("young") // runs expire in the order in which they were made
	d := s.await(t, old, api.RunStatusSucceeded)
	s.await(t, young, api.RunStatusSucceeded)
	of := s.await(t, parent, api.RunStatusSucceeded)
	w := s.await(t, whole, api.RunStatusSucceeded)
	s.do(t, http.StatusOK, http.MethodPatch, "/api/runs/"+old+"/checkpoints/"+*d.Run.HeadCheckpointID, map[string]any{"label": "kept"})
	at := checkpointOf(t, s, parent, named(t, of, "print").ID, api.CheckpointKindPost).ID
	branch := s.branch(t, parent, at, nil)
	keys := func(kind, id string) (n int) {
		for key := range s.storage.keys(t) {
			if strings.Contains(key, "/"+kind+"/") && strings.Contains(key, strings.TrimPrefix(id, "run_")) {
				n++
			}
		}
		return n
	}
	if keys("log", old) == 0 || keys("log", young) == 0 {
		t.Fatal("there are no logs in storage: the test looks at nothing")
	}
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := s.db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	expire := "UPDATE nofx.run SET created_at = created_at - interval '31 days', finished_at = finished_at - interval '31 days' WHERE id = ANY ($1::uuid[])"
	exec(expire, []string{uuidOf(old), uuidOf(parent), uuidOf(whole)})
	exec("UPDATE nofx.event SET at = at - interval '31 days' WHERE run_id = $1", uuidOf(old)) // the label is as old as the run
	until(t, "the jobs are completed", 3*time.Minute, func() bool {
		return one[bool](t, s, "SELECT bool_and(state = 'completed') FROM river.river_job")
	})
	exec("UPDATE river.river_job SET finalized_at = finalized_at - interval '2 hours' WHERE (args->>'step_id')::uuid = $1", uuidOf(d.Steps[0].ID))

	until(t, "the log's objects are gone", 3*time.Minute, func() bool { return keys("log", old) == 0 })
	until(t, "the events are gone", 3*time.Minute, func() bool {
		return one[bool](t, s, "SELECT count(*) = 0 FROM nofx.event WHERE run_id = $1", uuidOf(old))
	})
	for _, path := range []string{"/api/runs/" + old + "/events", "/api/steps/" + d.Steps[0].ID + "/logs"} {
		s.do(t, http.StatusGone, http.MethodGet, path, nil)
	}
	var told []string
	s.follow(t, "/api/runs/"+old+"/events?until=final", "", func(f api.Frame) bool {
		told = append(told, f.Event)
		return f.Event != "stream.end"
	})
	if got := strings.Join(told, " "); got != "stream.ready stream.gap stream.end" {
		t.Errorf("the stream tells %q, want ready, gap and end", got)
	}
	if again := s.run(t, old); again.Run.Status != api.RunStatusSucceeded || again.Steps[0].Status != api.StepStatusSucceeded {
		t.Errorf("the run = %+v, want it as it was", again.Run)
	}
	checkFiles(t, s, "/api/runs/"+old+"/checkpoints/"+*d.Run.HeadCheckpointID, "")
	until(t, "the run that nothing needs is gone", 3*time.Minute, func() bool {
		return one[bool](t, s, "SELECT count(*) = 0 FROM nofx.run WHERE id = $1", uuidOf(whole))
	})
	for _, path := range []string{"/api/runs/" + whole, "/api/steps/" + w.Steps[0].ID, "/api/runs/" + whole + "/checkpoints/" + *w.Run.HeadCheckpointID} {
		s.do(t, http.StatusNotFound, http.MethodGet, path, nil)
	}
	until(t, "the parent's log is gone", 3*time.Minute, func() bool { return keys("log", parent) == 0 })
	checkFiles(t, s, "/api/runs/"+branch.Run.ID+"/checkpoints/"+*branch.Run.HeadCheckpointID, "")
	if got := s.file(t, s.branch(t, parent, at, map[string]any{"name": "late"}), "own"); got != "parent\n" {
		t.Errorf("file of a branch of an expired run = %q, want what its parent left", got)
	}
	s.collect(t)
	if digest := digestOf([]byte("whole\n")); one[int](t, s, "SELECT count(*)::int FROM nofx.blob WHERE encode(sha256, 'hex') = $1", digest) != 0 {
		t.Error("the content that only the deleted run had is still there")
	}
	if keys("log", young) == 0 || len(s.events(t, young, "50")) == 0 || !strings.Contains(s.log(t, s.run(t, young).Steps[0].ID), "printed") {
		t.Error("the young run lost something")
	}
	// The leader's cleaner comes every half minute.
	until(t, "the finished jobs are gone", 3*time.Minute, func() bool {
		return one[bool](t, s, ofStep, uuidOf(d.Steps[0].ID))
	})
	if one[bool](t, s, "SELECT count(*) = 0 FROM river.river_job WHERE state = 'completed'") {
		t.Error("younger jobs are gone too")
	}
	s.holdObjects(t)
}

// TestCollectionIsKilled kills the worker that collects, between the rows that it has
// deleted and their objects: no row is without its bytes, and another worker ends the
// collection, which leaves no orphan.
func TestCollectionIsKilled(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Env: map[string]string{"NOFX_TEST": "1"}})
	doomed := s.doomed(t, 1)
	kept := s.await(t, s.create(t, bash("keep", "echo kept > kept")).Run.ID, api.RunStatusSucceeded)
	gone := s.create(t, bash("go", "echo gone > gone; head -c 300000 /dev/urandom > large")).Run.ID
	s.await(t, gone, api.RunStatusSucceeded)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := s.db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("UPDATE nofx.tenant SET settings = settings || '{\"retention_days\": 1}'")
	exec("UPDATE nofx.run SET created_at = created_at - interval '2 days', finished_at = finished_at - interval '2 days' WHERE id = $1", uuidOf(gone))
	exec("UPDATE nofx.run SET created_at = created_at - interval '2 days' WHERE id = $1", uuidOf(kept.Run.ID)) // it was made first
	until(t, "the run is gone, and its log", 3*time.Minute, func() bool {
		return one[bool](t, s, "SELECT count(*) = 1 FROM nofx.run") && one[bool](t, s, "SELECT count(*) = 0 FROM nofx.object WHERE state = 'condemned'")
	})
	const age = "UPDATE nofx.blob SET last_ref = last_ref - interval '3 days', condemned_at = condemned_at - interval '3 days'"
	exec(age)
	s.do(t, http.StatusOK, http.MethodPost, "/api/gc", nil)
	exec(age)
	exec("UPDATE nofx.object SET condemned_at = condemned_at - interval '3 days'")

	s.arm(t, doomed, "in_gc")
	awaitDeath := s.deaths(t, doomed)
	ask := func(want int) answer {
		t.Helper()
		return s.do(t, want, http.MethodPost, "/api/gc?wait_s=0", nil, "Idempotency-Key", "killed")
	}
	ask(http.StatusAccepted)
	awaitDeath()
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.object WHERE state = 'condemned'"); n != 2 {
		t.Errorf("%d objects are condemned when the worker is dead, want a pack and a large file", n)
	}
	s.holdObjects(t)
	if _, err := s.AddWorker(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	id := decode[api.GCAnswer](t, ask(http.StatusAccepted)).GcRunID
	s.await(t, id, api.RunStatusSucceeded)
	c := decode[api.GCAnswer](t, ask(http.StatusOK)).Collection
	if c.Objects.N != 2 || one[int](t, s, "SELECT count(*)::int FROM nofx.object WHERE state = 'condemned'") != 0 {
		t.Errorf("the collection of the next worker = %+v, want both objects deleted", c)
	}
	s.holdObjects(t)
	checkFiles(t, s, "/api/runs/"+kept.Run.ID+"/checkpoints/"+*kept.Run.HeadCheckpointID, "")
	s.collect(t)
}

// collect collects garbage three times, when all that is stored was last used days ago: what
// nothing needs is condemned, then deleted, then its objects are.
func (s *system) collect(t *testing.T) {
	t.Helper()
	for range 3 {
		for _, sql := range []string{
			"UPDATE nofx.blob SET last_ref = last_ref - interval '3 days', condemned_at = condemned_at - interval '3 days'",
			"UPDATE nofx.object SET condemned_at = condemned_at - interval '3 days'",
		} {
			if _, err := s.db.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		c := decode[api.GCAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/gc", nil)).Collection
		t.Logf("collection: %d condemned, %d deleted, %d objects and %d orphans deleted, of %d checkpoints", c.Condemned.N, c.Deleted.N, c.Objects.N, c.Orphans.N, c.Checkpoints)
	}
	v := decode[api.VerifyStorageAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/storage/verify", map[string]any{"deep": true})).Verification
	if v.Missing.N+v.Corrupt.N+v.Unbacked+v.Orphans.N != 0 {
		t.Errorf("verification afterwards = %+v, want all sound and no orphan", v)
	}
}
