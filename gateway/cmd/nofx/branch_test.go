package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

// branchRun is a branch of the run that tests use.
func branchRun(n int, name string) api.Run {
	r := detail().Run
	r.ID, r.Name, r.Status, r.ParentRunID, r.ParentCheckpointID = id("run", n), &name, api.RunStatusQueued, ptr(id("run", 1)), ptr(id("ckpt", 1))
	return r
}

func branchPreview() api.BranchPreview {
	return api.BranchPreview{
		Restored:      []api.RestoredStep{{Name: "build", Tool: "bash", RestoredFrom: id("step", 1)}},
		ReopenedGates: []api.ReopenedGate{{Name: "unit", Tool: "gate:unit"}},
		Reruns: []api.RerunStep{{Name: "pack", Tool: "bash", Why: "definition_changed"}, {Name: "ship", Tool: "http", Why: "dependency_reruns", Because: ptr("pack")},
			{Name: "tell", Tool: "http", Why: "not_reached"}},
		EffectsDoneBefore: []api.EffectDone{{Step: "ship", Name: "http", DoneAt: ago(60)}},
		Estimate:          api.BranchEstimate{Steps: 4, KnownSteps: 3, RunMs: 61_000, InputTokens: 1200, CostUsd: 0.25},
	}
}

func comparison() api.Comparison {
	first, second := detail().Run, branchRun(3, "try")
	first.HeadCheckpointID, second.HeadCheckpointID = ptr(id("ckpt", 5)), ptr(id("ckpt", 6))
	second.Status, second.FailureClass, second.FailureSignature = api.RunStatusFailed, ptr(api.FailureClassGateFailed), ptr("v1-0f1e")
	return api.Comparison{
		CommonCheckpointID: ptr(id("ckpt", 1)),
		Runs: []api.ComparedRun{
			{Run: first, Gates: []api.ComparedGate{{Step: "unit", Name: "unit", Status: api.GateStatusPassed, Round: 1}}, DurationMs: ptr(int64(62_000)), Attempts: 3, Diff: &api.ComparedDiff{Files: 3, LinesAdded: 40, LinesDeleted: 7}, InputTokens: 900, OutputTokens: 100, CostUsd: 0.5},
			{Run: second, Gates: []api.ComparedGate{{Step: "unit", Name: "unit", Status: api.GateStatusFailed, Round: 1}}, Attempts: 1, RestoredSteps: 1},
		},
		Steps: []api.StepComparison{
			{Name: "build", Runs: []api.StepInRun{{RunID: first.ID, Status: api.StepStatusSucceeded}, {RunID: second.ID, Status: api.StepStatusSucceeded, Restored: true}}},
			{Name: "unit", Difference: ptr(api.StepDifference("status")), Runs: []api.StepInRun{{RunID: first.ID, Status: api.StepStatusSucceeded}, {RunID: second.ID, Status: api.StepStatusFailed}}},
			{Name: "extra", Difference: ptr(api.StepDifference("missing")), Runs: []api.StepInRun{{RunID: second.ID, Status: api.StepStatusSkipped}}},
		},
	}
}

func lineage() api.Lineage {
	node := func(n int, name *string, status api.RunStatus) api.LineageNode {
		return api.LineageNode{RunID: id("run", n), Name: name, Goal: "ship the fix", Status: status, CreatedBy: alice, CreatedAt: ago(100 - n)}
	}
	edge := func(from, to int) api.LineageEdge {
		return api.LineageEdge{Kind: api.LineageEdgeKindBranch, From: id("run", from), To: id("run", to), CheckpointID: id("ckpt", from)}
	}
	return api.Lineage{RootRunID: id("run", 1),
		Nodes: []api.LineageNode{node(1, nil, api.RunStatusFailed), node(2, ptr("small"), api.RunStatusSucceeded), node(3, ptr("again"), api.RunStatusRunning), node(4, ptr("large"), api.RunStatusFailed), node(5, nil, api.RunStatusQueued)},
		Edges: []api.LineageEdge{edge(1, 2), edge(2, 3), edge(2, 5), edge(1, 4),
			{Kind: api.LineageEdgeKindMerge, From: id("run", 4), To: id("run", 2), CheckpointID: id("ckpt", 7)}}}
}

// TestPatchesAsWritten sends what files of patches and variants hold as it is written, so
// that the gateway sees, and names, every mistake in it.
func TestPatchesAsWritten(t *testing.T) {
	t.Parallel()
	c := newCLI(t, "http://gateway.invalid")
	file := func(name, content string) string {
		path := filepath.Join(c.dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, value := range []string{`"caf` + "\xe9" + `"`, `"\ud800"`, `12345678901234567890.50`, `{"a":1,"a":2}`, `"\u2028<&>"`} {
		patch := `[{"op":"add","path":"/vars/x","value":` + value + `}]`
		f := branchFlags{statePatch: file("state.json", "\ufeff"+patch), planPatch: file("plan.json", patch), variants: []string{file("v.json", `{"state_patch":`+patch+`}`)}}
		body, err := c.branchRequest(f)
		if err != nil {
			t.Errorf("branchRequest of %s: %v", value, err)
			continue
		}
		sent, err := encoded(body)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(sent), patch); n != 3 {
			t.Errorf("request = %s, want %s three times", sent, patch)
		}
	}
	for _, wrong := range []string{"", "{", `[] []`, `{}`, `[] x`} {
		if body, err := c.branchRequest(branchFlags{statePatch: file("bad.json", wrong)}); err == nil {
			t.Errorf("branchRequest of the patch %q = %v, want an error", wrong, body)
		}
	}
	for _, path := range []string{"a\xff=" + file("f", "x"), "\xff=" + id("art", 1)} {
		if body, err := c.branchRequest(branchFlags{files: []string{path}}); err == nil {
			t.Errorf("branchRequest of the file %q = %v, want an error", path, body)
		}
	}
	if body, err := c.branchRequest(branchFlags{deletes: []string{"a\xff"}}); err == nil {
		t.Errorf("branchRequest of a path that is not UTF-8 = %v, want an error", body)
	}
	// A file that no text in JSON can hold comes as it is.
	body, err := c.branchRequest(branchFlags{files: []string{"g=" + file("g", "caf\xe9\x00")}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(body["files"])
	if want := `[{"content_base64":"Y2Fm6QA=","path":"g"}]`; string(raw) != want || err != nil {
		t.Errorf("files = %s, %v, want %s", raw, err, want)
	}
}
