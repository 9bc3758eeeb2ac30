package host_test

import (
	"encoding/json"
	"testing"

	"nofx.dev/shared/run"
)

// One step whose wait cannot be ended must not keep the waits after it waiting.
func TestSweepGoesOnPastOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	nap := func(duration string) run.Run {
		return b.Create(t, run.PlanStep{Name: "nap", Tool: run.ToolSleep, Inputs: json.RawMessage(`{"duration_s":` + duration + `}`)})
	}
	broken := b.Until(t, nap("1.5").ID, run.Waiting)
	if _, err := b.Admin.Exec(b.Ctx, `
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON nofx.step FOR EACH ROW WHEN (OLD.id = '`+broken.Steps[0].ID.String()+`') EXECUTE FUNCTION public.refuse()`); err != nil {
		t.Fatal(err)
	}
	b.Until(t, nap("1.6").ID, run.Succeeded)
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, broken.Run.ID)
	if err != nil || d.Run.State != run.Waiting {
		t.Errorf("the run that cannot go on is %s, %v, want waiting: the test looks at nothing", d.Run.State, err)
	}
}
