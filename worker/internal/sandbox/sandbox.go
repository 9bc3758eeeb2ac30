package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"nofx.dev/shared/fault"
)

// Grace is how long a tree that is asked to end may take before it is killed.
const Grace = 3 * time.Second

// drain is how long output may still arrive once the tree is gone: only a slow
// writer, or a pipe that was handed to a stranger, takes that long.
const drain = time.Second

// Command is one program to run.
type Command struct {
	Argv           []string  // Argv[0] without a slash is looked up in the PATH of Env
	Dir            string    // absolute
	Env            []string  // NAME=value: all of the environment there is
	Stdout, Stderr io.Writer // nil discards; the same writer twice keeps the order; must not block for ever
}

// Exit is how a command ended and what its tree consumed.
type Exit struct {
	Code   int            // exit code, -1 if a signal ended the main process
	Signal syscall.Signal // that signal, else 0
	Killed bool           // it ended because ctx did
	CPU    time.Duration  // user and system, of every process of the tree
	MaxRSS int64          // bytes, of its largest process
}

// Exec runs c to the end of its main process; what is left of its tree is then
// killed. An exit code is no error. When ctx ends first the tree gets SIGTERM,
// three seconds and then SIGKILL, or SIGKILL at once where the cause is
// fault.Fenced, since another worker may already have the step; Exec returns
// after that with context.Cause(ctx). A program that does not exist is
// exec.ErrNotFound. Exit is filled as far as known beside an error too.
func Exec(ctx context.Context, c Command) (Exit, error) {
	if ctx.Err() != nil {
		return Exit{Code: -1, Killed: true}, context.Cause(ctx)
	}
	path, err := lookPath(c.Argv[0], c.Env)
	if err != nil {
		return Exit{Code: -1}, err
	}
	exit, err := execute(ctx, c, path)
	switch {
	case exit.Killed && ctx.Err() != nil:
		err = context.Cause(ctx)
	case exit.Killed:
		err = errors.New("the command was ended by a signal to its watcher")
	}
	return exit, err
}

// Tier returns what isolates step code in this process: 0, see the package comment.
func Tier() int { return 0 }

// atOnce reports whether the tree of a context that ended gets no grace.
func atOnce(ctx context.Context) bool { return errors.Is(context.Cause(ctx), fault.Fenced) }

// lookPath finds a program in the PATH of env, never in the worker's own.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}
