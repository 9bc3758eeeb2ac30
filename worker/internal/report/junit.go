package report

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"

	"nofx.dev/worker/internal/sieve"
)

// How deep suites, and other elements, may lie in each other.
const (
	maxDepth   = 32
	maxNesting = 1000
)

// junit reads the XML that many test runners write and that nobody specified:
// testsuites and testsuite, in each other, with testcase, which holds failure, error
// or skipped. Where a suite's own count is higher than what its cases add up to, as
// when a file could not be loaded, the count holds.
func (rep *reading) junit(r io.Reader) error {
	d := newXMLTokens(r)
	counted := 0 // by the outermost elements themselves
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
		if counted, err = rep.suite(d, start, 1); err != nil {
			return err
		}
	}
	if unnamed := counted - rep.Failures; unnamed > 0 {
		rep.Tests = max(rep.Tests, counted)
		rep.Failures = counted
		rep.More += unnamed
	}
	return nil
}

// suite reads a suite to its end. It returns the failures that the suite counts, or,
// where it does not say, those that the suites in it count.
func (rep *reading) suite(d *xmlTokens, start xml.StartElement, depth int) (counted int, err error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("suites lie more than %d deep", maxDepth)
	}
	for _, name := range []string{"failures", "errors"} {
		n, err := count(start, name)
		if err != nil {
			return 0, err
		}
		counted += n
	}
	inner := 0
	for {
		token, err := d.Token()
		if err != nil {
			return 0, malformed("XML", err)
		}
		switch token := token.(type) {
		case xml.EndElement:
			return max(counted, inner), nil
		case xml.StartElement:
			switch token.Name.Local {
			case "testsuite":
				n, err := rep.suite(d, token, depth+1)
				if err != nil {
					return 0, err
				}
				if inner += n; inner > maxCount {
					return 0, fmt.Errorf("more than %d failures", maxCount)
				}
			case "testcase":
				if err := rep.testcase(d, token); err != nil {
					return 0, err
				}
			default:
				if err := skip(d); err != nil {
					return 0, err
				}
			}
		}
	}
}

// testcase reads one test.
func (rep *reading) testcase(d *xmlTokens, start xml.StartElement) error {
	item := Item{Name: attr(start, "name"), File: attr(start, "file")}
	if class := attr(start, "classname"); class != "" && class != item.Name {
		item.Name = rep.cut(class, maxText/2) + "." + item.Name
	}
	item.Line, _ = strconv.Atoi(attr(start, "line")) // without it, it is unknown
	rep.Tests++
	failed, skipped := false, false
	for {
		token, err := d.Token()
		if err != nil {
			return malformed("XML", err)
		}
		switch token := token.(type) {
		case xml.EndElement:
			switch {
			case failed:
				rep.Failures++
				rep.add(item)
			case skipped:
				rep.Skipped++
			}
			return nil
		case xml.StartElement:
			switch token.Name.Local {
			case "failure", "error":
				text := sieve.New(rep.mask)
				message, err := content(d, &text)
				if err != nil {
					return err
				}
				if !failed {
					item.Message = cmp.Or(attr(token, "message"), message)
				}
				failed = true
			case "skipped":
				skipped = true
				fallthrough
			default:
				if err := skip(d); err != nil {
					return err
				}
			}
		}
	}
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

// count is a number among an element's attributes, 0 without it.
func count(e xml.StartElement, name string) (int, error) {
	text := attr(e, name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxCount {
		return 0, fmt.Errorf("%s=%q of %s is no count", name, text, e.Name.Local)
	}
	return n, nil
}

// malformed is an error of a decoder.
func malformed(what string, err error) error {
	return fmt.Errorf("not %s to its end: %w", what, err)
}

// maxTag is how long a tag may be, in bytes. An attribute of five is twenty times as
// large in memory; text is as large as it is long.
const maxTag = 1 << 20

// xmlTokens is a decoder of XML whose tags are bounded. It bounds them as it reads
// them, since a tag is one token.
type xmlTokens struct {
	decoder *xml.Decoder
	source  *bufio.Reader

	last  byte // that was read
	known bool // what kind of token this is
	tag   int  // bytes left of a tag, or -1
}

func newXMLTokens(r io.Reader) *xmlTokens {
	d := &xmlTokens{source: bufio.NewReader(r)}
	d.decoder = xml.NewDecoder(tagReader{d})
	return d
}

func (d *xmlTokens) Token() (xml.Token, error) {
	d.known, d.tag = false, -1
	return d.decoder.Token()
}

// tagReader is what the decoder reads, byte by byte.
type tagReader struct{ *xmlTokens }

func (d tagReader) Read(p []byte) (int, error) { return d.source.Read(p) }

func (d tagReader) ReadByte() (byte, error) {
	c, err := d.source.ReadByte()
	if err != nil {
		return 0, err
	}
	if d.last == '<' && !d.known {
		d.known = true
		if c != '!' && c != '?' {
			d.tag = maxTag
		}
	}
	if d.tag == 0 {
		return 0, errLongTag
	}
	d.tag = max(d.tag-1, -1)
	d.last = c
	return c, nil
}

var errLongTag = fmt.Errorf("a tag has more than %d bytes", maxTag)
