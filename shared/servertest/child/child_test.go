package child_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"nofx.dev/shared/servertest/child"
)

// TestMain lets the test binary stand in for a parent that is then killed.
func TestMain(m *testing.M) {
	if os.Getenv("CHILD_TEST_PARENT") == "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("sleep", "300")
	cmd.Stdout = os.Stdout
	p, err := child.Start(cmd, syscall.SIGTERM)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	<-p.Done()
}

func TestKilledParentTakesItsChildAlong(t *testing.T) {
	t.Parallel()
	// Parent and child hold the pipe open as long as they live, so that the
	// end of what can be read is the end of both.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "CHILD_TEST_PARENT=1")
	parent.Stdout, parent.Stderr = w, os.Stderr
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var pid int
	if _, err := fmt.Fscanln(r, &pid); err != nil {
		t.Fatalf("read the pid of the parent's child: %v", err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("Kill(%d, 0) = %v before the parent died, want nil", pid, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	r.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.ReadAll(r); err != nil {
		syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("process %d lives 10 s after its parent was killed, want it gone", pid)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		grace        time.Duration
		wantErr      string
	}{
		{"obeys", `trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done`, 10 * time.Second, "exit status 7"},
		{"ignores", `trap '' TERM; echo ready; while :; do sleep 0.05; done`, 50 * time.Millisecond, "signal: killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("sh", "-c", tt.script)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd.Stdout = w
			p, err := child.Start(cmd, syscall.SIGKILL)
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			p.Stop(syscall.SIGTERM, tt.grace)
			if got := p.Err(); got == nil || got.Error() != tt.wantErr {
				t.Errorf("Err() = %v, want %s", got, tt.wantErr)
			}
			if _, err := io.ReadAll(r); err != nil { // ends when the whole group is gone
				t.Error(err)
			}
			p.Stop(syscall.SIGTERM, 0) // once more does no harm
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	if err := child.Run(t.Context(), exec.Command("true")); err != nil {
		t.Errorf("Run(true) = %v, want nil", err)
	}
	if err := child.Run(t.Context(), exec.Command("false")); err == nil {
		t.Error("Run(false) = nil, want an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", "echo ready; sleep 300")
	cmd.Stdout = w
	ended := make(chan error)
	go func() { ended <- child.Run(ctx, cmd) }()
	if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run(cancelled) = %v, want context.Canceled", err)
	}
}

func TestStartOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := child.Start(exec.Command("/does/not/exist"), syscall.SIGKILL); err == nil {
		t.Error("Start(/does/not/exist) = nil, want an error")
	}
}
