package main

import (
	"cmp"
	"maps"
	"slices"

	"nofx.dev/gateway/api"
)

// evalHalf is a half of a corpus, or all of it.
type evalHalf string

const (
	openHalf   evalHalf = "open"
	heldOut    evalHalf = "held_out" // not looked at while a reviewer was made
	bothHalves evalHalf = "all"
)

// nearLabel is how many lines a finding may be away from what is wrong.
const nearLabel = 3

// evaluation is what --json prints.
type evaluation struct {
	Corpus  string           `json:"corpus"`
	Models  []string         `json:"models"`
	Cases   []evaluatedCase  `json:"cases"`
	Halves  []*evaluatedHalf `json:"halves"`
	Errors  int              `json:"errors"`  // cases that could not be reviewed
	NotRun  int              `json:"not_run"` // since the command was stopped
	Partial int              `json:"partial"` // cases of which something was not reviewed
	Tokens  int64            `json:"tokens"`
	CostUsd float64          `json:"cost_usd"`
}

// evaluatedCase is what came of one case. What was wrong and what was missed is told of the
// open half alone, so that nobody tunes a reviewer on the other.
type evaluatedCase struct {
	Name       string        `json:"name"`
	Half       evalHalf      `json:"half"`
	ReviewID   string        `json:"review_id,omitempty"`
	Verdict    string        `json:"verdict,omitempty"`
	Error      string        `json:"error,omitempty"`
	Labels     int           `json:"labels"`
	Findings   int           `json:"findings"`
	Right      int           `json:"right"`
	AtLine     int           `json:"at_line"`
	Duplicates int           `json:"duplicates"`
	Partial    bool          `json:"partial"`
	Tokens     int64         `json:"tokens"`
	CostUsd    float64       `json:"cost_usd"`
	Wrong      []corpusLabel `json:"wrong,omitempty"`
	Missed     []corpusLabel `json:"missed,omitempty"`

	of    corpusCase
	model string
	found []api.Finding
	done  bool
}

// figures are the sums of cases, or of one rule in them. Shares of nothing are absent.
type figures struct {
	Labels       int      `json:"labels"`
	Found        int      `json:"found"` // labels
	Findings     int      `json:"findings"`
	Right        int      `json:"right"`   // findings
	AtLine       int      `json:"at_line"` // of the right ones
	Duplicates   int      `json:"duplicates"`
	Precision    *float64 `json:"precision"`
	Recall       *float64 `json:"recall"`
	LineAccuracy *float64 `json:"line_accuracy"`
}

func (f *figures) shares() {
	f.Precision, f.Recall, f.LineAccuracy = share(f.Right, f.Findings), share(f.Found, f.Labels), share(f.AtLine, f.Right)
}

func share(a, b int) *float64 {
	if b == 0 {
		return nil
	}
	return new(float64(a) / float64(b))
}

type ruleFigures struct {
	Rule string `json:"rule"` // empty: of findings without one
	figures
}

type evaluatedHalf struct {
	Half       evalHalf `json:"half"`
	Defects    int      `json:"defects"` // cases
	Clean      int      `json:"clean"`
	Quiet      int      `json:"quiet"` // clean cases without a finding
	CleanShare *float64 `json:"clean_share"`
	figures
	Rules []*ruleFigures `json:"rules"`
}

func (h *evaluatedHalf) rule(name string) *ruleFigures {
	for _, r := range h.Rules {
		if r.Rule == name {
			return r
		}
	}
	r := &ruleFigures{Rule: name}
	h.Rules = append(h.Rules, r)
	return r
}

// add scores a case that was reviewed. A finding is right when it is near a label of its
// category; one label is found once.
func (h *evaluatedHalf) add(c *evaluatedCase) {
	if c.Labels == 0 {
		h.Clean++
		if c.Findings == 0 {
			h.Quiet++
		}
	} else {
		h.Defects++
	}
	open, taken := slices.Clone(c.of.Findings), []corpusLabel(nil)
	for _, f := range c.found {
		by := h.rule(deref(f.RuleID))
		by.Findings++
		best := nearest(open, f)
		switch {
		case best >= 0:
			l := open[best]
			c.Right++
			by.Right++
			h.rule(l.Rule).Found++
			if l.Line == *f.Line {
				c.AtLine++
				by.AtLine++
			}
			open, taken = slices.Delete(open, best, best+1), append(taken, l)
			continue
		case nearest(taken, f) >= 0:
			c.Duplicates++
			by.Duplicates++
		}
		if c.Half == openHalf {
			c.Wrong = append(c.Wrong, corpusLabel{Path: f.Path, Line: deref(f.Line), Rule: deref(f.RuleID), Category: f.Category})
		}
	}
	if c.Half == openHalf {
		c.Missed = open
	}
	for _, l := range c.of.Findings {
		h.rule(l.Rule).Labels++
	}
	h.Labels += c.Labels
	h.Findings += c.Findings
	h.Right += c.Right
	h.Found += c.Right
	h.AtLine += c.AtLine
	h.Duplicates += c.Duplicates
}

// nearest returns the index of the label that is nearest to a finding and near enough, or -1.
func nearest(labels []corpusLabel, f api.Finding) int {
	best := -1
	if f.Line == nil || deref(f.Side) == api.FindingSideLEFT {
		return best
	}
	away := func(l corpusLabel) int { return max(l.Line-*f.Line, *f.Line-l.Line) }
	for i, l := range labels {
		if l.Path == f.Path && l.Category == f.Category && away(l) <= nearLabel && (best < 0 || away(l) < away(labels[best])) {
			best = i
		}
	}
	return best
}

// sum scores all cases that were reviewed.
func (e *evaluation) sum() {
	models := map[string]bool{}
	for i := range e.Cases {
		c := &e.Cases[i]
		e.Tokens += c.Tokens
		e.CostUsd += c.CostUsd
		switch {
		case !c.done:
			e.NotRun++
			continue
		case c.Error != "":
			e.Errors++
			continue
		case c.Partial:
			e.Partial++
		}
		if c.model != "" {
			models[c.model] = true
		}
		at := slices.IndexFunc(e.Halves, func(h *evaluatedHalf) bool { return h.Half == c.Half })
		e.Halves[at].add(c)
	}
	e.Models = slices.Sorted(maps.Keys(models))
	for _, h := range e.Halves {
		h.shares()
		h.CleanShare = share(h.Quiet, h.Clean)
		for _, r := range h.Rules {
			r.shares()
		}
		slices.SortFunc(h.Rules, func(a, b *ruleFigures) int { return cmp.Compare(a.Rule, b.Rule) })
	}
}
