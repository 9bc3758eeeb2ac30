package integration_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestRetention has a run expire, with all around it as it runs in production: its
// log and its events go, rows and bytes; the run, its checkpoints and another,
// younger run stay. Finished jobs go too.
func TestRetention(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2})
	const ofStep = "SELECT count(*) = 0 FROM river.river_job WHERE (args->>'step_id')::uuid = $1"
	plan := func() string { return s.create(t, bash("print", "echo printed; echo file > file")).Run.ID }
	old, young := plan(), plan()
	d := s.await(t, old, api.RunStatusSucceeded)
	s.await(t, young, api.RunStatusSucceeded)
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
	exec("UPDATE nofx.run SET created_at = created_at - interval '31 days', finished_at = finished_at - interval '31 days' WHERE id = $1", uuidOf(old))
	until(t, "the jobs are completed", 3*time.Minute, func() bool {
		return one[bool](t, s, "SELECT count(*) = 2 FROM river.river_job WHERE state = 'completed'")
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
