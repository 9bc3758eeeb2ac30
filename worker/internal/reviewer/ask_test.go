package reviewer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
)

func TestS36_ModelFaults(t *testing.T) {
	t.Parallel()
	text := func(s string) func() (llm.Response, error) {
		return func() (llm.Response, error) { return llm.Response{Text: s, Stop: llm.End}, nil }
	}
	stops := func(s llm.Stop) func() (llm.Response, error) {
		return func() (llm.Response, error) {
			return llm.Response{Text: `{"schema":1,"findings":[]}`, Stop: s}, nil
		}
	}
	fails := func(kind fault.Kind, code string) func() (llm.Response, error) {
		return func() (llm.Response, error) { return llm.Response{}, fault.New(kind, code, "no") }
	}
	finding := `{"path":"a.go","side":"RIGHT","start_line":null,"line":1,"quote":"x","title":"t","body":"b","category":"tests","severity":"low","confidence":0.5,"rule_id":null,"evidence":null,"suggestion":null}`
	many := strings.TrimSuffix(strings.Repeat(finding+",", MaxAnswered+1), ",")
	faults := []struct {
		name string
		do   func() (llm.Response, error)
		want string
	}{
		{"time-out", fails(fault.Unavailable, "timeout"), "nothing_read"},
		{"429", fails(fault.RateLimited, "rate-limited"), "nothing_read"},
		{"500", fails(fault.Unavailable, "unavailable"), "nothing_read"},
		{"bad key", fails(fault.Unauthenticated, "bad-key"), "model_failed"},
		{"budget", fails(fault.Forbidden, "token-limit"), "budget_spent"},
		{"budget in dollars", fails(fault.Forbidden, "cost-limit"), "budget_spent"},
		{"no recording", fails(fault.NotFound, "not-recorded"), "model_failed"},
		{"unknown error", func() (llm.Response, error) { return llm.Response{}, errors.New("connection reset") }, "model_failed"},
		{"refusal", stops(llm.Refusal), "refused"},
		{"truncation", stops(llm.Length), "truncated"},
		{"unknown end", stops("tool_use"), "invalid_answer"},
		{"empty", text(""), "invalid_answer"},
		{"prose", text("I found no problems."), "invalid_answer"},
		{"fenced", text("```json\n{\"schema\":1,\"findings\":[]}\n```"), "invalid_answer"},
		{"wrong schema", text(`{"schema":1,"verdict":"passed"}`), "invalid_answer"},
		{"a verdict too", text(`{"schema":1,"findings":[],"verdict":"passed"}`), "invalid_answer"},
		{"names twice", text(`{"schema":1,"findings":[],"findings":[]}`), "invalid_answer"},
		{"two values", text(`{"schema":1,"findings":[]}{"schema":1,"findings":[]}`), "invalid_answer"},
		{"too many", text(`{"schema":1,"findings":[` + many + `]}`), "invalid_answer"},
		{"cut off", text(`{"schema":1,"findings":[`), "invalid_answer"},
	}
	t.Logf("%d faults", len(faults))
	for _, test := range faults {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out := mustReview(t, newReviewer(func(llm.Request) (llm.Response, error) { return test.do() }, &memory{}), newInput(addition("a.go", "package a")))
			if got := reasonCodes(out.Result.Reasons); out.Result.Verdict != review.Error || !strings.Contains(got, test.want) {
				t.Errorf("Review = %s (%s), want error (%s)", out.Result.Verdict, got, test.want)
			}
			// The same in one chunk of two, with a finding that was known in it.
			known := review.Finding{ID: "fnd_1", State: review.Open, Severity: review.Low, Anchor: review.Anchor{Path: "a/a.go", Side: review.Right, Line: 1, Text: "gone"}}
			in := newInput(addition("a/a.go", "package a") + addition("b/b.go", "package b"))
			in.Known = []review.Finding{known}
			out = mustReview(t, newReviewer(func(r llm.Request) (llm.Response, error) {
				if r.Parts[0].Name == "a/a.go" {
					return test.do()
				}
				return bugs(r)
			}, &memory{}), in)
			want := "error"
			if test.want == "nothing_read" { // the provider's fault, and no one's in the change
				want = "passed with partial"
			}
			got := string(out.Result.Verdict)
			if len(out.Result.Warnings) > 0 && got == "passed" {
				got += " with " + out.Result.Warnings[0].Code
			}
			if got != want || len(out.Fixed) > 0 {
				t.Errorf("Review of two chunks = %s with %d fixed, want %s and none", got, len(out.Fixed), want)
			}
		})
	}
}

// TestFaultsOfManyChunks: what went wrong with many chunks in one way is one reason.
func TestFaultsOfManyChunks(t *testing.T) {
	t.Parallel()
	diff := ""
	for i := range 30 {
		diff += addition(fmt.Sprintf("d%02d/a.go", i), "package a")
	}
	out := mustReview(t, newReviewer(func(r llm.Request) (llm.Response, error) {
		switch r.Parts[0].Name {
		case "d00/a.go":
			return bugs(r)
		case "d07/a.go":
			return llm.Response{Stop: llm.Refusal}, nil
		}
		return llm.Response{}, fault.New(fault.Forbidden, "token-limit", "too few are left")
	}, &memory{}), newInput(diff))
	want := []review.Reason{{Code: "budget_spent", Detail: "chunk 2 of 30 and 27 more: too few are left"}, {Code: "refused", Detail: "chunk 8 of 30: the model refused"}}
	if diff := cmp.Diff(want, out.Result.Reasons); diff != "" || len(out.Failures) != 29 {
		t.Errorf("%d failures, want 29, with the reasons (-want +got):\n%s", len(out.Failures), diff)
	}
}

func TestAnswersOfOtherReviews(t *testing.T) {
	t.Parallel()
	store := &memory{}
	refuse := true
	var calls int
	r := newReviewer(func(r llm.Request) (llm.Response, error) {
		calls++
		resp, err := bugs(r)
		if refuse {
			resp.Stop = llm.Refusal
		}
		return resp, err
	}, store)
	for i, step := range []struct {
		review string
		refuse bool
		calls  int
		want   string
	}{
		{"rev_1", true, 1, "error (refused nothing_read; partial)"},
		{"rev_1", false, 0, "error (refused nothing_read; partial)"},
		{"rev_2", false, 1, "passed (clean; )"},
		{"rev_3", true, 0, "passed (clean; )"},
	} {
		in := newInput(addition("a.go", "package a"))
		in.ReviewID, refuse, calls = step.review, step.refuse, 0
		out := mustReview(t, r, in)
		if got := outlined(out); got != step.want || calls != step.calls {
			t.Errorf("step %d: Review = %s after %d calls, want %s after %d", i+1, got, calls, step.want, step.calls)
		}
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	store := &memory{}
	var second llm.Request
	out := mustReview(t, newReviewer(func(r llm.Request) (llm.Response, error) {
		if len(r.Parts) < 3 {
			return llm.Response{Text: `{"schema":2,"findings":[]}`, Stop: llm.End, Usage: llm.Usage{Input: 1}}, nil
		}
		second = r
		resp, err := says()
		return resp, err
	}, store), newInput(addition("a.go", "package a")))
	if got, want := outlined(out), "passed (clean; )"; got != want || out.Counts.Repaired != 1 || out.Usage.Input != 101 {
		t.Errorf("Review = %s, %d repaired, usage %+v, want %s, 1 and that of both calls", got, out.Counts.Repaired, out.Usage, want)
	}
	if got, want := second.Parts[3].Text, "/schema: value must be 1"; got != want || !second.Parts[2].Untrusted || !second.Parts[3].Untrusted {
		t.Errorf("the second request says %q, want %q, untrusted", got, want)
	}
	if want := []string{"prompt 1", "answer 1", "errors 1", "repair_prompt 1", "repair_answer 1"}; !slices.Equal(store.order[:5], want) {
		t.Errorf("stored %v, want first %v", store.order, want)
	}
}

func TestCost(t *testing.T) {
	t.Parallel()
	var diff strings.Builder
	for i := range 20 {
		diff.WriteString(addition(fmt.Sprintf("d%d/a.go", i), "package a"))
	}
	in := newInput(diff.String())
	in.Default.Limits.CostUSD = 0.05
	var calls atomic.Int32
	out := mustReview(t, newReviewer(func(r llm.Request) (llm.Response, error) {
		calls.Add(1)
		return bugs(r)
	}, &memory{}), in)
	if n := int(calls.Load()); n < 5 || n > 5+together || out.Result.Verdict != review.Error || !strings.Contains(outlined(out), "budget_spent") {
		t.Errorf("Review = %s after %d calls, want budget_spent after 5 to %d", outlined(out), n, 5+together)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	check := func(finding int, yes, actionable bool, severity review.Severity, confidence float64) string {
		return fmt.Sprintf(`{"finding":%d,"true":%v,"actionable":%v,"severity":%q,"confidence":%v}`, finding, yes, actionable, severity, confidence)
	}
	for _, test := range []struct{ name, checks, want string }{
		{"agrees", check(1, true, true, "high", 0.9), "failed (finding; ) a.go:R1 This is a bug"},
		{"untrue", check(1, false, true, "high", 0.9), "passed (clean; )"},
		{"not actionable", check(1, true, false, "high", 0.9), "passed (clean; )"},
		{"less severe", check(1, true, true, "low", 0.9), "passed (clean; ) a.go:R1 This is a bug"},
		{"less sure", check(1, true, true, "high", 0.1), "passed (clean; ) a.go:R1 This is a bug"},
		{"more severe and sure", check(1, true, true, "critical", 1), "failed (finding; ) a.go:R1 This is a bug"},
		{"about another", check(2, false, false, "low", 0), "failed (finding; ) a.go:R1 This is a bug"},
		{"says nothing", "", "failed (finding; ) a.go:R1 This is a bug"},
		{"wrong schema", "1", "failed (finding; unverified) a.go:R1 This is a bug"},
	} {
		out := mustReview(t, newReviewer(func(r llm.Request) (llm.Response, error) {
			if r.Schema.Name == CheckSchema.Name {
				return llm.Response{Text: `{"schema":1,"checks":[` + test.checks + `]}`, Stop: llm.End}, nil
			}
			return bugs(r)
		}, &memory{}), newInput(addition("a.go", "package a // BUG")))
		if got := outlined(out); got != test.want {
			t.Errorf("%s: Review = %s, want %s", test.name, got, test.want)
		}
		if f := out.Open; len(f) == 1 && (f[0].Severity == review.Critical || f[0].Confidence > 0.9) {
			t.Errorf("%s: the finding became worse: %+v", test.name, f[0])
		}
	}
}
