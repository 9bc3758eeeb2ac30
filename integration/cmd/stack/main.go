// Command stack runs the whole system on this machine:
//
//	go run ./integration/cmd/stack up [--workers N] [--demo] [--env-file FILE] [--data DIR]
//	go run ./integration/cmd/stack run [--workers N] PLAN
//
// up builds the programs, starts Postgres and an S3 server, brings the database
// up to date, starts one gateway and N workers, and prints how to reach them.
// Data is kept between starts. A process that dies is started again; Ctrl-C
// stops everything.
//
// run does the same for one plan, on a stack that is there for it alone and gone
// after it: its exit code is the run's, its last lines are the verdicts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const usage = `Usage: stack up [--workers N] [--demo] [--env-file FILE] [--data DIR]
       stack run [--workers N] PLAN

up starts Postgres, S3, a gateway and workers on this machine, until Ctrl-C.
run starts them for one plan, a JSON file, shows how it goes, and ends with 0 when
it succeeded, 3 when it did not, and 1 when it could not be run. A git:checkout of
"." is of the repository that you are in, as it is committed.
With DATABASE_URL, an administrator's, that server is used. NOFX_* and OTEL_*
variables are passed on to the processes, such as NOFX_GIT_ALLOW and
NOFX_EGRESS_ALLOW; where they listen is chosen here, on free ports.

`

// options are what the command line says.
type options struct {
	plan    string // of run
	workers int
	demo    bool
	envFile string
	data    string
	login   bool // data is the default folder, so the CLI is told where we are
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// Ctrl-C ends what reads our output, such as tee, before us. Writing to it then fails, and
	// must not end us before our children.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	context.AfterFunc(ctx, stop) // a second signal ends us at once, and our children with us
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errNotSucceeded):
		os.Exit(3)
	case err != nil:
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	opts, err := parse(args, out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer withGoRun(cancel)()
	if opts.plan != "" {
		return runPlan(ctx, opts, newTerminal(out))
	}
	return up(ctx, opts, newTerminal(out))
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("stack", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	flags.IntVar(&o.workers, "workers", 2, "how many workers")
	flags.BoolVar(&o.demo, "demo", false, "up: run a plan that builds and tests this repository")
	flags.StringVar(&o.envFile, "env-file", "", "up: write URLs, keys and pids to `FILE` when all is ready")
	flags.StringVar(&o.data, "data", "", "up: keep data in `DIR` (default: nofx/stack in your state folder)")
	if len(args) == 0 || args[0] != "up" && args[0] != "run" {
		if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			return o, fmt.Errorf("unknown command %q; there are: up, run", args[0])
		}
		flags.Usage()
		return o, flag.ErrHelp
	}
	if err := flags.Parse(args[1:]); err != nil {
		return o, err
	}
	rest := flags.Args()
	if args[0] == "run" {
		if o.demo || o.envFile != "" || o.data != "" {
			return o, errors.New("run takes no --demo, --env-file or --data: its stack is there for the plan alone")
		}
		if len(rest) == 0 {
			return o, errors.New("name the plan to run")
		}
		o.plan, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		return o, fmt.Errorf("unexpected argument %q", rest[0])
	}
	if o.workers < 0 || o.workers > 64 {
		return o, fmt.Errorf("--workers %d: want 0 to 64", o.workers)
	}
	standard, err := stateDir()
	if err != nil {
		return o, err
	}
	if o.data == "" {
		o.data = standard
	}
	if o.data, err = filepath.Abs(o.data); err != nil {
		return o, err
	}
	o.login = o.data == standard
	if o.envFile != "" {
		o.envFile, err = filepath.Abs(o.envFile)
	}
	return o, err
}

// stateDir returns nofx/stack in the user's state folder.
func stateDir() (string, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find your state folder (or give --data DIR): %w", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "nofx", "stack"), nil
}

// withGoRun stops the stack when it was started by `go run` and that is gone:
// who kills the process he started means the stack, of which he sees no more.
// Started otherwise, it outlives the shell as any server does.
func withGoRun(stop func()) (done func()) {
	exe, err := os.Executable()
	if err != nil || !strings.Contains(exe, "go-build") {
		return func() {}
	}
	parent, quit, ended := os.Getppid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				if os.Getppid() != parent {
					stop()
					return
				}
			}
		}
	}()
	return func() { close(quit); <-ended }
}
