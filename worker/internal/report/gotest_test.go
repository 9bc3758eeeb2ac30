package report_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/encoding/unicode"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/report"
)

// A package that begins again is a rerun: what failed and passes in it is flaky.
func TestGoTestReruns(t *testing.T) {
	t.Parallel()
	events := func(list ...string) string {
		var b strings.Builder
		for _, e := range list {
			action, test, named := strings.Cut(e, " ")
			b.WriteString(`{"Action":"` + action + `","Package":"p"`)
			if test, output, printed := strings.Cut(test, " "); printed {
				b.WriteString(`,"Test":"` + test + `","Output":"` + output + `"`)
			} else if named {
				b.WriteString(`,"Test":"` + test + `"`)
			}
			b.WriteString("}\n")
		}
		return b.String()
	}
	for name, tt := range map[string]struct {
		text                   string
		tests, failures, flaky int
	}{
		"failed, then passed":           {events("start", "run T", "fail T", "fail", "start", "run T", "pass T", "pass"), 1, 0, 1},
		"without a start":               {events("run T", "fail T", "fail", "run T", "pass T", "pass"), 1, 0, 1},
		"failed twice":                  {events("start", "fail T", "fail", "start", "fail T", "fail"), 1, 1, 0},
		"failed twice, then passed":     {events("start", "fail T", "fail", "start", "fail T", "fail", "start", "pass T", "pass"), 1, 0, 1},
		"passed, then failed":           {events("start", "pass T", "pass", "start", "fail T", "fail"), 2, 1, 0},
		"flaky, then failed":            {events("start", "fail T", "fail", "start", "pass T", "pass", "start", "fail T", "fail"), 2, 1, 1},
		"twice in one run":              {events("start", "fail T", "pass T", "fail"), 2, 1, 0},
		"another passes":                {events("start", "fail T", "pass U", "fail", "start", "pass U", "pass"), 3, 1, 0},
		"skipped when it ran again":     {events("start", "fail T", "fail", "start", "skip T", "pass"), 2, 1, 0},
		"one of two":                    {events("start", "fail T", "fail U", "fail", "start", "pass T", "fail U", "fail"), 2, 1, 1},
		"a subtest":                     {events("start", "run T", "run T/a", "fail T/a", "fail T", "fail", "start", "run T", "run T/a", "pass T/a", "pass T", "pass"), 1, 0, 1},
		"a test itself, with subtests":  {events("start", "run T", "run T/a", "pass T/a", "fail T", "fail", "start", "run T", "run T/a", "pass T/a", "pass T", "pass"), 3, 0, 1},
		"a panic stands":                {events("start", "run T", "output T panic: no\\n", "fail T", "fail", "start", "pass T", "pass"), 2, 1, 0},
		"what ended the process stands": {events("start", "run T", "fail", "start", "pass T", "pass"), 2, 1, 0},
		"a package that failed stands":  {events("start", "fail", "start", "pass T", "pass"), 2, 1, 0},
		"fails for one of two, rerun":   {events("start", "fail T", "fail U", "fail", "start", "pass T", "pass"), 2, 1, 1},
		"and then for the other":        {events("start", "fail T", "fail U", "fail", "start", "pass T", "pass", "start", "pass U", "pass"), 2, 0, 2},
		"a subtest of two":              {events("start", "run T", "run T/a", "fail T/a", "run T/b", "fail T/b", "fail T", "fail", "start", "run T", "run T/a", "pass T/a", "pass T", "pass"), 2, 1, 1},
		"it fails again, for no test":   {events("start", "fail T", "fail", "start", "pass T", "fail"), 2, 1, 1},
	} {
		for flaky, failures := range map[string]int{"": tt.failures + tt.flaky, run.FlakyFails: tt.failures + tt.flaky, run.FlakyPasses: tt.failures} {
			r, err := report.Parse(run.GateReport{Format: "gotest", Flaky: flaky}, strings.NewReader(tt.text), nothing)
			if err != nil || r.Tests != tt.tests || r.Failures != failures || r.Flaky != tt.flaky {
				t.Errorf("%s: Parse(%q, flaky %q) = %+v, %v, want %d tests, %d failures, %d flaky", name, tt.text, flaky, r, err, tt.tests, failures, tt.flaky)
			}
			if got := len(r.Items); got != tt.failures+tt.flaky {
				t.Errorf("%s: Parse keeps %d items, want %d", name, got, tt.failures+tt.flaky)
			}
		}
	}
}

// A flaky test keeps what it said when it failed, and comes after the failures.
func TestFlakyItems(t *testing.T) {
	t.Parallel()
	const line = `{"Action":"output","Package":"p","Test":"T","Output":"    p_test.go:7: too slow\n"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"fail","Package":"p","Test":"U"}
{"Action":"fail","Package":"p"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"pass","Package":"p"}
`
	r, err := parseText("gotest", line)
	want := []report.Item{{Name: "p.U"}, {Name: "p.T", Flaky: true, File: "p_test.go", Line: 7, Message: "too slow"}}
	if diff := cmp.Diff(want, r.Items); err != nil || diff != "" {
		t.Errorf("Parse = %v, items (-want +got):\n%s", err, diff)
	}
	if says := r.Says(run.GateReport{Format: "gotest"}); says != "2 of 2 tests failed; 1 failed at first and passed when they ran again" {
		t.Errorf("Says = %q", says)
	}
}

// Lines of other programs lie between the events.
func TestGoTestText(t *testing.T) {
	t.Parallel()
	const good = `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"pass","Package":"p","Test":"T"}` + "\n" + `{"Action":"pass","Package":"p"}` + "\n"
	const bad = `{"Action":"start","Package":"q"}` + "\n" + `{"Action":"fail","Package":"q","Test":"T"}` + "\n" + `{"Action":"fail","Package":"q"}` + "\n"
	utf16, err := unicode.UTF16(unicode.LittleEndian, unicode.UseBOM).NewEncoder().String(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text            string
		tests, failures int
	}{
		"in front":                {"go: downloading example.com/x v1.0.0\n" + good, 1, 0},
		"behind":                  {good + "exit status 1\n", 1, 0},
		"no line feed at the end": {strings.TrimSuffix(good, "\n"), 1, 0},
		"JSON of others":          {`{"level":"info"}` + "\n[1]\nnull\n" + good, 1, 0},
		"a package not built":     {"# q\n./q.go:1:1: no\nFAIL\tq [build failed]\n" + good, 2, 1},
		"that is set up wrong":    {good + "FAIL\tq [setup failed]\n", 2, 1},
		"of which events tell":    {bad + "FAIL\tq\t0.010s\n" + good, 2, 1},
		"with blanks":             {good + "FAIL   q [build failed]\n", 2, 1},
		"with blanks in front":    {good + "  FAIL\tq [build failed]\r\n", 2, 1},
		"with a time in front":    {good + "12:00:01 FAIL q [setup failed]\n", 2, 1},
		"with its time":           {good + "FAIL  q  0.010s\n", 2, 1},
		"with its time, cached":   {good + "FAIL q (cached)\n", 2, 1},
		"FAIL alone":              {good + "FAIL\n", 2, 1},
		"FAIL, as its end":        {good + "FAIL", 2, 1},
		"FAIL with blanks":        {good + " FAIL \r\n", 2, 1},
		"FAIL of a failure":       {bad + "FAIL\n" + good, 2, 1},
		"FAIL of a named one":     {good + "FAIL\tq [build failed]\nFAIL\n", 2, 1},
		"a test that failed":      {good + "--- FAIL: TestX (0.00s)\n", 2, 1},
		"in colour":               {good + "\x1b[31mFAIL\tq [build failed]\x1b[0m\n", 2, 1},
		"in colour, by a word":    {good + "\x1b[1;31mFAIL\x1b[0m\tq \x1b]8;;http://x\x07[build failed]\x1b]8;;\x1b\\\n", 2, 1},
		"FAIL in colour":          {good + "\x1b[31mFAIL\x1b[m\n", 2, 1},
		"a coloured test":         {good + "\x1b[38;5;9m--- FAIL: TestX (0.00s)\x1b(B\x1b[K\n", 2, 1},
		"an event in colour":      {good + "\x1b[0m" + `{"Action":"fail","Package":"q"}` + "\n", 2, 1},
		"only colour":             {good + "\x1b[31m\x1b[0m\n", 1, 0},
		"an event with a list":    {good + `oops{"Action":"fail","Package":"q","Tags":["a","]"]}` + "\n", 2, 1},
		"with an object":          {good + `oops {"Action":"fail","Tags":{"a":[1,{"b":null}],"c":{}},"Package":"q"} more` + "\n", 2, 1},
		"with empty ones":         {good + `oops {"Action":"fail","Tags":[],"More":{},"Package":"q"}` + "\n", 2, 1},
		"an event in an object":   {good + `{"line":{"Action":"fail","Package":"q"},"all":[{"Action":"fail","Package":"r","Tags":["a"]}]}` + "\n", 3, 2},
		"behind one that is cut":  {good + `{"Action":"output","Tags":["a",{"Action":"fail","Package":"q","Tags":["a"]}` + "\n", 2, 1},
		"a pass with a list":      {good + `oops{"Action":"pass","Package":"q","Tags":["fail"]}` + "\n", 1, 0},
		"FAIL in a word":          {good + "FAILURE\nno FAIL\nFAIL: 0\n", 1, 0},
		"a word at the start":     {"FAIL to see\n" + good, 1, 0},
		"a byte order mark":       {"\ufeff" + good, 1, 0},
		"UTF-16, as some write":   {utf16, 1, 0},
	} {
		r, err := parseText("gotest", tt.text)
		if err != nil || r.Tests != tt.tests || r.Failures != tt.failures {
			t.Errorf("%s: Parse(%q) = %+v, %v, want %d tests, %d failures", name, tt.text, r, err, tt.tests, tt.failures)
		}
	}
}

// What a package is built from may fail, and no event of a package may say so.
func TestGoTestBuilds(t *testing.T) {
	t.Parallel()
	const (
		good   = `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"pass","Package":"p","Test":"T"}` + "\n" + `{"Action":"pass","Package":"p"}` + "\n"
		output = `{"ImportPath":"q [q.test]","Action":"build-output","Output":"# q\n"}` + "\n" + `{"ImportPath":"q [q.test]","Action":"build-output","Output":"./q.go:3:5: no\n"}` + "\n"
		failed = `{"ImportPath":"q [q.test]","Action":"build-fail"}` + "\n"
		named  = `{"Action":"start","Package":"q"}` + "\n" + `{"Action":"fail","Package":"q","FailedBuild":"q [q.test]"}` + "\n"
		other  = `{"Action":"start","Package":"r"}` + "\n" + `{"Action":"fail","Package":"r","FailedBuild":"q [q.test]"}` + "\n"
		silent = `{"Action":"start","Package":"q"}` + "\n" + `{"Action":"fail","Package":"q"}` + "\n"
		again  = `{"Action":"start","Package":"q"}` + "\n" + `{"Action":"pass","Package":"q","Test":"T"}` + "\n" + `{"Action":"pass","Package":"q"}` + "\n"
	)
	item := []report.Item{{Name: "q [q.test]", File: "./q.go", Line: 3, Message: "no"}}
	for name, tt := range map[string]struct {
		text            string
		tests, failures int
		items           []report.Item
	}{
		"of no package":         {good + output + failed, 2, 1, item},
		"without output":        {good + failed, 2, 1, []report.Item{{Name: "q [q.test]", Message: "it did not build"}}},
		"of no package at all":  {output + failed, 1, 1, item},
		"of its package":        {good + output + failed + named, 2, 1, []report.Item{{Name: "q", File: "./q.go", Line: 3, Message: "no"}}},
		"of another":            {good + output + failed + other, 2, 1, []report.Item{{Name: "r", File: "./q.go", Line: 3, Message: "no"}}},
		"of one that is silent": {good + output + failed + silent, 2, 1, []report.Item{{Name: "q"}}},
		"and a rerun passes":    {good + output + failed + again, 3, 1, item},
		"warnings":              {good + output, 1, 0, nil},
		"twice":                 {good + output + failed + failed, 2, 1, item},
		"without a name":        {good + `{"Action":"build-fail"}` + "\n", 2, 1, []report.Item{{Message: "it did not build"}}},
	} {
		r, err := parseText("gotest", tt.text)
		if diff := cmp.Diff(tt.items, r.Items); err != nil || r.Tests != tt.tests || r.Failures != tt.failures || diff != "" {
			t.Errorf("%s: Parse(%q) = %+v, %v, want %d tests, %d failures; items (-want +got):\n%s", name, tt.text, r, err, tt.tests, tt.failures, diff)
		}
	}
}

// What else lies in the line of an event does not hide a failure, and helps nobody to a
// pass.
func TestGoTestGluedEvents(t *testing.T) {
	t.Parallel()
	const (
		run     = `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"run","Package":"p","Test":"T"}` + "\n"
		pass    = `{"Action":"pass","Package":"p","Test":"T"}` + "\n" + `{"Action":"pass","Package":"p"}` + "\n"
		fail    = `{"Time":"2026-01-31T12:00:00Z","Action":"fail","Package":"p","Test":"T","Elapsed":0.1}`
		failed  = `{"Action":"fail","Package":"p"}`
		escaped = `{"Action":"output","Package":"p","Test":"T","Output":"a \"quote\" {\\ }\n"}`
	)
	for name, tt := range map[string]struct {
		text            string
		tests, failures int
	}{
		"behind text":            {run + "12:00 " + fail + "\n" + failed + "\n", 1, 1},
		"before text":            {run + fail + " 12:00\n" + failed + "\n", 1, 1},
		"two in a line":          {run + fail + failed + "\n" + pass, 1, 1},
		"the package's":          {run + `x` + failed + "\n", 1, 1},
		"behind an open brace":   {run + `{"level":{"a":` + fail + "\n" + failed + "\n", 1, 1},
		"behind another":         {run + escaped + fail + "\n" + failed + "\n", 1, 1},
		"behind half an event":   {run + `{"Action":"outp` + fail + "\n" + failed + "\n", 1, 1},
		"in other JSON":          {run + `{"line":` + fail + "}\n" + failed + "\n", 1, 1},
		"with blanks":            {run + `12:00 { "Action" : "fail" , "Package" : "p" , "Test" : "T" }` + "\n" + failed + "\n", 1, 1},
		"of a build":             {run + pass + `12:00 {"ImportPath":"q","Action":"build-fail"}` + "\n", 2, 1},
		"and the package passes": {run + "12:00 " + fail + "\n" + pass, 2, 1},
	} {
		r, err := parseText("gotest", tt.text)
		if err != nil || r.Tests != tt.tests || r.Failures != tt.failures {
			t.Errorf("%s: Parse(%q) = %+v, %v, want %d tests, %d failures", name, tt.text, r, err, tt.tests, tt.failures)
		}
	}
	for name, text := range map[string]string{
		"an end that passes": run + `{"Action":"pass","Package":"p","Test":"T"}` + "\n12:00 " + `{"Action":"pass","Package":"p"}` + "\n",
		"a long line":        run + strings.Repeat(`{"a":`, 1<<17) + "\n" + strings.Repeat(`{"Action":"fail","a":"`, 1<<15) + "\n",
		"too many in a line": run + strings.Repeat(`{"a":1}`, 1000) + fail + "\n" + pass,
	} {
		if r, err := parseText("gotest", text); err == nil {
			t.Errorf("%s: Parse = %+v, want an error", name, r)
		}
	}
}
