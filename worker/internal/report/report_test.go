package report_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/report"
)

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func parse(t *testing.T, file string) report.Report {
	t.Helper()
	r, err := parseText(strings.TrimPrefix(filepath.Ext(file), "."), read(t, file))
	if err != nil {
		t.Fatalf("Parse(%s) = %v, want nil", file, err)
	}
	return r
}

// nothing masks nothing.
func nothing(s string) string { return s }

func parseText(format, text string) (report.Report, error) {
	return report.Parse(run.GateReport{Format: format}, strings.NewReader(text), nothing)
}

func TestParse(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]report.Report{
		"passing.gotest": {Tests: 5, Skipped: 1}, // one of them a benchmark
		"failing.gotest": {Tests: 13, Failures: 6, Skipped: 1, Items: []report.Item{
			{Name: "example.com/m/bad.TestSum", File: "bad_test.go", Line: 3, Message: "Sum(2, 3) = 6, want 5"},
			{Name: "example.com/m/bad.TestTable/a/b", File: "bad_test.go", Line: 6, Message: "two\n        lines"},
			{Name: "example.com/m/bad.TestOwn", File: "bad_test.go", Line: 8, Message: "the parent itself"},
			{Name: "example.com/m/broken", File: "broken/broken_test.go", Line: 3, Message: "undefined: undefined"},
			{Name: "example.com/m/panics.TestPanics", Message: "panic: assignment to entry in nil map [recovered, repanicked]…"},
			{Name: "example.com/m/exit.TestExits"},
		}},
		"pytest.junit": {Tests: 4, Failures: 2, Skipped: 1, Items: []report.Item{
			{Name: "tests.test_sum.test_sum", File: "tests/test_sum.py", Line: 4, Message: "AssertionError: assert 6 == 5\n +  where 6 = sum(2, 3)"},
			{Name: "tests.test_db.test_db", Message: `failed on setup with "ConnectionError"`},
		}},
		"surefire.junit": {Tests: 2},
		"nested.junit":   {Tests: 3, Failures: 1, Items: []report.Item{{Name: "sum adds twice.adds twice", Message: "Error: expect(received).toBe(expected)"}}},
		"unloaded.junit": {Tests: 1, Failures: 1, More: 1},
		"clean.sarif":    {Findings: findings(0, 0, 0)},
		"gosec.sarif": {Failures: 3, Findings: findings(3, 1, 1), Items: []report.Item{
			{Rule: "G101", Level: "error", File: "cmd/main.go", Line: 12, Message: "Potential hardcoded credentials"},
			{Rule: "G304", Level: "error", File: "/src/a b.go", Line: 3, Message: "File path from a variable"},
			{Rule: "G101", Level: "error", Message: "not accepted"},
			{Rule: "G104", Level: "warning", Message: "Errors unhandled"},
			{Rule: "G401", Level: "note", Message: "Weak primitive"},
		}},

		"bad-utf8-in-output.junit":  {Tests: 1},
		"bom.junit":                 {Tests: 1},
		"error-only.junit":          {Tests: 1, Failures: 1, Items: []report.Item{{Name: "a", Message: "Timeout"}}},
		"escape-reference.junit":    {Tests: 1},
		"flaky-counted.junit":       {Tests: 1, Counted: 2, Flaky: 1, Items: []report.Item{{Name: "a", Flaky: true, Message: "first time"}}},
		"flaky.junit":               {Tests: 1, Flaky: 1, Items: []report.Item{{Name: "a", Flaky: true, Message: "first time"}}},
		"iso-8859-1.junit":          {Tests: 1},
		"suite-error-counted.junit": {Tests: 1, Failures: 1, Items: []report.Item{{Name: "s", Message: "class could not be loaded"}}},
		"suite-error.junit":         {Tests: 1, Failures: 1, Items: []report.Item{{Name: "s", Message: "class could not be loaded"}}},
		"thousands.junit":           {Tests: 1, Counted: 1425},
		"two-failures.junit":        {Tests: 1, Failures: 1, Items: []report.Item{{Name: "a", Message: "x"}}},
		"xml-1.1.junit":             {Tests: 1},

		"build-failure.gotest":     {Tests: 1, Failures: 1, Items: []report.Item{{Name: "p", File: "./p_test.go", Line: 6, Message: "cannot use t as string value"}}},
		"old-build-failure.gotest": {Tests: 2, Failures: 1, Items: []report.Item{{Name: "q", Message: "a line of text says FAIL"}}},
		"package-twice.gotest":     {Tests: 2},
		"stderr-line.gotest":       {Tests: 1},
		"test-without-end.gotest":  {Tests: 1},

		"absent.sarif":                     {Findings: findings(0, 0, 0)},
		"bom.sarif":                        {Findings: findings(0, 0, 0)},
		"hierarchical-rule.sarif":          {Failures: 1, Findings: findings(1, 0, 0), Items: []report.Item{{Rule: "E1/sub", Level: "error", File: "a.c", Line: 1, Message: "m"}}},
		"level-by-extension-rule-id.sarif": {Failures: 1, Findings: findings(1, 0, 0), Items: []report.Item{{Rule: "E1", Level: "error", File: "a.c", Line: 1, Message: "m"}}},
		"level-by-rule.sarif":              {Failures: 1, Findings: findings(1, 0, 0), Items: []report.Item{{Rule: "E1", Level: "error", File: "a.c", Line: 1, Message: "m"}}},
		"level-override.sarif":             {Failures: 1, Findings: findings(1, 0, 0), Items: []report.Item{{Rule: "W1", Level: "error", File: "a.c", Line: 1, Message: "m"}}},
		"lone-surrogate.sarif":             {Findings: findings(0, 0, 1), Items: []report.Item{{Level: "note", Message: "cut \uFFFD"}}},
		"message-by-id.sarif":              {Failures: 1, Findings: findings(1, 0, 0), Items: []report.Item{{Rule: "E1", Level: "error", File: "a.c", Line: 1, Message: "main.c is unsafe"}}},
		"suppressed.sarif":                 {Findings: findings(0, 0, 0)},
		"suppression-rejected.sarif":       {Failures: 1, Findings: findings(1, 0, 0), Items: []report.Item{{Rule: "E1", Level: "error", File: "a.c", Line: 1, Message: "m"}}},
	} {
		got := parse(t, file)
		for i := range got.Items { // of a panic, the first line is enough
			if first, _, more := strings.Cut(got.Items[i].Message, "\n"); more && strings.HasPrefix(first, "panic: ") {
				got.Items[i].Message = first + "…"
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Parse(%s) (-want +got):\n%s", file, diff)
		}
	}
}

// findings returns the findings of SARIF's levels, of which none is of level none.
func findings(errors, warnings, notes int) map[string]int {
	return map[string]int{"error": errors, "warning": warnings, "note": notes, "none": 0}
}

// What is not a whole report of its format is an error, and never one without faults.
func TestMalformed(t *testing.T) {
	t.Parallel()
	const (
		start = `{"Action":"start","Package":"p"}` + "\n"
		pass  = `{"Action":"pass","Package":"p"}` + "\n"
	)
	for _, tt := range []struct{ format, text, want string }{
		{"tap", "ok 1", "no format"},
		{"junit", "", "XML"},
		{"junit", "ok", "XML"},
		{"junit", "<html></html>", `"html"`},
		{"junit", "<testsuite/><testsuite/>", "where testsuites or testsuite belongs"},
		{"junit", `<testsuite failures="many"/>`, "no count"},
		{"junit", `<testsuite failures="-1"/>`, "no count"},
		{"junit", `<testsuite errors="99999999999999999999"/>`, "no count"},
		{"junit", `<testsuite><testcase></testsuite>`, "XML"},
		{"junit", `<testsuite><testcase name="&evil;"/></testsuite>`, "XML"},
		{"junit", "\xff\xfe<\x00t\x00e\x00s\x00t\x00s\x00u\x00i\x00t\x00e\x00>\x00", "XML"},
		{"junit", "<testsuite><testcase name=\"&#x1b;\"", "XML"},
		{"junit", "\ufeff\ufeff", "XML"},
		{"junit", strings.Repeat("<testsuite>", 100) + strings.Repeat("</testsuite>", 100), "deep"},
		{"junit", "<testsuite><x>" + strings.Repeat("<a>", 5000) + strings.Repeat("</a>", 5000) + "</x></testsuite>", "deep"},
		{"sarif", "", "SARIF"},
		{"sarif", "null", "version"},
		{"sarif", "\ufeff\ufeff{}", "SARIF"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t","globalMessageStrings":[]}},"results":[]}]}`, "an object"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t","globalMessageStrings":{` + members(50_001) + `}}},"results":[]}]}`, "more than 50000"},
		{"sarif", "[]", "SARIF"},
		{"sarif", `{"version":"2.0.0","runs":[]}`, "version"},
		{"sarif", `{"version":"2.1.0"}`, "without runs"},
		{"sarif", `{"version":"2.1.0","runs":[]}`, "without runs"},
		{"sarif", `{"version":"2.1.0","runs":{}}`, "array"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}}}]}`, "no results"},
		{"sarif", read(t, "null-results.sarif"), "no results"},
		{"sarif", `{"version":"2.1.0","runs":[{"results":[]}]}`, "name its tool"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[],"invocations":[{"executionSuccessful":false}]}]}`, "did not get through"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[{"level":"fatal","message":{"text":"x"}}]}]}`, "level"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[{"level":7}]}]}`, "type"},
		{"sarif", `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[` + strings.Repeat("{},", 50_000) + `{}]}]}`, "more than 50000"},
		{"sarif", `{"version":"2.1.0","runs":[` + strings.Repeat(`{"tool":{"driver":{"name":"t"}},"results":[`+strings.Repeat("{},", 20_000)+`{}]},`, 2) +
			`{"tool":{"driver":{"name":"t"}},"results":[` + strings.Repeat("{},", 20_000) + `{}]}]}`, "more than 50000"},
		{"junit", "<testsuite>text<testcase" + strings.Repeat(` a=">"`, 1<<18) + "/></testsuite>", "a tag has more than"},
		{"gotest", "", "no package"},
		{"gotest", "\n\n", "no package"},
		{"gotest", "ok  \tp\t0.1s\n", "line 1 is no event"},
		{"gotest", "{}\n", "line 1 is no event"},
		{"gotest", "FAIL\tp [build failed]\n", "line 1 is no event"},
		{"gotest", start, "not ended"},
		{"gotest", start + "a line of stderr" + pass, "not ended, and line 2 is no event"},
		{"gotest", start + "the end", "not ended, and line 2 is no event"},
		{"gotest", start + pass[:len(pass)-2], "cut off"},
		{"gotest", start + pass + start, "not ended"},
		{"gotest", start + `{"Action":"pass"}` + "\n", "no package"},
		{"gotest", start + `{"Action":"output","Package":"p","Output":"` + strings.Repeat("x", 1<<20) + "\"}\n" + pass, "longer"},
		{"gotest", start + `{"Action":"pass","Package":"p","Package":"q"}` + "\n", "no event"},
	} {
		r, err := report.Parse(run.GateReport{Format: tt.format}, strings.NewReader(tt.text), nothing)
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
			t.Errorf("Parse(%s, %.200q) = %+v, %v, want an error that says %q", tt.format, tt.text, r, err, tt.want)
		}
	}
}

// members returns n members of a JSON object.
func members(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"%d":{}`, i)
	}
	return strings.Join(list, ",")
}

// corpus returns the reports of a format.
func corpus(t testing.TB, format string) (all [][]byte) {
	t.Helper()
	files, err := filepath.Glob("testdata/*." + format)
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus of %s: %v", format, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw)
	}
	return all
}

// Cut anywhere, a report does not pass for a better one.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for _, format := range run.ReportFormats {
		for _, whole := range corpus(t, format) {
			whole = bytes.TrimSpace(whole)
			if format == "gotest" {
				whole = append(whole, '\n')
			}
			for n := 0; n < len(whole); n += 1 + len(whole)/250 {
				r, err := report.Parse(run.GateReport{Format: format}, bytes.NewReader(whole[:n]), nothing)
				if between := format == "gotest" && n > 0 && (whole[n-1] == '\n' || whole[n] == '\n'); err == nil && !between {
					t.Fatalf("Parse(the first %d of %d bytes of %s) = %+v, want an error", n, len(whole), format, r)
				}
			}
		}
	}
}

// However large a report is, what is kept of it is small.
func TestBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 1000)
	var junit, gotest, sarif strings.Builder
	junit.WriteString("<testsuites>")
	sarif.WriteString(`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[`)
	const n = 200
	for i := range n {
		fmt.Fprintf(&junit, `<testsuite><testcase name="%d%s" file="%s"><failure message="%s">%s</failure></testcase></testsuite>`, i, long, long, long, long)
		fmt.Fprintf(&gotest, `{"Action":"output","Package":"p","Test":"T%d%s","Output":"%s\n"}`+"\n", i, long, long)
		fmt.Fprintf(&gotest, `{"Action":"fail","Package":"p","Test":"T%d%s"}`+"\n", i, long)
		fmt.Fprintf(&sarif, `{"ruleId":"%s","level":"%s","message":{"text":"%s"},"locations":[{"physicalLocation":{"artifactLocation":{"uri":"%s"}}},{},{}]},`, long, []string{"note", "error"}[i%2], long, long)
	}
	junit.WriteString("</testsuites>")
	gotest.WriteString(`{"Action":"fail","Package":"p"}` + "\n")
	text := strings.TrimSuffix(sarif.String(), ",") + "]}]}"
	for format, tt := range map[string]struct {
		text     string
		failures int
	}{"junit": {junit.String(), n}, "gotest": {gotest.String(), n}, "sarif": {text, n / 2}} {
		r, err := report.Parse(run.GateReport{Format: format}, strings.NewReader(tt.text), nothing)
		if err != nil || r.Failures != tt.failures || len(r.Items) != report.MaxItems || r.More != n-report.MaxItems {
			t.Errorf("Parse(%s) = %d failures, %d items and %d more, %v; want %d, %d, %d", format, r.Failures, len(r.Items), r.More, err, tt.failures, report.MaxItems, n-report.MaxItems)
		}
		for _, i := range r.Items {
			if len(i.Name)+len(i.Rule)+len(i.File)+len(i.Message) > 1100 || !utf8.ValidString(i.Name+i.Rule+i.File+i.Message) {
				t.Errorf("Parse(%s) keeps %d bytes of an item", format, len(i.Name)+len(i.Rule)+len(i.File)+len(i.Message))
			}
			if format == "sarif" && i.Level != "error" {
				t.Errorf("Parse(sarif) keeps a %s before an error", i.Level)
			}
		}
	}
}

// Text may be as long as it likes, whatever it looks like.
func TestLongText(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(`<a b="c"> `, 1<<18)
	for name, text := range map[string]string{"text": strings.Repeat("text ", 1<<19), "CDATA": "<![CDATA[" + long + "]]>", "comment": "<!--" + long + "-->"} {
		r, err := report.Parse(run.GateReport{Format: "junit"}, strings.NewReader("<testsuite><testcase name='a'><system-out>"+text+"</system-out></testcase></testsuite>"), nothing)
		if err != nil || r.Tests != 1 {
			t.Errorf("Parse(junit with a long %s) = %d tests, %v, want 1", name, r.Tests, err)
		}
	}
}

// Small elements do not become large in memory without bound.
func TestMemory(t *testing.T) {
	nested := `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[{"message":{"text":"x"},"locations":[` + strings.Repeat("{},", 4<<20) + `{}]}]}]}`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := report.Parse(run.GateReport{Format: "sarif"}, strings.NewReader(nested), nothing); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 2<<20 {
		t.Errorf("a report of %d MiB took %d MiB", len(nested)>>20, took>>20)
	}
}

func FuzzParse(f *testing.F) {
	for i, format := range run.ReportFormats {
		for _, raw := range corpus(f, format) {
			f.Add(i, raw)
		}
	}
	f.Fuzz(func(t *testing.T, i int, raw []byte) {
		format := run.ReportFormats[uint(i)%uint(len(run.ReportFormats))]
		r, err := report.Parse(run.GateReport{Format: format}, bytes.NewReader(raw), nothing)
		if err != nil {
			if !utf8.ValidString(err.Error()) || len(err.Error()) > 1000 {
				t.Errorf("Parse(%s) = an error of %d bytes, %q", format, len(err.Error()), err)
			}
			return
		}
		found := 0
		for _, n := range r.Findings {
			found += n
		}
		if r.Failures < 0 || r.Skipped < 0 || r.Failures+r.Skipped > r.Tests+found || len(r.Items) > report.MaxItems || r.Failures > len(r.Items)+r.More {
			t.Errorf("Parse(%s) = %+v, whose counts do not fit", format, r)
		}
		for _, item := range r.Items {
			for _, s := range []string{item.Name, item.Rule, item.Level, item.File, item.Message} {
				if run.BadText(s) != "" || len(s) > 512 {
					t.Errorf("Parse(%s) keeps %q", format, s)
				}
			}
		}
	})
}
