package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) reviewFindingsCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "findings REVIEW",
		Short: "Show what a review found, the worst first",
		Long: `Show what a review found, the worst first: where, how bad, what to do, and what became of
it. A terminal gets colours, unless NO_COLOR is set.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeReview(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.FindingPage](client.ListReviewFindings(cmd.Context(), args[0], &api.ListReviewFindingsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				a.printFindings(w, page)
				nextPage(w, page.NextCursor)
				if len(page.Items) == 0 {
					fmt.Fprintln(w, "no findings")
					return
				}
				fmt.Fprintf(w, "Decide: %s review resolve|dismiss FINDING --reason '…'\n", a.self())
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

// printFindings prints findings for people, each with an empty line behind it.
func (a *app) printFindings(w io.Writer, page api.FindingPage) {
	paint := painter(a.terminal && a.getenv("NO_COLOR") == "")
	for _, f := range page.Items {
		a.printFinding(w, paint, f)
		fmt.Fprintln(w)
	}
}

// severityColours are the colours of severities; the others have none.
var severityColours = map[api.FindingSeverity]string{
	api.FindingSeverityCritical: red, api.FindingSeverityHigh: red, api.FindingSeverityMedium: yellow, api.FindingSeverityLow: cyan,
}

const findingIndent = "    "

func (a *app) printFinding(w io.Writer, paint painter, f api.Finding) {
	width := a.width()
	fmt.Fprintf(w, "%s: %s\n", paint.paint(bold, place(f)), paint.paint(severityColours[f.Severity], string(f.Severity)))
	fmt.Fprintln(w, wrapped(clean(f.Title), "  ", width))
	if f.Text != nil {
		fmt.Fprintln(w, shorten(findingIndent+"> "+clean(strings.TrimSpace(*f.Text)), width))
	}
	for line := range strings.Lines(f.Body) {
		if text := clean(strings.TrimSpace(line)); text != "" {
			fmt.Fprintln(w, wrapped(text, findingIndent, width))
		}
	}
	if f.Suggestion != nil {
		fmt.Fprintln(w, findingIndent+"suggestion:")
		for line := range strings.Lines(*f.Suggestion) {
			fmt.Fprintln(w, findingIndent+paint.paint(green, shorten("+ "+clean(strings.TrimRight(line, "\r\n")), width-len(findingIndent))))
		}
	}
	about := []string{f.Category}
	if f.RuleID != nil {
		about = append(about, "rule "+*f.RuleID)
	}
	about = append(about, fmt.Sprintf("confidence %.0f %%", 100*f.Confidence), standing(f))
	fmt.Fprintln(w, wrapped(clean(strings.Join(about, ", ")), findingIndent, width))
	if f.Why != nil {
		fmt.Fprintln(w, wrapped(clean("here "+string(deref(f.Disposition))+": "+*f.Why), findingIndent, width))
	}
	if f.URL != nil {
		fmt.Fprintln(w, findingIndent+clean(*f.URL))
	}
	fmt.Fprintln(w, findingIndent+f.ID)
}

// place returns where a finding is, as editors and terminals follow it.
func place(f api.Finding) string {
	at := clean(f.Path)
	if f.Line != nil {
		at += ":" + strconv.Itoa(*f.Line)
	}
	if deref(f.Side) == api.FindingSideLEFT {
		at += " (deleted)"
	}
	return at
}

// standing returns the status of a finding and the reason for it.
func standing(f api.Finding) string {
	s := string(f.Status)
	switch {
	case f.Fix != nil:
		return fmt.Sprintf("%s in %s", s, shorten(f.Fix.Head, 13))
	case f.Status == api.FindingStatusDismissed:
		s += " (scope " + string(deref(f.Scope))
		if f.ExpiresAt != nil {
			s += " until " + clock(f.ExpiresAt)
		}
		s += ")"
	}
	if f.Reason != nil {
		s += ": " + *f.Reason
	}
	return s
}

// settleCommand returns the command of one of the three decisions about a finding. All
// except resolve need a reason.
func (a *app) settleCommand(verb, short, long string) *cobra.Command {
	var reason, scope string
	var expires time.Duration
	c := &cobra.Command{
		Use:     verb + " FINDING",
		Short:   short,
		Long:    strings.TrimSuffix(short+".\n\n"+long, "\n\n"),
		Example: "  nofx review " + verb + " find_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --reason 'checked by the caller'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" && verb != "resolve" {
				return usagef("give a reason: --reason '…'")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			var until *time.Time
			if expires != 0 {
				until = optional(a.now().Add(expires).UTC())
			}
			got, raw, err := call[api.FindingAnswer](settle(cmd.Context(), client, verb, args[0], reason, scope, until))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(w, "%s  %s  %s\n", got.Finding.ID, place(got.Finding), clean(standing(got.Finding)))
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the finding")
	if verb == "dismiss" {
		c.Flags().StringVar(&scope, "scope", "", "what the dismissal covers: this (the default), path or rule")
		c.Flags().DurationVar(&expires, "expires", 0, "how long it is dismissed, such as 720h (default: for good)")
		oneOf(c, "scope", api.DismissalScopeThis, api.DismissalScopePath, api.DismissalScopeRule)
	}
	return c
}

func settle(ctx context.Context, c *api.Client, verb, finding, reason, scope string, until *time.Time) (*http.Response, error) {
	switch verb {
	case "resolve":
		return c.ResolveFinding(ctx, finding, nil, api.Reason{Reason: optional(reason)})
	case "reopen":
		return c.ReopenFinding(ctx, finding, nil, api.RequiredReason{Reason: reason})
	}
	return c.DismissFinding(ctx, finding, nil, api.Dismissal{Reason: reason, Scope: optional(api.DismissalScope(scope)), ExpiresAt: until})
}
