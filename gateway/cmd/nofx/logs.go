package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, list, raw bool
	var attempt int64
	c := &cobra.Command{
		Use:   "logs STEP",
		Short: "Print the log of a step",
		Long: `Print the log of a step: its latest attempt, or the one with the fence given by
--attempt. STEP is the id of a step, or RUN/NAME.

With -f it prints the log as it grows and ends with the attempt. When the step is
tried again, that is another log, and the error output says where.

A log is kept as text in UTF-8: NUL, and bytes that are no UTF-8, have become U+FFFD,
and secrets ***. On a terminal, control characters other than colours are shown
instead of obeyed, as ^[ for ESC; a file or a pipe gets the text as it is kept.`,
		Example: `  nofx logs run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f/build -f
  nofx logs step_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --list`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeStep(1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			step, err := stepID(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			switch {
			case list:
				return a.listAttempts(cmd.Context(), client, step)
			case follow:
				return a.foreign(raw, func(w io.Writer) error { return a.followLog(cmd.Context(), client, w, step, optional(attempt)) })
			}
			return a.foreign(raw, func(w io.Writer) error { return printLog(cmd.Context(), client, w, step, optional(attempt)) })
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing as the log grows")
	c.Flags().Int64Var(&attempt, "attempt", 0, "fence of the attempt")
	c.Flags().BoolVar(&list, "list", false, "list the attempts instead")
	rawFlag(c, &raw)
	c.MarkFlagsMutuallyExclusive("follow", "list")
	return c
}

// stepID is the id of a step named by its id or as RUN/NAME.
func stepID(ctx context.Context, c *api.Client, name string) (api.StepID, error) {
	run, name, byName := strings.Cut(name, "/")
	if !byName {
		if strings.HasPrefix(run, "run_") {
			return "", usagef("%s is a run: name its step as well, %s/NAME", run, run)
		}
		return run, nil
	}
	d, _, err := call[api.RunDetail](c.GetRun(ctx, run))
	if err != nil {
		return "", err
	}
	var names []string
	for _, s := range d.Steps {
		if s.Name == name {
			return s.ID, nil
		}
		names = append(names, s.Name)
	}
	return "", fmt.Errorf("%w: run %s has no step %q; it has %s", errNotFound, run, name, shorten(strings.Join(names, ", "), 500))
}

func stepNames(d api.RunDetail) map[api.StepID]string {
	names := make(map[api.StepID]string, len(d.Steps))
	for _, s := range d.Steps {
		names[s.ID] = s.Name
	}
	return names
}

func (a *app) listAttempts(ctx context.Context, c *api.Client, step api.StepID) error {
	d, raw, err := call[api.StepDetail](c.GetStep(ctx, step))
	if err != nil {
		return err
	}
	return a.answer(raw, func(w io.Writer) {
		rows := make([][]string, len(d.Attempts))
		for i, t := range d.Attempts {
			exit := ""
			if t.ExitCode != nil {
				exit = strconv.Itoa(*t.ExitCode)
			}
			rows[i] = []string{strconv.FormatInt(t.Fence, 10), clock(&t.StartedAt), span(lasted(&t.StartedAt, t.EndedAt, a.now())),
				deref(t.Outcome), exit, strconv.FormatBool(t.Accepted), t.WorkerID}
		}
		table(w, []string{"FENCE", "STARTED", "TIME", "OUTCOME", "EXIT", "ACCEPTED", "WORKER"}, rows)
	})
}

func rawFlag(c *cobra.Command, raw *bool) {
	c.Flags().BoolVar(raw, "raw", false, "obey control characters on a terminal, too")
}

// printLog copies the log as it is kept.
func printLog(ctx context.Context, c *api.Client, w io.Writer, step api.StepID, attempt *int64) error {
	resp, err := c.GetStepLogs(ctx, step, &api.GetStepLogsParams{Attempt: attempt})
	if err != nil {
		return err
	}
	return copyBytes(w, resp)
}

// copyBytes copies an answer that is no JSON.
func copyBytes(w io.Writer, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		_, _, err := call[json.RawMessage](resp, nil)
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("copy the gateway's answer: %w", err)
	}
	return nil
}

func (a *app) followLog(ctx context.Context, c *api.Client, w io.Writer, step api.StepID, attempt *int64) error {
	follow := api.GetStepLogsParamsFollowN1
	s := a.streamOf(func(ctx context.Context, last string, stream api.RequestEditorFn) (*http.Response, error) {
		return c.GetStepLogs(ctx, step, &api.GetStepLogsParams{Attempt: attempt, Follow: &follow, LastEventID: optional(last)}, stream)
	})
	at := int64(0) // bytes printed so far
	var last api.LogEnd
	err := s.follow(ctx, "", func(f *frame) error {
		switch f.event {
		case "end":
			_ = json.Unmarshal([]byte(f.data), &last) // an older gateway names no attempt
			return errDone
		case "log":
		default:
			return nil
		}
		var chunk api.LogFrame
		err := json.Unmarshal([]byte(f.data), &chunk)
		after, idErr := strconv.ParseInt(f.id, 10, 64)
		switch {
		case err != nil || idErr != nil:
			return fmt.Errorf("a log frame that cannot be read: id %q, %w", f.id, err)
		case after <= at:
			return nil // printed before the connection was lost
		case chunk.Offset != at:
			return fmt.Errorf("%w: the log goes on at byte %d after byte %d", errBroken, chunk.Offset, at)
		}
		if a.json {
			err = a.printJSON(f.data)
		} else {
			_, err = io.WriteString(w, chunk.Text)
		}
		at = after
		return err
	})
	if err == nil && last.Fence != nil {
		a.noteEnd(ctx, c, step, *last.Fence)
	}
	return err
}

// noteEnd says how an attempt ended whose log was followed to its end, unless it did
// what it was to do, and where the step goes on.
func (a *app) noteEnd(ctx context.Context, c *api.Client, step api.StepID, fence int64) {
	d, _, err := call[api.StepDetail](c.GetStep(ctx, step))
	if err != nil {
		return // the log itself is all there
	}
	i := slices.IndexFunc(d.Attempts, func(t api.Attempt) bool { return t.Fence == fence })
	if i < 0 || deref(d.Attempts[i].Outcome) == "succeed" {
		return
	}
	t := d.Attempts[i]
	line := fmt.Sprintf("attempt %d ended", fence)
	switch outcome := deref(t.Outcome); {
	case outcome == "lease_expired" || outcome == "poison":
		line += fmt.Sprintf(" with its worker, %s, which was not heard of any more", clean(t.WorkerID))
	case outcome == "interrupted":
		line += fmt.Sprintf(" with its worker, %s, which was stopped", clean(t.WorkerID))
	case t.ExitCode != nil:
		line += fmt.Sprintf(" with exit code %d (%s)", *t.ExitCode, outcome)
	default:
		line += fmt.Sprintf(" (%s)", outcome)
	}
	switch {
	case i+1 < len(d.Attempts):
		next := d.Attempts[i+1]
		line += fmt.Sprintf("\nthe next is on %s: %s logs %s -f --attempt %d", clean(next.WorkerID), a.self(), step, next.Fence)
	case settled(d.Step.Status):
		line += fmt.Sprintf("\nthe step is %s", d.Step.Status)
		if d.Step.Reason != nil {
			line += ": " + clean(*d.Step.Reason)
		}
	default:
		line += fmt.Sprintf("\nthe step is %s", d.Step.Status)
		if d.Step.Status == api.StepStatusRetrying && d.Step.ReadyAt != nil {
			line += ", the next attempt is due at " + clock(d.Step.ReadyAt)
		}
		line += fmt.Sprintf("; to see it go on: %s run watch %s", a.self(), d.Step.RunID)
	}
	fmt.Fprintln(a.errOut, line)
}
