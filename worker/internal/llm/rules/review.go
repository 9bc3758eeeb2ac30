package rules

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/reviewer"
)

// rule finds one mistake.
type rule struct {
	id         string
	title      string // what is wrong
	why        string // what comes of it, and how to mend it
	category   review.Category
	severity   review.Severity
	confidence float64
	find       func(*code) []hit
}

// hit is a line of code that a rule objects to.
type hit struct {
	line    int    // index in code.lines
	replace string // the line as it should be, where that is certain
}

// code is the new side of a hunk.
type code struct {
	path   string
	test   bool // of tests, examples or documentation
	lines  []line
	tokens []lexeme // without comments
	notes  []bool   // by line: has a comment
	funcs  []function
}

type line struct {
	number int
	added  bool
	text   string
}

// language is what is known of files with some endings.
type language struct {
	syntax syntax
	rules  []rule
}

var languages = map[string]*language{
	".go": &golang, ".ts": &script, ".tsx": &script, ".mts": &script, ".cts": &script, ".js": &script, ".jsx": &script, ".mjs": &script, ".cjs": &script,
	".py": &python, ".sql": &sql,
}

// findings answers a request for a review.
func findings(r llm.Request) (llm.Response, error) {
	answer := reviewer.Answer{Schema: 1, Findings: []reviewer.Answered{}}
	for _, p := range r.Parts {
		lang := languages[strings.ToLower(path.Ext(p.Name))]
		if !p.Untrusted || lang == nil || generated(p.Name) {
			continue
		}
		hunks, err := reviewer.ReadNumbered(p.Text)
		if err != nil {
			return llm.Response{}, fault.New(fault.Invalid, "invalid", "part %q is not in numbered lines: %v", p.Name, err)
		}
		for _, h := range hunks {
			answer.Findings = append(answer.Findings, lang.review(p.Name, h)...)
		}
	}
	answer.Findings = worst(answer.Findings)
	text, err := json.Marshal(answer)
	if err != nil {
		return llm.Response{}, fmt.Errorf("answer as JSON: %w", err)
	}
	return llm.Response{Text: string(text), Stop: llm.End, Model: Name}, nil
}

// worst returns as many findings as an answer may have, the worst, in their order.
func worst(all []reviewer.Answered) []reviewer.Answered {
	if len(all) <= reviewer.MaxAnswered {
		return all
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Or(cmp.Compare(slices.Index(review.Severities, all[i].Severity), slices.Index(review.Severities, all[j].Severity)),
			cmp.Compare(all[j].Confidence, all[i].Confidence))
	})
	order = order[:reviewer.MaxAnswered]
	slices.Sort(order)
	kept := make([]reviewer.Answered, len(order))
	for i, j := range order {
		kept[i] = all[j]
	}
	return kept
}

// review returns what the rules find in the added lines of a hunk, by line.
func (l *language) review(name string, h reviewer.Hunk) (all []reviewer.Answered) {
	c := &code{path: name, test: aside(name)}
	for _, in := range h.Lines {
		if in.Mark != reviewer.Subtracted {
			c.lines = append(c.lines, line{in.New, in.Mark == reviewer.Addition, in.Text})
		}
	}
	l.syntax.enter(c.lines)
	c.tokens, c.notes = l.syntax.scan(c.lines)
	if l == &golang {
		c.funcs = functions(c.lines)
	}
	for _, r := range slices.Concat(l.rules, secrets) {
		seen := map[int]bool{}
		for _, at := range r.find(c) {
			if at.line < 0 || at.line >= len(c.lines) || !c.lines[at.line].added || seen[at.line] {
				continue
			}
			seen[at.line] = true
			on := c.lines[at.line]
			if strings.HasPrefix(strings.TrimSpace(on.text), ">>>") { // an example of Python in a text
				continue
			}
			f := reviewer.Answered{
				Path: name, Side: review.Right, Line: on.number, Quote: cut(on.text, 2000), Title: r.title, Body: r.why,
				Category: r.category, Severity: r.severity, Confidence: r.confidence, RuleID: &r.id, Evidence: []string{cut(strings.TrimSpace(on.text), 500)},
			}
			if at.replace != "" {
				f.Suggestion = &reviewer.Suggestion{Replacement: at.replace}
			}
			all = append(all, f)
		}
	}
	slices.SortStableFunc(all, func(a, b reviewer.Answered) int { return cmp.Compare(a.Line, b.Line) })
	return all
}

// cut returns the first n characters of s.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// generated reports whether a file is written by a program, and not to be read.
func generated(name string) bool {
	base := path.Base(name)
	for _, part := range []string{".gen.", "_generated.", ".generated.", ".pb.", "_pb2.", ".min."} {
		if strings.Contains(base, part) {
			return true
		}
	}
	return false
}

// aside reports whether a file is of tests, examples or documentation, where some
// mistakes are none.
func aside(name string) bool {
	base := path.Base(name)
	for _, dir := range strings.Split(path.Dir(name), "/") {
		switch strings.ToLower(dir) {
		case "test", "tests", "testing", "testdata", "__tests__", "spec", "example", "examples", "fixtures", "docs", "doc", "mock", "mocks", "demo", "benchmark", "benchmarks":
			return true
		}
	}
	return strings.HasSuffix(base, "_test.go") || strings.Contains(base, ".test.") || strings.Contains(base, ".spec.") ||
		strings.HasPrefix(base, "test_") || strings.HasSuffix(base, "_test.py") || base == "conftest.py"
}
