package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
)

const queueUsage = `usage: gateway queue list
       gateway queue pause QUEUE [--reason TEXT]
       gateway queue resume QUEUE

Shows the queues of the installation, what tenants have paused, and the workers; pauses
a queue for all tenants, and resumes it. Running steps continue to their end; a pause
takes effect within seconds. DATABASE_URL must have an administrator's login. A tenant
pauses a queue for itself with ` + "`nofx queue pause`" + `; such a pause remains when the
pause for all tenants ends.

  --reason TEXT  the reason, shown by list; if the queue is already paused, it replaces
                 the earlier reason
`

// queue runs `gateway queue`.
func queue(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if asksHelp(args) {
		_, err := io.WriteString(stdout, queueUsage)
		return err
	}
	flags := flagSet("gateway queue", queueUsage, stderr)
	reason := flags.String("reason", "", "")
	verb, names := "", 0
	rest := args
	if len(rest) > 0 {
		verb, rest = rest[0], rest[1:]
	}
	var name string
	if len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		name, names, rest = rest[0], 1, rest[1:]
	}
	if flags.Parse(rest) != nil {
		return errUsage
	}
	if flags.NArg() > 0 || !(verb == "list" && names == 0 || (verb == "pause" || verb == "resume") && names == 1) || *reason != "" && verb != "pause" {
		return misused(stderr, "gateway queue", args, queueUsage)
	}
	return administer(ctx, environ, func(ctx context.Context, _ adminSettings, db *postgres.DB) error {
		ctx = postgres.WithActor(ctx, account())
		pauses, err := db.TenantPauses(ctx) // first, so that nothing is changed without the right to look
		if err != nil {
			return err
		}
		switch verb {
		case "pause":
			err = db.PauseQueueForAll(ctx, name, *reason)
		case "resume":
			err = db.ResumeQueueForAll(ctx, name)
		}
		if errors.Is(err, fault.NotFound) {
			return fmt.Errorf("there is no queue %q; there are %s", name, strings.Join(job.Queues, ", "))
		}
		if err != nil {
			return err
		}
		return printQueues(ctx, db, pauses, stdout)
	})
}

// account returns the user of this machine, for whom a pause is noted.
func account() string {
	u, err := user.Current()
	if err != nil {
		return "gateway queue pause"
	}
	return u.Username
}

// printQueues writes what waits in each queue, whoever's it is, what tenants have
// paused, and the workers.
func printQueues(ctx context.Context, db *postgres.DB, pauses []postgres.TenantPause, out io.Writer) error {
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
			paused = pause(*q.PausedAt, q.PausedBy, q.Reason)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%d\t%s\n", q.Name, q.Workers, running, ready, oldest.Truncate(time.Second), later, paused)
	}
	if len(pauses) > 0 {
		fmt.Fprintln(w, "\nTENANT\tQUEUE\tPAUSED BY THE TENANT")
	}
	for _, p := range pauses {
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Tenant, p.Queue, pause(p.PausedAt, p.PausedBy, p.Reason))
	}
	if len(workers) > 0 {
		fmt.Fprintln(w, "\nWORKER\tSTATUS\tHOST\tPID\tSLOTS\tQUEUES\tTIER\tSEEN\tVERSION")
	}
	for _, p := range workers {
		status := "serving"
		switch {
		case p.Silent():
			status = "silent"
		case p.Draining:
			status = "draining"
		}
		if p.WaitsFor != "" && !p.Silent() {
			status += ", waits for " + p.WaitsFor
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d/%d\t%s\t%d\t%s ago\t%s\n", p.ID, status, p.Host, p.PID, p.SlotsUsed, p.SlotsMax,
			strings.Join(p.Queues, ","), p.SandboxTier, p.Silence.Truncate(time.Second), p.Version)
	}
	return w.Flush()
}

// pause returns since when a queue is paused, by whom and why. A reason may be a tenant's
// text.
func pause(at time.Time, by, reason string) string {
	text := fmt.Sprintf("since %s by %s", at.UTC().Format(time.RFC3339), by)
	if reason != "" {
		text += ": " + reason
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '·'
		}
		return r
	}, text)
}
