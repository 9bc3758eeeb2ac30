package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// chain is a plan of steps a, b and c in this order, of which b may have another tool.
func chain(b string) string {
	return `{"plan":{"goal":"g","steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}},` + b + `,{"name":"c","tool":"bash","inputs":{"script":"true"}}]}}`
}

const (
	shellB = `{"name":"b","tool":"bash","inputs":{"script":"true"}}`
	gateB  = `{"name":"b","tool":"gate:unit","inputs":{"command":"true"}}`
)

// pass does a step as a worker does, and returns the checkpoint that it leaves. That knows
// of the steps done before, in the form of a state document.
func (g *gateway) pass(step api.Step, before ...string) string {
	g.Helper()
	c := g.claim(step)
	outputs := json.RawMessage(`{"by":"` + c.Name + `"}`)
	ck := g.checkpoint(c, run.PostCheckpoint, tree.Empty, []byte("x"))
	ck.State = stateOf(append(before, c.Name)...)
	ck.StateDigest = tree.Sum(ck.State)
	for _, p := range c.Parents {
		ck.Parents = append(ck.Parents, p.ID)
		ck.Generation = max(ck.Generation, p.Generation+1)
	}
	f := postgres.Finish{Claim: c, Outcome: "succeed", Outputs: outputs, Checkpoints: []*postgres.Checkpoint{ck}, Usage: run.Usage{RunMillis: 5, InputTokens: 7}}
	if strings.HasPrefix(c.Tool, run.GateFamily) {
		f.Gate = &postgres.NewGate{ID: run.NewID(), Name: c.Name, Kind: run.CommandGate, InputDigest: tree.Sum(nil).String(), ShownCheckpoint: ck.ID, ShownDigest: ck.Digest, Event: "pass"}
	}
	g.finish(f)
	return run.CheckpointID.Format(ck.ID)
}

func stateOf(steps ...string) []byte {
	doc := map[string]any{"vars": map[string]any{"n": 1}}
	known := map[string]any{}
	for _, name := range steps {
		known[name] = map[string]any{"state": "succeeded", "attempt": 1, "outputs": map[string]any{"by": name}}
	}
	doc["steps"] = known
	raw, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return raw
}

func (g *gateway) detail(runID string) api.RunDetail {
	g.Helper()
	return decodeAs[api.RunDetail](g, g.get("/api/runs/"+runID))
}

// step returns a step of a run by name.
func (g *gateway) step(runID, name string) api.Step {
	g.Helper()
	for _, s := range g.detail(runID).Steps {
		if s.Name == name {
			return s
		}
	}
	g.Fatalf("run %s has no step %s", runID, name)
	return api.Step{}
}

func (g *gateway) branches(runID, body string, headers ...header) reply {
	g.Helper()
	return g.do(http.MethodPost, "/api/runs/"+runID+"/branches", body, headers...)
}

// counted returns how many rows there are of all that a branch writes.
func (g *gateway) counted() string {
	g.Helper()
	var n string
	err := g.pg.Admin.QueryRow(g.Context(), `SELECT concat_ws(' ', (SELECT count(*) FROM nofx.run), (SELECT count(*) FROM nofx.step), (SELECT count(*) FROM nofx.step_dep),
		(SELECT count(*) FROM nofx.event), (SELECT count(*) FROM nofx.run_search), (SELECT count(*) FROM river.river_job), (SELECT count(*) FROM nofx.object), (SELECT count(*) FROM nofx.blob))`).Scan(&n)
	if err != nil {
		g.Fatal(err)
	}
	return n
}

func TestBranches(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(gateB))
	id := created.Run.ID
	a := g.pass(created.Steps[0])
	b := g.pass(g.step(id, "b"), "a")

	r := g.branches(id, `{"checkpoint_id":"`+b+`","name":"try"}`)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.CreatedBranches](g, r)
	if made.Run == nil || len(made.Runs) != 1 || *made.Run.Name != "try" || made.Run.RootRunID != id || *made.Run.ParentRunID != id || *made.Run.ParentCheckpointID != b ||
		made.Run.Status != api.RunStatusQueued || made.Run.TraceID == created.Run.TraceID || r.header.Get("Location") != "/api/runs/"+made.Run.ID {
		t.Errorf("branch = %s, want a queued run of the name under %s at %s", r.body, id, b)
	}
	var words []string
	for _, s := range g.detail(made.Run.ID).Steps {
		words = append(words, fmt.Sprintf("%s:%s%v", s.Name, s.Status, s.DependsOn))
	}
	if got, want := strings.Join(words, " "), "a:succeeded[] b:ready[a] c:pending[b]"; got != want {
		t.Errorf("steps of the branch = %s, want %s", got, want)
	}
	restored := g.step(made.Run.ID, "a")
	if restored.RestoredFrom == nil || *restored.RestoredFrom != created.Steps[0].ID || string(restored.Outputs) != `{"by":"a"}` {
		t.Errorf("restored step = %+v, want that of %s", restored, created.Steps[0].ID)
	}
	if d := decodeAs[api.StepDetail](g, g.get("/api/steps/"+restored.ID)); len(d.Attempts) != 1 {
		t.Errorf("a restored step has %d attempts, want that of the step that ran", len(d.Attempts))
	}
	g.want(g.get("/api/steps/"+restored.ID+"/logs"), http.StatusOK, "")
	g.want(g.get("/api/runs/"+made.Run.ID+"/checkpoints/"+b), http.StatusOK, "")

	// Another plan, and several at once.
	patch := `[{"op":"replace","path":"/steps/0/inputs/script","value":"false"}]`
	r = g.branches(id, `{"checkpoint_id":"`+b+`","plan_patch":`+patch+`}`)
	g.want(r, http.StatusCreated, "")
	changed := decodeAs[api.CreatedBranches](g, r).Run
	if changed.PlanDigest == created.Run.PlanDigest || g.step(changed.ID, "a").Status != api.StepStatusReady {
		t.Errorf("branch of another plan = %s, want one that runs a again", r.body)
	}
	r = g.branches(id, `{"checkpoint_id":"`+a+`","variants":[{"name":"one"},{"name":"two","plan_patch":`+patch+`}]}`)
	g.want(r, http.StatusCreated, "")
	several := decodeAs[api.CreatedBranches](g, r)
	if several.Run != nil || len(several.Runs) != 2 || *several.Runs[1].Name != "two" || several.Runs[1].PlanDigest != changed.PlanDigest || several.Runs[0].TraceID == several.Runs[1].TraceID {
		t.Errorf("variants = %s, want two runs, each of a trace of its own", r.body)
	}
}

func TestBranchPreview(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(gateB))
	id := created.Run.ID
	g.pass(created.Steps[0])
	b := g.pass(g.step(id, "b"), "a")
	claim := g.claim(g.step(id, "c"))
	e, err := g.db.BeginEffect(g.Context(), claim, "http", tree.Sum([]byte("q")).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.db.FinishEffect(g.Context(), claim, e.Key, []byte(`{"status":200}`)); err != nil {
		t.Fatal(err)
	}
	before := g.counted()
	r := g.branches(id, `{"checkpoint_id":"`+b+`","dry_run":true,"reuse_effects":true,"variants":[{"name":"more","plan_patch":[{"op":"add","path":"/steps/-","value":{"name":"d","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]}}]}]}`)
	g.want(r, http.StatusOK, "")
	got := decodeAs[api.BranchPreview](g, r)
	if len(got.EffectsDoneBefore) != 1 || len(got.Variants) != 1 {
		t.Fatalf("preview = %s, want one effect and one variant", r.body)
	}
	got.EffectsDoneBefore[0].DoneAt = got.EffectsDoneBefore[0].DoneAt.Truncate(0)
	want := api.BranchPreview{
		Restored: []api.RestoredStep{{Name: "a", Tool: "bash", RestoredFrom: created.Steps[0].ID}},
		Reruns:   []api.RerunStep{{Name: "c", Tool: "bash", Why: api.RerunReason(run.NotReached)}}, ReopenedGates: []api.ReopenedGate{{Name: "b", Tool: "gate:unit"}},
		EffectsDoneBefore: []api.EffectDone{{Step: "c", Name: "http", DoneAt: got.EffectsDoneBefore[0].DoneAt, Reused: true}},
		Estimate:          api.BranchEstimate{Steps: 2, KnownSteps: 1, RunMs: 5, InputTokens: 7},
	}
	variant := got.Variants[0]
	got.Variants = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("preview (-want +got):\n%s", diff)
	}
	if *variant.Name != "more" || len(variant.Reruns) != 2 || variant.Reruns[1].Why != api.RerunReason(run.NewStep) {
		t.Errorf("preview of the variant = %+v, want the new step d", variant)
	}
	if after := g.counted(); after != before {
		t.Errorf("rows after a dry run = %s, want %s", after, before)
	}
}

// A refused request leaves nothing behind.
func TestBranchRefusals(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(shellB))
	id := created.Run.ID
	a := g.pass(created.Steps[0])
	b := g.pass(g.step(id, "b"), "a")
	c := g.pass(g.step(id, "c"), "a", "b")
	other := g.create(chain(shellB))
	foreign := g.pass(other.Steps[0])
	elsewhere := &gateway{T: t, db: g.db, pg: g.pg, http: g.http, tenant: g.pg.Tenant(t), key: g.key}
	elsewhere.key = elsewhere.newKey(elsewhere.tenant, api.RoleAdmin)
	lost := g.create(chain(shellB))
	claim := g.claim(lost.Steps[0])
	ck := g.checkpoint(claim, run.PostCheckpoint, tree.Sum([]byte("nowhere")), []byte("x"))
	g.finish(postgres.Finish{Claim: claim, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})

	before := g.counted()
	for name, tt := range map[string]struct {
		run, body string
		status    int
		code      string
		pointer   string
	}{
		"no body":                  {id, ` `, http.StatusBadRequest, "malformed-json", ""},
		"unknown field":            {id, `{"checkpoint_id":"` + a + `","plan":{}}`, http.StatusBadRequest, "unknown-field", "/plan"},
		"no checkpoint":            {id, `{}`, http.StatusUnprocessableEntity, "invalid-field", "/checkpoint_id"},
		"no such checkpoint":       {id, `{"checkpoint_id":"` + run.CheckpointID.Format(run.NewID()) + `"}`, http.StatusNotFound, "not-found", ""},
		"another noun":             {id, `{"checkpoint_id":"` + id + `"}`, http.StatusNotFound, "not-found", ""},
		"of another run":           {id, `{"checkpoint_id":"` + foreign + `"}`, http.StatusNotFound, "not-found", ""},
		"no such run":              {run.RunID.Format(run.NewID()), `{"checkpoint_id":"` + a + `"}`, http.StatusNotFound, "not-found", ""},
		"files not in storage":     {lost.Run.ID, `{"checkpoint_id":"` + run.CheckpointID.Format(ck.ID) + `"}`, http.StatusGone, "object-gone", ""},
		"nothing to run":           {id, `{"checkpoint_id":"` + c + `"}`, http.StatusConflict, "nothing-to-run", ""},
		"an empty name":            {id, `{"checkpoint_id":"` + a + `","name":""}`, http.StatusUnprocessableEntity, "invalid-field", "/name"},
		"a long name":              {id, `{"checkpoint_id":"` + a + `","name":"` + strings.Repeat("x", 256) + `"}`, http.StatusUnprocessableEntity, "invalid-field", "/name"},
		"no variants":              {id, `{"checkpoint_id":"` + a + `","variants":[]}`, http.StatusUnprocessableEntity, "invalid-field", "/variants"},
		"many variants":            {id, `{"checkpoint_id":"` + a + `","variants":[` + strings.Repeat(`{"name":"v"},`, 16) + `{"name":"w"}]}`, http.StatusUnprocessableEntity, "invalid-field", "/variants"},
		"a variant without a name": {id, `{"checkpoint_id":"` + a + `","variants":[{}]}`, http.StatusUnprocessableEntity, "invalid-field", "/variants/0/name"},
		"two of one name":          {id, `{"checkpoint_id":"` + a + `","variants":[{"name":"v"},{"name":"v"}]}`, http.StatusUnprocessableEntity, "invalid-field", "/variants/1/name"},
		"no operation":             {id, `{"checkpoint_id":"` + a + `","plan_patch":[{"op":"set","path":"/goal","value":"x"}]}`, http.StatusUnprocessableEntity, "patch-failed", "/plan_patch/0"},
		"a place that is not there": {id, `{"checkpoint_id":"` + a + `","plan_patch":[{"op":"replace","path":"/goal","value":"x"},{"op":"remove","path":"/steps/9"}]}`,
			http.StatusUnprocessableEntity, "patch-failed", "/plan_patch/1"},
		"no plan any more":   {id, `{"checkpoint_id":"` + a + `","plan_patch":[{"op":"replace","path":"/steps","value":7}]}`, http.StatusBadRequest, "malformed-json", "/plan_patch/0"},
		"an unknown tool":    {id, `{"checkpoint_id":"` + a + `","plan_patch":[{"op":"replace","path":"/steps/1/tool","value":"bsh"}]}`, http.StatusUnprocessableEntity, "unknown-tool", "/plan_patch/0"},
		"a step of nothing":  {id, `{"checkpoint_id":"` + a + `","plan_patch":[{"op":"remove","path":"/steps/0"}]}`, http.StatusUnprocessableEntity, "invalid-plan", "/plan_patch/0"},
		"a variant's patch":  {id, `{"checkpoint_id":"` + a + `","variants":[{"name":"v"},{"name":"w","plan_patch":[{"op":"remove","path":"/x"}]}]}`, http.StatusUnprocessableEntity, "patch-failed", "/variants/1/plan_patch/0"},
		"one with no change": {id, `{"checkpoint_id":"` + c + `","variants":[{"name":"v","plan_patch":[{"op":"replace","path":"/steps/2/inputs/script","value":"x"}]},{"name":"w"}]}`, http.StatusConflict, "nothing-to-run", ""},
	} {
		r := g.branches(tt.run, tt.body)
		g.want(r, tt.status, tt.code)
		var p api.Problem
		if err := json.Unmarshal(r.body, &p); err != nil || tt.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != tt.pointer) {
			t.Errorf("%s: errors = %+v, want one at %s", name, p.Errors, tt.pointer)
		}
		if strings.Contains(tt.body, "checkpoint_id") {
			dry := g.branches(tt.run, strings.Replace(tt.body, `{"checkpoint_id"`, `{"dry_run":true,"checkpoint_id"`, 1))
			g.want(dry, tt.status, tt.code)
		}
	}
	g.want(elsewhere.branches(id, `{"checkpoint_id":"`+b+`"}`), http.StatusNotFound, "not-found")
	if after := g.counted(); after != before {
		t.Errorf("rows after refusals = %s, want %s", after, before)
	}
	viewer := &gateway{T: t, http: g.http, key: g.newKey(g.tenant, api.RoleViewer)}
	g.want(viewer.branches(id, `{"checkpoint_id":"`+b+`"}`), http.StatusForbidden, "forbidden")
}

// Edits are kept with the branch until its first step is claimed. A step whose inputs name
// outputs that were edited runs again.
func TestBranchEdits(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(`{"name":"b","tool":"bash","inputs":{"script":"true","env":{"BY":"${{ steps.a.outputs.by }}"}}}`))
	id := created.Run.ID
	a := g.pass(created.Steps[0])
	b := g.pass(g.step(id, "b"), "a")

	for name, tt := range map[string]struct{ body, restored, bases, vars, outputs string }{
		"a variable":    {`"state_patch":[{"op":"add","path":"/vars/x","value":1.50}]`, "a b", b, `{"n":1,"x":1.50}`, ""},
		"nothing":       {`"state_patch":[{"op":"test","path":"/vars/n","value":1}]`, "a b", "", "", ""},
		"the same":      {`"state_patch":[{"op":"replace","path":"/steps/a/outputs/by","value":"a"}]`, "a b", "", "", ""},
		"own outputs":   {`"state_patch":[{"op":"replace","path":"/steps/b/outputs","value":{"by":"me"}}]`, "a b", b, "", `{"b":{"by":"me"}}`},
		"named outputs": {`"state_patch":[{"op":"replace","path":"/steps/a/outputs/by","value":"me"}]`, "a", a, "", `{"a":{"by":"me"}}`},
		"other outputs": {`"state_patch":[{"op":"add","path":"/steps/a/outputs/more","value":null}]`, "a b", b, "", `{"a":{"by":"a","more":null}}`},
		"a file":        {`"files":[{"path":"d/f.txt","content":"x","mode":"755"},{"path":"g","content_base64":"AA=="}]`, "a b", b, "", ""},
	} {
		r := g.branches(id, `{"checkpoint_id":"`+b+`","reason":"to see",`+tt.body+`}`)
		g.want(r, http.StatusCreated, "")
		made := decodeAs[api.CreatedBranches](g, r).Run
		var restored []string
		for _, s := range g.detail(made.ID).Steps {
			if s.RestoredFrom != nil {
				restored = append(restored, s.Name)
			}
		}
		if got := strings.Join(restored, " "); got != tt.restored {
			t.Errorf("%s: restored = %s, want %s", name, got, tt.restored)
		}
		var doc, base string
		err := g.pg.Admin.QueryRow(t.Context(), "SELECT coalesce(max(e.doc), ''), coalesce(max(nofx.public_id('ckpt', e.bases[1])), '') FROM nofx.branch_edit e WHERE e.run_id = $1", uuidOf(g, run.RunID, made.ID)).Scan(&doc, &base)
		if err != nil || base != tt.bases {
			t.Fatalf("%s: edits of %q, %v, want of %q", name, base, err, tt.bases)
		}
		var e run.BranchEdit
		if doc != "" {
			if err := json.Unmarshal([]byte(doc), &e); err != nil || e.Reason != "to see" || e.By == "" {
				t.Errorf("%s: edits = %s, %v, want who made them and why", name, doc, err)
			}
		}
		outputs := ""
		if len(e.Outputs) > 0 {
			outputs = string(encode(e.Outputs))
		}
		if string(e.Vars) != tt.vars || outputs != tt.outputs {
			t.Errorf("%s: edits have variables %s and outputs %s, want %s and %s", name, e.Vars, outputs, tt.vars, tt.outputs)
		}
		if name == "own outputs" && string(g.step(made.ID, "b").Outputs) != `{"by":"me"}` {
			t.Errorf("%s: outputs = %s, want the edited ones", name, g.step(made.ID, "b").Outputs)
		}
	}
}

// Edits of a branch whose steps run again are made of the merge that stands for the steps
// before it, and not of what these left.
func TestBranchEditsAfterAMerge(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(`{"name":"b","tool":"bash","inputs":{"script":"true","env":{"BY":"${{ steps.a.outputs.by }}"}}}`))
	id := created.Run.ID
	a := g.pass(created.Steps[0])
	merge := run.NewID()
	_, err := g.pg.Admin.Exec(t.Context(), fmt.Sprintf(`BEGIN;
		SET LOCAL search_path = nofx;
		SELECT nofx.append_checkpoint(c.tenant_id, c.run_id, jsonb_build_object('id', '%[2]s', 'kind', 'merge', 'generation', c.generation + 1, 'digest', c.digest,
			'manifest', encode(c.manifest, 'base64'), 'state_digest', c.state_digest, 'state_inline', encode(c.state_inline, 'base64'),
			'tree_digest', c.tree_digest, 'bytes_new', 0, 'parents', jsonb_build_array('%[1]s'))) FROM nofx.checkpoint c WHERE c.id = '%[1]s';
		UPDATE nofx.run SET start_checkpoint_id = '%[2]s', head_checkpoint_id = '%[2]s' WHERE id = (SELECT run_id FROM nofx.checkpoint WHERE id = '%[1]s');
		COMMIT`, uuidOf(g, run.CheckpointID, a), merge))
	if err != nil {
		t.Fatal(err)
	}
	b := g.pass(g.step(id, "b"), "a")
	for patch, want := range map[string]string{
		`{"op":"replace","path":"/steps/a/outputs/by","value":"me"}`: run.CheckpointID.Format(merge), // b runs again
		`{"op":"add","path":"/vars/x","value":1}`:                    b,
	} {
		r := g.branches(id, `{"checkpoint_id":"`+b+`","state_patch":[`+patch+`]}`)
		g.want(r, http.StatusCreated, "")
		made := decodeAs[api.CreatedBranches](g, r).Run
		var bases []string
		err := g.pg.Admin.QueryRow(t.Context(), "SELECT ARRAY(SELECT nofx.public_id('ckpt', b) FROM unnest(e.bases) AS b) FROM nofx.branch_edit e WHERE e.run_id = $1", uuidOf(g, run.RunID, made.ID)).Scan(&bases)
		if err != nil || !slices.Equal(bases, []string{want}) {
			t.Errorf("%s: edits of %q, %v, want of %q", patch, bases, err, want)
		}
	}
}

func TestBranchEditRefusals(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(gateB))
	id := created.Run.ID
	claim := g.claim(created.Steps[0])
	node := tree.Encode([]tree.Entry{{Name: "x", Mode: tree.File, Digest: tree.Sum([]byte("x")), Size: 1}})
	root := tree.Encode([]tree.Entry{{Name: "dir", Mode: tree.Directory, Digest: tree.Sum(node), Size: int64(len(node))}, {Name: "link", Mode: tree.Symlink, Digest: tree.Sum([]byte("dir")), Size: 3}})
	ck := g.checkpoint(claim, run.PostCheckpoint, tree.Sum(root), []byte("x"), node, []byte("dir"), root)
	ck.State = stateOf("a")
	ck.StateDigest = tree.Sum(ck.State)
	e, err := g.db.BeginEffect(t.Context(), claim, "http", tree.Sum([]byte("q")).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.db.FinishEffect(t.Context(), claim, e.Key, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	g.finish(postgres.Finish{Claim: claim, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})
	a := run.CheckpointID.Format(ck.ID)
	b := g.pass(g.step(id, "b"), "a")
	before := g.counted()
	const wrong = http.StatusUnprocessableEntity
	for _, tt := range []struct {
		checkpoint, body string
		status           int
		code, pointer    string
	}{
		{a, `"state_patch":[{"op":"add","path":"/vars/x/y","value":1}]`, wrong, "patch-failed", "/state_patch/0"},
		{a, `"state_patch":[{"op":"add","path":"/vars/x","value":1},{"op":"test","path":"/vars/x","value":2}]`, wrong, "patch-failed", "/state_patch/1"},
		{a, `"state_patch":[{"op":"replace","path":"/vars","value":[]}]`, wrong, "patch-failed", "/state_patch/0"},
		{a, `"state_patch":[{"op":"replace","path":"","value":{}}]`, wrong, "invalid-field", "/state_patch/0"},
		{a, `"state_patch":[{"op":"add","path":"/x","value":1}]`, wrong, "invalid-field", "/state_patch/0"},
		{a, `"state_patch":[{"op":"replace","path":"/steps/a/state","value":"failed"}]`, wrong, "invalid-field", "/state_patch/0"},
		{a, `"state_patch":[{"op":"copy","from":"/steps/a/attempt","path":"/vars/x"}]`, wrong, "invalid-field", "/state_patch/0"},
		{a, `"state_patch":[{"op":"remove","path":"/steps/a/outputs"}]`, wrong, "patch-failed", "/state_patch/0"},
		{a, `"state_patch":[{"op":"add","path":"/steps/z/outputs/x","value":1}]`, wrong, "patch-failed", "/state_patch/0"},
		{a, `"state_patch":[{"op":"add","path":"/steps/b/outputs/x","value":1}]`, wrong, "patch-failed", "/state_patch/0"},
		{b, `"state_patch":[{"op":"add","path":"/steps/b/outputs/x","value":1}]`, wrong, "invalid-field", "/state_patch/0"},
		{a, `"state_patch":[{"op":"add","path":"/steps/a/outputs/x","value":1}]`, http.StatusConflict, "effects-done", ""},
		{a, `"force":true,"state_patch":[{"op":"add","path":"/steps/a/outputs/x","value":1}]`, wrong, "reason-required", "/reason"},
		{a, `"files":[{"path":"../x","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"/etc/x","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":".nofx/x","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"x"}]`, wrong, "invalid-field", "/files/0"},
		{a, `"files":[{"path":"x","content":"","delete":true}]`, wrong, "invalid-field", "/files/0"},
		{a, `"files":[{"path":"x","content":""},{"path":"x","delete":true}]`, wrong, "invalid-field", "/files/1/path"},
		{a, `"files":[{"path":"x/y","content":""},{"path":"x","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"none","delete":true}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"dir","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"dir/x/y","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"link/x","content":""}]`, wrong, "invalid-field", "/files/0/path"},
		{a, `"files":[{"path":"x","artifact_id":"` + run.ArtifactID.Format(run.NewID()) + `"}]`, wrong, "invalid-field", "/files/0/artifact_id"},
		{a, `"variants":[{"name":"v"},{"name":"w","files":[{"path":"dir","content":""}]}]`, wrong, "invalid-field", "/variants/1/files/0/path"},
	} {
		r := g.branches(id, `{"checkpoint_id":"`+tt.checkpoint+`",`+tt.body+`}`)
		g.want(r, tt.status, tt.code)
		var p api.Problem
		if err := json.Unmarshal(r.body, &p); err != nil || tt.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != tt.pointer) {
			t.Errorf("%s: errors = %+v, want one at %s", tt.body, p.Errors, tt.pointer)
		}
	}
	if after := g.counted(); after != before {
		t.Errorf("rows after refusals = %s, want %s", after, before)
	}
	for _, body := range []string{
		`"force":true,"reason":"known","state_patch":[{"op":"add","path":"/steps/a/outputs/x","value":1}]`,
		`"files":[{"path":"dir","delete":true},{"path":"dir/x/y","content":""},{"path":"link","content":"no link"}]`,
	} {
		g.want(g.branches(id, `{"checkpoint_id":"`+a+`",`+body+`}`), http.StatusCreated, "")
	}
}
