package review_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nofx.dev/shared/review"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	whole := review.Coverage{Reviewed: []string{"a.go"}}
	partly := review.Coverage{Reviewed: []string{"a.go"}, Skipped: []review.Skip{{Path: "b.go", Reason: review.SkippedLimit}}}
	nothing := review.Coverage{Skipped: []review.Skip{{Path: "b.go", Reason: review.SkippedFailed}}}
	ignored := review.Coverage{Skipped: []review.Skip{{Path: "b.go", Reason: review.SkippedIgnored}}}
	generated := review.Coverage{Reviewed: []string{"a.go"}, Skipped: []review.Skip{{Path: "b.go", Reason: review.SkippedGenerated}}}
	high := finding("a.go", "x", "bad", severity(review.High), func(f *review.Finding) { f.Confidence = 0.8 })
	unsure := finding("a.go", "x", "bad", severity(review.High), func(f *review.Finding) { f.Confidence = 0.79 })
	strict := review.DefaultPolicy()
	strict.OnPartial = review.Fail
	strict.Paths = []review.PathRule{{Match: "a.go", Block: &review.Threshold{Severity: review.Low, Confidence: 0.5}}}
	broken := []review.Reason{{Code: "refused", Detail: "the model refused"}}
	for _, test := range []struct {
		name   string
		policy review.Policy
		facts  review.Facts
		want   string
	}{
		{"nothing found", review.DefaultPolicy(), review.Facts{Coverage: whole}, "passed: clean;"},
		{"nothing to review", review.DefaultPolicy(), review.Facts{Coverage: ignored}, "passed: skipped;"},
		{"a finding that blocks", review.DefaultPolicy(), review.Facts{Coverage: whole, Open: []review.Finding{high}}, "failed: finding;"},
		{"one that is not sure enough", review.DefaultPolicy(), review.Facts{Coverage: whole, Open: []review.Finding{unsure}}, "passed: clean;"},
		{"the same in a stricter file", strict, review.Facts{Coverage: whole, Open: []review.Finding{unsure}}, "failed: finding;"},
		{"partly read", review.DefaultPolicy(), review.Facts{Coverage: partly}, "passed: clean; partial"},
		{"partly read, strictly", strict, review.Facts{Coverage: partly}, "failed: partial;"},
		{"not read", review.DefaultPolicy(), review.Facts{Coverage: nothing}, "error: nothing_read; partial"},
		{"generated", review.DefaultPolicy(), review.Facts{Coverage: generated}, "passed: clean; generated"},
		{"warned of", review.DefaultPolicy(), review.Facts{Coverage: partly, Warnings: []review.Reason{{Code: "injection"}}}, "passed: clean; partial injection"},
		{"not judged", review.DefaultPolicy(), review.Facts{Coverage: whole, Errors: broken}, "error: refused;"},
		{"not judged, and a finding", review.DefaultPolicy(), review.Facts{Coverage: whole, Errors: broken, Open: []review.Finding{high}}, "error: refused finding;"},
	} {
		r := test.policy.Decide(test.facts)
		got := strings.TrimSpace(string(r.Verdict) + ": " + codes(r.Reasons) + "; " + codes(r.Warnings))
		if got != test.want {
			t.Errorf("%s: Decide = %q, want %q", test.name, got, test.want)
		}
	}
}

// TestReasonNamesAKnownFinding: a finding that an earlier review reported blocks also where this
// one does not report it again. So its reason is where to learn what to decide about.
func TestReasonNamesAKnownFinding(t *testing.T) {
	t.Parallel()
	high := finding("a.go", "x", "bad", severity(review.High), func(f *review.Finding) { f.Confidence = 1 })
	known := high
	known.ID = "find_1"
	got := review.DefaultPolicy().Decide(review.Facts{Coverage: review.Coverage{Reviewed: []string{"a.go"}}, Open: []review.Finding{high, known}}).Reasons
	want := []review.Reason{{Code: "finding", Detail: "a.go:10, high: bad"}, {Code: "finding", Detail: "a.go:10, high: bad (find_1)"}}
	if !slices.Equal(got, want) {
		t.Errorf("Decide has the reasons %v, want %v", got, want)
	}
}

func codes(reasons []review.Reason) string {
	var all []string
	for _, r := range reasons {
		all = append(all, r.Code)
	}
	return strings.Join(all, " ")
}

// TestDecideNeverImproves: more findings, less coverage, errors and a stricter policy never
// make a verdict better, and what was not judged never passes.
func TestDecideNeverImproves(t *testing.T) {
	t.Parallel()
	rank := map[review.Verdict]int{review.Passed: 0, review.Failed: 1, review.Error: 2}
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) review.Finding {
			return finding("a.go", "x", "t", severity(rapid.SampledFrom(review.Severities).Draw(t, "severity")),
				func(f *review.Finding) { f.Confidence = rapid.Float64Range(0, 1).Draw(t, "confidence") })
		})
		policy := review.DefaultPolicy()
		policy.Block = review.Threshold{Severity: rapid.SampledFrom(review.Severities).Draw(t, "block"), Confidence: rapid.Float64Range(0, 1).Draw(t, "least")}
		facts := review.Facts{Open: rapid.SliceOfN(draw, 0, 4).Draw(t, "open"), Coverage: review.Coverage{Reviewed: []string{"a.go"}}}
		was := policy.Decide(facts)
		more := facts
		more.Open = append(more.Open[:len(more.Open):len(more.Open)], draw.Draw(t, "one more"))
		if got := policy.Decide(more); rank[got.Verdict] < rank[was.Verdict] {
			t.Fatalf("with one more finding: %s, want no better than %s", got.Verdict, was.Verdict)
		}
		less := facts
		less.Coverage.Skipped = []review.Skip{{Path: "b.go", Reason: rapid.SampledFrom([]review.Skipped{review.SkippedLimit, review.SkippedUnread, review.SkippedFailed}).Draw(t, "reason")}}
		if got := policy.Decide(less); rank[got.Verdict] < rank[was.Verdict] || got.Verdict == review.Passed && len(got.Warnings) == 0 {
			t.Fatalf("partly read: %s with warnings %v, want no plain pass", got.Verdict, got.Warnings)
		}
		broken := facts
		broken.Errors = []review.Reason{{Code: "x"}}
		if got := policy.Decide(broken); got.Verdict != review.Error {
			t.Fatalf("not judged: %s, want error", got.Verdict)
		}
		policy.Block.Confidence /= 2
		if got := policy.Decide(facts); rank[got.Verdict] < rank[was.Verdict] {
			t.Fatalf("with a stricter policy: %s, want no better than %s", got.Verdict, was.Verdict)
		}
	})
}
