package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

// evalFlags are the flags of the command.
type evalFlags struct {
	half, project            string
	parallel, limit          int
	minPrecision, minClean   float64
	wantPrecision, wantQuiet bool
}

func (f evalFlags) check() error {
	switch {
	case !slices.Contains([]evalHalf{openHalf, heldOut, bothHalves}, evalHalf(f.half)):
		return usagef("--half is open, held_out or all, not %q", f.half)
	case f.parallel < 1 || f.parallel > 64:
		return usagef("--parallel is from 1 to 64, not %d", f.parallel)
	case f.limit < 0:
		return usagef("--limit is a number of cases, not %d", f.limit)
	}
	for name, v := range map[string]float64{"min-precision": f.minPrecision, "min-clean": f.minClean} {
		if !(v >= 0 && v <= 1) { // which NaN is not
			return usagef("--%s is a share from 0 to 1, not %v", name, v)
		}
	}
	return nil
}

// choose returns the cases of a half, at most as many as the limit, spread over the corpus.
func (f evalFlags) choose(all []corpusCase) []corpusCase {
	cases := slices.DeleteFunc(slices.Clone(all), func(c corpusCase) bool {
		return evalHalf(f.half) != bothHalves && evalHalf(f.half) != c.half()
	})
	n := len(cases)
	if f.limit == 0 || f.limit >= n {
		return cases
	}
	chosen := make([]corpusCase, f.limit)
	for i := range chosen {
		chosen[i] = cases[i*n/f.limit]
	}
	return chosen
}

func (a *app) reviewEvalCommand() *cobra.Command {
	var f evalFlags
	c := &cobra.Command{
		Use:   "eval FOLDER",
		Short: "Score the reviewer on changes of which it is known what is wrong",
		Long: `Review the changes of a labelled corpus with the reviewer that the deployment has, and
print how good it is, by rule. Nothing is posted on a forge. The folder has cases.json, a
list of {"name", "held_out", "source", "licence", "findings": [{"path", "line", "rule",
"category"}]}, and NAME.diff for each case; a case without findings is clean. The two halves
of a corpus are scored apart: the one that is held out is for changes that nobody has looked
at while making the reviewer.

A finding is right when it is at most ` + strconv.Itoa(nearLabel) + ` lines away from a label of its category in its
file. Each label is found once: a further finding near it is a duplicate, and not right.
  precision      share of the findings that are right
  recall         share of the labels that are found
  line accuracy  share of the right findings that are at the very line of their label
  clean          share of the clean changes without a finding
In the figures of a rule, findings count for the rule that they name, and labels for theirs.
Findings that a review itself rejects, or calls duplicates, do not count.

Cases that could not be reviewed are in no figure; they are counted and named. --json has the
result of each case, and what was wrong and missed in the open half alone.

Exit codes: 0 all was reviewed; 6 a figure of a half is below --min-precision or --min-clean;
7 cases could not be reviewed; others as for every command.`,
		Example: `  nofx review eval worker/internal/llm/rules/testdata/corpus
  nofx review eval corpus --half held_out --min-precision 0.8 --min-clean 0.95
  nofx review eval corpus --limit 20 --json > evaluation.json`,
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{localFiles: ""},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			all, err := readCorpus(args[0])
			if err != nil {
				return err
			}
			cases := f.choose(all)
			if len(cases) == 0 {
				return usagef("the corpus has no case that is %s", f.half)
			}
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			f.wantPrecision, f.wantQuiet = cmd.Flags().Changed("min-precision"), cmd.Flags().Changed("min-clean")
			return a.evaluate(cmd.Context(), client, args[0], cases, f)
		},
	}
	c.Flags().StringVar(&f.half, "half", string(bothHalves), "which half of the corpus: open, held_out or all")
	c.Flags().IntVar(&f.parallel, "parallel", 4, "how many reviews to have under way at once")
	c.Flags().IntVar(&f.limit, "limit", 0, "review only so many cases, spread evenly over the corpus (default: all)")
	c.Flags().Float64Var(&f.minPrecision, "min-precision", 0, "least precision of each half, such as 0.8; finding nothing where there is something misses it")
	c.Flags().Float64Var(&f.minClean, "min-clean", 0, "least share of the clean changes of each half without a finding, such as 0.95")
	c.Flags().StringVar(&f.project, "project", "", "project of the runs (default: default)")
	oneOf(c, "half", openHalf, heldOut, bothHalves)
	return c
}

// evaluate reviews cases and shows the figures, also of what is done when it is stopped.
func (a *app) evaluate(ctx context.Context, client *api.Client, folder string, cases []corpusCase, f evalFlags) error {
	e := evaluation{Corpus: folder, Cases: make([]evaluatedCase, len(cases))}
	for i, c := range cases {
		e.Cases[i] = evaluatedCase{Name: c.Name, Half: c.half(), Labels: len(c.Findings), of: c}
	}
	for _, half := range []evalHalf{openHalf, heldOut} {
		if slices.ContainsFunc(e.Cases, func(c evaluatedCase) bool { return c.Half == half }) {
			e.Halves = append(e.Halves, &evaluatedHalf{Half: half, Rules: []*ruleFigures{}})
		}
	}
	err := a.reviewCases(ctx, client, e.Cases, f)
	if err != nil && ctx.Err() == nil {
		return err
	}
	e.sum()
	if err != nil {
		fmt.Fprintf(a.errOut, "stopped with %s left; reviews that are under way continue\n", count(e.NotRun, "case"))
	}
	raw, encodeErr := encoded(e)
	if encodeErr != nil {
		return encodeErr
	}
	if printErr := a.answer(raw, func(w io.Writer) { a.printEvaluation(w, e) }); err == nil {
		err = printErr
	}
	if err != nil {
		return err
	}
	return e.verdict(a.errOut, f)
}

// verdict returns an error if cases could not be reviewed or figures are too low.
func (e *evaluation) verdict(w io.Writer, f evalFlags) (err error) {
	below := func(half evalHalf, what string, got *float64, least float64) {
		err = verdictError{exitBlocked, "a figure is too low"}
		fmt.Fprintf(w, "%s: %s %s is below %s\n", half, what, hundredths(got), strconv.FormatFloat(least, 'f', -1, 64))
	}
	for _, h := range e.Halves {
		if f.wantPrecision && (h.Findings > 0 && *h.Precision < f.minPrecision || h.Findings == 0 && h.Labels > 0) {
			below(h.Half, "precision", h.Precision, f.minPrecision)
		}
		if f.wantQuiet && h.Clean > 0 && *h.CleanShare < f.minClean {
			below(h.Half, "clean", h.CleanShare, f.minClean)
		}
	}
	if e.Errors > 0 {
		return verdictError{exitNoVerdict, "cases could not be reviewed"}
	}
	return err
}

// reviewCases reviews cases, some at once. It ends early when ctx does, or when the gateway
// does not answer or refuses more than one case.
func (a *app) reviewCases(ctx context.Context, client *api.Client, cases []evaluatedCase, f evalFlags) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan *evaluatedCase)
	var workers sync.WaitGroup
	progress := a.evalProgress(len(cases))
	for range min(f.parallel, len(cases)) {
		workers.Go(func() {
			for c := range next {
				if err := a.reviewCase(ctx, client, c, f.project); err != nil {
					stop(err)
					return
				}
				c.done = true
				progress(c.Error != "")
			}
		})
	}
feed:
	for i := range cases {
		select {
		case next <- &cases[i]:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	if a.screen != nil {
		fmt.Fprint(a.errOut, "\r\x1b[K")
	}
	return context.Cause(ctx)
}

// evalProgress returns what counts cases that are done, and on a terminal shows how many.
func (a *app) evalProgress(all int) func(failed bool) {
	var mu sync.Mutex
	done, failures := 0, 0
	show := func() {
		if a.screen == nil {
			return
		}
		missing := ""
		if failures > 0 {
			missing = fmt.Sprintf(", %d not reviewed", failures)
		}
		fmt.Fprintf(a.errOut, "\r\x1b[K%d of %s%s", done, count(all, "case"), missing)
	}
	show()
	return func(failed bool) {
		mu.Lock()
		defer mu.Unlock()
		if done++; failed {
			failures++
		}
		show()
	}
}

// reviewCase has one case reviewed and notes what came of it. An error is not about the
// case alone.
func (a *app) reviewCase(ctx context.Context, client *api.Client, c *evaluatedCase, project string) error {
	request := api.ReviewRequest{Provider: api.ReviewRequestProviderDiff, DryRun: new(true)}
	if err := a.addDiff(ctx, client, c.of.file, &request); err != nil {
		return err
	}
	started, _, err := call[api.CreatedReview](client.CreateReview(ctx, &api.CreateReviewParams{
		IdempotencyKey: new(rand.Text()), XProjectID: optional(project), Traceparent: optional(a.getenv("TRACEPARENT")),
	}, request))
	if p, ok := errors.AsType[*problemError](err); ok && p.Status == http.StatusUnprocessableEntity {
		c.Error = p.Error()
		return nil
	} else if err != nil {
		return err
	}
	c.ReviewID = started.Review.ID
	v, err := a.endOfReview(ctx, client, c.ReviewID)
	if err != nil {
		return err
	}
	c.Verdict, c.Tokens, c.CostUsd, c.model = string(deref(v.Verdict)), v.Tokens, v.CostUsd, deref(v.Model)
	c.Partial = v.Coverage != nil && len(v.Coverage.Skipped) > 0
	if v.Status != api.ReviewStatusCompleted || deref(v.Verdict) == api.ReviewVerdictError {
		c.Error = cmp.Or(deref(v.Reason), outcome(v))
		if len(v.Reasons) > 0 {
			c.Error = v.Reasons[0].Detail
		}
		return nil
	}
	c.found, err = reported(ctx, client, v.ID)
	c.Findings = len(c.found)
	return err
}

// endOfReview waits until a review is over.
func (a *app) endOfReview(ctx context.Context, client *api.Client, id string) (api.Review, error) {
	for {
		got, _, err := call[api.ReviewAnswer](client.GetReview(ctx, id, &api.GetReviewParams{WaitS: new(25)}))
		if err != nil || got.Review.FinishedAt != nil {
			return got.Review, err
		}
		if err := a.pause(ctx, 200*time.Millisecond); err != nil {
			return got.Review, err
		}
	}
}

// reported returns the findings that a review tells people of, the worst first.
func reported(ctx context.Context, client *api.Client, id string) (list []api.Finding, err error) {
	params := api.ListReviewFindingsParams{Limit: new(200)}
	for {
		page, _, err := call[api.FindingPage](client.ListReviewFindings(ctx, id, &params))
		if err != nil {
			return nil, err
		}
		for _, f := range page.Items {
			if d := deref(f.Disposition); d != api.FindingDispositionRejected && d != api.FindingDispositionDuplicate {
				list = append(list, f)
			}
		}
		if params.Cursor = page.NextCursor; params.Cursor == nil {
			return list, nil
		}
	}
}

// hundredths returns a share for people.
func hundredths(share *float64) string {
	if share == nil {
		return ""
	}
	return strconv.FormatFloat(*share, 'f', 2, 64)
}

func (a *app) printEvaluation(w io.Writer, e evaluation) {
	part := ""
	if e.Partial > 0 {
		part = count(e.Partial, "case")
	}
	models := ""
	for _, m := range e.Models {
		models += ", " + m
	}
	facts(w, "corpus", e.Corpus, "model", models[min(len(models), 2):], "reviewed", fmt.Sprintf("%d of %s", len(e.Cases)-e.Errors-e.NotRun, count(len(e.Cases), "case")),
		"in parts", part, "cost", fmt.Sprintf("%s, %s", count(e.Tokens, "token"), dollars(e.CostUsd)))
	fmt.Fprintln(w)
	var rows [][]string
	for _, h := range e.Halves {
		rows = append(rows, append(append([]string{string(h.Half), strconv.Itoa(h.Defects)}, h.cells()...), strconv.Itoa(h.Clean), hundredths(h.CleanShare)))
	}
	a.table(w, slices.Concat([]string{"HALF", "DEFECTS"}, figureHeads, []string{"CLEAN", "NO FINDING"}), rows, "RIGHT", "FOUND", "FINDINGS", "DEFECTS", "CLEAN")
	for _, h := range e.Halves {
		if len(h.Rules) == 0 {
			continue
		}
		rows = nil
		for _, r := range h.Rules {
			rows = append(rows, append([]string{r.Rule}, r.cells()...))
		}
		fmt.Fprintln(w)
		a.table(w, append([]string{"RULE, " + string(h.Half)}, figureHeads...), rows, "RIGHT", "FOUND")
	}
	if e.Errors == 0 {
		return
	}
	fmt.Fprintln(w, "\nnot reviewed")
	for _, c := range e.Cases {
		if c.Error == "" {
			continue
		}
		what := c.Name + ": " + c.Error
		if c.ReviewID != "" {
			what += ", " + c.ReviewID
		}
		fmt.Fprintln(w, wrapped(clean(what), "  ", a.width()))
	}
}

var figureHeads = []string{"FINDINGS", "RIGHT", "PRECISION", "LABELS", "FOUND", "RECALL", "LINE", "DUPLICATES"}

func (f figures) cells() []string {
	n := strconv.Itoa
	return []string{n(f.Findings), n(f.Right), hundredths(f.Precision), n(f.Labels), n(f.Found), hundredths(f.Recall), hundredths(f.LineAccuracy), n(f.Duplicates)}
}
