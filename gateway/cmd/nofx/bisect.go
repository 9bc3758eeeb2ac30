package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) checkpointBisectCommand() *cobra.Command {
	var command, good, bad string
	var env []string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "bisect RUN --command COMMAND",
		Short: "Find the step that broke a command",
		Long: `Find the checkpoint of a run at which a command began to fail. A worker restores one
checkpoint after another and runs the command in each, as a gate does: exit code 0 is
good, 125 skips the checkpoint, any other is bad; a command that cannot be run (126, 127)
or is ended by a signal ends the bisection. Without --good and --bad all of the run is
searched from its first files on, along first parents.

The exit code is 0 if the first bad checkpoint was found, and 3 if not.`,
		Example: `  nofx checkpoint bisect run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --command 'go test ./...'`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(command) == "" {
				return usagef("give a command: --command '…'")
			}
			vars, err := environment(env)
			if err != nil {
				return err
			}
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			request := api.BisectRequest{Command: command, Env: vars, Good: optional(good), Bad: optional(bad), TimeoutS: optional(int(timeout.Seconds()))}
			key := rand.Text()
			b, raw, err := call[api.BisectAnswer](client.BisectRun(cmd.Context(), args[0], &api.BisectRunParams{IdempotencyKey: &key}, request))
			if err != nil {
				return err
			}
			return a.followBisect(cmd.Context(), client, b.Bisect, raw)
		},
	}
	c.Flags().StringVar(&command, "command", "", "what to run at a checkpoint")
	c.Flags().StringVar(&good, "good", "", "checkpoint at which it passes (default: the first with files)")
	c.Flags().StringVar(&bad, "bad", "", "checkpoint at which it fails (default: the run's last)")
	c.Flags().StringArrayVar(&env, "env", nil, "NAME=VALUE for the command; may be repeated")
	c.Flags().DurationVar(&timeout, "timeout", 0, "time limit of one probe (default 10m)")
	return c
}

// environment returns variables that were given as NAME=VALUE.
func environment(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	vars := map[string]string{}
	for _, pair := range list {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("--env %q: want NAME=VALUE", pair)
		}
		vars[name] = value
	}
	return vars, nil
}

// followBisect shows the probes of a bisection as they come, and then its answer.
func (a *app) followBisect(ctx context.Context, client *api.Client, b api.Bisect, raw []byte) error {
	w := a.out
	if a.json {
		w = io.Discard
	}
	fmt.Fprintf(w, "%s from %s to %s; in system run %s\n", count(b.Candidates, "checkpoint"), b.Good, b.Bad, b.ID)
	for shown := 0; ; {
		for _, p := range b.Probes[min(shown, len(b.Probes)):] {
			fmt.Fprintf(w, "%-7s  %s  exit %d, %s, %d left\n", p.Outcome, p.CheckpointID, p.ExitCode, span(time.Duration(p.DurationMs)*time.Millisecond), p.Left)
		}
		shown = len(b.Probes)
		if b.FinishedAt != nil {
			break
		}
		if err := a.pause(ctx, 500*time.Millisecond); err != nil {
			fmt.Fprintf(a.errOut, "\nstopped watching; the bisection continues: %s run cancel %s ends it\n", a.self(), b.ID)
			return err
		}
		next, answered, err := call[api.BisectAnswer](client.GetBisect(ctx, b.ID))
		if err != nil {
			return err
		}
		b, raw = next.Bisect, answered
	}
	if err := a.answer(raw, func(w io.Writer) { printBisect(w, a.self(), b) }); err != nil {
		return err
	}
	if b.Status != api.RunStatusSucceeded {
		return endedError{string(b.Status)}
	}
	return nil
}

// printBisect writes what a bisection has found.
func printBisect(w io.Writer, self string, b api.Bisect) {
	if b.FirstBad == nil {
		fmt.Fprintf(w, "\n%s: %s\n", b.Status, clean(deref(b.Reason)))
		return
	}
	fmt.Fprintln(w)
	facts(w, "first bad", *b.FirstBad, "step", deref(b.FirstBadStepName), "last good", deref(b.LastGood))
	if len(b.Suspects) > 0 {
		fmt.Fprintf(w, "checkpoints between them were skipped: any of these %d may be the first bad one\n", len(b.Suspects))
		for _, id := range b.Suspects {
			fmt.Fprintln(w, "  "+id)
		}
	}
	fmt.Fprintf(w, "\nwhat it changed: %s checkpoint diff %s %s --against %s\n", self, deref(b.FirstBadRunID), *b.FirstBad, deref(b.LastGood))
}
