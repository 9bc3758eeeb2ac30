package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"nofx.dev/shared/config"
	"nofx.dev/shared/postgres"
)

const queueUsage = `usage: gateway queue list | pause QUEUE [--reason TEXT] | resume QUEUE

Shows the queues and the workers of the installation, pauses a queue for all tenants,
and resumes it. Steps that run go on to their end; a pause takes effect within some
seconds. DATABASE_URL is an administrator's. A tenant pauses a queue for itself with
` + "`nofx queue pause`" + `, and that stays when the installation's pause ends.

  --reason TEXT  why, shown by list
`

// queue runs `gateway queue`.
func queue(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("gateway queue", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, queueUsage) }
	reason := flags.String("reason", "", "")
	verb, names := "", 0
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	var name string
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, names, args = args[0], 1, args[1:]
	}
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() > 0 || !(verb == "list" && names == 0 || (verb == "pause" || verb == "resume") && names == 1) || *reason != "" && verb != "pause" {
		flags.Usage()
		return errUsage
	}
	cfg, _, err := config.Load[adminSettings](environ)
	if err != nil {
		return err
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: cfg.DatabaseURL, Pooled: cfg.Pooled, MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	ctx = postgres.WithActor(ctx, account())
	switch verb {
	case "pause":
		err = db.PauseQueueForAll(ctx, name, *reason)
	case "resume":
		err = db.ResumeQueueForAll(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", name, err)
	}
	return printQueues(ctx, db, stdout)
}

// account is whom a pause is noted for: the user of this machine.
func account() string {
	u, err := user.Current()
	if err != nil {
		return "gateway queue pause"
	}
	return u.Username
}

// printQueues writes what waits in each queue, whoever's it is, and the workers.
func printQueues(ctx context.Context, db *postgres.DB, out io.Writer) error {
	queues, err := db.Queues(ctx)
	if err != nil {
		return err
	}
	depths, err := db.QueueDepths(ctx)
	if err != nil {
		return err
	}
	workers, err := db.Workers(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "QUEUE\tWORKERS\tRUNNING\tREADY\tOLDEST\tLATER\tPAUSED")
	for _, q := range queues {
		var running, ready, later int64
		var oldest time.Duration
		for _, d := range depths {
			switch {
			case d.Queue != q.Name:
			case d.State == "running":
				running = d.Count
			case d.State == "available":
				ready, oldest = d.Count, d.OldestAge
			default:
				later += d.Count
			}
		}
		paused := "-"
		if q.PausedAt != nil {
			paused = strings.TrimSuffix(fmt.Sprintf("since %s by %s: %s", q.PausedAt.UTC().Format(time.RFC3339), q.PausedBy, q.Reason), ": ")
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%d\t%s\n", q.Name, q.Workers, running, ready, oldest.Truncate(time.Second), later, paused)
	}
	if len(workers) > 0 {
		fmt.Fprintln(w, "\nWORKER\tHOST\tPID\tSLOTS\tQUEUES\tTIER\tSEEN\tVERSION")
	}
	for _, p := range workers {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d/%d\t%s\t%d\t%s ago\t%s\n", p.ID, p.Host, p.PID, p.SlotsUsed, p.SlotsMax,
			strings.Join(p.Queues, ","), p.SandboxTier, p.Silence.Truncate(time.Second), p.Version)
	}
	return w.Flush()
}
