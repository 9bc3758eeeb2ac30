package reviewer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/llm"
)

// scripted is a model that answers as a function says.
type scripted func(llm.Request) (llm.Response, error)

func (scripted) Name() string { return "scripted" }

func (s scripted) Complete(_ context.Context, r llm.Request) (llm.Response, error) { return s(r) }

// says is an answer with these findings.
func says(findings ...Answered) (llm.Response, error) {
	for i := range findings {
		findings[i].Evidence = orEmpty(findings[i].Evidence)
	}
	raw, err := json.Marshal(Answer{1, orEmpty(findings)})
	return llm.Response{Text: string(raw), Stop: llm.End, Model: "scripted-1", Usage: llm.Usage{Input: 100, Output: 10, CostUSD: 0.01}}, err
}

// bugs is an honest model: it reports each line that is shown with BUG or NIT in it.
func bugs(r llm.Request) (llm.Response, error) {
	if r.Schema.Name == CheckSchema.Name {
		return llm.Response{Text: `{"schema":1,"checks":[]}`, Stop: llm.End}, nil
	}
	var found []Answered
	for _, part := range r.Parts {
		if !part.Untrusted {
			continue
		}
		hunks, err := ReadNumbered(part.Text)
		if err != nil {
			return llm.Response{}, err
		}
		for _, h := range hunks {
			for _, l := range h.Lines {
				a := Answered{Path: part.Name, Quote: l.Text, Title: "This is a bug", Body: "It fails.", Category: review.Correctness, Severity: review.High, Confidence: 0.9}
				a.Side, a.Line = l.Place()
				switch {
				case strings.Contains(l.Text, "NIT"):
					a.Title, a.Severity = "This is a nit", review.Low
				case !strings.Contains(l.Text, "BUG"):
					continue
				}
				found = append(found, a)
			}
		}
	}
	return says(found...)
}

// memory is a Store, which fails where it is told to.
type memory struct {
	mu     sync.Mutex
	pieces map[string][]byte
	order  []string
	failAt int // the write that fails, from 1
}

func (m *memory) Load(_ context.Context, stage string, ordinal int, input string) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	body, found := m.pieces[fmt.Sprint(stage, " ", ordinal, " ", input)]
	return body, found, nil
}

func (m *memory) Save(_ context.Context, stage string, ordinal int, input, _ string, body []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order = append(m.order, fmt.Sprint(stage, " ", ordinal))
	if len(m.order) == m.failAt {
		return errors.New("killed")
	}
	if m.pieces == nil {
		m.pieces = map[string][]byte{}
	}
	m.pieces[fmt.Sprint(stage, " ", ordinal, " ", input)] = body
	return nil
}

func newReviewer(m scripted, s Store) Reviewer {
	return Reviewer{
		Model: func(llm.Spend) (llm.Model, error) { return m, nil }, Store: s,
		Redact: telemetry.NewRedactor("c4n4ry-7f3a9b2c").String, Verify: true,
	}
}

func newInput(diff string) Input {
	return Input{
		ReviewID: "rev_1", URL: "https://nofx.example/reviews/rev_1", Repository: "o/r", PullRequest: 7, BaseSHA: strings.Repeat("a", 40), HeadSHA: strings.Repeat("b", 40),
		Diff: diff, Default: review.DefaultPolicy(), Number: 1, Now: time.Unix(1000, 0),
	}
}

// addition is the diff of a new file.
func addition(path string, lines ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "diff --git a/%s b/%s\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n", path, path, path, len(lines))
	for _, l := range lines {
		b.WriteString("+" + l + "\n")
	}
	return b.String()
}

func mustReview(t testing.TB, r Reviewer, in Input) Outcome {
	t.Helper()
	out, err := r.Review(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// outlined is what a review says and posts, in a few words.
func outlined(out Outcome) string {
	var all []string
	for _, c := range out.Plan.Comments {
		title, _, _ := strings.Cut(strings.TrimPrefix(c.Body, "**"), "**")
		all = append(all, fmt.Sprintf("%s:%s%d %s", c.Path, string(c.Side[:min(1, len(c.Side))]), c.Line, title))
	}
	s := string(out.Result.Verdict) + " (" + reasonCodes(out.Result.Reasons) + "; " + reasonCodes(out.Result.Warnings) + ")"
	if len(all) > 0 {
		s += " " + strings.Join(all, ", ")
	}
	var fixed []string
	for _, f := range out.Fixed {
		fixed = append(fixed, " fixed "+f.Finding.Anchor.Text)
	}
	slices.Sort(fixed)
	return s + strings.Join(fixed, "")
}

func reasonCodes(reasons []review.Reason) string {
	var all []string
	for _, r := range reasons {
		all = append(all, r.Code)
	}
	return strings.Join(all, " ")
}

func TestReview(t *testing.T) {
	t.Parallel()
	store := &memory{}
	in := newInput(addition("a.go", "package a", "", "// BUG", "func f() {", "\t// NIT", "}") + addition("img.snap", "x"))
	out := mustReview(t, newReviewer(bugs, store), in)
	if got, want := outlined(out), "failed (finding; generated) a.go:R3 This is a bug, a.go:R5 This is a nit"; got != want {
		t.Errorf("Review = %s, want %s", got, want)
	}
	want := []string{
		"prompt 1", "answer 1", "verify_prompt 1", "verify_answer 1", "change.json 0", "coverage.json 0", "chunks.json 0",
		"findings.json 0", "verdict.json 0", "plan.json 0", "summary.md 0", "review.sarif 0", "review.rdjson 0", "review.json 0",
	}
	if diff := cmp.Diff(want, store.order); diff != "" {
		t.Errorf("stored: want -, got +\n%s", diff)
	}
	if got, want := out.Plan.Comments[0].Body, "**This is a bug** (high, correctness, confidence 0.90)\n\nIt fails.\n\n<sub>nofx fp1."+out.Open[0].Fingerprint+"</sub>"; got != want {
		t.Errorf("comment = %q, want %q", got, want)
	}
	if got, want := out.Plan.Status, (Status{"failure", "failed: 1 file not reviewed, since generated by a program", in.URL}); got != want {
		t.Errorf("status = %+v, want %+v", got, want)
	}
	for _, text := range []string{"## Review: failed", "**Warnings**", "a.go:3, high: This is a bug", "1 file reviewed, 1 skipped; 2 findings open.", "Of `bbbb"} {
		if !strings.Contains(out.Plan.Summary, text) {
			t.Errorf("the summary has no %q:\n%s", text, out.Plan.Summary)
		}
	}
	var plan Plan
	i := slices.IndexFunc(out.Documents, func(d Document) bool { return d.Name == PlanDocument })
	if err := json.Unmarshal(out.Documents[i].Body, &plan); err != nil || !cmp.Equal(plan, out.Plan) {
		t.Errorf("plan.json is %v and differs from the plan:\n%s", err, cmp.Diff(out.Plan, plan))
	}
	var all struct {
		ReviewID string `json:"review_id"`
		Result   review.Result
		Findings []review.Occurrence
		Plan     Plan
	}
	i = slices.IndexFunc(out.Documents, func(d Document) bool { return d.Name == JSONDocument })
	if err := json.Unmarshal(out.Documents[i].Body, &all); err != nil || all.ReviewID != in.ReviewID || !cmp.Equal(all.Plan, out.Plan) || all.Result.Verdict != out.Result.Verdict || len(all.Findings) != len(out.Occurrences) {
		t.Errorf("review.json = %s, %v, want verdict, findings and plan", out.Documents[i].Body, err)
	}
}

// TestReviewOfAHistory reviews one head after the other of a change, as a forge would ask.
func TestReviewOfAHistory(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	code := func(lines ...string) string {
		return "package a\n\nfunc f() {\n" + strings.Join(lines, "\n") + "\n}\n" + strings.Repeat("\n// z\n", 20)
	}
	r.write("a.go", code("\tone()", "\ttwo()"))
	base := r.commit()
	var known []review.Finding
	var earlier map[string]bool
	number := 0
	for _, push := range []struct {
		name, path, text, want string
		change                 func([]review.Finding)
	}{
		{name: "first", path: "a.go", text: code("\tone() // BUG", "\ttwo() // NIT"),
			want: "failed (finding; ) a.go:R4 This is a bug, a.go:R5 This is a nit"},
		{name: "the same again", path: "a.go", text: code("\tone() // BUG", "\ttwo() // NIT"),
			want: "failed (finding; )"},
		{name: "moved down and indented", path: "a.go", text: "// new\n// new\n" + code("\tif x {", "\t\tone() // BUG", "\t}", "\ttwo() // NIT"),
			want: "failed (finding; )"},
		{name: "renamed", path: "b.go", text: code("\tone() // BUG", "\ttwo() // NIT"),
			want: "failed (finding; )"},
		{name: "fixed", path: "b.go", text: code("\tone() // good", "\ttwo() // NIT"),
			want: "passed (clean; ) fixed one() // BUG"},
		{name: "back", path: "b.go", text: code("\tone() // BUG", "\ttwo() // NIT"),
			want: "failed (finding; ) b.go:R4 This is a bug"},
		{name: "dismissed by a person", path: "b.go", text: code("\tone() // BUG", "\ttwo() // NIT"),
			change: func(known []review.Finding) {
				for i := range known {
					if known[i].Severity == review.High {
						known[i].State, known[i].Dismissal = review.Dismissed, &review.Dismissal{Scope: review.ScopeThis, Reason: "meant so"}
					}
				}
			},
			want: "passed (clean; )"},
		{name: "a new nit in a hunk that changed", path: "b.go", text: code("\tone() // BUG", "\ttwo() // NIT", "\tthree() // NIT"),
			want: "passed (clean; ) b.go:R6 This is a nit"},
		{name: "the file goes", path: "b.go", text: "-",
			want: "passed (clean; ) fixed three() // NIT fixed two() // NIT"},
	} {
		if push.change != nil {
			push.change(known)
		}
		if push.path == "b.go" && push.text != "-" && strings.TrimSpace(r.git("ls-files", "b.go")) == "" {
			r.write("a.go", "-")
		}
		r.write(push.path, push.text)
		head := r.commit()
		in := newInput(r.git("diff", "-M10%", base, head))
		number++
		in.HeadSHA, in.Known, in.Number, in.Earlier, in.Head = head, known, number, earlier, map[string]*string{}
		for _, p := range HeadPaths(in.Diff, known) {
			in.Head[p] = nil
			if strings.TrimSpace(r.git("ls-tree", head, p)) != "" {
				text := r.git("show", head+":"+p)
				in.Head[p] = &text
			}
		}
		out := mustReview(t, newReviewer(bugs, &memory{}), in)
		if got := outlined(out); got != push.want {
			t.Errorf("%s: Review = %s, want %s", push.name, got, push.want)
		}
		earlier = map[string]bool{}
		for _, h := range out.Hunks {
			earlier[h] = true
		}
		known = merged(known, out)
	}
}

// TestFixedInAPostedDiff: a posted diff is all of its change, and there is no head to look at.
// What it no longer shows does not block.
func TestFixedInAPostedDiff(t *testing.T) {
	t.Parallel()
	edit := func(path, line string) string {
		return fmt.Sprintf("diff --git a/%s b/%s\n--- a/%s\n+++ b/%s\n@@ -1,2 +1,3 @@\n a\n+%s\n b\n", path, path, path, path, line)
	}
	first := newInput(edit("a.go", "one() // BUG"))
	known := merged(nil, mustReview(t, newReviewer(bugs, &memory{}), first))
	file := known[0] // a remark about the file as a whole
	file.ID, file.Anchor.Text, file.Anchor.Line, file.Anchor.Side, file.Fingerprint = "file", "", 0, "", "file"
	for _, test := range []struct {
		name, diff string
		whole      bool
		known      []review.Finding
		want       string
	}{
		{"the line is gone", edit("a.go", "one()"), true, known, "passed (clean; ) fixed one() // BUG"},
		{"the file is not changed any more", edit("b.go", "one()"), true, known, "passed (clean; ) fixed one() // BUG"},
		{"a remark about the file, which is not changed any more", edit("b.go", "one()"), true, []review.Finding{file}, "passed (clean; ) fixed "},
		{"a remark about the file, which is changed", edit("a.go", "one()"), true, []review.Finding{file}, "failed (finding; )"},
		{"the file is renamed, and it is there", strings.NewReplacer("a/b.go b/b.go", "a/a.go b/b.go\nsimilarity index 90%\nrename from a.go\nrename to b.go", "--- a/b.go", "--- a/a.go").Replace(edit("b.go", "one() // BUG")), true, known, "failed (finding; )"},
		{"it is still there", edit("a.go", "one() // BUG"), true, known, "failed (finding; )"},
		{"out of sight of the diff of a pull request", edit("b.go", "one()"), false, known, "failed (finding; )"},
	} {
		in := newInput(test.diff)
		in.Known, in.Number, in.Head, in.Whole = test.known, 2, nil, test.whole
		out := mustReview(t, newReviewer(bugs, &memory{}), in)
		if got := outlined(out); got != test.want {
			t.Errorf("%s: Review = %s, want %s", test.name, got, test.want)
		}
		for _, f := range out.Fixed {
			if f.Evidence.Reason != "not_in_change" {
				t.Errorf("%s: it is fixed as %s, want not_in_change", test.name, f.Evidence.Reason)
			}
		}
	}
}

// TestManyFixed: a file is looked through once for all of its findings, and not once for each,
// which would take longer than a test may.
func TestManyFixed(t *testing.T) {
	t.Parallel()
	const findings = 20_000
	in := newInput(addition("b.go", "package b"))
	text := strings.Repeat("\tx := 1 // as it was\n", 10_000)
	in.Head = map[string]*string{"a.go": &text}
	for i := range findings {
		in.Known = append(in.Known, review.Finding{
			ID: fmt.Sprint(i), Fingerprint: fmt.Sprint(i), State: review.Open, Severity: review.High, Confidence: 1,
			Anchor: review.Anchor{Path: "a.go", Side: review.Right, Line: i + 1, Text: fmt.Sprint("gone ", i)},
		})
	}
	in.Known[0].Anchor.Text = "x := 1 // as it was"
	if out := mustReview(t, newReviewer(bugs, &memory{}), in); len(out.Fixed) != findings-1 || len(out.Open) != 1 {
		t.Errorf("Review has %d fixed and %d open, want %d and 1", len(out.Fixed), len(out.Open), findings-1)
	}
}

func TestHeadPaths(t *testing.T) {
	t.Parallel()
	diff := addition("a.go", "1") + addition("b.txt", "1") + "diff --git a/old.go b/new.go\nsimilarity index 100%\nrename from old.go\nrename to new.go\n"
	known := []review.Finding{
		{State: review.Open, Anchor: review.Anchor{Path: "old.go"}}, {State: review.Open, Anchor: review.Anchor{Path: "z.py"}},
		{State: review.Open, Anchor: review.Anchor{Path: "z.py"}}, {State: review.Fixed, Anchor: review.Anchor{Path: "y.py"}},
	}
	if got, want := HeadPaths(diff, known), []string{"a.go", "new.go", "z.py"}; !slices.Equal(got, want) {
		t.Errorf("HeadPaths = %v, want %v", got, want)
	}
	for i := range 2 * maxHead {
		diff += addition(fmt.Sprintf("f%d.go", i), "1")
	}
	if got := HeadPaths(diff, known); len(got) != maxHead || !slices.Contains(got, "z.py") {
		t.Errorf("HeadPaths of many files = %d, want %d with those of findings", len(got), maxHead)
	}
}

// merged returns the findings that a store has after a review.
func merged(known []review.Finding, out Outcome) []review.Finding {
	by := map[string]review.Finding{}
	for _, k := range known {
		by[k.ID] = k
	}
	for _, o := range out.Occurrences {
		if o.Finding.ID == "" {
			o.Finding.ID = fmt.Sprintf("fnd_%d", len(by))
			o.Finding.ThreadID = "thread of " + o.Finding.ID
		}
		by[o.Finding.ID] = o.Finding
	}
	for _, f := range out.Fixed {
		by[f.Finding.ID] = f.Finding
	}
	return slices.SortedFunc(maps.Values(by), func(a, b review.Finding) int { return strings.Compare(a.Fingerprint, b.Fingerprint) })
}

// TestReviewIsKilled: wherever a review is stopped, what a model answered before is not asked
// again, and the plan is the same.
func TestReviewIsKilled(t *testing.T) {
	t.Parallel()
	in := newInput(addition("a/a.go", "package a // BUG") + addition("b/b.go", "package b // NIT") + addition("c/c.go", "package c"))
	whole := &memory{}
	first := mustReview(t, newReviewer(bugs, whole), in)
	want := first.Plan
	for at := 1; at <= len(whole.order); at++ {
		var calls atomic.Int32
		m := scripted(func(r llm.Request) (llm.Response, error) {
			calls.Add(1)
			return bugs(r)
		})
		store := &memory{failAt: at}
		killed, err := newReviewer(m, store).Review(t.Context(), in)
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("Review killed at write %d = %v, want that error", at, err)
		}
		if (killed.Usage.Input > 0) != (calls.Load() > 0) || len(killed.Open) > 0 {
			t.Errorf("killed at write %d after %d calls: the outcome is %+v, want what was paid and nothing else", at, calls.Load(), killed)
		}
		stored := 0
		for key := range store.pieces {
			if strings.Contains(key, "answer") {
				stored++
			}
		}
		calls.Store(0)
		out := mustReview(t, newReviewer(m, store), in)
		if got, want := int(calls.Load()), 5-stored; got != want {
			t.Errorf("killed at write %d: %d calls of the model afterwards, want %d", at, got, want)
		}
		if diff := cmp.Diff(want, out.Plan); diff != "" {
			t.Errorf("killed at write %d: another plan\n%s", at, diff)
		}
		if diff := math.Abs(out.Result.CostUSD - first.Result.CostUSD); diff > 1e-9 || out.Paid.Input != first.Usage.Input {
			t.Errorf("killed at write %d: the review cost %v and %d tokens, want %v and %d", at, out.Result.CostUSD, out.Paid.Input, first.Result.CostUSD, first.Usage.Input)
		}
		calls.Store(0)
		if mustReview(t, newReviewer(m, store), in); calls.Load() != 0 {
			t.Errorf("killed at write %d: %d calls in a third run, want none", at, calls.Load())
		}
	}
}

func TestVerdictOfReview(t *testing.T) {
	t.Parallel()
	good := addition("a.go", "package a")
	text := func(s string) *string { return &s }
	for _, test := range []struct {
		name   string
		change func(*Input, *Reviewer)
		want   string
	}{
		{"no diff", func(in *Input, _ *Reviewer) { in.Diff = "hello" }, "error (diff_invalid; )"},
		{"a policy with a mistake", func(in *Input, _ *Reviewer) { in.Policy = text("version: 1\nblok: {}") }, "error (policy_invalid; )"},
		{"an empty policy", func(in *Input, _ *Reviewer) { in.Policy = text("") }, "error (policy_invalid; )"},
		{"secrets cannot be masked", func(_ *Input, r *Reviewer) { r.Redact = func(string) string { panic("broken") } }, "error (scrub_failed; )"},
		{"no model", func(_ *Input, r *Reviewer) {
			r.Model = func(llm.Spend) (llm.Model, error) { return nil, fault.New(fault.Forbidden, "off", "off") }
		}, "error (no_model nothing_read; partial)"},
		{"files that were not given", func(in *Input, _ *Reviewer) {
			in.Missing = []review.Skip{{Path: "b.go", Reason: review.SkippedLimit}}
		}, "passed (clean; partial)"},
		{"the same, strictly", func(in *Input, _ *Reviewer) {
			in.Missing = []review.Skip{{Path: "b.go", Reason: review.SkippedLimit}}
			in.Policy = text("version: 1\non_partial: fail")
		}, "failed (partial; )"},
		{"a change of the policy", func(in *Input, _ *Reviewer) { in.Diff += addition(".nofx/review.yaml", "version: 1") }, "passed (clean; policy_changed)"},
		{"a policy that the change relaxes", func(in *Input, _ *Reviewer) {
			in.Diff = addition("a.go", "package a // BUG") + addition(".nofx/review.yaml", "version: 1", "block: {severity: critical, confidence: 1}", "ignore: ['**']")
		}, "failed (finding; policy_changed) a.go:R1 This is a bug"},
		{"nothing to review", func(in *Input, _ *Reviewer) { in.Diff = "" }, "passed (skipped; )"},
		{"all ignored", func(in *Input, _ *Reviewer) { in.Policy = text("version: 1\nignore: ['**']") }, "passed (skipped; )"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in, r := newInput(good), newReviewer(bugs, &memory{})
			test.change(&in, &r)
			out := mustReview(t, r, in)
			if got := outlined(out); got != test.want {
				t.Errorf("Review = %s, want %s", got, test.want)
			}
			if len(out.Documents) != 10 || out.Plan.Status.State == "" || out.Plan.Status.State == "success" != (out.Result.Verdict == review.Passed) {
				t.Errorf("Review has %d documents and the status %+v, want 10 and that of the verdict", len(out.Documents), out.Plan.Status)
			}
		})
	}
}

// TestS36_ModelFaults: whatever goes wrong with a model, a change never passes because of it.
// TestAnswersOfOtherReviews: what another review was answered is not paid for again, unless it was
// of no use.
// TestVerify: the second pass drops and lowers, and does nothing else.
// TestPolicyWithAMistake: its author learns which file is meant.
func TestPolicyWithAMistake(t *testing.T) {
	t.Parallel()
	in, policy := newInput(addition("a.go", "package a")), "version: 1\nblok: {}"
	in.Policy = &policy
	got := mustReview(t, newReviewer(bugs, &memory{}), in).Result.Reasons
	if want := "the policy .nofx/review.yaml: line 2: there is no field blok"; len(got) != 1 || got[0].Detail != want {
		t.Errorf("Review has the reasons %v, want %q", got, want)
	}
}

// TestSummaryOfWhatIsPostedNowhere: without comments, the summary is where the findings are.
func TestSummaryOfWhatIsPostedNowhere(t *testing.T) {
	t.Parallel()
	const want = "**Findings**\n\n- high: **This is a bug**, `a.go`, line 1\n- low: **This is a nit**, `a.go`, line 2\n"
	for name, test := range map[string]struct {
		pull  int
		whole bool
		lists bool
	}{
		"a diff": {0, true, true}, "a diff of a pull request": {7, true, true}, "a workspace": {0, false, true}, "a pull request": {7, false, false},
	} {
		in := newInput(addition("a.go", "x() // BUG", "y() // NIT"))
		in.PullRequest, in.Whole = test.pull, test.whole
		first := mustReview(t, newReviewer(bugs, &memory{}), in)
		if got := strings.Contains(first.Plan.Summary, want); got != test.lists {
			t.Errorf("%s: the summary lists all findings: %v, want %v:\n%s", name, got, test.lists, first.Plan.Summary)
		}
		in.Known, in.Number = merged(nil, first), 2
		if again := mustReview(t, newReviewer(bugs, &memory{}), in); strings.Contains(again.Plan.Summary, want) != test.lists {
			t.Errorf("%s, again: the summary lists all findings: %v, want %v:\n%s", name, !test.lists, test.lists, again.Plan.Summary)
		}
	}
}

// TestSummaryIsBounded: however much there is to say, a forge takes the summary.
func TestSummaryIsBounded(t *testing.T) {
	t.Parallel()
	in := newInput(addition("a.go", slices.Repeat([]string{"x := 1 // BUG"}, MaxAnswered)...))
	long := strings.Repeat("ö/", 500)
	for i := range 3000 {
		in.Missing = append(in.Missing, review.Skip{Path: fmt.Sprint(long, i), Reason: review.SkippedLimit, Detail: long})
		f := review.Finding{
			ID: fmt.Sprint(i), Fingerprint: fmt.Sprint(i), State: review.Open, Severity: review.High, Confidence: 1, Title: strings.Repeat("ä", maxTitle),
			Anchor: review.Anchor{Path: fmt.Sprint(long, "x", i), Side: review.Right, Line: 1, Text: "gone"},
		}
		in.Known = append(in.Known, f)
	}
	in.Head = map[string]*string{}
	for _, k := range in.Known[:1000] {
		in.Head[k.Anchor.Path] = nil
	}
	in.Default.Limits.InlineComments = 0
	out := mustReview(t, newReviewer(bugs, &memory{}), in)
	if n := utf8.RuneCountInString(out.Plan.Summary); n > maxSummary || len(out.Fixed) != 1000 || len(out.Plan.Comments) != 0 {
		t.Errorf("the summary has %d characters, %d fixed and %d comments, want at most %d, 1000 and 0", n, len(out.Fixed), len(out.Plan.Comments), maxSummary)
	}
	for _, text := range []string{"and 2950 more", "Without a comment of their own", "Of `bbbb"} {
		if !strings.Contains(out.Plan.Summary, text) {
			t.Errorf("the summary has no %q", text)
		}
	}
	if n := utf8.RuneCountInString(out.Plan.Status.Description); n > 140 {
		t.Errorf("the status has %d characters, want at most 140", n)
	}
}
