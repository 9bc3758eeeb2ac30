package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) runListCommand() *cobra.Command {
	var params api.ListRunsParams
	var status []string
	var kind, project, tool, search, signature, since, until, cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List runs, newest first",
		Long: `List runs, newest first. A run is listed if all given filters match.

A time is a duration before now (90m, 24h, 7d), a day (2026-01-31, in UTC) or a moment
(2026-01-31T12:00:00Z).`,
		Example: `  nofx run list --status running,waiting --label team:core
  nofx run list --search 'exit code 2' --tool 'gate:*' --since 24h
  nofx run list --signature v1-0f1e2d3c4b5a6978
  nofx run list --kind system --status failed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			for _, s := range status {
				params.Status = append(params.Status, api.RunStatus(s))
			}
			params.Kind = optional(api.RunKind(kind))
			params.Project, params.Tool, params.Q, params.Signature = optional(project), optional(tool), optional(search), optional(signature)
			params.Cursor, params.Limit = optional(cursor), optional(limit)
			if params.Since, err = moment("since", since, a.now()); err != nil {
				return err
			}
			if params.Until, err = moment("until", until, a.now()); err != nil {
				return err
			}
			for {
				page, raw, err := call[api.RunPage](client.ListRuns(cmd.Context(), &params))
				if err != nil {
					return err
				}
				if len(page.Items) == 0 && page.NextCursor != nil { // the gateway has not finished the search
					params.Cursor = page.NextCursor
					continue
				}
				return a.answer(raw, func(w io.Writer) { a.printRuns(w, page) })
			}
		},
	}
	c.Flags().StringSliceVar(&status, "status", nil, "only runs with one of these statuses, separated by commas")
	c.Flags().StringVar(&kind, "kind", "", `plan for runs of plans (default), system for work of the system`)
	c.Flags().StringVar(&project, "project", "", "only runs of this project")
	c.Flags().StringArrayVar(&params.Label, "label", nil, "only runs with this label, name:value; may be repeated")
	c.Flags().StringVar(&tool, "tool", "", "only runs with a step of this tool, or of a family: gate:*")
	c.Flags().StringVarP(&search, "search", "q", "", "only runs with all these words in goal, name or reason")
	c.Flags().StringVar(&signature, "signature", "", "only runs that failed with this signature")
	c.Flags().StringVar(&since, "since", "", "only runs created at this time or later")
	c.Flags().StringVar(&until, "until", "", "only runs created before this time")
	anyOf(c, "status", api.RunStatusQueued, api.RunStatusRunning, api.RunStatusWaiting, api.RunStatusPaused,
		api.RunStatusSucceeded, api.RunStatusFailed, api.RunStatusCancelled)
	oneOf(c, "kind", api.RunKindPlan, api.RunKindSystem)
	oneOf(c, "tool", "bash", "workspace:write", "git:checkout", "http", "sleep", "signal", "codegen", "gate:*", "manual:*")
	oneOf(c, "since", "1h", "24h", "7d", "30d")
	oneOf(c, "until", "1h", "24h", "7d", "30d")
	pageFlags(c, &limit, &cursor)
	return c
}

// moment reads a time from the command line; nil if it is empty.
func moment(flag, s string, now time.Time) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			t := now.Add(-time.Duration(n) * 24 * time.Hour).UTC()
			return &t, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		t := now.Add(-d).UTC()
		return &t, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			t = t.UTC()
			return &t, nil
		}
	}
	return nil, usagef("--%s: %q is not a time: want a duration before now (24h, 7d), a day (2026-01-31) or a moment (2026-01-31T12:00:00Z)", flag, s)
}

func (a *app) printRuns(w io.Writer, page api.RunPage) {
	rows := make([][]string, len(page.Items))
	for i, r := range page.Items {
		rows[i] = []string{r.ID, string(r.Status), r.Project, clock(&r.CreatedAt), span(a.now().Sub(r.CreatedAt)), took(r.StartedAt, r.FinishedAt, a.now()), deref(r.Name), r.Goal}
	}
	a.table(w, []string{"RUN", "STATUS", "PROJECT", "CREATED", "AGE", "TIME", "NAME", "GOAL"}, rows, "PROJECT", "CREATED", "AGE")
	nextPage(w, page.NextCursor)
}

func (a *app) traceCommand() *cobra.Command {
	return group("trace", "Find the runs of a trace", a.traceShowCommand())
}

func (a *app) traceShowCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:     "show TRACE",
		Short:   "List the runs that belong to a trace, newest first",
		Example: "  nofx trace show 0af7651916cd43dd8448eb211c80319c",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.RunPage](client.GetTrace(cmd.Context(), args[0], &api.GetTraceParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printRuns(w, page) })
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) runTimelineCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "timeline RUN",
		Short: "Draw the timeline of a run's steps",
		Long: `Draw the timeline of a run's steps, from the run's creation to its end or to now. The first
line has the time since the run started, as in run list. WAIT is how long a step was due
before a worker took it; RUN is how long its attempts took together.`,
		Example:           "  nofx run timeline run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			t, raw, err := call[api.Timeline](client.GetTimeline(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				a.printTimeline(w, t)
				var steps []api.Step
				for _, item := range t.Items {
					steps = append(steps, item.Step)
				}
				for _, line := range a.unserved(cmd.Context(), client, steps) {
					fmt.Fprintln(w, line)
				}
			})
		},
	}
}

// The bars of a timeline by precedence: a cell shows the first of the states in its time.
var bars = []struct {
	status api.StepStatus
	cell   rune
	means  string
}{
	{api.StepStatusRunning, '█', "running"},
	{api.StepStatusWaiting, '░', "waiting for a person or a time"},
	{api.StepStatusRetrying, '~', "to be tried again"},
	{api.StepStatusReady, '·', "due"},
}

func (a *app) printTimeline(w io.Writer, t api.Timeline) {
	end := t.At
	if t.Run.FinishedAt != nil {
		end = *t.Run.FinishedAt
	}
	total := end.Sub(t.Run.CreatedAt)
	taken := ""
	if t.Run.StartedAt != nil {
		taken = fmt.Sprintf(" after %s, queued %s", span(lasted(t.Run.StartedAt, t.Run.FinishedAt, t.At)), span(t.Run.StartedAt.Sub(t.Run.CreatedAt)))
	}
	fmt.Fprintf(w, "%s %s%s\n", t.Run.ID, t.Run.Status, taken)
	head := []string{"STEP", "STATUS", "TRY", "WAIT", "RUN", "0s to " + span(total)}
	rows := make([][]string, len(t.Items))
	width := 80
	if a.screen != nil {
		width, _ = a.screen()
	}
	for i, item := range t.Items {
		s := item.Step
		ms := func(n int64) string { return span(time.Duration(n) * time.Millisecond) }
		rows[i] = []string{s.Name, string(s.Status), tries(s), ms(item.WaitMs), ms(item.RunMs), ""}
	}
	for i := range head[:len(head)-1] {
		widest := cells(head[i])
		for _, row := range rows {
			widest = max(widest, cells(clean(row[i])))
		}
		width -= widest + 2
	}
	shown := map[rune]bool{}
	for i, item := range t.Items {
		bar := chart(item.Spans, t.Run.CreatedAt, end, min(max(width-2, 10), 120))
		for _, cell := range bar {
			shown[cell] = true
		}
		rows[i][len(head)-1] = "|" + bar + "|"
	}
	a.table(w, head, rows)
	var legend []string
	for _, b := range bars {
		if shown[b.cell] {
			legend = append(legend, string(b.cell)+" "+b.means)
		}
	}
	if len(legend) > 0 {
		fmt.Fprintln(w, strings.Join(legend, "   "))
	}
}

// chart draws spans between two times into a row of cells.
func chart(spans []api.TimelineSpan, from, to time.Time, cells int) string {
	line := make([]rune, cells)
	each := max(to.Sub(from)/time.Duration(cells), 1)
	for i := range line {
		line[i] = ' '
		begins := from.Add(time.Duration(i) * each)
		for _, b := range bars {
			for _, s := range spans {
				end := to
				if s.EndedAt != nil {
					end = *s.EndedAt
				}
				if s.Status == b.status && s.StartedAt.Before(begins.Add(each)) && end.After(begins) && line[i] == ' ' {
					line[i] = b.cell
				}
			}
		}
	}
	return string(line)
}
