package reviewer

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"path"
	"strings"

	"nofx.dev/shared/review"
)

// readAnswer returns an answer that holds to the schema. The error is for its author.
func readAnswer(text string) (Answer, error) {
	var a Answer
	if err := Schema.Check(text); err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return a, fmt.Errorf("cannot be read: %w", err)
	}
	return a, nil
}

// Counts are what became of the answers of a review.
type Counts struct {
	Answered    int `json:"answered"`
	Exact       int `json:"exact"`
	Reanchored  int `json:"reanchored"`
	OfFile      int `json:"of_file"`
	Rejected    int `json:"rejected"`
	Dropped     int `json:"dropped"`     // by the second pass
	Lowered     int `json:"lowered"`     // by the second pass
	Suggestions int `json:"suggestions"` // that were kept
	Unusable    int `json:"unusable"`    // suggestions that were not
	Repaired    int `json:"repaired"`    // answers that were given again
}

func (n *Counts) add(o Counts) {
	n.Answered += o.Answered
	n.Exact += o.Exact
	n.Reanchored += o.Reanchored
	n.OfFile += o.OfFile
	n.Rejected += o.Rejected
	n.Dropped += o.Dropped
	n.Lowered += o.Lowered
	n.Suggestions += o.Suggestions
	n.Unusable += o.Unusable
	n.Repaired += o.Repaired
}

// finding returns what an answer becomes, and whether it is about what was shown.
func (v *view) finding(a Answered, n *Counts) (review.Finding, bool) {
	n.Answered++
	place, how := anchor(a, v.shown)
	switch how {
	case Exact:
		n.Exact++
	case Reanchored:
		n.Reanchored++
	case OfFile:
		n.OfFile++
	case Nowhere:
		n.Rejected++
		return review.Finding{}, false
	}
	f := review.Finding{
		State: review.Open, Category: a.Category, Severity: a.Severity, Confidence: a.Confidence, Anchor: place,
		Title: inertLine(a.Title, maxTitle, v.redact), Body: inert(a.Body, maxBody, v.redact),
	}
	if f.Title == "" {
		f.Title = "A finding about " + string(a.Category)
	}
	if a.RuleID != nil {
		f.RuleID = ruleID(*a.RuleID)
	}
	for _, e := range a.Evidence {
		f.Evidence = append(f.Evidence, inertLine(e, 500, v.redact))
	}
	if a.Suggestion != nil {
		wanted := a.StartLine != nil && *a.StartLine < a.Line
		if how == Exact && wanted == (place.StartLine != 0) && v.applies(place, a.Suggestion.Replacement) {
			n.Suggestions++
			f.Suggestion = &a.Suggestion.Replacement
		} else {
			n.Unusable++
		}
	}
	f.Fingerprint = review.Fingerprint(f.Anchor, f.Category, f.Title)
	return f, true
}

// ruleID returns what of a rule's name has the form of one. The rule of our own finding is
// not for others.
func ruleID(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./", r) {
			return r
		}
		return -1
	}, s)
	if s == InjectionRule {
		return ""
	}
	return cut(s, 64)
}

// view is what a model is shown of a change, and what may be said about it.
type view struct {
	shown  map[string]File    // scrubbed
	raw    map[string]File    // as they are
	head   map[string]*string // whole files at the head, as far as they are known; nil: not there
	redact func(string) string
}

// maxSuggestion is how long a suggestion is at the most, in bytes.
const maxSuggestion = 2000

// applies reports whether a suggestion can be offered: new text for lines of the head, as
// they are and not as they were shown, which leaves a Go file one that parses.
func (v *view) applies(place review.Anchor, replacement string) bool {
	if place.Side != review.Right || len(replacement) > maxSuggestion || strings.Contains(replacement, wholly) || strings.ContainsFunc(strings.ReplaceAll(replacement, "\n", ""), invisible) || v.redact(replacement) != replacement {
		return false
	}
	from := place.Line
	if place.StartLine != 0 {
		from = place.StartLine
	}
	shown, raw := v.shown[place.Path], v.raw[place.Path]
	h, _ := shown.find(place.Side, place.Line)
	var was []string
	for n := from; n <= place.Line; n++ {
		i := shown.Hunks[h].find(place.Side, n)
		if i < 0 || shown.Hunks[h].Lines[i].Text != raw.Hunks[h].Lines[i].Text {
			return false
		}
		was = append(was, raw.Hunks[h].Lines[i].Text)
	}
	if strings.Join(was, "\n") == strings.TrimSuffix(replacement, "\n") {
		return false
	}
	if path.Ext(place.Path) != ".go" {
		return true
	}
	text, ok := v.whole(raw)
	if !ok {
		return false
	}
	lines := strings.Split(text, "\n")
	if place.Line > len(lines) || strings.TrimSuffix(lines[place.Line-1], "\r") != was[len(was)-1] {
		return false
	}
	changed := strings.Join(lines[:from-1], "\n") + "\n" + strings.TrimSuffix(replacement, "\n") + "\n" + strings.Join(lines[place.Line:], "\n")
	_, err := parser.ParseFile(token.NewFileSet(), "", changed, parser.SkipObjectResolution)
	return err == nil
}

// whole returns a file at the head, if it is known or all of it is new.
func (v *view) whole(f File) (string, bool) {
	if text := v.head[f.Path]; text != nil {
		return *text, true
	}
	if f.Change != Added || len(f.Hunks) != 1 {
		return "", false
	}
	var b strings.Builder
	for _, l := range f.Hunks[0].Lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String(), true
}
