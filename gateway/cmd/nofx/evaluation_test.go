package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

// diffOf returns a diff that adds a file of nine lines.
func diffOf(path string) string {
	return "diff --git a/" + path + " b/" + path + "\nnew file mode 100644\n--- /dev/null\n+++ b/" + path + "\n@@ -0,0 +1,9 @@\n" + strings.Repeat("+x\n", 9)
}

const smallCases = `[
{"name": "defects/a", "held_out": false, "source": "here", "licence": "own", "findings": [
  {"path": "a.go", "line": 5, "rule": "go/x", "category": "correctness"}, {"path": "a.go", "line": 9, "rule": "go/z", "category": "security"}]},
{"name": "defects/b", "held_out": true, "source": "here", "licence": "own", "findings": [{"path": "b.py", "line": 2, "rule": "py/y", "category": "correctness"}]},
{"name": "clean/c", "held_out": false, "source": "here", "licence": "own", "findings": []},
{"name": "clean/d", "held_out": true, "source": "here", "licence": "own", "findings": []},
{"name": "clean/e", "held_out": false, "source": "here", "licence": "own", "findings": []},
{"name": "clean/f", "held_out": false, "source": "here", "licence": "own", "findings": []}
]`

// smallCorpus writes a corpus of six cases, of which evalAnswers knows what comes, and
// returns its folder.
func smallCorpus(t *testing.T, folder string) string {
	t.Helper()
	writeAll(t, folder, map[string]string{"cases.json": smallCases, "defects/a.diff": diffOf("a.go"), "defects/b.diff": diffOf("b.py"),
		"clean/c.diff": diffOf("c.go"), "clean/d.diff": diffOf("d.go"), "clean/e.diff": diffOf("e.go"), "clean/f.diff": diffOf("f.go")})
	return folder
}

func writeAll(t *testing.T, folder string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// evalAnswers answers about the reviews of the small corpus: each has the number of its
// case. The one of e ends in error, and a review of f is refused.
func evalAnswers() map[string]http.HandlerFunc {
	at := func(path string, line int, category string, rule *string) api.Finding {
		f := openFinding()
		f.Path, f.Line, f.Category, f.RuleID = path, &line, category, rule
		return f
	}
	untrue, again, whole, deleted := at("a.go", 9, "security", ptr("go/z")), at("a.go", 9, "security", ptr("go/z")), at("a.go", 9, "security", ptr("go/z")), at("a.go", 9, "security", ptr("go/z"))
	untrue.Disposition, again.Disposition, whole.Line, deleted.Side = ptr(api.FindingDispositionRejected), ptr(api.FindingDispositionDuplicate), nil, ptr(api.FindingSideLEFT)
	found := map[string][]api.Finding{
		id("rev", 0xa): {at("a.go", 5, "correctness", ptr("go/x")), at("a.go", 6, "correctness", ptr("go/x")), at("a.go", 5, "style", nil), untrue, again, whole, deleted},
		id("rev", 0xb): {at("b.py", 5, "correctness", nil)},
		id("rev", 0xd): {at("d.go", 1, "style", ptr("go/x"))},
	}
	reviewOf := func(n int) api.Review {
		v := failedReview()
		v.ID, v.Provider, v.Repository, v.PullRequest, v.Model, v.Tokens, v.CostUsd = id("rev", n), api.ReviewProviderDiff, nil, nil, ptr("claude-x"), 100, 0.01
		v.Coverage.Skipped = []api.ReviewSkip{}
		if n == 0xe {
			v.Verdict, v.Reasons = ptr(api.ReviewVerdictError), []api.ReviewReason{{Code: "model", Detail: "the model refused to answer"}}
		}
		return v
	}
	named := func(r *http.Request) int {
		for n := 0xa; n <= 0xe; n++ {
			if strings.Contains(r.URL.Path, id("rev", n)) {
				return n
			}
		}
		return 0
	}
	return map[string]http.HandlerFunc{
		"createReview": func(w http.ResponseWriter, r *http.Request) {
			var request api.ReviewRequest
			_ = json.NewDecoder(r.Body).Decode(&request)
			_, rest, _ := strings.Cut(deref(request.Diff), "diff --git a/")
			if !deref(request.DryRun) || request.Provider != api.ReviewRequestProviderDiff || r.Header.Get("Idempotency-Key") == "" || rest == "" {
				problem(w, r, http.StatusBadRequest, api.Problem{Code: api.ProblemCodeBadParameter, Detail: "not a dry run of a diff with a key"})
				return
			}
			if rest[0] == 'f' {
				problem(w, r, http.StatusUnprocessableEntity, api.Problem{Code: api.ProblemCodeInvalidField, Detail: "the diff is not one"})
				return
			}
			answer(http.StatusAccepted, api.CreatedReview{Review: reviewOf(int(rest[0]-'a') + 0xa), Run: detail().Run})(w, r)
		},
		"getReview": func(w http.ResponseWriter, r *http.Request) {
			answer(http.StatusOK, api.ReviewAnswer{Review: reviewOf(named(r))})(w, r)
		},
		"listReviewFindings": func(w http.ResponseWriter, r *http.Request) { // two findings a page
			all := found[id("rev", named(r))]
			page := api.FindingPage{Items: []api.Finding{}}
			from := len(r.URL.Query().Get("cursor"))
			page.Items = append(page.Items, all[from:min(from+2, len(all))]...)
			if from+2 < len(all) {
				page.NextCursor = ptr(strings.Repeat("x", from+2))
			}
			answer(http.StatusOK, page)(w, r)
		},
	}
}

// TestReviewEval shows the figures of a small corpus, which can be counted by hand.
func TestReviewEval(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]string{
		"review-eval":        "",
		"review-eval-json":   "--json --parallel 1",
		"review-eval-held":   "--half held_out",
		"review-eval-low":    "--half held_out --min-precision 0.6 --min-clean 0.5",
		"review-eval-enough": "--half held_out --min-precision 0.5 --min-clean 0",
		"review-eval-limit":  "--limit 3",
		"review-eval-bad":    "--half best",
		"review-eval-many":   "--parallel 0",
		"review-eval-share":  "--min-clean 95",
		"review-eval-help":   "--help",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, evalAnswers())
			c := newCLI(t, server.URL)
			smallCorpus(t, filepath.Join(c.dir, "corpus"))
			got := c.transcript(t.Context(), append([]string{"review", "eval", filepath.Join(c.dir, "corpus")}, strings.Fields(args)...)...)
			golden(t, name, strings.ReplaceAll(got, c.dir+"/", ""))
		})
	}
}

// The tables fit a terminal.
func TestReviewEvalOnATerminal(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, evalAnswers())
	c := newCLI(t, server.URL)
	c.screen = func() (int, int) { return 80, 50 }
	smallCorpus(t, filepath.Join(c.dir, "corpus"))
	got := c.transcript(t.Context(), "review", "eval", filepath.Join(c.dir, "corpus"), "--limit", "4", "--parallel", "1")
	for line := range strings.Lines(c.out.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("a line of %d on a terminal of 80: %s", n, line)
		}
	}
	golden(t, "review-eval-80", strings.ReplaceAll(got, c.dir+"/", ""))
}

// As many reviews are under way at once as --parallel says, and a terminal shows how many
// are done.
func TestReviewEvalParallel(t *testing.T) {
	t.Parallel()
	answers := evalAnswers()
	var mu sync.Mutex
	waiting, most, all := 0, 0, make(chan struct{})
	get := answers["getReview"]
	answers["getReview"] = func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		waiting++
		most = max(most, waiting)
		if waiting == 5 {
			close(all)
		}
		mu.Unlock()
		select {
		case <-all:
		case <-t.Context().Done():
		}
		get(w, r)
	}
	_, server := newGateway(t, answers)
	c := newCLI(t, server.URL)
	c.terminal, c.screen = true, func() (int, int) { return 120, 40 }
	code := execute(t.Context(), c.app, []string{"review", "eval", smallCorpus(t, c.dir), "--parallel", "6"})
	if code != exitNoVerdict || most != 5 || !strings.Contains(c.errOut.String(), "\r\x1b[K6 of 6 cases, 2 not reviewed") {
		t.Errorf("review eval = exit %d with %d reviews at once, %q; want %d, the 5 that are accepted, and all cases counted", code, most, &c.errOut, exitNoVerdict)
	}
}

// Ctrl-C shows the figures of what is done.
func TestReviewEvalStopped(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	answers := evalAnswers()
	get := answers["getReview"]
	answers["getReview"] = func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, id("rev", 0xc)) {
			stop()
		}
		get(w, r)
	}
	_, server := newGateway(t, answers)
	c := newCLI(t, server.URL)
	code := execute(ctx, c.app, []string{"review", "eval", smallCorpus(t, c.dir), "--parallel", "1"})
	if code != exitStopped || !strings.Contains(c.errOut.String(), "stopped with 4 cases left") || !strings.Contains(c.out.String(), "2 of 6 cases") {
		t.Errorf("review eval = exit %d, %s%s, want %d and the figures of two cases", code, &c.errOut, &c.out, exitStopped)
	}
}

// A refusal that is not about one case ends the command at once.
func TestReviewEvalRefused(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, map[string]http.HandlerFunc{"createReview": func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusForbidden, api.Problem{Code: api.ProblemCodeReviewsDisabled, Detail: "reviews are switched off"})
	}})
	c := newCLI(t, server.URL)
	if code := execute(t.Context(), c.app, []string{"review", "eval", smallCorpus(t, c.dir), "--parallel", "1"}); code != exitRefused || c.out.Len() > 0 || len(g.requests()) != 1 {
		t.Errorf("review eval = exit %d, %s%s, requests %v; want %d after one", code, &c.errOut, &c.out, g.requests(), exitRefused)
	}
}

// What is wrong with a corpus is said with its place, before anything is reviewed.
func TestReviewEvalBadCorpus(t *testing.T) {
	t.Parallel()
	label := func(rest string) string { return `[{"name": "a", "findings": [` + rest + `]}]` }
	for name, tt := range map[string]struct {
		cases string
		want  []string
	}{
		"no cases.json": {"", []string{"cases.json: no such file or directory"}},
		"no JSON":       {"[\n{\"name\": \"a\"},\n]", []string{"cases.json:3:1: invalid character ']'"}},
		"cut off":       {`[{"name": "a"}`, []string{"cases.json: unexpected EOF"}},
		"no list":       {`{"cases": []}`, []string{"cases.json:1:1: json: cannot unmarshal object"}},
		"a wrong type":  {"[\n{\"name\": 5}]", []string{"cases.json:2:10: json: cannot unmarshal number"}},
		"misspelt":      {`[{"name": "a", "finding": []}]`, []string{`unknown field "finding"`}},
		"empty":         {`[]`, []string{"the corpus has no cases"}},
		"no name":       {`[{"findings": []}]`, []string{"case 1 has no name"}},
		"outside":       {`[{"name": "../a"}]`, []string{`case "../a" is not in the folder`}},
		"twice":         {`[{"name": "a"}, {"name": "a"}]`, []string{`case "a" is there twice`}},
		"no diff":       {`[{"name": "b"}, {"name": "c"}]`, []string{"b.diff: no such file", "c.diff: no such file"}},
		"empty diff":    {`[{"name": "nothing"}]`, []string{"nothing.diff has no line of a new file"}},
		"other file":    {label(`{"path": "b.go", "line": 5, "rule": "r", "category": "style"}`), []string{"a.diff: the label at b.go:5 is outside of the diff, which does not change that file"}},
		"other line":    {label(`{"path": "a.go", "line": 10, "rule": "r", "category": "style"}`), []string{"a.diff: the label at a.go:10 is outside of the diff, which shows lines 1–9"}},
		"no rule":       {label(`{"path": "a.go", "line": 1, "category": "style"}`), []string{"the label at a.go:1 needs a rule and a category"}},
		"no half":       {`[{"name": "a", "held_out": true}]`, []string{"no case that is open"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, server := newGateway(t, nil)
			c := newCLI(t, server.URL)
			files := map[string]string{"a.diff": diffOf("a.go"), "nothing.diff": ""}
			if tt.cases != "" {
				files["cases.json"] = tt.cases
			}
			writeAll(t, c.dir, files)
			code := execute(t.Context(), c.app, []string{"review", "eval", c.dir, "--half", "open"})
			for _, want := range tt.want {
				if code != exitUsage || !strings.Contains(c.errOut.String(), want) || len(g.requests()) > 0 {
					t.Errorf("review eval = exit %d, %s, requests %v; want %d, %q and no request", code, &c.errOut, g.requests(), exitUsage, want)
				}
			}
		})
	}
}

// The lines that labels may name are those of new files, whatever the diff has in its text.
func TestReviewEvalLines(t *testing.T) {
	t.Parallel()
	diff := "diff --git a/x.sql b/x.sql\n--- a/x.sql\n+++ b/x.sql\n@@ -2,3 +4,3 @@ heading\n kept\n--- a comment\n+++ b/not-a-file\n kept\n\\ No newline at end of file\n" +
		"@@ -9 +11 @@\n-old\n+new\r\n" +
		"diff --git \"a/caf\\303\\251 1\" \"b/caf\\303\\251 1\"\n--- \"a/caf\\303\\251 1\"\t\n+++ \"b/caf\\303\\251 1\"\t\n@@ -0,0 +1,2 @@\n+a\n+b\n" +
		"diff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
	want := map[string][]int{"x.sql": {4, 5, 6, 11}, "café 1": {1, 2}}
	if got := cmp.Diff(want, newLines(diff)); got != "" {
		t.Errorf("lines of new files (-want +got):\n%s", got)
	}
}

// The corpus of the rules is one that the command takes.
func TestReviewEvalTakesTheCorpus(t *testing.T) {
	t.Parallel()
	cases, err := readCorpus("../../../worker/internal/llm/rules/testdata/corpus")
	if err != nil {
		t.Fatal(err)
	}
	halves := map[evalHalf]int{}
	for _, c := range (evalFlags{half: string(bothHalves), limit: 40}).choose(cases) {
		halves[c.half()]++
	}
	if len(cases) < 200 || halves[openHalf]+halves[heldOut] != 40 || slices.Min(slices.Collect(maps.Values(halves))) < 10 {
		t.Errorf("the corpus has %d cases, and 40 of them are %v, want at least 200, and some of each half", len(cases), halves)
	}
}
