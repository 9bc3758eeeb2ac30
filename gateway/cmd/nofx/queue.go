package main

import (
	"context"
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
	return group("queue", "See what waits in the queues; pause and resume them",
		a.queueListCommand(),
		a.setPausedCommand("pause", "Let workers take nothing more from a queue", `Let workers take nothing more from a queue, whosever steps wait in it. Steps that
run go on to their end. It takes effect within some seconds.`, (*api.Client).PauseQueue),
		a.setPausedCommand("resume", "Let workers take from a paused queue again", "Let workers take from a paused queue again.", (*api.Client).ResumeQueue))
}

func (a *app) queueListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the queues, what waits in them and who works on them",
		Long: `List the queues of the deployment, which all tenants share. READY is what a worker
could take now, OLDEST for how long the first of it has been due, LATER what is
to be taken at another time.`,
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
			return a.answer(raw, func(w io.Writer) { printQueues(w, page.Items) })
		},
	}
}

func printQueues(w io.Writer, queues []api.Queue) {
	rows := make([][]string, len(queues))
	for i, q := range queues {
		paused := ""
		if q.Paused {
			paused = "since " + clock(q.PausedAt)
		}
		number := func(n int64) string { return strconv.FormatInt(n, 10) }
		rows[i] = []string{q.Name, strconv.Itoa(q.Workers), number(q.Depth.Running), number(q.Depth.Available),
			span(time.Duration(q.OldestAgeMs) * time.Millisecond), number(q.Depth.Scheduled + q.Depth.Retryable + q.Depth.Pending), paused}
	}
	table(w, []string{"QUEUE", "WORKERS", "RUNNING", "READY", "OLDEST", "LATER", "PAUSED"}, rows)
}

// setPausedCommand is pause or resume.
func (a *app) setPausedCommand(verb, short, long string,
	change func(*api.Client, context.Context, api.QueueName, api.Reason, ...api.RequestEditorFn) (*http.Response, error)) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:               verb + " QUEUE",
		Short:             short,
		Long:              long,
		Example:           "  nofx queue " + verb + " step --reason 'the database is being moved'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeQueue,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			answer, raw, err := call[api.QueueAnswer](change(client, cmd.Context(), args[0], api.Reason{Reason: optional(reason)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { printQueues(w, []api.Queue{answer.Queue}) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the gateway's log")
	return c
}

// completeQueue asks the gateway for the names of its queues.
func (a *app) completeQueue(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	page, _, err := call[api.QueuePage](client.ListQueues(ctx))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, q := range page.Items {
		names = append(names, q.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) workerCommand() *cobra.Command {
	return group("worker", "See the processes that run steps", a.workerListCommand())
}

func (a *app) workerListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the workers, oldest first",
		Long: `List the workers of the deployment, oldest first. Each says every five seconds that
it is there; one that is silent has probably been lost. TIER is what isolates
steps there: 0 is nothing.`,
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
				columns := 9
				if a.narrow() {
					columns = 6
				}
				rows := make([][]string, len(page.Items))
				for i, p := range page.Items {
					rows[i] = []string{p.ID, string(p.Status), fmt.Sprintf("%d/%d", p.SlotsUsed, p.SlotsMax), strings.Join(p.Queues, ","), strconv.Itoa(p.SandboxTier),
						span(a.now().Sub(p.SeenAt)) + " ago", span(a.now().Sub(p.StartedAt)), strconv.Itoa(p.Pid), p.Version}[:columns]
				}
				table(w, []string{"WORKER", "STATUS", "SLOTS", "QUEUES", "TIER", "SEEN", "UP", "PID", "VERSION"}[:columns], rows)
			})
		},
	}
}
