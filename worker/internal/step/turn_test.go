package step

import (
	"fmt"
	"testing"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
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
				steps[i] = script(fmt.Sprint("s", i), "sleep 0.2")
			}
			steps[1].DependsOn = needs // where one says what it needs, the others need nothing
			long := b.create(t, steps...)
			b.worker(t, func(c *Config) { c.Concurrency = 1 })
			b.until(t, long.ID, run.Running)
			other := *b
			other.tenant = b.Tenant(t)
			other.until(t, other.create(t, script("a", "true")).ID, run.Succeeded)
			if d, err := b.db.RunDetail(b.ctx, b.tenant, long.ID); err != nil || d.Run.State != run.Running {
				t.Errorf("the longer run is %s, %v, when the other one has ended; want it running", d.Run.State, err)
			}
			if _, err := b.db.CancelRun(b.ctx, b.tenant, long.ID, postgres.Verb{Reason: "the test is over"}); err != nil {
				t.Error(err)
			}
		})
	}
}
