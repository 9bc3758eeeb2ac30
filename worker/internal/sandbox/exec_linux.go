package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nofx.dev/worker/internal/sandbox/confine"
)

// patience is how long a helper may take to carry out an order, beside Grace. One
// that is stopped or starved is then replaced by the worker itself.
const patience = time.Second

// ErrHelperLost is returned when the process that watches over a command was itself ended.
var ErrHelperLost = errors.New("the process that watched over the command was lost")

// Harden is to be called once, when the worker starts. Without it a step of the same
// user reads the worker's memory and environment through /proc. It also makes the
// worker the heir of a tree whose helper was killed.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set undumpable: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

func (s *Sandbox) execute(ctx context.Context, c Command, path string, tier int) (exit Exit, err error) {
	for _, s := range slices.Concat([]string{path, c.Dir}, c.Argv, c.Env) {
		if strings.IndexByte(s, 0) >= 0 {
			return Exit{Code: -1}, fmt.Errorf("start %s: %w", c.Argv[0], syscall.EINVAL)
		}
	}
	spec := confine.NewSpec(path, c.Dir, c.Argv, c.Env)
	spec.Tier, spec.Network, spec.Limits = tier, c.Network, s.cfg.Limits
	spec.Writable, spec.Readable = c.Writable, s.readable(c)
	argv := []string{s.cfg.Helper}
	if tier >= 2 {
		argv = s.bwrap(c)
		spec.Writable, spec.Readable = append(slices.Clone(c.Writable), "/tmp", "/dev", "/proc"), []string{"/"}
	}
	if c.Proxy != "" {
		spec.Proxy = proxyInside
	}
	var g *group
	if s.cfg.Groups != "" {
		if g, err = newGroup(s.cfg.Groups, s.cfg.Limits); err != nil {
			return Exit{Code: -1}, err
		}
		defer func() { g.close(&exit) }()
	}
	h, err := startHelper(argv, c, g)
	if err != nil {
		return Exit{Code: -1}, fmt.Errorf("start sandbox helper: %w", err)
	}
	defer h.control.Close()
	// Written beside the reading below: a helper that dies early must not leave
	// the worker waiting for room in the pipe.
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = h.control.Write(spec.Encode())
		h.watch(ctx, over)
	})
	raw, _ := io.ReadAll(h.report) // ends with the helper
	close(over)
	wg.Wait()
	_ = h.report.Close()
	err = h.cmd.Wait()

	var r confine.Report
	if json.Unmarshal(raw, &r) != nil {
		confine.KillStrays()
		return Exit{Code: -1, Killed: ctx.Err() != nil}, ErrHelperLost
	}
	if r.Errno != 0 {
		return r.Exit, fmt.Errorf("start %s: %w", c.Argv[0], syscall.Errno(r.Errno))
	}
	if r.Refused != "" {
		return r.Exit, fmt.Errorf("isolate %s: %s", c.Argv[0], r.Refused)
	}
	// bubblewrap ends with the exit code of the helper, which is 0 with a report.
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return r.Exit, fmt.Errorf("output of %s: %w", c.Argv[0], err)
	}
	return r.Exit, nil
}

// helper is the worker's side of a helper.
type helper struct {
	cmd     *exec.Cmd
	control *os.File // write end of its stdin
	report  *os.File // read end of its descriptor 3
}

// startHelper starts a helper, in a control group unless that is nil.
func startHelper(argv []string, c Command, g *group) (*helper, error) {
	stdin, control, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	report, said, err := os.Pipe()
	if err != nil {
		_ = control.Close()
		return nil, err
	}
	defer said.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = helperEnv
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, c.Stdout, c.Stderr
	cmd.ExtraFiles = []*os.File{said}
	cmd.WaitDelay = drain
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,            // out of the terminal's group, so that Ctrl-C lets the worker drain
		Pdeathsig: syscall.SIGCONT, // a helper that its command stopped learns of our death all the same
	}
	if g != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.at.Fd())
	}
	if err := cmd.Start(); err != nil {
		_ = control.Close()
		_ = report.Close()
		return nil, err
	}
	yield(cmd.Process.Pid)
	return &helper{cmd, control, report}, nil
}

// yielded is how much nicer than the worker its commands are.
const yielded = 10

// yield lets a helper, which has not read its command yet, and so the command run after the
// worker where processors are scarce: leases are renewed and other steps start although
// commands compute. Without it they only run slower beside each other, so no error counts.
func yield(pid int) {
	raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		return
	}
	const zero = 20 // what Linux returns for a nice value of 0; it counts downwards
	_ = syscall.Setpriority(syscall.PRIO_PGRP, pid, zero-raw+yielded)
}

// helperEnv is all that a helper, and bubblewrap, finds in its environment, which its command
// can read in tier 2: fewer threads to start.
var helperEnv = []string{"GOMAXPROCS=1"}

// watch passes the end of ctx on to the helper, and kills tree and helper itself
// if that does not end them. It returns when over is closed.
func (h *helper) watch(ctx context.Context, over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-ctx.Done():
	}
	order, wait := byte(confine.OrderEnd), confine.Grace+patience
	if atOnce(ctx) {
		order, wait = confine.OrderKill, patience
	}
	_, _ = h.control.Write([]byte{order})
	select {
	case <-over:
	case <-time.After(wait):
		confine.KillTree(h.cmd.Process.Pid)
		_ = h.cmd.Process.Kill()
		<-over
	}
}
