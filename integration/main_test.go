// Package integration_test proves the whole system from outside: real Postgres,
// real S3, the programs as processes, HTTP and SQL. Nothing here looks inside
// gateway or worker.
//
// [TestMain] builds the programs and starts the servers once; [up] gives a test a
// stack of its own, with its own database and bucket. client_test.go speaks HTTP,
// database_test.go asks the database as an administrator and holds the invariants
// that every test ends with, storage_test.go reads the bucket, traces_test.go is
// an OTLP receiver.
package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"nofx.dev/integration/harness"
)

var (
	servers  *harness.Servers
	programs harness.Binaries
)

func TestMain(m *testing.M) {
	code, err := withServers(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func withServers(tests func() int) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute) // the first build of a slow machine
	defer cancel()
	dir, err := os.MkdirTemp("", "nofx-integration-*")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if servers, err = harness.StartServers(ctx, harness.ServersConfig{}); err != nil {
		return 1, err
	}
	defer servers.Stop()
	if programs, err = harness.Build(ctx, harness.BuildConfig{Dir: dir, Race: raced}); err != nil {
		return 1, err
	}
	stop() // from here on a signal ends us at once, and our children with us
	return tests(), nil
}

// system is a stack of a test's own and what a test asks of it.
type system struct {
	*harness.Stack
	*client               // as the administrator of tenant dev
	db      *pgxpool.Pool // as an administrator of the database
	storage *storage
}

// up starts a stack for the test, on the servers of all unless it brings its own. When the test ends, the stack is held against
// the invariants, stopped, and its logs are searched for panics and data races.
func up(t *testing.T, cfg harness.Config) *system {
	t.Helper()
	if cfg.Servers == nil {
		cfg.Servers = servers
	}
	cfg.Binaries, cfg.Dir = programs, t.TempDir()
	cfg.WorkerEnv = with(map[string]string{
		"NOFX_DRAIN_GRACE": "2s",
		// Scripts of most tests signal to the test by files outside. sandbox_test.go is about tiers.
		"NOFX_TEST": "1", "NOFX_SANDBOX_MIN_TIER": "0", "NOFX_SANDBOX_MAX_TIER": "0",
	}, cfg.WorkerEnv)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	stack, err := harness.Up(ctx, cfg)
	if err != nil {
		t.Fatalf("Up() = %v, want nil", err)
	}
	s := &system{Stack: stack}
	t.Cleanup(func() { searchLogs(t, s.Dir) })
	t.Cleanup(stack.Stop)
	s.client = newClient(stack.URL, stack.APIKey)
	s.storage = &storage{stack.S3}
	if s.db, err = pgxpool.New(ctx, stack.AdminURL); err != nil {
		t.Fatalf("connect as administrator: %v", err)
	}
	t.Cleanup(s.db.Close)
	t.Cleanup(func() { s.holdInvariants(t) })
	return s
}

// with returns a and b; b wins.
func with(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// searchLogs fails the test on what no process may ever log, and shows the last
// warnings of the processes of a test that failed.
func searchLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	if len(logs) == 0 {
		t.Errorf("Glob(%s) = no logs, want some", dir)
	}
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("read log: %v", err)
		}
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: ", "goroutine 1 ["} {
			if at := bytes.Index(content, []byte(bad)); at >= 0 {
				t.Errorf("%s has %q:\n%s", filepath.Base(path), bad, content[at:min(len(content), at+4000)])
			}
		}
		if t.Failed() {
			lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(content)), "\n"), func(line string) bool {
				return strings.Contains(line, `"level":"INFO"`)
			})
			t.Logf("%s warns:\n%s", filepath.Base(path), strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	}
}

// until waits until cond is true, asking again and again, for at most within.
func until(t *testing.T, what string, within time.Duration, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !cond() {
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
