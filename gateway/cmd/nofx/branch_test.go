package main

import (
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
