package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// line makes a run of steps that each leave another tree, and returns its checkpoints.
func line(g *gateway, steps int) (created api.CreatedRun, ids []string) {
	g.Helper()
	var list []string
	for i := range steps {
		list = append(list, fmt.Sprintf(`{"name":"s%d","tool":"bash","inputs":{"script":"x"}}`, i))
	}
	created = g.create(plan(strings.Join(list, ",")))
	for i, s := range created.Steps {
		c := g.claim(s)
		content := fmt.Appendf(nil, "content %d", i)
		root := tree.Encode([]tree.Entry{{Name: "f", Mode: tree.File, Digest: tree.Sum(content), Size: int64(len(content))}})
		ck := g.checkpoint(c, run.PostCheckpoint, tree.Sum(root), content, root)
		for _, p := range c.Parents {
			ck.Parents = append(ck.Parents, p.ID)
		}
		g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})
		ids = append(ids, run.CheckpointID.Format(ck.ID))
	}
	return created, ids
}

func TestBisect(t *testing.T) {
	g := newGateway(t)
	created, ids := line(g, 4)
	path := "/api/runs/" + created.Run.ID + "/bisect"
	other, otherIDs := line(g, 2)
	for _, tt := range []struct {
		path, body string
		status     int
		code, at   string
	}{
		{path, `{}`, 422, "invalid-field", "/command"},
		{path, `{"command":"  "}`, 422, "invalid-field", "/command"},
		{path, `{"command":"x","env":{"NOFX_X":"1"}}`, 422, "invalid-field", "/env/NOFX_X"},
		{path, `{"command":"x","timeout_s":0}`, 422, "invalid-field", "/timeout_s"},
		{path, `{"command":"x","timeout_s":7201}`, 422, "invalid-field", "/timeout_s"},
		{path, `{"command":"x","good":"ckpt_1"}`, 422, "invalid-field", "/good"},
		{path, `{"command":"x","good":"` + otherIDs[0] + `"}`, 422, "invalid-field", "/good"},
		{path, `{"command":"x","good":"` + ids[3] + `","bad":"` + ids[0] + `"}`, 422, "invalid-field", "/good"},
		{path, `{"command":"x","bad":"ckpt_00000000000000000000000000000001"}`, 422, "invalid-field", "/bad"},
		{path, `{"command":"x","good":"` + ids[2] + `","bad":"` + ids[2] + `"}`, 409, "nothing-to-bisect", ""},
		{"/api/runs/" + g.create(oneStep).Run.ID + "/bisect", `{"command":"x"}`, 409, "no-checkpoint", ""},
	} {
		r := g.do(http.MethodPost, tt.path, tt.body)
		g.want(r, tt.status, tt.code)
		if p := decodeAs[api.Problem](t, r); tt.at != "" && (len(p.Errors) != 1 || p.Errors[0].Pointer != tt.at) {
			t.Errorf("%s: errors = %+v, want %s", tt.body, p.Errors, tt.at)
		}
	}
	if list := decodeAs[api.RunPage](t, g.get("/api/runs?kind=system")).Items; len(list) != 0 {
		t.Fatalf("system runs after refusals = %d, want none", len(list))
	}

	key := header{"Idempotency-Key": "k"}
	bisect := func() reply { return g.do(http.MethodPost, path, `{"command":"test -e x","timeout_s":5}`, key) }
	g.want(bisect(), http.StatusAccepted, "")
	b := decodeAs[api.BisectAnswer](t, bisect()).Bisect
	if b.Candidates != 4 || b.Good != ids[0] || b.Bad != ids[3] || b.RunID != created.Run.ID || b.Status != api.RunStatusQueued || len(b.Probes) != 0 {
		t.Errorf("bisection = %+v, want one from the first to the last of four", b)
	}
	d := decodeAs[api.RunDetail](t, g.get("/api/runs/"+b.ID))
	c := g.claim(d.Steps[0])
	probe := run.Probe{CheckpointID: ids[0], Outcome: run.ProbeGood, DurationMS: 12, Left: 3}
	if err := g.db.RecordProbe(t.Context(), c, probe); err != nil {
		t.Fatal(err)
	}
	b = decodeAs[api.BisectAnswer](t, g.get("/api/bisects/"+b.ID)).Bisect
	if diff := cmp.Diff([]api.BisectProbe{{CheckpointID: ids[0], Outcome: api.BisectProbeOutcomeGood, DurationMs: 12, Left: 3}}, b.Probes); diff != "" || b.FirstBad != nil {
		t.Errorf("bisection under way = %+v, want one probe and no answer (-want +got):\n%s", b, diff)
	}
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Outputs: fmt.Appendf(nil, `{"last_good":%q,"first_bad":%q}`, ids[1], ids[2])})
	r := g.get("/api/bisects/" + b.ID)
	g.want(r, http.StatusOK, "")
	b = decodeAs[api.BisectAnswer](t, r).Bisect
	if cmp.Diff(&ids[1], b.LastGood) != "" || cmp.Diff(&ids[2], b.FirstBad) != "" || cmp.Diff(ptr("s2"), b.FirstBadStepName) != "" ||
		cmp.Diff(&created.Steps[2].ID, b.FirstBadStepID) != "" || cmp.Diff(&created.Run.ID, b.FirstBadRunID) != "" {
		t.Errorf("bisection = %s, want its answer with the step s2", r.body)
	}
	for _, id := range []string{created.Run.ID, other.Run.ID, "run_1"} {
		g.want(g.get("/api/bisects/"+id), http.StatusNotFound, "not-found")
	}
}

// TestBisectRetried retries a bisection that was cancelled: the reason of its end goes with
// the end.
func TestBisectRetried(t *testing.T) {
	g := newGateway(t)
	created, _ := line(g, 3)
	b := decodeAs[api.BisectAnswer](t, g.do(http.MethodPost, "/api/runs/"+created.Run.ID+"/bisect", `{"command":"x"}`)).Bisect
	reason := func(want *string, status api.RunStatus) {
		t.Helper()
		r := g.get("/api/bisects/" + b.ID)
		if got := decodeAs[api.BisectAnswer](t, r).Bisect; got.Status != status || cmp.Diff(want, got.Reason) != "" {
			t.Errorf("bisection = %s, want it %s; reason (-want +got):\n%s", r.body, status, cmp.Diff(want, got.Reason))
		}
	}
	g.want(g.do(http.MethodPost, "/api/runs/"+b.ID+"/cancel", `{"reason":"not now"}`), http.StatusOK, "")
	reason(ptr("not now"), api.RunStatusCancelled)
	g.want(g.do(http.MethodPost, "/api/runs/"+b.ID+"/retry", `{"reason":"now"}`), http.StatusOK, "")
	reason(nil, api.RunStatusRunning)
	c := g.claim(decodeAs[api.RunDetail](t, g.get("/api/runs/"+b.ID)).Steps[0])
	reason(nil, api.RunStatusRunning)
	g.finish(postgres.Finish{Claim: c, Outcome: "fail", FailureClass: run.ClassInvalid, Reason: "no sandbox"})
	reason(ptr("step bisect: no sandbox"), api.RunStatusFailed)
}
