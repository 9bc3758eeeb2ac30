package step

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/merge"
	"nofx.dev/worker/internal/snapshot"
)

// edit makes the checkpoint of the edits with which the claim's branch begins, unless
// another attempt has made it, and has the step start from it. Conflicts mean that what is
// to be edited does not fit together.
func (a *attempt) edit(ctx context.Context) ([]merge.Conflict, error) {
	ctx, span := tracer().Start(ctx, "checkpoint.edit", trace.WithAttributes(telemetry.CheckpointKindKey.String(string(run.EditCheckpoint))))
	defer span.End()
	c := a.claim
	e, bases, err := a.db.BranchEdit(ctx, c)
	if errors.Is(err, fault.NotFound) {
		return nil, a.db.StartAgain(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	var w *snapshot.Workspace
	var dir string
	if len(e.Files) > 0 {
		space, err := a.spaces.Take(c.TenantID, c.RunID)
		if err != nil {
			return nil, err
		}
		defer a.spaces.Give(c.RunID, space)
		w, dir = space.Workspace, space.Path
	}
	ck, conflicts, err := a.maker.Edit(ctx, bases, e, w, dir, a.openArtifact)
	if err != nil || len(conflicts) > 0 {
		return conflicts, err
	}
	return nil, a.db.RecordEdit(ctx, c, ck)
}
