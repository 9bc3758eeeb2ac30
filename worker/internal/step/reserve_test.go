package step_test

import (
	"fmt"
	"testing"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// A tenant whose steps take long does not hold all slots of a worker, even once its next
// step was promoted for its long wait: another tenant's run starts and ends meanwhile.
func TestReservedSlots(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const slots, reserved = 8, 1
	steps := make([]run.PlanStep, 3*slots)
	for i := range steps {
		steps[i] = hosttest.Script(fmt.Sprint("s", i), "sleep 600")
		steps[i].TimeoutS = new(600)
	}
	steps[1].DependsOn = []string{"s0"} // where one says what it needs, the others need nothing
	long := b.Create(t, steps...)
	b.Worker(t, func(c *host.Config) { c.Concurrency = slots })
	running := fmt.Sprintf("(SELECT count(*) FROM nofx.step WHERE run_id = '%s' AND state = 'running')", long.ID)
	b.Wait(t, "the tenant has all slots but the reserved", fmt.Sprintf("SELECT %s >= %d", running, slots-reserved))

	if _, err := b.Admin.Exec(b.Ctx, "UPDATE river.river_job SET scheduled_at = scheduled_at - interval '2 minutes' WHERE state = 'available'"); err != nil {
		t.Fatal(err)
	}
	b.Wait(t, "a step is promoted", "SELECT EXISTS (SELECT FROM river.river_job WHERE state = 'available' AND priority = 1)")
	other := *b
	other.TenantID = b.Tenant(t)
	for range 3 {
		other.Until(t, other.Create(t, hosttest.Script("a", "true")).ID, run.Succeeded)
	}
	var got int
	if err := b.Admin.QueryRow(b.Ctx, "SELECT "+running).Scan(&got); err != nil || got != slots-reserved {
		t.Errorf("steps of the first tenant that run = %d, %v, want %d", got, err, slots-reserved)
	}
	if _, err := b.DB.CancelRun(b.Ctx, b.TenantID, long.ID, postgres.Verb{Reason: "the test is over"}); err != nil {
		t.Error(err)
	}
}
