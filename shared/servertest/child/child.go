// Package child starts processes that do not outlive the one that started
// them: a database or an object store of a test, the gateway and workers of
// `stack`.
//
// Stopping in order is not enough for that, because a process killed by
// SIGKILL stops nothing in order. So on Linux the kernel is asked to signal the
// child when its parent is gone. It watches the parent's *thread*, not the
// process, which is why every child is started, and waited for, by a goroutine
// that keeps its thread to itself until the child has ended.
//
// Each child leads a process group of its own: Ctrl-C on a terminal reaches the
// parent alone, which then stops its children in the order it likes.
package child

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Process is a child that was started. Its methods may be called from any
// goroutine.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // written before done is closed
}

// Start starts cmd as the leader of a process group. When this process dies
// without having stopped it, however that happens, the kernel sends it onDeath
// (on Linux; elsewhere a child has to notice by itself).
//
// What cmd.SysProcAttr says besides is kept. cmd must not be used afterwards.
func Start(cmd *exec.Cmd, onDeath syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	signalOnDeath(cmd.SysProcAttr, onDeath)

	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Run runs cmd to its end. When ctx ends first, cmd and its group are
// interrupted, and killed when they take longer than a few seconds to go.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	p, err := Start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
		return p.Err()
	case <-ctx.Done():
	}
	p.signalGroup(syscall.SIGINT)
	p.Stop(syscall.SIGINT, 3*time.Second)
	return ctx.Err()
}

// PID returns the process id; it stays the same after the process has ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the process ended, nil for exit code 0. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends sig to the process alone. The error is [os.ErrProcessDone] when
// it has ended.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop sends sig, waits for the end, and after grace kills the process and its
// group. It returns when the process is gone; [Process.Err] says how it ended.
func (p *Process) Stop(sig os.Signal, grace time.Duration) {
	p.Signal(sig) //nolint:errcheck // one that is gone needs no signal
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	p.signalGroup(syscall.SIGKILL)
	<-p.done
}

// signalGroup reaches also what the process has started. The error would be that
// they are gone: it is our own child, and while it is not waited for its number
// cannot belong to another.
func (p *Process) signalGroup(sig syscall.Signal) {
	syscall.Kill(-p.PID(), sig) //nolint:errcheck // see above
}
