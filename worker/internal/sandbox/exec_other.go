//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"nofx.dev/worker/internal/sandbox/confine"
)

// Harden does nothing here; see the package comment.
func Harden() error { return nil }

// HelperName is the file name of the helper that Linux has.
const HelperName = "nofx-sandbox"

// Open returns a Sandbox of tier 0: there is no other here.
func Open(_ context.Context, cfg Config) (*Sandbox, error) {
	return &Sandbox{cfg: cfg, higher: []string{"tiers 1 and 2: they are Linux's"}}, nil
}

func (s *Sandbox) execute(ctx context.Context, c Command, path string, _ int) (Exit, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Args, cmd.Dir, cmd.Env = c.Argv, c.Dir, c.Env
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = confine.Grace
	killed := false
	cmd.Cancel = func() error {
		killed = true
		if atOnce(ctx) {
			return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	if err := cmd.Start(); err != nil {
		return Exit{Code: -1}, fmt.Errorf("start %s: %w", c.Argv[0], err)
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)

	exit := Exit{Code: cmd.ProcessState.ExitCode(), Killed: killed,
		CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		exit.Signal = status.Signal()
	}
	if _, ended := errors.AsType[*exec.ExitError](err); err == nil || ended || killed || errors.Is(err, exec.ErrWaitDelay) {
		return exit, nil
	}
	return exit, fmt.Errorf("output of %s: %w", c.Argv[0], err)
}
