package postgres_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// postedDiff returns a review of a diff that was posted.
func (s *store) postedDiff(t testing.TB, content string) postgres.NewReview {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	a := run.Artifact{ID: run.NewID(), Name: "change.diff", Key: blob.CopyKey(s.tenant, sum, blob.NewCopy()), MediaType: "text/x-diff", Size: int64(len(content)), SHA256: sum[:]}
	in := run.ReviewInputs{ArtifactID: run.ArtifactID.Format(a.ID)}
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	p, err := run.Plan{Goal: "review of a diff", Steps: []run.PlanStep{{Name: "review", Tool: run.ToolReview, Inputs: raw}}}.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v", err)
	}
	return postgres.NewReview{Project: "default", Plan: p, Inputs: in, Diff: &a, HeadSHA: hex.EncodeToString(sum[:]), CreatedBy: "author"}
}

// A posted diff is an artifact of its run, and a rerun of it shares its findings.
func TestReviewOfAPostedDiff(t *testing.T) {
	t.Parallel()
	s := setup(t)
	n := s.postedDiff(t, "diff")
	v, created := s.startReview(t, n)
	if !created || v.Provider != review.Diff || v.HeadSHA != n.HeadSHA || v.Change != run.ReviewID.Format(v.ID) {
		t.Errorf("review = %+v, created %v, want one of a diff", v, created)
	}
	a, err := s.Artifact(s.ctx, s.tenant, n.Diff.ID)
	if err != nil || a.RunID == nil || *a.RunID != v.RunID || a.Key != n.Diff.Key || a.Size != 4 {
		t.Errorf("Artifact() = %+v, %v, want that of the run %s", a, err, v.RunID)
	}
	if got := one[int](t, s, "SELECT count(*) FROM nofx.object WHERE state = 'live'"); got != 1 {
		t.Errorf("%d objects, want that of the diff, so that no collection takes it for a stray", got)
	}
	if other, created := s.startReview(t, s.postedDiff(t, "diff")); !created || other.ID == v.ID {
		t.Errorf("the same diff again = %s, created %v, want a review of its own", other.ID, created)
	}
	again := n
	again.Diff, again.RerunOf = nil, &v.ID
	if same, created := s.startReview(t, again); created || same.ID != v.ID {
		t.Errorf("rerun of a review under way = %s, created %v, want that review", same.ID, created)
	}
	c, v := s.beginReview(t, v)
	s.endReview(t, c, v, postgres.ReviewEnd{Verdict: review.Failed, Occurrences: []postgres.Occurrence{found(run.NewID(), "fp1.a")}})
	rerun, created := s.startReview(t, again)
	if !created || rerun.Change != v.Change || *rerun.RerunOf != v.ID {
		t.Errorf("rerun = %+v, created %v, want another review of the change %s", rerun, created, v.Change)
	}
	s.wantSound(t)
}

// A rerun of an older head does not supersede the review of the newer one.
func TestRerunOfAnOlderHead(t *testing.T) {
	t.Parallel()
	s := setup(t)
	first, _ := s.startReview(t, pullRequest(t, "a"))
	c, first := s.beginReview(t, first)
	s.endReview(t, c, first, postgres.ReviewEnd{})
	newer, _ := s.startReview(t, pullRequest(t, "b"))
	again := pullRequest(t, "a")
	again.RerunOf = &first.ID
	if rerun, created := s.startReview(t, again); !created || rerun.HeadSHA != first.HeadSHA {
		t.Errorf("rerun = %+v, created %v, want one of the older head", rerun, created)
	}
	s.wantReview(t, newer.ID, review.Queued, "")
	s.wantSound(t)
}

// A commit has one review under its full name and under the beginning of it, as Bitbucket
// names it, and however the letters of the repository's name are written.
func TestShortHeads(t *testing.T) {
	t.Parallel()
	long, other := strings.Repeat("ab", 20), strings.Repeat("ab", 5)+strings.Repeat("c", 30)
	short := long[:12]
	head := func(repository, sha string) postgres.NewReview {
		n := pullRequest(t, "")
		n.Inputs.Provider, n.Inputs.Repository, n.Inputs.HeadSHA, n.HeadSHA = review.Bitbucket, repository, sha, sha
		raw, err := json.Marshal(n.Inputs)
		if err != nil {
			t.Fatal(err)
		}
		if n.Plan, err = (run.Plan{Goal: "review", Steps: []run.PlanStep{{Name: "review", Tool: run.ToolReview, Inputs: raw}}}).Normalise(); err != nil {
			t.Fatalf("Normalise(%s) = %v", sha, err)
		}
		return n
	}
	for name, tt := range map[string]struct{ first, noted, second, want string }{
		"short, then long":             {short, short, long, short},
		"long, then short":             {long, short, short, long},
		"unknown, noted short, long":   {"", short, long, short},
		"long, noted short, long":      {long, short, long, long},
		"short, noted long, then long": {short, long, long, long},
	} {
		s := setup(t)
		v, _ := s.startReview(t, head("acme/shop", tt.first))
		if again, created := s.startReview(t, head("Acme/Shop", tt.first)); created || again.ID != v.ID {
			t.Errorf("%s: the same again = %s, created %v, want the review of that head", name, again.ID, created)
		}
		c, v := s.beginReview(t, v)
		if over, err := s.NoteReviewHead(s.ctx, c, v.ID, tt.noted, "base", ""); err != nil || over != nil {
			t.Fatalf("%s: NoteReviewHead(%s) = %v, %v", name, tt.noted, over, err)
		}
		if again, created := s.startReview(t, head("acme/shop", tt.second)); created || again.ID != v.ID || again.HeadSHA != tt.want || again.State != review.Running {
			t.Errorf("%s: second = %s of %s, %s, created %v, want the first one of %s, running", name, again.ID, again.HeadSHA, again.State, created, tt.want)
		}
		s.endReview(t, c, v, postgres.ReviewEnd{})
		if again, created := s.startReview(t, head("acme/shop", tt.second)); created || again.ID != v.ID {
			t.Errorf("%s: after its end = %s, created %v, want the first one", name, again.ID, created)
		}
		if next, created := s.startReview(t, head("acme/shop", other)); !created || next.ID == v.ID {
			t.Errorf("%s: another head = %s, created %v, want another review", name, next.ID, created)
		}
		s.wantSound(t)
	}
}

// The setting reviews_enabled switches reviews off, those that there are included.
func TestReviewsDisabled(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.startReview(t, pullRequest(t, "a"))
	s.exec(t, `UPDATE nofx.tenant SET settings = '{"reviews_enabled": false}' WHERE tenant_id = $1`, s.tenant)
	_, _, err := s.StartReview(traced(s.ctx), s.tenant, pullRequest(t, "a"))
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Forbidden || e.Code != "reviews-disabled" {
		t.Errorf("StartReview() = %v, want reviews-disabled", err)
	}
	s.exec(t, `UPDATE nofx.tenant SET settings = '{"reviews_enabled": true}' WHERE tenant_id = $1`, s.tenant)
	s.startReview(t, pullRequest(t, "b"))
}

// A limit of 0 leaves models nothing.
func TestReviewSettings(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for settings, want := range map[string]bool{
		`{"model_tokens_per_day": 1e12, "model_cost_usd_per_day": 1e9}`: true, `{"model_tokens_per_day": 1}`: true, `{"model_cost_usd_per_day": 0.02}`: true,
		`{"model_tokens_per_day": 0}`: false, `{"model_cost_usd_per_day": 0}`: false,
	} {
		s.exec(t, `DELETE FROM nofx.model_spend`)
		s.exec(t, `UPDATE nofx.tenant SET settings = $2 WHERE tenant_id = $1`, s.tenant, settings)
		got, err := s.ReviewSettings(s.ctx, s.tenant)
		if err != nil || got.Disabled {
			t.Errorf("ReviewSettings(%s) = %+v, %v, want reviews on", settings, got, err)
		}
		if added, err := s.SpendModel(s.ctx, s.tenant, time.Now(), 1, 0.01, got); err != nil || added != want {
			t.Errorf("SpendModel(%s) = %v, %v, want %v", settings, added, err, want)
		}
	}
}

// The verdict of a review whose gate was waived is waived, and only of that review.
func TestWaivedReview(t *testing.T) {
	t.Parallel()
	s := setup(t)
	v, _ := s.startReview(t, pullRequest(t, "a"))
	c, v := s.beginReview(t, v)
	s.endReview(t, c, v, postgres.ReviewEnd{Verdict: review.Failed})
	if _, _, err := s.RetryStep(s.ctx, s.tenant, v.StepID, true, "again"); err != nil {
		t.Fatalf("RetryStep() = %v", err)
	}
	c, second := s.beginReview(t, v)
	s.endReview(t, c, second, postgres.ReviewEnd{Verdict: review.Error})
	gate := one[[16]byte](t, s, "SELECT id FROM nofx.gate ORDER BY round DESC LIMIT 1")
	if _, err := s.DecideGate(postgres.WithActor(s.ctx, "sup"), s.tenant, gate, postgres.Decision{Event: "waive", Reason: "known"}); err != nil {
		t.Fatalf("DecideGate(waive) = %v", err)
	}
	for verdict, want := range map[string]int{"": 2, "waived": 1, "failed": 1, "error": 0} {
		list, err := s.Reviews(s.ctx, s.tenant, postgres.ReviewFilter{Verdict: verdict}, 10)
		if err != nil || len(list) != want || verdict != "" && want == 1 && string(list[0].Verdict) != verdict {
			t.Errorf("Reviews(%q) = %+v, %v, want %d", verdict, list, err, want)
		}
	}
	s.wantSound(t)
}

// Metrics count findings by what became of them, and reviews, tokens and cost.
func TestReviewMetrics(t *testing.T) {
	t.Parallel()
	s := setup(t)
	v, _ := s.startReview(t, pullRequest(t, "a"))
	c, v := s.beginReview(t, v)
	list := []postgres.Occurrence{found(run.NewID(), "fp1.a"), found(run.NewID(), "fp1.b"), found(run.NewID(), "fp1.c"), found(run.NewID(), "fp1.d"), found(run.NewID(), "fp1.e")}
	list[3].Finding.RuleID, list[3].Finding.Category = "", review.Tests
	list[4].Disposition = review.Rejected
	s.endReview(t, c, v, postgres.ReviewEnd{Verdict: review.Failed, Model: "m1", Tokens: 1200, CostUSD: 0.5, Occurrences: list})
	for i, event := range []string{"resolve", "dismiss"} {
		if _, err := s.SettleFinding(s.ctx, s.tenant, list[i].ID, postgres.FindingDecision{Event: event, Reason: "r", Scope: review.ScopeThis}); err != nil {
			t.Fatalf("SettleFinding(%s) = %v", event, err)
		}
	}
	s.startReview(t, pullRequest(t, "b"))
	p := postgres.ReviewPeriod{Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Repository: "acme/shop"}
	got, err := s.ReviewMetrics(s.ctx, s.tenant, p)
	if err != nil || len(got.Spending) != 1 {
		t.Fatalf("ReviewMetrics() = %+v, %v, want one day", got, err)
	}
	want := postgres.ReviewMetrics{
		Rules:    []postgres.RuleMetrics{{RuleID: "sql", Category: review.Security, Found: 3, Open: 1, Resolved: 1, Dismissed: 1}, {Category: review.Tests, Found: 1, Open: 1}},
		Verdicts: []postgres.VerdictMetrics{{State: review.Queued, Reviews: 1}, {Verdict: review.Failed, State: review.Completed, Reviews: 1}},
		Spending: []postgres.SpendingMetrics{{Day: got.Spending[0].Day, Model: "m1", Reviews: 1, Tokens: 1200, CostUSD: 0.5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ReviewMetrics() (-want +got):\n%s", diff)
	}
	if a := want.Rules[0].Acceptance(); a == nil || *a != 0.5 || want.Rules[1].Acceptance() != nil {
		t.Errorf("Acceptance() = %v, %v, want a half and none", a, want.Rules[1].Acceptance())
	}
	p.Repository = "acme/other"
	if got, err := s.ReviewMetrics(s.ctx, s.tenant, p); err != nil || len(got.Rules)+len(got.Verdicts)+len(got.Spending) != 0 {
		t.Errorf("ReviewMetrics(another repository) = %+v, %v, want none", got, err)
	}
}
