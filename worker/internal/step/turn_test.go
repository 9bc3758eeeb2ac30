package step_test

import (
	"fmt"
	"testing"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// A run of many steps does not keep others waiting to its end: on a worker of one
// slot a run of another tenant that came later ends before it, whether the steps
// follow each other in the slot or wait for it all at once.
func TestTurns(t *testing.T) {
	t.Parallel()
	for name, needs := range map[string][]string{"chain": nil, "parallel": {"s0"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			steps := make([]run.PlanStep, 100)
			for i := range steps {
				steps[i] = hosttest.Script(fmt.Sprint("s", i), "sleep 0.2")
			}
			steps[1].DependsOn = needs // where one says what it needs, the others need nothing
			long := b.Create(t, steps...)
			b.Worker(t, func(c *host.Config) { c.Concurrency = 1 })
			b.Until(t, long.ID, run.Running)
			other := *b
			other.TenantID = b.Tenant(t)
			other.Until(t, other.Create(t, hosttest.Script("a", "true")).ID, run.Succeeded)
			if d, err := b.DB.RunDetail(b.Ctx, b.TenantID, long.ID); err != nil || d.Run.State != run.Running {
				t.Errorf("the longer run is %s, %v, when the other one has ended; want it running", d.Run.State, err)
			}
			if _, err := b.DB.CancelRun(b.Ctx, b.TenantID, long.ID, postgres.Verb{Reason: "the test is over"}); err != nil {
				t.Error(err)
			}
		})
	}
}
