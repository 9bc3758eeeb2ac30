package system

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/tool"
	"nofx.dev/worker/internal/workspace"
)

// bisect looks for the checkpoint at which a command began to fail. It restores one
// checkpoint after another and runs the command in each as a gate does. Each result is
// recorded as soon as it is there, so that a killed worker costs one probe at most.
func bisect(ctx context.Context, cfg Config, c Call, in run.BisectInputs) (tool.Result, error) {
	if why := cfg.Tools.CodeRefused(); why != "" {
		return tool.Result{}, tool.Failuref(run.ClassPolicy, "%s: %s; a retry cannot help before a worker's sandbox does", run.ToolBisect, why)
	}
	subject, good, err := ids(in.RunID, in.Good)
	if err != nil {
		return tool.Result{}, err
	}
	bad, err := run.CheckpointID.Parse(in.Bad)
	if err != nil {
		return tool.Result{}, err
	}
	of, err := cfg.DB.Run(ctx, c.Claim.TenantID, subject)
	if err != nil {
		return tool.Result{}, gone(err)
	}
	list, err := cfg.DB.Candidates(ctx, c.Claim.TenantID, &good, bad)
	if err != nil {
		return tool.Result{}, gone(err)
	}
	b := bisection{Config: cfg, call: c, inputs: in, list: list, search: newSearch(len(list))}
	if b.env, err = allowedEnv(of); err != nil {
		return tool.Result{}, err
	}
	if err := b.resume(ctx); err != nil {
		return tool.Result{}, err
	}
	if b.space, err = cfg.Workspaces.Take(c.Claim.TenantID, c.Claim.RunID); err != nil {
		return tool.Result{}, err
	}
	defer cfg.Workspaces.Give(c.Claim.RunID, b.space)
	for i, ok := b.next(); ok; i, ok = b.next() {
		if err := b.probe(ctx, i); err != nil {
			return tool.Result{}, err
		}
	}
	return b.result()
}

// allowedEnv returns the names of NOFX_STEP_ENV that the plan of a run lets into its steps.
func allowedEnv(r run.Run) ([]string, error) {
	var plan run.Plan
	if err := json.Unmarshal(r.Plan, &plan); err != nil {
		return nil, fmt.Errorf("plan of run %s: %w", r.ID, err)
	}
	if plan.Policy == nil {
		return nil, nil
	}
	return plan.Policy.EnvAllowed, nil
}

// bisection is one attempt at a bisection.
type bisection struct {
	Config
	*search
	call   Call
	inputs run.BisectInputs
	list   []postgres.Candidate
	env    []string
	space  *workspace.Space
}

func (b *bisection) id(i int) string { return run.CheckpointID.Format(b.list[i].ID) }

// resume takes the results of attempts before.
func (b *bisection) resume(ctx context.Context) error {
	probes, err := b.DB.Probes(ctx, b.call.Claim.TenantID, b.call.Claim.RunID)
	if err != nil {
		return err
	}
	at := make(map[uuid.UUID]int, len(b.list))
	for i, c := range b.list {
		at[c.ID] = i
	}
	for _, p := range probes {
		id, err := run.CheckpointID.Parse(p.CheckpointID)
		if err != nil {
			return err
		}
		if i, ok := at[id]; ok {
			b.note(i, p.Outcome)
		}
	}
	return nil
}

// probe runs the command at a candidate and records the result.
func (b *bisection) probe(ctx context.Context, i int) error {
	began := time.Now()
	if err := b.space.Restore(ctx, b.list[i].TreeDigest); err != nil {
		if key, _ := blob.Lost(err); key != "" {
			return tool.Failuref(run.ClassInvalid, "content of checkpoint %s is lost: %w", b.id(i), err)
		}
		return err
	}
	fmt.Fprintf(b.call.Log, "[nofx] checkpoint %s\n", b.id(i))
	inputs, err := json.Marshal(run.GateInputs{Command: b.inputs.Command, Env: b.inputs.Env})
	if err != nil {
		return err
	}
	c := b.call.Claim
	r, err := b.Tools.Run(ctx, tool.Call{
		RunID: run.RunID.Format(c.RunID), StepID: run.StepID.Format(c.StepID), Name: c.Name, Tool: run.GateFamily + "bisect",
		Spec:      run.Spec{Inputs: inputs, TimeoutS: b.inputs.TimeoutS, EnvAllowed: b.env},
		Workspace: b.space.Path, Scratch: b.space.Scratch, Log: b.call.Log,
	})
	b.space.Clear()
	if err != nil {
		return err
	}
	p := run.Probe{CheckpointID: b.id(i), DurationMS: time.Since(began).Milliseconds()}
	switch {
	case r.Verdict == run.Passed:
		p.Outcome = run.ProbeGood
	case r.Verdict != run.Failed || r.ExitCode == nil:
		return tool.Failuref(run.ClassInvalid, "the command cannot judge checkpoint %s: %v", b.id(i), r.Evidence["reason"])
	case *r.ExitCode == run.SkipCode:
		p.Outcome = run.ProbeSkipped
	default:
		p.Outcome = run.ProbeBad
	}
	if r.ExitCode != nil {
		p.ExitCode = *r.ExitCode
	}
	b.note(i, p.Outcome)
	p.Left = b.left()
	if err := b.call.Fresh(ctx); err != nil {
		return err
	}
	fmt.Fprintf(b.call.Log, "[nofx] %s (exit code %d); %d left\n", p.Outcome, p.ExitCode, p.Left)
	return b.DB.RecordProbe(ctx, c, p)
}

// result returns what the probes say: the first bad candidate, or that the command did not
// pass at any candidate, or failed at none.
func (b *bisection) result() (tool.Result, error) {
	last := len(b.list) - 1
	switch {
	case b.good < 0:
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "the command was to pass at the good checkpoint %s, where it is %s; name one as good at which it passes", b.id(0), b.outcomes[0])
	case b.bad > last:
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "the command was to fail at the bad checkpoint %s, where it is %s", b.id(last), b.outcomes[last])
	}
	outputs := map[string]any{"last_good": b.id(b.good), "first_bad": b.id(b.bad)}
	if b.left() > 1 {
		var suspects []string
		for i := b.good + 1; i <= b.bad; i++ {
			suspects = append(suspects, b.id(i))
		}
		outputs["suspects"] = suspects
	}
	return tool.Result{Outputs: outputs}, nil
}
