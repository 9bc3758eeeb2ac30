package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) mergeCommand() *cobra.Command {
	return group("merge", "Merge what one run changed into another",
		a.mergeStartCommand(), a.mergeListCommand(), a.mergeShowCommand(), a.mergeResolveCommand(), a.mergeCommitCommand(), a.mergeAbandonCommand())
}

func (a *app) mergeStartCommand() *cobra.Command {
	var strategy, mode, base string
	c := &cobra.Command{
		Use:   "start TARGET SOURCE",
		Short: "Compute a merge of the run SOURCE into the run TARGET, and show it",
		Long: `Compute a merge of what the run SOURCE changed since the nearest checkpoint that it shares
with the run TARGET into TARGET, and show what it would change and which conflicts there
are. Nothing changes before "nofx merge commit".`,
		Example: `  nofx merge start run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f run_0198c0de7a2b7c3d8e4f5a6b7c8d9e1a
  nofx merge start TARGET SOURCE --strategy theirs`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			key := rand.Text()
			started, _, err := call[api.MergeAnswer](client.StartMerge(cmd.Context(), args[0], &api.StartMergeParams{IdempotencyKey: &key}, api.MergeRequest{
				SourceRunID: args[1], Strategy: optional(api.MergeStrategy(strategy)), Mode: optional(api.MergeMode(mode)), BaseCheckpointID: optional(base),
			}))
			if p, ok := errors.AsType[*problemError](err); ok {
				p.Detail = strings.ReplaceAll(p.Detail, "as base_checkpoint_id", "with --base")
			}
			if err != nil {
				return err
			}
			m, raw, err := a.computed(cmd.Context(), client, started.Merge)
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printMerge(w, m) })
		},
	}
	c.Flags().StringVar(&strategy, "strategy", "", "how conflicts are decided: manual (the default), ours or theirs")
	c.Flags().StringVar(&mode, "mode", "", "normal (the default), or strict: whatever both runs changed is a conflict")
	c.Flags().StringVar(&base, "base", "", "common checkpoint to count changes from, if there are several nearest ones")
	oneOf(c, "strategy", api.MergeStrategyManual, api.MergeStrategyOurs, api.MergeStrategyTheirs)
	oneOf(c, "mode", api.MergeModeNormal, api.MergeModeStrict)
	return c
}

// computed waits until a worker has computed a merge, and tells once that it does.
func (a *app) computed(ctx context.Context, client *api.Client, m api.Merge) (api.MergeAnswer, []byte, error) {
	for told := false; ; told = true {
		now, raw, err := call[api.MergeAnswer](client.GetMerge(ctx, m.ID, nil))
		if err != nil || now.Merge.Status != api.MergeStatusOpen {
			return now, raw, err
		}
		if id := now.Merge.MergeRunID; id != nil {
			d, _, err := call[api.RunDetail](client.GetRun(ctx, *id))
			if err != nil {
				return now, raw, err
			}
			if d.Run.Status == api.RunStatusFailed || d.Run.Status == api.RunStatusCancelled {
				return now, raw, fmt.Errorf("run %s, which computes merge %s, is %s: %s; start the merge again to compute it again", *id, m.ID, d.Run.Status, deref(d.Run.Reason))
			}
			if !told {
				fmt.Fprintf(a.errOut, "a worker is computing merge %s; see %s run show %s\n", m.ID, a.self(), *id)
			}
		}
		if err := a.pause(ctx, 200*time.Millisecond); err != nil {
			return now, raw, err
		}
	}
}

func (a *app) mergeListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:               "list RUN",
		Short:             "List the merges into a run, newest first",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.MergePage](client.ListMerges(cmd.Context(), args[0], &api.ListMergesParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, m := range page.Items {
					rows[i] = []string{m.ID, string(m.Status), string(deref(m.Outcome)), strconv.Itoa(m.ConflictCount), strconv.Itoa(m.UnresolvedCount), m.SourceRunID, clock(&m.CreatedAt), deref(m.CommittedCheckpointID)}
				}
				a.table(w, []string{"MERGE", "STATUS", "OUTCOME", "CONFLICTS", "OPEN", "SOURCE", "CREATED", "CHECKPOINT"}, rows, "CHECKPOINT", "CREATED", "SOURCE", "OUTCOME")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) mergeShowCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "show MERGE",
		Short: "Show a merge, what it changes and its conflicts",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			m, raw, err := call[api.MergeAnswer](client.GetMerge(cmd.Context(), args[0], &api.GetMergeParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printMerge(w, m) })
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

// printMerge prints a merge for people.
func (a *app) printMerge(w io.Writer, answer api.MergeAnswer) {
	m := answer.Merge
	changes := ""
	if p := m.Preview; p != nil {
		changes = fmt.Sprintf("%s added, %d modified, %d deleted", count(p.Added, "file"), p.Modified, p.Deleted)
		if p.State {
			changes += "; the state changes"
		}
	}
	counted := ""
	switch stale := m.ConflictCount > 0 && !m.Prepared; {
	case stale && m.Status == api.MergeStatusConflicted:
		counted = "with ours at open conflicts; decisions count once all are made"
	case stale && m.Status == api.MergeStatusReady:
		counted = "without the last decisions, until a worker has stored the result"
	}
	moved := ""
	if m.TargetMoved {
		moved = "the target has a new head; a commit computes the merge anew"
	}
	facts(w, "merge", m.ID, "status", string(m.Status), "outcome", strings.ReplaceAll(string(deref(m.Outcome)), "_", " "), "target", m.TargetRunID, "source", m.SourceRunID,
		"base", m.BaseCheckpointID, "mode", string(m.Mode), "strategy", string(m.Strategy), "changes", changes, "counted", counted, "note", moved,
		"checkpoint", deref(m.CommittedCheckpointID), "reason", deref(m.Reason))
	if p := m.Preview; p != nil && len(p.Files) > 0 {
		fmt.Fprintln(w)
		const shown = 20
		for _, f := range p.Files[:min(len(p.Files), shown)] {
			fmt.Fprintf(w, "  %-8s  %s\n", f.Status, clean(f.Path))
		}
		if more := p.Added + p.Modified + p.Deleted - shown; more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
	if m.ConflictCount > 0 {
		fmt.Fprintf(w, "\n%s, %d of them to decide\n", count(m.ConflictCount, "conflict"), m.UnresolvedCount)
	}
	for _, c := range m.Conflicts {
		printConflict(w, c)
	}
	nextPage(w, answer.NextCursor)
	switch m.Status {
	case api.MergeStatusConflicted:
		fmt.Fprintf(w, "\nDecide each: %s merge resolve %s PATH --take ours|theirs|…\n", a.self(), m.ID)
	case api.MergeStatusReady:
		if deref(m.Outcome) == api.MergeOutcomeUpToDate {
			fmt.Fprintf(w, "\nThe target has all of it already. There is nothing to commit.\n")
			return
		}
		fmt.Fprintf(w, "\nCommit it: %s merge commit %s [--resume]\n", a.self(), m.ID)
	}
}

// conflictKinds are what the kinds of conflicts mean.
var conflictKinds = map[api.MergeConflictKind]string{
	api.MergeConflictKindContent: "changed on both sides", api.MergeConflictKindAdded: "added on both sides", api.MergeConflictKindDeleted: "deleted on one side, changed on the other",
	api.MergeConflictKindMode: "the modes differ", api.MergeConflictKindType: "another type on each side", api.MergeConflictKindCase: "names that differ in case only",
}

// printConflict prints where and what a conflict is, the texts or values of both sides, and
// what was decided.
func printConflict(w io.Writer, c api.MergeConflict) {
	place := deref(c.Path) + deref(c.Pointer)
	if c.Line != nil {
		place += ":" + strconv.Itoa(*c.Line)
	}
	decided := "open: " + ways(c)
	if c.Resolution != nil {
		decided = "take " + string(*c.Resolution)
	}
	fmt.Fprintf(w, "\n%s  %s  [%s]\n", clean(place), conflictKinds[c.Kind], decided)
	if c.Reason != nil {
		fmt.Fprintf(w, "  decide again: %s\n", clean(*c.Reason))
	}
	if c.RenamedTo != nil {
		fmt.Fprintf(w, "  it may be %s now\n", clean(*c.RenamedTo))
	}
	for _, side := range []struct {
		name string
		has  *api.MergeSide
	}{{"base", c.Base}, {"ours", c.Ours}, {"theirs", c.Theirs}} {
		for i, line := range sideLines(side.has) {
			name := side.name
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "  %-6s  %s\n", name, clean(line))
		}
	}
}

// ways returns what merge resolve takes for a conflict: values of --take, and other flags.
func ways(c api.MergeConflict) string {
	var takes, flags []string
	for _, t := range c.Takes {
		switch {
		case t == api.MergeTakeArtifact:
			flags = append(flags, "--artifact")
		case t != api.MergeTakeValue:
			takes = append(takes, string(t))
		case c.Path != nil:
			flags = append(flags, "--file")
		default:
			flags = append(flags, "--value")
		}
	}
	return strings.Join(append([]string{strings.Join(takes, "|")}, flags...), ", ")
}

// sideLines returns what a side has at a conflict, a few lines at most.
func sideLines(s *api.MergeSide) []string {
	const most = 8
	switch {
	case s == nil:
		return []string{"nothing"}
	case s.Kind != nil:
		return []string{"purged content"}
	case s.Value != nil:
		return []string{shorten(string(s.Value), 200)}
	case s.Excerpt != nil:
		lines := strings.Split(strings.TrimSuffix(*s.Excerpt, "\n"), "\n")
		if len(lines) > most {
			lines = append(lines[:most], "…")
		}
		return lines
	case s.Sha256 == nil:
		return []string{fmt.Sprintf("a value of %s", size(deref(s.SizeBytes)))}
	}
	return []string{fmt.Sprintf("%s, mode %s, sha256 %s", size(deref(s.SizeBytes)), deref(s.Mode), shorten(*s.Sha256, 13))}
}

func (a *app) mergeResolveCommand() *cobra.Command {
	var take, value, file, artifact string
	var all bool
	c := &cobra.Command{
		Use:   "resolve MERGE [PATH|POINTER]…",
		Short: "Decide conflicts of a merge",
		Long: `Decide conflicts of a merge, by their paths in the workspace or by pointers into the state,
which begin with a slash. With --all, all that are open. "--take none" takes a decision back.`,
		Example: `  nofx merge resolve MERGE src/a.go src/b.go --take theirs
  nofx merge resolve MERGE /vars/retries --value 5
  nofx merge resolve MERGE README.md --file README.merged.md
  nofx merge resolve MERGE --all --take ours`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 1) {
				return usagef("name the conflicts, or give --all")
			}
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			places := args[1:]
			if all {
				if places, err = openConflicts(cmd.Context(), client, args[0]); err != nil {
					return err
				}
				if len(places) == 0 {
					return usagef("merge %s has no open conflict", args[0])
				}
			}
			decided, err := a.decision(cmd.Context(), client, take, value, file, artifact, len(places))
			if err != nil {
				return err
			}
			in := api.MergeResolutions{}
			for _, place := range places {
				r := decided
				if r.Path = &place; strings.HasPrefix(place, "/") {
					r.Path, r.Pointer = nil, &place
				}
				in.Resolutions = append(in.Resolutions, r)
			}
			m, raw, err := call[api.MergeAnswer](client.ResolveMerge(cmd.Context(), args[0], nil, in))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(w, "merge %s is %s, with %d of %s to decide\n", m.Merge.ID, m.Merge.Status, m.Merge.UnresolvedCount, count(m.Merge.ConflictCount, "conflict"))
				if m.Merge.Status == api.MergeStatusReady {
					fmt.Fprintf(w, "Commit it: %s merge commit %s [--resume]\n", a.self(), m.Merge.ID)
				} else {
					fmt.Fprintf(w, "What is left: %s merge show %s\n", a.self(), m.Merge.ID)
				}
			})
		},
	}
	c.Flags().StringVar(&take, "take", "", "whose lines stand where a text conflicts, or whose file: ours, theirs, base, both (texts only) or none")
	c.Flags().StringVar(&value, "value", "", "another value, as JSON: for a pointer into the state")
	c.Flags().StringVar(&file, "file", "", "a file with the content, of any bytes: for a path")
	fileFlag(c, "file")
	c.Flags().StringVar(&artifact, "artifact", "", "an artifact with the content: for a path")
	c.Flags().BoolVar(&all, "all", false, "all conflicts that are open")
	oneOf(c, "take", "ours", "theirs", "base", "both", "none")
	c.MarkFlagsMutuallyExclusive("take", "value", "file", "artifact")
	c.MarkFlagsOneRequired("take", "value", "file", "artifact")
	return c
}

// openConflicts returns the places of the conflicts that nobody has decided.
func openConflicts(ctx context.Context, client *api.Client, merge string) (places []string, err error) {
	params := &api.GetMergeParams{Limit: optional(200)}
	for {
		m, _, err := call[api.MergeAnswer](client.GetMerge(ctx, merge, params))
		if err != nil {
			return nil, err
		}
		for _, c := range m.Merge.Conflicts {
			if c.Resolution == nil {
				places = append(places, deref(c.Path)+deref(c.Pointer))
			}
		}
		if m.NextCursor == nil {
			return places, nil
		}
		params.Cursor = m.NextCursor
	}
}

// maxInline is the number of bytes of files that a request has as text: it has a megabyte
// at most.
const maxInline = 512 << 10

// decision returns what the flags decide, for a number of conflicts. The content of a file
// goes as text or, where it is none or too long, as an artifact.
func (a *app) decision(ctx context.Context, client *api.Client, take, value, file, artifact string, conflicts int) (r api.MergeResolution, err error) {
	how := api.MergeTake(take)
	switch {
	case take == "none":
		return r, nil
	case value != "":
		if !json.Valid([]byte(value)) {
			return r, usagef("--value %s is not JSON", value)
		}
		how, r.Value = api.MergeTakeValue, json.RawMessage(value)
	case file != "":
		content, err := os.ReadFile(file)
		if err != nil {
			return r, usagef("the file: %w", err)
		}
		text, err := encoded(string(content))
		if err != nil {
			return r, err
		}
		if isText(content) && len(text) <= maxInline/conflicts {
			how, r.Value = api.MergeTakeValue, text
			break
		}
		f, request, err := announce(file, "", "")
		if err != nil {
			return r, err
		}
		defer f.Close()
		id, err := a.upload(ctx, client, f, request)
		if err != nil {
			return r, err
		}
		if _, _, err := a.verified(ctx, client, id); err != nil {
			return r, err
		}
		how, r.ArtifactID = api.MergeTakeArtifact, &id
	case artifact != "":
		how, r.ArtifactID = api.MergeTakeArtifact, &artifact
	}
	r.Take = &how
	return r, nil
}

func (a *app) mergeCommitCommand() *cobra.Command {
	var resume bool
	var reason string
	c := &cobra.Command{
		Use:   "commit MERGE",
		Short: "Make the result of a merge the head of its target",
		Long: `Make the result of a merge the head of its target, which is paused, waits or is over. Steps
that have not succeeded start from it, and gates that had passed pass again before them.

A target that waits goes on at once. One that is paused, failed or was cancelled does with
--resume, and otherwise when it is resumed or retried. One that succeeded stays so.`,
		Example: "  nofx merge commit mrg_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --resume",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			key := rand.Text()
			m, raw, err := await(cmd.Context(), a, "storing the result", func() (*http.Response, error) {
				return client.CommitMerge(cmd.Context(), args[0], &api.CommitMergeParams{IdempotencyKey: &key}, api.MergeCommit{Resume: optional(resume), Reason: optional(reason)})
			}, func(m api.MergeAnswer) string {
				if m.Merge.Status == api.MergeStatusCommitted {
					return ""
				}
				return deref(m.Merge.MergeRunID)
			})
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(w, "merge %s is committed: checkpoint %s is the head of run %s\n", m.Merge.ID, deref(m.Merge.CommittedCheckpointID), m.Merge.TargetRunID)
				fmt.Fprintln(w, a.afterCommit(cmd.Context(), client, m.Merge.TargetRunID))
			})
		},
	}
	c.Flags().BoolVar(&resume, "resume", false, "let a target go on that is paused, failed or was cancelled")
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the merge")
	return c
}

// afterCommit returns a line for people: the command with which the target of a committed
// merge goes on, or that shows it.
func (a *app) afterCommit(ctx context.Context, client *api.Client, target string) string {
	d, _, err := call[api.RunDetail](client.GetRun(ctx, target))
	how := "show"
	switch {
	case err != nil: // the merge is committed all the same
	case d.Run.Status == api.RunStatusPaused:
		return fmt.Sprintf("It is paused. To let it go on: %s run resume %s", a.self(), target)
	case d.Run.Status == api.RunStatusFailed || d.Run.Status == api.RunStatusCancelled:
		return fmt.Sprintf("It is %s. To let it go on: %s run retry %s", d.Run.Status, a.self(), target)
	case d.Run.Status != api.RunStatusSucceeded:
		how = "watch"
	}
	return fmt.Sprintf("See %s run %s %s", a.self(), how, target)
}

func (a *app) mergeAbandonCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "abandon MERGE",
		Short: "End a merge that is not committed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			m, raw, err := call[api.MergeAnswer](client.AbandonMerge(cmd.Context(), args[0], nil, api.Reason{Reason: optional(reason)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "merge %s is %s\n", m.Merge.ID, m.Merge.Status) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the merge")
	return c
}
