package integration_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/servertest/child"
)

// TestStackCommand runs `stack up` as a user does: it restarts what dies, keeps
// its environment file true, and, killed itself, leaves nothing behind.
func TestStackCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, env := filepath.Join(dir, "stack"), filepath.Join(dir, "env")
	build := exec.Command("go", "build", "-o", program, "nofx.dev/integration/cmd/stack")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := child.Run(ctx, build); err != nil {
		t.Fatalf("go build stack = %v", err)
	}
	data := filepath.Join(dir, "data")
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd := exec.Command(program, "up", "--workers", "1", "--data", data, "--env-file", env)
	cmd.Stdout, cmd.Stderr = said, said
	stack, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stack.Stop(syscall.SIGTERM, 30*time.Second)
		if content, err := os.ReadFile(said.Name()); t.Failed() {
			t.Logf("stack said, %v:\n%s", err, content)
		}
	})
	var vars map[string]string
	renewed := func(what string, cond func() bool) {
		t.Helper()
		until(t, what, 3*time.Minute, func() bool {
			select {
			case <-stack.Done():
				t.Fatalf("stack up ended by itself: %v", stack.Err())
			default:
			}
			vars = readEnv(t, env)
			return cond()
		})
	}
	renewed("the environment file is written", func() bool { return vars["NOFX_URL"] != "" })
	if info, err := os.Stat(env); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the environment file = %v, %v, want 0600", info.Mode(), err)
	}
	c := newClient(vars["NOFX_URL"], vars["NOFX_API_KEY"])
	c.await(t, c.create(t, bash("a", "echo works")).Run.ID, api.RunStatusSucceeded)

	before := vars
	kill(t, vars["NOFX_GATEWAY_PID"], syscall.SIGKILL)
	kill(t, vars["NOFX_WORKER_PIDS"], syscall.SIGKILL)
	renewed("both processes are started again and the file knows", func() bool {
		return vars["NOFX_GATEWAY_PID"] != before["NOFX_GATEWAY_PID"] && vars["NOFX_GATEWAY_PID"] != "0" &&
			vars["NOFX_WORKER_PIDS"] != before["NOFX_WORKER_PIDS"] && vars["NOFX_WORKER_PIDS"] != ""
	})
	if vars["NOFX_URL"] != before["NOFX_URL"] || vars["NOFX_API_KEY"] != before["NOFX_API_KEY"] {
		t.Errorf("URL and key after a restart = %s %s, want the same", vars["NOFX_URL"], vars["NOFX_API_KEY"])
	}
	until(t, "the gateway answers again", 3*time.Minute, func() bool {
		_, err := c.ask(t.Context(), "GET", "/readyz", nil, nil)
		return err == nil
	})
	c.await(t, c.create(t, bash("a", "echo works again")).Run.ID, api.RunStatusSucceeded)

	pids := append(ofStack(t, data), vars["NOFX_GATEWAY_PID"], vars["NOFX_WORKER_PIDS"])
	if len(pids) < 4 { // gateway, worker, Postgres, S3
		t.Fatalf("processes of the stack = %v, want at least 4", pids)
	}
	kill(t, strconv.Itoa(stack.PID()), syscall.SIGKILL)
	<-stack.Done()
	until(t, "no process is left of a stack that was killed", 3*time.Minute, func() bool {
		for _, pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return len(ofStack(t, data)) == 0
	})
}

// readEnv reads lines NAME='value'; a file that is not there has none.
func readEnv(t *testing.T, path string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[name] = strings.Trim(value, "'")
	}
	return vars
}

// ofStack returns the processes that were started with something below dir.
func ofStack(t *testing.T, dir string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(all) == 0 {
		t.Fatalf("read /proc = %d, %v", len(all), err)
	}
	for _, path := range all {
		pid := strings.Split(path, "/")[2]
		if cmdline, err := os.ReadFile(path); err == nil && strings.Contains(string(cmdline), dir) && alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive reports whether a process runs; one that nobody waited for yet does not.
func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return false
	}
	fields, err := statOf(n)
	return err == nil && fields[0] != "Z" && fields[0] != "X"
}

// kill signals processes by their numbers, separated by spaces.
func kill(t *testing.T, pids string, sig syscall.Signal) {
	t.Helper()
	for _, pid := range strings.Fields(pids) {
		n, err := strconv.Atoi(pid)
		if err == nil && n > 1 {
			err = syscall.Kill(n, sig)
		}
		if err != nil {
			t.Fatalf("kill %s = %v", pid, err)
		}
	}
}
