package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nofx.dev/shared/servertest/filelock"
)

// TestMain lets the test binary stand in for a gateway or worker, and for the
// process that starts them.
func TestMain(m *testing.M) {
	switch os.Getenv("HARNESS_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "server":
		serve()
	case "migrate":
		exitWith(migrateStandIn(context.Background()))
	case "gateway":
		exitWith(gatewayStandIn(context.Background(), os.Args[1:]))
	case "parent":
		p := startProcess(fake(os.Getenv("HARNESS_TEST_ADDR"), os.Getenv("HARNESS_TEST_DIR"), nil))
		if err := p.Ready(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is ready until SIGTERM, and holds a lock as long as it lives.
func serve() {
	lock, err := filelock.Try(os.Getenv("HARNESS_TEST_LOCK"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, `{"level":"INFO","msg":"up"}`)
	fmt.Fprintln(os.Stderr, `{"level":"WARN","msg":"careful"}`)
	fmt.Fprintln(os.Stderr, `panic: no JSON`)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Addr: os.Getenv("NOFX_METRICS_ADDR"), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, os.Getenv("HARNESS_TEST_WORD"))
	})}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, `{"level":"ERROR","msg":"last words"}`)
	lock.Close()
}

func fake(addr, dir string, warn func(string, string)) process {
	return process{
		name: "fake", program: os.Args[0], log: filepath.Join(dir, "fake.log"), warn: warn,
		ready: "http://" + addr + "/readyz", metrics: "http://" + addr + "/metrics",
		env: map[string]string{
			"HARNESS_TEST_ROLE": "server", "NOFX_METRICS_ADDR": addr, "HARNESS_TEST_WORD": "first",
			"HARNESS_TEST_LOCK": filepath.Join(dir, "alive"),
		},
	}
}

// started returns a fake that is ready.
func started(t *testing.T, edit func(*process)) *Process {
	t.Helper()
	addr, _, err := freeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	spec := fake(addr, t.TempDir(), nil)
	if edit != nil {
		edit(&spec)
	}
	p := startProcess(spec)
	t.Cleanup(p.Stop)
	if err := p.Ready(t.Context()); err != nil {
		t.Fatalf("Ready() = %v, want nil", err)
	}
	return p
}

func TestDeadProcessIsStartedAgain(t *testing.T) {
	t.Parallel()
	changed, warned := make(chan struct{}, 10), make(chan string, 10)
	p := started(t, func(s *process) {
		s.changed = func() { changed <- struct{}{} }
		s.warn = func(_, line string) {
			if strings.Contains(line, "started again") {
				warned <- line
			}
		}
	})
	<-changed
	before := p.PID()
	if err := p.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-changed
	if err := p.Ready(t.Context()); err != nil {
		t.Fatalf("Ready() after a kill = %v, want nil", err)
	}
	if got := p.PID(); got == before || got == 0 || p.Starts() != 2 {
		t.Errorf("PID() = %d after %d starts, want another than %d after 2", got, p.Starts(), before)
	}
	if got, want := <-warned, fmt.Sprintf("has ended (signal: killed) and is started again, pid %d", p.PID()); got != want {
		t.Errorf("it is told as %q, want %q", got, want)
	}
	p.Stop()
	if p.PID() != 0 {
		t.Errorf("PID() = %d after Stop, want 0", p.PID())
	}
	if err := p.Kill(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Kill() after Stop = %v, want ErrProcessDone", err)
	}
}

func TestAutoRestartOff(t *testing.T) {
	t.Parallel()
	p := started(t, nil)
	p.AutoRestart(false)
	if err := p.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Ended(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*firstDelay)
	defer cancel()
	if err := p.Ready(ctx); err == nil {
		t.Error("Ready() = nil with AutoRestart off, want it dead")
	}
	p.SetEnv(map[string]string{"HARNESS_TEST_WORD": "second"})
	if err := p.Restart(t.Context()); err != nil {
		t.Fatalf("Restart(dead) = %v, want nil", err)
	}
	resp, err := http.Get(p.spec.ready)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	word := make([]byte, 10)
	n, _ := resp.Body.Read(word)
	if string(word[:n]) != "second" {
		t.Errorf("the process's environment says %q after SetEnv, want second", word[:n])
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatalf("Restart(alive) = %v, want nil", err)
	}
	p.Kill(syscall.SIGKILL)
	if err := p.Ended(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	p.AutoRestart(true)
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("Ready() with AutoRestart on again = %v, want nil", err)
	}
}

func TestProcessThatCannotStart(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		program string
		args    []string
		want    string
	}{
		"fails":   {"/bin/sh", []string{"-c", "echo this is why; exit 3"}, "this is why"},
		"missing": {"/does/not/exist", nil, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := fake("127.0.0.1:1", t.TempDir(), nil)
			spec.program, spec.args = tt.program, tt.args
			p := startProcess(spec)
			defer p.Stop()
			if err := p.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Ready() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	p := started(t, func(s *process) {
		s.warn = func(_, line string) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, line)
		}
	})
	p.Stop()
	want := []string{`{"level":"WARN","msg":"careful"}`, `panic: no JSON`, `{"level":"ERROR","msg":"last words"}`}
	if !slices.Equal(got, want) {
		t.Errorf("warnings = %q, want %q", got, want)
	}
}

func TestStoppedProcessEnds(t *testing.T) {
	t.Parallel()
	p := started(t, nil)
	if err := p.Kill(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.Stop()
	if got := lastLines(p.spec.log); !strings.Contains(got, "last words") {
		t.Errorf("log of a process in SIGSTOP after Stop() ends in %q, want its last words: it is continued first, not killed", got)
	}
}

func TestKilledParentTakesItsProcessesAlong(t *testing.T) {
	t.Parallel()
	addr, _, err := freeAddresses()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "HARNESS_TEST_ROLE=parent", "HARNESS_TEST_ADDR="+addr, "HARNESS_TEST_DIR="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil {
		t.Fatal(err)
	}
	alive := filepath.Join(dir, "alive")
	if _, err := filelock.Try(alive); !errors.Is(err, filelock.ErrHeld) {
		t.Fatalf("Try(lock of the process) = %v, want ErrHeld", err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	lock, err := filelock.Wait(ctx, alive)
	if err != nil {
		t.Fatalf("Wait(lock of the process) = %v after its parent was killed, want nil", err)
	}
	lock.Close()
}
