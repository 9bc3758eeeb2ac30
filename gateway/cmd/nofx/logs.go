package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, list, raw bool
	var attempt int
	c := &cobra.Command{
		Use:   "logs STEP|RUN",
		Short: "Print the log of a step, or those of a run",
		Long: `Print the log of a step: of its latest attempt, or of the attempt given by --attempt.
--list and the column TRY of run show have the numbers of attempts. STEP is the id of a
step, or RUN/NAME. Given a run, print the latest log of each step, or why there is none.

With -f, print the log as it grows, and continue with the next attempt if one was lost
or failed, until the step has ended. The exit code is then 3 if the step failed or was
cancelled. With -f and --attempt, end with that attempt.

A log is stored as UTF-8 text: NUL, and bytes that are not UTF-8, are replaced by
U+FFFD, and secrets by ***. Where storage did not take bytes, a line that begins with
[nofx] says how many are missing. On a terminal, control characters other than colours
are shown, not obeyed: ^[ stands for ESC. A file or a pipe gets the text as it is stored.`,
		Example: `  nofx logs run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f/build -f
  nofx logs step_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --list`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeStep(1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			client, err := a.client()
			if err != nil {
				return err
			}
			if strings.HasPrefix(args[0], "run_") && !strings.Contains(args[0], "/") && !follow && !list && attempt == 0 {
				return a.foreign(raw, func(w io.Writer) error { return a.printLogs(ctx, client, w, args[0]) })
			}
			step, err := stepID(ctx, client, args[0])
			if err != nil {
				return err
			}
			if list {
				return a.listAttempts(ctx, client, step)
			}
			var fence *int64
			if attempt != 0 {
				if fence, err = attemptOf(ctx, client, step, attempt); err != nil {
					return err
				}
			}
			return a.foreign(raw, func(w io.Writer) error {
				if follow {
					return a.followLog(ctx, client, w, step, fence)
				}
				return a.printLog(ctx, client, w, step, fence)
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing as the log grows")
	c.Flags().IntVar(&attempt, "attempt", 0, "number of the attempt")
	c.Flags().BoolVar(&list, "list", false, "list the attempts instead")
	rawFlag(c, &raw)
	c.MarkFlagsMutuallyExclusive("follow", "list")
	c.MarkFlagsMutuallyExclusive("attempt", "list")
	return c
}

// stepID returns the id of a step given by its id or as RUN/NAME.
func stepID(ctx context.Context, c *api.Client, name string) (api.StepID, error) {
	run, name, byName := strings.Cut(name, "/")
	if !byName {
		switch {
		case strings.HasPrefix(run, "run_"):
			return "", usagef("%s is a run; name its step as well, %s/NAME", run, run)
		case !strings.HasPrefix(run, "step_"):
			return "", usagef("%q is not the id of a step; name its run as well, RUN/%s", run, run)
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
	return "", fmt.Errorf("%w: run %s has no step %q%s; it has %s", errNotFound, run, name, didYouMean(name, names), shorten(strings.Join(names, ", "), 500))
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
			rows[i] = []string{strconv.Itoa(i + 1), clock(&t.StartedAt), span(lasted(&t.StartedAt, t.EndedAt, a.now())),
				deref(t.Outcome), exit, strconv.FormatBool(t.Accepted), t.WorkerID}
		}
		a.table(w, []string{"ATTEMPT", "STARTED", "TIME", "OUTCOME", "EXIT", "ACCEPTED", "WORKER"}, rows, "WORKER", "ACCEPTED")
	})
}

// attemptOf returns the fence of the attempt with a number, counted from 1, or an error
// that lists the existing attempts.
func attemptOf(ctx context.Context, c *api.Client, step api.StepID, number int) (*int64, error) {
	d, _, err := call[api.StepDetail](c.GetStep(ctx, step))
	if err != nil {
		return nil, err
	}
	if number > 0 && number <= len(d.Attempts) {
		return &d.Attempts[number-1].Fence, nil
	}
	there := fmt.Sprintf("it has 1 to %d", len(d.Attempts))
	switch len(d.Attempts) {
	case 0:
		there = "it has none yet"
	case 1:
		there = "it has only attempt 1"
	}
	return nil, fmt.Errorf("%w: step %s has no attempt %d; %s", errNotFound, d.Step.Name, number, there)
}

func rawFlag(c *cobra.Command, raw *bool) {
	c.Flags().BoolVar(raw, "raw", false, "do not escape control characters on a terminal")
}

// printLog copies the stored log. If the log is empty, it says why.
func (a *app) printLog(ctx context.Context, c *api.Client, w io.Writer, step api.StepID, fence *int64) error {
	n, err := copyLog(ctx, c, w, step, fence)
	if err != nil || n > 0 {
		return err
	}
	d, _, err := call[api.StepDetail](c.GetStep(ctx, step))
	if err == nil && fence != nil {
		a.note("the log of this attempt is empty")
	} else if err == nil {
		a.note("%s", noLog(d.Step))
	}
	return err
}

// printLogs prints the latest log of each step of a run.
func (a *app) printLogs(ctx context.Context, c *api.Client, w io.Writer, run string) error {
	d, _, err := call[api.RunDetail](c.GetRun(ctx, run))
	if err != nil {
		return err
	}
	for _, s := range d.Steps {
		n, headed := int64(0), &header{w: w, line: fmt.Sprintf("== %s: %s, attempt %s\n", clean(s.Name), s.Status, tries(s))}
		if s.Attempts > 0 {
			n, err = copyLog(ctx, c, headed, s.ID, nil)
		}
		if problem, refused := errors.AsType[*problemError](err); refused && problem.Status == http.StatusGone {
			_, err = fmt.Fprintf(w, "step %s: %s\n", clean(s.Name), clean(problem.Detail))
		} else if err == nil && n == 0 {
			_, err = fmt.Fprintln(w, noLog(s))
		} else if err == nil && headed.last != '\n' {
			_, err = fmt.Fprintln(w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// header writes a line before the first text that is written.
type header struct {
	w    io.Writer
	line string
	last byte // written
}

func (h *header) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if h.line != "" {
		if _, err := io.WriteString(h.w, h.line); err != nil {
			return 0, err
		}
		h.line = ""
	}
	h.last = p[len(p)-1]
	return h.w.Write(p)
}

// noLog returns why a step has no log, or an empty one.
func noLog(s api.Step) string {
	line := "step " + clean(s.Name)
	switch {
	case s.Status == api.StepStatusSkipped || s.Status == api.StepStatusCancelled:
		line += " was " + string(s.Status) + why(s)
	case s.Status == api.StepStatusFailed:
		line += " failed without printing anything" + why(s)
	case s.Tool == "sleep" || s.Tool == "signal" || strings.HasPrefix(s.Tool, "manual:"):
		line += fmt.Sprintf(" is %s; a step of %s prints nothing", s.Status, clean(s.Tool))
	case s.Attempts == 0:
		line += fmt.Sprintf(" is %s and has not begun yet", s.Status)
	case s.Status == api.StepStatusSucceeded:
		line += " succeeded without printing anything"
	default:
		line += fmt.Sprintf(" is %s and has printed nothing yet%s", s.Status, why(s))
	}
	return line
}

// copyLog copies a log and returns its size.
func copyLog(ctx context.Context, c *api.Client, w io.Writer, step api.StepID, fence *int64) (int64, error) {
	resp, err := c.GetStepLogs(ctx, step, &api.GetStepLogsParams{Attempt: fence})
	if err != nil {
		return 0, err
	}
	return copyBytes(w, resp)
}

// copyBytes copies a response that is not JSON, and returns its length.
func copyBytes(w io.Writer, resp *http.Response) (int64, error) {
	if resp.StatusCode != http.StatusOK {
		_, _, err := call[json.RawMessage](resp, nil)
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		err = fmt.Errorf("copy the gateway's response: %w", err)
	}
	return n, err
}

// followLog prints the log of one attempt at a step until the attempt has ended. Without a
// fence it prints the logs of the latest and all later attempts until the step has ended.
func (a *app) followLog(ctx context.Context, c *api.Client, w io.Writer, step api.StepID, fence *int64) error {
	said := news{app: a}
	defer a.lookOn(ctx, a.note, func(ctx context.Context) error {
		d, _, err := call[api.StepDetail](c.GetStep(ctx, step))
		if err != nil || !underWay(d.Step) {
			return err
		}
		page, _, err := call[api.QueuePage](c.ListQueues(ctx))
		if err == nil {
			said.standstill(standstill([]api.Step{d.Step}, page.Items, a.self()))
		}
		return err
	})()
	for next := fence; ; {
		followed, size, err := a.followAttempt(ctx, c, w, step, next)
		if err != nil {
			return err
		}
		d, _, err := call[api.StepDetail](c.GetStep(ctx, step))
		if err != nil {
			return err
		}
		at := slices.IndexFunc(d.Attempts, func(t api.Attempt) bool { return t.Fence == followed })
		if at >= 0 && deref(d.Attempts[at].Outcome) != "succeed" {
			a.note("attempt %d %s", at+1, endOf(d.Attempts[at]))
		}
		if fence != nil {
			if more := len(d.Attempts); at+1 < more {
				a.note("the step is now at attempt %d: %s logs %s -f", more, a.self(), step)
			}
			return nil
		}
		if d, err = a.nextAttempt(ctx, c, d, at+1); err != nil {
			return err
		}
		if at+1 < len(d.Attempts) {
			next = &d.Attempts[at+1].Fence
			a.note("attempt %d runs on worker %s", at+2, clean(d.Attempts[at+1].WorkerID))
			continue
		}
		switch d.Step.Status {
		case api.StepStatusSucceeded:
			return nil
		case api.StepStatusSkipped:
			a.note("%s", noLog(d.Step))
			return nil
		}
		if at < 0 || size == 0 {
			a.note("%s", noLog(d.Step))
		} else {
			a.note("the step is %s%s", d.Step.Status, why(d.Step))
		}
		return endedError{"the step is " + string(d.Step.Status)}
	}
}

// nextAttempt waits until a step has more attempts than given, or has ended. d is the
// latest read of the step.
func (a *app) nextAttempt(ctx context.Context, c *api.Client, d api.StepDetail, known int) (api.StepDetail, error) {
	for wait := time.Second; len(d.Attempts) <= known && !settled(d.Step.Status); wait = min(2*wait, 5*time.Second) {
		if wait == time.Second {
			line := fmt.Sprintf("the step is %s", d.Step.Status)
			if d.Step.Status == api.StepStatusRetrying && d.Step.ReadyAt != nil {
				line += ", the next attempt is due at " + clock(d.Step.ReadyAt)
			}
			a.note("%s", line)
		}
		if err := a.pause(ctx, wait); err != nil {
			return d, err
		}
		var err error
		if d, _, err = call[api.StepDetail](c.GetStep(ctx, d.Step.ID)); err != nil {
			return d, err
		}
	}
	return d, nil
}

// followAttempt prints the log of one attempt until the attempt has ended; without a fence,
// of the latest attempt. It returns the attempt's fence (0 if the step ended without an
// attempt) and the size of the log.
func (a *app) followAttempt(ctx context.Context, c *api.Client, w io.Writer, step api.StepID, fence *int64) (followed, size int64, err error) {
	follow := api.GetStepLogsParamsFollowN1
	s := a.streamOf(func(ctx context.Context, last string, stream api.RequestEditorFn) (*http.Response, error) {
		return c.GetStepLogs(ctx, step, &api.GetStepLogsParams{Attempt: fence, Follow: &follow, LastEventID: optional(last)}, stream)
	})
	followed = deref(fence)
	err = s.follow(ctx, "", func(f *api.Frame) error {
		switch f.Event {
		case "end":
			var last api.LogEnd
			_ = json.Unmarshal([]byte(f.Data), &last) // an older gateway names no attempt
			if last.Fence != nil {
				followed = *last.Fence
			}
			return errDone
		case "log":
		default:
			return nil
		}
		var chunk api.LogFrame
		err := json.Unmarshal([]byte(f.Data), &chunk)
		after, idErr := strconv.ParseInt(f.ID, 10, 64)
		switch {
		case err != nil || idErr != nil:
			return fmt.Errorf("a log frame that cannot be read: id %q, %w", f.ID, err)
		case after <= size:
			return nil // printed before the connection was lost
		case chunk.Offset != size:
			return fmt.Errorf("%w: the log continues at byte %d after byte %d", errBroken, chunk.Offset, size)
		}
		if a.json {
			err = a.printJSON(f.Data)
		} else {
			_, err = io.WriteString(w, chunk.Text)
		}
		size = after
		return err
	})
	return followed, size, err
}

// endOf returns words for how an attempt ended that did not succeed.
func endOf(t api.Attempt) string {
	switch outcome := deref(t.Outcome); {
	case outcome == "lease_expired" || outcome == "poison":
		return fmt.Sprintf("was lost: worker %s no longer answered", clean(t.WorkerID))
	case outcome == "interrupted":
		return fmt.Sprintf("was interrupted: worker %s was stopped", clean(t.WorkerID))
	case t.ExitCode != nil:
		return fmt.Sprintf("ended with exit code %d (%s)", *t.ExitCode, outcome)
	default:
		return fmt.Sprintf("ended (%s)", outcome)
	}
}

// why returns the class and the reason of a step's failure as the end of a sentence, or
// "" when it has neither.
func why(s api.Step) (text string) {
	if s.FailureClass != nil {
		text = " (" + string(*s.FailureClass) + ")"
	}
	switch reason := deref(s.Reason); reason {
	case "":
	case "upstream_failed":
		text += ": a step that it depends on did not succeed"
	default:
		text += ": " + clean(reason)
	}
	return text
}
