package integration_test

import (
	"net/http"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestLookAcross sees a deployment as an operator does: which workers there are,
// also one that was lost, a queue that is paused and obeyed by a worker that starts
// then, what waits in it, and what a run did in the end.
func TestLookAcross(t *testing.T) {
	t.Parallel()
	env := filepath.Join(t.TempDir(), "env")
	s := up(t, harness.Config{EnvFile: env})
	workers := func() []api.Workers { return get[api.WorkerPage](t, s.client, "/api/workers").Items }
	queue := func() api.Queue {
		t.Helper()
		list := get[api.QueuePage](t, s.client, "/api/queues").Items
		i := slices.IndexFunc(list, func(q api.Queue) bool { return q.Name == "step" })
		if i < 0 {
			t.Fatalf("queues = %+v, want step among them", list)
		}
		return list[i]
	}
	if list, q := workers(), queue(); len(list) != 0 || q.Workers != 0 {
		t.Errorf("workers = %+v, of the queue %d, want none yet", list, q.Workers)
	}
	s.do(t, http.StatusOK, "POST", "/api/queues/step/pause", nil)
	run := s.create(t, bash("a", "true"), bash("b", "true")).Run
	w := startWorker(t, env, s.Log("by-hand"), "NOFX_WORKSPACE_DIR="+t.TempDir(), "NOFX_WORKER_CONCURRENCY=3")
	until(t, "the worker is listed", 3*time.Minute, func() bool { return len(workers()) == 1 })
	if got := workers()[0]; got.Workers != 1 || got.Status != api.WorkerStatusServing || got.SlotsMax != 9 || !slices.Equal(got.Queues, []string{"maintenance", "review", "step"}) {
		t.Errorf("workers = %+v, want one with 3 slots on each of its queues", got)
	}
	if q := queue(); !q.Paused || q.Depth.Ready != 1 || q.Workers != 1 {
		t.Errorf("queue = %+v, want it paused, with one step and one worker", q)
	}
	s.do(t, http.StatusOK, "POST", "/api/queues/step/resume", nil)
	s.await(t, run.ID, api.RunStatusSucceeded)
	if q := queue(); q.Paused || q.Depth.Ready != 0 {
		t.Errorf("queue = %+v, want it open and empty", q)
	}

	timeline := get[api.Timeline](t, s.client, "/api/runs/"+run.ID+"/timeline")
	if len(timeline.Items) != 2 || len(timeline.Items[0].Attempts) != 1 || timeline.Items[0].Attempts[0].Attempt.WorkerPid != w.PID() || timeline.Items[0].WaitMs < 1 {
		t.Errorf("timeline = %+v, want two steps, the first of which had waited for the worker", timeline)
	}
	if list := items[api.Run](t, s.client, "/api/traces/"+run.TraceID, "1"); len(list) != 1 || list[0].ID != run.ID {
		t.Errorf("runs of the trace = %+v, want the one", list)
	}
	for _, query := range []string{"status=succeeded,failed", "tool=bash", "q=" + run.Goal[:3], "since=2020-01-01T00:00:00Z"} {
		if list := items[api.Run](t, s.client, "/api/runs?"+query, "1"); len(list) != 1 || list[0].ID != run.ID {
			t.Errorf("runs of %s = %+v, want the one", query, list)
		}
	}

	if err := w.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the lost worker is silent", 3*time.Minute, func() bool { return workers()[0].Status == api.WorkerStatusSilent })
	if q := queue(); q.Workers != 0 {
		t.Errorf("workers of the queue = %d, want the lost one not counted", q.Workers)
	}
}
