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

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sieve"
)

// How deep suites, and other elements, may lie in each other.
const (
	maxDepth   = 32
	maxNesting = 1000
)

// junit reads the XML that many test runners write and that nobody specified:
// testsuites and testsuite, in each other, with testcase, which holds failure, error
// or skipped. A suite may hold failure and error too, when it failed as a whole. Where
// a suite's own count is higher than what it holds, as when a file could not be
// loaded, the count holds.
//
// A test with flakyFailure or flakyError failed and then passed. To the runner that is
// a pass, and so it is here unless the gate asks for more.
func (rep *reading) junit(r io.Reader) error {
	d := newXMLTokens(r)
	unnamed := 0 // failures that are only counted
	begun := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && begun {
			break
		}
		if err != nil {
			return malformed("XML", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if begun || start.Name.Local != "testsuites" && start.Name.Local != "testsuite" {
			return fmt.Errorf("no JUnit report: it has the element %q where testsuites or testsuite belongs", start.Name.Local)
		}
		begun = true
		if _, unnamed, err = rep.suite(d, start, 1); err != nil {
			return err
		}
	}
	rep.Failures += unnamed
	rep.More += unnamed
	if rep.in.Flaky == run.FlakyFails {
		rep.Failures += rep.Flaky
	}
	rep.Tests = max(rep.Tests, rep.Failures+rep.Skipped)
	return nil
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

// surplus returns how many failures are counted of which no element says anything. A
// test that was flaky may have been counted as what it was at first.
func (t tally) surplus(failures, errors int) int {
	flaky := min(t["flakyFailure"], max(0, failures-t["failure"])) + min(t["flakyError"], max(0, errors-t["error"]))
	return max(0, failures+errors-t["failure"]-t["error"]-flaky)
}

// suite reads a suite to its end. It adds to the report what the suite holds, and
// returns what that was and how many failures more are counted, by the suite or, where
// that is more, by those in it.
func (rep *reading) suite(d *xmlTokens, start xml.StartElement, depth int) (found tally, unnamed int, err error) {
	if depth > maxDepth {
		return nil, 0, fmt.Errorf("suites lie more than %d deep", maxDepth)
	}
	failures, err := count(start, "failures")
	if err != nil {
		return nil, 0, err
	}
	errored, err := count(start, "errors")
	if err != nil {
		return nil, 0, err
	}
	found = tally{}
	inner := 0
	for {
		token, err := d.Token()
		if err != nil {
			return nil, 0, malformed("XML", err)
		}
		switch token := token.(type) {
		case xml.EndElement:
			return found, max(inner, found.surplus(failures, errored)), nil
		case xml.StartElement:
			switch name := token.Name.Local; name {
			case "testsuite":
				more, n, err := rep.suite(d, token, depth+1)
				if err != nil {
					return nil, 0, err
				}
				more.addTo(found)
				if inner += n; inner > maxCount {
					return nil, 0, fmt.Errorf("more than %d failures", maxCount)
				}
			case "testcase":
				if err := rep.testcase(d, token, found); err != nil {
					return nil, 0, err
				}
			case "failure", "error":
				message, err := rep.message(d, token)
				if err != nil {
					return nil, 0, err
				}
				found[name]++
				rep.Tests++
				rep.Failures++
				rep.add(Item{Name: attr(start, "name"), File: attr(start, "file"), Message: message})
			default:
				if err := skip(d); err != nil {
					return nil, 0, err
				}
			}
		}
	}
}

// wrong are the elements by which a test says that it went wrong, the worst first.
var wrong = [...][2]string{{"failure", "error"}, {"rerunFailure", "rerunError"}, {"flakyFailure", "flakyError"}}

// testcase reads one test and notes in found what it says. A rerunFailure is one more
// try of a test that failed, which its failure stands for; without one it says so
// itself.
func (rep *reading) testcase(d *xmlTokens, start xml.StartElement, found tally) error {
	item := Item{Name: attr(start, "name"), File: attr(start, "file")}
	if class := attr(start, "classname"); class != "" && class != item.Name {
		item.Name = rep.cut(class, maxText/2) + "." + item.Name
	}
	item.Line, _ = strconv.Atoi(attr(start, "line")) // without it, it is unknown
	rep.Tests++
	held, skipped := tally{}, false
	var messages [len(wrong)]string // the first of each kind
	for {
		token, err := d.Token()
		if err != nil {
			return malformed("XML", err)
		}
		switch token := token.(type) {
		case xml.EndElement:
			rep.judge(item, held, messages, skipped)
			if !held.has(0) && held.has(1) {
				held["failure"]++
			}
			held.addTo(found)
			return nil
		case xml.StartElement:
			name := token.Name.Local
			kind := slices.IndexFunc(wrong[:], func(names [2]string) bool { return slices.Contains(names[:], name) })
			if kind < 0 {
				skipped = skipped || name == "skipped"
				if err := skip(d); err != nil {
					return err
				}
				continue
			}
			message, err := rep.message(d, token)
			if err != nil {
				return err
			}
			if !held.has(kind) {
				messages[kind] = message
			}
			held[name]++
		}
	}
}

// judge adds a test by what its element held: the worst of it counts.
func (rep *reading) judge(item Item, held tally, messages [len(wrong)]string, skipped bool) {
	for kind := range wrong {
		if !held.has(kind) {
			continue
		}
		item.Message = messages[kind]
		if item.Flaky = kind == len(wrong)-1; item.Flaky {
			rep.Flaky++
		} else {
			rep.Failures++
		}
		rep.add(item)
		return
	}
	if skipped {
		rep.Skipped++
	}
}

// message reads an element that says what went wrong to its end, and returns that.
func (rep *reading) message(d *xmlTokens, start xml.StartElement) (string, error) {
	text := sieve.New(rep.mask)
	inside, err := content(d, &text)
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
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// maxCount is more than any honest count.
const maxCount = 10_000_000

// thousands are parts of a number as some locales write them.
var thousands = regexp.MustCompile(`,(\d{3})\b`)

// count is a number among an element's attributes, 0 without it.
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

// malformed is an error of a decoder.
func malformed(what string, err error) error {
	return fmt.Errorf("not %s to its end: %w", what, err)
}
