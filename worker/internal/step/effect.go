package step

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/worker/internal/pause"
	"nofx.dev/worker/internal/tool"
)

// effect has the tool do e, unless the ledger knows what came of it. It is noted
// before and recorded after, so that a later attempt either gets the result or
// asks by the same key again. It begins only while the lease is young: when
// another worker has the step by now, that one is to do it. ctx ends with the
// lease; it outlives toolCtx, so that what was done is recorded although the
// worker drains or the time is up.
func (a *attempt) effect(ctx, toolCtx context.Context, e tool.Effect) (json.RawMessage, error) {
	var begun postgres.Effect
	err := a.repeat(toolCtx, "effect is begun again", func() (err error) {
		begun, err = a.db.BeginEffect(toolCtx, a.claim, e.Name, e.Digest)
		return err
	})
	if err != nil || begun.Result != nil {
		return begun.Result, err
	}
	if err := a.leases.Fresh(toolCtx, a.claim); err != nil {
		return nil, err
	}
	if err := failpoint.Hit(failpoint.BeforeEffect); err != nil {
		return nil, err
	}
	result, err := e.Do(toolCtx, begun.Key)
	if err != nil {
		return nil, err
	}
	if err := failpoint.Hit(failpoint.AfterEffect); err != nil {
		return nil, err
	}
	return result, a.repeat(ctx, "effect is recorded again", func() error { // not to record it means to ask again
		return a.db.FinishEffect(ctx, a.claim, begun.Key, result)
	})
}

// repeat tries again while the database does not answer, or the lease is to be
// renewed first, for as long as ctx lasts. The log says so.
func (a *attempt) repeat(ctx context.Context, again string, do func() error) error {
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		err := do()
		if !errors.Is(err, fault.Unavailable) {
			return err
		}
		a.log.WarnContext(ctx, again, "error", err)
		if err := pause.For(ctx, backoff); err != nil {
			return err
		}
	}
}
