package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/run"
)

func TestCompareAndLineage(t *testing.T) {
	g := newGateway(t)
	created := g.create(chain(gateB))
	id := created.Run.ID
	a := g.pass(created.Steps[0])
	b := g.pass(g.step(id, "b"), "a")
	g.pass(g.step(id, "c"), "a", "b")
	branch := func(of, checkpoint, more string) string {
		return decodeAs[api.CreatedBranches](g, g.branches(of, `{"checkpoint_id":"`+checkpoint+`"`+more+`}`)).Run.ID
	}
	one := branch(id, b, `,"name":"one"`)
	two := branch(id, a, `,"name":"two","plan_patch":[{"op":"replace","path":"/steps/2/inputs/script","value":"false"},{"op":"add","path":"/steps/-","value":{"name":"d","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]}}]`)
	g.pass(g.step(one, "b"), "a")
	deep := branch(two, a, "")

	// Of one run there is a stored diff; another is where all come from.
	if _, err := g.pg.Admin.Exec(t.Context(), `INSERT INTO nofx.diff (tenant_id, to_id, from_id, options, copy, json_sha256, json_bytes, patch_sha256, patch_bytes, files, lines_added, lines_deleted, truncated)
		SELECT r.tenant_id, r.head_checkpoint_id, $2, $3, 1, sha256('a'), 1, sha256('b'), 1, 3, 40, 7, false FROM nofx.run r WHERE r.id = $1`,
		uuidOf(g, run.RunID, id), uuidOf(g, run.CheckpointID, a), run.DiffInputs{}.Options()); err != nil {
		t.Fatal(err)
	}
	r := g.get("/api/compare?runs=" + id + "," + one + "," + two)
	g.want(r, http.StatusOK, "")
	got := decodeAs[api.Comparison](g, r)
	var words []string
	for _, x := range got.Runs {
		words = append(words, fmt.Sprintf("%s %s attempts %d restored %d tokens %d gates %d", x.Run.ID, x.Run.Status, x.Attempts, x.RestoredSteps, x.InputTokens, len(x.Gates)))
	}
	want := []string{
		id + " succeeded attempts 3 restored 0 tokens 21 gates 1",
		one + " running attempts 1 restored 1 tokens 7 gates 1",
		two + " queued attempts 0 restored 1 tokens 0 gates 0",
	}
	if strings.Join(words, "\n") != strings.Join(want, "\n") {
		t.Errorf("runs =\n%s\nwant\n%s", strings.Join(words, "\n"), strings.Join(want, "\n"))
	}
	if d := got.Runs[0].Diff; got.CommonCheckpointID == nil || *got.CommonCheckpointID != a || d == nil || *d != (api.ComparedDiff{Files: 3, LinesAdded: 40, LinesDeleted: 7}) ||
		got.Runs[1].Diff != nil || got.Runs[2].Diff == nil || got.Runs[2].Diff.Files != 0 {
		t.Errorf("runs = %s, want diffs against %s of the first and the last", r.body, a)
	}
	if got.Runs[0].DurationMs == nil || got.Runs[2].DurationMs != nil || got.Runs[0].Gates[0].Status != api.GateStatusPassed {
		t.Errorf("runs = %s, want the duration of the first, none of the last, and a passed gate", r.body)
	}
	words = nil
	for _, step := range got.Steps {
		difference := api.StepDifference("none")
		if step.Difference != nil {
			difference = *step.Difference
		}
		words = append(words, step.Name+" "+string(difference))
	}
	if got, want := strings.Join(words, ", "), "a none, b status, c definition, d missing"; got != want {
		t.Errorf("steps = %s, want %s", got, want)
	}

	for query, code := range map[string]string{"": "bad-parameter", "?runs=" + id: "bad-parameter", "?runs=" + id + "," + id: "bad-parameter", "?runs=" + id + ",x": "bad-parameter",
		"?runs=" + id + "," + run.RunID.Format(run.NewID()): "not-found", "?runs=" + id + "," + g.create(chain(shellB)).Run.ID: "not-comparable"} {
		status := map[string]int{"bad-parameter": http.StatusBadRequest, "not-found": http.StatusNotFound, "not-comparable": http.StatusUnprocessableEntity}[code]
		g.want(g.get("/api/compare"+query), status, code)
	}
	// The same plan is enough.
	g.want(g.get("/api/compare?runs="+id+","+g.create(chain(gateB)).Run.ID), http.StatusOK, "")
	for query, want := range map[string]string{"": "runs has 0 ids; 2 to 16 can be compared", "?runs=" + id: "runs has 1 id; 2 to 16 can be compared"} {
		if got := decodeAs[api.Problem](t, g.get("/api/compare"+query)).Detail; got != want {
			t.Errorf("compare%s: detail = %q, want %q", query, got, want)
		}
	}

	for _, of := range []string{id, deep} {
		r := g.get("/api/runs/" + of + "/lineage")
		g.want(r, http.StatusOK, "")
		l := decodeAs[api.Lineage](g, r)
		var edges []string
		for _, e := range l.Edges {
			edges = append(edges, e.From+" "+e.To+" "+e.CheckpointID)
		}
		want := []string{id + " " + one + " " + b, id + " " + two + " " + a, two + " " + deep + " " + a}
		if l.RootRunID != id || len(l.Nodes) != 4 || l.Nodes[0].RunID != id || *l.Nodes[1].Name != "one" || strings.Join(edges, "\n") != strings.Join(want, "\n") || l.Truncated {
			t.Errorf("lineage of %s = %s, want four runs under %s", of, r.body, id)
		}
	}
	g.want(g.get("/api/runs/"+run.RunID.Format(run.NewID())+"/lineage"), http.StatusNotFound, "not-found")
}
