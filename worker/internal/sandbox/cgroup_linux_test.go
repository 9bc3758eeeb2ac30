package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
)

// groups returns a folder of cgroup v2 for one test, where this process may make one: it
// mounts the file system if nobody has. A container may allow neither, and then the kernel's
// part cannot be tested; TestGroupCounts needs no kernel.
func groups(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
		t.Skipf("mount cgroup v2: %v; this needs root, and a kernel that is not shared", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	dir, err := os.MkdirTemp(root, "nofxtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("what is left in the folder of control groups: %v", err)
		}
	})
	return dir
}

// members returns the number of processes in the control groups of this process's commands.
func members(dir string) (n int) {
	files, _ := filepath.Glob(filepath.Join(dir, fmt.Sprintf("nofx-%d-*", os.Getpid()), "cgroup.procs"))
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		n += bytes.Count(raw, []byte("\n"))
	}
	return n
}

func has(dir, controller string) bool {
	raw, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	return bytes.Contains(raw, []byte(controller))
}

// Each command has a control group of its own, in each tier. What the kernel counts there is
// recorded, and nothing is left of it.
func TestControlGroups(t *testing.T) {
	t.Parallel()
	for tier := range 3 {
		t.Run(fmt.Sprintf("tier %d", tier), func(t *testing.T) {
			t.Parallel()
			dir := groups(t)
			s := sandboxtest.Open(t, sandbox.Config{MaxTier: tier, Groups: dir})
			// It ends once its group was seen, and leaves a process to it.
			seen := filepath.Join(t.TempDir(), "seen")
			c, _ := bash(`(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done) & wait; setsid sleep 1000 & until [ -e ` + seen + ` ]; do sleep 0.01; done`)
			c.Readable = []string{filepath.Dir(seen)}
			watching, stop := context.WithTimeout(t.Context(), limit)
			defer stop()
			inside := make(chan int, 1)
			go func() {
				defer os.WriteFile(seen, nil, 0o600)
				for tick := time.NewTicker(10 * time.Millisecond); watching.Err() == nil; <-tick.C {
					if n := members(dir); n >= 3 { // the helper, bash and what it waits for
						inside <- n
						return
					}
				}
				inside <- 0
			}()
			began := time.Now()
			exit, err := s.Exec(t.Context(), c)
			most := 4 * time.Since(began) // on all processors
			if err != nil || exit.Code != 0 || exit.CPU < 20*time.Millisecond || exit.CPU > most {
				t.Errorf("Exec = %+v, %v, want the CPU time of a busy loop, at most %v", exit, err, most)
			}
			if <-inside == 0 {
				t.Error("no control group had the processes of the command")
			}
			if left, err := filepath.Glob(filepath.Join(dir, "nofx-*")); err != nil || len(left) != 0 {
				t.Errorf("control groups after the command = %v, %v, want none", left, err)
			}
			if has(dir, "io") {
				folder := t.TempDir()
				c, _ := bash(`dd if=/dev/zero of=` + folder + `/f bs=1M count=20 conv=fsync 2>/dev/null`)
				c.Writable = []string{folder}
				if exit, err := s.Exec(t.Context(), c); err != nil || exit.Code != 0 || exit.WrittenBytes < 20<<20 || exit.WrittenBytes > 60<<20 {
					t.Errorf("Exec of a command that writes 20 MiB to a disk = %+v, %v, want these bytes", exit, err)
				}
			}
			if has(dir, "memory") {
				s := sandboxtest.Open(t, sandbox.Config{MaxTier: tier, Groups: dir, Limits: sandbox.Limits{Memory: 64 << 20}})
				c, _ := bash(`head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null`)
				if exit, err := s.Exec(t.Context(), c); err != nil || exit.Over != "memory" || exit.MaxRSS > 80<<20 {
					t.Errorf("Exec of too much memory = %+v, %v, want it ended for its memory, at 64 MiB", exit, err)
				}
			}
			if has(dir, "pids") {
				s := sandboxtest.Open(t, sandbox.Config{MaxTier: tier, Groups: dir, Limits: sandbox.Limits{Processes: 40}})
				c, out := bash(`for i in $(seq 100); do sleep 1000 & done; wait`)
				if exit, err := s.Exec(t.Context(), c); err != nil || exit.Code == 0 && exit.Over == "" || !strings.Contains(out.String(), "Resource temporarily unavailable") && exit.Over != "processes" {
					t.Errorf("Exec of too many processes = %+v, %v, %q, want it refused them", exit, err, out)
				}
			}
		})
	}
}

// A worker removes the control groups of dead workers, with what runs in them, and leaves
// those of living ones alone.
func TestControlGroupsOfDeadWorkers(t *testing.T) {
	t.Parallel()
	dir := groups(t)
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, fmt.Sprintf("nofx-%d-1", dead.Process.Pid))
	alive := filepath.Join(dir, fmt.Sprintf("nofx-%d-1", os.Getpid()))
	for _, d := range []string{stale, alive} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Remove(alive)
	left := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stale, "cgroup.procs"), []byte(strconv.Itoa(left.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Open(t, sandbox.Config{Groups: dir})
	if err := left.Wait(); err == nil {
		t.Error("what ran in the group of a dead worker ended by itself, want it killed")
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("the group of a dead worker is there, want it removed")
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("the group of a living worker: %v, want it left alone", err)
	}
}

// A folder that cannot hold control groups keeps a worker from starting.
func TestNoControlGroups(t *testing.T) {
	t.Parallel()
	helper, err := sandboxtest.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		t.TempDir():                "is no folder of cgroup v2",
		"/nonexistent-" + t.Name(): "no such file or directory",
	} {
		if s, err := sandbox.Open(t.Context(), sandbox.Config{Helper: helper, Groups: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s) = %v, %v, want an error with %q", dir, s, err, want)
		}
	}
}
