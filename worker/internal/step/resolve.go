package step

import (
	"context"
	"fmt"
	"io"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// resolve puts the outputs that the inputs name in their place, as the state that
// the attempt starts from knows them. Everything after, digests included, sees the
// resolved inputs; no row ever holds them.
func (a *attempt) resolve(ctx context.Context) error {
	c := a.claim
	inputs, err := run.Resolve(c.Tool, c.Spec.Inputs, func(step string) ([]byte, error) {
		st := a.start.state.Steps[step]
		switch {
		case st.OutputsRef != nil:
			return a.read(ctx, *st.OutputsRef)
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

// read is a stored content as a whole.
func (a *attempt) read(ctx context.Context, d tree.Digest) ([]byte, error) {
	r, err := a.source.Open(ctx, a.claim.TenantID, d)
	if err != nil {
		return nil, fmt.Errorf("content %s: %w", d, err)
	}
	defer r.Close()
	return io.ReadAll(r)
}
