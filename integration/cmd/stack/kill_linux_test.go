package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
)

// TestMain lets the test binary be the command.
func TestMain(m *testing.M) {
	if os.Getenv("STACK_TEST_COMMAND") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// command is a stack that runs as a process of its own.
type command struct {
	*exec.Cmd
	vars map[string]string // of its environment file
	out  *os.File          // what it prints is read here
}

// upOn starts a stack on data and waits until it is ready.
func upOn(t *testing.T, data string) *command {
	t.Helper()
	envFile := filepath.Join(t.TempDir(), "env")
	c := &command{Cmd: exec.Command(os.Args[0], "up", "--data", data, "--env-file", envFile, "--workers", "1")}
	c.Env = append(os.Environ(), "STACK_TEST_COMMAND=1")
	out, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr, c.out = stdout, t.Output(), out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = stdout.Close()
	var shown sync.WaitGroup
	shown.Go(func() { _, _ = io.Copy(t.Output(), out) })
	t.Cleanup(shown.Wait)
	t.Cleanup(func() {
		if c.ProcessState == nil {
			c.Process.Kill()
			c.Wait()
		}
	})
	within(t, 10*time.Minute, "the environment file is there", func() bool {
		if syscall.Kill(c.Process.Pid, 0) != nil || state(c.Process.Pid) == "Z" {
			t.Fatal("the stack ended before it was ready")
		}
		_, err := os.Stat(envFile)
		return err == nil
	})
	c.vars = map[string]string{}
	f, err := os.Open(envFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		c.vars[name] = strings.Trim(value, "'")
	}
	return c
}

func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", limit, what)
		case <-tick.C:
		}
	}
}

// state returns the letter of /proc/PID/stat, "" for no process.
func state(pid int) string {
	s, _ := stat(pid)
	return s
}

func stat(pid int) (state string, parent int) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}

// descendants returns the processes below pid, with their command lines.
func descendants(pid int) map[int]string {
	entries, _ := os.ReadDir("/proc")
	parents := map[int]int{}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if s, parent := stat(n); s != "" && s != "Z" {
				parents[n] = parent
			}
		}
	}
	found := map[int]string{}
	for n := range parents {
		for up := parents[n]; up != 0; up = parents[up] {
			if up == pid {
				line, _ := os.ReadFile("/proc/" + strconv.Itoa(n) + "/cmdline")
				found[n] = strings.ReplaceAll(string(line), "\x00", " ")
				break
			}
		}
	}
	return found
}

// nobody waits until none of these processes is left.
func nobody(t *testing.T, processes map[int]string) {
	t.Helper()
	within(t, 10*time.Second, "every process of the stack is gone", func() bool {
		for pid := range processes {
			if s := state(pid); s != "" && s != "Z" {
				return false
			}
		}
		return true
	})
}

// A stack leaves no process behind: not when it is killed while a step runs that
// has hidden from its worker, and not when it is interrupted and nobody reads its output.
func TestStackLeavesNoProcess(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	stack := upOn(t, data)
	key := stack.vars["NOFX_API_KEY"]
	client, err := api.NewClientWithResponses(stack.vars["NOFX_URL"], api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+key)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	const plan = `{"plan": {"goal": "stay", "steps": [{"name": "stay", "tool": "bash",
		"inputs": {"script": "trap '' TERM; (setsid sleep 98761 &); sleep 98762 & sleep 98763"}}]}}`
	resp, err := client.CreateRunWithBodyWithResponse(t.Context(), nil, "application/json", strings.NewReader(plan))
	if err != nil || resp.JSON201 == nil {
		t.Fatalf("create a run: %v, %s", err, resp.Body)
	}
	var processes map[int]string
	within(t, 30*time.Second, "the step's three processes run", func() bool {
		processes = descendants(stack.Process.Pid)
		sleeping := 0
		for _, line := range processes {
			if strings.HasPrefix(line, "sleep 9876") {
				sleeping++
			}
		}
		return sleeping == 3
	})
	if err := stack.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	stack.Wait()
	nobody(t, processes)

	// What was killed is taken up again, and ends in order when it is asked to.
	stack = upOn(t, data)
	if got := stack.vars["NOFX_API_KEY"]; got != key {
		t.Errorf("NOFX_API_KEY = %s on kept data, want %s", got, key)
	}
	processes = descendants(stack.Process.Pid)
	if len(processes) < 2 {
		t.Errorf("descendants of the stack = %v, want a gateway and a worker at least", processes)
	}
	// As in a pipe to tee, which Ctrl-C ends first.
	_ = stack.out.Close()
	if err := stack.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := stack.Wait(); err != nil {
		t.Errorf("an interrupted stack ends with %v, want nil", err)
	}
	nobody(t, processes)
	if _, err := os.Stat(filepath.Join(data, "postgres", "data", "postmaster.pid")); !errors.Is(err, os.ErrNotExist) && os.Getenv("DATABASE_URL") == "" {
		t.Errorf("Stat(postmaster.pid) = %v, want Postgres to have ended in order", err)
	}
}
