package system_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host/hosttest"
)

// line returns a plan whose i-th step writes i to the file n.
func line(n int) (steps []run.PlanStep) {
	for i := range n {
		files := map[string]any{"files": []map[string]any{{"path": "n", "content": fmt.Sprint(i)}}}
		if i == 0 {
			steps = append(steps, hosttest.Step("s0", "workspace:write", files))
		} else {
			steps = append(steps, hosttest.Step(fmt.Sprintf("s%d", i), "workspace:write", files, fmt.Sprintf("s%d", i-1)))
		}
	}
	return steps
}

// startBisect starts a bisection of the line that leads to a run's head.
func startBisect(t *testing.T, b *hosttest.Bundle, r run.Run, command string) (run.Run, []postgres.Candidate) {
	t.Helper()
	list, err := b.DB.Candidates(b.Ctx, b.TenantID, nil, *r.HeadCheckpointID)
	if err != nil {
		t.Fatalf("Candidates() = %v", err)
	}
	return start(t, b, run.ToolBisect, run.NewID().String(), r.ID, run.BisectInputs{
		RunID: run.RunID.Format(r.ID), Good: run.CheckpointID.Format(list[0].ID), Bad: run.CheckpointID.Format(*r.HeadCheckpointID),
		Command: command, TimeoutS: 60, Candidates: len(list),
	}), list
}

// The step that broke a command is found, with few probes, and over skipped checkpoints.
func TestBisect(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	const steps, broken = 200, 137
	r := b.Create(t, line(steps)...)
	d := b.Until(t, r.ID, run.Succeeded)
	id := func(list []postgres.Candidate, i int) string { return run.CheckpointID.Format(list[i].ID) }
	for name, tt := range map[string]struct {
		command string
		state   run.State
		reason  string
		probes  int // at most
		found   func(list []postgres.Candidate) run.BisectOutputs
	}{
		"broken": {fmt.Sprintf("test ! -e n || test $(cat n) -lt %d", broken), run.Succeeded, "", 8, func(list []postgres.Candidate) run.BisectOutputs {
			return run.BisectOutputs{LastGood: id(list, broken-1), FirstBad: id(list, broken)}
		}},
		"skipped around it": {fmt.Sprintf("test ! -e n && exit 0; x=$(cat n); test $x -ge %d && test $x -le %d && exit 125; test $x -lt %d", broken-1, broken+1, broken), run.Succeeded, "", 16,
			func(list []postgres.Candidate) run.BisectOutputs {
				return run.BisectOutputs{LastGood: id(list, broken-2), FirstBad: id(list, broken+2), Suspects: []string{id(list, broken-1), id(list, broken), id(list, broken+1), id(list, broken+2)}}
			}},
		"good is bad":    {"exit 1", run.Failed, "the command was to pass at the good checkpoint", 8, nil},
		"bad is good":    {"exit 0", run.Failed, "the command was to fail at the bad checkpoint", 8, nil},
		"no such tool":   {"no-such-tool", run.Failed, "the command cannot judge checkpoint", 1, nil},
		"ends by signal": {"kill -9 $$", run.Failed, "the command cannot judge checkpoint", 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			work, list := startBisect(t, b, d.Run, tt.command)
			if len(list) != steps {
				t.Fatalf("candidates = %d, want one for each of %d steps", len(list), steps)
			}
			w := b.Until(t, work.ID, tt.state)
			probes, err := b.DB.Probes(b.Ctx, b.TenantID, work.ID)
			if err != nil || len(probes) > tt.probes {
				t.Errorf("probes = %d, %v, want at most %d", len(probes), err, tt.probes)
			}
			if !strings.HasPrefix(w.Steps[0].Reason, tt.reason) {
				t.Errorf("reason = %q, want %q", w.Steps[0].Reason, tt.reason)
			}
			if tt.found == nil {
				return
			}
			found, err := run.Inputs[run.BisectOutputs](w.Steps[0].Outputs)
			if diff := cmp.Diff(tt.found(list), found); diff != "" || err != nil {
				t.Errorf("outputs, %v (-want +got):\n%s", err, diff)
			}
			author, err := b.DB.CheckpointAuthor(b.Ctx, b.TenantID, mustCheckpoint(t, found.FirstBad))
			if want := "s137"; name == "broken" && (err != nil || author.StepName != want) {
				t.Errorf("the first bad checkpoint is of step %q, %v, want %q", author.StepName, err, want)
			}
			t.Logf("%d candidates, %d probes", len(list), len(probes))
		})
	}
}

func mustCheckpoint(t *testing.T, s string) uuid.UUID {
	t.Helper()
	id, err := run.CheckpointID.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Over a join the line is that of first parents, and the join stands for what the others
// brought.
func TestBisectOverAJoin(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	r := b.Create(t, hosttest.Script("base", "echo 1 > base"), hosttest.Script("left", "echo l > left", "base"),
		hosttest.Script("right", "echo r > right; rm -f nothing", "base"), hosttest.Script("both", "echo b > both", "left", "right"))
	d := b.Until(t, r.ID, run.Succeeded)
	work, _ := startBisect(t, b, d.Run, "test ! -e right")
	w := b.Until(t, work.ID, run.Succeeded)
	found, err := run.Inputs[run.BisectOutputs](w.Steps[0].Outputs)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := b.DB.Checkpoint(b.Ctx, b.TenantID, r.ID, mustCheckpoint(t, found.FirstBad))
	if err != nil || ck.Kind != run.PreCheckpoint || len(ck.Parents) != 2 {
		t.Errorf("first bad = %+v, %v, want the join that brought right in", ck, err)
	}
}

// A worker that was killed costs no finished probe.
func TestBisectAfterAKilledWorker(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	_, stop := b.Worker(t, nil)
	r := b.Create(t, line(20)...)
	d := b.Until(t, r.ID, run.Succeeded)
	stop()
	work, list := startBisect(t, b, d.Run, "test ! -e n || test $(cat n) -lt 13")
	wd, err := b.DB.RunDetail(b.Ctx, b.TenantID, work.ID)
	if err != nil {
		t.Fatal(err)
	}
	dead := claimAs(t, b, wd.Steps[0], "worker-dead")
	for _, p := range []run.Probe{{CheckpointID: run.CheckpointID.Format(list[0].ID), Outcome: run.ProbeGood}, {CheckpointID: run.CheckpointID.Format(list[len(list)-1].ID), Outcome: run.ProbeBad, ExitCode: 1}} {
		if err := b.DB.RecordProbe(b.Ctx, dead, p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Admin.Exec(b.Ctx, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 second'"); err != nil {
		t.Fatal(err)
	}
	b.Worker(t, serveAll)
	b.Until(t, work.ID, run.Succeeded)
	probes, err := b.DB.Probes(b.Ctx, b.TenantID, work.ID)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, p := range probes {
		seen[p.CheckpointID]++
	}
	if len(seen) != len(probes) || len(probes) > 2+5 {
		t.Errorf("probes = %d at %d checkpoints, want at most 7, each once", len(probes), len(seen))
	}
}
