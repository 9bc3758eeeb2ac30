package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/gowebpki/jcs"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/merge"
)

// begin takes the claim and makes the checkpoint that the step starts from, if that can
// be recorded with the claim: it is called inside the claim's transaction, and again when
// that is. Otherwise it returns nil, and join makes it: also where edits of the step's branch
// come first. A system step has no checkpoint.
func (a *attempt) begin(c *postgres.Claim, span trace.SpanContext) (*postgres.Checkpoint, error) {
	a.claim = c
	a.maker = a.checkpoints.For(checkpoint.Author{
		TenantID: c.TenantID, RunID: c.RunID, PlanDigest: c.PlanDigest, Step: c.Name, Fence: c.Fence, Excludes: c.Spec.Excludes,
		Fresh: func(ctx context.Context) error { return a.leases.Fresh(ctx, c) },
	})
	if rowOf(c.Tool).System {
		a.start = &checkpoint.Start{Tree: tree.Empty}
		return nil, nil
	}
	a.start = nil
	if c.Edited {
		return nil, nil
	}
	var err error
	a.start, err = a.maker.Pre(trace.ContextWithSpanContext(context.Background(), span), c.Parents)
	if err != nil || a.start == nil {
		return nil, err
	}
	return a.start.Checkpoint, nil
}

// join makes the checkpoint that the step starts from and records it. Conflicts mean
// that what its dependencies left does not fit together.
func (a *attempt) join(ctx context.Context) ([]merge.Conflict, error) {
	if a.claim.Edited {
		if conflicts, err := a.edit(ctx); err != nil || len(conflicts) > 0 {
			return conflicts, err
		}
	}
	start, conflicts, err := a.maker.Join(ctx, run.PreCheckpoint, a.claim.Parents)
	if err != nil || len(conflicts) > 0 {
		return conflicts, err
	}
	if err := a.db.RecordCheckpoint(ctx, a.claim, start.Checkpoint); err != nil {
		return nil, err
	}
	a.start = start
	return nil, nil
}

// corrupt has the run told by an event when err, which keeps the attempt from
// beginning, is that storage has lost bytes: which checkpoint lacks them, and the
// nearest one before it that does not. It returns err.
func (a *attempt) corrupt(ctx context.Context, err error) error {
	if _, lost := blob.Lost(err); !lost {
		return err
	}
	e, _ := errors.AsType[*fault.Error](err)
	list, lookErr := a.damaged(ctx)
	if lookErr != nil {
		a.log.WarnContext(ctx, "not all is known of a corrupt checkpoint", "error", lookErr)
	}
	for _, d := range list {
		if recordErr := a.db.RecordCorrupt(ctx, a.claim, d.Checkpoint, e.Code, d.Ancestor); recordErr != nil {
			return recordErr
		}
	}
	return err
}

// damaged returns the checkpoints whose bytes are lost: that which the attempt starts
// from or, before there is one, those of the ones it would come of that are not whole.
func (a *attempt) damaged(ctx context.Context) ([]checkpoint.Damage, error) {
	if a.start == nil {
		return a.checkpoints.Damaged(ctx, a.claim.TenantID, a.claim.Parents)
	}
	d, err := a.checkpoints.DamageOf(ctx, a.claim.TenantID, a.start.Checkpoint.ID)
	return []checkpoint.Damage{d}, err
}

// resolve puts the outputs that the inputs name in their place, as the state that
// the attempt starts from knows them. Everything after, digests included, sees the
// resolved inputs; no row ever holds them.
func (a *attempt) resolve(ctx context.Context) error {
	c := a.claim
	inputs, err := run.Resolve(c.Tool, c.Spec.Inputs, func(step string) ([]byte, error) {
		st := a.start.State.Steps[step]
		switch {
		case st.OutputsRef != nil:
			return a.checkpoints.Read(ctx, c.TenantID, *st.OutputsRef)
		case st.State == string(run.Waiting): // its checkpoint is older than the decision
			return a.db.StepOutputs(ctx, c.TenantID, c.RunID, step)
		}
		return st.Outputs, nil
	})
	if err != nil {
		return err
	}
	c.Spec.Inputs = inputs
	return nil
}

// inputDigest returns what a gate's decision binds to: its tool, its inputs and the
// tree that it sees.
func (a *attempt) inputDigest() (string, error) {
	raw, err := json.Marshal(map[string]any{"tool": a.claim.Tool, "inputs": a.claim.Spec.Inputs, "tree": a.start.Tree})
	if err != nil {
		return "", fault.New(fault.Invalid, "invalid-plan", "inputs as JSON").Because(err)
	}
	if raw, err = jcs.Transform(raw); err != nil {
		return "", fault.New(fault.Invalid, "invalid-plan", "inputs in canonical form").Because(err)
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
