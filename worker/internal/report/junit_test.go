package report_test

import (
	"strings"
	"testing"

	"golang.org/x/text/encoding/unicode"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/report"
)

// Tests are counted in many ways: Catch2 counts assertions, and reruns may count too.
func TestJUnitCountedTests(t *testing.T) {
	t.Parallel()
	const good = `<testcase name="a"/>`
	for name, tt := range map[string]struct {
		text    string
		counted int
	}{
		"as many":             {`<testsuites tests="2"><testsuite tests="2">` + good + good + `</testsuite></testsuites>`, 0},
		"more":                {`<testsuite tests="5">` + good + `</testsuite>`, 5},
		"more, in thousands":  {`<testsuite tests="1,425">` + good + `</testsuite>`, 1425},
		"fewer":               {`<testsuite tests="0">` + good + `</testsuite>`, 0},
		"more in one of two":  {`<testsuites tests="2"><testsuite tests="3">` + good + `</testsuite><testsuite tests="1">` + good + `</testsuite></testsuites>`, 4},
		"more in all":         {`<testsuites tests="7"><testsuite tests="3">` + good + `</testsuite></testsuites>`, 7},
		"more by no number":   {`<testsuite tests="many">` + good + `</testsuite>`, 0},
		"more by a bad count": {`<testsuite tests="-7">` + good + `</testsuite>`, 0},
		"of no suite":         {`<testsuite><x tests="9">` + good + `</x></testsuite>`, 0},
	} {
		r, err := parseText("junit", tt.text)
		if err != nil || r.Counted != tt.counted || r.Failures != 0 {
			t.Errorf("%s: Parse(%s) = %+v, %v, want %d tests counted", name, tt.text, r, err, tt.counted)
		}
	}
}

// What suites count and what they hold need not agree; whatever fails the gate holds.
func TestJUnitCounts(t *testing.T) {
	t.Parallel()
	const (
		flaky    = `<testcase name="a"><flakyFailure message="first"/></testcase>`
		flakyErr = `<testcase name="a"><flakyError message="first"/></testcase>`
		failed   = `<testcase name="a"><failure message="x"/></testcase>`
		reran    = `<testcase name="a"><failure message="x"/><rerunFailure message="y"/></testcase>`
		rerun    = `<testcase name="a"><rerunFailure message="y"/></testcase>`
		both     = `<testcase name="a"><failure message="x"/><flakyFailure message="y"/></testcase>`
		good     = `<testcase name="a"/>`

		flakyTwice = `<testcase name="a"><flakyFailure message="first"/><flakyFailure message="second"/></testcase>`
		flakyBoth  = `<testcase name="a"><flakyError message="first"/><flakyFailure message="second"/></testcase>`
	)
	for name, tt := range map[string]struct {
		text                   string
		tests, failures, flaky int
	}{
		"an error of all suites":               {`<testsuites><error message="out of memory"/><testsuite>` + good + `</testsuite></testsuites>`, 2, 1, 0},
		"a failure of a suite in a suite":      {`<testsuites><testsuite><testsuite><failure>set-up</failure></testsuite>` + good + `</testsuite></testsuites>`, 2, 1, 0},
		"two errors of a suite":                {`<testsuite errors="1"><error>a</error><error>b</error></testsuite>`, 2, 2, 0},
		"a test and its suite":                 {`<testsuite failures="1" errors="1">` + failed + `<error>tear-down</error></testsuite>`, 2, 2, 0},
		"a flaky failure, counted":             {`<testsuite failures="1">` + flaky + `</testsuite>`, 1, 0, 1},
		"a flaky failure, counted outside":     {`<testsuites failures="1"><testsuite failures="1">` + flaky + `</testsuite></testsuites>`, 1, 0, 1},
		"a flaky error, counted":               {`<testsuite errors="1">` + flakyErr + `</testsuite>`, 1, 0, 1},
		"a flaky failure and another error":    {`<testsuite errors="1">` + flaky + `</testsuite>`, 1, 1, 1},
		"a flaky failure and another failure":  {`<testsuite failures="2">` + flaky + `</testsuite>`, 1, 1, 1},
		"a flaky test in another suite":        {`<testsuites><testsuite failures="1"/><testsuite>` + flaky + `</testsuite></testsuites>`, 1, 1, 1},
		"a failed test in another suite":       {`<testsuites><testsuite failures="1"/><testsuite>` + failed + `</testsuite></testsuites>`, 2, 2, 0},
		"a flaky test where those are counted": {`<testsuite tests="3" failures="1" flakes="1">` + flaky + good + `</testsuite>`, 2, 1, 1},
		"the same, in all suites":              {`<testsuites failures="1"><testsuite failures="1" flakes="1">` + flaky + good + `</testsuite></testsuites>`, 2, 1, 1},
		"by all suites alone":                  {`<testsuites failures="1"><testsuite flakes="1">` + flaky + good + `</testsuite></testsuites>`, 2, 1, 1},
		"flaky and counted as that alone":      {`<testsuite failures="0" flakes="1">` + flaky + `</testsuite>`, 1, 0, 1},
		"flaky twice":                          {`<testsuite failures="2">` + flakyTwice + good + `</testsuite>`, 2, 1, 1},
		"flaky twice, counted once":            {`<testsuite failures="1">` + flakyTwice + `</testsuite>`, 1, 0, 1},
		"flaky in two ways":                    {`<testsuite failures="1" errors="1">` + flakyBoth + good + `</testsuite>`, 2, 1, 1},
		"flaky in two ways, counted once":      {`<testsuite errors="1">` + flakyBoth + `</testsuite>`, 1, 0, 1},
		"flaky and failed, counted twice":      {`<testsuite failures="2">` + both + `</testsuite>`, 2, 2, 0},
		"two flaky tests":                      {`<testsuite failures="2">` + flaky + flaky + `</testsuite>`, 2, 0, 2},
		"flaky in a suite that counts none":    {`<testsuites failures="1"><testsuite failures="0">` + flaky + `</testsuite></testsuites>`, 1, 1, 1},
		"flaky in one that counts errors":      {`<testsuites failures="1"><testsuite errors="0">` + flaky + `</testsuite></testsuites>`, 1, 1, 1},
		"flaky in one that does not count":     {`<testsuites failures="1"><testsuite>` + flaky + `</testsuite></testsuites>`, 1, 0, 1},
		"flaky, and counted by one of two":     {`<testsuites failures="2"><testsuite failures="1">` + flaky + `</testsuite><testsuite failures="0">` + flaky + `</testsuite></testsuites>`, 2, 1, 2},
		"flaky and failed":                     {`<testsuite failures="1">` + both + `</testsuite>`, 1, 1, 0},
		"a failure with its rerun":             {`<testsuite failures="1">` + reran + `</testsuite>`, 1, 1, 0},
		"a rerun explains no count":            {`<testsuite failures="2">` + reran + `</testsuite>`, 2, 2, 0},
		"a rerun alone":                        {`<testsuite failures="1">` + rerun + `</testsuite>`, 1, 1, 0},
		"failures counted by test or by claim": {`<testsuite failures="2"><testcase><failure/><failure/></testcase></testsuite>`, 1, 1, 0},
		"counted as the other kind":            {`<testsuite failures="1" errors="0"><testcase><error/></testcase></testsuite>`, 1, 1, 0},
		"suites in suites":                     {`<testsuites><testsuites><testsuite>` + failed + `</testsuite></testsuites></testsuites>`, 1, 1, 0},
		"suites in suites, counted":            {`<testsuites><testsuites failures="1"><testsuite>` + good + `</testsuite></testsuites></testsuites>`, 1, 1, 0},
		"in an element that nobody knows":      {`<testsuite><tests>` + failed + good + `</tests></testsuite>`, 2, 1, 0},
		"a suite in one":                       {`<testsuites><package><class><testsuite failures="2">` + failed + `</testsuite></class></package></testsuites>`, 2, 2, 0},
		"an error of a suite in one":           {`<testsuite><tests>` + good + `<setup><error/></setup></tests></testsuite>`, 2, 1, 0},
		"a test in a test":                     {`<testsuite><testcase name="t">` + failed + good + `</testcase></testsuite>`, 3, 1, 0},
		"a suite in a test":                    {`<testsuite><testcase name="t"><testsuite errors="1">` + failed + `</testsuite></testcase></testsuite>`, 2, 1, 0},
		"a test in a test that failed":         {`<testsuite failures="2"><testcase name="t"><failure/>` + failed + `</testcase></testsuite>`, 2, 2, 0},
		"in an element of a test":              {`<testsuite><testcase name="t"><steps><step/><step><failure/></step></steps></testcase></testsuite>`, 1, 1, 0},
		"two in elements of a test":            {`<testsuite failures="2"><testcase name="t"><step><failure/></step><step><failure/></step></testcase></testsuite>`, 1, 1, 0},
		"what a test printed":                  {`<testsuite><testcase name="t"><system-out><failure/></system-out><system-err><error/></system-err><properties><error/></properties></testcase><properties><error/></properties><system-out><error/></system-out></testsuite>`, 1, 0, 0},
		"by its status":                        {`<testsuite><testcase name="t" status="failed"/>` + good + `</testsuite>`, 2, 1, 0},
		"by its status, counted":               {`<testsuite failures="1"><testcase name="t" status="FAIL"/></testsuite>`, 1, 1, 0},
		"by its status, and a failure":         {`<testsuite><testcase name="t" status="failed"><failure message="x"/></testcase></testsuite>`, 1, 1, 0},
		"by its status, though skipped":        {`<testsuite><testcase name="t" status="failed"><skipped/></testcase></testsuite>`, 1, 1, 0},
		"by its status, though flaky":          {`<testsuite><testcase name="t" status="failed"><flakyFailure/></testcase></testsuite>`, 1, 1, 0},
		"by its result":                        {`<testsuite><testcase result="Error"/><testcase result="failure"/><testcase outcome="timed-out"/><testcase result="interrupted"/></testsuite>`, 4, 4, 0},
		"by a status that is none of failure":  {`<testsuite><testcase status="run" result="completed"/><testcase status="notrun" result="suppressed"/><testcase status="0"/><testcase result="xfail"/><testcase status=""/></testsuite>`, 5, 0, 0},
		"by the status of a suite":             {`<testsuites><testsuite status="failed">` + good + `</testsuite></testsuites>`, 2, 1, 0},
		"by the status of a suite that says":   {`<testsuites status="failed"><testsuite result="failed">` + failed + `</testsuite></testsuites>`, 1, 1, 0},
		"by the status of a suite that counts": {`<testsuite status="failed" failures="1">` + good + `</testsuite>`, 1, 1, 0},
		"all suites' status, one suite's":      {`<testsuites status="failed"><testsuite status="failed"/></testsuites>`, 1, 1, 0},
		"by a state":                           {`<testsuite><testcase state=" failed "/><testcase success="False"/><testcase passed="false"/></testsuite>`, 3, 3, 0},
		"by a state that is none of failure":   {`<testsuite><testcase state="passed"/><testcase success="true"/><testcase success=""/></testsuite>`, 3, 0, 0},
		"by an element of a like name":         {`<testsuite failures="3"><testcase><failed message="m"/></testcase><testcase><Failure/></testcase><testcase><errored/></testcase><testcase><Error/></testcase></testsuite>`, 4, 4, 0},
		"failures of a suite by another name":  {`<testsuite failed="2">` + failed + `</testsuite>`, 2, 2, 0},
		"errors of a suite by another name":    {`<testsuite errored="1">` + good + `</testsuite>`, 1, 1, 0},
		"none by another name":                 {`<testsuite failures="0" failed="0" error="" passed="0"><testcase failed="false" failures="0" error="" passed="1" success="1"/></testsuite>`, 1, 0, 0},
		"counted by two names":                 {`<testsuite failures="0" failed="1">` + good + `</testsuite>`, 1, 1, 0},
		"a flaky test by another name":         {`<testsuite failed="1">` + flaky + `</testsuite>`, 1, 0, 1},
		"failures in capitals":                 {`<testsuite Failures="1">` + good + `</testsuite>`, 1, 1, 0},
		"a suite that failed":                  {`<testsuite failed="true">` + good + `</testsuite>`, 2, 1, 0},
		"a suite without success":              {`<testsuite success="0">` + good + `</testsuite>`, 2, 1, 0},
		"a test that failed":                   {`<testsuite><testcase failed="true"/><testcase failed="1"/><testcase Failed="yes"/><testcase error="out of memory"/><testcase errors="1"/></testsuite>`, 5, 5, 0},
		"a test without success":               {`<testsuite><testcase success="0"/><testcase success="no"/><testcase passed="0"/><testcase passed="No"/></testsuite>`, 4, 4, 0},
		"by a status that says more":           {`<testsuite><testcase status="FAILED: timeout"/><testcase status="error (exit 2)"/><testcase result="Failed - see log"/><testcase status="failed."/></testsuite>`, 4, 4, 0},
		"by a status of no pass":               {`<testsuite><testcase status="cancelled"/><testcase status="Canceled"/><testcase status="undefined"/><testcase status="ambiguous"/><testcase status="fatal"/></testsuite>`, 5, 5, 0},
		"by a status that only looks like one": {`<testsuite><testcase status="errorless"/><testcase status="failover ok"/><testcase status="no failure"/><testcase status="pending"/></testsuite>`, 4, 0, 0},
		"by an element fail":                   {`<testsuite><testcase><fail message="m"/></testcase><testcase><FAIL/></testcase></testsuite>`, 2, 2, 0},
		"thousands of failures":                {`<testsuite failures="1,425">` + good + `</testsuite>`, 1425, 1425, 0},
	} {
		r, err := parseText("junit", tt.text)
		if err != nil || r.Tests != tt.tests || r.Failures != tt.failures || r.Flaky != tt.flaky {
			t.Errorf("%s: Parse(%s) = %+v, %v, want %d tests, %d failures, %d flaky", name, tt.text, r, err, tt.tests, tt.failures, tt.flaky)
		}
	}
}

// A name is read in whatever charset it is written, and a character that XML does not
// know does not hide the rest.
func TestJUnitText(t *testing.T) {
	t.Parallel()
	utf16 := func(order unicode.Endianness, mark unicode.BOMPolicy, text string) string {
		s, err := unicode.UTF16(order, mark).NewEncoder().String(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	suite := func(name string) string {
		return `<testsuite><testcase name="` + name + `"><failure message="m"/></testcase></testsuite>`
	}
	xml := func(version, encoding, name string) string {
		return `<?xml version="` + version + `" encoding='` + encoding + "'?>\n" + suite(name)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"ISO-8859-1":                   {xml("1.0", "ISO-8859-1", "caf\xe9"), "café"},
		"ISO-8859-2":                   {xml("1.0", "iso-8859-2", "\xb3\xf3d\xbc"), "łódź"},
		"ISO-8859-15":                  {xml("1.0", "ISO-8859-15", "1 \xa4"), "1 €"},
		"windows-1252":                 {xml("1.0", "windows-1252", "\x93so\x94"), "“so”"},
		"windows-1251":                 {xml("1.0", "Windows-1251", "\xf2\xe5\xf1\xf2"), "тест"},
		"US-ASCII":                     {xml("1.0", "US-ASCII", "plain"), "plain"},
		"Shift_JIS":                    {xml("1.0", "Shift_JIS", "\x83e\x83X\x83g"), "テスト"},
		"UTF-16 with a mark":           {utf16(unicode.LittleEndian, unicode.UseBOM, xml("1.0", "UTF-16", "café")), "café"},
		"UTF-16BE with a mark":         {utf16(unicode.BigEndian, unicode.UseBOM, xml("1.0", "UTF-16", "café")), "café"},
		"UTF-16LE without":             {utf16(unicode.LittleEndian, unicode.IgnoreBOM, xml("1.0", "UTF-16LE", "café")), "café"},
		"UTF-16BE without":             {utf16(unicode.BigEndian, unicode.IgnoreBOM, xml("1.0", "UTF-16BE", "café")), "café"},
		"UTF-8 that says UTF-16":       {xml("1.0", "utf-16", "café"), "café"},
		"a mark that denies":           {"\ufeff" + xml("1.0", "ISO-8859-1", "café"), "café"},
		"an unknown charset":           {xml("1.0", "x-no-such", "café"), "café"},
		"UTF-8 that is none":           {xml("1.0", "UTF-8", "caf\xe9!"), "caf\uFFFD!"},
		"nothing declared":             {suite("caf\xe9!"), "caf\uFFFD!"},
		"white space in front":         {"\n  " + xml("1.1", "ISO-8859-1", "caf\xe9"), "café"},
		"XML 1.1":                      {xml("1.1", "UTF-8", "a&#1;b"), "a\uFFFDb"},
		"an escape":                    {suite("\x1b[31mred"), "\uFFFD[31mred"},
		"NUL":                          {suite("a\x00b"), "a\uFFFDb"},
		"a decimal reference":          {suite("a&#27;b&#0;c"), "a\uFFFDb\uFFFDc"},
		"a hexadecimal reference":      {suite("a&#x1B;b"), "a\uFFFDb"},
		"half a surrogate pair":        {suite("a&#xD83D;b"), "a\uFFFDb"},
		"U+FFFE":                       {suite("a&#xFFFE;b"), "a\uFFFDb"},
		"beyond Unicode":               {suite("a&#x110000;b&#99999999999999999999;c"), "a\uFFFDb\uFFFDc"},
		"references that are good":     {suite("&#233;&#x1F600;&lt;"), "é😀<"},
		"a good one behind a bad":      {suite("&#27;&#65;"), "\uFFFDA"},
		"in the text of CDATA, itself": {`<testsuite><testcase name="n"><system-out><![CDATA[&#27;]]></system-out><failure><![CDATA[&#27;]]></failure></testcase></testsuite>`, "&#27;"},
	} {
		r, err := parseText("junit", tt.text)
		if err != nil || r.Failures != 1 || len(r.Items) != 1 || r.Items[0].Name != tt.want && r.Items[0].Message != tt.want {
			t.Errorf("%s: Parse(%q) = %+v, %v, want one failure with %q", name, tt.text, r, err, tt.want)
		}
	}
}

// A flaky test passes, as its runner says, unless the gate asks for more.
func TestJUnitFlaky(t *testing.T) {
	t.Parallel()
	const flaky = `<testsuite><testcase name="a"><flakyFailure message="first"/></testcase></testsuite>`
	for asked, failures := range map[string]int{"": 0, run.FlakyPasses: 0, run.FlakyFails: 1} {
		r, err := report.Parse(run.GateReport{Format: "junit", Flaky: asked}, strings.NewReader(flaky), nothing)
		if err != nil || r.Failures != failures || r.Flaky != 1 {
			t.Errorf("Parse(junit, flaky %q) = %+v, %v, want %d failures", asked, r, err, failures)
		}
	}
}
