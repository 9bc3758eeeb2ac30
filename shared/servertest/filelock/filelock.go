// Package filelock locks a file between processes, so that two of them do not
// build the same program or run a server on the same data.
//
// A lock belongs to the open file. A child that inherits the file holds it too:
// handing it over by exec.Cmd.ExtraFiles makes "locked" mean "the child, or a
// child of its own, still lives", whatever became of the process that started
// it. That is safer than a pid in a file, whose number another process may wear.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// ErrHeld is the error of [Try] and [Wait] when another process has the lock.
var ErrHeld = errors.New("held by another process")

// Try locks the file at path, making it when it is missing. Closing the file
// gives the lock back, unless a child has inherited it.
func Try(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrHeld
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Wait repeats [Try] until the lock is free or ctx ends.
func Wait(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := Try(path)
		if !errors.Is(err, ErrHeld) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}
