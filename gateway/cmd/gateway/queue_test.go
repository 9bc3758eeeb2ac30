package main

import (
	"strings"
	"testing"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
)

// Whoever holds the database pauses a queue for all, sees who paused it, and whose
// workers there are.
func TestQueueCommand(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	if _, err := pg.Open(t, postgres.Config{}).BeatWorker(t.Context(), postgres.WorkerInfo{ID: "h/1", PID: 42, Host: "h", Version: "v1", Queues: []string{"step"}, SlotsMax: 4}); err != nil {
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
		{[]string{"list"}, []string{"review  0", "step    1", "h/1", "42", "0/4"}, "since"},
		{[]string{"pause", "step", "--reason", "moving house"}, []string{"since ", " by ", ": moving house"}, "another"},
		{[]string{"pause", "step", "--reason", "another"}, []string{": moving house"}, "another"},
		{[]string{"resume", "step"}, []string{"step    1"}, "since"},
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
