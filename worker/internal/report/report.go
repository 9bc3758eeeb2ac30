// Package report reads what checkers write about their findings: JUnit XML, SARIF
// 2.1.0 and the events of `go test -json`.
//
// A report is evidence against the code and never for it: what is cut off or is not
// what its format says is an error, and where a format can say a thing in two ways,
// the worse one counts. Memory is bounded, whatever a report says: it holds counts and
// the first [MaxItems] failures, without secrets.
//
// Not to be seen is a stream of `go test -json` that ends right between two packages;
// the exit code of the command tells.
package report

import (
	"errors"
	"fmt"
	"io"
	"strings"

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
	Tests    int            // JUnit and gotest: those that ran or were skipped, and packages that failed as a whole
	Failures int            // tests that failed, packages that did not build, findings of level error
	Skipped  int            // tests
	Findings map[string]int // SARIF: by level; nil for tests
	Items    []Item         // the first failures, or else findings of any level
	More     int            // how many there are besides
}

// Item is one failure or finding. All of it is text of the report, masked and then
// cut short.
type Item struct {
	Name    string `json:"name,omitempty"`  // of the test
	Rule    string `json:"rule,omitempty"`  // of the finding
	Level   string `json:"level,omitempty"` // of the finding
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"` // from 1; 0 is unknown
	Message string `json:"message,omitempty"`
}

// Parse reads a report of one of run.ReportFormats to its end. mask takes secrets out of
// what is kept of its text, and out of errors, which are short and for people.
func Parse(format string, r io.Reader, mask func(string) string) (Report, error) {
	parse := map[string]func(*reading, io.Reader) error{"junit": (*reading).junit, "sarif": (*reading).sarif, "gotest": (*reading).gotest}[format]
	if parse == nil {
		return Report{}, fmt.Errorf("no format %q; there are %s", format, strings.Join(run.ReportFormats, ", "))
	}
	rep := &reading{mask: mask}
	if err := parse(rep, r); err != nil {
		return Report{}, errors.New(rep.cut(err.Error(), maxMessage))
	}
	return rep.Report, nil
}

// reading is a report while it is read.
type reading struct {
	Report
	mask func(string) string
}

// Says is the report in a few words.
func (rep Report) Says() string {
	if rep.Findings != nil {
		n := 0
		for _, c := range rep.Findings {
			n += c
		}
		return fmt.Sprintf("%d findings, %d of level error", n, rep.Failures)
	}
	return fmt.Sprintf("%d of %d tests failed", rep.Failures, rep.Tests)
}

// add keeps an item, if there is room.
func (rep *reading) add(i Item) {
	if len(rep.Items) == MaxItems {
		rep.More++
		return
	}
	i.Name, i.Rule, i.File = rep.cut(i.Name, maxText), rep.cut(i.Rule, maxText), rep.cut(i.File, maxText)
	i.Message = rep.cut(i.Message, maxMessage)
	i.Line = max(0, i.Line)
	rep.Items = append(rep.Items, i)
}

// cut returns at most n bytes of clean, masked text without white space at its ends.
func (rep *reading) cut(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	return sieve.Beginning(strings.TrimSpace(rep.mask(s)), n)
}
