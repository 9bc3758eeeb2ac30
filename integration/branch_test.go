package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// branch makes a branch of a run and waits until it has ended well.
func (s *system) branch(t *testing.T, parent, checkpoint string, change map[string]any) api.RunDetail {
	t.Helper()
	body := map[string]any{"checkpoint_id": checkpoint}
	for k, v := range change {
		body[k] = v
	}
	made := decode[api.CreatedBranches](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+parent+"/branches", body))
	return s.await(t, made.Run.ID, api.RunStatusSucceeded)
}

// rowsOf returns all that the database has of a run, as text.
func (s *system) rowsOf(t *testing.T, id string) string {
	t.Helper()
	return one[string](t, s, `WITH r AS (SELECT * FROM nofx.run WHERE nofx.public_id('run', id) = $1)
		SELECT concat_ws(E'\n', (SELECT r::text FROM r),
			(SELECT string_agg(s::text, E'\n' ORDER BY s.idx) FROM nofx.step s, r WHERE s.run_id = r.id),
			(SELECT string_agg(e::text, E'\n' ORDER BY e.seq) FROM nofx.event e, r WHERE e.run_id = r.id),
			(SELECT string_agg(c::text, E'\n' ORDER BY c.seq) FROM nofx.checkpoint c, r WHERE c.run_id = r.id),
			(SELECT string_agg(g::text, E'\n' ORDER BY g.id) FROM nofx.gate g, r WHERE g.run_id = r.id),
			(SELECT string_agg(x::text, E'\n' ORDER BY x.key) FROM nofx.step_effect x, r WHERE x.run_id = r.id))`, id)
}

// file returns a file of the newest checkpoint of a run.
func (s *system) file(t *testing.T, d api.RunDetail, path string) string {
	t.Helper()
	return string(s.do(t, http.StatusOK, http.MethodGet, "/api/runs/"+d.Run.ID+"/checkpoints/"+deref(d.Run.HeadCheckpointID)+"/file?path="+path, nil).body)
}

func restoredOf(d api.RunDetail) string {
	var names []string
	for _, st := range d.Steps {
		if st.RestoredFrom != nil {
			names = append(names, st.Name)
		}
	}
	return strings.Join(names, " ")
}

// TestBranches tries other ways from the checkpoints of one run, which stays what it is.
func TestBranches(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	s := up(t, harness.Config{Workers: 2, WorkerEnv: map[string]string{"NOFX_EGRESS_ALLOW": l.Listener.Addr().String()}})
	pay, _ := l.request(1)
	pay.DependsOn = []string{"a"}
	last := bash("b", `cat f > out; echo "$V" >> out`, "check")
	last.Inputs["env"] = map[string]string{"V": "${{ steps.a.outputs.v }}"}
	first := s.await(t, s.create(t, bash("a", `echo one > f; echo v=1 >> "$NOFX_OUTPUT"`), pay,
		step{Name: "check", Tool: "gate:unit", Inputs: map[string]any{"command": "cat f"}, DependsOn: []string{"pay"}}, last).Run.ID, api.RunStatusSucceeded)
	id := first.Run.ID
	at := func(d api.RunDetail, name string) string {
		return checkpointOf(t, s, d.Run.ID, named(t, d, name).ID, api.CheckpointKindPost).ID
	}
	before := s.rowsOf(t, id)

	// An edited file: all that runs sees it, and the request is done again under a key of the branch.
	edited := s.branch(t, id, at(first, "a"), map[string]any{"name": "two", "reason": "try two", "files": []map[string]any{{"path": "f", "content": "two\n"}}})
	if got := restoredOf(edited); got != "a" || s.file(t, edited, "out") != "two\n1\n" || len(l.effects) != 2 {
		t.Errorf("branch with another file restored %q, left %q and has the ledger charge %d times; want a, two and two", got, s.file(t, edited, "out"), len(l.effects))
	}
	list := items[api.Checkpoint](t, s.client, "/api/runs/"+edited.Run.ID+"/checkpoints", "50")
	if first := list[0]; first.Kind != api.CheckpointKindEdit || len(first.Parents) != 1 || first.Parents[0] != deref(edited.Run.ParentCheckpointID) {
		t.Errorf("first checkpoint of the branch = %+v, want that of the edit, whose parent is where the branch began", first)
	}
	manifest := members(t, get[api.CheckpointDetail](t, s.client, "/api/runs/"+edited.Run.ID+"/checkpoints/"+list[0].ID).Manifest)
	if e, _ := manifest["edit"].(map[string]any); e["reason"] != "try two" || e["by"] == "" || len(e["files"].([]any)) != 1 {
		t.Errorf("manifest of the edit = %v, want who did it, why and to what", manifest["edit"])
	}

	// A branch that reuses effects has the step succeed with the recorded answer.
	reuses := s.branch(t, id, at(first, "a"), map[string]any{"reuse_effects": true})
	if got, want := string(named(t, reuses, "pay").Outputs), string(named(t, first, "pay").Outputs); got != want || len(l.effects) != 2 {
		t.Errorf("branch that reuses effects has the outputs %s and the ledger charge %d times, want %s and no third", got, len(l.effects), want)
	}

	// Another plan: the gate judges what b left before the new step runs.
	more := s.branch(t, id, at(first, "b"), map[string]any{"plan_patch": []map[string]any{{"op": "add", "path": "/steps/-",
		"value": map[string]any{"name": "c", "tool": "bash", "inputs": map[string]any{"script": "cat f out"}, "depends_on": []string{"b"}}}}})
	gate := gateOf(t, more, named(t, more, "check").ID)
	if got := restoredOf(more); got != "a pay b" || s.log(t, named(t, more, "c").ID) != "one\none\n1\n" || gate.Round != 1 || deref(gate.DecidedAt).After(deref(named(t, more, "c").StartedAt)) {
		t.Errorf("branch with a step more restored %q, wrote %q after gate %+v; want a pay b, the files, and the gate before", got, s.log(t, named(t, more, "c").ID), gate)
	}
	if s.log(t, named(t, more, "a").ID) != s.log(t, named(t, first, "a").ID) {
		t.Error("the log of a restored step is not that of the step that ran")
	}

	// Edited outputs: only the step whose inputs name them runs again.
	outputs := s.branch(t, id, at(first, "b"), map[string]any{"state_patch": []map[string]any{
		{"op": "replace", "path": "/steps/a/outputs/outputs/v", "value": "7"}, {"op": "add", "path": "/vars/why", "value": 1.0}}})
	if got := restoredOf(outputs); got != "a pay" || s.file(t, outputs, "out") != "one\n7\n" || len(l.effects) != 2 {
		t.Errorf("branch with other outputs restored %q and left %q, want a pay and 7", got, s.file(t, outputs, "out"))
	}

	// Branches of branches refer to the step that ran, and keep the edits of the line.
	line := s.branch(t, edited.Run.ID, at(edited, "pay"), nil)
	line = s.branch(t, line.Run.ID, at(line, "b"), map[string]any{"files": []map[string]any{{"path": "f", "delete": true}},
		"plan_patch": []map[string]any{{"op": "replace", "path": "/steps/2/inputs/command", "value": "test ! -e f"}, {"op": "replace", "path": "/steps/3/inputs/script", "value": "echo none > out"}}})
	if got := restoredOf(line); got != "a pay" || s.file(t, line, "out") != "none\n" || *named(t, line, "a").RestoredFrom != named(t, first, "a").ID || *named(t, line, "pay").RestoredFrom != named(t, edited, "pay").ID || line.Run.RootRunID != id {
		t.Errorf("branch of a branch of a branch restored %q of %s and %s under %s, want a of the first run and pay of its first branch", got,
			*named(t, line, "a").RestoredFrom, *named(t, line, "pay").RestoredFrom, line.Run.RootRunID)
	}

	if after := s.rowsOf(t, id); after != before {
		t.Errorf("the parent's rows are\n%s\nwant them as they were\n%s", after, before)
	}

	// A hundred branches are a hundred runs, and store nothing.
	s.do(t, http.StatusOK, http.MethodPost, "/api/queues/step/pause", map[string]any{"reason": "count"})
	objects := len(s.storage.keys(t))
	rows := func() string {
		return one[string](t, s, "SELECT concat_ws(' ', (SELECT count(*) FROM nofx.checkpoint), (SELECT count(*) FROM nofx.blob), (SELECT count(*) FROM nofx.object), (SELECT count(*) FROM nofx.attempt), (SELECT count(*) FROM nofx.log_chunk))")
	}
	held, runs := rows(), one[int](t, s, "SELECT count(*)::int FROM nofx.run")
	var made []string
	for i := 0; len(made) < 96; i++ { // it has four
		var variants []map[string]any
		for j := range 16 {
			variants = append(variants, map[string]any{"name": fmt.Sprintf("%d-%d", i, j)})
		}
		answer := decode[api.CreatedBranches](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+id+"/branches", map[string]any{"checkpoint_id": at(first, "a"), "variants": variants}))
		for _, r := range answer.Runs {
			made = append(made, r.ID)
		}
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.run"); n != runs+96 || len(s.storage.keys(t)) != objects || rows() != held {
		t.Errorf("96 branches made %d runs, %d objects and the rows %s, want %d, %d and %s", n-runs, len(s.storage.keys(t)), rows(), 96, objects, held)
	}
	s.do(t, http.StatusConflict, http.MethodPost, "/api/runs/"+id+"/branches", map[string]any{"checkpoint_id": at(first, "a")})
	for _, run := range made {
		s.do(t, http.StatusOK, http.MethodPost, "/api/runs/"+run+"/cancel", nil)
	}
}
