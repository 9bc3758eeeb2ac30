package tool

import (
	"context"
	"time"

	"nofx.dev/shared/run"
)

// sleep waits without holding a worker; no time at all is done at once.
func (b *Box) sleep(_ context.Context, _ Call, in run.SleepInputs) (Result, error) {
	if in.DurationS == 0 {
		return Result{}, nil
	}
	return Result{Wait: &Wait{Kind: TimerWait, Until: time.Duration(in.DurationS * float64(time.Second))}}, nil
}

// manual waits, holding no worker, for a person's decision.
func (b *Box) manual(_ context.Context, _ Call, in run.ManualInputs) (Result, error) {
	approvals := 1
	if in.Approvals != nil {
		approvals = *in.Approvals
	}
	return Result{Wait: &Wait{Kind: ApprovalWait, Until: in.Expires(), Message: in.Message, Approvals: approvals}}, nil
}

// signal waits, holding no worker, until somebody sends a signal under its key.
// Output: payload, what was sent.
func (b *Box) signal(_ context.Context, c Call, in run.SignalInputs) (Result, error) {
	if c.Signal != nil {
		return Result{Outputs: map[string]any{"payload": c.Signal}}, nil
	}
	return Result{Wait: &Wait{Kind: SignalWait, Until: in.Expires(), Key: in.Key}}, nil
}
