// Command bench measures how fast the system is on this machine:
//
//	go run ./integration/cmd/bench [--json FILE] [--seconds N] [--rounds N] [memory|start|next|runs|workers|sandbox|checkpoint|diff|merge|branch|post…]
//	go run ./integration/cmd/bench trees
//	go run ./integration/cmd/bench --history 1000000 scale
//	go run ./integration/cmd/bench --soak 20m soak
//
// It starts a stack of its own (durable Postgres, S3, one gateway, two workers)
// and measures beside each figure what a user would have instead, in the same
// run and on the same server: a minimal chain written by hand on River
// (chain.go), DBOS's Go library (peer.go; without its modules it is left out),
// git on the same tree. Machines differ and are shared, so the
// ratio is what to quote. The goals are those of the performance page; one that is
// missed is printed, and is no error. trees stands for checkpoint, diff and merge, which
// have git beside them.
//
// Where there is a /proc the CPU that each group of processes spent on a run is
// told as well: neighbours change it least, so it is what to tune by, and
// `bench --rounds 1 --seconds 3 runs` is enough for it.
//
// What is printed last is in the format of Go's benchmarks, for benchstat;
// --json keeps the raw numbers. scale and soak are long, so they run when they are
// named. Begin with [measurements].
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	json    string
	seconds int
	rounds  int           // how often each system has its turn
	history int           // finished runs that scale goes up to
	soakFor time.Duration // how long soak loads
	only    []string      // empty: all that are not long
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends us at once, and our children with us
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, diagnostics io.Writer) error {
	o, err := parse(args, diagnostics)
	if err != nil {
		return err
	}
	progress := func(what string) { fmt.Fprintln(diagnostics, "bench:", what) }
	b, err := start(ctx, o, progress)
	if err != nil {
		return err
	}
	// What was measured before an error is worth showing all the same.
	err = b.measure(ctx, o.only)
	b.stop(err == nil || ctx.Err() != nil)
	if printErr := b.report.print(out); err == nil {
		err = printErr
	}
	if o.json != "" && len(b.report.Figures) > 0 {
		if writeErr := b.report.write(o.json); err == nil {
			err = writeErr
		}
	}
	return err
}

func parse(args []string, out io.Writer) (options, error) {
	names := make([]string, len(measurements))
	for i, m := range measurements {
		names[i] = m.name
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintf(out, "Usage: bench [--json FILE] [--seconds N] [--rounds N] [--history N] [--soak TIME] [%s …]\n\n", strings.Join(append(names, "trees"), "|"))
		flags.PrintDefaults()
	}
	flags.StringVar(&o.json, "json", "", "write all that was measured to `FILE`")
	flags.IntVar(&o.seconds, "seconds", 9, "how long to load each system")
	flags.IntVar(&o.history, "history", 1_000_000, "how many finished runs scale writes, about 25 KiB each")
	flags.DurationVar(&o.soakFor, "soak", 2*time.Minute, "how long soak goes on")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each system has its turn in that time, so that a noisy neighbour meets all")
	for len(args) > 0 { // flags may stand after names
		if err := flags.Parse(args); err != nil {
			return o, err
		}
		if args = flags.Args(); len(args) > 0 {
			o.only, args = append(o.only, args[0]), args[1:]
		}
	}
	if o.seconds < 1 || o.seconds > 600 {
		return o, fmt.Errorf("--seconds %d: want 1 to 600", o.seconds)
	}
	if o.rounds < 1 || o.rounds > o.seconds {
		return o, fmt.Errorf("--rounds %d: want 1 to the %d of --seconds", o.rounds, o.seconds)
	}
	if o.history < 1000 || o.history > 10_000_000 {
		return o, fmt.Errorf("--history %d: want 1000 to 10000000", o.history)
	}
	if o.soakFor < 30*time.Second || o.soakFor > 24*time.Hour {
		return o, fmt.Errorf("--soak %s: want 30s to 24h", o.soakFor)
	}
	if i := slices.Index(o.only, "trees"); i >= 0 {
		o.only = slices.Replace(o.only, i, i+1, trees...)
	}
	for _, name := range o.only {
		if !slices.Contains(names, name) {
			return o, fmt.Errorf("unknown measurement %q; there are: %s", name, strings.Join(append(names, "trees"), ", "))
		}
	}
	return o, nil
}
