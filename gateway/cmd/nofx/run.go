package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) runCommand() *cobra.Command {
	return group("run", "Start, list, watch and steer runs",
		a.runCreateCommand(), a.runListCommand(), a.runShowCommand(), a.runTimelineCommand(), a.runWatchCommand(),
		runVerbCommand(a, "pause", "Start no more steps of a run until it is resumed", (*api.Client).PauseRun),
		runVerbCommand(a, "resume", "Continue a run that is paused, failed or cancelled", (*api.Client).ResumeRun),
		runVerbCommand(a, "cancel", "Cancel a run and every step of it that has not ended", (*api.Client).CancelRun),
		a.runRetryCommand(), a.runRerunCommand(), a.runCompareCommand(), a.runLineageCommand())
}

func (a *app) runCreateCommand() *cobra.Command {
	var file, project, correlation, key string
	var watch, preview bool
	c := &cobra.Command{
		Use:   "create -f PLAN",
		Short: "Start a run of a plan",
		Long: `Start a run of a plan: a JSON file, or - for standard input.

The request carries an Idempotency-Key: yours, or a new one for each call. With your own
key (a commit, a build number) the command can be repeated, and the run is started only
once. A traceparent in the variable TRACEPARENT is passed on; the run joins that trace.`,
		Example: `  nofx run create -f plan.json --watch
  nofx run create -f plan.json --idempotency-key "$GIT_COMMIT" --json
  nofx run create -f plan.json --preview`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return fmt.Errorf("name the plan with -f: %s -f %s", cmd.CommandPath(), shellWord(args[0]))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := a.planRequest(file)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if preview {
				p, raw, err := call[api.RunPreview](client.PreviewRunWithBody(cmd.Context(), "application/json", bytes.NewReader(body)))
				if err != nil {
					return err
				}
				return a.answer(raw, func(w io.Writer) { a.printPreview(w, p) })
			}
			if key == "" {
				key = rand.Text()
			}
			created, raw, err := call[api.CreatedRun](client.CreateRunWithBody(cmd.Context(), &api.CreateRunParams{
				IdempotencyKey: &key,
				XProjectID:     optional(project),
				XCorrelationID: optional(correlation),
				Traceparent:    optional(a.getenv("TRACEPARENT")),
			}, "application/json", bytes.NewReader(body)))
			if err != nil {
				return err
			}
			return a.started(cmd.Context(), client, created.Run, raw, watch)
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "file with the plan, - for standard input")
	fileFlag(c, "file")
	c.Flags().BoolVar(&watch, "watch", false, "show its progress until it ends")
	c.Flags().BoolVar(&preview, "preview", false, "only check the plan and show what would run")
	c.Flags().StringVar(&project, "project", "", `project of the run ("default" by default)`)
	c.Flags().StringVar(&correlation, "correlation-id", "", "your own id for the run, stored with it")
	c.Flags().StringVar(&key, "idempotency-key", "", "key that makes the command repeatable: the run is started once")
	c.MarkFlagsMutuallyExclusive("watch", "preview")
	return c
}

// planRequest returns the request for the plan in a file. The plan goes out as it is
// written, so that the gateway sees, and names, every mistake in it.
func (a *app) planRequest(file string) ([]byte, error) {
	var raw []byte
	var err error
	switch file {
	case "":
		return nil, usagef("name the plan: -f plan.json")
	case "-":
		raw, err = io.ReadAll(a.in)
	default:
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, usagef("the plan: %w", err)
	}
	raw = bytes.TrimPrefix(raw, []byte("\ufeff")) // a byte order mark, as some editors write
	var doc json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, usagef("the plan is not JSON: %w", inJSON(file, raw, err))
	}
	var body map[string]json.RawMessage
	if json.Unmarshal(raw, &body) == nil && body["plan"] != nil {
		return raw, nil // the body of the request, as the API's documentation shows it
	}
	return []byte(`{"plan":` + string(raw) + `}`), nil
}

// inJSON adds to an error of encoding/json the file and, if it is known, line and column.
func inJSON(file string, raw []byte, err error) error {
	var offset int64
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	} else if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = kind.Offset
	} else {
		return fmt.Errorf("%s: %w", file, err)
	}
	before := string(raw[:min(int(offset), len(raw))])
	line := strings.Count(before, "\n") + 1
	column := len(before) - strings.LastIndex(before, "\n") - 1
	return fmt.Errorf("%s:%d:%d: %w", file, line, column, err)
}

func (a *app) printPreview(w io.Writer, p api.RunPreview) {
	fmt.Fprintf(w, "the plan is valid: %s, digest %s\n", count(len(p.Plan.Steps), "step"), p.PlanDigest)
	tools := map[string]string{}
	for _, s := range p.Plan.Steps {
		tools[s.Name] = s.Tool
	}
	needs := map[string][]string{}
	for _, e := range p.Graph.Edges {
		needs[e.Step] = append(needs[e.Step], e.Needs)
	}
	var rows [][]string
	for level, names := range p.Graph.Levels {
		for _, name := range names {
			rows = append(rows, []string{strconv.Itoa(level + 1), name, tools[name], strings.Join(needs[name], ", ")})
		}
	}
	a.table(w, []string{"LEVEL", "STEP", "TOOL", "NEEDS"}, rows, "TOOL")
}

// pageFlags adds the flags of every list.
func pageFlags(c *cobra.Command, limit *int, cursor *string) {
	c.Flags().IntVar(limit, "limit", 0, "maximum number of items (default 50, at most 200)")
	c.Flags().StringVar(cursor, "cursor", "", "cursor of an earlier page, to get the next one")
}

// lasted returns the time from start to finish, or to now.
func lasted(start, finish *time.Time, now time.Time) time.Duration {
	if start == nil {
		return 0
	}
	if finish != nil {
		now = *finish
	}
	return now.Sub(*start)
}

// took returns a duration for people, or "" for something that has not begun.
func took(start, finish *time.Time, now time.Time) string {
	if start == nil {
		return ""
	}
	return span(lasted(start, finish, now))
}

func (a *app) runShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show RUN",
		Short:             "Show a run, its steps and what it waits for",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			d, raw, err := call[api.RunDetail](client.GetRun(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				r := d.Run
				kind := ""
				if r.Kind == api.RunKindSystem {
					kind = string(r.Kind)
				}
				facts(w, "run", r.ID, "name", deref(r.Name), "branch of", deref(r.ParentRunID), "at", deref(r.ParentCheckpointID), "kind", kind, "of", deref(r.SubjectRunID), "goal", r.Goal, "status", string(r.Status), "failure", string(deref(r.FailureClass)),
					"reason", deref(r.Reason), "project", r.Project, "by", who(r.CreatedBy, r.CreatedByName), "created", clock(&r.CreatedAt),
					"started", clock(r.StartedAt), "finished", clock(r.FinishedAt), "trace", r.TraceID,
					"correlation", deref(r.CorrelationID), "checkpoint", deref(r.HeadCheckpointID))
				fmt.Fprintln(w)
				a.printSteps(w, d.Steps)
				p := newProgress(d)
				var more []string
				for _, h := range p.hints(a.self()) {
					more = append(more, h.lines...)
				}
				more = append(more, a.unserved(cmd.Context(), client, d.Steps)...)
				more = append(more, p.troubles(a.self())...)
				if more = append(more, p.again(a.self())...); len(more) > 0 {
					fmt.Fprintf(w, "\n%s\n", strings.Join(more, "\n"))
				}
			})
		},
	}
}

func (a *app) printSteps(w io.Writer, steps []api.Step) {
	rows := make([][]string, len(steps))
	for i, s := range steps {
		rows[i] = []string{s.Name, s.Tool, string(s.Status), tries(s),
			took(s.StartedAt, s.FinishedAt, a.now()), s.ID}
	}
	a.table(w, []string{"STEP", "TOOL", "STATUS", "TRY", "TIME", "ID"}, rows, "ID", "TOOL")
}

// tries returns the number of a step's newest attempt, as logs --attempt takes it, and the
// number of the last one that is allowed now.
func tries(s api.Step) string {
	return fmt.Sprintf("%d/%d", s.Attempts, s.Attempts+max(s.MaxAttempts-s.Attempt, 0))
}

func (a *app) runWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch RUN",
		Short: "Show a run's progress until it ends",
		Long: `Show a run's progress until it ends: on a terminal as a table that is redrawn, otherwise
one line per change. With --json print one event per line, or the run, as run show does,
if it has already ended.

When the run waits for a person, the output says how to decide. When workers do not
continue the run, it says why: they are lost or wait for storage, or a queue is paused.
TRY is a step's newest attempt, a number for logs --attempt, and its maximum number of
attempts. The exit code is 0 if the run succeeded, 3 if it failed or was cancelled.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			return a.watch(cmd.Context(), client, args[0])
		},
	}
}

// self returns how to call this tool again at the same gateway.
func (a *app) self() string {
	if a.url != "" {
		return "nofx --url " + a.url
	}
	return "nofx"
}
