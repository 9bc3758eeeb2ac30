package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// A label is anybody's who may operate, a hold a supervisor's with a reason; what changes
// is an event with who changed it, and what does not change is none.
func TestMarkCheckpoint(t *testing.T) {
	g := newGateway(t)
	created, path, _ := workspace(g)
	as := func(role api.Role, scopes ...string) header {
		return header{"Authorization": "Bearer " + g.newKey(g.tenant, role, scopes...)}
	}
	operator, supervisor := as(api.RoleOperator), as(api.RoleSupervisor)
	for _, tt := range []struct {
		who    header
		body   string
		status int
		code   string
		label  string
		hold   bool
	}{
		{operator, `{"label":"good"}`, 200, "", "good", false},
		{operator, `{"label":"good"}`, 200, "", "good", false},
		{operator, `{"hold":true,"reason":"audit"}`, 403, "forbidden", "good", false},
		{as(api.RoleService, "checkpoints:write"), `{"hold":true,"reason":"audit"}`, 403, "forbidden", "good", false},
		{as(api.RoleViewer), `{"label":"x"}`, 403, "forbidden", "good", false},
		{supervisor, `{"hold":true}`, 422, "reason-required", "good", false},
		{supervisor, `{"hold":true,"reason":"audit"}`, 200, "", "good", true},
		{supervisor, `{"label":"","hold":false,"reason":"over"}`, 200, "", "", false},
		{supervisor, `{}`, 422, "invalid-field", "", false},
		{supervisor, `{"label":"a\nb"}`, 422, "invalid-field", "", false},
		{supervisor, `{"label":"` + strings.Repeat("x", 101) + `"}`, 422, "invalid-field", "", false},
		{supervisor, `{"label":1}`, 400, "malformed-json", "", false},
		{supervisor, `{"name":"x"}`, 400, "unknown-field", "", false},
	} {
		g.want(g.do(http.MethodPatch, path, tt.body, tt.who), tt.status, tt.code)
		if ck := decodeAs[api.CheckpointDetail](t, g.get(path)).Checkpoint; cmp.Diff(ptr(tt.label), ck.Label) != "" || ck.Hold != tt.hold {
			t.Errorf("after %s: checkpoint = %+v, want label %q, hold %v", tt.body, ck, tt.label, tt.hold)
		}
	}
	for body, want := range map[string]string{
		`{}`: "label or hold is required",
		`{"label":"` + strings.Repeat("é", 101) + `"}`: "/label: 101 characters; at most 100",
		`{"label":" "}`: "/label: has no visible character",
	} {
		if got := decodeAs[api.Problem](t, g.do(http.MethodPatch, path, body, supervisor)).Detail; got != want {
			t.Errorf("PATCH %.20s: detail = %q, want %q", body, got, want)
		}
	}
	var marks []map[string]any
	for _, e := range decodeAs[api.EventPage](t, g.get("/api/runs/"+created.Run.ID+"/events?limit=500")).Items {
		if e.Type == "checkpoint.marked" {
			var data map[string]any
			if err := json.Unmarshal(e.Data, &data); err != nil {
				t.Fatal(err)
			}
			delete(data, "request_trace_id")
			marks = append(marks, data)
		}
	}
	id := path[strings.LastIndex(path, "/")+1:]
	if diff := cmp.Diff([]map[string]any{
		{"checkpoint_id": id, "label": "good"}, {"checkpoint_id": id, "hold": true, "reason": "audit"},
		{"checkpoint_id": id, "hold": false, "label": "", "reason": "over"},
	}, marks); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	other := g.create(oneStep)
	g.want(g.do(http.MethodPatch, "/api/runs/"+other.Run.ID+"/checkpoints/"+id, `{"label":"x"}`), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPatch, "/api/runs/"+created.Run.ID+"/checkpoints/ckpt_1", `{"label":"x"}`), http.StatusNotFound, "not-found")
}

// makeCheckpoint does the step of a run of sys:checkpoint, unless it is to fail.
func (g *gateway) makeCheckpoint(runID string, failure run.FailureClass) {
	g.Helper()
	d := decodeAs[api.RunDetail](g, g.get("/api/runs/"+runID))
	c := g.claim(d.Steps[0])
	if failure != "" {
		g.finish(postgres.Finish{Claim: c, Outcome: "fail", FailureClass: failure, Reason: "it is to fail"})
		return
	}
	in, err := run.Inputs[run.CheckpointInputs](c.Spec.Inputs)
	if err != nil {
		g.Fatal(err)
	}
	ck := g.checkpoint(c, run.ManualCheckpoint, tree.Empty)
	ck.ID, ck.Label = uuidOf(g, run.CheckpointID, in.CheckpointID), in.Label
	for _, leaf := range in.Leaves {
		ck.Parents = append(ck.Parents, uuidOf(g, run.CheckpointID, leaf))
	}
	if err := g.db.AddCheckpoint(g.Context(), c, uuidOf(g, run.RunID, in.RunID), ck); err != nil {
		g.Fatal(err)
	}
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed"})
}

func TestCreateCheckpoint(t *testing.T) {
	g := newGateway(t)
	created, path, _ := workspace(g)
	checkpoints := "/api/runs/" + created.Run.ID + "/checkpoints"
	leaf := path[strings.LastIndex(path, "/")+1:]

	key := header{"Idempotency-Key": "k"}
	g.want(g.do(http.MethodPost, checkpoints+"?wait_s=0", `{"label":"mine"}`, key), http.StatusAccepted, "")
	r := g.do(http.MethodPost, checkpoints+"?wait_s=0", `{"label":"mine"}`, key)
	out := decodeAs[api.CreatedCheckpoint](t, r)
	if r.header.Get("Location") != "/api/runs/"+out.CheckpointRunID || r.header.Get("Idempotent-Replayed") != "true" || out.Checkpoint != nil {
		t.Errorf("create = %s %v, want the answer of before, without a checkpoint", r.body, r.header)
	}
	g.want(g.get(checkpoints+"/"+out.CheckpointID), http.StatusNotFound, "not-found")
	g.makeCheckpoint(out.CheckpointRunID, "")
	r = g.do(http.MethodPost, checkpoints, `{"label":"mine"}`, key)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.CreatedCheckpoint](t, r).Checkpoint
	if made == nil || made.ID != out.CheckpointID || made.Kind != api.CheckpointKindManual || cmp.Diff(ptr("mine"), made.Label) != "" || cmp.Diff([]string{leaf}, made.Parents) != "" {
		t.Errorf("checkpoint = %s, want manual %s, labelled, from %s", r.body, out.CheckpointID, leaf)
	}
	list := decodeAs[api.RunPage](t, g.get("/api/runs?kind=system")).Items
	if len(list) != 1 || cmp.Diff(&created.Run.ID, list[0].SubjectRunID) != "" {
		t.Errorf("system runs = %d, want one about the run", len(list))
	}

	for _, class := range []run.FailureClass{run.ClassWorkspaceConflict, run.ClassInfrastructure} {
		out := decodeAs[api.CreatedCheckpoint](t, g.do(http.MethodPost, checkpoints+"?wait_s=0", "", header{"Idempotency-Key": string(class)}))
		g.makeCheckpoint(out.CheckpointRunID, class)
		g.want(g.do(http.MethodPost, checkpoints, "", header{"Idempotency-Key": string(class)}), http.StatusConflict, "system-run-failed")
	}
	g.want(g.do(http.MethodPost, "/api/runs/"+g.create(oneStep).Run.ID+"/checkpoints", ""), http.StatusConflict, "no-checkpoint")
	g.want(g.do(http.MethodPost, "/api/runs/run_1/checkpoints", ""), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPost, checkpoints, `{"label":"a\u0000"}`), http.StatusUnprocessableEntity, "invalid-field")
	g.want(g.do(http.MethodPost, checkpoints+"?wait_s=26", ""), http.StatusBadRequest, "bad-parameter")
}

// An archive is packed once, and its URL serves the bytes.
func TestArchiveCheckpoint(t *testing.T) {
	g := newGateway(t)
	_, path, _ := workspace(g)
	r := g.do(http.MethodPost, path+"/archive?wait_s=0", "")
	g.want(r, http.StatusAccepted, "")
	id := decodeAs[api.CheckpointArchive](t, r).ArchiveRunID
	if again := decodeAs[api.CheckpointArchive](t, g.do(http.MethodPost, path+"/archive?wait_s=0", "", header{"Idempotency-Key": "k"})); again.ArchiveRunID != id {
		t.Errorf("archive asked for again = run %s, want %s", again.ArchiveRunID, id)
	}
	c := g.claim(decodeAs[api.RunDetail](t, g.get("/api/runs/"+id)).Steps[0])
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Artifacts: []run.Artifact{g.artifact(c, "x.tar.gz", "packed")}})
	r = g.do(http.MethodPost, path+"/archive", "", header{"Idempotency-Key": "k"})
	g.want(r, http.StatusOK, "")
	a := decodeAs[api.CheckpointArchive](t, r).Artifact
	if a == nil || a.URL == nil {
		t.Fatalf("archive = %s, want an artifact with a URL", r.body)
	}
	if content, _ := g.fetch(*a.URL); string(content) != "packed" {
		t.Errorf("at the URL = %q, want the archive", content)
	}
	g.want(g.do(http.MethodPost, path+"0/archive", ""), http.StatusNotFound, "not-found")
}
