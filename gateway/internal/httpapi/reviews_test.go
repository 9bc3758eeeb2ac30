package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

const aDiff = "diff --git a/a.go b/a.go\n--- a/a.go\n+++ b/a.go\n@@ -1 +1 @@\n-x\n+y\n"

// posted returns the body of a request to review a diff.
func posted(diff, more string) string {
	raw, _ := json.Marshal(diff)
	return `{"provider":"diff","diff":` + string(raw) + more + `}`
}

const aPullRequest = `{"provider":"github","repository":"acme/shop","pull_request":7,"head_sha":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`

// startReview starts a review by the API.
func (g *gateway) startReview(body string) api.CreatedReview {
	g.Helper()
	r := g.do(http.MethodPost, "/api/reviews", body)
	g.want(r, http.StatusAccepted, "")
	out := decodeAs[api.CreatedReview](g, r)
	if got, want := r.header.Get("Location"), "/api/reviews/"+out.Review.ID; got != want {
		g.Errorf("Location = %s, want %s", got, want)
	}
	return out
}

// beginReview claims the step of a review and begins it, as a worker does.
func (g *gateway) beginReview(v api.Review) (*postgres.Claim, review.Review) {
	g.Helper()
	c := g.claim(api.Step{ID: v.StepID, Name: "review"})
	in, err := run.Inputs[run.ReviewInputs](c.Spec.Inputs)
	if err != nil {
		g.Fatal(err)
	}
	begun, err := g.db.BeginReview(g.Context(), c, in, in.HeadSHA)
	if err != nil {
		g.Fatal(err)
	}
	return c, begun
}

// endReview completes a review with a verdict and lets its step end by it.
func (g *gateway) endReview(c *postgres.Claim, v review.Review, end postgres.ReviewEnd) {
	g.Helper()
	if end.Result == nil {
		end.Result = json.RawMessage(`{"verdict":"failed","reasons":[{"code":"finding","detail":"a.go:1"}],"warnings":[],"coverage":{"reviewed":["a.go"],"skipped":[{"path":"b.png","reason":"binary"}]},"counts":{"open":1}}`)
	}
	if err := g.db.FinishReview(g.Context(), c, v.ID, end); err != nil {
		g.Fatal(err)
	}
	ck := g.checkpoint(c, run.PostCheckpoint, tree.Empty, []byte("x"))
	gate := &postgres.NewGate{ID: run.NewID(), Name: "llm_review", Kind: run.ReviewGate, Event: "pass", InputDigest: tree.Sum(nil).String(),
		ShownCheckpoint: ck.ID, ShownDigest: ck.Digest, Evidence: map[string]any{}}
	f := postgres.Finish{Claim: c, Outcome: "succeed", Gate: gate, Checkpoints: []*postgres.Checkpoint{ck}}
	if end.Verdict != review.Passed {
		ck.Kind = run.GateFailedCheckpoint
		gate.Event, gate.Reason, f.Outcome, f.FailureClass, f.Reason = "fail", "findings", "fail", run.ClassGateFailed, "findings"
	}
	g.finish(f)
}

// keep stores an artifact of a stage.
func (g *gateway) keep(c *postgres.Claim, v review.Review, stage string, ordinal int, content string) {
	g.Helper()
	a := postgres.ReviewArtifact{Stage: stage, Ordinal: ordinal, Input: "i", Artifact: g.artifact(c, stage, content)}
	if err := g.db.KeepReviewArtifact(g.Context(), c, v.ID, a); err != nil {
		g.Fatal(err)
	}
}

func occurrence(id uuid.UUID, fingerprint string, severity review.Severity) postgres.Occurrence {
	return postgres.Occurrence{ID: id, Disposition: review.Posted, Finding: review.Finding{
		Fingerprint: fingerprint, State: review.Open, Category: review.Security, Severity: severity, Confidence: 0.9, RuleID: "sql", Title: "concatenated SQL", Body: "b",
		Evidence: []string{"e"}, Anchor: review.Anchor{Path: "a.go", Side: review.Right, Line: 1, Text: "y"}}}
}

// A posted diff is an artifact of the run that reviews it; a pull request has one review of
// each head.
func TestStartReview(t *testing.T) {
	g := newGateway(t)
	made := g.startReview(posted(aDiff, `,"repository":"acme/shop"`))
	v := made.Review
	if v.Provider != api.ReviewProviderDiff || v.Status != api.ReviewStatusQueued || v.HeadSha == nil || len(*v.HeadSha) != 64 || v.TraceID != made.Run.TraceID || v.RunID != made.Run.ID || made.Run.Goal != "Review of a diff" {
		t.Errorf("created = %+v, want the review of a diff, by its digest", made)
	}
	list := decodeAs[api.ArtifactPage](t, g.get("/api/runs/"+v.RunID+"/artifacts")).Items
	if len(list) != 1 || list[0].Sha256 != *v.HeadSha || list[0].Name != "change.diff" {
		t.Fatalf("artifacts of the run = %+v, want the diff", list)
	}
	a := decodeAs[api.ArtifactAnswer](t, g.get("/api/artifacts/"+list[0].ID)).Artifact
	if content, _ := g.fetch(*a.URL); string(content) != aDiff {
		t.Errorf("stored diff = %q, want the posted one", content)
	}
	d := decodeAs[api.RunDetail](t, g.get("/api/runs/"+v.RunID))
	if len(d.Steps) != 1 || d.Steps[0].Name != "review" || d.Steps[0].Tool != run.ToolReview || d.Steps[0].ID != v.StepID {
		t.Errorf("steps of the run = %+v, want the review", d.Steps)
	}
	c := g.claim(d.Steps[0])
	if in, err := run.Inputs[run.ReviewInputs](c.Spec.Inputs); err != nil || in.ArtifactID != list[0].ID || in.Repository != "acme/shop" {
		t.Errorf("inputs of the step = %+v, %v, want the artifact", in, err)
	}

	// An uploaded diff.
	uploaded := g.startReview(fmt.Sprintf(`{"provider":"diff","artifact_id":%q,"dry_run":true}`, list[0].ID))
	if *uploaded.Review.HeadSha != *v.HeadSha || !uploaded.Review.DryRun {
		t.Errorf("review of an upload = %+v, want the same digest, as a dry run", uploaded.Review)
	}

	// A pull request.
	first := g.startReview(aPullRequest)
	if first.Run.Goal != "Review acme/shop#7" {
		t.Errorf("goal = %q, want the pull request named", first.Run.Goal)
	}
	r := g.do(http.MethodPost, "/api/reviews", aPullRequest)
	g.want(r, http.StatusOK, "")
	if same := decodeAs[api.CreatedReview](t, r); same.Review.ID != first.Review.ID || same.Run.ID != first.Run.ID || r.header.Get("ETag") != `"v1"` {
		t.Errorf("second request = %s, want the first review", r.body)
	}
	newer := g.startReview(strings.ReplaceAll(aPullRequest, "aaaa", "bbbb"))
	got := decodeAs[api.ReviewAnswer](t, g.get("/api/reviews/"+first.Review.ID+"?wait_s=25")).Review
	if got.Status != api.ReviewStatusSuperseded || got.SupersededBy == nil || *got.SupersededBy != newer.Review.ID || got.Reason == nil {
		t.Errorf("review of the older head = %+v, want it superseded by %s", got, newer.Review.ID)
	}

	for query, want := range map[string]int{"": 4, "?repository=acme/shop": 3, "?repository=acme/shop&pull_request=7": 2, "?status=superseded": 1, "?verdict=passed": 0, "?run=" + v.RunID: 1} {
		if list := decodeAs[api.ReviewPage](t, g.get("/api/reviews"+query)).Items; len(list) != want {
			t.Errorf("reviews%s = %d, want %d", query, len(list), want)
		}
	}
	page := decodeAs[api.ReviewPage](t, g.get("/api/reviews?limit=3"))
	if rest := decodeAs[api.ReviewPage](t, g.get("/api/reviews?limit=3&cursor="+*page.NextCursor)).Items; len(rest) != 1 || rest[0].ID != v.ID {
		t.Errorf("second page = %+v, want the first review", rest)
	}

	if _, err := g.pg.Admin.Exec(t.Context(), `UPDATE nofx.tenant SET settings = '{"reviews_enabled": false}' WHERE tenant_id = $1`, g.tenant); err != nil {
		t.Fatal(err)
	}
	g.want(g.do(http.MethodPost, "/api/reviews", aPullRequest), http.StatusForbidden, "reviews-disabled")
	g.want(g.do(http.MethodPost, "/api/reviews/"+first.Review.ID+"/rerun", ""), http.StatusForbidden, "reviews-disabled")
}

func TestReviewRequests(t *testing.T) {
	g := newGateway(t)
	pull := func(more string) string {
		return `{"provider":"github","repository":"a/b","pull_request":7` + more + `}`
	}
	upload := decodeAs[api.CreatedArtifact](t, g.do(http.MethodPost, "/api/artifacts", `{"name":"x","size_bytes":1,"sha256":"`+strings.Repeat("0", 64)+`"}`)).Artifact.ID
	for _, tt := range []struct {
		body   string
		status int
		code   string
		at     string
	}{
		{`{}`, 422, "invalid-field", "/provider"},
		{`{"provider":"svn"}`, 422, "invalid-field", "/provider"},
		{`{"provider":"workspace"}`, 422, "invalid-field", "/provider"},
		{`{"provider":7}`, 400, "malformed-json", "/provider"},
		{`{"provider":"diff","patch":""}`, 400, "unknown-field", "/patch"},
		{`{"provider":"diff"}`, 422, "invalid-field", "/diff"},
		{posted("", ""), 422, "invalid-field", "/diff"},
		{posted("hello\nworld\n", ""), 422, "invalid-field", "/diff"},
		{posted("--- a/x\n", ""), 422, "invalid-field", "/diff"},
		{posted(aDiff, `,"artifact_id":"`+upload+`"`), 422, "invalid-field", "/diff"},
		{posted(aDiff, `,"pull_request":7`), 422, "invalid-field", "/repository"},
		{posted(aDiff, `,"repository":"shop"`), 422, "invalid-field", "/repository"},
		{posted(aDiff, `,"head_sha":"`+strings.Repeat("a", 40)+`"`), 422, "invalid-field", "/head_sha"},
		{`{"provider":"diff","artifact_id":"` + upload + `"}`, 422, "invalid-field", "/artifact_id"},
		{`{"provider":"diff","artifact_id":"art_` + strings.Repeat("0", 32) + `"}`, 422, "invalid-field", "/artifact_id"},
		{`{"provider":"diff","artifact_id":"x"}`, 422, "invalid-field", "/artifact_id"},
		{`{"provider":"github","pull_request":7}`, 422, "invalid-field", "/repository"},
		{`{"provider":"github","repository":"a/b"}`, 422, "invalid-field", "/pull_request"},
		{`{"provider":"github","repository":"../..","pull_request":7}`, 422, "invalid-field", "/repository"},
		{`{"provider":"github","repository":"acme/.","pull_request":7}`, 422, "invalid-field", "/repository"},
		{`{"provider":"bitbucket","repository":"a/b","pull_request":0}`, 422, "invalid-field", "/pull_request"},
		{`{"provider":"bitbucket","repository":"a/b","pull_request":7,"head_sha":"abcdef01234"}`, 422, "invalid-field", "/head_sha"},
		{`{"provider":"github","repository":"a/b","pull_request":7,"head_sha":"abcdef012345"}`, 422, "invalid-field", "/head_sha"},
		{`{"provider":"github","repository":"a/b","pull_request":2147483648}`, 422, "invalid-field", "/pull_request"},
		{pull(`,"head_sha":"abc"`), 422, "invalid-field", "/head_sha"},
		{pull(`,"diff":"x"`), 422, "invalid-field", "/diff"},
		{pull(`,"artifact_id":"` + upload + `"`), 422, "invalid-field", "/artifact_id"},
		{posted(strings.Repeat("x", 1<<20), ""), 413, "too-large", ""},
	} {
		r := g.do(http.MethodPost, "/api/reviews", tt.body)
		g.want(r, tt.status, tt.code)
		if p := decodeAs[api.Problem](t, r); tt.at != "" && (len(p.Errors) != 1 || p.Errors[0].Pointer != tt.at) {
			t.Errorf("%.80s: errors = %+v, want %s", tt.body, p.Errors, tt.at)
		}
	}
	g.want(g.do(http.MethodPost, "/api/reviews", aPullRequest, header{"X-Project-Id": "none"}), http.StatusNotFound, "not-found")
	for _, query := range []string{"repository=x", "pull_request=0", "status=open", "verdict=expired", "run=x", "cursor=x", "limit=0", "x=1"} {
		code := "bad-parameter"
		if query == "cursor=x" {
			code = "bad-cursor"
		}
		g.want(g.get("/api/reviews?"+query), http.StatusBadRequest, code)
	}
	if list := decodeAs[api.ReviewPage](t, g.get("/api/reviews")).Items; len(list) != 0 || g.runs() != 0 {
		t.Errorf("%d reviews and %d runs after refusals, want none", len(list), g.runs())
	}
	for _, query := range []string{"since=x", "since=2026-01-01T00:00:00Z&until=2025-01-01T00:00:00Z", "since=2020-01-01T00:00:00Z", "repository=x"} {
		g.want(g.get("/api/review-metrics?"+query), http.StatusBadRequest, "bad-parameter")
	}
}

// What a review came to: verdict, findings, artifacts, decisions, a rerun, a waiver.
func TestReviewResult(t *testing.T) {
	g := newGateway(t)
	made := g.startReview(posted(aDiff, `,"repository":"acme/shop","pull_request":7`)).Review
	path := "/api/reviews/" + made.ID
	g.want(g.get(path+"/artifact?format=sarif"), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPost, path+"/rerun", ""), http.StatusConflict, "illegal-transition")
	c, v := g.beginReview(made)
	g.keep(c, v, "review.sarif", 0, `{"version":"2.1.0"}`)
	for i := range 3 {
		g.keep(c, v, "answer", i, fmt.Sprint(i))
	}
	ids := []uuid.UUID{run.NewID(), run.NewID(), run.NewID()}
	waited := make(chan reply, 1)
	go func() { waited <- g.get(path + "?wait_s=25") }()
	g.endReview(c, v, postgres.ReviewEnd{Verdict: review.Failed, Model: "m", Tokens: 1200, CostUSD: 0.25, PolicyHash: "sha256:1", Occurrences: []postgres.Occurrence{
		occurrence(ids[0], "fp1.a", review.Low), occurrence(ids[1], "fp1.b", review.Critical), occurrence(ids[2], "fp1.c", review.Medium)}})
	if got := decodeAs[api.ReviewAnswer](t, <-waited).Review; got.Status != api.ReviewStatusCompleted {
		t.Errorf("review after a wait = %s, want it completed", got.Status)
	}
	r := g.get(path)
	got := decodeAs[api.ReviewAnswer](t, r).Review
	if got.Verdict == nil || *got.Verdict != api.ReviewVerdictFailed || got.Counts["open"] != 1 || got.Coverage == nil || len(got.Coverage.Skipped) != 1 || len(got.Reasons) != 1 ||
		got.Tokens != 1200 || got.CostUsd != 0.25 || got.GateID == nil || r.header.Get("ETag") != fmt.Sprintf(`"v%d"`, got.Version) {
		t.Errorf("review = %s, want its result", r.body)
	}
	if list := decodeAs[api.ReviewPage](t, g.get("/api/reviews?verdict=failed")).Items; len(list) != 1 || list[0].Coverage != nil {
		t.Errorf("failed reviews = %+v, want one, without coverage", list)
	}

	// Artifacts.
	sarif := decodeAs[api.ArtifactAnswer](t, g.get(path+"/artifact?format=sarif")).Artifact
	if content, _ := g.fetch(*sarif.URL); string(content) != `{"version":"2.1.0"}` {
		t.Errorf("SARIF = %s, want the stored one", content)
	}
	g.want(g.get(path+"/artifact?format=sarif&redirect=1"), http.StatusSeeOther, "")
	g.want(g.get(path+"/artifact"), http.StatusNotFound, "not-found")
	g.want(g.get(path+"/artifact?format=pdf"), http.StatusBadRequest, "bad-parameter")
	page := decodeAs[api.ReviewArtifactPage](t, g.get(path+"/artifacts?limit=3"))
	rest := decodeAs[api.ReviewArtifactPage](t, g.get(path+"/artifacts?limit=3&cursor="+*page.NextCursor))
	if len(page.Items) != 3 || len(rest.Items) != 1 || rest.NextCursor != nil || page.Items[2].Stage != "answer" || page.Items[2].Ordinal != 2 || rest.Items[0].Stage != "review.sarif" {
		t.Errorf("artifacts = %+v and %+v, want the answers and the SARIF", page, rest)
	}
	if content, _ := g.fetch(*page.Items[1].Artifact.URL); string(content) != "1" {
		t.Errorf("second answer = %s, want 1", content)
	}

	// Findings.
	first := decodeAs[api.FindingPage](t, g.get(path+"/findings?limit=2"))
	last := decodeAs[api.FindingPage](t, g.get(path+"/findings?limit=2&cursor="+*first.NextCursor))
	if len(first.Items) != 2 || len(last.Items) != 1 || first.Items[0].Severity != api.FindingSeverityCritical || last.Items[0].Severity != api.FindingSeverityLow || *first.Items[0].Disposition != api.FindingDispositionPosted {
		t.Errorf("findings = %+v and %+v, want the worst first", first.Items, last.Items)
	}
	at := func(i int) string { return "/api/findings/" + run.FindingID.Format(ids[i]) }
	for _, tt := range []struct {
		path, body, match string
		status            int
		code              string
		want              api.FindingStatus
	}{
		{at(0) + "/dismiss", ``, "", 422, "reason-required", ""},
		{at(0) + "/dismiss", `{"reason":" "}`, "", 422, "reason-required", ""},
		{at(0) + "/dismiss", `{"reason":"x","scope":"all"}`, "", 422, "invalid-field", ""},
		{at(0) + "/dismiss", `{"reason":"x","expires_at":"2020-01-01T00:00:00Z"}`, "", 422, "invalid-field", ""},
		{at(0) + "/dismiss", `{"reason":"x","expires_at":"soon"}`, "", 400, "malformed-json", ""},
		{at(0) + "/dismiss", `{"reason":"x"}`, `"v9"`, 412, "stale-version", ""},
		{at(0) + "/reopen", `{"reason":"x"}`, "", 409, "illegal-transition", ""},
		{at(0) + "/dismiss", `{"reason":"by design","scope":"rule","expires_at":"2199-01-01T00:00:00Z"}`, `"v1"`, 200, "", api.FindingStatusDismissed},
		{at(0) + "/resolve", ``, "", 409, "illegal-transition", ""},
		{at(0) + "/reopen", ``, "", 422, "reason-required", ""},
		{at(0) + "/reopen", `{"reason":"it is one"}`, "", 200, "", api.FindingStatusOpen},
		{at(0) + "/resolve", ``, "", 200, "", api.FindingStatusResolved},
		{at(1) + "/dismiss", `{"reason":"false"}`, "", 200, "", api.FindingStatusDismissed},
		{"/api/findings/" + made.ID + "/resolve", ``, "", 404, "not-found", ""},
	} {
		r := g.do(http.MethodPost, tt.path, tt.body, header{"If-Match": tt.match})
		g.want(r, tt.status, tt.code)
		if tt.status != http.StatusOK {
			continue
		}
		if f := decodeAs[api.FindingAnswer](t, r).Finding; f.Status != tt.want || f.DecidedBy == nil || f.DecidedAt == nil || (f.Scope != nil) != (tt.want == api.FindingStatusDismissed) {
			t.Errorf("%s %s = %s, want %s by the caller", tt.path, tt.body, r.body, tt.want)
		}
	}
	if p := decodeAs[api.Problem](t, g.do(http.MethodPost, at(1)+"/resolve", "")); len(p.Allowed) != 1 || p.Allowed[0] != "reopen" {
		t.Errorf("allowed for a dismissed finding = %v, want reopen", p.Allowed)
	}
	events := decodeAs[api.EventPage](t, g.get("/api/runs/"+made.RunID+"/events?types=finding.*")).Items
	if len(events) != 7 {
		t.Errorf("%d events of findings, want three that opened and four decisions", len(events))
	}

	m := decodeAs[api.ReviewMetrics](t, g.get("/api/review-metrics?repository=acme/shop"))
	if len(m.Rules) != 1 || m.Rules[0].Found != 3 || m.Rules[0].Acceptance == nil || *m.Rules[0].Acceptance != 0.5 || len(m.Reviews) != 1 || len(m.Spending) != 1 || m.Spending[0].Tokens != 1200 ||
		m.Spending[0].Day.Format(time.DateOnly) != time.Now().UTC().Format(time.DateOnly) {
		t.Errorf("metrics = %+v, want three findings of one rule", m)
	}

	// A rerun, and a waiver of the gate.
	for range 2 {
		g.want(g.do(http.MethodPost, path+"/rerun", `{"reuse":"none"}`, header{"Idempotency-Key": "k"}), http.StatusAccepted, "")
	}
	again := g.do(http.MethodPost, path+"/rerun", "")
	g.want(again, http.StatusOK, "")
	rerun := decodeAs[api.CreatedReview](t, again).Review
	if rerun.RerunOf == nil || *rerun.RerunOf != made.ID || *rerun.HeadSha != *made.HeadSha || rerun.RunID == made.RunID {
		t.Errorf("rerun = %s, want one of the same head", again.body)
	}
	g.want(g.do(http.MethodPost, path+"/rerun", `{"reuse":"all"}`), http.StatusUnprocessableEntity, "invalid-field")
	rc := g.claim(api.Step{ID: rerun.StepID, Name: "review"})
	if in, err := run.Inputs[run.ReviewInputs](rc.Spec.Inputs); err != nil || in.Reuse != run.ReuseNone || in.PullRequest != 7 {
		t.Errorf("inputs of the rerun = %+v, %v, want those of the first, with nothing reused", in, err)
	}

	gate := "/api/gates/" + *got.GateID
	if list := decodeAs[api.GatePage](t, g.get("/api/gates?kind=review")).Items; len(list) != 1 || list[0].ID != *got.GateID || list[0].Kind != api.GateKindReview {
		t.Errorf("gates of kind review = %+v, want that of the review", list)
	}
	g.want(g.do(http.MethodPost, gate+"/approve", ""), http.StatusConflict, "illegal-transition")
	g.want(g.do(http.MethodPost, gate+"/reject", `{"reason":"x"}`), http.StatusConflict, "illegal-transition")
	g.want(g.do(http.MethodPost, gate+"/waive", `{"reason":"known"}`), http.StatusOK, "")
	if v := decodeAs[api.ReviewAnswer](t, g.get(path)).Review.Verdict; v == nil || *v != api.ReviewVerdictWaived {
		t.Errorf("verdict after the waiver = %v, want waived", v)
	}
	g.sound()
}

// The review of a workspace belongs to its run: no other run could repeat it.
func TestRerunOfAWorkspaceReview(t *testing.T) {
	g := newGateway(t)
	created := g.create(plan(`{"name":"review","tool":"gate:llm_review","inputs":{"diff":"workspace"}}`))
	c, v := g.beginReview(api.Review{StepID: created.Steps[0].ID})
	g.endReview(c, v, postgres.ReviewEnd{Verdict: review.Passed})
	path := "/api/reviews/" + run.ReviewID.Format(v.ID)
	if got := decodeAs[api.ReviewAnswer](t, g.get(path)).Review; got.Provider != api.ReviewProviderWorkspace || got.RunID != created.Run.ID {
		t.Errorf("review = %+v, want that of the run's workspace", got)
	}
	g.want(g.do(http.MethodPost, path+"/rerun", ""), http.StatusConflict, "workspace-review")
}
