package step_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host/hosttest"
)

// triedGate returns a gate that may be tried several times. Its command adds a line to the
// file $TRIES first.
func triedGate(t *testing.T, command string, attempts int, initialS float64) (gate run.PlanStep, tries string) {
	t.Helper()
	tries = filepath.Join(t.TempDir(), "tries")
	gate = hosttest.Step("unit", "gate:unit", run.GateInputs{Command: `echo x >> "$TRIES"; ` + command, Env: map[string]string{"TRIES": tries}})
	gate.Retry = &run.PlanRetry{MaxAttempts: &attempts, InitialS: &initialS}
	return gate, tries
}

func lines(t *testing.T, file string) int {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), "\n")
}

// Each attempt at a gate is a round with its evidence, and the last one decides.
func TestGateIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	for name, tt := range map[string]struct {
		command string
		want    []run.State // of the rounds
		class   run.FailureClass
	}{
		"passes at last": {`test "$(wc -l < "$TRIES")" = 3`, []run.State{run.Failed, run.Failed, run.Passed}, ""},
		"passes at once": {"true", []run.State{run.Passed}, ""},
		"never passes":   {"exit 3", []run.State{run.Failed, run.Failed, run.Failed}, run.ClassGateFailed},
		"is in error":    {"no-such-linter", []run.State{run.Error, run.Error, run.Error}, run.ClassGateError},
		"recovers":       {`test "$(wc -l < "$TRIES")" = 2 || no-such-linter`, []run.State{run.Error, run.Passed}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate, _ := triedGate(t, tt.command, 3, 0.01)
			state := run.Succeeded
			if tt.class != "" {
				state = run.Failed
			}
			d := b.Until(t, b.Create(t, gate).ID, state)
			if s := d.Steps[0]; s.FailureClass != tt.class || s.Attempt != len(tt.want) {
				t.Errorf("step = %q after %d attempts, want %q after %d", s.FailureClass, s.Attempt, tt.class, len(tt.want))
			}
			var got []run.State
			for i, g := range d.Gates {
				got = append(got, g.State)
				if g.Round != i+1 || !strings.Contains(string(g.Evidence), `"exit_code"`) || g.ShownCheckpointID == nil {
					t.Errorf("gate %d = round %d, evidence %s, shown %v, want its own", i, g.Round, g.Evidence, g.ShownCheckpointID)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("rounds = %v, want %v", got, tt.want)
			}
			artifacts, err := b.DB.Artifacts(b.Ctx, b.TenantID, d.Run.ID, nil, 10)
			if err != nil || len(artifacts) != len(tt.want) {
				t.Errorf("Artifacts() = %d, %v, want the evidence of %d rounds", len(artifacts), err, len(tt.want))
			}
		})
	}
}

// A gate whose run failed meanwhile has no more attempts, and its verdict is on record.
func TestGateOfAFailedRunIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	gate, tries := triedGate(t, `until [ -e "$TRIES.go" ]; do sleep 0.05; done; exit 3`, 3, 0.01)
	gate.DependsOn = []string{}
	other := hosttest.Script("other", `until [ -s "`+tries+`" ]; do sleep 0.05; done; exit 1`)
	r := b.Create(t, gate, other)
	b.Wait(t, "the other step to fail", "SELECT EXISTS (SELECT FROM nofx.step WHERE state = 'failed')")
	if err := os.WriteFile(tries+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := b.Until(t, r.ID, run.Failed)
	if s := d.Steps[0]; s.State != run.Failed || s.FailureClass != run.ClassGateFailed || len(d.Gates) != 1 || d.Gates[0].State != run.Failed || lines(t, tries) != 1 {
		t.Errorf("gate's step = %s %s with %d rounds after %d tries, want failed, gate_failed, with one", s.State, s.FailureClass, len(d.Gates), lines(t, tries))
	}
}

// A waiver between two attempts holds at once, and one while another attempt runs
// holds for those after it, of which there is one also after the last.
func TestWaiverBetweenAttempts(t *testing.T) {
	t.Parallel()
	const secondWaits = `[ "$(wc -l < "$TRIES")" = 1 ] || until [ -e "$TRIES.go" ]; do sleep 0.05; done; exit 1`
	for name, tt := range map[string]struct {
		attempts int
		command  string
		initialS float64
		until    string // where the gate is waived
		rounds   int
	}{
		"in the pause":        {5, "exit 1", 300, "SELECT EXISTS (SELECT FROM nofx.step WHERE state = 'retrying')", 1},
		"in the next attempt": {5, secondWaits, 0.01, "SELECT EXISTS (SELECT FROM nofx.step WHERE state = 'running' AND attempt = 2)", 2},
		"in the last attempt": {2, secondWaits, 0.01, "SELECT EXISTS (SELECT FROM nofx.step WHERE state = 'running' AND attempt = 2)", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.Worker(t, nil)
			gate, tries := triedGate(t, tt.command, tt.attempts, tt.initialS)
			r := b.Create(t, gate)
			b.Wait(t, "the time to waive the gate", tt.until)
			d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID)
			if err != nil || len(d.Gates) != 1 || d.Gates[0].State != run.Failed {
				t.Fatalf("RunDetail() = %+v, %v, want a gate that failed", d.Gates, err)
			}
			if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[0].ID, postgres.Decision{Event: "waive", Reason: "known"}); err != nil {
				t.Fatalf("DecideGate(waive) = %v", err)
			}
			waived := time.Now()
			if err := os.WriteFile(tries+".go", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			d = b.Until(t, r.ID, run.Succeeded)
			if s := d.Steps[0]; !strings.Contains(string(s.Outputs), "waived") {
				t.Errorf("outputs %s later = %s, want the verdict waived", time.Since(waived), s.Outputs)
			}
			if len(d.Gates) != tt.rounds || lines(t, tries) != tt.rounds {
				t.Errorf("%d rounds, and the command ran %d times, want %d", len(d.Gates), lines(t, tries), tt.rounds)
			}
		})
	}
}
