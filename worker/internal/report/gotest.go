package report

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"nofx.dev/shared/run"
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
// is a failure of its own. Each package that begins must end; a line that is no event,
// as what a go command says about itself, is none of a package's.
//
// A package that begins again after its end is a rerun. A test that failed before and
// passes in it is flaky, which is a failure unless the gate takes it for a pass. That
// is for tests alone: where a package ended early, others may never have run.
func (rep *reading) gotest(r io.Reader) error {
	lines := bufio.NewReaderSize(unmarked(r), 64<<10)
	g := gotests{rep: rep, packages: map[string]*gopackage{}, builds: map[string]*printed{}, unbuilt: map[string]bool{}}
	strange := 0 // the first line that is no event
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		unended := errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !unended {
			return fmt.Errorf("line %d: %w", n, err)
		}
		var e event
		if err := json.Unmarshal(line, &e, jsontext.AllowInvalidUTF8(true)); err != nil || e.Action == "" {
			if unended && line[0] == '{' {
				return fmt.Errorf("line %d: is cut off", n)
			}
			if strange == 0 {
				strange = n
			}
			g.text(line)
			continue
		}
		if err := g.event(e); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := g.ended(); err != nil {
		if strange > 0 {
			return fmt.Errorf("%w, and line %d is no event of go test -json", err, strange)
		}
		return err
	}
	g.end()
	return nil
}

type gotests struct {
	rep      *reading
	packages map[string]*gopackage
	builds   map[string]*printed // what the builder said, by import path
	unbuilt  map[string]bool     // packages of which only a line of text says that they failed
	running  int
	failing  int // names in failed of all packages
}

type gopackage struct {
	tests  map[string]*gotestcase // that have not ended, or whose parent has not
	output *printed
	fails  bool // for a test that is counted
	ended  bool
	run    int            // which of its runs this is, from 0
	failed map[string]int // tests that count as failed, and in which run; "" is the package itself
}

// early is the run of a failure that no later run can take back.
const early = math.MaxInt

type gotestcase struct {
	begun  bool
	output *printed
	panics bool // output begins with that
	parent bool // it has subtests
	failed bool // one of its subtests has
}

// unbuilt is how go test says in text, and only there before Go 1.24, that a package
// did not build.
var unbuilt = regexp.MustCompile(`^FAIL\t(\S+)`)

// text is a line that is no event.
func (g *gotests) text(line []byte) {
	if m := unbuilt.FindSubmatch(line); m != nil && len(g.unbuilt) < maxRunning {
		g.unbuilt[string(m[1])] = true
	}
}

// ended returns an error unless there are packages, and all have ended.
func (g *gotests) ended() error {
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

// end counts what only the end tells.
func (g *gotests) end() {
	for _, name := range slices.Sorted(maps.Keys(g.unbuilt)) {
		if p := g.packages[name]; p == nil || len(p.failed) == 0 {
			g.rep.Tests++
			g.rep.Failures++
			g.rep.add(Item{Name: name, Message: "it did not build"})
		}
	}
	if g.rep.in.Flaky != run.FlakyPasses {
		g.rep.Failures += g.rep.Flaky
	}
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
		p = &gopackage{tests: map[string]*gotestcase{}, failed: map[string]int{}}
		g.packages[e.Package] = p
	}
	if p.ended {
		p.ended, p.fails = false, false
		p.tests = map[string]*gotestcase{}
		p.run++
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
		p.ended = true
		g.rep.Tests += p.endless()
	case "fail":
		p.ended = true
		g.unfinished(e.Package, p)
		if !p.fails {
			text := g.builds[e.FailedBuild].text()
			if text == "" {
				text = p.output.text()
			}
			g.fail(p, e.Package, "", early, text)
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
	case "run":
		t.begun = true
		return nil
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
		run := p.run
		if t.panics {
			run = early
		}
		g.fail(p, e.Package, e.Test, run, t.output.text())
	case g.passedNow(p, e):
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
			g.fail(p, name, test, early, t.output.text())
		}
	}
}

// endless returns how many tests of a package that passed have no end, the innermost:
// benchmarks, and those whose last line of output got into the way of their end.
func (p *gopackage) endless() (n int) {
	for _, t := range p.tests {
		if t.begun && !t.parent {
			n++
		}
	}
	return n
}

// fail counts a failure of a test, or of a package as a whole, if none of an earlier
// run is counted for it.
func (g *gotests) fail(p *gopackage, name, test string, run int, output string) {
	p.fails = p.fails || test != ""
	was, again := p.failed[test]
	if again || g.failing < maxRunning {
		p.failed[test] = max(was, run)
	}
	if again {
		return
	}
	g.failing++
	g.rep.Tests++
	g.rep.Failures++
	i := Item{Name: fullName(name, test)}
	i.File, i.Line, i.Message = place(output)
	g.rep.add(i)
}

// passedNow reports whether a test that failed in an earlier run of its package has
// passed by this event, and counts it as flaky then.
func (g *gotests) passedNow(p *gopackage, e event) bool {
	if run, ok := p.failed[e.Test]; !ok || e.Action != "pass" || run >= p.run {
		return false
	}
	delete(p.failed, e.Test)
	g.failing--
	g.rep.Failures--
	g.rep.flaky(fullName(e.Package, e.Test))
	return true
}

func fullName(pkg, test string) string { return strings.TrimSuffix(pkg+"."+test, ".") }

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

// readLine is the next line that is not empty. With one that has no line feed behind it
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
