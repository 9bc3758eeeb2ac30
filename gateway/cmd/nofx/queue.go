package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) queueCommand() *cobra.Command {
	return group("queue", "List queues and your waiting steps; pause and resume queues",
		a.queueListCommand(),
		a.setPausedCommand("pause", "Stop workers from taking your steps from a queue", `Stop workers from taking your tenant's steps from a queue: "step", or "review" for steps
that ask models. Running steps continue to their end, and other tenants' steps are not
affected. If the queue is already paused, the reason replaces the earlier one. This needs
the role admin.`, "the database is being moved", "the reason, shown by queue list", (*api.Client).PauseQueue),
		a.setPausedCommand("resume", "Let workers take your steps from a paused queue again", `Let workers take your tenant's steps from a paused queue again. A pause for all tenants
remains. This needs the role admin.`, "the database is moved", "the reason, for the gateway's log", (*api.Client).ResumeQueue))
}

func (a *app) queueListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the queues and your waiting steps",
		Long: `List the queues, which all tenants share, and your tenant's steps in each:
  READY     steps that a worker could take now, or could take without the pause
  OLDEST    how long the oldest of them has been ready
  RETRYING  steps that will be tried again later
  PAUSED    the pause of your tenant, which "nofx queue resume" ends, the pause for all
            tenants by the operator of the installation, or both
10000+ means 10000 or more.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.QueuePage](client.ListQueues(cmd.Context()))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printQueues(w, page.Items) })
		},
	}
}

func (a *app) printQueues(w io.Writer, queues []api.Queue) {
	rows := make([][]string, len(queues))
	for i, q := range queues {
		var paused []string
		if q.PausedForAll {
			paused = append(paused, "for all tenants")
		}
		if q.Paused {
			by := "by " + cmp.Or(deref(q.PausedByName), deref(q.PausedBy)) + ", " + span(a.now().Sub(*q.PausedAt))
			if q.Reason != nil {
				by += ": " + *q.Reason
			}
			paused = append(paused, by)
		}
		counted := func(n int64) string {
			text := strconv.FormatInt(n, 10)
			if q.Depth.More && n > 0 {
				text += "+"
			}
			return text
		}
		rows[i] = []string{q.Name, strconv.Itoa(q.Workers), strconv.FormatInt(q.Depth.Running, 10), counted(q.Depth.Ready),
			span(time.Duration(q.OldestAgeMs) * time.Millisecond), counted(q.Depth.Retrying), strings.Join(paused, "; ")}
	}
	a.table(w, []string{"QUEUE", "WORKERS", "RUNNING", "READY", "OLDEST", "RETRYING", "PAUSED"}, rows, "RETRYING", "RUNNING")
}

func queueNames(queues []api.Queue) []string {
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.Name
	}
	return names
}

// setPausedCommand returns the command pause or resume.
func (a *app) setPausedCommand(verb, short, long, example, why string,
	change func(*api.Client, context.Context, api.QueueName, api.Reason, ...api.RequestEditorFn) (*http.Response, error)) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:               verb + " QUEUE",
		Short:             short,
		Long:              long,
		Example:           "  nofx queue " + verb + " step --reason '" + example + "'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeQueue(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			answer, raw, err := call[api.QueueAnswer](change(client, cmd.Context(), args[0], api.Reason{Reason: optional(reason)}))
			if problem, refused := errors.AsType[*problemError](err); refused && problem.Status == http.StatusNotFound {
				if page, _, listErr := call[api.QueuePage](client.ListQueues(cmd.Context())); listErr == nil {
					names := queueNames(page.Items)
					return fmt.Errorf("%w: there is no queue %q%s; there are %s", errNotFound, args[0], didYouMean(args[0], names), strings.Join(names, ", "))
				}
			}
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printQueues(w, []api.Queue{answer.Queue}) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", why)
	return c
}

func (a *app) workerCommand() *cobra.Command {
	return group("worker", "List workers", a.workerListCommand())
}

func (a *app) workerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the workers, in groups of the same kind",
		Long: `List the workers, in groups of the same kind. They serve all tenants. Each worker reports
every five seconds. A worker that is silent has probably been lost; it is listed for an
hour. A worker that "waits for storage" begins no steps that need storage, and the
results of its running steps cannot be stored until storage answers again. SLOTS is the
number of steps that the workers can run at once. TIER is how they isolate steps; 0 means
not at all.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.WorkerPage](client.ListWorkers(cmd.Context()))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, p := range page.Items {
					status := string(p.Status)
					if p.WaitsFor != nil && p.Status != api.WorkerStatusSilent {
						status += ", waits for " + *p.WaitsFor
					}
					rows[i] = []string{strconv.Itoa(p.Workers), status, strconv.Itoa(p.SlotsMax), strings.Join(p.Queues, ","), strconv.Itoa(p.SandboxTier), p.Version}
				}
				a.table(w, []string{"WORKERS", "STATUS", "SLOTS", "QUEUES", "TIER", "VERSION"}, rows, "TIER", "VERSION")
			})
		},
	}
}
