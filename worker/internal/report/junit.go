package report

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sieve"
)

// How deep suites and tests, and all elements, may lie in each other.
const (
	maxDepth   = 32
	maxNesting = 1000
)

// junit reads the XML that many test runners write and that nobody specified:
// testsuites and testsuite, in each other, with testcase, which holds failure, error
// or skipped. Whatever else lies in these, but for output and properties, may hold
// them too. A suite may hold failure and error itself, when it failed as a whole.
// Where a suite's own count is higher than what it holds, as when a file could not be
// loaded, the count holds; and so does the status of a suite or test that failed.
//
// A count of tests proves nothing: some runners count assertions, or reruns, or what
// they leave out.
//
// A test with flakyFailure or flakyError failed and then passed. To the runner that is
// a pass, and so it is here unless the gate asks for more. Its suite may have counted
// it once as what it was at first, but not where it counts flakes for themselves.
func (rep *reading) junit(r io.Reader) error {
	d := junitReader{reading: rep, xml: newXMLTokens(r)}
	all := suite{found: tally{}}
	for begun := false; ; begun = true {
		start, err := d.root()
		if errors.Is(err, io.EOF) && begun {
			break
		}
		if err != nil {
			return malformed("XML", err)
		}
		if begun || !isSuite(start) {
			return fmt.Errorf("no JUnit report: it has the element %q where testsuites or testsuite belongs", start.Name.Local)
		}
		if err = d.suite(start, &all); err != nil {
			return err
		}
	}
	rep.Failures += all.unnamed
	rep.More += all.unnamed
	if rep.in.Flaky == run.FlakyFails {
		rep.Failures += rep.Flaky
	}
	rep.Tests = max(rep.Tests, rep.Failures+rep.Skipped)
	if all.counted > rep.Tests {
		rep.Counted = all.counted
	}
	return nil
}

// junitReader is a JUnit report while it is read.
type junitReader struct {
	*reading
	xml   *xmlTokens
	deep  int // suites and tests that are begun
	depth int // elements that are begun in them
}

// suite is one while it is read.
type suite struct {
	name, file string
	found      tally // what it holds
	unnamed    int   // failures that suites in it only count
	counted    int   // tests that suites in it count, or hold
}

// test is one while it is read, or a suite that failed as a whole.
type test struct {
	item     Item
	held     tally
	messages [len(wrong)]string // the first of each kind
	first    string             // element of a kind of wrong
	skipped  bool
}

// wrong are the elements by which a test says that it went wrong, the worst first.
var wrong = [...][2]string{{"failure", "error"}, {"rerunFailure", "rerunError"}, {"flakyFailure", "flakyError"}}

// named returns the usual name of an element, where some runners have another for it.
func named(e xml.StartElement) string {
	switch name := strings.ToLower(e.Name.Local); name {
	case "fail", "failed", "failure":
		return "failure"
	case "errored", "error":
		return "error"
	}
	return e.Name.Local
}

// kindOf returns which kind of wrong an element is of, or -1.
func kindOf(name string) int {
	return slices.IndexFunc(wrong[:], func(names [2]string) bool { return slices.Contains(names[:], name) })
}

// tally is how many elements there are of each name.
type tally map[string]int

// has reports whether there are elements of a kind of wrong.
func (t tally) has(kind int) bool { return t[wrong[kind][0]]+t[wrong[kind][1]] > 0 }

// addTo adds t to another.
func (t tally) addTo(other tally) {
	for name, n := range t {
		other[name] += n
	}
}

// surplus returns how many failures are counted of which no element says anything. Of
// the flaky tests it leaves those that are among the counted ones.
func (t tally) surplus(failures, errors int) int {
	t["flakyFailure"] = min(t["flakyFailure"], max(0, failures-t["failure"]))
	t["flakyError"] = min(t["flakyError"], max(0, errors-t["error"]))
	return max(0, failures+errors-t["failure"]-t["error"]-t["flakyFailure"]-t["flakyError"])
}

func isSuite(e xml.StartElement) bool {
	return e.Name.Local == "testsuites" || e.Name.Local == "testsuite"
}

// root returns the next element that lies in no other.
func (d *junitReader) root() (xml.StartElement, error) {
	for {
		token, err := d.xml.Token()
		if start, ok := token.(xml.StartElement); err != nil || ok {
			return start, err
		}
	}
}

// suite reads a suite to its end, and adds what it holds and counts to the report and
// to the suite that it lies in.
func (d *junitReader) suite(start xml.StartElement, in *suite) error {
	failures, says, err := countOf(start, "failures", "failed", "failure")
	if err != nil {
		return err
	}
	errored, saysErrors, err := countOf(start, "errors", "errored", "error")
	if err != nil {
		return err
	}
	counted, err := count(start, "tests")
	if err != nil {
		counted = 0
	}
	status := badStatus(start)
	s := suite{name: attr(start, "name"), file: attr(start, "file"), found: tally{}}
	if err := d.begin(&s, nil); err != nil {
		return err
	}
	if hasAttr(start, "flakes") {
		delete(s.found, "flakyFailure")
		delete(s.found, "flakyError")
	}
	unnamed := s.unnamed
	if says || saysErrors {
		unnamed = max(unnamed, s.found.surplus(failures, errored))
	}
	if status != "" && unnamed == 0 && !s.found.has(0) {
		d.suiteSays(&s, "failure", status)
	}
	s.found.addTo(in.found)
	in.counted += max(s.counted, counted)
	if in.unnamed += unnamed; in.unnamed > maxCount {
		return fmt.Errorf("more than %d failures", maxCount)
	}
	return nil
}

// suiteSays adds what a suite says about itself.
func (d *junitReader) suiteSays(s *suite, name, message string) {
	t := test{item: Item{Name: s.name, File: s.file}, held: tally{}}
	t.says(name, message)
	d.judge(&t, s)
}

// test reads a test to its end, and adds it to the report and to its suite.
func (d *junitReader) test(start xml.StartElement, in *suite) error {
	t := test{item: Item{Name: attr(start, "name"), File: attr(start, "file")}, held: tally{}}
	if class := attr(start, "classname"); class != "" && class != t.item.Name {
		t.item.Name = d.cut(class, maxText/2) + "." + t.item.Name
	}
	t.item.Line, _ = strconv.Atoi(attr(start, "line")) // without it, it is unknown
	status := badStatus(start)
	if err := d.begin(in, &t); err != nil {
		return err
	}
	if status != "" && !t.held.has(0) && !t.held.has(1) {
		t.says("failure", status)
	}
	in.counted++
	d.judge(&t, in)
	return nil
}

// begin reads what lies in a suite s, or in its test t if that is not nil.
func (d *junitReader) begin(s *suite, t *test) error {
	if d.deep++; d.deep > maxDepth {
		return fmt.Errorf("suites and tests lie more than %d deep", maxDepth)
	}
	defer func() { d.deep-- }()
	return d.inside(s, t)
}

// inside reads an element to its end that is a suite s, or its test t if that is not
// nil, or lies in it.
func (d *junitReader) inside(s *suite, t *test) error {
	if d.depth++; d.depth > maxNesting {
		return fmt.Errorf("elements lie more than %d deep", maxNesting)
	}
	defer func() { d.depth-- }()
	for {
		token, err := d.xml.Token()
		if err != nil {
			return malformed("XML", err)
		}
		switch token := token.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			if err := d.element(token, s, t); err != nil {
				return err
			}
		}
	}
}

// element reads an element that lies in a suite s, or in its test t if that is not nil.
func (d *junitReader) element(start xml.StartElement, s *suite, t *test) error {
	name := named(start)
	switch {
	case isSuite(start):
		return d.suite(start, s)
	case name == "testcase":
		return d.test(start, s)
	case name == "system-out", name == "system-err", name == "properties":
		return skip(d.xml)
	case name == "skipped" && t != nil:
		t.skipped = true
	}
	if kindOf(name) < 0 {
		return d.inside(s, t)
	}
	message, err := d.message(start)
	switch {
	case err != nil:
		return err
	case t == nil:
		d.suiteSays(s, name, message)
	default:
		t.says(name, message)
	}
	return nil
}

// says notes an element of a kind of wrong.
func (t *test) says(name, message string) {
	if kind := kindOf(name); !t.held.has(kind) {
		t.messages[kind] = message
	}
	t.first = cmp.Or(t.first, name)
	t.held[name]++
}

// judge adds a test to the report and its suite by what its element held: the worst of
// it counts. A rerunFailure is one more try of a test that failed, which its failure
// stands for; without one it says so itself.
func (d *junitReader) judge(t *test, in *suite) {
	d.Tests++
	worst := 0
	for worst < len(wrong) && !t.held.has(worst) {
		worst++
	}
	switch {
	case worst == len(wrong):
		if t.skipped {
			d.Skipped++
		}
		return
	case worst == len(wrong)-1:
		t.item.Flaky = true
		d.Flaky++
		in.found[t.first]++
	default:
		d.Failures++
		in.found["failure"] += t.held["failure"]
		in.found["error"] += t.held["error"]
		if worst == 1 {
			in.found["failure"]++
		}
	}
	t.item.Message = t.messages[worst]
	d.add(t.item)
}

// badStatus returns what the start of a suite or test says about its end, if that was
// a bad one and not only in the elements that it holds, else "". Numbers of a suite are
// its counts.
func badStatus(e xml.StartElement) string {
	for _, a := range e.Attr {
		name := strings.ToLower(a.Name.Local)
		bad := badStatuses[name]
		if bad == nil || !bad(a.Value) || isSuite(e) && name != "success" && number.MatchString(a.Value) {
			continue
		}
		return fmt.Sprintf("its %s is %q", a.Name.Local, a.Value)
	}
	return ""
}

var (
	failing = regexp.MustCompile(`(?i)^\s*(?:fail(?:ed|ure)?|error(?:ed)?|broken|crash(?:ed)?|abort(?:ed)?|interrupted|killed|fatal|cancell?ed|undefined|ambiguous|timed?[ _-]?out)\b`).MatchString
	untrue  = regexp.MustCompile(`(?i)^\s*(?:0|no|false)\s*$`).MatchString
	nothing = regexp.MustCompile(`(?i)^\s*(?:0|no|false|none)?\s*$`).MatchString
	number  = regexp.MustCompile(`^\s*[0-9]`)

	badStatuses = map[string]func(string) bool{
		"status": failing, "state": failing, "result": failing, "outcome": failing, "success": untrue, "passed": untrue,
		"failures": something, "failed": something, "failure": something, "errors": something, "errored": something, "error": something,
	}
)

func something(s string) bool { return !nothing(s) }

// message reads an element that says what went wrong to its end, and returns that.
func (d *junitReader) message(start xml.StartElement) (string, error) {
	text := sieve.New(d.mask)
	inside, err := content(d.xml, &text)
	return cmp.Or(attr(start, "message"), inside), err
}

// content reads an element to its end and returns the beginning of its text, as far as
// it passes text; nil lets nothing through.
func content(d *xmlTokens, text *sieve.Sieve) (string, error) {
	var kept []byte
	keep := func(more []byte) { kept = append(kept, more[:min(len(more), max(0, 2*maxMessage-len(kept)))]...) }
	for depth := 1; ; {
		token, err := d.Token()
		if err != nil {
			return "", malformed("XML", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if depth++; depth > maxNesting {
				return "", fmt.Errorf("elements lie more than %d deep", maxNesting)
			}
		case xml.EndElement:
			if depth--; depth == 0 {
				if text != nil {
					keep(text.End())
				}
				return string(kept), nil
			}
		case xml.CharData:
			if text != nil && len(kept) < 2*maxMessage {
				keep(text.Pass(token))
			}
		}
	}
}

// skip reads an element to its end. Unlike the decoder's own it does not go deeper
// with each element.
func skip(d *xmlTokens) error {
	_, err := content(d, nil)
	return err
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if strings.EqualFold(a.Name.Local, name) {
			return a.Value
		}
	}
	return ""
}

// countOf returns the highest of the numbers that an element has by some names, the first of
// which is for numbers alone, and whether there is one.
func countOf(e xml.StartElement, names ...string) (highest int, is bool, err error) {
	for i, name := range names {
		if text := attr(e, name); text == "" || i > 0 && !number.MatchString(text) {
			continue
		}
		n, err := count(e, name)
		if err != nil {
			return 0, false, err
		}
		highest, is = max(highest, n), true
	}
	return highest, is, nil
}

func hasAttr(e xml.StartElement, name string) bool {
	return slices.ContainsFunc(e.Attr, func(a xml.Attr) bool { return strings.EqualFold(a.Name.Local, name) })
}

// maxCount is more than any honest count.
const maxCount = 10_000_000

// thousands are parts of a number as some locales write them.
var thousands = regexp.MustCompile(`,(\d{3})\b`)

// count returns a number among an element's attributes, 0 without it.
func count(e xml.StartElement, name string) (int, error) {
	text := attr(e, name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(thousands.ReplaceAllString(text, "$1"))
	if err != nil || n < 0 || n > maxCount {
		return 0, fmt.Errorf("%s=%q of %s is no count", name, text, e.Name.Local)
	}
	return n, nil
}

// malformed returns the error of a document that the decoder refuses.
func malformed(what string, err error) error {
	return fmt.Errorf("not %s to its end: %w", what, err)
}
