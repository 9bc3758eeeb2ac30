package rules_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/rules"
	"nofx.dev/worker/internal/reviewer"
)

// corpusCase is a change and what is wrong with it: nothing, for a clean one.
type corpusCase struct {
	Name     string  `json:"name"`
	HeldOut  bool    `json:"held_out"` // not looked at while rules were written
	Source   string  `json:"source"`
	Licence  string  `json:"licence"`
	Findings []label `json:"findings"`
}

type label struct {
	Path     string          `json:"path"`
	Line     int             `json:"line"`
	Rule     string          `json:"rule"`
	Category review.Category `json:"category"`
}

func corpus(t *testing.T) (all []corpusCase) {
	t.Helper()
	raw, err := os.ReadFile("testdata/corpus/cases.json")
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// reviewed returns what the rules answer about a diff, in one request.
func reviewed(t *testing.T, diff string) []reviewer.Answered {
	t.Helper()
	files, err := reviewer.ParseDiff(diff)
	if err != nil {
		t.Fatal(err)
	}
	r := llm.Request{Schema: reviewer.Schema}
	for _, f := range files {
		r.Parts = append(r.Parts, llm.Part{Name: f.Path, Text: reviewer.Numbered(f.Hunks), Untrusted: true})
	}
	resp, err := rules.New().Complete(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if err := reviewer.Schema.Check(resp.Text); err != nil {
		t.Fatalf("the answer is not of the schema: %v\n%s", err, resp.Text)
	}
	var a reviewer.Answer
	if err := json.Unmarshal([]byte(resp.Text), &a); err != nil {
		t.Fatal(err)
	}
	wantAnchored(t, files, a.Findings)
	return a.Findings
}

// wantAnchored fails where a finding is not at an added line that it quotes.
func wantAnchored(t *testing.T, files []reviewer.File, found []reviewer.Answered) {
	t.Helper()
	for _, f := range found {
		anchored := slices.ContainsFunc(files, func(file reviewer.File) bool {
			return file.Path == f.Path && slices.ContainsFunc(file.Hunks, func(h reviewer.Hunk) bool {
				return slices.Contains(h.Lines, reviewer.Line{Mark: reviewer.Addition, New: f.Line, Text: f.Quote})
			})
		})
		if !anchored || f.Side != review.Right {
			t.Errorf("%s:%d %s is at no added line that is %q", f.Path, f.Line, *f.RuleID, f.Quote)
		}
	}
}

// score counts what is found of a half of the corpus.
type score struct {
	defects, clean        int // cases
	labels, found         int // of defects
	reported, right, line int // findings; right ones; those at the very line
	quiet                 int // clean cases without a finding
	byRule                map[string][3]int
}

func (s *score) String() string {
	return fmt.Sprintf("%d labels in %d defects, %d clean: precision %.2f (%d of %d findings), recall %.2f (%d found), line accuracy %.2f, clean cases without a finding %.3f",
		s.labels, s.defects, s.clean, ratio(s.right, s.reported), s.right, s.reported, ratio(s.found, s.labels), s.found, ratio(s.line, s.right), ratio(s.quiet, s.clean))
}

func ratio(a, b int) float64 {
	if b == 0 {
		return 1
	}
	return float64(a) / float64(b)
}

// near is how many lines a finding may be away from what is wrong.
const near = 3

// add scores the findings of a case. A finding is right when it is near a label of its
// category; one label is found once.
func (s *score) add(t *testing.T, c corpusCase, found []reviewer.Answered) {
	if len(c.Findings) == 0 {
		s.clean++
		if len(found) == 0 {
			s.quiet++
		}
	} else {
		s.defects++
	}
	s.labels += len(c.Findings)
	s.reported += len(found)
	open := slices.Clone(c.Findings)
	for _, f := range found {
		best := -1
		for i, l := range open {
			if l.Path == f.Path && l.Category == f.Category && distance(l, f) <= near && (best < 0 || distance(l, f) < distance(open[best], f)) {
				best = i
			}
		}
		count := s.byRule[*f.RuleID]
		count[0]++
		switch {
		case best >= 0:
			s.right++
			s.found++
			count[1]++
			if open[best].Line == f.Line {
				s.line++
			}
			open = slices.Delete(open, best, best+1)
		case !c.HeldOut:
			t.Logf("open %s: wrong: %s:%d %s %s", c.Name, f.Path, f.Line, *f.RuleID, f.Quote)
		}
		s.byRule[*f.RuleID] = count
	}
	for _, l := range open {
		count := s.byRule[l.Rule]
		count[2]++
		s.byRule[l.Rule] = count
		if !c.HeldOut {
			t.Logf("open %s: missed: %s:%d %s", c.Name, l.Path, l.Line, l.Rule)
		}
	}
}

func distance(l label, f reviewer.Answered) int { return max(l.Line-f.Line, f.Line-l.Line) }

// TestCorpus scores the rules on reversed fixes of real defects and on clean changes. What
// is wrong in the half that is held out is not printed, so that nobody tunes on it.
func TestCorpus(t *testing.T) {
	t.Parallel()
	halves := map[bool]*score{false: {byRule: map[string][3]int{}}, true: {byRule: map[string][3]int{}}}
	for _, c := range corpus(t) {
		raw, err := os.ReadFile("testdata/corpus/" + c.Name + ".diff")
		if err != nil {
			t.Fatal(err)
		}
		halves[c.HeldOut].add(t, c, reviewed(t, string(raw)))
	}
	open, held := halves[false], halves[true]
	for name, n := range open.byRule {
		t.Logf("open %s: %d reported, %d right, %d missed", name, n[0], n[1], n[2])
	}
	t.Logf("open half: %v", open)
	t.Logf("held out:  %v", held)
	if defects, clean := open.defects+held.defects, open.clean+held.clean; defects < 60 || clean < 100 || held.defects < 30 || held.clean < 50 {
		t.Errorf("the corpus has %d defects and %d clean cases, %d and %d held out; want 60 and 100, and about half", defects, clean, held.defects, held.clean)
	}
	if p := ratio(held.right, held.reported); p < 0.8 || held.found == 0 {
		t.Errorf("precision on the half held out = %.2f, want 0.8 or more", p)
	}
	if q := ratio(held.quiet, held.clean); q < 0.95 {
		t.Errorf("clean cases held out without a finding = %.3f, want 0.95 or more", q)
	}
}
