package workflow_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

const (
	signIn     = "POST /supabase/auth/v1/token"
	signInOIDC = "GET /oidc/token"
	request    = "POST /api/reviews"
	poll       = "GET /api/reviews/" + reviewID
	artifacts  = poll + "/artifacts"
)

// hostile is text as a change or a model may bring it.
const hostile = "line one\r\n::error::not ours\n# no heading\n```\n<img src=x>"

// TestReviewJob runs both steps of the job, the second if the first succeeds.
func TestReviewJob(t *testing.T) {
	t.Parallel()
	running, passed := review(api.ReviewStatusRunning, ""), review(api.ReviewStatusCompleted, api.ReviewVerdictPassed)
	failed := review(api.ReviewStatusCompleted, api.ReviewVerdictFailed)
	failed.Reasons = []api.ReviewReason{{Code: "findings", Detail: hostile}}
	failed.Warnings = []api.ReviewReason{{Code: "partial", Detail: "1 file was not read"}}
	ended := review(api.ReviewStatusFailed, "")
	ended.Reason = new("the step timed out")
	forPull := `{"provider":"github","repository":"acme/shop","pull_request":7,"dry_run":false,"head_sha":"` + headSHA + `"}`
	asked := func(polls int) []string {
		return append([]string{signIn, request}, slices.Repeat([]string{signIn, poll}, polls)...)
	}

	for name, test := range map[string]struct {
		prepare func(*world, *runner)
		reviews []api.Review
		body    string
		refused bool // by the first step
		code    int
		seen    []string
		log     []string // of the last step
		summary []string
	}{
		"passed": {
			reviews: []api.Review{review(api.ReviewStatusQueued, ""), running, passed}, body: forPull, seen: asked(3),
			log: []string{"The review passed."},
			summary: []string{"## Review: passed\n", "/reviews/" + reviewID + "), trace `" + traceID + "`", "- findings: 2 posted, 1 rejected\n",
				"- coverage: 2 files reviewed, 1 skipped\n", "\nSkipped:\n\n    c.gen.go: generated\n"},
		},
		"waived": {reviews: []api.Review{review(api.ReviewStatusCompleted, api.ReviewVerdictWaived)}, body: forPull, seen: asked(1), log: []string{"The review waived."}, summary: []string{"## Review: waived\n"}},
		"exists already": {
			prepare: func(w *world, _ *runner) { w.existing = true },
			reviews: []api.Review{passed}, body: forPull, seen: asked(1), log: []string{"The review passed."}, summary: []string{"## Review: passed\n"},
		},
		"failed": {
			reviews: []api.Review{failed}, body: forPull, code: 1, seen: asked(1), log: []string{"::error::the review failed: findings block the change"},
			summary: []string{"## Review: failed\n", "\nWhy:\n\n    line one\n    ::error::not ours\n    # no heading\n    ```\n    <img src=x>\n", "\nWarnings:\n\n    1 file was not read\n"},
		},
		"error": {
			reviews: []api.Review{review(api.ReviewStatusCompleted, api.ReviewVerdictError)}, body: forPull, code: 1, seen: asked(1),
			log: []string{"::error::the change could not be judged (error)"}, summary: []string{"## Review: error\n"},
		},
		"ends without a verdict": {
			reviews: []api.Review{ended}, body: forPull, code: 1, seen: asked(1),
			log: []string{"::error::the change could not be judged (no verdict)"}, summary: []string{"## Review: no verdict\n", "\nWhy:\n\n    the step timed out\n", "- findings: none\n"},
		},
		"superseded": {
			reviews: []api.Review{review(api.ReviewStatusSuperseded, "")}, body: forPull, code: 1, seen: asked(1),
			log: []string{"::error::the review was superseded"}, summary: []string{"## Review: superseded\n"},
		},
		"is not over in time": {
			prepare: func(_ *world, r *runner) { r.polls = "3" },
			reviews: []api.Review{running}, body: forPull, code: 1, seen: asked(3),
			log: []string{"::error::the review is still running"}, summary: []string{"## Review: running\n"},
		},
		"gateway is busy for a moment": {
			prepare: func(w *world, _ *runner) { w.busy = 1 },
			reviews: []api.Review{passed}, body: forPull, seen: append([]string{signIn, request, request}, asked(1)[2:]...),
			log: []string{"The review passed."}, summary: []string{"## Review: passed\n"},
		},
		"no Supabase": {
			prepare: func(_ *world, r *runner) { noSupabase(r) },
			reviews: []api.Review{running, passed}, body: forPull, seen: []string{signInOIDC, request, signInOIDC, poll, signInOIDC, poll},
			log: []string{"The review passed."}, summary: []string{"## Review: passed\n"},
		},
		"no Supabase, and several tenants trust the repository": {
			prepare: func(w *world, r *runner) {
				noSupabase(r)
				r.values["vars.NOFX_OIDC_AUDIENCE || 'nofx'"], w.audience = "nofx/acme", "nofx%2Facme"
			},
			reviews: []api.Review{passed}, body: forPull, seen: []string{signInOIDC, request, signInOIDC, poll},
			log: []string{"The review passed."}, summary: []string{"## Review: passed\n"},
		},
		"by hand, for real": {
			prepare: func(_ *world, r *runner) { r.byHand("0012", "false") },
			reviews: []api.Review{passed}, body: `{"provider":"github","repository":"acme/shop","pull_request":12,"dry_run":false}`, seen: asked(1),
			log: []string{"The review passed."}, summary: []string{"## Review: passed\n"},
		},
		"dry run": {
			prepare: func(w *world, r *runner) {
				r.byHand("12", "true")
				w.plan = map[string]any{"summary": "### Two findings\nmore", "status": map[string]any{"state": "failure"}, "comments": []any{
					map[string]any{"path": "a.go", "line": 3, "side": "RIGHT", "body": hostile}, map[string]any{"path": "b.go", "body": "of the file"},
				}, "resolutions": []any{map[string]any{"thread_id": "t", "reply": "Fixed by 89abcde"}}}
			},
			reviews: []api.Review{running, dry(failed)}, body: `{"provider":"github","repository":"acme/shop","pull_request":12,"dry_run":true}`, code: 1,
			seen: slices.Concat(asked(2), []string{signIn, artifacts, signIn, artifacts, "GET /storage/plan.json"}),
			log:  []string{"::error::the review failed"},
			summary: []string{"## Review: failed, dry run\n", "\n### Would be posted\n\n    ### Two findings\n    more\n", "\n    a.go:3\n    line one\n    ::error::not ours\n    # no heading\n",
				"\n    b.go\n    of the file\n", "\nResolves a thread:\n\n    Fixed by 89abcde\n", "\nStatus `nofx/llm-review`: failure\n"},
		},
		"dry run of nothing to say": {
			prepare: func(w *world, r *runner) {
				r.byHand("12", "true")
				w.plan = map[string]any{"summary": "Nothing found.", "status": map[string]any{"state": "success"}, "comments": nil, "resolutions": nil}
			},
			reviews: []api.Review{dry(passed)}, body: `{"provider":"github","repository":"acme/shop","pull_request":12,"dry_run":true}`,
			seen: slices.Concat(asked(1), []string{signIn, artifacts, signIn, artifacts, "GET /storage/plan.json"}),
			log:  []string{"The review passed."}, summary: []string{"### Would be posted\n\n    Nothing found.\n", "\nStatus `nofx/llm-review`: success\n"},
		},
		"dry run without a plan": {
			prepare: func(w *world, r *runner) {
				r.byHand("12", "true")
				w.noPlan = true
			},
			reviews: []api.Review{dry(review(api.ReviewStatusCompleted, api.ReviewVerdictError))}, body: `{"provider":"github","repository":"acme/shop","pull_request":12,"dry_run":true}`, code: 1,
			seen: slices.Concat(asked(1), []string{signIn, artifacts, signIn, artifacts}),
			log:  []string{"::error::the change could not be judged"}, summary: []string{"Nothing would be posted: the review ended before it had a plan."},
		},

		"refused": {
			prepare: func(w *world, _ *runner) {
				w.refusal = &api.Problem{Status: http.StatusForbidden, Code: api.ProblemCodeReviewsDisabled, Detail: "reviews are\n::set-output name=x::disabled, 100%"}
			},
			refused: true, body: forPull, seen: []string{signIn, request}, log: []string{"::error::NOFX refused /api/reviews: reviews are%0A::set-output name=x::disabled, 100%25\n"},
		},
		"wrong password":   {prepare: set("secrets.SUPABASE_CI_PASSWORD", "not-it"), refused: true, seen: []string{signIn}, log: []string{"::error::Supabase refused to sign in"}},
		"half of Supabase": {prepare: set("secrets.SUPABASE_CI_EMAIL", ""), refused: true, log: []string{"::error::set all of the secrets SUPABASE_URL"}},
		"no way to sign in": {
			prepare: func(_ *world, r *runner) {
				noSupabase(r)
				r.job.Permissions = nil
			}, refused: true, log: []string{"::error::no way to sign in"},
		},
		"no gateway":                      {prepare: set("vars.NOFX_URL", ""), refused: true, log: []string{"::error::set the variable NOFX_URL"}},
		"gateway without https":           {prepare: set("vars.NOFX_URL", "http://nofx.example"), refused: true, log: []string{"::error::set the variable NOFX_URL"}},
		"number with a command":           {prepare: byHand("7; touch broken"), refused: true, log: []string{notANumber}},
		"number with a line":              {prepare: byHand("7\n8"), refused: true, log: []string{notANumber}},
		"no number":                       {prepare: byHand(""), refused: true, log: []string{notANumber}},
		"negative number":                 {prepare: byHand("-7"), refused: true, log: []string{notANumber}},
		"number with a command of GitHub": {prepare: byHand("::error::7"), refused: true, log: []string{notANumber}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.reviews = test.reviews
			r := newRunner(t, w, "review")
			if test.prepare != nil {
				test.prepare(w, r)
			}
			got := r.step("Request review")
			if test.refused {
				if got.code != 1 || got.outputs != "" {
					t.Errorf("Request review = %d with outputs %q, want 1 and none:\n%s", got.code, got.outputs, got.log)
				}
			} else {
				if want := "id=" + reviewID + "\nrun_id=" + runID + "\ntrace_id=" + traceID + "\n"; got.code != 0 || got.outputs != want || !strings.Contains(got.log, traceID) {
					t.Fatalf("Request review = %d with outputs %q, want 0 and %q, and the trace in the log:\n%s", got.code, got.outputs, want, got.log)
				}
				if got = r.step("Wait for verdict"); got.code != test.code {
					t.Errorf("Wait for verdict = %d, want %d:\n%s", got.code, test.code, got.log)
				}
			}
			has(t, "log", got.log, test.log)
			has(t, "summary", got.summary, test.summary)
			if test.refused && got.summary != "" {
				t.Errorf("summary = %q, want none", got.summary)
			}
			if diff := cmp.Diff(test.seen, w.seen); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
			if test.body != "" && (len(w.bodies) != 1 || !sameJSON(t, w.bodies[0], test.body) || w.keys[0] != "77-2") {
				t.Errorf("reviews requested by %q with keys %q, want %q with 77-2", w.bodies, w.keys, test.body)
			}
		})
	}
}

const notANumber = "::error::the number of the pull request is not a number\n"

func noSupabase(r *runner) {
	for _, name := range []string{"URL", "ANON_KEY", "CI_EMAIL", "CI_PASSWORD"} {
		r.values["secrets.SUPABASE_"+name] = ""
	}
}

// set returns a preparation that gives an expression another value.
func set(expression, value string) func(*world, *runner) {
	return func(_ *world, r *runner) { r.values[expression] = value }
}

// byHand returns a preparation that makes it a dry run, started by hand.
func byHand(pr string) func(*world, *runner) {
	return func(_ *world, r *runner) { r.byHand(pr, "true") }
}

func dry(v api.Review) api.Review {
	v.DryRun = true
	return v
}

func has(t *testing.T, what, text string, parts []string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %q:\n%s", what, part, text)
		}
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatal(err)
	}
	return cmp.Equal(x, y)
}

func TestStagingJob(t *testing.T) {
	t.Parallel()
	const hook = "POST /hook/" + hookSecret
	answer := func(status int, v any) func(*world, *runner) {
		return func(w *world, _ *runner) {
			w.hook = func(rw http.ResponseWriter, _ *http.Request) { write(rw, status, v) }
		}
	}
	for name, test := range map[string]struct {
		prepare func(*world, *runner)
		code    int
		seen    []string
		log     string
		summary string // the log too, if ""
	}{
		"hook":             {seen: []string{hook}, log: "Called the deploy hook: job J0b-1_x. It deploys the branch that the hook was made for, not this pull request.\n"},
		"no hook":          {prepare: set("secrets.VERCEL_DEPLOY_HOOK_URL", ""), log: "No staging: the secret VERCEL_DEPLOY_HOOK_URL is not set.\n"},
		"dry run":          {prepare: set("inputs.dry_run || false", "true"), log: "Dry run: would POST to the deploy hook in the secret VERCEL_DEPLOY_HOOK_URL.\n"},
		"hook is gone":     {prepare: answer(http.StatusNotFound, map[string]any{"error": map[string]any{"code": "not_found"}}), code: 1, seen: []string{hook}, log: "::error::the deploy hook was not called\n", summary: "-"},
		"another answer":   {prepare: answer(http.StatusOK, map[string]any{"job": map[string]any{"id": "x\n::error::y"}}), code: 1, seen: []string{hook}, log: "::error::the deploy hook did not answer with a job\n", summary: "-"},
		"hook without TLS": {prepare: set("secrets.VERCEL_DEPLOY_HOOK_URL", "http://api.vercel.example/"+hookSecret), code: 1, log: "::error::the secret VERCEL_DEPLOY_HOOK_URL is not an https address\n", summary: "-"},
		"two lines":        {prepare: set("secrets.VERCEL_DEPLOY_HOOK_URL", "https://api.vercel.example/x\n"+hookSecret), code: 1, log: "::error::the secret VERCEL_DEPLOY_HOOK_URL is not an https address\n", summary: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := newRunner(t, w, "staging")
			if test.prepare != nil {
				test.prepare(w, r)
			}
			got := r.step("Call Vercel Deploy Hook")
			if got.code != test.code || !strings.HasSuffix(got.log, test.log) {
				t.Errorf("step = %d, want %d and %q at the end of its log:\n%s", got.code, test.code, test.log, got.log)
			}
			want := test.log
			if test.summary == "-" {
				want = ""
			}
			if got.summary != want {
				t.Errorf("summary = %q, want %q", got.summary, want)
			}
			if diff := cmp.Diff(test.seen, w.seen); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
		})
	}
}
