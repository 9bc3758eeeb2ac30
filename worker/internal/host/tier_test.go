package host_test

import (
	"testing"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
	"nofx.dev/worker/internal/tool"
)

// TestS31_BelowTheMinimumTier checks that a worker whose sandbox is below its least tier does not
// take steps of queue step, that such a step says why it waits, and that another worker
// then runs it.
func TestS31_BelowTheMinimumTier(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, func(c *host.Config) {
		c.Tools = tool.New(tool.Config{Sandbox: sandboxtest.Bare(), MinTier: 2})
	})
	r := b.Create(t, hosttest.Script("build", "true"))
	const want = "a worker with a sandbox of tier 2; those there have tier 0"
	eventually(t, "the step says what it waits for", func() bool {
		d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID)
		return err == nil && d.Steps[0].State == run.Ready && d.Steps[0].WaitsForWorker == want
	})
	list, err := b.DB.Workers(b.Ctx)
	if err != nil || len(list) != 1 || len(list[0].Queues) != 0 || list[0].TierWanted != 2 {
		t.Errorf("Workers() = %+v, %v, want one that serves no queue and wants tier 2", list, err)
	}
	b.Worker(t, nil)
	b.Until(t, r.ID, run.Succeeded)
}
