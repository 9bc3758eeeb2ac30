package main

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
)

// Whoever holds the database pauses a queue for all, sees who paused it, and whose
// workers there are.
func TestQueueCommand(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	if _, err := pg.Open(t, postgres.Config{}).BeatWorker(t.Context(), postgres.WorkerInfo{ID: "h/1", PID: 42, Host: "h", Version: "v1", Queues: []string{"step"}, SlotsMax: 4, WaitsFor: "storage"}); err != nil {
		t.Fatal(err)
	}
	const tenant = "00000000-0000-7000-8000-000000000001"
	if _, err := pg.Admin.Exec(t.Context(), "INSERT INTO nofx.tenant (tenant_id, slug) VALUES ($1, 'acme')", tenant); err != nil {
		t.Fatal(err)
	}
	ctx := postgres.WithActor(t.Context(), "somebody")
	if err := pg.Open(t, postgres.Config{}).PauseQueue(ctx, uuid.MustParse(tenant), "step", "own \x1bmigration"); err != nil {
		t.Fatal(err)
	}
	do := func(url string, args ...string) (string, error) {
		var out, problems strings.Builder
		err := command(t.Context(), t.Context(), append([]string{"queue"}, args...), []string{"DATABASE_URL=" + url}, &out, &problems)
		return out.String(), err
	}
	for _, step := range []struct {
		args []string
		want []string
		not  string
	}{
		{[]string{"list"}, []string{"review       0", "step         1", "h/1     serving, waits for storage", "42", "0/4", "acme    step   since 2", " by somebody: own ·migration\n"}, "\x1b"},
		{[]string{"pause", "step", "--reason", "moving house"}, []string{"since ", " by ", ": moving house"}, "another"},
		{[]string{"pause", "step"}, []string{": moving house"}, "another"},
		{[]string{"pause", "step", "--reason", "another"}, []string{": another"}, "moving house"},
		{[]string{"resume", "step"}, []string{"step         1", "acme    step   since 2"}, ": another"},
	} {
		out, err := do(pg.AdminURL, step.args...)
		for _, want := range step.want {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("gateway queue %v = %v:\n%s, want %q in it", step.args, err, out, want)
			}
		}
		if strings.Contains(out, step.not) {
			t.Errorf("gateway queue %v:\n%s, want %q not in it", step.args, out, step.not)
		}
	}
	for _, args := range [][]string{{}, {"list", "step"}, {"pause"}, {"resume"}, {"resume", "step", "--reason", "x"}, {"pause", "step", "review"}, {"stop", "step"}, {"pause", "none"}, {"pause", "*"}} {
		if out, err := do(pg.AdminURL, args...); err == nil || out != "" {
			t.Errorf("gateway queue %v = %q, %v, want an error", args, out, err)
		}
	}
}

// Whoever holds the database sees which tenants there are.
func TestTenantList(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	if _, err := newTenant(t, pg, "acme"); err != nil {
		t.Fatal(err)
	}
	if _, err := newTenant(t, pg, "acme", "--key"); err != nil {
		t.Fatal(err)
	}
	pg.Tenant(t)
	var out strings.Builder
	if err := command(t.Context(), t.Context(), []string{"tenant", "list"}, []string{"DATABASE_URL=" + pg.AdminURL}, &out, &out); err != nil {
		t.Fatalf("gateway tenant list = %v, want nil", err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[1], "acme ") || !strings.Contains(lines[1], "Z  2 ") || !strings.HasPrefix(lines[2], "t-") || !strings.Contains(lines[2], "Z  0 ") {
		t.Errorf("gateway tenant list:\n%swant acme with 2 keys and another with none", &out)
	}
}
