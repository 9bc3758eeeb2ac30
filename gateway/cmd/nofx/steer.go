package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

// verbOf is a method of the generated client for a verb, and P the type of its headers.
type verbOf[P any] func(*api.Client, context.Context, api.RunIDParameter, *P, api.Reason, ...api.RequestEditorFn) (*http.Response, error)

// named gives a request a new Idempotency-Key, so that it can be repeated if its response
// was lost.
func named(_ context.Context, req *http.Request) error {
	req.Header.Set("Idempotency-Key", rand.Text())
	return nil
}

// runVerbCommand returns the command of a verb that takes a run and a reason and returns
// the run.
func runVerbCommand[P any](a *app, verb, short string, do verbOf[P]) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:               verb + " RUN",
		Short:             short,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			answer, raw, err := call[api.RunAnswer](do(client, cmd.Context(), args[0], nil, api.Reason{Reason: optional(reason)}, named))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", answer.Run.ID, answer.Run.Status) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the run")
	return c
}

func (a *app) runRetryCommand() *cobra.Command {
	var reason string
	var alone, watch bool
	c := &cobra.Command{
		Use:   "retry RUN|STEP",
		Short: "Retry a run, or one step of it",
		Long: `Retry a run that failed or was cancelled, or one step of it.

Given a run, its failed steps run again, and its skipped and cancelled steps get their
turn; the results of other steps are kept. Given a step, by its id or as RUN/NAME, the step
runs again, and the steps that were skipped because of it get their turn. With --alone only
the step runs again; if the run then still has skipped steps, it ends as failed.`,
		Example: `  nofx run retry run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --watch
  nofx run retry run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f/unit --reason 'flaky test'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeStep(1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			var run api.Run
			var raw []byte
			if strings.HasPrefix(args[0], "run_") && !strings.Contains(args[0], "/") {
				if alone {
					return usagef("--alone needs a step")
				}
				var answer api.RunAnswer
				answer, raw, err = call[api.RunAnswer](client.RetryRun(cmd.Context(), args[0], nil, api.Reason{Reason: optional(reason)}, named))
				run = answer.Run
			} else {
				run, raw, err = a.retryStep(cmd.Context(), client, args[0], !alone, reason)
			}
			if err != nil {
				return err
			}
			if err := a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", run.ID, run.Status) }); err != nil || !watch {
				return err
			}
			return a.watch(cmd.Context(), client, run.ID)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the run")
	c.Flags().BoolVar(&alone, "alone", false, "run only the step itself again")
	c.Flags().BoolVar(&watch, "watch", false, "show its progress until it ends")
	return c
}

func (a *app) retryStep(ctx context.Context, c *api.Client, name string, cascade bool, reason string) (api.Run, []byte, error) {
	step, err := stepID(ctx, c, name)
	if err != nil {
		return api.Run{}, nil, err
	}
	answer, raw, err := call[api.StepAnswer](c.RetryStep(ctx, step, nil, api.StepRetry{Reason: optional(reason), Cascade: &cascade}, named))
	return answer.Run, raw, err
}

func (a *app) runRerunCommand() *cobra.Command {
	var key string
	var watch bool
	c := &cobra.Command{
		Use:               "rerun RUN",
		Short:             "Start a new run of the plan of a run that has ended",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if key == "" {
				key = rand.Text()
			}
			created, raw, err := call[api.CreatedRun](client.RerunRun(cmd.Context(), args[0], &api.RerunRunParams{
				IdempotencyKey: &key, Traceparent: optional(a.getenv("TRACEPARENT")),
			}, api.RerunRunJSONRequestBody{}))
			if err != nil {
				return err
			}
			return a.started(cmd.Context(), client, created.Run, raw, watch)
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "show its progress until it ends")
	c.Flags().StringVar(&key, "idempotency-key", "", "key that makes the command repeatable: the run is started once")
	return c
}

// started prints a new run and, if wanted, watches it.
func (a *app) started(ctx context.Context, client *api.Client, run api.Run, raw []byte, watch bool) error {
	if err := a.answer(raw, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s, trace %s\n", run.ID, run.Status, run.TraceID)
		if !watch {
			fmt.Fprintf(w, "watch it: %s run watch %s\n", a.self(), run.ID)
		}
	}); err != nil || !watch {
		return err
	}
	return a.watch(ctx, client, run.ID)
}
