package system

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/tool"
)

// makeCheckpoint makes a manual checkpoint of a run: what its finished steps left together,
// when the checkpoint was asked for.
func makeCheckpoint(ctx context.Context, cfg Config, c Call, in run.CheckpointInputs) (tool.Result, error) {
	subject, id, err := ids(in.RunID, in.CheckpointID)
	if err != nil {
		return tool.Result{}, err
	}
	leaves := make([]uuid.UUID, len(in.Leaves))
	for i, leaf := range in.Leaves {
		if leaves[i], err = run.CheckpointID.Parse(leaf); err != nil {
			return tool.Result{}, err
		}
	}
	of, err := cfg.DB.Run(ctx, c.Claim.TenantID, subject)
	if err != nil {
		return tool.Result{}, gone(err)
	}
	parents, err := cfg.DB.Parents(ctx, c.Claim.TenantID, leaves)
	if err != nil {
		return tool.Result{}, gone(err)
	}
	maker := cfg.Checkpoints.For(checkpoint.Author{TenantID: c.Claim.TenantID, RunID: subject, PlanDigest: of.PlanDigest, Fresh: c.Fresh})
	start, conflicts, err := maker.Join(ctx, run.ManualCheckpoint, parents)
	if err != nil {
		return tool.Result{}, err
	}
	if len(conflicts) > 0 {
		return tool.Result{}, tool.Failuref(run.ClassWorkspaceConflict, "the finished steps of the run changed %s differently, first %s", fault.Count(len(conflicts), "place"), conflicts[0].At())
	}
	ck := start.Checkpoint
	ck.ID, ck.Label = id, in.Label
	if err := c.Fresh(ctx); err != nil {
		return tool.Result{}, err
	}
	if err := cfg.DB.AddCheckpoint(ctx, c.Claim, subject, ck); err != nil {
		return tool.Result{}, gone(err)
	}
	fmt.Fprintf(c.Log, "made checkpoint %s of %d\n", in.CheckpointID, len(parents))
	return tool.Result{Outputs: map[string]any{"checkpoint_id": in.CheckpointID}}, nil
}

// ids parses the ids of a run and of a checkpoint.
func ids(runID, checkpointID string) (r, c uuid.UUID, err error) {
	r, err1 := run.RunID.Parse(runID)
	c, err2 := run.CheckpointID.Parse(checkpointID)
	return r, c, errors.Join(err1, err2)
}

// gone returns err, as a failure that another attempt cannot mend where rows are not there
// any more.
func gone(err error) error {
	if errors.Is(err, fault.NotFound) {
		return tool.Failuref(run.ClassInvalid, "%w", err)
	}
	return err
}
