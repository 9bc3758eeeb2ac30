package step

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/merge"
	"nofx.dev/worker/internal/tool"
)

// save stores what is in the workspace and makes its checkpoint.
func (a *attempt) save(ctx context.Context, kind run.CheckpointKind, st checkpoint.State) (*postgres.Checkpoint, error) {
	ck, scan, err := a.maker.Save(ctx, a.start, kind, st, a.space.Workspace)
	if err == nil {
		a.saved = scan
	}
	return ck, err
}

// sameTree makes a checkpoint that leaves the workspace as the step found it.
func (a *attempt) sameTree(ctx context.Context, kind run.CheckpointKind, st checkpoint.State, g *postgres.NewGate) (*postgres.Checkpoint, error) {
	var gate *checkpoint.GateRef
	if g != nil {
		gate = &checkpoint.GateRef{ID: run.GateID.Format(g.ID), Verdict: string(run.Pending)}
		if v, ok := verdicts[g.Event]; ok {
			gate.Verdict = string(v)
		}
	}
	return a.maker.SameTree(ctx, a.start, kind, st, gate)
}

// stateWith returns the state that the attempt started from, with its own step added.
func (a *attempt) stateWith(s run.State, outputs json.RawMessage) checkpoint.State {
	return a.start.State.With(a.claim.Name, checkpoint.StepState{State: string(s), Outputs: outputs, Attempt: a.claim.Attempt})
}

// succeeded saves the workspace as the step's post checkpoint. A gate that
// passed gets its row and, like every step that leaves no files, keeps the tree
// that it started from.
func (a *attempt) succeeded(ctx context.Context, r tool.Result) (postgres.Finish, error) {
	outputs, err := outputsOf(r)
	if err != nil {
		return postgres.Finish{}, err
	}
	f := postgres.Finish{Claim: a.claim, Outcome: "succeed", ExitCode: r.ExitCode, Usage: r.Usage, Outputs: outputs, Artifacts: r.Artifacts}
	if r.Verdict == run.Passed {
		if f.Gate, err = a.gate("pass", "", r.Evidence); err != nil {
			return postgres.Finish{}, err
		}
	}
	if rowOf(a.claim.Tool).System {
		return f, nil
	}
	st := a.stateWith(run.Succeeded, outputs)
	var ck *postgres.Checkpoint
	if a.space != nil && rowOf(a.claim.Tool).Files == run.ChangesFiles {
		ck, err = a.save(ctx, run.PostCheckpoint, st)
	} else {
		ck, err = a.sameTree(ctx, run.PostCheckpoint, st, f.Gate)
	}
	if err != nil {
		return postgres.Finish{}, err
	}
	f.Checkpoints = []*postgres.Checkpoint{ck}
	f.Usage.BytesWritten = ck.BytesNew
	if f.Gate != nil {
		return f, a.evidence(ctx, &f)
	}
	return f, nil
}

// gateFailed keeps what the gate judged, with the evidence, and fails the step, unless
// it has an attempt left.
func (a *attempt) gateFailed(ctx context.Context, r tool.Result) (postgres.Finish, error) {
	event, class := "fail", run.ClassGateFailed
	if r.Verdict == run.Error {
		event, class = "error", run.ClassGateError
	}
	reason := gateReason(r)
	outputs, err := outputsOf(tool.Result{Outputs: map[string]any{"verdict": string(r.Verdict)}})
	if err != nil {
		return postgres.Finish{}, err
	}
	g, err := a.gate(event, reason, r.Evidence)
	if err != nil {
		return postgres.Finish{}, err
	}
	ck, err := a.sameTree(ctx, run.GateFailedCheckpoint, a.stateWith(run.Failed, outputs), g)
	if err != nil {
		return postgres.Finish{}, err
	}
	g.ShownCheckpoint, g.ShownDigest = ck.ID, ck.Digest
	f := a.retry(class, reason, 0)
	f.ExitCode, f.Usage, f.Gate, f.Checkpoints = r.ExitCode, r.Usage, g, []*postgres.Checkpoint{ck}
	if f.Outcome == "fail" {
		f.Outputs = outputs
	}
	return f, a.evidence(ctx, &f)
}

func gateReason(r tool.Result) string {
	if reason, ok := r.Evidence["reason"].(string); ok && reason != "" {
		return reason
	}
	if r.ExitCode != nil {
		return fmt.Sprintf("the command ended with exit code %d", *r.ExitCode)
	}
	return "the gate did not pass"
}

// gate returns the next round of a gate with its verdict. What was shown is
// the checkpoint that the step started from, unless the caller knows better.
func (a *attempt) gate(event, reason string, evidence map[string]any) (*postgres.NewGate, error) {
	digest, err := a.inputDigest()
	return &postgres.NewGate{
		ID: run.NewID(), Name: strings.TrimPrefix(a.claim.Tool, run.GateFamily), Kind: rowOf(a.claim.Tool).Gate,
		InputDigest: digest, ShownCheckpoint: a.start.Checkpoint.ID, ShownDigest: a.start.Checkpoint.Digest,
		Evidence: evidence, Event: event, Reason: reason,
	}, err
}

// waiting parks the step: on its gate, for a person, or on a timer. The wait
// checkpoint is what a person is shown and what successors start from.
func (a *attempt) waiting(ctx context.Context, r tool.Result) (postgres.Finish, error) {
	digest, err := a.inputDigest()
	if err != nil {
		return postgres.Finish{}, err
	}
	f := postgres.Finish{
		Claim: a.claim, Outcome: "wait", Reason: "waits for " + string(r.Wait.Kind),
		Wait: &postgres.NewWait{Kind: string(r.Wait.Kind), After: r.Wait.Until, Quorum: r.Wait.Approvals, Key: r.Wait.Key},
	}
	if r.Wait.Kind == tool.ApprovalWait {
		f.Gate = &postgres.NewGate{
			ID: run.NewID(), Name: strings.TrimPrefix(a.claim.Tool, run.ManualFamily), Kind: run.ManualGate,
			Message: a.redactor.String(r.Wait.Message), InputDigest: digest,
		}
	}
	ck, err := a.sameTree(ctx, run.WaitCheckpoint, a.stateWith(run.Waiting, nil), f.Gate)
	if err != nil {
		return postgres.Finish{}, err
	}
	if f.Gate != nil {
		f.Gate.ShownCheckpoint, f.Gate.ShownDigest = ck.ID, ck.Digest
	}
	f.Checkpoints = []*postgres.Checkpoint{ck}
	return f, nil
}

// interrupted keeps what a tool had done when the worker was told to stop, and
// gives the step back. The next attempt starts over from the pre checkpoint; the
// interrupt checkpoint is there to look at.
func (a *attempt) interrupted(ctx context.Context) (postgres.Finish, error) {
	f := postgres.Finish{Claim: a.claim, Outcome: "interrupted", Reason: errDraining.Error()}
	if a.space == nil || rowOf(a.claim.Tool).Files != run.ChangesFiles || a.storage.Away() != nil {
		return f, nil
	}
	ck, err := a.save(ctx, run.InterruptCheckpoint, a.stateWith(run.Running, nil))
	if err != nil {
		a.log.WarnContext(ctx, "interrupt checkpoint", "error", err)
		return f, nil // giving the step back matters more
	}
	f.Checkpoints = []*postgres.Checkpoint{ck}
	return f, nil
}

// conflict fails a step whose dependencies left workspaces or states that do not fit.
func (a *attempt) conflict(conflicts []merge.Conflict) (postgres.Finish, error) {
	outputs, err := json.Marshal(a.redactor.Members(map[string]any{"conflicts": tool.Fit(conflicts[:min(len(conflicts), 200)]), "total": len(conflicts)}))
	if err != nil {
		return postgres.Finish{}, fault.New(fault.Invalid, "workspace-conflict", "conflicts as JSON").Because(err)
	}
	return postgres.Finish{
		Claim: a.claim, Outcome: "fail", FailureClass: run.ClassWorkspaceConflict, Outputs: outputs,
		Reason: fmt.Sprintf("its dependencies changed %d %s differently, first %s", len(conflicts), placesOf(conflicts), conflicts[0].At()),
	}, nil
}

// placesOf returns the noun for the places of conflicts.
func placesOf(conflicts []merge.Conflict) string {
	isPath := func(c merge.Conflict) bool { return c.Path != "" }
	switch {
	case !slices.ContainsFunc(conflicts, isPath):
		return "keys of the state"
	case slices.ContainsFunc(conflicts, func(c merge.Conflict) bool { return !isPath(c) }):
		return "paths and keys of the state"
	}
	return "paths"
}

// outputsOf returns a result's outputs as the step's row keeps them.
func outputsOf(r tool.Result) (json.RawMessage, error) {
	if r.Outputs == nil {
		return nil, nil
	}
	raw, err := json.Marshal(r.Outputs)
	if err != nil {
		return nil, fmt.Errorf("outputs as JSON: %w", err)
	}
	if len(raw) > run.MaxOutputBytes {
		return nil, fault.New(fault.Invalid, "too-large", "outputs of %d bytes; at most %d", len(raw), run.MaxOutputBytes)
	}
	return raw, nil
}
