package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) eventsCommand() *cobra.Command {
	var types []string
	var after, project string
	tail := &cobra.Command{
		Use:   "tail [RUN]",
		Short: "Print events as they happen, of one run or of all",
		Long: `Print events as they happen, beginning with the oldest kept, or after --after.
With RUN it ends with the run's terminal event; without, it follows all runs
until it is stopped. With --json one event per line, as it came.`,
		Example: `  nofx events tail run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f
  nofx events tail --types 'gate.*,run.failed' --project default`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			feed := &eventFeed{event: a.printEvent, gap: func(reason string) error {
				fmt.Fprintf(a.errOut, "events are missing here (%s)\n", reason)
				return nil
			}}
			if len(args) == 0 {
				return a.streamOf(func(ctx context.Context, last string, stream api.RequestEditorFn) (*http.Response, error) {
					return c.ListEvents(ctx, &api.ListEventsParams{Types: types, Project: optional(project), LastEventID: optional(last)}, stream)
				}).follow(cmd.Context(), after, feed.handle)
			}
			if project != "" {
				return usagef("--project is for the events of all runs")
			}
			feed.dense = len(types) == 0
			if feed.seq, err = strconv.ParseInt("0"+after, 10, 64); err != nil {
				return usagef("--after of a run is the seq of an event, not %q", after)
			}
			return a.streamOf(runEvents(c, args[0], types)).follow(cmd.Context(), after, feed.handle)
		},
	}
	tail.Flags().StringSliceVar(&types, "types", nil, "only these types, such as step.failed or gate.*")
	tail.Flags().StringVar(&after, "after", "", "begin after this event: its seq with RUN, else a cursor")
	tail.Flags().StringVar(&project, "project", "", "only runs of this project")
	return group("events", "Follow what happens", tail)
}

// runEvents opens the event stream of a run, to its terminal event.
func runEvents(c *api.Client, run string, types []string) func(context.Context, string, api.RequestEditorFn) (*http.Response, error) {
	until := api.ListRunEventsParamsUntilFinal
	return func(ctx context.Context, last string, stream api.RequestEditorFn) (*http.Response, error) {
		return c.ListRunEvents(ctx, run, &api.ListRunEventsParams{Types: types, Until: &until, LastEventID: optional(last)}, stream)
	}
}

// streamOf is a stream that tells about its connection on the error output.
func (a *app) streamOf(open func(context.Context, string, api.RequestEditorFn) (*http.Response, error)) stream {
	return stream{open: open, pause: a.pause, idle: streamIdle, note: func(format string, args ...any) {
		fmt.Fprintf(a.errOut, format+"\n", args...)
	}}
}

// printEvent prints one event on one line.
func (a *app) printEvent(e api.Event, raw string) error {
	if a.json {
		return a.printJSON(raw)
	}
	what := words(e.Data)
	if e.StepID != nil && !strings.Contains(what, "step=") {
		what = "step=" + *e.StepID + " " + what
	}
	line := clean(fmt.Sprintf("%s  %s  %-20s  %s  by %s", clock(&e.At), e.RunID, e.Type, what, e.Actor))
	if a.screen != nil {
		width, _ := a.screen()
		line = shorten(line, max(width, 80))
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}

// words writes the members of an object as name=value, the step first, text
// without quotes while it is one word, and what is no text as it is.
func words(data json.RawMessage) string {
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil {
		return shorten(string(data), 200)
	}
	names := slices.SortedFunc(maps.Keys(members), func(a, b string) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), strings.Compare(a, b))
	})
	list := make([]string, len(names))
	for i, name := range names {
		value := string(members[name])
		var text string
		if json.Unmarshal(members[name], &text) == nil && text != "" && !strings.ContainsAny(text, " \t\n\"=") {
			value = text
		}
		list[i] = name + "=" + shorten(value, 100)
	}
	return strings.Join(list, " ")
}

// order puts first what a reader looks for first.
func order(name string) int {
	if i := slices.Index([]string{"step", "from", "to", "reason"}, name); i >= 0 {
		return i
	}
	return 9
}
