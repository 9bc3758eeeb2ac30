package integration_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
	"nofx.dev/shared/servertest/child"
)

// TestDrain ends a worker that is busy: its step is given back and costs no
// attempt, and another worker does it.
func TestDrain(t *testing.T) {
	t.Parallel()
	env := filepath.Join(t.TempDir(), "env")
	s := up(t, harness.Config{EnvFile: env})
	busy := startWorker(t, env, s.Log("by-hand"), "NOFX_DRAIN_GRACE=500ms", "NOFX_WORKSPACE_DIR="+t.TempDir())
	begun := t.TempDir() + "/begun"
	id := s.create(t, bash("before", "echo kept > before"),
		bash("long", `test ! -e dirt; cat before; echo half > dirt; if mkdir `+begun+`; then sleep 300; fi; echo done`)).Run.ID
	until(t, "the script runs", 3*time.Minute, func() bool {
		_, err := os.Stat(begun)
		return err == nil
	})
	asked := time.Now()
	if err := busy.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	step := s.awaitStep(t, id, "long", api.StepStatusReady)
	select {
	case <-busy.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("the worker has not ended two minutes after SIGTERM")
	}
	t.Logf("the worker ended %v after SIGTERM", time.Since(asked).Round(time.Millisecond))
	if err := busy.Err(); err != nil {
		t.Errorf("the worker ended by %v, want exit code 0", err)
	}
	if step.Attempt != 0 {
		t.Errorf("attempts counted after the step was given back = %d, want 0", step.Attempt)
	}
	ck := checkpointOf(t, s, id, step.ID, api.CheckpointKindInterrupt)
	if got := s.do(t, 200, "GET", "/api/runs/"+id+"/checkpoints/"+ck.ID+"/file?path=dirt", nil); string(got.body) != "half\n" {
		t.Errorf("what the interrupted step had written = %q, want half", got.body)
	}

	if _, err := s.AddWorker(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	d := s.await(t, id, api.RunStatusSucceeded)
	attempts := s.attempts(t, step.ID)
	outcomes := make([]string, len(attempts))
	for i, a := range attempts {
		outcomes[i] = deref(a.Outcome)
	}
	if !slices.Equal(outcomes, []string{"interrupted", "succeed"}) || named(t, d, "long").Attempt != 1 ||
		attempts[0].WorkerID == attempts[1].WorkerID || attempts[0].Accepted || !attempts[1].Accepted {
		t.Errorf("attempts = %v on %s and %s, counted %d; want interrupted and succeed on two workers, counted 1",
			outcomes, attempts[0].WorkerID, attempts[len(attempts)-1].WorkerID, named(t, d, "long").Attempt)
	}
	if n := one[int](t, s, "SELECT lost_leases FROM nofx.step WHERE id = $1", uuidOf(step.ID)); n != 0 {
		t.Errorf("leases lost = %d, want 0: it was released", n)
	}
}

// startWorker starts one more worker by hand, knowing no more than the
// environment file tells.
func startWorker(t *testing.T, envFile, logFile string, extra ...string) *child.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	vars, err := exec.CommandContext(ctx, "env", "-i", "sh", "-c", `set -a; . "$0"; exec env -0`, envFile).Output()
	if err != nil {
		t.Fatalf("source %s: %v", envFile, err)
	}
	cmd := exec.Command(programs.Worker)
	cmd.Env = append(strings.Split(strings.Trim(string(vars), "\x00"), "\x00"), "NOFX_METRICS_ADDR=127.0.0.1:0", "PATH="+os.Getenv("PATH"),
		"NOFX_TEST=1", "NOFX_SANDBOX_MAX_TIER=0") // as the stacks of tests
	cmd.Env = append(cmd.Env, extra...)
	log, err := os.Create(logFile)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	w, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Stop(syscall.SIGKILL, time.Second)
		log.Close()
	})
	return w
}
