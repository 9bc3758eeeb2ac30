package postgres_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// pullRequest returns a review of a head of pull request 7.
func pullRequest(t testing.TB, head string) postgres.NewReview {
	t.Helper()
	in := run.ReviewInputs{Provider: review.GitHub, Repository: "acme/shop", PullRequest: 7}
	if head != "" {
		in.HeadSHA = strings.Repeat(head, 40)
	}
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	p, err := run.Plan{Goal: "review acme/shop#7", Steps: []run.PlanStep{{Name: "review", Tool: run.ToolReview, Inputs: raw}}}.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v", err)
	}
	return postgres.NewReview{Project: "default", Plan: p, Inputs: in, HeadSHA: in.HeadSHA, CreatedBy: "author"}
}

func (s *store) startReview(t testing.TB, n postgres.NewReview) (review.Review, bool) {
	t.Helper()
	v, created, err := s.StartReview(s.ctx, s.tenant, n)
	if err != nil {
		t.Fatalf("StartReview(%s) = %v", n.HeadSHA, err)
	}
	return v, created
}

// beginReview claims a review's step and begins it.
func (s *store) beginReview(t testing.TB, v review.Review) (*postgres.Claim, review.Review) {
	t.Helper()
	c := s.claim(t, v.StepID)
	begun, err := s.BeginReview(s.ctx, c, run.ReviewInputs{}, "")
	if err != nil {
		t.Fatalf("BeginReview() = %v", err)
	}
	return c, begun
}

func found(id uuid.UUID, fingerprint string) postgres.Occurrence {
	return postgres.Occurrence{ID: id, Disposition: review.Posted, Finding: review.Finding{
		Fingerprint: fingerprint, State: review.Open, Category: review.Security, Severity: review.High, Confidence: 0.9, RuleID: "sql", Title: "concatenated SQL", Body: "b",
		Evidence: []string{"e"}, Anchor: review.Anchor{Path: "a.go", Side: review.Right, Line: 3, Text: "x"}, ThreadID: "T1"}}
}

// endReview completes a review with a verdict and finishes its step.
func (s *store) endReview(t testing.TB, c *postgres.Claim, v review.Review, end postgres.ReviewEnd) {
	t.Helper()
	if end.Verdict == "" {
		end.Verdict = review.Passed
	}
	end.Result = json.RawMessage(`{"counts":{"open":1}}`)
	if err := s.FinishReview(s.ctx, c, v.ID, end); err != nil {
		t.Fatalf("FinishReview() = %v", err)
	}
	event := "gate failed"
	if end.Verdict == review.Passed {
		event = "succeed"
	}
	s.finish(t, c, event)
}

func (s *store) wantReview(t testing.TB, id uuid.UUID, state review.State, reason string) review.Review {
	t.Helper()
	v, err := s.Review(s.ctx, s.tenant, id)
	if err != nil || v.State != state || !strings.HasPrefix(v.Reason, reason) {
		t.Errorf("review = %s %q, %v, want %s %q", v.State, v.Reason, err, state, reason)
	}
	return v
}

// One review of each head: a newer head supersedes what is under way and cancels its run.
func TestReviewsOfAPullRequest(t *testing.T) {
	t.Parallel()
	s := setup(t)
	first, created := s.startReview(t, pullRequest(t, "a"))
	if same, again := s.startReview(t, pullRequest(t, "a")); !created || again || same.ID != first.ID {
		t.Errorf("second review of one head = %s, created %v, want %s", same.ID, again, first.ID)
	}
	dry := pullRequest(t, "a")
	dry.Inputs.DryRun = true
	if other, created := s.startReview(t, dry); !created || other.ID == first.ID || !other.DryRun {
		t.Errorf("a dry run = %+v, created %v, want another review", other, created)
	}
	running, _ := s.startReview(t, pullRequest(t, "b"))
	s.wantReview(t, first.ID, review.Superseded, "superseded by "+run.ReviewID.Format(running.ID))
	if r, err := s.Run(s.ctx, s.tenant, first.RunID); err != nil || r.State != run.Cancelled {
		t.Errorf("run of the superseded review = %s, %v, want cancelled", r.State, err)
	}
	c, begun := s.beginReview(t, running)
	newest, _ := s.startReview(t, pullRequest(t, "c"))
	s.wantReview(t, running.ID, review.Superseded, "superseded by")
	if err := s.FinishReview(s.ctx, c, begun.ID, postgres.ReviewEnd{Verdict: review.Passed, Result: json.RawMessage(`{}`)}); !errors.Is(err, fault.Fenced) {
		t.Errorf("FinishReview(superseded) = %v, want fenced", err)
	}

	// The worker finds out the head: it is one that has a review.
	open, _ := s.startReview(t, pullRequest(t, ""))
	c, begun = s.beginReview(t, open)
	other, err := s.NoteReviewHead(s.ctx, c, begun.ID, newest.HeadSHA, "base", "nofx-bot")
	if err != nil || other == nil || *other != newest.ID {
		t.Errorf("NoteReviewHead(head of another) = %v, %v, want %s", other, err, newest.ID)
	}
	s.wantReview(t, open.ID, review.Superseded, "head "+newest.HeadSHA)

	again := pullRequest(t, "c")
	again.RerunOf = &newest.ID
	if same, created := s.startReview(t, again); created || same.ID != newest.ID {
		t.Errorf("rerun of a review under way = %s, created %v, want that review", same.ID, created)
	}
	s.wantReview(t, newest.ID, review.Queued, "")
	c, begun = s.beginReview(t, newest)
	s.endReview(t, c, begun, postgres.ReviewEnd{})
	rerun, created := s.startReview(t, again)
	if !created || rerun.RerunOf == nil || *rerun.RerunOf != newest.ID {
		t.Errorf("rerun = %+v, created %v, want a review of its own", rerun, created)
	}
	list, err := s.Reviews(s.ctx, s.tenant, postgres.ReviewFilter{Repository: "acme/shop", PullRequest: 7, State: "superseded"}, 10)
	if err != nil || len(list) != 3 || list[0].ID != open.ID {
		t.Errorf("Reviews(superseded) = %d, %v, want three, the newest first", len(list), err)
	}
	s.wantSound(t)
}

// Of a hundred requests for one head, one makes a review.
func TestReviewsMadeSideBySide(t *testing.T) {
	t.Parallel()
	s := setup(t)
	n := pullRequest(t, "a")
	ids := make([]uuid.UUID, 30)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			v, _, err := s.StartReview(traced(s.ctx), s.tenant, n)
			if err != nil {
				t.Errorf("StartReview() = %v", err)
			}
			ids[i] = v.ID
		})
	}
	wg.Wait()
	if slices.ContainsFunc(ids, func(id uuid.UUID) bool { return id != ids[0] }) || one[int](t, s, "SELECT count(*) FROM nofx.run") != 1 {
		t.Errorf("reviews = %v, runs = %d, want one", ids, one[int](t, s, "SELECT count(*) FROM nofx.run"))
	}
	s.wantSound(t)
}

// A review goes on with the attempt that follows, its verdict is taken once, and a retry
// after it begins anew.
func TestReviewAttempts(t *testing.T) {
	t.Parallel()
	s := setup(t)
	v, _ := s.startReview(t, pullRequest(t, "a"))
	lost, first := s.beginReview(t, v)
	s.expire(t, v.StepID)
	s.sweep(t, postgres.SweepRules{})
	c, second := s.beginReview(t, v)
	if first.ID != v.ID || second.ID != v.ID || second.State != review.Running {
		t.Errorf("reviews = %s %s %s, want that of the step, running", first.ID, second.ID, second.State)
	}
	a := postgres.ReviewArtifact{Stage: "answer", Ordinal: 1, Input: "i", Artifact: run.Artifact{ID: run.NewID(), Name: "answer.1", Key: "k1", MediaType: "application/json", Size: 2, SHA256: make([]byte, 32)}}
	if err := s.KeepReviewArtifact(s.ctx, lost, v.ID, a); !errors.Is(err, fault.Fenced) {
		t.Errorf("KeepReviewArtifact(lost lease) = %v, want fenced", err)
	}
	for _, input := range []string{"i", "j"} { // another input replaces it
		a.Input, a.Artifact.ID = input, run.NewID()
		for range 2 { // the transaction may be repeated
			if err := s.KeepReviewArtifact(s.ctx, c, v.ID, a); err != nil {
				t.Errorf("KeepReviewArtifact(%s) = %v", input, err)
			}
		}
	}
	list, err := s.ReviewArtifacts(s.ctx, s.tenant, v.ID)
	if err != nil || len(list) != 1 || list[0].Input != "j" || list[0].Artifact.ID != a.Artifact.ID || one[int](t, s, "SELECT count(*) FROM nofx.artifact") != 1 {
		t.Errorf("ReviewArtifacts() = %+v, %v, want the last alone", list, err)
	}
	if got := one[int](t, s, "SELECT count(*) FROM nofx.object WHERE key = 'k1' AND state = 'live'"); got != 1 {
		t.Errorf("%d objects of the artifact, want one, so that no collection takes it for a stray", got)
	}

	end := postgres.ReviewEnd{Verdict: review.Failed, Result: json.RawMessage(`{}`), Occurrences: []postgres.Occurrence{found(run.NewID(), "fp1.a")}}
	if err := s.FinishReview(s.ctx, c, v.ID, end); err != nil {
		t.Fatalf("FinishReview() = %v", err)
	}
	s.expire(t, v.StepID) // killed between the review's end and the step's
	s.sweep(t, postgres.SweepRules{})
	c, third := s.beginReview(t, v)
	if third.ID != v.ID || third.State != review.Completed || third.Verdict != review.Failed {
		t.Errorf("review = %+v, want the verdict that the step has not taken yet", third)
	}
	s.finish(t, c, "gate failed")
	if _, _, err := s.RetryStep(s.ctx, s.tenant, v.StepID, true, "again"); err != nil {
		t.Fatalf("RetryStep() = %v", err)
	}
	c, anew := s.beginReview(t, v)
	if anew.ID == v.ID || anew.RerunOf == nil || *anew.RerunOf != v.ID || anew.State != review.Running {
		t.Errorf("review after a retry = %+v, want a new one", anew)
	}
	s.finish(t, c, "fail")
	s.wantReview(t, anew.ID, review.ReviewFailed, "exit status 1")
	s.wantSound(t)
}

// Findings live on across reviews of a change, and what people decided about them stays.
func TestFindings(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ids := []uuid.UUID{run.NewID(), run.NewID(), run.NewID()}
	states := func() (list []string) {
		t.Helper()
		for _, id := range ids {
			f, err := s.Finding(s.ctx, s.tenant, id)
			if err != nil {
				t.Fatalf("Finding() = %v", err)
			}
			list = append(list, string(f.State))
		}
		return list
	}
	pass := func(head string, end postgres.ReviewEnd) review.Review {
		t.Helper()
		v, _ := s.startReview(t, pullRequest(t, head))
		c, v := s.beginReview(t, v)
		s.endReview(t, c, v, end)
		return v
	}
	first := pass("a", postgres.ReviewEnd{Occurrences: []postgres.Occurrence{found(ids[0], "fp1.a"), found(ids[1], "fp1.b"), found(ids[2], "fp1.c")}})
	settle := func(i int, d postgres.FindingDecision) {
		t.Helper()
		if _, err := s.SettleFinding(s.ctx, s.tenant, ids[i], d); err != nil {
			t.Fatalf("SettleFinding(%+v) = %v", d, err)
		}
	}
	past := time.Now().Add(-time.Minute)
	settle(1, postgres.FindingDecision{Event: "dismiss", Reason: "by design", Scope: review.ScopeRule})
	settle(2, postgres.FindingDecision{Event: "dismiss", Reason: "later", Scope: review.ScopeThis, Expires: &past})
	pass("b", postgres.ReviewEnd{Fixed: []postgres.Fix{{ID: ids[0], Evidence: review.Gone{Reason: "line_gone", Path: "a.go", Text: "x", Head: "b"}}}, Occurrences: []postgres.Occurrence{found(ids[1], "fp1.b")}})
	if got, want := states(), []string{"fixed", "dismissed", "open"}; !slices.Equal(got, want) {
		t.Errorf("states after the second review = %v, want %v", got, want)
	}
	third := pass("c", postgres.ReviewEnd{Occurrences: []postgres.Occurrence{found(ids[0], "fp1.a")}})
	if got, want := states(), []string{"open", "dismissed", "open"}; !slices.Equal(got, want) {
		t.Errorf("states after the third review = %v, want %v", got, want)
	}
	f, err := s.Finding(s.ctx, s.tenant, ids[0])
	if err != nil || f.FirstReviewID != first.ID || f.LastReviewID != third.ID || f.Gone != nil || f.Confidence != 0.9 || f.ThreadID != "T1" || f.Anchor.Text != "x" || f.Evidence[0] != "e" {
		t.Errorf("finding = %+v, %v, want it seen by the first and the third review, as sure as it was found", f, err)
	}
	known, dismissed, err := s.KnownFindings(s.ctx, s.tenant, review.Review{Change: "another", Provider: review.GitHub, Repository: "acme/shop"})
	if err != nil || len(known) != 0 || len(dismissed) != 1 || dismissed[0].ID != run.FindingID.Format(ids[1]) || dismissed[0].Dismissal.Scope != review.ScopeRule {
		t.Errorf("KnownFindings(another change) = %+v, %+v, %v, want none of it, and the one dismissed by its rule", known, dismissed, err)
	}
	if known, dismissed, err = s.KnownFindings(s.ctx, s.tenant, third); err != nil || len(known) != 3 || len(dismissed) != 0 || known[0].Confidence != 0.9 {
		t.Errorf("KnownFindings(the change) = %+v, %+v, %v, want its three", known, dismissed, err)
	}
	list, err := s.ReviewFindings(s.ctx, s.tenant, first.ID, 1, 10)
	if err != nil || len(list) != 2 || list[0].Disposition != review.Posted {
		t.Errorf("ReviewFindings(after 1) = %+v, %v, want two", list, err)
	}

	for _, tt := range []struct {
		d    postgres.FindingDecision
		kind fault.Kind
	}{
		{postgres.FindingDecision{Event: "reopen", Reason: "x"}, fault.Conflict},
		{postgres.FindingDecision{Event: "dismiss"}, fault.Invalid},
		{postgres.FindingDecision{Event: "resolve", Version: new(int64)}, fault.Conflict},
	} {
		if _, err := s.SettleFinding(s.ctx, s.tenant, ids[0], tt.d); !errors.Is(err, tt.kind) {
			t.Errorf("SettleFinding(open, %+v) = %v, want %v", tt.d, err, tt.kind)
		}
	}
	if _, err := s.SettleFinding(s.ctx, s.tenant, run.NewID(), postgres.FindingDecision{Event: "resolve"}); !errors.Is(err, fault.NotFound) {
		t.Errorf("SettleFinding(unknown) = %v, want not found", err)
	}
	s.wantSound(t)
}
