package tool

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

const (
	cleanJUnit = `<testsuite><testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite>`
	badJUnit   = `<testsuite><testcase name="a" file="a.go" line="3"><failure message="hunter2 broke"/></testcase><testcase name="b"/></testsuite>`
	noteSARIF  = `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[{"ruleId":"R","message":{"text":"hm"}}]}]}`
	badSARIF   = `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[{"ruleId":"R","level":"error","message":{"text":"hm"}}]}]}`
	cleanSARIF = "\ufeff" + `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},"results":[]}]}`
	flakyJUnit = `<testsuite failures="1"><testcase name="a"><flakyFailure message="first"/></testcase></testsuite>`
	noGo       = `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"skip","Package":"p"}` + "\n"
	flakyGo    = `{"Action":"fail","Package":"p","Test":"T"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n" + passGo
	passGo     = `{"Action":"start","Package":"p"}` + "\n" + `{"Action":"pass","Package":"p","Test":"T"}` + "\n" + `{"Action":"pass","Package":"p"}` + "\n"
)

// The exit code and the report both have to be without fault.
func TestGateReport(t *testing.T) {
	t.Parallel()
	writeReport := func(text string, code int) string {
		return fmt.Sprintf("mkdir -p out; cat > out/r <<'EOF'\n%s\nEOF\nexit %d", strings.TrimSuffix(text, "\n"), code)
	}
	for name, tt := range map[string]struct {
		format, command string
		verdict         run.State
		reason          string
		report          map[string]any
	}{
		"clean":             {"junit", writeReport(cleanJUnit, 0), run.Passed, "", map[string]any{"tests": 2.0, "failures": 0.0, "skipped": 1.0}},
		"failures":          {"junit", writeReport(badJUnit, 1), run.Failed, "1 of 2 tests failed", map[string]any{"tests": 2.0, "failures": 1.0, "skipped": 0.0, "items": []any{map[string]any{"name": "a", "file": "a.go", "line": 3.0, "message": "*** broke"}}}},
		"failures, exit 0":  {"junit", writeReport(badJUnit, 0), run.Failed, "exit code 0, but by its report 1 of 2 tests failed", nil},
		"exit 1, clean":     {"junit", writeReport(cleanJUnit, 1), run.Failed, "exit code 1, though its report shows no failure", nil},
		"a warning":         {"sarif", writeReport(noteSARIF, 0), run.Passed, "", map[string]any{"failures": 0.0, "fail_on": "error", "findings": map[string]any{"error": 0.0, "warning": 1.0, "note": 0.0, "none": 0.0}, "items": []any{map[string]any{"rule": "R", "level": "warning", "message": "hm"}}}},
		"an error, exit 0":  {"sarif", writeReport(badSARIF, 0), run.Failed, "1 finding, 1 of level error", nil},
		"go":                {"gotest", writeReport(passGo, 0), run.Passed, "", map[string]any{"tests": 1.0, "failures": 0.0, "skipped": 0.0}},
		"none":              {"junit", "true", run.Error, "did not write it", map[string]any{}},
		"none, exit 1":      {"junit", "exit 1", run.Error, "exit code 1; the report out/r cannot be used: the command did not write it", map[string]any{}},
		"old":               {"junit", "test ! -e out/r", run.Error, "did not write it", nil},
		"malformed":         {"junit", writeReport(cleanJUnit[:20], 0), run.Error, "not XML to its end", nil},
		"of another format": {"sarif", writeReport(cleanJUnit, 0), run.Error, "not SARIF", nil},
		"empty":             {"gotest", "mkdir -p out; : > out/r", run.Error, "no package", nil},
		"a symlink":         {"junit", "mkdir -p out; echo '" + cleanJUnit + "' > real; ln -s ../real out/r", run.Passed, "", nil},
		"to a bad one":      {"junit", "mkdir -p out; echo '" + badJUnit + "' > real; ln -s \"$PWD/real\" out/r", run.Failed, "1 of 2 tests failed", nil},
		"below a symlink":   {"junit", "rm -rf out; mkdir real; ln -s real out; echo '" + cleanJUnit + "' > out/r", run.Passed, "", nil},
		"a symlink to none": {"junit", "mkdir -p out; ln -s ../real out/r", run.Error, "it is a symlink", nil},
		"a symlink to .git": {"junit", "mkdir -p out .git; echo '" + cleanJUnit + "' > .git/r; ln -s ../.git/r out/r", run.Error, "it is a symlink", nil},
		"a link to folders": {"junit", "mkdir -p out real; ln -s ../real out/r", run.Error, "it is no regular file", nil},
		"a symlink out":     {"junit", "mkdir -p out; ln -s /dev/null out/r", run.Error, "it is a symlink out of the workspace", nil},
		"below one":         {"junit", "rm -rf out; ln -s .. out", run.Error, "out is a symlink out of the workspace", nil},
		"no test":           {"junit", writeReport("<testsuite/>", 0), run.Error, `exit code 0; the report holds no test; if that is all right, say "allow_empty": true`, map[string]any{"tests": 0.0, "failures": 0.0, "skipped": 0.0}},
		"no test, exit 5":   {"junit", writeReport("<testsuite/>", 5), run.Error, "exit code 5; the report holds no test", nil},
		"no go test":        {"gotest", writeReport(noGo, 0), run.Error, "holds no test", nil},
		"no finding":        {"sarif", writeReport(cleanSARIF, 0), run.Passed, "", map[string]any{"failures": 0.0, "fail_on": "error", "findings": map[string]any{"error": 0.0, "warning": 0.0, "note": 0.0, "none": 0.0}}},
		"all skipped":       {"junit", writeReport(`<testsuite><testcase><skipped/></testcase></testsuite>`, 0), run.Passed, "the report has 1 test, and none ran: all were skipped", nil},
		"counted":           {"junit", writeReport(`<testsuite tests="5"><testcase/></testsuite>`, 0), run.Passed, "", map[string]any{"tests": 1.0, "counted": 5.0, "failures": 0.0, "skipped": 0.0}},
		"flaky":             {"junit", writeReport(flakyJUnit, 0), run.Passed, "", map[string]any{"tests": 1.0, "failures": 0.0, "skipped": 0.0, "flaky": 1.0, "items": []any{map[string]any{"name": "a", "flaky": true, "message": "first"}}}},
		"a rerun":           {"gotest", writeReport(flakyGo, 0), run.Failed, "1 of 1 test failed; 1 failed at first and passed when they ran again", nil},
		"a fifo":            {"junit", "mkdir -p out; mkfifo out/r", run.Error, "no regular file", nil},
		"a folder":          {"junit", "mkdir -p out/r", run.Error, "no regular file", nil},
		"huge":              {"junit", "mkdir -p out; printf '<testsuite>' > out/r; truncate -s 100M out/r", run.Error, "cannot be used", nil},
		"missing tool":      {"junit", writeReport(cleanJUnit, 127), run.Error, "exit code 127", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := newCall(t, "gate:unit", run.GateInputs{Command: tt.command, Report: &run.GateReport{Format: tt.format, Path: "out/r"}})
			writeTo(t, c.Workspace, "out/r", cleanJUnit) // of some step before
			r, err := developer(Config{Redactor: telemetry.NewRedactor("hunter2")}).Run(t.Context(), c)
			reason, _ := r.Evidence["reason"].(string)
			if err != nil || r.Verdict != tt.verdict || !strings.Contains(reason, tt.reason) || (reason == "") != (tt.reason == "") {
				t.Fatalf("Run = %s because %q, %v; want %s because %q", r.Verdict, reason, err, tt.verdict, tt.reason)
			}
			if tt.report == nil {
				return
			}
			raw, err := json.Marshal(r.Evidence["report"])
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			tt.report["format"], tt.report["path"] = tt.format, "out/r"
			if diff := cmp.Diff(tt.report, got); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

// A gate says itself what of a report does not pass.
func TestGateReportOptions(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in      run.GateReport
		text    string
		verdict run.State
	}{
		"empty":                 {run.GateReport{Format: "junit", AllowEmpty: true}, "<testsuite/>", run.Passed},
		"empty go test":         {run.GateReport{Format: "gotest", AllowEmpty: true}, noGo, run.Passed},
		"empty, but counted":    {run.GateReport{Format: "junit", AllowEmpty: true}, `<testsuite errors="1"/>`, run.Failed},
		"a rerun that passes":   {run.GateReport{Format: "gotest", Flaky: run.FlakyPasses}, flakyGo, run.Passed},
		"a flaky test fails":    {run.GateReport{Format: "junit", Flaky: run.FlakyFails}, flakyJUnit, run.Failed},
		"a warning":             {run.GateReport{Format: "sarif", FailOn: "warning"}, noteSARIF, run.Failed},
		"a warning, for a note": {run.GateReport{Format: "sarif", FailOn: "note"}, noteSARIF, run.Failed},
		"a warning, no error":   {run.GateReport{Format: "sarif", FailOn: "error"}, noteSARIF, run.Passed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.in.Path = "r"
			c, _ := newCall(t, "gate:unit", run.GateInputs{Command: "cat > r <<'EOF'\n" + strings.TrimSuffix(tt.text, "\n") + "\nEOF\n", Report: &tt.in})
			r, err := developer(Config{}).Run(t.Context(), c)
			if err != nil || r.Verdict != tt.verdict {
				t.Errorf("Run = %s because %q, %v; want %s", r.Verdict, r.Evidence["reason"], err, tt.verdict)
			}
		})
	}
}

// A glob adds up what the command wrote, and nothing from before.
func TestGateReportGlob(t *testing.T) {
	t.Parallel()
	write := func(path, text string) string {
		return fmt.Sprintf("mkdir -p %q; cat > %q <<'EOF'\n%s\nEOF\n", filepath.Dir(path), path, text)
	}
	const empty = "<testsuite/>"
	for name, tt := range map[string]struct {
		path, command string
		verdict       run.State
		reason        string
		tests, files  any // as evidence has them
	}{
		"two":                   {"out/TEST-*.xml", write("out/TEST-a.xml", cleanJUnit) + write("out/TEST-b.xml", cleanJUnit), run.Passed, "", 4, 2},
		"one":                   {"out/TEST-*.xml", write("out/TEST-a.xml", cleanJUnit), run.Passed, "", 2, nil},
		"in any folder":         {"**/TEST-*.xml", write("a/out/TEST-a.xml", cleanJUnit) + write("TEST-b.xml", cleanJUnit), run.Passed, "", 4, 2},
		"alternatives":          {"{a,b}/r[12].xml", write("a/r1.xml", cleanJUnit) + write("b/r2.xml", cleanJUnit) + write("b/r3.xml", badJUnit), run.Passed, "", 4, 2},
		"one with failures":     {"out/*", write("out/a", cleanJUnit) + write("out/b", badJUnit), run.Failed, "1 of 4 tests failed", 4, 2},
		"one without tests":     {"out/*", write("out/a", cleanJUnit) + write("out/b", empty), run.Passed, "", 2, 2},
		"none with tests":       {"out/*", write("out/a", empty) + write("out/b", empty), run.Error, "holds no test", 0, 2},
		"one that is cut":       {"out/*", write("out/a", cleanJUnit) + write("out/hunter2", cleanJUnit[:20]), run.Error, "the report out/*** cannot be used: not XML", nil, nil},
		"one that leads out":    {"out/*", write("out/a", cleanJUnit) + "ln -s /etc/passwd out/b", run.Error, "the report out/b cannot be used: it is a symlink out of the workspace", nil, nil},
		"a folder leads out":    {"out/x/*", "rm -rf out; ln -s /tmp out", run.Error, "out is a symlink out of the workspace", nil, nil},
		"a linked folder":       {"**/T-*.xml", write("real/T-a.xml", cleanJUnit) + "mkdir link; ln -s ../real link/b", run.Passed, "", 2, nil},
		"that alone matches":    {"*/T-*.xml", write("deep/er/T-a.xml", badJUnit) + write("a/T-a.xml", cleanJUnit) + "ln -s deep/er b", run.Failed, "1 of 4 tests failed", 4, 2},
		"by an absolute link":   {"*/T-*.xml", write("deep/er/T-a.xml", badJUnit) + write("a/T-a.xml", cleanJUnit) + `ln -s "$PWD/deep/er" b`, run.Failed, "1 of 4 tests failed", 4, 2},
		"link of a link":        {"{a,b}/T-*.xml", write("deep/er/T-a.xml", badJUnit) + write("a/T-a.xml", cleanJUnit) + "ln -s deep c; ln -s c/er b", run.Failed, "1 of 4 tests failed", 4, 2},
		"a cycle":               {"**/T-*.xml", write("a/T-a.xml", cleanJUnit) + "ln -s .. a/up; ln -s a b; ln -s self self", run.Passed, "", 2, nil},
		"once around a cycle":   {"a/up/*/T-*.xml", write("b/T-a.xml", badJUnit) + write("a/T-a.xml", cleanJUnit) + "ln -s .. a/up", run.Failed, "1 of 4 tests failed", 4, 2},
		"links of a monorepo":   {"packages/**/TEST-*.xml", write("packages/a/TEST-a.xml", cleanJUnit) + write("tools/x/TEST-x.xml", badJUnit) + "mkdir packages/a/node_modules; ln -s ../../../tools/x ../../a packages/a/node_modules", run.Failed, "1 of 4 tests failed", 4, 2},
		"linked, out of it":     {"**/T-*.xml", write("a/T-a.xml", cleanJUnit) + `ln -s "$(mktemp -d)" b`, run.Error, "b is a symlink out of the workspace, and files behind it may match **/T-*.xml", nil, nil},
		"so for one folder":     {"*/T-*.xml", write("a/T-a.xml", cleanJUnit) + `ln -s "$(mktemp -d)" b`, run.Error, "b is a symlink out of the workspace", nil, nil},
		"so named in braces":    {"{a,b}/T-*.xml", write("a/T-a.xml", cleanJUnit) + `ln -s "$(mktemp -d)" b`, run.Error, "b is a symlink out of the workspace", nil, nil},
		"out, but not reached":  {"a/**/T-*.xml", write("a/T-a.xml", cleanJUnit) + `ln -s "$(mktemp -d)" b`, run.Passed, "", 2, nil},
		"a linked file":         {"x/*.xml", write("a/r.xml", cleanJUnit) + "mkdir x; ln -s ../a/r.xml x/latest.xml", run.Passed, "", 2, nil},
		"counted once":          {"{a,x}/*.xml", write("a/r.xml", badJUnit) + "mkdir x; ln -s ../a/r.xml x/latest.xml; ln -s latest.xml x/again.xml", run.Failed, "1 of 2 tests failed", 2, nil},
		"a linked file in .git": {"x/*.xml", write(".git/r.xml", cleanJUnit) + "mkdir x; ln -s ../.git/r.xml x/latest.xml", run.Error, "the report x/latest.xml cannot be used: it is a symlink", nil, nil},
		"a file out of it":      {"**/T-*.xml", write("a/T-a.xml", cleanJUnit) + "mkdir bin; ln -s /bin/sh bin/python; ln -s /no/such bin/none", run.Passed, "", 2, nil},
		"a link to .git":        {"**/T-*.xml", write("a/T-a.xml", cleanJUnit) + write(".git/x/T-b.xml", badJUnit) + "ln -s .git/x b", run.Passed, "", 2, nil},
		"one of two":            {"{a,b}.xml", write("a.xml", cleanJUnit), run.Error, "the report b.xml cannot be used: the command did not write it", nil, nil},
		"one of two globs":      {"out/{a,b}*.xml", write("out/a1.xml", cleanJUnit), run.Error, "the report out/b*.xml cannot be used: the command wrote no file that matches", nil, nil},
		"one of two empty":      {"{a,b}.xml", write("a.xml", cleanJUnit) + write("b.xml", empty), run.Error, `the report b.xml holds no test; if that is all right, say "allow_empty": true`, 2, 2},
		"empty by one glob":     {"{a,b/**}/T-*.xml", write("a/T-1.xml", cleanJUnit) + write("b/T-1.xml", empty) + write("b/c/T-2.xml", empty), run.Error, "the report b/**/T-*.xml holds no test", 2, 3},
		"some empty modules":    {"{a,b}/**/T-*.xml", write("a/T-1.xml", cleanJUnit) + write("a/x/T-2.xml", empty) + write("b/y/T-1.xml", cleanJUnit) + write("b/T-2.xml", empty), run.Passed, "", 4, 4},
		"braces in braces":      {"{a,b{1,2}}.xml", write("a.xml", cleanJUnit) + write("b1.xml", cleanJUnit), run.Error, "the report b2.xml cannot", nil, nil},
		"of two, one file":      {"{a*,*b}.xml", write("ab.xml", cleanJUnit), run.Passed, "", 2, nil},
		"any of a class":        {"out/[{,}/]x/*.xml", write("out/,x/a.xml", cleanJUnit), run.Passed, "", 2, nil},
		"an escaped slash":      {`out\/a*.xml`, write("out/a.xml", cleanJUnit), run.Passed, "", 2, nil},
		"an escaped brace":      {`out/\{a,b\}.xml`, write("out/{a,b}.xml", cleanJUnit), run.Passed, "", 2, nil},
		"folders do not match":  {"out/*", write("out/a", cleanJUnit) + "mkdir out/b", run.Passed, "", 2, nil},
		"nothing":               {"out/*", "true", run.Error, "wrote no file that matches", nil, nil},
		"no folder":             {"no/*", "true", run.Error, "wrote no file that matches", nil, nil},
		"in .git":               {"**/*.xml", write(".git/r.xml", badJUnit) + write("r.xml", cleanJUnit), run.Passed, "", 2, nil},
		"more than is read":     {"out/*", write("out/a", cleanJUnit) + "truncate -s 64M out/b", run.Error, "the report out/b cannot be used: with it, more than", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := newCall(t, "gate:unit", run.GateInputs{Command: tt.command, Report: &run.GateReport{Format: "junit", Path: tt.path}})
			writeTo(t, c.Workspace, "out/TEST-old.xml", badJUnit) // of some step before
			r, err := developer(Config{Redactor: telemetry.NewRedactor("hunter2")}).Run(t.Context(), c)
			reason, _ := r.Evidence["reason"].(string)
			if err != nil || r.Verdict != tt.verdict || !strings.Contains(reason, tt.reason) {
				t.Fatalf("Run = %s because %q, %v; want %s because %q", r.Verdict, reason, err, tt.verdict, tt.reason)
			}
			if shown := r.Evidence["report"].(map[string]any); shown["tests"] != tt.tests || shown["files"] != tt.files {
				t.Errorf("report = %v, want %v tests in %v files", shown, tt.tests, tt.files)
			}
		})
	}
}

// What was there before the command is not its report, by whatever way it gets into the
// report's place.
func TestGateReportOfBefore(t *testing.T) {
	t.Parallel()
	const fresh = "mkdir -p old; echo '" + cleanJUnit + "' > old/r.xml; "
	for name, tt := range map[string]struct {
		path, command string
		verdict       run.State
	}{
		"a link to its folder":          {"out/*.xml", "ln -s old out", run.Error},
		"that the command wrote to":     {"out/*.xml", "ln -s old out; " + fresh, run.Passed},
		"in any folder":                 {"x/**/r.xml", "mkdir x; mv old x/y", run.Error},
		"a link to its folder, by name": {"out/r.xml", "ln -s old out", run.Error},
		"by name, written to":           {"out/r.xml", fresh + "ln -s old out", run.Passed},
		"a link to it":                  {"out/*.xml", "mkdir out; ln -s ../old/r.xml out", run.Error},
		"a link to it, written to":      {"out/*.xml", "mkdir out; ln -s ../old/r.xml out; " + fresh, run.Passed},
		"a link to it, by name":         {"r.xml", "ln -s old/r.xml r.xml", run.Error},
		"its folder":                    {"out/*.xml", "mv old out", run.Error},
		"its folder, by name":           {"out/r.xml", "mv old out", run.Error},
		"a good one beside it":          {"{out,new}/*.xml", "mkdir new; echo '" + cleanJUnit + "' > new/r.xml; ln -s old out", run.Error},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := newCall(t, "gate:unit", run.GateInputs{Command: tt.command, Report: &run.GateReport{Format: "junit", Path: tt.path}})
			writeTo(t, c.Workspace, "old/r.xml", cleanJUnit)
			r, err := developer(Config{}).Run(t.Context(), c)
			reason, _ := r.Evidence["reason"].(string)
			if err != nil || r.Verdict != tt.verdict || tt.verdict == run.Error && !strings.Contains(reason, "it was there before the command") {
				t.Errorf("Run = %s because %q, %v; want %s", r.Verdict, reason, err, tt.verdict)
			}
		})
	}
}

func TestGateReportInTheWay(t *testing.T) {
	t.Parallel()
	c, _ := newCall(t, "gate:unit", run.GateInputs{Command: "touch ran", Report: &run.GateReport{Format: "junit", Path: "out"}})
	writeTo(t, c.Workspace, "out/kept", "")
	r, err := developer(Config{}).Run(t.Context(), c)
	if reason, _ := r.Evidence["reason"].(string); err != nil || r.Verdict != run.Error || !strings.Contains(reason, "taken") {
		t.Errorf("Run = %+v, %v, want the verdict error", r, err)
	}
	if _, err := os.Stat(filepath.Join(c.Workspace, "ran")); err == nil {
		t.Error("the command ran all the same")
	}
}

// Without a command, the workspace's nofx.json has it.
func TestGateOfTheWorkspace(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file    string // "": none
		in      run.GateInputs
		verdict run.State
		says    string // in the reason, or in the output
	}{
		"own":            {`{"gates":{"unit":{"command":"echo own $LEVEL","env":{"LEVEL":"7"}}}}`, run.GateInputs{}, run.Passed, "own 7"},
		"own report":     {`{"gates":{"unit":{"command":"true","report":{"format":"junit","path":"r"}}}}`, run.GateInputs{}, run.Error, "did not write it"},
		"step's report":  {`{"gates":{"unit":{"command":"true","report":{"format":"junit","path":"r"}}}}`, run.GateInputs{Report: &run.GateReport{Format: "sarif", Path: "s"}}, run.Error, "report s cannot"},
		"step's command": {`nonsense`, run.GateInputs{Command: "echo step"}, run.Passed, "step"},
		"no file":        {"", run.GateInputs{}, run.Error, `put {"gates": {"unit": {"command": "…"}}} into the workspace's nofx.json`},
		"other gate":     {`{"gates":{"lint":{"command":"true"}}}`, run.GateInputs{}, run.Error, "there is no command"},
		"no command":     {`{"gates":{"unit":{}}}`, run.GateInputs{}, run.Error, "there is no command"},
		"a schema":       {`{"$schema":"https://example.com/nofx.json","gates":{"unit":{"command":"echo own"}}}`, run.GateInputs{}, run.Passed, "own"},
		"a comment":      {`{"gates":{"unit":{"command":"# todo"}}}`, run.GateInputs{}, run.Error, "/gates/unit/command holds only comments"},
		"fail-fast":      {`{"gates":{"unit":{"command":"go test -failfast"}}}`, run.GateInputs{Report: &run.GateReport{Format: "gotest", Path: "r", Flaky: run.FlakyPasses}}, run.Error, "cannot be combined with -failfast"},
		"broken":         {`{"gates":`, run.GateInputs{}, run.Error, "nofx.json cannot be used"},
		"misspelt":       {`{"gate":{}}`, run.GateInputs{}, run.Error, "unknown input"},
		"bad path":       {`{"gates":{"unit":{"command":"true","report":{"format":"junit","path":"../r"}}}}`, run.GateInputs{}, run.Error, "/gates/unit/report/path"},
		"bad name":       {`{"gates":{"unit":{"command":"true","env":{"NOFX_X":""}}}}`, run.GateInputs{}, run.Error, "/gates/unit/env/NOFX_X"},
		"large":          {`{"gates":{` + strings.Repeat(" ", 70<<10) + `}}`, run.GateInputs{}, run.Error, "larger"},
		"a mark":         {"\ufeff" + `{"gates":{"unit":{"command":"echo own"}}}`, run.GateInputs{}, run.Passed, "own"},
		"twice":          {`{"gates":{"unit":{"command":"true","command":"false"}}}`, run.GateInputs{}, run.Error, "nofx.json cannot be used: inputs/gates/unit/command: is given twice"},
		"half a pair":    {`{"gates":{"unit":{"command":"echo \ud83d"}}}`, run.GateInputs{}, run.Error, "nofx.json cannot be used: inputs/gates/unit/command: contains half a surrogate pair"},
		"no UTF-8":       {"{\"gates\":{\"unit\":{\"command\":\"echo \xff\"}}}", run.GateInputs{}, run.Error, "nofx.json cannot be used: inputs/gates/unit/command: is not valid UTF-8"},
		"two marks":      {"\ufeff\ufeff" + `{"gates":{"unit":{"command":"echo own"}}}`, run.GateInputs{}, run.Error, "nofx.json cannot be used"},
		"own options":    {`{"gates":{"unit":{"command":"echo '<testsuite/>' > r","report":{"format":"junit","path":"r","allow_empty":true}}}}`, run.GateInputs{}, run.Passed, ""},
		"bad options":    {`{"gates":{"unit":{"command":"true","report":{"format":"junit","path":"r","fail_on":"note"}}}}`, run.GateInputs{}, run.Error, "/gates/unit/report/fail_on is only for sarif"},
		"a plain one":    {`{"gates":{"unit":{"command":"echo '$${{ github.sha }}' $A","env":{"A":"$${{"}}}}`, run.GateInputs{}, run.Passed, "${{ github.sha }} ${{\n"},
		"a secret":       {`{"gates":{"unit":{"command":"env","secrets":["TOKEN"]}}}`, run.GateInputs{}, run.Error, "/gates/unit/secrets a step of the plan asks for secrets"},
		"a template":     {`{"gates":{"unit":{"command":"echo '${{ github.sha }}'"}}}`, run.GateInputs{}, run.Error, "/gates/unit/command contains a template, but templates are not expanded here; $${{ stands for a plain ${{"},
		"in a variable":  {`{"gates":{"unit":{"command":"true","env":{"A":"${{ steps.a.outputs.b }}"}}}}`, run.GateInputs{}, run.Error, "/gates/unit/env/A contains a template"},
		"in a path":      {`{"gates":{"unit":{"command":"true","report":{"format":"junit","path":"${{ steps.a.outputs.b }}"}}}}`, run.GateInputs{}, run.Error, "/gates/unit/report/path contains a template"},
		"of another":     {`{"gates":{"unit":{"command":"echo own"},"lint":{"command":"echo ${{"}}}`, run.GateInputs{}, run.Passed, "own"},
		"a link":         {"->/etc/passwd", run.GateInputs{}, run.Error, "symlink"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, log := newCall(t, "gate:unit", tt.in)
			if target, ok := strings.CutPrefix(tt.file, "->"); ok {
				if err := os.Symlink(target, filepath.Join(c.Workspace, "nofx.json")); err != nil {
					t.Fatal(err)
				}
			} else if tt.file != "" {
				writeTo(t, c.Workspace, "nofx.json", tt.file)
			}
			r, err := developer(Config{}).Run(t.Context(), c)
			reason, _ := r.Evidence["reason"].(string)
			if err != nil || r.Verdict != tt.verdict || !strings.Contains(reason+log.String(), tt.says) {
				t.Errorf("Run = %s because %q, %v, log %q; want %s and %q", r.Verdict, reason, err, log, tt.verdict, tt.says)
			}
			if own := r.Evidence["source"] == "nofx.json"; own != (tt.in.Command == "" && r.ExitCode != nil) {
				t.Errorf("source = %v", r.Evidence["source"])
			}
		})
	}
}
