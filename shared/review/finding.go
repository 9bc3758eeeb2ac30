package review

import (
	"slices"
	"time"

	"nofx.dev/shared/machine"
)

// Severity says how bad a finding is.
type Severity string

// The severities, the worst first.
const (
	Critical Severity = "critical"
	High     Severity = "high"
	Medium   Severity = "medium"
	Low      Severity = "low"
	Info     Severity = "info"
)

// Severities are all severities, the worst first.
var Severities = []Severity{Critical, High, Medium, Low, Info}

// Reaches reports whether s is as bad as least, or worse. Values that are no severities
// reach nothing.
func (s Severity) Reaches(least Severity) bool {
	i, j := slices.Index(Severities, s), slices.Index(Severities, least)
	return i >= 0 && i <= j
}

// Category says what a finding is about.
type Category string

// The categories.
const (
	Correctness   Category = "correctness"
	Security      Category = "security"
	Concurrency   Category = "concurrency"
	Performance   Category = "performance"
	ErrorHandling Category = "error_handling"
	API           Category = "api"
	Tests         Category = "tests"
	Docs          Category = "docs"
	Style         Category = "style"
)

// Side says on which side of a diff a line is, in the words of the forges.
type Side string

// The sides.
const (
	Left  Side = "LEFT"  // the base: deleted lines
	Right Side = "RIGHT" // the head: added and unchanged lines
)

// State is a state of a review or a finding.
type State = machine.State

// The states of a finding.
const (
	Open      State = "open"
	Fixed     State = "fixed"     // a later head has not got it any more
	Resolved  State = "resolved"  // somebody said that it is dealt with
	Dismissed State = "dismissed" // somebody said that it is not one
)

// Disposition says what a review did with something that it found.
type Disposition string

// The dispositions.
const (
	Posted    Disposition = "posted"    // at its line
	Capped    Disposition = "capped"    // in the summary only, since there was no room
	Demoted   Disposition = "demoted"   // to its file, since its line could not be found
	Duplicate Disposition = "duplicate" // known already, or found twice
	Rejected  Disposition = "rejected"  // not about this change, found untrue, or dismissed beforehand
)

// Anchor is where a finding is. Its Text is what identifies it: numbers change with each
// push, and are here for people and forges.
type Anchor struct {
	Path      string `json:"path"`
	Side      Side   `json:"side,omitempty"`
	StartLine int    `json:"start_line,omitempty"` // of a range that ends at Line, else 0
	Line      int    `json:"line,omitempty"`       // 0: the file as a whole
	Text      string `json:"text,omitempty"`       // of Line, see Normal
	Symbol    string `json:"symbol,omitempty"`     // what it is in, as git shows it after a hunk's numbers
	Index     int    `json:"index,omitempty"`      // how many lines of the symbol before it have the same text
}

// Finding is a remark of the gate that lives on across the heads of a change.
type Finding struct {
	ID          string     `json:"id,omitempty"` // of a stored one
	Fingerprint string     `json:"fingerprint"`
	State       State      `json:"state"`
	Category    Category   `json:"category"`
	Severity    Severity   `json:"severity"`
	Confidence  float64    `json:"confidence"` // 0 to 1
	RuleID      string     `json:"rule_id,omitempty"`
	Title       string     `json:"title"`
	Body        string     `json:"body"`
	Evidence    []string   `json:"evidence,omitempty"`
	Suggestion  *string    `json:"suggestion,omitempty"` // new text for the lines of the anchor
	Anchor      Anchor     `json:"anchor"`
	ThreadID    string     `json:"thread_id,omitempty"`
	CommentID   string     `json:"comment_id,omitempty"`
	URL         string     `json:"url,omitempty"`
	Dismissal   *Dismissal `json:"dismissal,omitempty"` // of a dismissed one
}

// Dismissal is how far somebody's word goes that a finding is not one.
type Dismissal struct {
	Scope   Scope      `json:"scope"`
	Reason  string     `json:"reason"`
	Expires *time.Time `json:"expires_at,omitempty"`
}

// Scope is what a dismissal covers.
type Scope string

// The scopes. Beyond the finding itself a dismissal never covers severity high or worse.
const (
	ScopeThis Scope = "this" // the finding
	ScopePath Scope = "path" // what is of its kind in its file
	ScopeRule Scope = "rule" // what is of its kind anywhere
)

// covers reports whether the dismissal of f also dismisses another finding.
func (f Finding) covers(other Finding, now time.Time) bool {
	if f.State != Dismissed || f.expired(now) || other.Severity.Reaches(High) || f.kind() != other.kind() {
		return false
	}
	switch f.Dismissal.Scope {
	case ScopePath:
		return f.Anchor.Path == other.Anchor.Path
	case ScopeRule:
		return true
	}
	return false
}

// expired reports whether the dismissal of a dismissed finding is over.
func (f Finding) expired(now time.Time) bool {
	return f.Dismissal == nil || f.Dismissal.Expires != nil && !now.Before(*f.Dismissal.Expires)
}

// kind returns what findings of one kind share: their rule, or their category without one.
func (f Finding) kind() string {
	if f.RuleID != "" {
		return "rule " + f.RuleID
	}
	return "category " + string(f.Category)
}
