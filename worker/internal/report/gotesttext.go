package report

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"nofx.dev/worker/internal/sieve"
)

// readEvent reads an event, which is all of text.
func readEvent(text []byte) (e event, ok bool) {
	err := json.Unmarshal(text, &e, jsontext.AllowInvalidUTF8(true))
	return e, err == nil && e.Action != ""
}

var (
	// failedPackage is how go test says in text, and only there before Go 1.24, that a
	// package did not build.
	failedPackage = regexp.MustCompile(`^FAIL\t(\S+)|(?:^|\s)FAIL\s+(\S+)\s+(?:\[[^\]]*\]|\(cached\)|[0-9.]+m?s)\s*$`)
	failedAny     = regexp.MustCompile(`^\s*(?:FAIL|--- FAIL: .*)\s*$`)

	// control is what a terminal takes for colours, links and other orders.
	control = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z^-~])`)

	// object is one that an event may be, and somewhat more.
	object = regexp.MustCompile(objectPattern(3))
)

// objectPattern returns a pattern of objects in which objects and lists lie as deep as that.
func objectPattern(deep int) string {
	const text, plain = `"(?:[^"\\]|\\.)*"`, `[^\s"{}\[\],]+`
	value, object := text+"|"+plain, ""
	for range deep + 1 {
		object = `\{\s*(?:` + text + `\s*:\s*(?:` + value + `)\s*,?\s*)*\}`
		value = text + "|" + plain + "|" + object + `|\[\s*(?:(?:` + value + `)\s*,?\s*)*\]`
	}
	return object
}

// maxInLine is how many objects are looked for in a line: each may take its length.
const maxInLine = 1000

// text takes a line that is not an event.
func (g *gotests) text(line []byte) error {
	line = control.ReplaceAll(line, nil)
	events, err := failuresIn(line)
	if err != nil {
		return err
	}
	for _, e := range events {
		if err := g.event(e); err != nil {
			return err
		}
	}
	name, failed := "", failedAny.Match(line)
	if m := failedPackage.FindSubmatch(line); m != nil {
		name, failed = string(m[1])+string(m[2]), true
	}
	if failed && len(g.inText) < maxRunning {
		g.inText[name] = true
	}
	return nil
}

// failuresIn returns the events in a line that tell of failures: programs that write at
// once do not wait for the end of a line. Others do not count there, as they may be half
// of what there was to say.
func failuresIn(line []byte) (events []event, err error) {
	if !bytes.Contains(line, []byte(`fail"`)) {
		return nil, nil
	}
	for found, at := 0, object.FindIndex(line); at != nil; at = object.FindIndex(line) {
		if found++; found > maxInLine {
			return nil, fmt.Errorf("more than %d objects in one line", maxInLine)
		}
		e, ok := readEvent(line[at[0]:at[1]])
		if ok && (e.Action == "build-fail" || e.Action == "fail" && e.Package != "") {
			events = append(events, e)
			line = line[at[1]:]
		} else {
			line = line[at[0]+1:] // there may be one in it
		}
	}
	return events, nil
}

// print keeps the end of what a test printed, but of a panic the beginning: what
// follows are stacks.
func (g *gotests) print(t *gotestcase, s string) {
	if t.output == nil || !t.panics && strings.HasPrefix(s, "panic: ") {
		t.panics = strings.HasPrefix(s, "panic: ")
		t.output = g.printed(t.panics)
	}
	t.output.add(s)
}

// printed is output that comes in pieces, masked, of which the end is kept, or the
// beginning. A nil one is empty.
type printed struct {
	sieve sieve.Sieve
	first bool
	kept  string
}

func (g *gotests) printed(first bool) *printed {
	return &printed{sieve: sieve.New(g.rep.mask), first: first}
}

func (p *printed) add(s string) { p.keep(p.sieve.Pass([]byte(s))) }

func (p *printed) keep(more []byte) {
	s := p.kept + string(more)
	if p.first {
		p.kept = s[:min(len(s), keptOutput)]
	} else {
		p.kept = s[max(0, len(s)-keptOutput):]
	}
}

// text returns what was kept. Nothing is added after it.
func (p *printed) text() string {
	if p == nil {
		return ""
	}
	p.keep(p.sieve.End())
	return p.kept
}

var (
	said  = regexp.MustCompile(`(?m)^\s*(?:vet: )?((?:[\w.@+-]+/|\./)*[\w.@+-]+\.go):(\d+):(?:\d+:)? ?(.*(?:\n(?:        | {4}\t|\t).*)*)`)
	noise = regexp.MustCompile(`(?m)^\s*(?:=== |--- |FAIL$|PASS$|exit status |FAIL\t).*\n?`)
)

// place returns where in the code an output says that something is wrong, and what. Where
// it does not say, the message is all of it.
func place(output string) (file string, line int, message string) {
	if m := said.FindStringSubmatch(output); m != nil {
		line, _ = strconv.Atoi(m[2])
		return m[1], line, m[3]
	}
	return "", 0, noise.ReplaceAllString(output, "")
}

// readLine returns the next line that is not empty. With one that has no line feed behind it
// the error is io.ErrUnexpectedEOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
		line = line[:0]
	}
}
