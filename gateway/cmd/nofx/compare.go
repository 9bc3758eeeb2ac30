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

func (a *app) runCompareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "compare RUN RUN...",
		Short: "Show runs side by side: what each came to, and where they differ",
		Long: `Show runs side by side that have the same plan or come from the same run, as branches do:
what each came to, what it used, and for each step that differs the first thing in which it
does. Restored steps cost a branch nothing. TIME is without waits and pauses. FILES counts
the files and lines changed since the common checkpoint, once somebody has looked at that
diff: nofx checkpoint diff RUN CHECKPOINT --against COMMON.`,
		Args:              cobra.RangeArgs(2, 16),
		ValidArgsFunction: a.asks(16, completeRuns),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			c, raw, err := call[api.Comparison](client.CompareRuns(cmd.Context(), &api.CompareRunsParams{Runs: strings.Join(args, ",")}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printComparison(w, c) })
		},
	}
}

func (a *app) printComparison(w io.Writer, c api.Comparison) {
	number := map[api.RunID]int{}
	rows := make([][]string, len(c.Runs))
	for i, r := range c.Runs {
		number[r.Run.ID] = i
		gates := make([]string, len(r.Gates))
		for j, g := range r.Gates {
			gates[j] = g.Step + " " + string(g.Status)
		}
		var lasted, cost, tokens, changed string
		if d := r.Diff; d != nil {
			changed = fmt.Sprintf("%d +%d -%d", d.Files, d.LinesAdded, d.LinesDeleted)
		}
		if r.DurationMs != nil {
			lasted = span(time.Duration(*r.DurationMs) * time.Millisecond)
		}
		if r.CostUsd > 0 {
			cost = fmt.Sprintf("$%.2f", r.CostUsd)
		}
		if n := r.InputTokens + r.OutputTokens; n > 0 {
			tokens = strconv.FormatInt(n, 10)
		}
		rows[i] = []string{strconv.Itoa(i + 1), r.Run.ID, deref(r.Run.Name), string(r.Run.Status), lasted, strconv.Itoa(r.Attempts), strconv.Itoa(r.RestoredSteps),
			tokens, cost, changed, strings.Join(gates, ", ")}
		if r.Run.FailureClass != nil {
			rows[i][len(rows[i])-1] = strings.Trim(rows[i][len(rows[i])-1]+"; "+string(*r.Run.FailureClass)+" "+deref(r.Run.FailureSignature), "; ")
		}
	}
	head := []string{"#", "RUN", "NAME", "STATUS", "TIME", "TRIES", "RESTORED", "TOKENS", "COST", "FILES", "GATES"}
	a.table(w, head, rows, "TRIES", "RESTORED", "TOKENS", "COST", "RUN")
	if c.CommonCheckpointID != nil {
		fmt.Fprintf(w, "common checkpoint: %s\n", *c.CommonCheckpointID)
	}
	head = []string{"STEP", "DIFFERS IN"}
	for i := range c.Runs {
		head = append(head, strconv.Itoa(i+1))
	}
	var steps [][]string
	for _, s := range c.Steps {
		if s.Difference == nil {
			continue
		}
		row := make([]string, len(head))
		row[0], row[1] = s.Name, string(*s.Difference)
		for _, in := range s.Runs {
			row[2+number[in.RunID]] = string(in.Status)
			if in.Restored {
				row[2+number[in.RunID]] = "restored"
			}
		}
		steps = append(steps, row)
	}
	fmt.Fprintln(w)
	if len(steps) == 0 {
		fmt.Fprintln(w, "no step differs")
		return
	}
	a.table(w, head, steps, "DIFFERS IN")
}

func (a *app) runLineageCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "lineage RUN",
		Short:             "Show the runs that come from the same first run as a tree",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			l, raw, err := call[api.Lineage](client.GetLineage(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printLineage(w, l, args[0]) })
		},
	}
}

// printLineage draws a line as a tree. The run that was asked for is marked.
func (a *app) printLineage(w io.Writer, l api.Lineage, marked string) {
	nodes := map[api.RunID]api.LineageNode{}
	for _, n := range l.Nodes {
		nodes[n.RunID] = n
	}
	below := map[api.RunID][]api.LineageEdge{}
	for _, e := range l.Edges {
		if e.Kind == api.LineageEdgeKindBranch {
			below[e.From] = append(below[e.From], e)
		}
	}
	var rows [][]string
	var draw func(id api.RunID, before, indent, from string)
	draw = func(id api.RunID, before, indent, from string) {
		n := nodes[id]
		title := deref(n.Name)
		if title == "" {
			title = n.Goal
		}
		sign := ""
		if id == marked {
			sign = " *"
		}
		rows = append(rows, []string{before + id + sign, string(n.Status), clock(&n.CreatedAt), from, title})
		for i, e := range below[id] {
			branch, deeper := "├─ ", "│  "
			if i == len(below[id])-1 {
				branch, deeper = "└─ ", "   "
			}
			draw(e.To, indent+branch, indent+deeper, e.CheckpointID)
		}
	}
	draw(l.RootRunID, "", "", "")
	head := []string{"RUN", "STATUS", "CREATED", "FROM", "NAME OR GOAL"}
	a.table(w, head, rows, "FROM", "CREATED")
	for _, e := range l.Edges {
		if e.Kind == api.LineageEdgeKindMerge {
			fmt.Fprintf(w, "\nmerged into %s\n  from %s\n  as   %s\n", e.To, e.From, e.CheckpointID)
		}
	}
	if l.Truncated {
		fmt.Fprintf(w, "only the first %d runs of the line are shown\n", len(l.Nodes))
	}
}
