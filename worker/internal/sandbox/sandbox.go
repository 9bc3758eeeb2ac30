package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/sandbox/confine"
)

// drain is how long output may still arrive once the tree is gone: only a slow
// writer, or a pipe that was handed to a stranger, takes that long.
const drain = time.Second

// Command is one program to run.
type Command struct {
	Argv           []string  // Argv[0] without a slash is looked up in the PATH of Env
	Dir            string    // absolute
	Env            []string  // NAME=value: all of the environment there is
	Writable       []string  // absolute folders that it may change, such as its workspace
	Readable       []string  // absolute paths that it may read, beside the toolchain
	Network        bool      // it may reach the machine's network: only for programs of the worker's own choice
	Proxy          string    // path of a Unix socket that it reaches as ProxyAddress; "": none. Only from ProxyTier on
	Stdout, Stderr io.Writer // nil discards; the same writer twice keeps the order; must not block for ever
}

// ProxyTier is the least tier in which a command can have a proxy: below it there are no
// sockets.
const ProxyTier = 2

// ProxyAddress is where a command with a proxy reaches it, by TCP.
const ProxyAddress = confine.ProxyAddress

// Exit is how a command ended and what its tree consumed.
type Exit = confine.Exit

// Limits are what the tree of a command may take.
type Limits = confine.Limits

// Config says how commands are isolated.
type Config struct {
	MaxTier  int      // the highest tier that is tried
	Helper   string   // path of nofx-sandbox; "": beside this program
	Bwrap    string   // path of bubblewrap; "": found in PATH
	Readable []string // absolute paths that every command may read, beside the toolchain
	Limits   Limits
	Groups   string // folder of cgroup v2 without processes, in which each command gets a control group; "": it gets none
}

// Sandbox runs commands in one tier. Make it with [Open]; it is safe for concurrent use.
type Sandbox struct {
	cfg    Config
	tier   int
	higher []string
	dir    string // files that namespaces need, such as a list of users
}

// Tier returns what isolates the commands that s runs.
func (s *Sandbox) Tier() int { return s.tier }

// Higher returns what was missing for each tier above the one that holds, the highest first.
func (s *Sandbox) Higher() []string { return s.higher }

// Close removes what s made on the disk. No command may run any more.
func (s *Sandbox) Close() error { return os.RemoveAll(s.dir) }

// Exec runs c to the end of its main process; what is left of its tree is then
// killed. An exit code is no error, nor is a limit that ended it. When ctx ends first the
// tree gets SIGTERM, three seconds and then SIGKILL, or SIGKILL at once where the cause is
// fault.Fenced, since another worker may already have the step; Exec returns
// after that with context.Cause(ctx). A program that does not exist is
// exec.ErrNotFound. Exit is filled as far as known beside an error too.
func (s *Sandbox) Exec(ctx context.Context, c Command) (Exit, error) {
	return s.exec(ctx, c, s.tier)
}

// exec is Exec in a tier that may be another than that of s.
func (s *Sandbox) exec(ctx context.Context, c Command, tier int) (Exit, error) {
	if ctx.Err() != nil {
		return Exit{Code: -1, Killed: true}, context.Cause(ctx)
	}
	if c.Proxy != "" && c.Network {
		return Exit{Code: -1}, fmt.Errorf("start %s: a command has the machine's network or a proxy, not both", c.Argv[0])
	}
	if c.Proxy != "" && tier < ProxyTier {
		return Exit{Code: -1}, fmt.Errorf("start %s: a network needs a sandbox of tier %d; this one is of tier %d", c.Argv[0], ProxyTier, tier)
	}
	path, err := lookPath(c.Argv[0], c.Env)
	if err != nil {
		return Exit{Code: -1}, err
	}
	exit, err := s.execute(ctx, c, path, tier)
	switch {
	case exit.Killed && ctx.Err() != nil:
		err = context.Cause(ctx)
	case exit.Killed:
		err = errors.New("the command was ended by a signal to its watcher")
	}
	return exit, err
}

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
