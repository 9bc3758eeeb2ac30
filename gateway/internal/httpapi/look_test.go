package httpapi

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
)

// TestTimeline checks the shape of a chart: a step that was tried twice, one that
// waits for a person, one that nothing has begun.
func TestTimeline(t *testing.T) {
	g := newGateway(t)
	created := g.create(plan(`{"name":"a","tool":"bash","inputs":{"script":"true"}},` + manual + `,{"name":"z","tool":"sleep","inputs":{"duration_s":0}}`))
	g.finish(postgres.Finish{Claim: g.claim(created.Steps[0]), Outcome: "interrupted", Reason: "the worker is stopping"})
	g.finish(postgres.Finish{Claim: g.claim(created.Steps[0]), Outcome: "succeed"})
	g.gate(g.claim(created.Steps[1]))
	r := g.get("/api/runs/" + created.Run.ID + "/timeline")
	g.want(r, http.StatusOK, "")
	tl := decodeAs[api.Timeline](t, r)
	if tl.Run.ID != created.Run.ID || tl.Run.Status != api.RunStatusWaiting || tl.At.IsZero() || len(tl.Items) != 3 {
		t.Fatalf("timeline = %s, want the run, its three steps and when", r.body)
	}
	var got [][]api.StepStatus
	for _, item := range tl.Items {
		statuses := []api.StepStatus{}
		for i, span := range item.Spans {
			statuses = append(statuses, span.Status)
			if last := i == len(item.Spans)-1; last && item.Step.Name == "ship" != (span.EndedAt == nil) {
				t.Errorf("step %s ends %v, want an end unless it waits", item.Step.Name, span.EndedAt)
			}
		}
		got = append(got, statuses)
	}
	want := [][]api.StepStatus{{"ready", "running", "ready", "running"}, {"ready", "running", "waiting"}, {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	if a := tl.Items[0].Attempts; len(a) != 2 || a[1].Attempt.Fence != 2 || !a[1].Attempt.Accepted || a[1].Attempt.WorkerID != "w1" {
		t.Errorf("attempts = %+v, want both, the second accepted", a)
	}
	g.want(g.get("/api/runs/"+created.Run.ID+"/timeline?limit=2"), http.StatusBadRequest, "bad-parameter")
}

// TestRunsOfTrace checks that a trace answers the runs that were started in it.
func TestRunsOfTrace(t *testing.T) {
	g := newGateway(t)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	var want []string
	for range 3 {
		r := g.do(http.MethodPost, "/api/runs", oneStep, header{"traceparent": "00-" + trace + "-b7ad6b7169203331-01"})
		g.want(r, http.StatusCreated, "")
		want = append([]string{decodeAs[api.CreatedRun](t, r).Run.ID}, want...)
	}
	g.create(oneStep)
	var got []string
	cursor := ""
	for {
		r := g.get("/api/traces/" + trace + "?limit=2" + cursor)
		g.want(r, http.StatusOK, "")
		p := decodeAs[api.RunPage](t, r)
		for _, item := range p.Items {
			got = append(got, item.ID)
		}
		if p.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *p.NextCursor
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("runs of the trace (-want +got):\n%s", diff)
	}
	g.want(g.get("/api/traces/"+trace+"?limit=0"), http.StatusBadRequest, "bad-parameter")
	g.want(g.get("/api/traces/"+trace+"?cursor="+formatCursor("runs", "1")), http.StatusBadRequest, "bad-cursor")
	for _, id := range []string{"0af7651916cd43dd8448eb211c80319d", "0AF7651916CD43DD8448EB211C80319C", "x", "run_1"} {
		g.want(g.get("/api/traces/"+id), http.StatusNotFound, "not-found")
	}
}

// TestQueuesAndWorkers checks what a tenant sees of queues and workers, and that its
// admins may pause a queue and nobody else.
func TestQueuesAndWorkers(t *testing.T) {
	g := newGateway(t)
	viewer := header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleViewer)}
	beat := func(w postgres.WorkerInfo) {
		t.Helper()
		w.PID, w.Host, w.Version, w.Queues, w.SlotsMax, w.SandboxTier = 7, "host", "v1", []string{"step"}, 16, 2
		if _, err := g.db.BeatWorker(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	beat(postgres.WorkerInfo{ID: "host/a", SlotsUsed: 3})
	beat(postgres.WorkerInfo{ID: "host/b", Draining: true})
	beat(postgres.WorkerInfo{ID: "host/c"})
	beat(postgres.WorkerInfo{ID: "host/d"})
	beat(postgres.WorkerInfo{ID: "host/e", WaitsFor: "storage"})
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.worker SET seen_at = seen_at - interval '16 s' WHERE id = 'host/c'"); err != nil {
		t.Fatal(err)
	}
	r := g.get("/api/workers", viewer)
	g.want(r, http.StatusOK, "")
	workers := decodeAs[api.WorkerPage](t, r).Items
	sort := api.Workers{Version: "v1", Queues: []string{"step"}, SandboxTier: 2}
	var want []api.Workers
	for i, status := range []api.WorkerStatus{api.WorkerStatusServing, api.WorkerStatusDraining, api.WorkerStatusSilent} {
		sort.Status, sort.Workers, sort.SlotsMax = status, 1, 16
		if want = append(want, sort); status == api.WorkerStatusServing {
			want[i].Workers, want[i].SlotsMax = 2, 32
		}
	}
	sort.Status, sort.WaitsFor = api.WorkerStatusServing, ptr("storage")
	want = append(want, sort)
	if diff := cmp.Diff(want, workers); diff != "" {
		t.Errorf("workers (-want +got):\n%s", diff)
	}

	g.create(oneStep)
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.step SET ready_at = ready_at - interval '9 s'"); err != nil {
		t.Fatal(err)
	}
	r = g.get("/api/queues", viewer)
	g.want(r, http.StatusOK, "")
	queues := decodeAs[api.QueuePage](t, r).Items
	if len(queues) != 3 || queues[0].Name != "maintenance" || queues[1].Name != "review" || queues[1].Depth.Ready != 0 || queues[1].Workers != 0 {
		t.Errorf("queues = %s, want maintenance and review, with nothing in them, and step", r.body)
	}
	if q := queues[2]; q.Name != "step" || q.Paused || q.Depth.Ready != 1 || q.Depth.More || q.OldestAgeMs < 9000 || q.Workers != 3 || q.WorkersWaiting != 1 {
		t.Errorf("queues = %s, want one step 9 s old and three workers, of which one waits", r.body)
	}
	paused := g.do(http.MethodPost, "/api/queues/step/pause", `{"reason":"the store is being moved"}`)
	g.want(paused, http.StatusOK, "")
	if q := decodeAs[api.QueueAnswer](t, paused).Queue; !q.Paused || q.PausedAt == nil || q.PausedBy == nil || q.PausedByName == nil || q.Reason == nil || *q.Reason != "the store is being moved" {
		t.Errorf("paused = %s, want it so", paused.body)
	}
	again := decodeAs[api.QueueAnswer](t, g.do(http.MethodPost, "/api/queues/step/pause", ""))
	if first := decodeAs[api.QueueAnswer](t, paused); !again.Queue.PausedAt.Equal(*first.Queue.PausedAt) {
		t.Errorf("paused again = %+v, want it as it was", again)
	}
	anew := decodeAs[api.QueueAnswer](t, g.do(http.MethodPost, "/api/queues/step/pause", `{"reason":"it takes longer"}`)).Queue
	if anew.Reason == nil || *anew.Reason != "it takes longer" || again.Queue.Reason == nil || *again.Queue.Reason != "the store is being moved" || !anew.PausedAt.Equal(*again.Queue.PausedAt) {
		t.Errorf("paused again, with another reason = %+v after %+v, want the reason and the time of before", anew, again.Queue)
	}
	g.want(g.do(http.MethodPost, "/api/queues/step/resume", ""), http.StatusOK, "")
	if q := decodeAs[api.QueuePage](t, g.get("/api/queues")).Items[1]; q.Paused || q.PausedAt != nil {
		t.Errorf("resumed = %+v, want it so", q)
	}
	g.want(g.do(http.MethodPost, "/api/queues/none/pause", ""), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPost, "/api/queues/*/pause", ""), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPost, "/api/queues/step/pause", `{"for":"ever"}`), http.StatusBadRequest, "unknown-field")
	g.want(g.do(http.MethodPost, "/api/queues/step/pause?now=1", ""), http.StatusBadRequest, "bad-parameter")
	supervisor := header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleSupervisor)}
	g.want(g.do(http.MethodPost, "/api/queues/step/pause", "", supervisor), http.StatusForbidden, "forbidden")
	for _, path := range []string{"/api/queues", "/api/workers"} {
		g.want(g.get(path+"?limit=1"), http.StatusBadRequest, "bad-parameter")
	}
}
