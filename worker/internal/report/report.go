// Package report reads what checkers write about their findings: JUnit XML, SARIF
// 2.1.0 and the events of `go test -json`.
//
// A report is evidence against the code and never for it: what is cut off or is not
// what its format says is an error, and where a format can say a thing in two ways,
// the worse one counts. Text that cannot be decoded is no such thing: it becomes U+FFFD.
// Memory is bounded, whatever a report says: it holds counts and the [MaxItems] worst
// failures, without secrets.
//
// Not to be seen is a stream of `go test -json` that ends right between two packages;
// the exit code of the command tells.
package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sieve"
)

// Limits of what is kept of a report.
const (
	MaxItems   = 20
	maxText    = 256 // bytes of a name or path
	maxMessage = 512 // bytes
)

// Report is what a report says.
type Report struct {
	Tests    int            // JUnit and gotest: those that ran or were skipped, and suites or packages that failed as a whole
	Failures int            // what a gate fails for: tests that failed, packages that did not build, findings that are bad enough
	Counted  int            // JUnit: tests by the counts of suites, where they are more than Tests
	Flaky    int            // tests that failed, and passed when they ran again
	Skipped  int            // tests
	Findings map[string]int // SARIF: by level; nil for tests
	Items    []Item         // the worst, in the order of the report: failures before flaky tests, errors before warnings
	More     int            // how many there are besides
}

// Item is one failure or finding. All of it is text of the report, masked and then
// cut short.
type Item struct {
	Name    string `json:"name,omitempty"`  // of the test
	Flaky   bool   `json:"flaky,omitempty"` // it passed when it ran again
	Rule    string `json:"rule,omitempty"`  // of the finding
	Level   string `json:"level,omitempty"` // of the finding
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"` // from 1; 0 is unknown
	Message string `json:"message,omitempty"`
}

// Parse reads a report in the format of in to its end, and judges it as in asks. mask
// takes secrets out of what is kept of its text, and out of errors, which are short and
// for people.
func Parse(in run.GateReport, r io.Reader, mask func(string) string) (Report, error) {
	parse := map[string]func(*reading, io.Reader) error{"junit": (*reading).junit, "sarif": (*reading).sarif, "gotest": (*reading).gotest}[in.Format]
	if parse == nil {
		return Report{}, fmt.Errorf("no format %q; there are %s", in.Format, strings.Join(run.ReportFormats, ", "))
	}
	rep := &reading{in: in, mask: mask}
	if err := parse(rep, r); err != nil {
		return Report{}, errors.New(rep.cut(err.Error(), maxMessage))
	}
	return rep.Report, nil
}

// reading is a report while it is read.
type reading struct {
	Report
	in   run.GateReport
	mask func(string) string
}

// Says returns the report in a few words, for a gate that asked for it as in does.
func (rep Report) Says(in run.GateReport) string {
	if rep.Findings != nil {
		n := 0
		for _, c := range rep.Findings {
			n += c
		}
		text := fmt.Sprintf("%s, %d of level %s", fault.Count(n, "finding"), rep.Failures, failLevel(in))
		if failLevel(in) != levels[0] {
			text += " or worse"
		}
		return text
	}
	text := fmt.Sprintf("%d of %s failed", rep.Failures, fault.Count(rep.Tests, "test"))
	if rep.Flaky > 0 {
		text += fmt.Sprintf("; %d failed at first and passed when they ran again", rep.Flaky)
	}
	return text
}

// failLevel returns the level from which on findings fail a gate.
func failLevel(in run.GateReport) string { return cmp.Or(in.FailOn, run.FailLevels[0]) }

// Add adds another report of the same format to rep.
func (rep *Report) Add(other Report) {
	counted := max(rep.Counted, rep.Tests) + max(other.Counted, other.Tests)
	if rep.Tests += other.Tests; counted > rep.Tests {
		rep.Counted = counted
	}
	rep.Failures += other.Failures
	rep.Flaky += other.Flaky
	rep.Skipped += other.Skipped
	rep.More += other.More
	if other.Findings != nil && rep.Findings == nil {
		rep.Findings = map[string]int{}
	}
	for level, n := range other.Findings {
		rep.Findings[level] += n
	}
	for _, i := range other.Items {
		rep.keep(i)
	}
}

// add keeps an item of the report's text, if there is room.
func (rep *reading) add(i Item) {
	if rep.full(i) {
		rep.More++
		return
	}
	i.Name, i.Rule, i.File = rep.cut(i.Name, maxText), rep.cut(i.Rule, maxText), rep.cut(i.File, maxText)
	i.Message = rep.cut(i.Message, maxMessage)
	i.Line = max(0, i.Line)
	rep.keep(i)
}

// flaky makes of a failure that was added one that passed when it ran again.
func (rep *reading) flaky(name string) {
	rep.Flaky++
	i := Item{Name: rep.cut(name, maxText), Flaky: true}
	at := slices.IndexFunc(rep.Items, func(other Item) bool { return other.Name == i.Name && !other.Flaky })
	if at < 0 {
		rep.More--
	} else {
		i = rep.Items[at]
		i.Flaky = true
		rep.Items = slices.Delete(rep.Items, at, at+1)
	}
	rep.keep(i)
}

// full reports whether there is no room for i, not even in the place of something
// less bad.
func (rep *Report) full(i Item) bool {
	return len(rep.Items) == MaxItems && rep.Items[MaxItems-1].rank() <= i.rank()
}

// keep puts i among the items.
func (rep *Report) keep(i Item) {
	if rep.full(i) {
		rep.More++
		return
	}
	at := slices.IndexFunc(rep.Items, func(other Item) bool { return other.rank() > i.rank() })
	if at < 0 {
		at = len(rep.Items)
	}
	rep.Items = slices.Insert(rep.Items, at, i)
	if len(rep.Items) > MaxItems {
		rep.Items = rep.Items[:MaxItems]
		rep.More++
	}
}

// rank returns a number that is lower the worse an item is.
func (i Item) rank() int {
	if i.Flaky {
		return len(levels)
	}
	return slices.Index(levels, i.Level) // a test has none
}

// cut returns at most n bytes of clean, masked text without white space at its ends.
func (rep *reading) cut(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	return sieve.Beginning(strings.TrimSpace(rep.mask(s)), n)
}
