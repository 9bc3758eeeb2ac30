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
		Long: `Print events as they happen, from the oldest that is stored, or after --after.
With RUN it ends with the run's terminal event; if the run was retried or waived after
it, with the last one. Without RUN it follows all runs until it is stopped. With --json
it prints one event per line, unchanged.`,
		Example: `  nofx events tail run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f
  nofx events tail --types 'gate.*,run.failed' --project default`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			feed := &eventFeed{event: func(e api.Event, raw string) error { return a.printEvent(e, raw, len(args) == 0) }, gap: func(reason string) error {
				fmt.Fprintf(a.errOut, "events are missing at this point (%s)\n", reason)
				return nil
			}}
			if len(args) == 0 {
				return a.streamOf(func(ctx context.Context, last string, stream api.RequestEditorFn) (*http.Response, error) {
					return c.ListEvents(ctx, &api.ListEventsParams{Types: types, Project: optional(project), LastEventID: optional(last)}, stream)
				}).follow(cmd.Context(), after, feed.handle)
			}
			if project != "" {
				return usagef("--project cannot be used with RUN")
			}
			feed.dense = len(types) == 0
			if feed.seq, err = strconv.ParseInt("0"+after, 10, 64); err != nil {
				return usagef("with RUN, --after must be the seq of an event, not %q", after)
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

// streamOf returns a stream that reports on its connection on standard error.
func (a *app) streamOf(open func(context.Context, string, api.RequestEditorFn) (*http.Response, error)) stream {
	return stream{open: open, pause: a.pause, idle: streamIdle, note: a.note}
}

// printEvent prints one event on one line, with its run unless all are of one. On a
// terminal that is too narrow for it, its data goes below; nothing is cut.
func (a *app) printEvent(e api.Event, raw string, ofMany bool) error {
	if a.json {
		return a.printJSON(raw)
	}
	what := words(e.Data)
	if e.StepID != nil && !strings.Contains(what, "step=") {
		what = "step=" + *e.StepID + " " + what
	}
	head := clock(&e.At) + "  "
	if ofMany {
		head += e.RunID + "  "
	}
	what = clean(what + "  by " + cmp.Or(deref(e.ActorName), e.Actor))
	line := head + fmt.Sprintf("%-20s  %s", clean(e.Type), what)
	if a.screen != nil {
		if width, _ := a.screen(); cells(line) > width {
			line = head + clean(e.Type) + "\n" + wrapped(what, "    ", width)
		}
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}

// wrapped breaks a text between words into indented lines of limited width; longer words
// stay whole.
func wrapped(text, indent string, width int) string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if line != indent && cells(line)+1+cells(word) > width {
			lines, line = append(lines, line), indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

// words writes the members of an object as name=value, the step first. Text of one word has
// no quotes; other values are written as JSON.
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

// order sorts members by their importance to a reader.
func order(name string) int {
	if i := slices.Index([]string{"step", "from", "to", "reason"}, name); i >= 0 {
		return i
	}
	return 9
}
