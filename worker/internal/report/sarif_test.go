package report_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/report"
)

// oneRun returns a SARIF log of one run with one result.
func oneRun(tool, more, result string) string {
	return fmt.Sprintf(`{"version":"2.1.0","runs":[{"tool":%s,%s"results":[%s]}]}`, tool, more, result)
}

// A result has its own level, or that of its rule, or what an invocation made of that.
func TestSARIFLevel(t *testing.T) {
	t.Parallel()
	const (
		tool = `{"driver":{"name":"d","rules":[
				{"id":"E","guid":"g-e","defaultConfiguration":{"level":"error"}},
				{"id":"N","guid":"g-n","defaultConfiguration":{"level":"note"}},
				{"id":"W"},
				{"id":"N/deep/er","defaultConfiguration":{"level":"error"}},
				{"id":"twice","defaultConfiguration":{"level":"note"}},{"id":"twice","defaultConfiguration":{"level":"error"}}]},
			"extensions":[
				{"name":"x","guid":"g-x","rules":[{"id":"N","defaultConfiguration":{"level":"error"}},{"id":"X","defaultConfiguration":{"level":"error"}}]},
				{"name":"y","rules":[{"id":"X","defaultConfiguration":{"level":"note"}}]}]}`
		lowered = `{"ruleConfigurationOverrides":[{"descriptor":{"id":"E"},"configuration":{"level":"note"}}]}`
		raised  = `{"ruleConfigurationOverrides":[{"descriptor":{"index":1},"configuration":{"level":"error"}}]}`
		unknown = `{"ruleConfigurationOverrides":[{"descriptor":{"id":"Q"},"configuration":{"level":"error"}}]}`
		silent  = `{"executionSuccessful":true}`
	)
	for name, tt := range map[string]struct{ invocations, result, want string }{
		"its own":                           {"", `"ruleId":"E","level":"note"`, "note"},
		"by id":                             {"", `"ruleId":"E"`, "error"},
		"by index":                          {"", `"ruleIndex":0`, "error"},
		"by the index in rule":              {"", `"rule":{"index":1}`, "note"},
		"by guid":                           {"", `"rule":{"guid":"g-e"}`, "error"},
		"of a rule without one":             {"", `"ruleId":"W"`, "warning"},
		"of no rule":                        {"", `"ruleId":"Q"`, "warning"},
		"of an index that is none":          {"", `"ruleIndex":99`, "warning"},
		"of a negative index":               {"", `"ruleId":"N","ruleIndex":-1`, "note"},
		"by the leading part":               {"", `"ruleId":"E/sub/sub"`, "error"},
		"by the longest leading part":       {"", `"ruleId":"N/deep/er/still"`, "error"},
		"by a shorter leading part":         {"", `"ruleId":"N/deep"`, "note"},
		"id and index disagree":             {"", `"ruleId":"N","ruleIndex":0`, "error"},
		"two rules of one id":               {"", `"ruleId":"twice"`, "error"},
		"ruleId and rule disagree":          {"", `"ruleId":"N","rule":{"id":"E"}`, "error"},
		"in the driver before others":       {"", `"ruleId":"N"`, "note"},
		"in the component of an index":      {"", `"ruleId":"N","rule":{"toolComponent":{"index":0}}`, "error"},
		"in the component of a guid":        {"", `"ruleId":"N","rule":{"toolComponent":{"guid":"g-x"}}`, "error"},
		"in the component of a name":        {"", `"rule":{"id":"X","toolComponent":{"name":"y"}}`, "note"},
		"by index in its component":         {"", `"rule":{"index":0,"toolComponent":{"index":1}}`, "note"},
		"in any component, the worst":       {"", `"ruleId":"X"`, "error"},
		"of a kind that is no failure":      {"", `"ruleId":"E","kind":"review"`, ""},
		"of a kind that is one":             {"", `"ruleId":"E","kind":"fail"`, "error"},
		"its own, though it passed":         {"", `"ruleId":"N","kind":"pass","level":"error"`, "error"},
		"its own, though it is open":        {"", `"ruleId":"N","kind":"open","level":"warning"`, "warning"},
		"none, as it passed":                {"", `"ruleId":"E","kind":"pass","level":"none"`, ""},
		"lowered":                           {lowered, `"ruleId":"E"`, "note"},
		"lowered, but its own":              {lowered, `"ruleId":"E","level":"error"`, "error"},
		"raised, by index":                  {raised, `"ruleId":"N"`, "error"},
		"raised, by leading part":           {raised, `"ruleId":"N/sub"`, "error"},
		"raised, of no known rule":          {unknown, `"ruleId":"Q/sub"`, "error"},
		"lowered in one of two":             {lowered + "," + silent, `"ruleId":"E"`, "error"},
		"lowered in its own of two":         {lowered + "," + silent, `"ruleId":"E","provenance":{"invocationIndex":0}`, "note"},
		"lowered in the other of two":       {lowered + "," + silent, `"ruleId":"E","provenance":{"invocationIndex":1}`, "error"},
		"raised in one of two":              {raised + "," + silent, `"ruleId":"N"`, "error"},
		"raised in one, of no known rule":   {unknown + "," + silent, `"ruleId":"Q"`, "error"},
		"of an override about other things": {`{"ruleConfigurationOverrides":[{"descriptor":{"id":"E"},"configuration":{"enabled":true}}]}`, `"ruleId":"E"`, "error"},
		"of an override without a level":    {`{"ruleConfigurationOverrides":[{"descriptor":{"id":"N"},"configuration":{}}]}`, `"ruleId":"N"`, "warning"},
	} {
		text := oneRun(tool, `"invocations":[`+tt.invocations+`],`, `{`+tt.result+`,"message":{"text":"m"}}`)
		r, err := parseText("sarif", text)
		got := ""
		if len(r.Items) == 1 {
			got = r.Items[0].Level
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: the level of {%s} = %q, %v, want %q", name, tt.result, got, err, tt.want)
		}
	}
	for _, bad := range []string{
		oneRun(`{"driver":{"name":"d","rules":[{"id":"E","defaultConfiguration":{"level":"fatal"}}]}}`, "", `{"ruleId":"E"}`),
		oneRun(tool, `"invocations":[`+strings.Replace(lowered, "note", "off", 1)+`],`, `{"ruleId":"E"}`),
	} {
		if r, err := parseText("sarif", bad); err == nil {
			t.Errorf("Parse(%s) = %+v, want an error about the level", bad, r)
		}
	}
}

// What kind a result is tells whether it is a finding, so one that SARIF does not have
// is an error.
func TestSARIFKind(t *testing.T) {
	t.Parallel()
	for kind, good := range map[string]bool{
		"": true, "fail": true, "pass": true, "open": true, "informational": true, "notApplicable": true, "review": true,
		"Fail": false, "FAIL": false, "error": false, "Review": false, " fail": false, "notapplicable": false,
	} {
		for _, level := range []string{"", `"level":"none",`, `"level":"error",`} {
			text := oneRun(`{"driver":{"name":"d"}}`, "", `{"kind":"`+kind+`",`+level+`"message":{"text":"m"}}`)
			if r, err := parseText("sarif", text); (err == nil) != good {
				t.Errorf("Parse(%s) = %+v, %v, want an error: %t", text, r, err, !good)
			}
		}
	}
}

// What a finding says, and where, may stand elsewhere in the log.
func TestSARIFText(t *testing.T) {
	t.Parallel()
	const (
		tool = `{"driver":{"name":"d","globalMessageStrings":{"all":{"text":"for all"}},"rules":[{"id":"R","messageStrings":{"one":{"text":"{0} of {1}{2}"},"md":{"markdown":"**bold**"}}}]},
			"extensions":[{"name":"x","globalMessageStrings":{"all":{"text":"of x"}},"rules":[{"id":"X"}]}]}`
		artifacts = `"artifacts":[{"location":{"uri":"a.c"}},{"location":{"uri":"src/b%20c.c"}}],`
	)
	at := func(location string) string {
		return `,"locations":[{"physicalLocation":{"artifactLocation":` + location + `}}]`
	}
	for name, tt := range map[string]struct {
		result string
		want   report.Item
	}{
		"text":                     {`"ruleId":"R","message":{"text":"{0} as it is"}`, report.Item{Rule: "R", Message: "{0} as it is"}},
		"text with arguments":      {`"ruleId":"R","message":{"text":"{{{0}}} {1} {7}","arguments":["a","{0}"]}`, report.Item{Rule: "R", Message: "{a} {0} {7}"}},
		"markdown":                 {`"ruleId":"R","message":{"markdown":"*m*"}`, report.Item{Rule: "R", Message: "*m*"}},
		"by id":                    {`"ruleId":"R","message":{"id":"one","arguments":["a","b","c"]}`, report.Item{Rule: "R", Message: "a of bc"}},
		"by id, of a leading part": {`"ruleId":"R/sub","message":{"id":"one","arguments":["a","b"]}`, report.Item{Rule: "R/sub", Message: "a of b{2}"}},
		"by id, in markdown":       {`"ruleIndex":0,"message":{"id":"md"}`, report.Item{Rule: "R", Message: "**bold**"}},
		"by id, of all rules":      {`"ruleId":"R","message":{"id":"all"}`, report.Item{Rule: "R", Message: "for all"}},
		"by id, of its component":  {`"ruleId":"X","message":{"id":"all"}`, report.Item{Rule: "X", Message: "of x"}},
		"by id, of no rule":        {`"message":{"id":"all"}`, report.Item{Message: "for all"}},
		"by an id that is none":    {`"ruleId":"R","message":{"id":"none"}`, report.Item{Rule: "R", Message: "none"}},
		"a file by index":          {`"message":{"text":"m"}` + at(`{"index":1}`), report.Item{File: "src/b c.c", Message: "m"}},
		"a file by uri and index":  {`"message":{"text":"m"}` + at(`{"uri":"z.c","index":1}`), report.Item{File: "z.c", Message: "m"}},
		"a file by no index":       {`"message":{"text":"m"}` + at(`{"index":7}`), report.Item{Message: "m"}},
		"half a surrogate pair":    {`"message":{"text":"\ude00 cut \ud83d"}`, report.Item{Message: "\uFFFD cut \uFFFD"}},
		"what is no UTF-8":         {`"message":{"text":"caf` + "\xe9" + `"}`, report.Item{Message: "caf\uFFFD"}},
	} {
		tt.want.Level = "warning"
		r, err := parseText("sarif", oneRun(tool, artifacts, `{`+tt.result+`}`))
		if diff := cmp.Diff([]report.Item{tt.want}, r.Items); err != nil || diff != "" {
			t.Errorf("%s: Parse({%s}) = %v, items (-want +got):\n%s", name, tt.result, err, diff)
		}
	}
	// A message that is mostly arguments is bounded.
	bomb := oneRun(`{"driver":{"name":"d"}}`, "", `{"message":{"text":"`+strings.Repeat("{0}", 1<<19)+`","arguments":["`+strings.Repeat("a", 1<<20)+`"]}}`)
	if r, err := parseText("sarif", bomb); err != nil || len(r.Items) != 1 || len(r.Items[0].Message) > 512 {
		t.Errorf("Parse(a message of many arguments) = %d items, %v", len(r.Items), err)
	}
}

// A tool that did not get through says so in one way or another; that it found something
// and ended with another exit code than 0 is no such thing.
func TestSARIFInvocations(t *testing.T) {
	t.Parallel()
	const (
		loud  = `"toolExecutionNotifications":[{"level":"note","message":{"text":"m"}},{"level":"error","message":{"text":"out of memory"}}]`
		setup = `"toolConfigurationNotifications":[{"level":"error","message":{"text":"no such rule"}}]`
		quiet = `"toolExecutionNotifications":[{"level":"warning"},{}],"toolConfigurationNotifications":[]`
	)
	for name, tt := range map[string]struct {
		invocation string
		bad        bool
	}{
		"nothing":                         {`{}`, false},
		"findings":                        {`{"exitCode":1}`, false},
		"findings, successful":            {`{"exitCode":1,"executionSuccessful":true}`, false},
		"unsuccessful":                    {`{"executionSuccessful":false}`, true},
		"an error, exit 1":                {`{"exitCode":1,` + loud + `}`, true},
		"an error of configuration":       {`{"exitCode":2,` + setup + `}`, true},
		"an error, no exit code":          {`{` + loud + `}`, true},
		"an error, exit 0":                {`{"exitCode":0,` + loud + `}`, false},
		"an error, successful":            {`{"exitCode":1,"executionSuccessful":true,` + loud + `}`, false},
		"warnings, exit 1":                {`{"exitCode":1,` + quiet + `}`, false},
		"no exit code by type":            {`{"exitCode":"1","exitSignalNumber":null}`, false},
		"an error, and none by type":      {`{"exitCode":"1",` + loud + `}`, true},
		"a signal":                        {`{"exitSignalName":"SIGSEGV"}`, true},
		"the number of a signal":          {`{"exitSignalNumber":9}`, true},
		"the number of no signal":         {`{"executionSuccessful":true,"exitCode":0,"exitSignalNumber":0}`, false},
		"the same, and unsuccessful":      {`{"executionSuccessful":false,"exitSignalNumber":0}`, true},
		"an error, exit 0 otherwise":      {`{"exitCode":0.0,` + loud + `}`, false},
		"an error of no SARIF level":      {`{"exitCode":1,"toolExecutionNotifications":[{"level":"Error"}]}`, true},
		"not started":                     {`{"processStartFailureMessage":"no such file"}`, true},
		"notifications that are no array": {`{"toolExecutionNotifications":{}}`, true},
		"no notifications":                {`{"toolExecutionNotifications":null}`, false},
		"the second of two":               {`{"executionSuccessful":true},{"exitCode":1,` + loud + `}`, true},
	} {
		text := oneRun(`{"driver":{"name":"d"}}`, `"invocations":[`+tt.invocation+`],`, ``)
		if r, err := parseText("sarif", text); (err != nil) != tt.bad {
			t.Errorf("%s: Parse(%s) = %+v, %v, want an error: %t", name, text, r, err, tt.bad)
		}
	}
	many := oneRun(`{"driver":{"name":"d"}}`, `"invocations":[{"executionSuccessful":true,"toolExecutionNotifications":[`+strings.Repeat(`{"level":"note"},`, 60_000)+`{}]}],`, ``)
	if _, err := parseText("sarif", many); err != nil {
		t.Errorf("Parse(60,001 notifications) = %v, want nil", err)
	}
}

// Results that lie elsewhere are not none, and neither are the rules that say how bad
// they are.
func TestSARIFElsewhere(t *testing.T) {
	t.Parallel()
	run := func(members string) string {
		return `{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"t"}},` + members + `}]}`
	}
	for name, tt := range map[string]struct{ text, want string }{
		"results, none here":  {run(`"results":[],"externalPropertyFileReferences":{"results":[{"location":{"uri":"r"}}]}`), "keeps its results in other files"},
		"results, not here":   {run(`"externalPropertyFileReferences":{"results":[{"location":{"uri":"r"}}]}`), "keeps its results in other files"},
		"more results":        {run(`"results":[{"message":{"text":"m"}}],"externalPropertyFileReferences":{"results":[{}]}`), "keeps its results in other files"},
		"the driver":          {run(`"results":[],"externalPropertyFileReferences":{"driver":{"location":{"uri":"r"}}}`), "keeps its driver in other files"},
		"extensions":          {run(`"results":[],"externalPropertyFileReferences":{"extensions":[{"guid":"g"}]}`), "keeps its extensions in other files"},
		"invocations":         {run(`"results":[],"externalPropertyFileReferences":{"invocations":[{"guid":"g"}]}`), "keeps its invocations in other files"},
		"other things":        {run(`"results":[],"externalPropertyFileReferences":{"graphs":[{}],"artifacts":[{}],"results":[]}`), ""},
		"nothing":             {run(`"results":[],"externalPropertyFileReferences":null`), ""},
		"results in the file": {`{"version":"2.1.0","inlineExternalProperties":[{"runGuid":"g","results":[{"message":{"text":"m"}}]}],"runs":[{"tool":{"driver":{"name":"t"}},"results":[]}]}`, "inlineExternalProperties"},
		"rules in the file":   {`{"version":"2.1.0","inlineExternalProperties":[{},{"driver":{"name":"t","rules":[]}}],"runs":[{"tool":{"driver":{"name":"t"}},"results":[]}]}`, "keeps its driver in inlineExternalProperties"},
		"others in the file":  {`{"version":"2.1.0","inlineExternalProperties":[{"artifacts":[{}]}],"runs":[{"tool":{"driver":{"name":"t"}},"results":[]}]}`, ""},
	} {
		r, err := parseText("sarif", tt.text)
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Parse(%s) = %+v, %v, want an error that says %q", name, tt.text, r, err, tt.want)
		}
	}
}

func TestFailOn(t *testing.T) {
	t.Parallel()
	text := oneRun(`{"driver":{"name":"d"}}`, "", `{"level":"none"},{"level":"note"},{"level":"warning"},{"level":"error"},{"level":"warning"}`)
	for level, tt := range map[string]struct {
		failures int
		says     string
	}{
		"":        {1, "5 findings, 1 of level error"},
		"error":   {1, "5 findings, 1 of level error"},
		"warning": {3, "5 findings, 3 of level warning or worse"},
		"note":    {4, "5 findings, 4 of level note or worse"},
	} {
		in := run.GateReport{Format: "sarif", FailOn: level}
		r, err := report.Parse(in, strings.NewReader(text), nothing)
		if err != nil || r.Failures != tt.failures || r.Says(in) != tt.says {
			t.Errorf("Parse(fail_on %q) = %d failures, %q, %v, want %d, %q", level, r.Failures, r.Says(in), err, tt.failures, tt.says)
		}
	}
}

// Reports add up, and the worst items of all are kept.
func TestAdd(t *testing.T) {
	t.Parallel()
	var all report.Report
	for i := range 3 {
		results := strings.Repeat(`{"level":"note","message":{"text":"m"}},`, 15) + `{"level":"error","message":{"text":"m"}}`
		r, err := parseText("sarif", oneRun(fmt.Sprintf(`{"driver":{"name":"%d"}}`, i), "", results))
		if err != nil {
			t.Fatal(err)
		}
		all.Add(r)
	}
	if all.Failures != 3 || all.Findings["note"] != 45 || len(all.Items) != report.MaxItems || all.More != 28 || all.Items[2].Level != "error" || all.Items[3].Level != "note" {
		t.Errorf("three reports = %+v, want 3 errors first, 20 items in all and 28 more", all)
	}
	all = report.Report{}
	for _, text := range []string{cleanJUnit, badJUnit} {
		r, err := parseText("junit", text)
		if err != nil {
			t.Fatal(err)
		}
		all.Add(r)
	}
	counted, err := parseText("junit", `<testsuite tests="5"><testcase/></testsuite>`)
	if err != nil {
		t.Fatal(err)
	}
	all.Add(counted)
	if want := (report.Report{Tests: 5, Counted: 9, Failures: 1, Skipped: 1, Flaky: 1, Items: []report.Item{{Name: "c"}, {Name: "b", Flaky: true}}}); cmp.Diff(want, all) != "" {
		t.Errorf("three reports (-want +got):\n%s", cmp.Diff(want, all))
	}
}

const (
	cleanJUnit = `<testsuite><testcase name="a"><skipped/></testcase><testcase name="b"><flakyError/></testcase></testsuite>`
	badJUnit   = `<testsuite><testcase name="c"><failure/></testcase><testcase name="d"/></testsuite>`
)
