package review

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Round is what one review of a change knows and has found.
type Round struct {
	Number    int       // 1 for the first review of the change
	Now       time.Time // for dismissals that expire
	Policy    Policy
	Known     []Finding         // of the change, as earlier reviews and people left them
	Found     []Finding         // by this one, with anchors and fingerprints
	Dismissed []Finding         // of other changes, whose dismissals may cover what is new in this one
	Renames   map[string]string // the old path of each renamed file

	// Changed reports whether the lines there changed since the review before.
	Changed func(Anchor) bool
	// Gone returns why a finding is no longer in the change although what it was in was
	// reviewed, or nil if that cannot be shown.
	Gone func(Finding) *Gone
}

// Why a finding is fixed.
const (
	LineGone    = "line_gone"
	FileDeleted = "file_deleted"
	NotInChange = "not_in_change" // a posted diff, which is all there is of its change, does not show it
)

// Gone is the evidence that a finding is fixed.
type Gone struct {
	Reason string `json:"reason"`
	Path   string `json:"path"` // where it was looked for
	Text   string `json:"text"` // the line that is no longer there
	Head   string `json:"head"` // the commit in which it is not
}

// Occurrence is a finding as one review saw it.
type Occurrence struct {
	Finding     Finding     `json:"finding"`
	Disposition Disposition `json:"disposition"`
	Why         string      `json:"why,omitempty"`
	New         bool        `json:"new"`
}

// Fix is an open finding that is fixed.
type Fix struct {
	Finding  Finding `json:"finding"`
	Evidence Gone    `json:"evidence"`
}

// FoundTwice is why something is a duplicate of another finding of the same review.
const FoundTwice = "found twice by this review"

// Settled is what became of all findings of a change.
type Settled struct {
	Occurrences []Occurrence // of this review, in the order in which they are shown
	Fixed       []Fix
	Open        []Finding // all that are open now, for the verdict
}

// Settle matches what was found with what is known and decides what is posted. A known
// finding is not posted again, unless it was fixed and is back. One that a person resolved
// or dismissed stays so.
func Settle(r Round) Settled {
	var s Settled
	found, twice := once(r.Found)
	of := Match(r.Known, found, r.Renames)
	seen := make([]bool, len(r.Known))
	for i, f := range found {
		o := Occurrence{Finding: f, Disposition: Posted, New: true}
		o.Finding.State = Open
		if of[i] >= 0 {
			seen[of[i]] = true
			o = again(r.Known[of[i]], f, r.Now)
		} else if by := r.dismissal(f); by != "" {
			o.Finding.State, o.Disposition, o.Why = Dismissed, Rejected, "dismissed with "+by
		}
		s.Occurrences = append(s.Occurrences, o)
	}
	r.ration(s.Occurrences)
	for _, o := range s.Occurrences {
		if o.Finding.State == Open {
			s.Open = append(s.Open, o.Finding)
		}
	}
	for i, k := range r.Known {
		if seen[i] {
			continue
		}
		if k.State == Dismissed && k.expired(r.Now) {
			k.State, k.Dismissal = Open, nil
		}
		if k.State != Open {
			continue
		}
		if gone := r.Gone(k); gone != nil {
			k.State = Fixed
			s.Fixed = append(s.Fixed, Fix{k, *gone})
			continue
		}
		s.Open = append(s.Open, k)
	}
	for _, f := range twice {
		s.Occurrences = append(s.Occurrences, Occurrence{Finding: f, Disposition: Duplicate, Why: FoundTwice})
	}
	return s
}

// once returns the findings without those that have the fingerprint of another, and the
// others. Of two the worse is kept.
func once(all []Finding) (kept, twice []Finding) {
	at := map[string]int{}
	for _, f := range all {
		i, there := at[f.Fingerprint]
		switch {
		case !there:
			at[f.Fingerprint] = len(kept)
			kept = append(kept, f)
		case worse(f, kept[i]) < 0:
			twice = append(twice, kept[i])
			kept[i] = f
		default:
			twice = append(twice, f)
		}
	}
	return kept, twice
}

// again returns a known finding that was found once more. It is as it was found now, but an
// open one is no less severe and no less sure than it was.
func again(known, f Finding, now time.Time) Occurrence {
	o := Occurrence{Finding: f, Disposition: Duplicate, Why: "an earlier review reported it"}
	was := known.State
	o.Finding.ID, o.Finding.State = known.ID, was
	o.Finding.ThreadID, o.Finding.CommentID, o.Finding.URL = known.ThreadID, known.CommentID, known.URL
	o.Finding.Dismissal = known.Dismissal
	if was == Open { // what is open and seen again does not become harmless by another word for it
		if known.Severity.Reaches(f.Severity) {
			o.Finding.Severity = known.Severity
		}
		o.Finding.Confidence = max(f.Confidence, known.Confidence)
	}
	switch {
	case was == Fixed:
		o.Finding.State, o.Disposition, o.Why = Open, Posted, "it was fixed and is back"
	case was == Dismissed && known.expired(now):
		o.Finding.State, o.Finding.Dismissal, o.Why = Open, nil, "its dismissal has expired"
	}
	return o
}

// dismissal returns the known finding whose dismissal covers f, or "".
func (r Round) dismissal(f Finding) string {
	for _, k := range slices.Concat(r.Known, r.Dismissed) {
		if k.covers(f, r.Now) {
			return cmp.Or(k.ID, k.Fingerprint)
		}
	}
	return ""
}

// ration sorts what is to be posted to the front, the worst first, and decides which of
// them are: not what the ratchet holds back, and not more than the policy allows.
func (r Round) ration(all []Occurrence) {
	slices.SortStableFunc(all, func(a, b Occurrence) int {
		return cmp.Or(
			order(a.Disposition == Posted, b.Disposition == Posted),
			order(r.Policy.Blocks(a.Finding), r.Policy.Blocks(b.Finding)),
			worse(a.Finding, b.Finding))
	})
	room := r.Policy.Limits.InlineComments
	for i := range all {
		o := &all[i]
		switch {
		case o.Disposition != Posted:
			continue
		case o.New && r.held(o.Finding):
			o.Disposition, o.Why = Capped, "a later review posts nothing of this severity anew"
		case room == 0:
			o.Disposition, o.Why = Capped, fmt.Sprintf("a review posts %d comments", r.Policy.Limits.InlineComments)
		case o.Finding.Anchor.Line == 0:
			o.Disposition, o.Why = Demoted, cmp.Or(o.Why, "it has no line")
			room--
		default:
			room--
		}
	}
}

// held reports whether the ratchet holds a new finding back.
func (r Round) held(f Finding) bool {
	least := r.Policy.Ratchet.Later
	switch r.Number {
	case 0, 1:
		return false
	case 2:
		least = r.Policy.Ratchet.Second
	}
	return !f.Severity.Reaches(least) && !r.Policy.Blocks(f) && !r.Changed(f.Anchor)
}

// worse compares findings, the worse one first.
func worse(a, b Finding) int {
	return cmp.Or(
		slices.Index(Severities, a.Severity)-slices.Index(Severities, b.Severity),
		cmp.Compare(b.Confidence, a.Confidence),
		order(!aside(a.Anchor.Path), !aside(b.Anchor.Path)),
		strings.Compare(a.Anchor.Path, b.Anchor.Path),
		a.Anchor.Line-b.Anchor.Line,
		strings.Compare(a.Fingerprint, b.Fingerprint))
}

// order puts what is true first.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// aside reports whether a file is a test, an example or a text, in which a mistake costs less.
func aside(p string) bool {
	for _, dir := range strings.Split(path.Dir(p), "/") {
		if slices.Contains([]string{"test", "tests", "__tests__", "testdata", "docs", "doc", "examples"}, dir) {
			return true
		}
	}
	name := path.Base(p)
	return strings.Contains(name, "_test.") || strings.Contains(name, ".test.") || strings.Contains(name, ".spec.") || path.Ext(name) == ".md"
}
