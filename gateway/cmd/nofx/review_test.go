package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	openapi_types "github.com/oapi-codegen/runtime/types"

	"nofx.dev/gateway/api"
)

const aDiff = "diff --git a/a.go b/a.go\n--- a/a.go\n+++ b/a.go\n@@ -1 +1 @@\n-x\n+y\n"

func queuedReview() api.Review {
	return api.Review{ID: id("rev", 1), RunID: id("run", 1), StepID: id("step", 1), Provider: api.ReviewProviderGithub, Repository: ptr("acme/shop"), PullRequest: ptr(7), HeadSha: ptr(strings.Repeat("ab", 20)),
		Status: api.ReviewStatusQueued, Version: 1, Reasons: []api.ReviewReason{}, Warnings: []api.ReviewReason{}, Counts: map[string]int{}, TraceID: testTrace, CreatedBy: alice, CreatedAt: ago(60)}
}

func failedReview() api.Review {
	v := queuedReview()
	v.ID, v.Status, v.Version, v.Verdict = id("rev", 2), api.ReviewStatusCompleted, 3, ptr(api.ReviewVerdictFailed)
	v.BaseSha, v.Model, v.PolicyHash, v.Tokens, v.CostUsd, v.GateID = ptr(strings.Repeat("cd", 20)), ptr("claude-x"), ptr(digest(5)), 12_345, 0.0421, ptr(id("gate", 1))
	v.Reasons = []api.ReviewReason{{Code: "finding", Detail: "internal/store/orders.go:42, high: SQL is put together from the name that a caller gives, so that a caller can read all orders"}}
	v.Warnings = []api.ReviewReason{{Code: "partial", Detail: "1 file not reviewed, or not wholly"}}
	v.Coverage = &api.ReviewCoverage{Reviewed: []string{"internal/store/orders.go", "main.go"}, Skipped: []api.ReviewSkip{{Path: "logo.png", Reason: "binary"}, {Path: "huge\x1b[2J.sql", Reason: "limit", Detail: ptr("more than 20000 changed lines")}}}
	v.Counts = map[string]int{"open": 2, "fixed": 1, "posted": 2}
	v.StartedAt, v.FinishedAt = ptr(ago(50)), ptr(ago(5))
	return v
}

func supersededReview() api.Review {
	v := queuedReview()
	v.ID, v.Status, v.Reason, v.SupersededBy, v.FinishedAt = id("rev", 3), api.ReviewStatusSuperseded, ptr("superseded by "+id("rev", 2)), ptr(id("rev", 2)), ptr(ago(5))
	return v
}

// What was found is not said to be posted where there is no forge.
func TestCounted(t *testing.T) {
	t.Parallel()
	for provider, want := range map[api.ReviewProvider]string{
		api.ReviewProviderGithub: "2 open, 1 posted", api.ReviewProviderBitbucket: "2 open, 1 posted", api.ReviewProviderDiff: "2 open", api.ReviewProviderWorkspace: "2 open",
	} {
		if got := counted(api.Review{Provider: provider, Counts: map[string]int{"posted": 1, "open": 2}}); got != want {
			t.Errorf("counted(%s) = %q, want %q", provider, got, want)
		}
	}
}

// reviewAnswers answers by the id: 1 is queued, 2 failed, 3 superseded, 4 waived, and 5 has
// no verdict.
func reviewAnswers(w http.ResponseWriter, r *http.Request) {
	v := queuedReview()
	switch {
	case strings.Contains(r.URL.Path, id("rev", 2)) || strings.Contains(r.URL.RawQuery, "wait_s") && strings.Contains(r.URL.Path, id("rev", 1)):
		v = failedReview()
	case strings.Contains(r.URL.Path, id("rev", 3)):
		v = supersededReview()
	case strings.Contains(r.URL.Path, id("rev", 4)):
		v = failedReview()
		v.ID, v.Verdict = id("rev", 4), ptr(api.ReviewVerdictWaived)
	case strings.Contains(r.URL.Path, id("rev", 5)):
		v.ID, v.Status, v.Reason, v.FinishedAt = id("rev", 5), api.ReviewStatusFailed, ptr("cancelled"), ptr(ago(5))
	}
	answer(http.StatusOK, api.ReviewAnswer{Review: v})(w, r)
}

func openFinding() api.Finding {
	return api.Finding{ID: id("find", 1), Provider: api.ReviewProviderGithub, Repository: ptr("acme/shop"), PullRequest: ptr(7), Fingerprint: "fp1.a", Status: api.FindingStatusOpen, Version: 1,
		Category: "security", Severity: api.FindingSeverityHigh, Confidence: 0.93, RuleID: ptr("sql-concat"), Title: "SQL is put together from the name that a caller gives",
		Body: "A caller can read all orders with a name such as `' OR 1=1 --`, since nothing quotes it.\n\nPass the name as a parameter of the query.", Evidence: []string{},
		Suggestion: ptr("\trows, err := db.Query(ctx, \"SELECT id FROM orders WHERE name = $1\", name)\n"), Path: "internal/store/orders.go", Side: ptr(api.FindingSideRIGHT), Line: ptr(42),
		Text: ptr("\trows, err := db.Query(ctx, \"SELECT id FROM orders WHERE name = '\"+name+\"'\")\x1b[31m"), Disposition: ptr(api.FindingDispositionPosted),
		URL: ptr("https://github.com/acme/shop/pull/7#discussion_r1"), FirstReviewID: id("rev", 2), LastReviewID: id("rev", 2), CreatedAt: ago(9), UpdatedAt: ago(9)}
}

func dismissedFinding() api.Finding {
	f := openFinding()
	f.ID, f.Severity, f.Title, f.Body, f.Suggestion, f.URL, f.RuleID = id("find", 2), api.FindingSeverityLow, "The error is ignored", "Return it.", nil, nil, nil
	f.Status, f.Reason, f.Scope, f.ExpiresAt, f.Category = api.FindingStatusDismissed, ptr("by design"), ptr(api.DismissalScopePath), ptr(now.Add(720*time.Hour)), "error_handling"
	f.Disposition, f.Why = ptr(api.FindingDispositionRejected), ptr("dismissed beforehand")
	return f
}

func fixedFinding() api.Finding {
	f := dismissedFinding()
	f.ID, f.Status, f.Scope, f.ExpiresAt, f.Reason, f.Why = id("find", 3), api.FindingStatusFixed, nil, nil, nil, nil
	f.Path, f.Line, f.Text, f.Severity = "old.go", nil, nil, api.FindingSeverityInfo
	f.Fix = &api.FindingFix{Reason: "file_deleted", Path: "old.go", Text: "x", Head: strings.Repeat("ab", 20)}
	return f
}

func reviewArtifacts() api.ReviewArtifactPage {
	artifact := func(n int, name string) api.Artifact {
		return api.Artifact{ID: id("art", n), Name: name, MediaType: "application/json", SizeBytes: 2048, Sha256: digest(n)[7:], CreatedAt: ago(9)}
	}
	return api.ReviewArtifactPage{Items: []api.ReviewArtifact{{Stage: "answer", Artifact: artifact(1, "answer.0")}, {Stage: "answer", Ordinal: 1, Artifact: artifact(2, "answer.1")}, {Stage: "review.json", Artifact: artifact(3, "review.json")}}}
}

func reviewMetrics() api.ReviewMetrics {
	return api.ReviewMetrics{Since: ago(7 * 86400), Until: now,
		Rules:    []api.RuleMetrics{{RuleID: ptr("sql-concat"), Category: "security", Found: 12, Open: 2, Fixed: 7, Resolved: 1, Dismissed: 2, Acceptance: ptr(0.8)}, {Category: "tests", Found: 1, Open: 1}},
		Reviews:  []api.VerdictMetrics{{Status: api.ReviewStatusCompleted, Verdict: ptr(api.ReviewVerdictPassed), Count: 9}, {Status: api.ReviewStatusSuperseded, Count: 2}},
		Spending: []api.SpendingMetrics{{Day: openapi_types.Date{Time: now}, Model: ptr("claude-x"), Reviews: 9, Tokens: 120_000, CostUsd: 0.75}},
	}
}

func boundRepository() api.RepositoryAnswer {
	r := api.Repository{ID: id("repo", 1), Provider: api.RepositoryProviderGithub, Name: "acme/shop", Project: "web", Enabled: true, Version: 1, CreatedBy: alice, CreatedAt: ago(60), UpdatedAt: ago(60),
		LastDeliveryAt: ptr(ago(5)), LastResult: ptr(api.WebhookResultStarted)}
	return api.RepositoryAnswer{Repository: r, Webhook: &api.RepositoryWebhook{Path: "/api/webhooks/github?repository=" + r.ID, Secret: "nofx_whs_0123"}}
}

const aPolicy = "version: 1\nblock: {severity: medium, confidence: 0.5}\n"

func ruledRepository() api.Repository {
	r := boundRepository().Repository
	r.Policy = ptr(aPolicy)
	return r
}

// A policy is sent as it is, from a file or standard input, and null removes it.
func TestRepositoryPolicy(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"add acme/shop --provider bitbucket":           `{"name":"acme/shop","provider":"bitbucket"}`,
		"add acme/shop --policy -":                     `{"name":"acme/shop","policy":"version: 1\nblock: {severity: medium, confidence: 0.5}\n","provider":"github"}`,
		"set " + id("repo", 1) + " --policy -":         `{"policy":"version: 1\nblock: {severity: medium, confidence: 0.5}\n"}`,
		"set " + id("repo", 1) + " --no-credential":    `{"credential":null}`,
		"set " + id("repo", 1) + " --credential shop":  `{"credential":"shop"}`,
		"set " + id("repo", 1) + " --no-policy":        `{"policy":null}`,
		"set " + id("repo", 1) + " --project payments": `{"project":"payments"}`,
	} {
		var got string
		keep := func(next http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = strings.TrimSpace(string(body))
				next(w, r)
			}
		}
		answers := script()
		answers["createRepository"], answers["changeRepository"] = keep(answers["createRepository"]), keep(answers["changeRepository"])
		_, server := newGateway(t, answers)
		c := newCLI(t, server.URL)
		c.in = strings.NewReader(aPolicy)
		if code := execute(t.Context(), c.app, append([]string{"repository"}, strings.Fields(args)...)); code != exitOK || got != want {
			t.Errorf("repository %s = exit %d, request %s, %s; want %s", args, code, got, &c.errOut, want)
		}
	}
}

// What is to be entered is in the words of the forge.
func TestRepositoryAtBitbucket(t *testing.T) {
	t.Parallel()
	answers := script()
	made := boundRepository()
	made.Repository.Provider, made.Webhook.Path = api.RepositoryProviderBitbucket, "/api/webhooks/bitbucket?repository="+made.Repository.ID
	answers["createRepository"] = answer(http.StatusCreated, made)
	_, server := newGateway(t, answers)
	c := newCLI(t, server.URL)
	code := execute(t.Context(), c.app, []string{"repository", "add", "acme/shop", "--provider", "bitbucket"})
	for _, want := range []string{"Enter at Bitbucket", server.URL + made.Webhook.Path, "nofx_whs_0123", "Created, Updated"} {
		if code != exitOK || !strings.Contains(c.out.String(), want) {
			t.Errorf("repository add = exit %d, %s%s, want %s in it", code, &c.out, &c.errOut, want)
		}
	}
}

// A review that is not over after --timeout has an exit code of its own.
func TestReviewTimeout(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, map[string]http.HandlerFunc{"getReview": answer(http.StatusOK, api.ReviewAnswer{Review: queuedReview()})})
	c := newCLI(t, server.URL)
	at := now
	c.now = func() time.Time {
		at = at.Add(10 * time.Second)
		return at
	}
	if code := execute(t.Context(), c.app, []string{"review", "wait", id("rev", 1), "--timeout", "1m"}); code != exitTimeout || !strings.Contains(c.errOut.String(), "it continues: nofx review wait") {
		t.Errorf("review wait = exit %d, %s, want %d and how to go on", code, &c.errOut, exitTimeout)
	}
	for _, r := range g.requests() {
		if strings.Contains(r, "wait_s=-") {
			t.Errorf("request %s, want no negative wait", r)
		}
	}
}

// A diff is posted as it is; one that is too large for a request, or no text, is uploaded.
func TestReviewDiffs(t *testing.T) {
	t.Parallel()
	large := aDiff + strings.Repeat("+\t\"quoted\"\n", maxPosted/10)
	for name, diff := range map[string]string{"small": aDiff, "large": large, "no text": aDiff + "+\xff\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stored, storage := newBucket(t, "", 0)
			artifact := api.Artifact{ID: id("art", 1), Name: "change.diff", MediaType: "text/x-diff", SizeBytes: int64(len(diff)), Sha256: sumOf(diff), CreatedAt: ago(1)}
			var request api.ReviewRequest
			_, server := newGateway(t, map[string]http.HandlerFunc{
				"createReview": func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					if err := json.Unmarshal(body, &request); err != nil || len(body) > 1<<20 {
						t.Errorf("request of %d bytes, %v, want one that a gateway takes", len(body), err)
					}
					answer(http.StatusAccepted, api.CreatedReview{Review: queuedReview(), Run: detail().Run})(w, r)
				},
				"createArtifact":   answer(http.StatusCreated, api.CreatedArtifact{Artifact: artifact, Upload: &api.Upload{Method: api.UploadMethodPUT, URL: storage, Headers: map[string]string{}, ExpiresAt: now}}),
				"completeArtifact": answer(http.StatusOK, api.ArtifactAnswer{Artifact: artifact}),
			})
			c := newCLI(t, server.URL)
			args := []string{"review", "start", "--diff", "-"}
			if c.in = strings.NewReader(diff); name == "large" {
				args[3] = filepath.Join(c.dir, "x.diff")
				if err := os.WriteFile(args[3], []byte(diff), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if code := execute(t.Context(), c.app, args); code != exitOK {
				t.Fatalf("review start = exit %d, %s, want 0", code, &c.errOut)
			}
			posted := request.Diff != nil && *request.Diff == diff && request.ArtifactID == nil && stored.content == ""
			uploaded := request.Diff == nil && request.ArtifactID != nil && *request.ArtifactID == artifact.ID && stored.content == diff
			if posted != (name == "small") || uploaded == (name == "small") {
				t.Errorf("request with %d bytes of diff and artifact %v, %d bytes stored; want it posted only if it is small and text", len(deref(request.Diff)), request.ArtifactID, len(stored.content))
			}
		})
	}
}

// An empty diff is a mistake, such as of the command before a pipe, and never passes.
func TestReviewOfNothing(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, nil)
	c := newCLI(t, server.URL)
	if code := execute(t.Context(), c.app, []string{"review", "start", "--diff", "-", "--wait"}); code != exitUsage || !strings.Contains(c.errOut.String(), "the diff is empty") || len(g.requests()) > 0 {
		t.Errorf("review start = exit %d, %s, requests %v, want %d and no request", code, &c.errOut, g.requests(), exitUsage)
	}
}

// Findings have colours on a terminal only.
func TestReviewColours(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, script())
	for _, terminal := range []bool{true, false} {
		c := newCLI(t, server.URL)
		c.terminal = terminal
		execute(t.Context(), c.app, []string{"review", "findings", id("rev", 2)})
		if got := strings.Contains(c.out.String(), "\x1b[31mhigh\x1b[0m"); got != terminal || strings.Contains(c.out.String(), "\x1b[31m\n") {
			t.Errorf("terminal %t: coloured %t:\n%q", terminal, got, &c.out)
		}
	}
}

// Whoever waits for a review is told how to see what does not fit, and how to go on.
func TestReviewOfMuch(t *testing.T) {
	t.Parallel()
	v := failedReview()
	for i := range 30 {
		v.Reasons = append(v.Reasons, api.ReviewReason{Code: "finding", Detail: fmt.Sprintf("a.go:%d, high: wrong", i+1)})
	}
	_, server := newGateway(t, map[string]http.HandlerFunc{
		"getReview":          answer(http.StatusOK, api.ReviewAnswer{Review: v}),
		"listReviewFindings": answer(http.StatusOK, api.FindingPage{Items: []api.Finding{openFinding()}, NextCursor: ptr("bW9yZQ")}),
	})
	c := newCLI(t, server.URL)
	shown := c.transcript(t.Context(), "review", "wait", v.ID)
	for _, want := range []string{
		"more: nofx review findings " + v.ID + " --cursor bW9yZQ\n", "a.go:19, high: wrong\n  and 11 more\n",
		"Decide: nofx review resolve|dismiss FINDING --reason '…'\n", "Then again: nofx review rerun " + v.ID + " --wait\n",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("review wait prints no %q:\n%s", want, shown)
		}
	}
	v.Provider, v.PullRequest, v.Repository = api.ReviewProviderWorkspace, nil, nil
	if hints := strings.Join(reviewHints(v, "nofx"), "\n"); !strings.Contains(hints, "nofx run retry "+v.RunID) || strings.Contains(hints, "review rerun") {
		t.Errorf("hints of the review of a workspace = %q, want its run to be retried", hints)
	}
}

// A run whose review failed leads to the findings.
func TestTroubleOfAReview(t *testing.T) {
	t.Parallel()
	d := failedDetail()
	d.Gates[1].Kind, d.Gates[1].Evidence = api.GateKindReview, json.RawMessage(`{"review_id": "`+id("rev", 2)+`", "verdict": "failed"}`)
	_, server := newGateway(t, map[string]http.HandlerFunc{"getRun": answer(http.StatusOK, d)})
	c := newCLI(t, server.URL)
	shown := c.transcript(t.Context(), "run", "show", d.Run.ID)
	if want := "  nofx review findings " + id("rev", 2) + "\n"; !strings.Contains(shown, want) {
		t.Errorf("run show prints no %q:\n%s", want, shown)
	}
}
