package httpapi

import (
	"bytes"
	"net/http"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
)

// Another tenant's administrator neither pauses what is mine nor sees it, nor the
// machines that it runs on.
func TestQueuesAreOnesOwn(t *testing.T) {
	g := newGateway(t)
	other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
	g.create(plan(manual))
	if _, err := g.db.BeatWorker(t.Context(), postgres.WorkerInfo{ID: "secret-host/1", PID: 4711, Host: "secret-host", Queues: []string{"step"}, SlotsMax: 4}); err != nil {
		t.Fatal(err)
	}
	r := g.do(http.MethodPost, "/api/queues/step/pause", `{"reason":"mine"}`, other)
	g.want(r, http.StatusOK, "")
	for as, want := range map[*header]struct {
		paused bool
		ready  string
	}{{}: {false, `"ready":1,`}, &other: {true, `"ready":0,`}} {
		r := g.get("/api/queues", *as)
		g.want(r, http.StatusOK, "")
		for _, q := range decodeAs[api.QueuePage](t, r).Items {
			if q.Name == "step" && q.Paused != want.paused {
				t.Errorf("queue step = paused %v, want %v: %s", q.Paused, want.paused, r.body)
			}
		}
		if !bytes.Contains(r.body, []byte(want.ready)) {
			t.Errorf("queues = %s, want %s in it", r.body, want.ready)
		}
		if r := g.get("/api/workers", *as); bytes.Contains(r.body, []byte("secret-host")) || bytes.Contains(r.body, []byte("4711")) {
			t.Errorf("workers = %s, want neither host nor pid nor id", r.body)
		}
	}
}
