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
