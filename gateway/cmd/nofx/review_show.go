package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) reviewShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show REVIEW",
		Short:             "Show a review, its verdict and why",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeReview(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			got, raw, err := call[api.ReviewAnswer](client.GetReview(cmd.Context(), args[0], nil))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printReview(w, got.Review) })
		},
	}
}

// printReview prints a review for people.
func (a *app) printReview(w io.Writer, v api.Review) {
	covered, cost, dry := "", "", ""
	if c := v.Coverage; c != nil {
		covered = fmt.Sprintf("%s reviewed, %d skipped", count(len(c.Reviewed), "file"), len(c.Skipped))
	}
	if v.Status == api.ReviewStatusCompleted {
		cost = fmt.Sprintf("%s, %s", count(v.Tokens, "token"), dollars(v.CostUsd))
	}
	if v.DryRun {
		dry = "yes, nothing is posted"
	}
	facts(w, "review", v.ID, "change", change(v), "head", deref(v.HeadSha), "base", deref(v.BaseSha), "dry run", dry, "status", string(v.Status), "verdict", string(deref(v.Verdict)),
		"reason", deref(v.Reason), "findings", counted(v), "coverage", covered, "model", deref(v.Model), "cost", cost, "policy", shorten(deref(v.PolicyHash), 20),
		"run", v.RunID, "rerun of", deref(v.RerunOf), "superseded by", deref(v.SupersededBy), "trace", v.TraceID,
		"started", clock(v.StartedAt), "finished", clock(v.FinishedAt))
	a.printReasons(w, "why", v.Reasons)
	a.printReasons(w, "warnings", v.Warnings)
	if c := v.Coverage; c != nil && len(c.Skipped) > 0 {
		const shown = 10
		fmt.Fprintln(w, "\nskipped")
		for _, s := range c.Skipped[:min(len(c.Skipped), shown)] {
			what := s.Reason
			if s.Detail != nil {
				what += ", " + *s.Detail
			}
			fmt.Fprintln(w, wrapped(clean(s.Path+": "+what), "  ", a.width()))
		}
		if more := len(c.Skipped) - shown; more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
	for _, hint := range reviewHints(v, a.self()) {
		fmt.Fprintln(w, hint)
	}
}

// reviewHints returns how to go on from a review.
func reviewHints(v api.Review, self string) []string {
	switch {
	case v.Status == api.ReviewStatusSuperseded && v.SupersededBy != nil:
		return []string{"", fmt.Sprintf("The newer one: %s review show %s", self, *v.SupersededBy)}
	case v.Status == api.ReviewStatusFailed || v.Status == api.ReviewStatusSuperseded:
		return []string{"", fmt.Sprintf("What happened: %s run show %s", self, v.RunID), fmt.Sprintf("Again: %s review rerun %s --wait", self, v.ID)}
	case v.Status != api.ReviewStatusCompleted:
		return []string{"", fmt.Sprintf("Wait for it: %s review wait %s", self, v.ID)}
	}
	hints := []string{"", fmt.Sprintf("Findings: %s review findings %s", self, v.ID)}
	if deref(v.Verdict) == api.ReviewVerdictFailed {
		again := fmt.Sprintf("%s review rerun %s --wait", self, v.ID)
		if v.Provider == api.ReviewProviderWorkspace {
			again = fmt.Sprintf("%s run retry %s", self, v.RunID)
		}
		hints = append(hints, fmt.Sprintf("Decide: %s review resolve|dismiss FINDING --reason '…'", self), "Then again: "+again)
	}
	if verdict := deref(v.Verdict); v.GateID != nil && (verdict == api.ReviewVerdictFailed || verdict == api.ReviewVerdictError) {
		hints = append(hints, fmt.Sprintf("Waive it: %s gate waive %s --reason '…'", self, *v.GateID))
	}
	return hints
}

func (a *app) printReasons(w io.Writer, head string, list []api.ReviewReason) {
	if len(list) == 0 {
		return
	}
	const shown = 20
	fmt.Fprintln(w, "\n"+head)
	for _, r := range list[:min(len(list), shown)] {
		fmt.Fprintln(w, wrapped(clean(r.Detail), "  ", a.width()))
	}
	if more := len(list) - shown; more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

// width returns the number of cells that a line of text may take.
func (a *app) width() int {
	if a.screen == nil {
		return 100
	}
	width, _ := a.screen()
	return min(width, 100)
}

// dollars returns an amount for people.
func dollars(usd float64) string { return "$" + strconv.FormatFloat(usd, 'f', 4, 64) }

// counted returns how many findings of a review there are, by what became of them. On no
// forge, none is posted.
func counted(v api.Review) string {
	var list []string
	onForge := v.Provider == api.ReviewProviderGithub || v.Provider == api.ReviewProviderBitbucket
	for _, name := range slices.Sorted(maps.Keys(v.Counts)) {
		if onForge || name != "posted" {
			list = append(list, fmt.Sprintf("%d %s", v.Counts[name], name))
		}
	}
	return strings.Join(list, ", ")
}

func (a *app) reviewListCommand() *cobra.Command {
	var repository, status, verdict, run, cursor string
	var pull, limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "List reviews, newest first",
		Example: "  nofx review list --repo acme/shop --pr 7\n  nofx review list --verdict failed",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.ReviewPage](client.ListReviews(cmd.Context(), &api.ListReviewsParams{
				Repository: optional(repository), PullRequest: optional(pull), Status: optional(api.ReviewStatus(status)), Verdict: optional(api.ReviewVerdict(verdict)),
				Run: optional(run), Cursor: optional(cursor), Limit: optional(limit),
			}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, v := range page.Items {
					rows[i] = []string{v.ID, string(v.Status), string(deref(v.Verdict)), change(v), shorten(deref(v.HeadSha), 13), deref(v.Model), dollars(v.CostUsd), clock(&v.CreatedAt)}
				}
				a.table(w, []string{"REVIEW", "STATUS", "VERDICT", "CHANGE", "HEAD", "MODEL", "COST", "CREATED"}, rows, "MODEL", "COST", "HEAD", "CREATED")
				nextPage(w, page.NextCursor)
			})
		},
	}
	c.Flags().StringVar(&repository, "repo", "", "only reviews of this repository, OWNER/NAME")
	c.Flags().IntVar(&pull, "pr", 0, "only reviews of this pull request")
	c.Flags().StringVar(&status, "status", "", "only reviews in this status")
	c.Flags().StringVar(&verdict, "verdict", "", "only reviews with this verdict: passed, failed, error or waived")
	c.Flags().StringVar(&run, "run", "", "only reviews of this run")
	oneOf(c, "status", api.ReviewStatusQueued, api.ReviewStatusRunning, api.ReviewStatusCompleted, api.ReviewStatusFailed, api.ReviewStatusSuperseded)
	oneOf(c, "verdict", api.ReviewVerdictPassed, api.ReviewVerdictFailed, api.ReviewVerdictError, api.ReviewVerdictWaived)
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) reviewArtifactCommand() *cobra.Command {
	var format, output string
	c := &cobra.Command{
		Use:   "artifact REVIEW",
		Short: "Download the result of a review, as JSON, SARIF, rdjson or Markdown",
		Long: `Download the result of a review and verify it, to a file of its own name, or of the one
given by -o. SARIF 2.1.0 is for code scanning of forges, rdjson for reviewdog; markdown is
the summary that a forge shows.`,
		Example:           "  nofx review artifact rev_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --format sarif -o review.sarif",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeReview(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			found, _, err := call[api.ArtifactAnswer](client.GetReviewArtifact(cmd.Context(), args[0], &api.GetReviewArtifactParams{Format: optional(api.ReviewFormat(format))}))
			if err != nil {
				return err
			}
			return a.downloadArtifact(cmd.Context(), client, found.Artifact.ID, output)
		},
	}
	c.Flags().StringVar(&format, "format", "", "json (the default), sarif, rdjson or markdown")
	oneOf(c, "format", api.ReviewFormatJSON, api.ReviewFormatSarif, api.ReviewFormatRdjson, api.ReviewFormatMarkdown)
	a.outputFlag(c, &output)
	return c
}

func (a *app) reviewArtifactsCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:               "artifacts REVIEW",
		Short:             "List what the stages of a review stored: prompts, answers, results",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeReview(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.ReviewArtifactPage](client.ListReviewArtifacts(cmd.Context(), args[0], &api.ListReviewArtifactsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, f := range page.Items {
					rows[i] = []string{f.Stage, strconv.Itoa(f.Ordinal), f.Artifact.ID, size(f.Artifact.SizeBytes), f.Artifact.MediaType, clock(&f.Artifact.CreatedAt)}
				}
				a.table(w, []string{"STAGE", "N", "ARTIFACT", "SIZE", "TYPE", "CREATED"}, rows, "CREATED", "TYPE")
				nextPage(w, page.NextCursor)
				if len(page.Items) > 0 {
					fmt.Fprintf(w, "\nDownload one: %s artifact download ARTIFACT\n", a.self())
				}
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) reviewMetricsCommand() *cobra.Command {
	var since, until, repository string
	c := &cobra.Command{
		Use:   "metrics",
		Short: "Show what became of findings, and what reviews cost",
		Long: `Show what became of the findings of a period by rule and category, the reviews by verdict,
and tokens and cost by day and model. Acceptance is the share of the settled findings that
were fixed or resolved, and not dismissed.`,
		Example: "  nofx review metrics --since 7d --repo acme/shop",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			params := api.GetReviewMetricsParams{Repository: optional(repository)}
			var err error
			if params.Since, err = moment("since", since, a.now()); err != nil {
				return err
			}
			if params.Until, err = moment("until", until, a.now()); err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			m, raw, err := call[api.ReviewMetrics](client.GetReviewMetrics(cmd.Context(), &params))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printMetrics(w, m) })
		},
	}
	c.Flags().StringVar(&since, "since", "", "begin of the period: a time, a date, or how long ago, such as 7d (default 30d)")
	c.Flags().StringVar(&until, "until", "", "end of the period (default: now)")
	c.Flags().StringVar(&repository, "repo", "", "only this repository, OWNER/NAME")
	oneOf(c, "since", "24h", "7d", "30d")
	return c
}

func (a *app) printMetrics(w io.Writer, m api.ReviewMetrics) {
	fmt.Fprintf(w, "from %s to %s\n\n", clock(&m.Since), clock(&m.Until))
	var rows [][]string
	for _, r := range m.Reviews {
		rows = append(rows, []string{string(r.Status), string(deref(r.Verdict)), strconv.FormatInt(r.Count, 10)})
	}
	a.table(w, []string{"REVIEWS", "VERDICT", "COUNT"}, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, r := range m.Rules {
		acceptance := ""
		if r.Acceptance != nil {
			acceptance = fmt.Sprintf("%.0f %%", 100**r.Acceptance)
		}
		row := []string{deref(r.RuleID), r.Category}
		for _, n := range []int64{r.Found, r.Open, r.Fixed, r.Resolved, r.Dismissed} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		rows = append(rows, append(row, acceptance))
	}
	a.table(w, []string{"RULE", "CATEGORY", "FOUND", "OPEN", "FIXED", "RESOLVED", "DISMISSED", "ACCEPTED"}, rows, "RESOLVED", "FIXED")
	fmt.Fprintln(w)
	rows = nil
	for _, s := range m.Spending {
		rows = append(rows, []string{s.Day.String(), deref(s.Model), strconv.FormatInt(s.Reviews, 10), strconv.FormatInt(s.Tokens, 10), dollars(s.CostUsd)})
	}
	a.table(w, []string{"DAY", "MODEL", "REVIEWS", "TOKENS", "COST"}, rows)
}
