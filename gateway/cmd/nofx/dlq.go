package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) dlqCommand() *cobra.Command {
	return group("dlq", "List steps that failed for good, and requeue them", a.dlqListCommand(), a.dlqRequeueCommand())
}

// letterFlags choose among the dead letters.
type letterFlags struct{ tool, class, project string }

func (f *letterFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.tool, "tool", "", "only steps of this tool")
	c.Flags().StringVar(&f.class, "class", "", "only of this class: exhausted or poisoned")
	c.Flags().StringVar(&f.project, "project", "", "only of this project's runs")
	oneOf(c, "class", api.DeadLetterClassExhausted, api.DeadLetterClassPoisoned)
}

func (a *app) dlqListCommand() *cobra.Command {
	var f letterFlags
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the steps that failed for good, those of the newest runs first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.DeadLetterPage](client.ListDeadLetters(cmd.Context(), &api.ListDeadLettersParams{
				Tool: optional(f.tool), FailureClass: optional(api.DeadLetterClass(f.class)), Project: optional(f.project),
				Cursor: optional(cursor), Limit: optional(limit),
			}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				a.printLetters(w, page.Items)
				nextPage(w, page.NextCursor)
			})
		},
	}
	f.register(c)
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) printLetters(w io.Writer, letters []api.StepAnswer) {
	rows := make([][]string, len(letters))
	for i, l := range letters {
		rows[i] = []string{l.Step.ID, l.Step.Name, l.Step.Tool, string(deref(l.Step.FailureClass)), clock(l.Step.FinishedAt), l.Run.ID, deref(l.Step.Reason)}
	}
	a.table(w, []string{"STEP", "NAME", "TOOL", "CLASS", "SINCE", "RUN", "REASON"}, rows, "SINCE", "STEP", "TOOL")
}

func (a *app) dlqRequeueCommand() *cobra.Command {
	var f letterFlags
	var all bool
	var limit int
	var reason string
	c := &cobra.Command{
		Use:   "requeue STEP… | --all",
		Short: "Run steps again that failed for good",
		Long: `Run steps again that failed for good, and the steps that were skipped because of
them. Name steps by id or as RUN/NAME. Or choose steps with --all and the other
flags, at most --limit of them.`,
		Example: `  nofx dlq requeue run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f/unit --reason 'disk is free again'
  nofx dlq requeue --all --tool http --limit 200`,
		ValidArgsFunction: a.completeStep(200, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("name steps, or choose them with --all")
			}
			if !all && f != (letterFlags{}) {
				return usagef("--tool, --class and --project need --all")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if all {
				done, raw, err := call[api.Requeued](client.RequeueDeadLetters(cmd.Context(), api.Requeue{
					Tool: optional(f.tool), FailureClass: optional(api.DeadLetterClass(f.class)), Project: optional(f.project),
					Limit: optional(limit), Reason: optional(reason),
				}))
				if err != nil {
					return err
				}
				return a.answer(raw, func(w io.Writer) { printRequeued(w, done.Requeued...) })
			}
			for _, name := range args {
				step, err := stepID(cmd.Context(), client, name)
				if err != nil {
					return err
				}
				done, raw, err := call[api.StepAnswer](client.RequeueDeadLetter(cmd.Context(), step, nil, api.Reason{Reason: optional(reason)}, named))
				if err != nil {
					return err
				}
				if err := a.answer(raw, func(w io.Writer) { printRequeued(w, done) }); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.register(c)
	c.Flags().BoolVar(&all, "all", false, "requeue all steps that the other flags choose")
	c.Flags().IntVar(&limit, "limit", 0, "with --all, the maximum number of steps (default 50, at most 200)")
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the steps")
	return c
}

func printRequeued(w io.Writer, done ...api.StepAnswer) {
	for _, d := range done {
		fmt.Fprintf(w, "%s (%s) %s, run %s %s\n", d.Step.ID, clean(d.Step.Name), d.Step.Status, d.Run.ID, d.Run.Status)
	}
	if len(done) == 0 {
		fmt.Fprintln(w, "nothing to requeue")
	}
}
