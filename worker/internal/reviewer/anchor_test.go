package reviewer

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
)

const twoHunks = `diff --git a/a.go b/a.go
index 1..2 100644
--- a/a.go
+++ b/a.go
@@ -1,6 +1,7 @@ package a
 func one() {
-	old()
+	call( x )
+	call(y)
 	same()
 }
 
 func two() {
@@ -40,4 +41,5 @@ func three() {
 	before()
-	gone()
+	new()
+	same()
 	after()
 }
`

func TestAnchor(t *testing.T) {
	t.Parallel()
	files, err := ParseDiff(twoHunks)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]File{"a.go": files[0]}
	at := func(side review.Side, start, line int, text, symbol string, index int) review.Anchor {
		return review.Anchor{Path: "a.go", Side: side, StartLine: start, Line: line, Text: text, Symbol: symbol, Index: index}
	}
	ofFile := review.Anchor{Path: "a.go"}
	for _, test := range []struct {
		name  string
		path  string
		side  review.Side
		start int
		line  int
		quote string
		want  review.Anchor
		how   Anchored
	}{
		{"an added line", "a.go", review.Right, 0, 2, "\tcall( x )", at(review.Right, 0, 2, "call( x )", "func one() {", 0), Exact},
		{"with other white space", "a.go", review.Right, 0, 2, "  call(  x\t)  ", at(review.Right, 0, 2, "call( x )", "func one() {", 0), Exact},
		{"an unchanged line", "a.go", review.Right, 0, 41, "before()", at(review.Right, 0, 41, "before()", "func three() {", 0), Exact},
		{"a deleted line", "a.go", review.Left, 0, 41, "gone()", at(review.Left, 0, 41, "gone()", "func three() {", 0), Exact},
		{"a range", "a.go", review.Right, 2, 3, "call(y)", at(review.Right, 2, 3, "call(y)", "func one() {", 0), Exact},
		{"a range of one line", "a.go", review.Right, 3, 3, "call(y)", at(review.Right, 0, 3, "call(y)", "func one() {", 0), Exact},
		{"a range upside down", "a.go", review.Right, 4, 3, "call(y)", at(review.Right, 0, 3, "call(y)", "func one() {", 0), Exact},
		{"a range from another hunk", "a.go", review.Right, 3, 43, "same()", at(review.Right, 0, 43, "same()", "func three() {", 0), Exact},
		{"another number", "a.go", review.Right, 0, 4, "call(y)", at(review.Right, 0, 3, "call(y)", "func one() {", 0), Reanchored},
		{"another number and a range", "a.go", review.Right, 3, 4, "call(y)", at(review.Right, 2, 3, "call(y)", "func one() {", 0), Reanchored},
		{"the other side", "a.go", review.Right, 0, 41, "gone()", at(review.Left, 0, 41, "gone()", "func three() {", 0), Reanchored},
		{"a number outside of all hunks", "a.go", review.Right, 0, 999, "new()", at(review.Right, 0, 42, "new()", "func three() {", 0), Reanchored},
		{"outside, and two lines have the quote", "a.go", review.Right, 0, 999, "same()", ofFile, OfFile},
		{"a quote of another hunk", "a.go", review.Right, 0, 2, "new()", ofFile, OfFile},
		{"a quote of nothing", "a.go", review.Right, 0, 2, "made up", ofFile, OfFile},
		{"no quote", "a.go", review.Right, 0, 2, "", ofFile, OfFile},
		{"no quote of an empty line", "a.go", review.Right, 0, 6, "", at(review.Right, 0, 6, "", "func one() {", 0), Exact},
		{"an unchanged line as an old one", "a.go", review.Left, 0, 40, "before()", at(review.Right, 0, 41, "before()", "func three() {", 0), Reanchored},
		{"another file", "b.go", review.Right, 0, 2, "call( x )", review.Anchor{}, Nowhere},
	} {
		a := Answered{Path: test.path, Side: test.side, Line: test.line, Quote: test.quote}
		if test.start > 0 {
			a.StartLine = &test.start
		}
		got, how := anchor(a, shown)
		if diff := cmp.Diff(test.want, got); diff != "" || how != test.how {
			t.Errorf("%s: anchor = %s, want %s\n%s", test.name, how, test.how, diff)
		}
	}
}

// TestSymbol: a line is in the same symbol whether git shows it as the heading of the hunk or
// it is a line of the hunk; equal lines in a symbol are counted.
func TestSymbol(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	long := "func withALongName" + strings.Repeat("AndMore", 20) + "() {\n"
	body := strings.Repeat("\tx()\n", 6)
	r.write("a.go", long+body+"}\n")
	base := r.commit()
	r.write("a.go", long+body+"\tBUG()\n}\n")
	far := r.commit()
	r.write("a.go", long+"\ty()\n"+body+"\tBUG()\n}\n")
	near := r.commit()
	var prints []string
	for _, head := range []string{far, near} {
		files, err := ParseDiff(r.git("diff", base, head))
		if err != nil {
			t.Fatal(err)
		}
		h, i := files[0].only("BUG()")
		prints = append(prints, files[0].spot(h, i).symbol)
	}
	if prints[0] != prints[1] || !strings.HasPrefix(prints[0], "func withALongName") {
		t.Errorf("symbol = %q from the heading and %q from the hunk, want the same", prints[0], prints[1])
	}
	f := added("a.go", "func f() {", "\tx()", "\tx()", "}", "func g() {", "\tx()", "}")
	for line, want := range map[int]int{1: 0, 2: 1, 5: 0} {
		if got := f.spot(0, line).index; got != want {
			t.Errorf("index of line %d = %d, want %d", line, got, want)
		}
	}
}

// TestPlacesOfManyLines: as many places as there are lines, among lines that are all the same, are
// found in one go. Looking through all lines for each, and through those above for each of
// them, would take longer than a test may.
func TestPlacesOfManyLines(t *testing.T) {
	t.Parallel()
	const lines = 19_000
	lastOfEach := func(r llm.Request) (llm.Response, error) { // chunk
		resp, err := bugs(r)
		if a, wrong := readAnswer(resp.Text); wrong != nil && r.Schema.Name == Schema.Name {
			_ = json.Unmarshal([]byte(resp.Text), &a)
			a.Findings = a.Findings[len(a.Findings)-MaxAnswered:]
			raw, _ := json.Marshal(a)
			resp.Text = string(raw)
		}
		return resp, err
	}
	out := mustReview(t, newReviewer(lastOfEach, &memory{}), newInput(addition("a.go", slices.Repeat([]string{"  call() // BUG"}, lines)...)))
	last := -1
	for _, o := range out.Occurrences {
		last = max(last, o.Finding.Anchor.Index)
	}
	if out.Result.Verdict != review.Failed || last < lines/2 {
		t.Errorf("Review = %s with the index %d, want failed with one beyond %d", out.Result.Verdict, last, lines/2)
	}
}

func TestSuggestion(t *testing.T) {
	t.Parallel()
	old := "package a\n\nfunc f() {\n\tone()\n\ttwo()\n}\n"
	r := newRepository(t)
	r.write("a.go", old)
	r.write("a.txt", "1\n")
	base := r.commit()
	now := "package a\n\nfunc f() {\n\tuno()\n\tdos(\"c4n4ry-7f3a9b2c\")\n\ttres()\n}\n"
	r.write("a.go", now)
	r.write("a.txt", "1\n2\n")
	diff := r.git("diff", base, r.commit())
	for _, test := range []struct {
		name        string
		path        string
		side        review.Side
		start, line int
		quote, text string
		unknown     bool // the file at the head
		want        bool
	}{
		{name: "one line", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\teins()", want: true},
		{name: "with its end", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\teins()\n", want: true},
		{name: "several for one", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\tif x {\n\t\tuno()\n\t}", want: true},
		{name: "nothing for one", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "", want: true},
		{name: "a range", path: "a.go", side: review.Right, start: 3, line: 4, quote: "uno()", text: "func g() {", want: true},
		{name: "does not parse", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\tif x {"},
		{name: "the same", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\tuno()"},
		{name: "a deleted line", path: "a.go", side: review.Left, line: 4, quote: "one()", text: "\teins()"},
		{name: "moved", path: "a.go", side: review.Right, line: 5, quote: "uno()", text: "\teins()"},
		{name: "over a secret", path: "a.go", side: review.Right, start: 4, line: 6, quote: "tres()", text: "\tx()"},
		{name: "with a mask", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\tx(\"[redacted]\")"},
		{name: "with a secret", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\tx(\"c4n4ry-7f3a9b2c\")"},
		{name: "with a hidden character", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\tx() // \u202e"},
		{name: "a range that is none", path: "a.go", side: review.Right, start: 1, line: 99, quote: "uno()", text: "\tx()"},
		{name: "a Go file that is not known", path: "a.go", side: review.Right, line: 4, quote: "uno()", text: "\teins()", unknown: true},
		{name: "a text that is not known", path: "a.txt", side: review.Right, line: 2, quote: "2", text: "zwei", unknown: true, want: true},
	} {
		in := newInput(diff)
		in.Head = map[string]*string{"a.go": &now}
		if test.unknown {
			in.Head = nil
		}
		out := mustReview(t, newReviewer(func(r llm.Request) (llm.Response, error) {
			a := Answered{
				Path: test.path, Side: test.side, Line: test.line, Quote: test.quote, Title: "T", Body: "B",
				Category: review.Style, Severity: review.Low, Suggestion: &Suggestion{test.text},
			}
			if test.start > 0 {
				a.StartLine = &test.start
			}
			return says(a)
		}, &memory{}), in)
		if got := out.Open[0].Suggestion != nil; got != test.want || out.Counts.Suggestions+out.Counts.Unusable != 1 {
			t.Errorf("%s: the suggestion is kept: %v (%+v), want %v", test.name, got, out.Counts, test.want)
		}
		if body := out.Plan.Comments[0].Body; strings.Contains(body, "```suggestion") != test.want {
			t.Errorf("%s: the comment is %q", test.name, body)
		}
	}
}
