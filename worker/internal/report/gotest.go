package report

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"nofx.dev/shared/run"
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
// is a failure of its own, and so is a build that failed for no package. Each package
// that begins must end; a line that is no event, as what a go command says about itself,
// is none of a package's, but a failure that it tells of counts.
//
// A package that begins again after its end is a rerun. A test that failed before and
// passes in it is flaky, which is a failure unless the gate takes it for a pass. That
// is for tests alone: where a package ended early, others may never have run.
func (rep *reading) gotest(r io.Reader) error {
	lines := bufio.NewReaderSize(unmarked(r), 64<<10)
	g := gotests{rep: rep, packages: map[string]*gopackage{}, builds: map[string]*gobuild{}, inText: map[string]bool{}}
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
		e, ok := readEvent(line)
		if !ok {
			if unended && line[0] == '{' {
				return fmt.Errorf("line %d: is cut off", n)
			}
			if strange == 0 {
				strange = n
			}
			err = g.text(line)
		} else {
			err = g.event(e)
		}
		if err != nil {
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
	builds   map[string]*gobuild // by import path
	inText   map[string]bool     // packages that failed by a line of text; "" is any
	running  int
	failing  int // names in failed of all packages
}

// gobuild is what is built for packages.
type gobuild struct {
	output *printed
	failed bool
	told   bool // a package says that it failed for this
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

// ended returns an error unless there are packages, and all have ended.
func (g *gotests) ended() error {
	for name, p := range g.packages {
		if !p.ended {
			return fmt.Errorf("package %s has begun and not ended", name)
		}
	}
	if len(g.packages) == 0 && !g.buildFailed() {
		return errors.New("no package is in the go test -json")
	}
	return nil
}

func (g *gotests) buildFailed() bool {
	for _, b := range g.builds {
		if b.failed {
			return true
		}
	}
	return false
}

// end counts what only the end tells: failures that no event of a package tells of.
func (g *gotests) end() {
	for _, name := range slices.Sorted(maps.Keys(g.builds)) {
		of, _, _ := strings.Cut(name, " ") // p [p.test] is p, built for its test
		if b := g.builds[name]; b.failed && !b.told && !g.failed(of) {
			g.failAlone(name, cmp.Or(b.output.text(), "it did not build"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.inText)) {
		if name != "" && !g.failed(name) {
			g.failAlone(name, saysFAIL)
		}
	}
	if g.inText[""] && g.rep.Failures+g.rep.Flaky == 0 {
		g.failAlone("", saysFAIL)
	}
	if g.rep.in.Flaky != run.FlakyPasses {
		g.rep.Failures += g.rep.Flaky
	}
}

const saysFAIL = "a line of text says FAIL"

// failed reports whether a failure is counted for a package.
func (g *gotests) failed(name string) bool {
	p := g.packages[name]
	return p != nil && len(p.failed) > 0
}

// failAlone counts a failure that is of no package.
func (g *gotests) failAlone(name, output string) {
	g.rep.Tests++
	g.rep.Failures++
	i := Item{Name: name}
	i.File, i.Line, i.Message = place(output)
	g.rep.add(i)
}

func (g *gotests) event(e event) error {
	if e.Action == "build-output" || e.Action == "build-fail" {
		return g.build(e)
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
	g.whole(p, e)
	return nil
}

// build takes an event of what is built for packages.
func (g *gotests) build(e event) error {
	b := g.builds[e.ImportPath]
	if b == nil {
		if len(g.builds) == maxRunning {
			return fmt.Errorf("more than %d builds", maxRunning)
		}
		b = &gobuild{}
		g.builds[e.ImportPath] = b
	}
	if e.Action == "build-fail" {
		b.failed = true
		return nil
	}
	if b.output == nil {
		b.output = g.printed(true)
	}
	b.output.add(e.Output)
	return nil
}

// whole takes an event of a package as a whole.
func (g *gotests) whole(p *gopackage, e event) {
	switch e.Action {
	case "output":
		if p.output == nil {
			p.output = g.printed(false)
		}
		p.output.add(e.Output)
		return
	case "pass", "skip":
		g.rep.Tests += p.endless()
	case "fail":
		g.unfinished(e.Package, p)
		text := ""
		if b := g.builds[e.FailedBuild]; b != nil && e.FailedBuild != "" {
			b.told = true
			text = b.output.text()
		}
		if !p.fails {
			g.fail(p, e.Package, "", early, cmp.Or(text, p.output.text()))
		}
	default:
		return
	}
	p.ended = true
	g.running -= len(p.tests)
	p.tests, p.output = nil, nil
}

// test takes an event of a test.
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

// above returns the nearest test that has name as a subtest, whose own part of the name
// may have slashes, or nil.
func (p *gopackage) above(name string) *gotestcase {
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if t := p.tests[name[:i]]; t != nil {
			return t
		}
	}
	return nil
}
