package httpapi

import (
	"net/http"
	"regexp"
	"testing"

	"nofx.dev/gateway/api"
)

// passing is what differs from one run of a test to the next.
var passing = regexp.MustCompile(`(run|step|gate|ckpt|key):?_?[0-9a-f]{32}|[0-9a-f]{32}|"[0-9-]{10}T[0-9:.]+Z"|"age_s":[0-9]+|admin-[0-9a-f]+|sha256:[0-9a-f]+`)

// TestConflicts checks each conflict that the database reports as the bytes that a client
// gets, ids and times apart.
func TestConflicts(t *testing.T) {
	g := newGateway(t)
	queued, cancelled := g.runIn(api.RunStatusQueued), g.runIn(api.RunStatusCancelled)
	g.runIn(api.RunStatusWaiting)
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", ""), http.StatusOK, "")
	failed := g.runIn(api.RunStatusFailed)
	for _, tt := range []struct{ name, path, body, match, want string }{
		{"a verb that the state refuses", "/api/runs/" + cancelled.Run.ID + "/cancel", "", "",
			`{"allowed":["resume","retry"],"code":"illegal-transition","detail":"cancel is not possible while the run is cancelled","event":"cancel","from":"cancelled","instance":"/api/runs/…/cancel","status":409,"title":"Conflict","trace_id":"…","type":"urn:nofx:problem:illegal-transition"}`},
		{"a verb that the state does not know", "/api/runs/" + queued.Run.ID + "/retry", "", "",
			`{"allowed":["cancel","pause"],"code":"illegal-transition","detail":"retry is not possible while the run is queued","event":"retry","from":"queued","instance":"/api/runs/…/retry","status":409,"title":"Conflict","trace_id":"…","type":"urn:nofx:problem:illegal-transition"}`},
		{"a rerun, which the machine does not know", "/api/runs/" + queued.Run.ID + "/rerun", "", "",
			`{"allowed":["cancel","pause"],"code":"illegal-transition","detail":"rerun is not possible while the run is queued","event":"rerun","from":"queued","instance":"/api/runs/…/rerun","status":409,"title":"Conflict","trace_id":"…","type":"urn:nofx:problem:illegal-transition"}`},
		{"a retry of a step, which has no other events", "/api/steps/" + queued.Steps[0].ID + "/retry", "", "",
			`{"allowed":[],"code":"illegal-transition","detail":"retry is not possible while the step is ready","event":"retry","from":"ready","instance":"/api/steps/…/retry","status":409,"title":"Conflict","trace_id":"…","type":"urn:nofx:problem:illegal-transition"}`},
		{"a retry of a dead letter", "/api/dead-letters/" + failed.Steps[1].ID + "/requeue", "", "",
			`{"allowed":[],"code":"illegal-transition","detail":"retry is not possible while the step is skipped: the run is failed; retry the run, which then gets its whole deadline_s again","event":"retry","from":"skipped","instance":"/api/dead-letters/…/requeue","status":409,"title":"Conflict","trace_id":"…","type":"urn:nofx:problem:illegal-transition"}`},
		{"a stale version", "/api/runs/" + queued.Run.ID + "/cancel", "", `"v9"`,
			`{"code":"stale-version","detail":"it has changed in the meantime; its version is now 1","instance":"/api/runs/…/cancel","status":412,"title":"Precondition Failed","trace_id":"…","type":"urn:nofx:problem:stale-version","version":1}`},
		{"a stale version of a gate", "/api/gates/" + gate.ID + "/reject", `{"reason":"no"}`, `"v1"`,
			`{"code":"stale-version","detail":"it has changed in the meantime; its version is now 2","instance":"/api/gates/…/reject","status":412,"title":"Precondition Failed","trace_id":"…","type":"urn:nofx:problem:stale-version","version":2}`},
		{"a gate that was decided", "/api/gates/" + gate.ID + "/reject", `{"reason":"no"}`, "",
			`{"allowed":[],"code":"illegal-transition","detail":"reject is not possible while the gate is passed","event":"reject","from":"passed","gate":{…,"approvals":[{"at":…,"by":"…","by_name":"…","decision":"approve"}],"created_at":…,"decided_at":…,"decided_by":"…","decided_by_name":"…","evidence":{"a":1},"expires_at":…,"id":"…","kind":"manual","message":"Deploy?","name":"ship","quorum":1,"round":1,"run_id":"…","shown_checkpoint_id":"…","shown_digest":"…","status":"passed","step_id":"…","step_name":"ship","version":2},"instance":"/api/gates/…/reject","status":409,"title":"Conflict","trace_id":"…","type":"urn:nofx:problem:illegal-transition"}`},
		{"no such run", "/api/runs/run_0198c0de000000000000000000000000/cancel", "", "",
			`{"code":"not-found","detail":"no such run","instance":"/api/runs/…/cancel","status":404,"title":"Not Found","trace_id":"…","type":"urn:nofx:problem:not-found"}`},
	} {
		r := g.do(http.MethodPost, tt.path, tt.body, header{"If-Match": tt.match})
		got := passing.ReplaceAllString(string(r.body), "…")
		if got != tt.want {
			t.Errorf("%s: body = %s, want %s", tt.name, got, tt.want)
		}
	}
}
