package workflow_test

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"nofx.dev/gateway/api"
)

type bitbucketStep struct {
	Step struct {
		Script []string
		Clone  struct{ Enabled *bool }
	}
}

// pipelines returns the steps for pull requests and of the dry run.
func pipelines(t *testing.T) (pull, byHand bitbucketStep) {
	t.Helper()
	b, err := os.ReadFile("bitbucket-pipelines.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Pipelines struct {
			Pull   map[string][]bitbucketStep `yaml:"pull-requests"`
			Custom map[string][]bitbucketStep
		}
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	pulls, custom := file.Pipelines.Pull["**"], file.Pipelines.Custom["nofx-dry-run"]
	if len(pulls) != 1 || len(custom) != 2 {
		t.Fatalf("pull-requests has %d steps and nofx-dry-run %d, want 1, and variables with a step", len(pulls), len(custom))
	}
	return pulls[0], custom[1]
}

// TestBitbucket runs the script of the example as Bitbucket does, by bash.
func TestBitbucket(t *testing.T) {
	t.Parallel()
	pull, byHand := pipelines(t)
	if !slices.Equal(pull.Step.Script, byHand.Step.Script) || len(pull.Step.Script) != 1 || pull.Step.Clone.Enabled == nil || *pull.Step.Clone.Enabled {
		t.Fatalf("steps are %+v and %+v, want the same script in both, and no clone", pull, byHand)
	}
	finding := api.Finding{ID: "find_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f", Provider: api.ReviewProviderBitbucket, Fingerprint: "f", Status: api.FindingStatusOpen, Version: 1,
		Category: "bug", Severity: api.FindingSeverityHigh, Confidence: 0.9, Title: "Query is built\x1b[31m from input", Body: "b", Evidence: []string{}, Path: "a.go", Line: new(3),
		FirstReviewID: reviewID, LastReviewID: reviewID}
	failed := review(api.ReviewStatusCompleted, api.ReviewVerdictFailed)
	failed.Reasons = []api.ReviewReason{{Code: "findings", Detail: "1 finding blocks"}}
	const forPull = `{"provider":"bitbucket","repository":"acme/shop","pull_request":7,"head_sha":"` + headSHA + `"}`
	const findings = poll + "/findings"

	for name, test := range map[string]struct {
		env     map[string]string
		reviews []api.Review
		refusal *api.Problem
		code    int
		body    string
		seen    []string
		log     []string
	}{
		"passed":              {reviews: []api.Review{review(api.ReviewStatusRunning, ""), review(api.ReviewStatusCompleted, api.ReviewVerdictPassed)}, body: forPull, seen: []string{request, poll, poll, findings}, log: []string{"The review passed.\n", "/reviews/" + reviewID}},
		"waived":              {reviews: []api.Review{review(api.ReviewStatusCompleted, api.ReviewVerdictWaived)}, body: forPull, seen: []string{request, poll, findings}, log: []string{"The review waived.\n"}},
		"failed":              {reviews: []api.Review{failed}, code: 1, body: forPull, seen: []string{request, poll, findings}, log: []string{"1 finding blocks\n", "a.go:3 high: Query is built [31m from input\n", "The review failed: findings block the change.\n"}},
		"error":               {reviews: []api.Review{review(api.ReviewStatusCompleted, api.ReviewVerdictError)}, code: 1, body: forPull, seen: []string{request, poll, findings}, log: []string{"could not be judged (error)"}},
		"no verdict":          {reviews: []api.Review{review(api.ReviewStatusFailed, "")}, code: 1, body: forPull, seen: []string{request, poll}, log: []string{"could not be judged (no verdict)"}},
		"superseded":          {reviews: []api.Review{review(api.ReviewStatusSuperseded, "")}, code: 1, body: forPull, seen: []string{request, poll}, log: []string{"superseded by that of a newer head"}},
		"is not over in time": {env: map[string]string{"NOFX_POLLS": "2"}, reviews: []api.Review{review(api.ReviewStatusQueued, "")}, code: 1, body: forPull, seen: []string{request, poll, poll}, log: []string{"still queued"}},
		"refused":             {refusal: &api.Problem{Status: http.StatusForbidden, Code: api.ProblemCodeReviewsDisabled, Detail: "reviews are disabled"}, code: 1, body: forPull, seen: []string{request}, log: []string{"NOFX refused /api/reviews: reviews are disabled\n"}},
		"dry run": {env: map[string]string{"BITBUCKET_PR_ID": "", "PR": "9"}, reviews: []api.Review{review(api.ReviewStatusCompleted, api.ReviewVerdictPassed)}, seen: []string{request, poll, findings},
			body: `{"provider":"bitbucket","repository":"acme/shop","pull_request":9,"dry_run":true}`, log: []string{"The review passed.\n"}},
		"bad number": {env: map[string]string{"BITBUCKET_PR_ID": "", "PR": "$(touch x)"}, code: 1, log: []string{"is not a number\n"}},
		"no number":  {env: map[string]string{"BITBUCKET_PR_ID": ""}, code: 1, log: []string{"is not a number\n"}},
		"no key":     {env: map[string]string{"NOFX_API_KEY": ""}, code: 1, log: []string{"set the variables NOFX_URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.reviews, w.refusal, w.found = test.reviews, test.refusal, []api.Finding{finding}
			env := map[string]string{"NOFX_URL": w.server.URL, "NOFX_API_KEY": apiKey, "BITBUCKET_PR_ID": "7", "BITBUCKET_COMMIT": headSHA, "BITBUCKET_REPO_FULL_NAME": "acme/shop",
				"BITBUCKET_STEP_UUID": "{7b0c}", "NOFX_POLLS": "5", "NOFX_POLL_SECONDS": "0"}
			for name, value := range test.env {
				env[name] = value
			}
			code, log := w.bash(strings.Join(pull.Step.Script, "\n"), t.TempDir(), env)
			if code != test.code {
				t.Errorf("script = %d, want %d:\n%s", code, test.code, log)
			}
			has(t, "log", log, test.log)
			w.noSecret("script", log)
			if diff := cmp.Diff(test.seen, w.seen); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
			if test.body != "" && (len(w.bodies) != 1 || !sameJSON(t, w.bodies[0], test.body) || w.keys[0] != "{7b0c}-1") {
				t.Errorf("reviews requested by %q with keys %q, want %q", w.bodies, w.keys, test.body)
			}
		})
	}
}
