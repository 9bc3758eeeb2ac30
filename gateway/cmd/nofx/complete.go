package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

// completion returns the candidates for an argument, from the arguments before it and the
// text typed so far.
type completion = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective)

// asks returns a completion for the first arguments of a command, with the candidates that
// find gets from the gateway. It waits only briefly and fails silently.
func (a *app) asks(most int, find func(ctx context.Context, c *api.Client, args []string, begun string) []cobra.Completion) completion {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		client, err := a.client()
		if err != nil || len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fitting []cobra.Completion
		directive := cobra.ShellCompDirectiveNoFileComp
		for _, found := range find(ctx, client, args, begun) {
			word, _, _ := strings.Cut(found, "\t")
			if !strings.HasPrefix(word, begun) {
				continue
			}
			if strings.HasSuffix(word, "/") {
				directive |= cobra.ShellCompDirectiveNoSpace // a name follows
			}
			fitting = append(fitting, found)
		}
		return fitting, directive
	}
}

// described returns a candidate and its description.
func described(word string, about ...string) cobra.Completion {
	return cobra.CompletionWithDesc(word, clean(strings.Join(about, ", ")))
}

func (a *app) completeQueue(most int) completion {
	return a.asks(most, func(ctx context.Context, c *api.Client, _ []string, _ string) (names []cobra.Completion) {
		page, _, err := call[api.QueuePage](c.ListQueues(ctx))
		if err != nil {
			return nil
		}
		for _, q := range page.Items {
			names = append(names, q.Name)
		}
		return names
	})
}

// recentRuns returns the newest runs as candidates, each id followed by after, or none when
// the gateway does not respond.
func recentRuns(ctx context.Context, c *api.Client, behind string) (runs []cobra.Completion) {
	page, _, err := call[api.RunPage](c.ListRuns(ctx, &api.ListRunsParams{}))
	if err != nil {
		return nil
	}
	for _, r := range page.Items {
		runs = append(runs, described(r.ID+behind, string(r.Status), shorten(r.Goal, 40)))
	}
	return runs
}

func (a *app) completeRun() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, _ string) []cobra.Completion {
		return recentRuns(ctx, c, "")
	})
}

// completeRuns offers the newest runs, but for those that are named already.
func completeRuns(ctx context.Context, c *api.Client, args []string, _ string) (runs []cobra.Completion) {
	for _, found := range recentRuns(ctx, c, "") {
		if word, _, _ := strings.Cut(found, "\t"); !slices.Contains(args, word) {
			runs = append(runs, found)
		}
	}
	return runs
}

// completeStep offers steps as RUN/NAME, with the runs first. If runs is true, a run is a
// complete candidate, too.
func (a *app) completeStep(most int, runs bool) completion {
	return a.asks(most, func(ctx context.Context, c *api.Client, _ []string, begun string) (steps []cobra.Completion) {
		run, _, named := strings.Cut(begun, "/")
		if !named {
			if runs {
				steps = recentRuns(ctx, c, "")
			}
			return append(steps, recentRuns(ctx, c, "/")...)
		}
		d, _, err := call[api.RunDetail](c.GetRun(ctx, run))
		if err != nil {
			return nil
		}
		for _, s := range d.Steps {
			steps = append(steps, described(run+"/"+s.Name, string(s.Status), s.Tool))
		}
		return steps
	})
}

// completeGate offers the gates that wait, and those of a run that is typed.
func (a *app) completeGate() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, begun string) (gates []cobra.Completion) {
		if run, _, named := strings.Cut(begun, "/"); named {
			d, _, err := call[api.RunDetail](c.GetRun(ctx, run))
			if err != nil {
				return nil
			}
			for _, g := range d.Gates {
				gates = append(gates, described(run+"/"+g.StepName, string(g.Status), deref(g.Message)))
			}
			return gates
		}
		page, _, err := call[api.GatePage](c.ListGates(ctx, &api.ListGatesParams{Status: optional(api.GateStatusPending)}))
		if err != nil {
			return nil
		}
		for _, g := range page.Items {
			gates = append(gates, described(g.ID, g.StepName, shorten(deref(g.Message), 40)))
		}
		return gates
	})
}

// completeCheckpoint offers a run, and then a checkpoint of it.
func (a *app) completeCheckpoint(most int) completion {
	return a.asks(most, func(ctx context.Context, c *api.Client, args []string, _ string) (checkpoints []cobra.Completion) {
		if len(args) == 0 {
			return recentRuns(ctx, c, "")
		}
		page, _, err := call[api.CheckpointPage](c.ListCheckpoints(ctx, args[0], &api.ListCheckpointsParams{}))
		if err != nil {
			return nil
		}
		for _, k := range page.Items {
			checkpoints = append(checkpoints, described(k.ID, string(k.Kind), clock(&k.CreatedAt)))
		}
		return checkpoints
	})
}
