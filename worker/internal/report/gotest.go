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

	"nofx.dev/worker/internal/sieve"
)

const (
	maxLine    = 1 << 20 // bytes of one event
	keptOutput = 2 << 10 // bytes of what a test printed last
	maxRunning = 100_000 // tests that have begun and not ended, and packages
)

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action  string `json:"Action"`
	Package string `json:"Package"`
	Test    string `json:"Test"`
	Output  string `json:"Output"`

	ImportPath  string `json:"ImportPath"` // of build-output and build-fail
	FailedBuild string `json:"FailedBuild"`
}

// gotest reads the events of one or more packages. A test counts by its innermost
// subtests: one that has some counts by itself only when it failed and none of them
// did. A package that failed for no test, because it does not build, panics or exits,
// is a failure of its own. Each package that begins must end.
func (rep *reading) gotest(r io.Reader) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	g := gotests{rep: rep, packages: map[string]*gopackage{}, builds: map[string]*printed{}}
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
			return fmt.Errorf("line %d is no event of go test -json", n)
		}
		if err := g.event(e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if len(g.packages) == 0 {
		return errors.New("no package is in the go test -json")
	}
	for name, p := range g.packages {
		if !p.ended {
			return fmt.Errorf("package %s has begun and not ended", name)
		}
	}
	return nil
}

type gotests struct {
	rep      *reading
	packages map[string]*gopackage
	builds   map[string]*printed // what the builder said, by import path
	running  int
}

type gopackage struct {
	tests  map[string]*gotestcase // that have not ended, or whose parent has not
	output *printed
	failed bool // for a test that is counted
	ended  bool
}

type gotestcase struct {
	output *printed
	panics bool // output begins with that
	parent bool // it has subtests
	failed bool // one of its subtests has
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

func (g *gotests) event(e event) error {
	switch e.Action {
	case "build-output":
		if g.builds[e.ImportPath] == nil && len(g.builds) < maxRunning {
			g.builds[e.ImportPath] = g.printed(true)
		}
		if b := g.builds[e.ImportPath]; b != nil {
			b.add(e.Output)
		}
		return nil
	case "build-fail":
		return nil // its package tells
	}
	if e.Package == "" {
		return errors.New("an event of no package")
	}
	p := g.packages[e.Package]
	if p == nil {
		if len(g.packages) == maxRunning {
			return fmt.Errorf("more than %d packages", maxRunning)
		}
		p = &gopackage{tests: map[string]*gotestcase{}}
		g.packages[e.Package] = p
	}
	if p.ended {
		return fmt.Errorf("package %s goes on after its end", e.Package)
	}
	if e.Test != "" {
		return g.test(p, e)
	}
	switch e.Action {
	case "output":
		if p.output == nil {
			p.output = g.printed(false)
		}
		p.output.add(e.Output)
	case "pass", "skip":
		p.ended = true // what has no end in it are benchmarks
	case "fail":
		p.ended = true
		g.unfinished(e.Package, p)
		if !p.failed {
			text := g.builds[e.FailedBuild].text()
			if text == "" {
				text = p.output.text()
			}
			g.rep.Tests++
			g.fail(Item{Name: e.Package}, text)
		}
	}
	if p.ended {
		g.running -= len(p.tests)
		p.tests, p.output = nil, nil
	}
	return nil
}

// test is an event of a test.
func (g *gotests) test(p *gopackage, e event) error {
	t := p.tests[e.Test]
	if t == nil {
		if g.running == maxRunning {
			return fmt.Errorf("more than %d tests at once", maxRunning)
		}
		g.running++
		t = &gotestcase{}
		p.tests[e.Test] = t
	}
	above := p.above(e.Test)
	if above != nil {
		above.parent = true
	}
	switch e.Action {
	case "output":
		g.print(t, e.Output)
		return nil
	case "pass", "skip", "fail", "bench":
	default:
		return nil
	}
	delete(p.tests, e.Test)
	g.running--
	failed := e.Action == "fail"
	if above != nil && (failed || t.failed) {
		above.failed = true
	}
	switch {
	case failed && !t.failed:
		p.failed = true
		g.rep.Tests++
		g.fail(Item{Name: e.Package + "." + e.Test}, t.output.text())
	case t.parent:
	case e.Action == "skip":
		g.rep.Tests++
		g.rep.Skipped++
	default:
		g.rep.Tests++
	}
	return nil
}

// unfinished counts the tests of a package that began and did not end, the innermost.
func (g *gotests) unfinished(name string, p *gopackage) {
	for test, t := range p.tests {
		if !t.parent {
			p.failed = true
			g.rep.Tests++
			g.fail(Item{Name: name + "." + test}, t.output.text())
		}
	}
}

func (g *gotests) fail(i Item, output string) {
	g.rep.Failures++
	i.File, i.Line, i.Message = place(output)
	g.rep.add(i)
}

// above is the nearest test that has name as a subtest, whose own part of the name
// may have slashes, or nil.
func (p *gopackage) above(name string) *gotestcase {
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if t := p.tests[name[:i]]; t != nil {
			return t
		}
	}
	return nil
}

var (
	said  = regexp.MustCompile(`(?m)^\s*(?:vet: )?((?:[\w.@+-]+/|\./)*[\w.@+-]+\.go):(\d+):(?:\d+:)? ?(.*(?:\n(?:        | {4}\t|\t).*)*)`)
	noise = regexp.MustCompile(`(?m)^\s*(?:=== |--- |FAIL$|PASS$|exit status |FAIL\t).*\n?`)
)

// place is where in the code an output says that something is wrong, and what. Where
// it does not say, the message is all of it.
func place(output string) (file string, line int, message string) {
	if m := said.FindStringSubmatch(output); m != nil {
		line, _ = strconv.Atoi(m[2])
		return m[1], line, m[3]
	}
	return "", 0, noise.ReplaceAllString(output, "")
}

// readLine is the next line that is not empty. The last one ends in a line feed too.
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
			return nil, errors.New("is cut off")
		case err != nil:
			return nil, err
		}
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
		line = line[:0]
	}
}
