//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
)

// Harden does nothing here; see the package comment.
func Harden() error { return nil }

func execute(ctx context.Context, c Command, path string) (Exit, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Args, cmd.Dir, cmd.Env = c.Argv, c.Dir, c.Env
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = Grace
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
