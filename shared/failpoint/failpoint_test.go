package failpoint

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The process state is global, so the tests that arm it do not run in parallel.

func env(kv ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == key {
				return kv[i+1]
			}
		}
		return ""
	}
}

func arm(t *testing.T, spec string, kv ...string) (hits map[string]int, logs *bytes.Buffer) {
	t.Helper()
	t.Cleanup(func() { armed.Store(nil) })
	hits, logs = map[string]int{}, &bytes.Buffer{}
	vars := append([]string{"NOFX_TEST", "1", "NOFX_FAILPOINTS", spec}, kv...)
	if err := Init(env(vars...), slog.New(slog.NewTextHandler(logs, nil)), func(n string) { hits[n]++ }); err != nil {
		t.Fatalf("Init(%q) = %v", spec, err)
	}
	return hits, logs
}

func TestErrorIsReturnedCountedAndLogged(t *testing.T) {
	hits, logs := arm(t, "w6=error, before_effect=sleep(1ms)")
	if err := Hit(AfterPut); !errors.Is(err, ErrInjected) || !strings.Contains(err.Error(), AfterPut) {
		t.Errorf("Hit(after_put) = %v, want ErrInjected that names it", err)
	}
	for _, name := range []string{BeforeEffect, AfterClaim} {
		if err := Hit(name); err != nil {
			t.Errorf("Hit(%s) = %v, want nil", name, err)
		}
	}
	if diff := cmp.Diff(map[string]int{AfterPut: 1, BeforeEffect: 1}, hits); diff != "" {
		t.Errorf("hits (-want +got):\n%s", diff)
	}
	if n := strings.Count(logs.String(), `msg="failpoint hit"`); n != 2 {
		t.Errorf("%d hits logged, want 2:\n%s", n, logs)
	}
	if err := Hit("nowhere"); err == nil {
		t.Error("Hit(nowhere) = nil, want an error")
	}
}

func TestPanic(t *testing.T) {
	arm(t, "mid_exec=panic")
	defer func() {
		if r := recover(); r == nil {
			t.Error("Hit(mid_exec) did not panic")
		}
	}()
	_ = Hit(MidExec)
}

func TestIgnoredOutsideTests(t *testing.T) {
	for _, test := range []string{"", "0", "true"} {
		var logs bytes.Buffer
		err := Init(env("NOFX_TEST", test, "NOFX_FAILPOINTS", "w2=error,nonsense"), slog.New(slog.NewTextHandler(&logs, nil)), nil)
		if err != nil {
			t.Errorf("Init(NOFX_TEST=%q) = %v, want nil", test, err)
		}
		if n := strings.Count(logs.String(), "level=WARN"); n != 1 {
			t.Errorf("Init(NOFX_TEST=%q): %d warnings, want 1", test, n)
		}
		if err := Hit(AfterClaim); err != nil {
			t.Errorf("Hit(after_claim) with NOFX_TEST=%q = %v, want nil", test, err)
		}
	}
}

func TestSeedRepeatsARun(t *testing.T) {
	throw := func(seed string) string {
		arm(t, "w2=error:0.5,w3=error:0.5", "NOFX_FAILPOINT_SEED", seed)
		var out strings.Builder
		for range 200 {
			fmt.Fprint(&out, Hit(AfterClaim) != nil)
		}
		return out.String()
	}
	first := throw("7")
	if throw("7") != first {
		t.Error("the same seed gave another run")
	}
	if throw("8") == first {
		t.Error("another seed gave the same run")
	}
	if n := strings.Count(first, "true"); n < 60 || n > 140 {
		t.Errorf("%d of 200 hits at probability 0.5", n)
	}
}

func TestProbabilityEnds(t *testing.T) {
	arm(t, "w2=error:0,w3=error:1")
	for range 1000 {
		if Hit(AfterClaim) != nil || Hit(MidExec) == nil {
			t.Fatal("probability 0 hit, or probability 1 missed")
		}
	}
}

func TestInitRefuses(t *testing.T) {
	for _, tt := range []struct{ spec, seed, want string }{
		{"nowhere=kill", "", "before_response, after_claim"},
		{"w13=kill", "", "before_response, after_claim"},
		{"w2=explode", "", "kill, stop, panic, error, sleep"},
		{"w2=sleep", "", "sleep(duration)"},
		{"w2=sleep(8)", "", "sleep(duration)"},
		{"w2=sleep(8s", "", "sleep(duration)"},
		{"w2=kill:2", "", "from 0 to 1"},
		{"w2=kill:NaN", "", "from 0 to 1"},
		{"w2", "", "name=action"},
		{"w2=kill,", "", "name=action"},
		{"w2=kill,after_claim=stop", "", "twice"},
		{"w2=kill", "-1", "NOFX_FAILPOINT_SEED"},
	} {
		err := Init(env("NOFX_TEST", "1", "NOFX_FAILPOINTS", tt.spec, "NOFX_FAILPOINT_SEED", tt.seed), slog.New(slog.DiscardHandler), nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Init(%q) = %v, want an error with %q", tt.spec, err, tt.want)
		}
		if armed.Load() != nil {
			t.Errorf("Init(%q) armed points", tt.spec)
		}
	}
}

// TestSignals runs this test binary as a child that hits a point.
func TestSignals(t *testing.T) {
	if spec := os.Getenv("NOFX_FAILPOINTS"); spec != "" {
		if err := Init(os.Getenv, slog.New(slog.NewTextHandler(os.Stderr, nil)), nil); err != nil {
			t.Fatal(err)
		}
		fmt.Println("before")
		_ = Hit(MidExec)
		fmt.Println("after")
		return
	}
	for _, verb := range []string{"kill", "stop"} {
		t.Run(verb, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSignals$")
			cmd.Env = append(os.Environ(), "NOFX_TEST=1", "NOFX_FAILPOINTS=w3="+verb)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if verb == "stop" {
				awaitStopped(t, cmd.Process.Pid)
				if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			var lines []string
			for s := bufio.NewScanner(out); s.Scan(); {
				lines = append(lines, s.Text())
			}
			err = cmd.Wait()
			printed := strings.Join(lines, " ")
			switch verb {
			case "kill":
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Errorf("child ended with %v, want SIGKILL", err)
				}
				if strings.Contains(printed, "after") {
					t.Error("the child went on after the kill")
				}
			case "stop":
				if err != nil || !strings.Contains(printed, "before after") {
					t.Errorf("continued child ended with %v and printed %q", err, printed)
				}
			}
		})
	}
}

// awaitStopped waits until the child has stopped itself.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || got != pid || !status.Stopped() {
			t.Fatalf("Wait4(%d) = %d, %v, status %x, want it stopped", pid, got, err, status)
		}
		return
	}
	t.Fatal("the child did not stop")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"after_put=kill:0.05,w2=sleep(8s)", "w3=stop", "w12=error:1e-3", "before_effect=panic",
		"w2=sleep(1h2m3s):0.5", "", "=", "w1=kill:", "w1=sleep(-1s)", "w1=sleep(1s):NaN", "w02=kill",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		points, err := parse(spec)
		if err != nil {
			if points != nil {
				t.Errorf("parse(%q) = %v with error %v", spec, points, err)
			}
			return
		}
		// What was accepted is legal, and says the same when written out again.
		var terms []string
		for name, a := range points {
			do := a.verb
			if do == "sleep" {
				do = fmt.Sprintf("sleep(%s)", a.sleep)
			}
			terms = append(terms, fmt.Sprintf("%s=%s:%g", name, do, a.probability))
		}
		again, err := parse(strings.Join(terms, ","))
		if diff := cmp.Diff(points, again, cmp.AllowUnexported(action{})); err != nil || diff != "" {
			t.Errorf("parse(%q) written out and parsed again: %v\n%s", spec, err, diff)
		}
	})
}

func BenchmarkHitOff(b *testing.B) {
	armed.Store(nil)
	for b.Loop() {
		if Hit(AfterClaim) != nil {
			b.Fatal("hit")
		}
	}
}
