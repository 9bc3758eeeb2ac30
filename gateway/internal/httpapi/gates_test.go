package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"nofx.dev/gateway/api"
)

const manual = `{"name":"ship","tool":"manual:deploy","inputs":{"message":"Deploy?"}}`

func TestGates(t *testing.T) {
	g := newGateway(t)
	var ids []string
	for range 3 {
		created := g.create(plan(manual))
		g.gate(g.claim(created.Steps[0]))
	}
	r := g.get("/api/gates?status=pending&kind=manual&limit=2")
	g.want(r, http.StatusOK, "")
	inbox := decodeAs[api.GatePage](t, r)
	more := decodeAs[api.GatePage](t, g.get("/api/gates?status=pending&kind=manual&limit=2&cursor="+*inbox.NextCursor))
	for _, gate := range append(inbox.Items, more.Items...) {
		ids = append(ids, gate.ID)
	}
	if len(ids) != 3 || ids[0] >= ids[1] || ids[1] >= ids[2] {
		t.Fatalf("inbox = %v, want three gates, oldest first", ids)
	}
	if got := decodeAs[api.GatePage](t, g.get("/api/gates?kind=command")); len(got.Items) != 0 {
		t.Errorf("command gates = %v, want none", got.Items)
	}

	for query, want := range map[string]int{"name=ship": 3, "name=other": 0, "project=default&status=pending": 3, "project=none": 0} {
		if got := decodeAs[api.GatePage](t, g.get("/api/gates?"+query)); len(got.Items) != want {
			t.Errorf("gates of %s = %d, want %d", query, len(got.Items), want)
		}
	}
	for _, query := range []string{"name=", "name=A", "project=-", "status=open", "kind=robot", "age=1"} {
		g.want(g.get("/api/gates?"+query), http.StatusBadRequest, "bad-parameter")
	}

	one := g.get("/api/gates/" + ids[0])
	g.want(one, http.StatusOK, "")
	gate := decodeAs[api.GateAnswer](t, one).Gate
	if gate.Message == nil || *gate.Message != "Deploy?" || gate.ExpiresAt == nil || gate.ShownDigest == nil || string(gate.Evidence) != `{"a":1}` {
		t.Errorf("gate = %s, want message, expiry, what was shown and evidence", one.body)
	}
	version := header{"If-Match": fmt.Sprintf(`"v%d"`, gate.Version)}
	g.want(g.do(http.MethodPost, "/api/gates/"+ids[0]+"/approve", "", header{"If-Match": `"v9"`}), http.StatusPreconditionFailed, "stale-version")
	approved := g.do(http.MethodPost, "/api/gates/"+ids[0]+"/approve", "", version)
	g.want(approved, http.StatusOK, "")
	if got := decodeAs[api.GateAnswer](t, approved).Gate; got.Status != api.GateStatusPassed || !strings.HasPrefix(*got.DecidedByName, "admin-") {
		t.Errorf("approved = %s, want passed, decided by the caller", approved.body)
	}
	late := g.do(http.MethodPost, "/api/gates/"+ids[0]+"/reject", `{"reason":"no"}`)
	g.want(late, http.StatusConflict, "illegal-transition")
	if p := decodeAs[api.Problem](t, late); p.Gate == nil || p.Gate.Status != api.GateStatusPassed || p.From == nil || *p.From != "passed" {
		t.Errorf("late rejection = %s, want the gate and who won", late.body)
	}
	for _, verb := range []string{"reject", "waive"} {
		for _, body := range []string{"", `{}`, `{"reason":""}`, `{"reason":"  "}`} {
			g.want(g.do(http.MethodPost, "/api/gates/"+ids[1]+"/"+verb, body), http.StatusUnprocessableEntity, "reason-required")
		}
	}
	g.want(g.do(http.MethodPost, "/api/gates/"+ids[1]+"/approve", `{"decided_by":"someone else"}`), http.StatusBadRequest, "unknown-field")
	g.want(g.do(http.MethodPost, "/api/gates/"+ids[1]+"/reject", `{"reason":"not today"}`), http.StatusOK, "")
	g.want(g.do(http.MethodPost, "/api/gates/"+ids[2]+"/waive", `{"reason":"known"}`), http.StatusOK, "")
	for id, want := range map[string]api.RunStatus{ids[0]: api.RunStatusSucceeded, ids[1]: api.RunStatusFailed, ids[2]: api.RunStatusSucceeded} {
		gate := decodeAs[api.GateAnswer](t, g.get("/api/gates/"+id)).Gate
		if got := decodeAs[api.RunDetail](t, g.get("/api/runs/"+gate.RunID)); got.Run.Status != want || len(got.Gates) != 1 {
			t.Errorf("run of gate %s = %s with %d gates, want %s with 1", gate.Status, got.Run.Status, len(got.Gates), want)
		}
	}
}

// TestFourEyes checks that an author may not approve their own run where the
// tenant wants that.
func TestFourEyes(t *testing.T) {
	g := newGateway(t)
	if _, err := g.pg.Admin.Exec(t.Context(), `UPDATE nofx.tenant SET settings = '{"four_eyes": true}' WHERE tenant_id = $1`, g.tenant); err != nil {
		t.Fatal(err)
	}
	g.gate(g.claim(g.create(plan(manual)).Steps[0]))
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", ""), http.StatusForbidden, "four-eyes")
	other := g.newKey(g.tenant, api.RoleSupervisor)
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", header{"Authorization": "Bearer " + other}), http.StatusOK, "")
}

// TestDecisionsAtOnce approves and rejects at once (fault 52): one wins.
func TestDecisionsAtOnce(t *testing.T) {
	g := newGateway(t)
	g.gate(g.claim(g.create(plan(manual)).Steps[0]))
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	const n = 10
	replies := make([]reply, 2*n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range replies {
		verb := []string{"approve", "reject"}[i%2]
		wg.Go(func() {
			<-start
			replies[i] = g.do(http.MethodPost, "/api/gates/"+gate.ID+"/"+verb, `{"reason":"x"}`)
		})
	}
	close(start)
	wg.Wait()
	won := 0
	for _, r := range replies {
		switch {
		case r.status == http.StatusOK:
			won++
		case r.status != http.StatusConflict || r.code() != "illegal-transition":
			t.Errorf("a loser = %d %s, want 409", r.status, r.body)
		default:
			if p := decodeAs[api.Problem](t, r); p.Gate == nil || p.Gate.DecidedBy == nil {
				t.Errorf("a loser = %s, want the winner", r.body)
			}
		}
	}
	if won != 1 {
		t.Errorf("%d decisions won, want 1", won)
	}
}
