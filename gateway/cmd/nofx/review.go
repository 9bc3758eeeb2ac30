package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) reviewCommand() *cobra.Command {
	return group("review", "Have changes reviewed, and decide about findings",
		a.reviewStartCommand(), a.reviewWaitCommand(), a.reviewShowCommand(), a.reviewListCommand(), a.reviewFindingsCommand(), a.reviewRerunCommand(),
		a.settleCommand("resolve", "Say that a finding is dealt with", ""),
		a.settleCommand("dismiss", "Say that a finding is not one", `With --scope path or rule, later findings of its kind (its rule, or its category if it has
none) in its file, or anywhere in the repository, are dismissed as well, except those of
severity high or critical.`),
		a.settleCommand("reopen", "Take back that a finding was fixed, resolved or dismissed", ""),
		a.reviewArtifactCommand(), a.reviewArtifactsCommand(), a.reviewMetricsCommand(), a.reviewEvalCommand())
}

// verdictCodes describes the exit codes of commands that wait for a review.
const verdictCodes = `The exit code says what the review came to: 0 passed or waived, 6 failed, 7 error or ended
without a verdict, 8 superseded by the review of a newer head, 9 not over after --timeout.`

// verdictError is the end of a review that did not pass.
type verdictError struct {
	code int
	what string
}

func (e verdictError) Error() string { return e.what }

// verdictOf returns nil if a review that is over passed or was waived.
func verdictOf(v api.Review) error {
	what := fmt.Sprintf("review %s is %s", v.ID, outcome(v))
	switch {
	case v.Status == api.ReviewStatusSuperseded:
		return verdictError{exitSuperseded, what}
	case v.Status != api.ReviewStatusCompleted:
		return verdictError{exitNoVerdict, what}
	}
	switch deref(v.Verdict) {
	case api.ReviewVerdictPassed, api.ReviewVerdictWaived:
		return nil
	case api.ReviewVerdictFailed:
		return verdictError{exitBlocked, what}
	}
	return verdictError{exitNoVerdict, what}
}

// outcome returns the verdict of a review, or its status while it has none.
func outcome(v api.Review) string {
	if v.Verdict != nil {
		return string(*v.Verdict)
	}
	return string(v.Status)
}

// change returns for people what a review is of.
func change(v api.Review) string {
	switch {
	case v.PullRequest != nil:
		return fmt.Sprintf("%s %s#%d", v.Provider, deref(v.Repository), *v.PullRequest)
	case v.Repository != nil:
		return fmt.Sprintf("%s %s", v.Provider, *v.Repository)
	}
	return string(v.Provider)
}

func (a *app) reviewStartCommand() *cobra.Command {
	var provider, repository, head, diff, project, key string
	var pull int
	var dryRun bool
	var wait waiting
	c := &cobra.Command{
		Use:   "start {--diff FILE | --repo OWNER/NAME --pr N}",
		Short: "Have a diff or a pull request reviewed",
		Long: `Have a change reviewed: a unified diff from a file, or from standard input with
"--diff -", or a pull request. There is one review of each head of a pull request: if there
is one already, it is shown, and nothing starts.

With --wait the command waits for the verdict and prints the findings.
` + verdictCodes,
		Example: `  git diff main | nofx review start --diff - --wait
  nofx review start --provider github --repo acme/shop --pr 7 --wait --timeout 20m
  nofx review start --diff change.diff --repo acme/shop --pr 7 --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if provider == "" {
				provider = string(api.ReviewRequestProviderGithub)
				if diff != "" {
					provider = string(api.ReviewRequestProviderDiff)
				}
			}
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			request := api.ReviewRequest{Provider: api.ReviewRequestProvider(provider), Repository: optional(repository), PullRequest: optional(pull), HeadSha: optional(head), DryRun: optional(dryRun)}
			if diff != "" {
				if err := a.addDiff(cmd.Context(), client, diff, &request); err != nil {
					return err
				}
			} else if request.Provider == api.ReviewRequestProviderDiff {
				return usagef("give a diff: --diff FILE, or --diff - for standard input")
			} else if repository == "" || pull == 0 {
				return usagef("give a diff (--diff FILE) or a pull request (--repo OWNER/NAME --pr N)")
			}
			if key == "" {
				key = rand.Text()
			}
			started, raw, err := call[api.CreatedReview](client.CreateReview(cmd.Context(), &api.CreateReviewParams{
				IdempotencyKey: &key, XProjectID: optional(project), Traceparent: optional(a.getenv("TRACEPARENT")),
			}, request))
			if err != nil {
				return err
			}
			return a.reviewing(cmd.Context(), client, started.Review, raw, wait)
		},
	}
	c.Flags().StringVar(&provider, "provider", "", "where the change is from: diff, github or bitbucket (default: diff with --diff, else github)")
	c.Flags().StringVar(&repository, "repo", "", "repository, OWNER/NAME")
	c.Flags().IntVar(&pull, "pr", 0, "number of the pull request")
	c.Flags().StringVar(&head, "head", "", "commit of the pull request to review (default: its newest)")
	c.Flags().StringVar(&diff, "diff", "", "file with a unified diff, - for standard input")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "post nothing on the forge")
	c.Flags().StringVar(&project, "project", "", "project of the run (default: default)")
	c.Flags().StringVar(&key, "idempotency-key", "", "repeat the command with the same key, and the review is started only once")
	wait.flags(c)
	fileFlag(c, "diff")
	oneOf(c, "provider", api.ReviewRequestProviderDiff, api.ReviewRequestProviderGithub, api.ReviewRequestProviderBitbucket)
	return c
}

// maxPosted is the number of bytes that a diff in a request may have as JSON: the request
// has a megabyte at most.
const maxPosted = 900 << 10

// addDiff adds a diff from a file or the standard input to a request: as text or, where it
// is none or too long, as an artifact.
func (a *app) addDiff(ctx context.Context, client *api.Client, file string, request *api.ReviewRequest) error {
	content, err := a.readFile(file)
	if err != nil {
		return usagef("the diff: %w", err)
	}
	if len(content) == 0 {
		return usagef("the diff is empty: there is nothing to review")
	}
	if isText(content) {
		text, err := encoded(string(content))
		if err != nil {
			return err
		}
		if len(text) <= maxPosted {
			request.Diff = optional(string(content))
			return nil
		}
	}
	folder, err := os.MkdirTemp("", "nofx-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "change.diff")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	f, announced, err := announce(path, "", "text/x-diff")
	if err != nil {
		return err
	}
	defer f.Close()
	id, err := a.upload(ctx, client, f, announced)
	if err != nil {
		return err
	}
	if _, _, err := a.verified(ctx, client, id); err != nil {
		return err
	}
	request.ArtifactID = &id
	return nil
}

// readFile returns the content of a file, or with - what comes from standard input.
func (a *app) readFile(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(a.in)
	}
	return os.ReadFile(file)
}

// waiting are the flags of commands that may wait for a review.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (f *waiting) flags(c *cobra.Command) {
	c.Flags().BoolVar(&f.wait, "wait", false, "wait for the verdict, and exit with its code")
	f.timeoutFlag(c)
}

func (f *waiting) timeoutFlag(c *cobra.Command) {
	c.Flags().DurationVar(&f.timeout, "timeout", 0, "longest time to wait (default: until the review is over)")
}

// reviewing shows a review that was started, or waits for its end.
func (a *app) reviewing(ctx context.Context, client *api.Client, v api.Review, raw []byte, f waiting) error {
	if f.wait {
		return a.awaitReview(ctx, client, v.ID, f.timeout)
	}
	return a.answer(raw, func(w io.Writer) { a.printReview(w, v) })
}

// awaitReview waits for the end of a review and shows it with its findings.
func (a *app) awaitReview(ctx context.Context, client *api.Client, id string, timeout time.Duration) error {
	const most = 25 * time.Second // that the gateway waits
	begun := a.now()
	for told := false; ; told = true {
		wait := most
		if timeout > 0 {
			wait = min(most, max(timeout-a.now().Sub(begun), 0))
		}
		got, raw, err := call[api.ReviewAnswer](client.GetReview(ctx, id, &api.GetReviewParams{WaitS: optional(int(wait.Round(time.Second).Seconds()))}))
		if err != nil {
			return err
		}
		v := got.Review
		if v.FinishedAt != nil {
			return a.over(ctx, client, v, raw)
		}
		if timeout > 0 && a.now().Sub(begun) >= timeout {
			fmt.Fprintf(a.errOut, "review %s is still %s after %s; it continues: %s review wait %s\n", v.ID, v.Status, span(timeout), a.self(), v.ID)
			return verdictError{exitTimeout, "the review is not over"}
		}
		if !told {
			fmt.Fprintf(a.errOut, "review %s is %s; see %s run show %s\n", v.ID, v.Status, a.self(), v.RunID)
		}
		if err := a.pause(ctx, 200*time.Millisecond); err != nil {
			fmt.Fprintf(a.errOut, "\nstopped waiting; the review continues: %s review wait %s\n", a.self(), v.ID)
			return err
		}
	}
}

// over shows a review that is over, with its findings.
func (a *app) over(ctx context.Context, client *api.Client, v api.Review, raw []byte) error {
	var page api.FindingPage
	if !a.json && v.Status == api.ReviewStatusCompleted {
		var err error
		if page, _, err = call[api.FindingPage](client.ListReviewFindings(ctx, v.ID, nil)); err != nil {
			return err
		}
	}
	if err := a.answer(raw, func(w io.Writer) {
		a.printFindings(w, page)
		if next := page.NextCursor; next != nil {
			fmt.Fprintf(w, "more: %s review findings %s --cursor %s\n\n", a.self(), v.ID, *next)
		}
		a.printReview(w, v)
	}); err != nil {
		return err
	}
	return verdictOf(v)
}

func (a *app) reviewWaitCommand() *cobra.Command {
	var f waiting
	c := &cobra.Command{
		Use:               "wait REVIEW",
		Short:             "Wait for the verdict of a review",
		Long:              "Wait for the verdict of a review, and print it with the findings.\n" + verdictCodes,
		Example:           "  nofx review wait rev_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --timeout 20m",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeReview(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			return a.awaitReview(cmd.Context(), client, args[0], f.timeout)
		},
	}
	f.timeoutFlag(c)
	return c
}

func (a *app) reviewRerunCommand() *cobra.Command {
	var reuse string
	var f waiting
	c := &cobra.Command{
		Use:   "rerun REVIEW",
		Short: "Review the same head again",
		Long: `Review the same head again, in a new run. Answers of the model about parts of the change
that have not changed are used again, unless --reuse none.
` + verdictCodes,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeReview(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			key := rand.Text()
			started, raw, err := call[api.CreatedReview](client.RerunReview(cmd.Context(), args[0], &api.RerunReviewParams{IdempotencyKey: &key, Traceparent: optional(a.getenv("TRACEPARENT"))},
				api.ReviewRerun{Reuse: optional(api.ReviewRerunReuse(reuse))}))
			if err != nil {
				return err
			}
			return a.reviewing(cmd.Context(), client, started.Review, raw, f)
		},
	}
	c.Flags().StringVar(&reuse, "reuse", "", "cached (the default), or none: the model is asked about everything again")
	oneOf(c, "reuse", api.ReviewRerunReuseCached, api.ReviewRerunReuseNone)
	f.flags(c)
	return c
}

// completeReview offers the newest reviews.
func (a *app) completeReview() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, _ string) (reviews []cobra.Completion) {
		page, _, err := call[api.ReviewPage](c.ListReviews(ctx, &api.ListReviewsParams{}))
		if err != nil {
			return nil
		}
		for _, v := range page.Items {
			reviews = append(reviews, described(v.ID, outcome(v), change(v)))
		}
		return reviews
	})
}
