package run_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// parse reads a plan as a client writes it.
func parse(t testing.TB, doc string) run.Plan {
	t.Helper()
	var p run.Plan
	if err := json.Unmarshal([]byte(doc), &p); err != nil {
		t.Fatalf("plan %s: %v", doc, err)
	}
	return p
}

// withSteps returns a plan document around the JSON of its steps.
func withSteps(steps ...string) string {
	return `{"goal":"g","steps":[` + strings.Join(steps, ",") + `]}`
}

// one returns a plan of a single step with the given tool and inputs.
func one(tool, inputs string) string {
	return withSteps(fmt.Sprintf(`{"name":"a","tool":%q,"inputs":%s}`, tool, inputs))
}

// Lengths are counted as the contract counts them, in characters.
func TestLengthsAreCharacters(t *testing.T) {
	t.Parallel()
	of := func(n int) string { return strings.Repeat("目", n) }
	const step = `{"name":"a","tool":"bash","inputs":{"script":"true"}}`
	for _, tt := range []struct {
		most     int
		plan     func(text string) string
		at, says string
	}{
		{4096, func(text string) string { return `{"goal":"` + text + `","steps":[` + step + `]}` }, "/plan/goal", "4097 characters; at most 4096"},
		{255, func(text string) string { return `{"goal":"g","labels":{"a":"` + text + `"},"steps":[` + step + `]}` }, "/plan/labels/a", "256 characters; at most 255"},
		{255, func(text string) string { return one("signal", `{"key":"`+text+`"}`) }, "/plan/steps/0/inputs/key", "256 characters"},
		{4096, func(text string) string { return one("manual:ok", `{"message":"`+text+`"}`) }, "/plan/steps/0/inputs/message", "4097 characters"},
		{2000 - len("https://h/"), func(text string) string { return one("git:checkout", `{"url":"https://h/`+text+`"}`) }, "/plan/steps/0/inputs/url", "2000 characters"},
	} {
		if _, err := parse(t, tt.plan(of(tt.most))).Normalise(); err != nil {
			t.Errorf("Normalise(%d characters at %s) = %v, want nil", tt.most, tt.at, err)
		}
		_, err := parse(t, tt.plan(of(tt.most+1))).Normalise()
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || len(f.Fields) != 1 || f.Fields[0].Pointer != tt.at || !strings.Contains(f.Fields[0].Detail, tt.says) {
			t.Errorf("Normalise(%d characters) = %v, want %q at %s", tt.most+1, err, tt.says, tt.at)
		}
	}
	// What is limited for its size is counted in bytes, and says so.
	_, err := parse(t, one("bash", `{"script":"`+of(100<<10)+`"}`)).Normalise()
	if err == nil || !strings.Contains(err.Error(), "307200 bytes; at most 262144") {
		t.Errorf("Normalise(script of 300 KiB) = %v, want its bytes told", err)
	}
}

// A wait that cannot end before the run's deadline is refused where it is declared,
// whatever waits lead up to it.
func TestWaitsEndBeforeTheDeadline(t *testing.T) {
	t.Parallel()
	nap := func(name string, s float64, needs string) string {
		return fmt.Sprintf(`{"name":%q,"tool":"sleep","inputs":{"duration_s":%g},"depends_on":[%s]}`, name, s, needs)
	}
	wait := func(name, tool, input string, s int, needs string) string {
		return fmt.Sprintf(`{"name":%q,"tool":%q,"inputs":{%s,"expires_s":%d},"depends_on":[%s]}`, name, tool, input, s, needs)
	}
	const day = 86400
	for name, tt := range map[string]struct {
		deadline string
		steps    []string
		want     map[string]string // by pointer
	}{
		"by default 7 days": {"", []string{nap("a", 20*day, "")}, map[string]string{"/plan/steps/0/inputs/duration_s": "a wait of 1728000 s cannot end before the run's deadline; its deadline_s is 604800"}},
		"all of it":         {"", []string{nap("a", 7*day, "")}, map[string]string{"/plan/steps/0/inputs/duration_s": "604800"}},
		"less":              {"", []string{nap("a", 7*day-1, "")}, nil},
		"longer deadline":   {`"deadline_s":2592001,`, []string{nap("a", 30*day, "")}, nil},
		"shorter deadline":  {`"deadline_s":60,`, []string{nap("a", 60.5, "")}, map[string]string{"/plan/steps/0/inputs/duration_s": "a wait of 60.5 s cannot end before the run's deadline; its deadline_s is 60"}},
		"one after another": {"", []string{nap("a", 4*day, ""), nap("b", 4*day, `"a"`)}, map[string]string{"/plan/steps/1/inputs/duration_s": "a wait of 345600 s, 345600 s after the run's start at the earliest, cannot end"}},
		"side by side":      {"", []string{nap("a", 4*day, ""), nap("b", 4*day, "")}, nil},
		"the longest path":  {"", []string{nap("a", 6*day, ""), nap("b", 1, ""), nap("c", day, `"a","b"`)}, map[string]string{"/plan/steps/2/inputs/duration_s": "518400 s after the run's start"}},
		"told once":         {"", []string{nap("a", 8*day, ""), nap("b", 1, `"a"`)}, map[string]string{"/plan/steps/0/inputs/duration_s": "691200"}},
		"approval":          {"", []string{wait("a", "manual:ok", `"message":"?"`, 8*day, "")}, map[string]string{"/plan/steps/0/inputs/expires_s": "691200"}},
		"approval in time":  {`"deadline_s":604800,`, []string{wait("a", "manual:ok", `"message":"?"`, 6*day, ""), nap("b", 6*day, `"a"`)}, nil},
		"signal":            {`"deadline_s":600,`, []string{nap("n", 60, ""), wait("a", "signal", `"key":"k"`, 540, `"n"`)}, map[string]string{"/plan/steps/1/inputs/expires_s": "a wait of 540 s, 60 s after"}},
		"undeclared":        {`"deadline_s":60,`, []string{`{"name":"a","tool":"manual:ok","inputs":{"message":"?"}}`, `{"name":"b","tool":"signal","inputs":{"key":"k"}}`}, nil},
		"too short":         {`"deadline_s":59,`, []string{nap("a", 1, "")}, map[string]string{"/plan/deadline_s": "must be between 60 and 7776000"}},
		"too long":          {`"deadline_s":7776001,`, []string{nap("a", 1, "")}, map[string]string{"/plan/deadline_s": "must be between 60 and 7776000"}},
		"shortest":          {`"deadline_s":60,`, []string{nap("a", 59, "")}, nil},
		"longest":           {`"deadline_s":7776000,`, []string{nap("a", 30*day, "")}, nil},
		"in a cycle":        {"", []string{nap("a", 8*day, `"b"`), nap("b", 8*day, `"a"`)}, map[string]string{"/plan/steps/0/depends_on": "wait for each other"}},
		"beyond any wait":   {"", []string{nap("a", 31*day, "")}, map[string]string{"/plan/steps/0/inputs/duration_s": "must be between 0 and 2592000"}},
		"what is no number": {"", []string{`{"name":"a","tool":"sleep","inputs":{"duration_s":"x"}}`}, map[string]string{"/plan/steps/0/inputs/duration_s": "a string"}},
	} {
		doc := `{"goal":"g",` + tt.deadline + `"steps":[` + strings.Join(tt.steps, ",") + `]}`
		good, err := parse(t, doc).Normalise()
		got := map[string]string{}
		if f, ok := errors.AsType[*fault.Error](err); ok {
			for _, field := range f.Fields {
				got[field.Pointer] = field.Detail
			}
		}
		for at, says := range tt.want {
			if !strings.Contains(got[at], says) {
				t.Errorf("%s: Normalise() says %q at %s, want %q", name, got[at], at, says)
			}
		}
		if len(got) != len(tt.want) {
			t.Errorf("%s: Normalise() = %v, want faults at %v", name, got, tt.want)
		}
		if err == nil && (good.DeadlineS == nil || tt.deadline == "" && *good.DeadlineS != 604800) {
			t.Errorf("%s: Normalise() has deadline_s %v, want it filled in", name, good.DeadlineS)
		}
	}
}

// What is wrong with a plan is said with where it is, all of it at once.
func TestNormaliseRefuses(t *testing.T) {
	t.Parallel()
	const step = `{"name":"a","tool":"bash","inputs":{"script":"true"}}`
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, tt := range map[string]struct {
		doc  string
		code string
		want []string // pointers
	}{
		"empty":                 {`{}`, "invalid-plan", []string{"/plan/goal", "/plan/steps"}},
		"no steps":              {withSteps(), "invalid-plan", []string{"/plan/steps"}},
		"empty method":          {one("http", `{"url":"https://x.example/","method":""}`), "invalid-plan", []string{"/plan/steps/0/inputs/method"}},
		"empty ref":             {one("git:checkout", `{"url":"https://x.example/a","ref":""}`), "invalid-plan", []string{"/plan/steps/0/inputs/ref"}},
		"empty level":           {one("gate:x", `{"command":"true","report":{"format":"sarif","path":"r","fail_on":""}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/fail_on"}},
		"empty command":         {one("gate:x", `{"command":""}`), "invalid-plan", []string{"/plan/steps/0/inputs/command"}},
		"blank command":         {one("gate:x", `{"command":" \n"}`), "invalid-plan", []string{"/plan/steps/0/inputs/command"}},
		"comment as command":    {one("gate:x", `{"command":"# todo"}`), "invalid-plan", []string{"/plan/steps/0/inputs/command"}},
		"comments as command":   {one("gate:x", `{"command":"#!/bin/bash\r\n\n  \t# go test ./...\r\n\\\n#"}`), "invalid-plan", []string{"/plan/steps/0/inputs/command"}},
		"comment as script":     {one("bash", `{"script":"\n# make\n"}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"blank script":          {one("bash", `{"script":"\t"}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"1,001 steps":           {withSteps(slices.Repeat([]string{step}, 1001)...), "invalid-plan", []string{"/plan/steps"}},
		"long goal":             {`{"goal":"` + long(4097) + `","steps":[` + step + `]}`, "invalid-plan", []string{"/plan/goal"}},
		"NUL in the goal":       {`{"goal":"a\u0000","steps":[` + step + `]}`, "invalid-plan", []string{"/plan/goal"}},
		"other source":          {`{"goal":"g","workspace":{"source":"svn"},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/source"}},
		"git: no repository":    {`{"goal":"g","workspace":{"source":"git"},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/git"}},
		"git: bad address":      {`{"goal":"g","workspace":{"source":"git","git":{"url":"ssh://h/x","ref":"--upload-pack=id"}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/git/url", "/plan/workspace/git/ref"}},
		"git: not asked for":    {`{"goal":"g","workspace":{"git":{"url":"https://h/x"}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/git"}},
		"upload: no artifact":   {`{"goal":"g","workspace":{"source":"upload"},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/artifact_id"}},
		"upload: of a run":      {`{"goal":"g","workspace":{"source":"upload","artifact_id":"run_0"},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/artifact_id"}},
		"upload and git":        {`{"goal":"g","workspace":{"source":"upload","artifact_id":"art_00000000000000000000000000000001","git":{"url":"https://h/x"}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/git"}},
		"git and upload":        {`{"goal":"g","workspace":{"source":"git","artifact_id":"art_00000000000000000000000000000001","git":{"url":"https://h/x"}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/artifact_id"}},
		"our own step name":     {withSteps(`{"name":"workspace~git","tool":"bash","inputs":{"script":"true"}}`), "invalid-plan", []string{"/plan/steps/0/name"}},
		"our own tool":          {one("workspace:unpack", `{"artifact_id":"art_00000000000000000000000000000001"}`), "unknown-tool", []string{"/plan/steps/0/tool"}},
		"artifacts to write":    {one("workspace:write", `{"files":[{"path":"a","artifact_id":"art_x"},{"path":"b","content":"","artifact_id":"art_00000000000000000000000000000001"}]}`), "invalid-plan", []string{"/plan/steps/0/inputs/files/0/artifact_id", "/plan/steps/0/inputs/files/1"}},
		"NUL in excludes":       {`{"goal":"g","workspace":{"excludes":["a","\u0000"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/excludes/1"}},
		"excludes: no patterns": {`{"goal":"g","workspace":{"excludes":["[","ok/**","a/[","","!x","\u0000","./x"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/excludes/3", "/plan/workspace/excludes/5", "/plan/workspace/excludes/0", "/plan/workspace/excludes/2", "/plan/workspace/excludes/4", "/plan/workspace/excludes/6"}},
		"excludes of 5 KB":      {`{"goal":"g","workspace":{"excludes":["` + long(2500) + `","` + long(2500) + `"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/workspace/excludes"}},
		"label names":           {`{"goal":"g","labels":{"Bad":"","a/~b":"","ok":"\u0000"},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/labels/Bad", "/plan/labels/a~1~0b", "/plan/labels/ok"}},
		"network":               {`{"goal":"g","policy":{"network":"all"},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/network"}},
		"network of no hosts":   {`{"goal":"g","policy":{"network":{"hosts":[]}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/network/hosts"}},
		"hosts":                 {`{"goal":"g","policy":{"network":{"hosts":["a.example","10.0.0.1","a.example:443","*.com"]}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/network/hosts/1", "/plan/policy/network/hosts/2", "/plan/policy/network/hosts/3"}},
		"65 hosts":              {`{"goal":"g","policy":{"network":{"hosts":[` + strings.TrimSuffix(strings.Repeat(`"a.example",`, 65), ",") + `]}},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/network/hosts"}},
		"name of a secret":      {`{"goal":"g","policy":{"secrets":["s","a-b","NOFX_X","PATH"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/secrets/1", "/plan/policy/secrets/2", "/plan/policy/secrets/3"}},
		"secret not in policy":  {`{"goal":"g","policy":{"secrets":["S"]},"steps":[{"name":"a","tool":"gate:x","inputs":{"secrets":["S","T"]}}]}`, "invalid-plan", []string{"/plan/steps/0/inputs/secrets/1"}},
		"secret in env":         {`{"goal":"g","policy":{"secrets":["S"]},"steps":[{"name":"a","tool":"gate:x","inputs":{"secrets":["S"],"env":{"S":"1"}}}]}`, "invalid-plan", []string{"/plan/steps/0/inputs/secrets/0"}},
		"variable name":         {`{"goal":"g","policy":{"env_allowed":["A","1A"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/env_allowed/1"}},
		"NUL in tools_allowed":  {`{"goal":"g","policy":{"tools_allowed":["bash","\u0000"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/policy/tools_allowed/1"}},
		"tool not allowed":      {`{"goal":"g","policy":{"tools_allowed":["git:*"]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/steps/0/tool"}},
		"no tool allowed":       {`{"goal":"g","policy":{"tools_allowed":[]},"steps":[` + step + `]}`, "invalid-plan", []string{"/plan/steps/0/tool"}},
		"unknown tool":          {one("rm", `{}`), "unknown-tool", []string{"/plan/steps/0/tool"}},
		"unknown tools":         {withSteps(`{"name":"a","tool":"x"}`, `{"name":"b","tool":"gate:"}`), "unknown-tool", []string{"/plan/steps/0/tool", "/plan/steps/1/tool"}},
		"review of nothing":     {one("gate:llm_review", `{}`), "invalid-plan", []string{"/plan/steps/0/inputs"}},
		"review of two things":  {one("gate:llm_review", `{"diff":"workspace","artifact_id":"art_0198c0de000000000000000000000000"}`), "invalid-plan", []string{"/plan/steps/0/inputs"}},
		"review of a diff":      {one("gate:llm_review", `{"diff":"--- a"}`), "invalid-plan", []string{"/plan/steps/0/inputs/diff"}},
		"review of a change":    {one("gate:llm_review", `{"provider":"gitlab","repository":"a","head_sha":"HEAD","against":"ckpt_1"}`), "invalid-plan", []string{"/plan/steps/0/inputs/provider", "/plan/steps/0/inputs/repository", "/plan/steps/0/inputs/pull_request", "/plan/steps/0/inputs/head_sha", "/plan/steps/0/inputs/against"}},
		"review beside a pull request": {one("gate:llm_review", `{"diff":"workspace","repository":"a/b","pull_request":7,"head_sha":"`+strings.Repeat("a", 40)+`"}`), "invalid-plan",
			[]string{"/plan/steps/0/inputs/repository", "/plan/steps/0/inputs/pull_request", "/plan/steps/0/inputs/head_sha"}},
		"review of a diff of a pull request": {one("gate:llm_review", `{"artifact_id":"art_0198c0de000000000000000000000000","pull_request":7,"head_sha":"`+strings.Repeat("a", 40)+`"}`), "invalid-plan",
			[]string{"/plan/steps/0/inputs/repository", "/plan/steps/0/inputs/head_sha"}},
		"review of too high a number": {one("gate:llm_review", `{"provider":"github","repository":"a/b","pull_request":2147483648}`), "invalid-plan", []string{"/plan/steps/0/inputs/pull_request"}},
		"review of a path":            {one("gate:llm_review", `{"provider":"github","repository":"../..","pull_request":7}`), "invalid-plan", []string{"/plan/steps/0/inputs/repository"}},
		"unknown tool and more":       {withSteps(`{"name":"A","tool":"x"}`), "invalid-plan", []string{"/plan/steps/0/name", "/plan/steps/0/tool"}},
		"family without name":         {one("gate:", `{}`), "unknown-tool", []string{"/plan/steps/0/tool"}},
		"step name":                   {withSteps(`{"name":"../a","tool":"bash","inputs":{"script":"true"}}`), "invalid-plan", []string{"/plan/steps/0/name"}},
		"same name":                   {withSteps(step, step), "invalid-plan", []string{"/plan/steps/1/name"}},
		"timeout 0":                   {withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"timeout_s":0}`), "invalid-plan", []string{"/plan/steps/0/timeout_s"}},
		"timeout of 2 days":           {withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"timeout_s":172800}`), "invalid-plan", []string{"/plan/steps/0/timeout_s"}},
		"retry":                       {withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"retry":{"max_attempts":0,"backoff":"linear","initial_s":301}}`), "invalid-plan", []string{"/plan/steps/0/retry/max_attempts", "/plan/steps/0/retry/backoff", "/plan/steps/0/retry/initial_s"}},
		"dangling":                    {withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"depends_on":["b","b"]}`), "invalid-plan", []string{"/plan/steps/0/depends_on/0", "/plan/steps/0/depends_on/1", "/plan/steps/0/depends_on/1"}},
		"itself":                      {withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]}`), "invalid-plan", []string{"/plan/steps/0/depends_on"}},
		"a cycle":                     {withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"depends_on":["b"]}`, `{"name":"b","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]}`), "invalid-plan", []string{"/plan/steps/0/depends_on"}},

		"no script":         {one("bash", `{}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"inputs of a kind":  {one("bash", `[]`), "invalid-plan", []string{"/plan/steps/0/inputs"}},
		"script of a kind":  {one("bash", `{"script":1}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"unknown input":     {one("bash", `{"script":"true","cwd":"/"}`), "invalid-plan", []string{"/plan/steps/0/inputs/cwd"}},
		"repeated input":    {one("bash", `{"script":"true","script":"false"}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"template":          {one("bash", `{"script":"echo ${{ steps.x }}"}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"NUL in a script":   {one("bash", `{"script":"a\u0000"}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"lone surrogate":    {one("bash", `{"script":"\ud800"}`), "invalid-plan", []string{"/plan/steps/0/inputs/script"}},
		"environment":       {one("bash", `{"script":"true","env":{"A=B":"x","NOFX_X":"x","C":"\u0000"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/env/A=B", "/plan/steps/0/inputs/env/C", "/plan/steps/0/inputs/env/NOFX_X"}},
		"paths":             {one("workspace:write", `{"files":[{"path":"/etc/x","content":""},{"path":"a/../b","content":""},{"path":"","content":""},{"path":".nofx/x","content":""}]}`), "invalid-plan", []string{"/plan/steps/0/inputs/files/0/path", "/plan/steps/0/inputs/files/1/path", "/plan/steps/0/inputs/files/2/path", "/plan/steps/0/inputs/files/3/path"}},
		"contents":          {one("workspace:write", `{"files":[{"path":"a"},{"path":"b","content":"","content_base64":""},{"path":"c","content_base64":"!"},{"path":"d","content":"\u0000"},{"path":"e","content":"","mode":"777"}]}`), "invalid-plan", []string{"/plan/steps/0/inputs/files/0", "/plan/steps/0/inputs/files/1", "/plan/steps/0/inputs/files/2/content_base64", "/plan/steps/0/inputs/files/3/content", "/plan/steps/0/inputs/files/4/mode"}},
		"checkout":          {one("git:checkout", `{"url":"ext::sh -c x","ref":"-x","path":"../x","depth":-1}`), "invalid-plan", []string{"/plan/steps/0/inputs/url", "/plan/steps/0/inputs/ref", "/plan/steps/0/inputs/path", "/plan/steps/0/inputs/depth"}},
		"NUL in an address": {one("git:checkout", `{"url":"https://x/\u0000"}`), "invalid-plan", []string{"/plan/steps/0/inputs/url"}},
		"long address":      {one("git:checkout", `{"url":"https://`+long(2000)+`"}`), "invalid-plan", []string{"/plan/steps/0/inputs/url"}},
		"request": {one("http", `{"method":"get","url":"ftp://x/","headers":{"A B":"x","Host":"x","X":"a\nb","x":"c"},"body":"b","expect_status":[]}`), "invalid-plan",
			[]string{"/plan/steps/0/inputs/method", "/plan/steps/0/inputs/url", "/plan/steps/0/inputs/headers/A B", "/plan/steps/0/inputs/headers/Host", "/plan/steps/0/inputs/headers/X", "/plan/steps/0/inputs/headers/x", "/plan/steps/0/inputs/expect_status"}},
		"request without":     {one("http", `{}`), "invalid-plan", []string{"/plan/steps/0/inputs/url"}},
		"a body to get":       {one("http", `{"url":"https://x/","body":"b"}`), "invalid-plan", []string{"/plan/steps/0/inputs/body"}},
		"statuses":            {one("http", `{"url":"https://x/","expect_status":[200,100,600]}`), "invalid-plan", []string{"/plan/steps/0/inputs/expect_status/1", "/plan/steps/0/inputs/expect_status/2"}},
		"sleep for ever":      {one("sleep", `{"duration_s":1e9}`), "invalid-plan", []string{"/plan/steps/0/inputs/duration_s"}},
		"sleep beyond floats": {one("sleep", `{"duration_s":1e400}`), "invalid-plan", []string{"/plan/steps/0/inputs/duration_s"}},
		"approval":            {one("manual:ok", `{"expires_s":0,"approvals":21}`), "invalid-plan", []string{"/plan/steps/0/inputs/message", "/plan/steps/0/inputs/expires_s", "/plan/steps/0/inputs/approvals"}},
		"signal":              {one("signal", `{"key":"","expires_s":0}`), "invalid-plan", []string{"/plan/steps/0/inputs/key", "/plan/steps/0/inputs/expires_s"}},
		"long key":            {one("signal", `{"key":"`+long(256)+`"}`), "invalid-plan", []string{"/plan/steps/0/inputs/key"}},
		"report format":       {one("gate:unit", `{"report":{"format":"tap","path":"a"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/format"}},
		"report outside":      {one("gate:unit", `{"report":{"format":"sarif","path":".nofx/x"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/path"}},
		"report of no glob":   {one("gate:unit", `{"report":{"format":"junit","path":"a/[.xml"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/path"}},
		"report of many":      {one("gate:unit", `{"report":{"format":"junit","path":"`+strings.Repeat("{a,b}", 10)+`"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/path"}},
		"report of no paths":  {one("gate:unit", `{"report":{"format":"junit","path":"{a,}/r.xml"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/path"}},
		"report out by brace": {one("gate:unit", `{"report":{"format":"junit","path":"{a,b/{.nofx,c}}/r.xml"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/path"}},
		"flaky and fail-fast": {one("gate:unit", `{"command":"go test -json -failfast ./... > r","report":{"format":"gotest","path":"r","flaky":"pass"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/flaky"}},
		"fail-fast by env":    {one("gate:unit", `{"command":"make","env":{"GOFLAGS":"-v --failfast=true"},"report":{"format":"gotest","path":"r","flaky":"pass"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/flaky"}},
		"report's level":      {one("gate:unit", `{"report":{"format":"sarif","path":"a","fail_on":"none"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/fail_on"}},
		"a level of tests":    {one("gate:unit", `{"report":{"format":"junit","path":"a","fail_on":"note"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/fail_on"}},
		"flaky as it likes":   {one("gate:unit", `{"report":{"format":"junit","path":"a","flaky":"maybe"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/flaky"}},
		"flaky findings":      {one("gate:unit", `{"report":{"format":"sarif","path":"a","flaky":"pass"}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report"}},
		"empty findings":      {one("gate:unit", `{"report":{"format":"sarif","path":"a","allow_empty":true}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report"}},
		"report of nothing":   {one("gate:unit", `{"report":{}}`), "invalid-plan", []string{"/plan/steps/0/inputs/report/format", "/plan/steps/0/inputs/report/path"}},
		"codegen for nothing": {one("codegen", `{}`), "invalid-plan", []string{"/plan/steps/0/inputs/instruction"}},
		"codegen template":    {one("codegen", `{"instruction":"${{ steps.a }}"}`), "invalid-plan", []string{"/plan/steps/0/inputs/instruction"}},
		"codegen paths":       {one("codegen", `{"instruction":"x","paths":["**/*.go","../*","{a","/a"]}`), "invalid-plan", []string{"/plan/steps/0/inputs/paths/1", "/plan/steps/0/inputs/paths/2", "/plan/steps/0/inputs/paths/3"}},
		"codegen alternatives": {one("codegen", `{"instruction":"x","paths":["{a,b},{c,d},[{,]{e,\\\\,}","`+strings.Repeat("{a,a}", 40)+`","`+
			strings.Repeat("{", 10)+strings.Repeat("a,a}{a,a}", 10)+`"]}`), "invalid-plan", []string{"/plan/steps/0/inputs/paths/1", "/plan/steps/0/inputs/paths/2"}},
		"codegen model": {one("codegen", `{"instruction":"x","model":"-x","max_tokens":-1}`), "invalid-plan", []string{"/plan/steps/0/inputs/model", "/plan/steps/0/inputs/max_tokens"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, tt.doc).Normalise()
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Kind != fault.Invalid || f.Code != tt.code {
				t.Fatalf("Normalise() = %v, want invalid (%s)", err, tt.code)
			}
			var got []string
			for _, field := range f.Fields {
				got = append(got, field.Pointer)
				if field.Detail == "" {
					t.Errorf("%s has no detail", field.Pointer)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Normalise() points elsewhere (-want +got):\n%s\n%v", diff, f.Fields)
			}
		})
	}
}

// Too many dependencies are refused quickly, also when a single step repeats one.
func TestNormaliseManyEdges(t *testing.T) {
	t.Parallel()
	p := run.Plan{Goal: "g"}
	var names []string
	for i := range 300 {
		name := fmt.Sprint("s", i)
		p.Steps = append(p.Steps, run.PlanStep{Name: name, Tool: "bash", Inputs: json.RawMessage(`{"script":"true"}`), DependsOn: slices.Clone(names)})
		names = append(names, name)
	}
	if _, err := p.Normalise(); !errors.Is(err, fault.Invalid) {
		t.Errorf("Normalise(44,850 dependencies) = %v, want invalid", err)
	}
	p.Steps = p.Steps[:2]
	p.Steps[1].DependsOn = slices.Repeat([]string{"s0"}, 250_000)
	_, err := p.Normalise()
	if f, ok := errors.AsType[*fault.Error](err); !ok || len(f.Fields) != 100 {
		t.Errorf("Normalise(one dependency 250,000 times) = %v, want invalid with 100 fields", err)
	}
}

// Defaults are filled in, the order of steps without depends_on is written down,
// and what was given is not changed.
func TestNormaliseDefaults(t *testing.T) {
	t.Parallel()
	given := parse(t, withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"}}`, `{"name":"b","tool":"sleep"}`, `{"name":"c","tool":"bash","inputs":{"script":"true"},"timeout_s":5,"retry":{"max_attempts":3}}`))
	before, _ := json.Marshal(given)
	p, err := given.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v, want nil", err)
	}
	if after, _ := json.Marshal(given); string(after) != string(before) {
		t.Errorf("Normalise() changed its plan to %s", after)
	}
	doc, digest, err := p.Canonical()
	if err != nil {
		t.Fatalf("Canonical() = %v, want nil", err)
	}
	retry := `"retry":{"backoff":"exponential","initial_s":1,"max_attempts":%d}`
	want := `{"deadline_s":604800,"goal":"g","steps":[` +
		`{"depends_on":[],"inputs":{"script":"true"},"name":"a",` + fmt.Sprintf(retry, 1) + `,"timeout_s":600,"tool":"bash"},` +
		`{"depends_on":["a"],"inputs":{},"name":"b",` + fmt.Sprintf(retry, 1) + `,"timeout_s":600,"tool":"sleep"},` +
		`{"depends_on":["b"],"inputs":{"script":"true"},"name":"c",` + fmt.Sprintf(retry, 3) + `,"timeout_s":5,"tool":"bash"}],"workspace":{"source":"empty"}}`
	if string(doc) != want {
		t.Errorf("Canonical() = %s\nwant %s", doc, want)
	}
	if !strings.HasPrefix(digest, "sha256:") || len(digest) != 71 {
		t.Errorf("Canonical() digest = %s, want sha256:<hex>", digest)
	}
	if spec := p.Spec(2); spec.TimeoutS != 5 || spec.Retry != (run.Retry{MaxAttempts: 3, InitialS: 1}) || string(spec.Inputs) != `{"script":"true"}` {
		t.Errorf("Spec(2) = %+v, want that of c", spec)
	}
}

// wantFixedPoint fails unless a stored plan means the same when it is posted
// again, and holds nothing that Postgres refuses.
func wantFixedPoint(t testing.TB, p run.Plan) {
	t.Helper()
	doc, digest, err := p.Canonical()
	if err != nil {
		t.Fatalf("Canonical() = %v, want nil", err)
	}
	if strings.Contains(strings.ReplaceAll(string(doc), `\\`, ""), `\u0000`) {
		t.Errorf("a plan with a NUL was accepted: %q", doc)
	}
	again, err := parse(t, string(doc)).Normalise()
	if err != nil {
		t.Fatalf("Normalise(stored plan) = %v, want nil: %s", err, doc)
	}
	if doc2, digest2, err := again.Canonical(); err != nil || digest2 != digest {
		t.Errorf("the stored plan reads as another: %v\n%s\n%s", err, doc, doc2)
	}
}

// Steps in any order without a cycle are accepted; closing one makes the plan
// invalid, and the cycle named is one.
func TestCycles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(rt, "steps")
		order := rapid.Permutation(rapid.SliceOfN(rapid.Just(0), n, n).Draw(rt, "zeros")).Draw(rt, "order")
		for i := range order {
			order[i] = i
		}
		order = rapid.Permutation(order).Draw(rt, "places")
		p := run.Plan{Goal: "g", Steps: make([]run.PlanStep, n)}
		deps := make([][]int, n)
		for i := range n { // step i may need those before it; it stands at order[i]
			s := run.PlanStep{Name: fmt.Sprint("s", i), Tool: "bash", Inputs: json.RawMessage(`{"script":"true"}`), DependsOn: []string{}}
			for j := range i {
				if rapid.IntRange(0, 3).Draw(rt, "edge") == 0 {
					s.DependsOn = append(s.DependsOn, fmt.Sprint("s", j))
					deps[i] = append(deps[i], j)
				}
			}
			p.Steps[order[i]] = s
		}
		good, err := p.Normalise()
		if err != nil {
			rt.Fatalf("Normalise(acyclic) = %v, want nil", err)
		}
		wantFixedPoint(t, good)

		// An edge back from some step to one that needs it.
		from := rapid.IntRange(0, n-1).Draw(rt, "from")
		reach := []int{from}
		for i := from + 1; i < n; i++ {
			if slices.ContainsFunc(deps[i], func(j int) bool { return slices.Contains(reach, j) }) {
				reach = append(reach, i)
			}
		}
		back := rapid.SampledFrom(reach).Draw(rt, "back")
		s := &p.Steps[order[from]]
		s.DependsOn = append(slices.Clone(s.DependsOn), fmt.Sprint("s", back))
		_, err = p.Normalise()
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || len(f.Fields) != 1 || !strings.HasSuffix(f.Fields[0].Pointer, "/depends_on") {
			rt.Fatalf("Normalise(cyclic) = %v, want one fault at a depends_on", err)
		}
		_, words, _ := strings.Cut(f.Fields[0].Detail, ": ")
		path := strings.Split(words, " → ")
		if len(path) < 2 || path[0] != path[len(path)-1] {
			rt.Fatalf("the cycle %v does not close", path)
		}
		for i := range len(path) - 1 {
			step := p.Steps[slices.IndexFunc(p.Steps, func(s run.PlanStep) bool { return s.Name == path[i] })]
			if !slices.Contains(step.DependsOn, path[i+1]) {
				rt.Fatalf("the cycle %v: %s does not need %s", path, path[i], path[i+1])
			}
		}
	})
}

// Whatever a client writes is refused with a kind or is a plan that stays one.
func FuzzNormalise(f *testing.F) {
	for _, seed := range []string{
		withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true","env":{"A":"b"}},"depends_on":[],"timeout_s":1}`),
		withSteps(`{"name":"a","tool":"workspace:write","inputs":{"files":[{"path":"x","content":"y"}]}}`, `{"name":"m","tool":"manual:ok","inputs":{"message":"go?"}}`),
		one("git:checkout", `{"url":"https://example.org/x.git","ref":"main","depth":0}`),
		one("http", `{"method":"POST","url":"https://x.example/a?b=c","headers":{"Accept":"*/*"},"body":"b","expect_status":[201]}`),
		withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"}}`, `{"name":"b","tool":"manual:ok","inputs":{"message":"${{ steps.a.outputs.v }}"}}`),
		one("sleep", `{"duration_s":0.5}`), one("gate:unit", `{"command":"go test ./..."}`),
		one("gate:unit", `{"report":{"format":"gotest","path":"out/unit.json"}}`),
		one("gate:unit", `{"report":{"format":"gotest","path":"out/*.json","flaky":"pass","allow_empty":true}}`),
		one("gate:unit", `{"report":{"format":"junit","path":"**/{a,b}/TEST-*.xml","flaky":"fail"}}`),
		one("gate:unit", `{"report":{"format":"sarif","path":"r","fail_on":"warning"}}`),
		one("codegen", `{"instruction":"add a test","paths":["**/*.go"],"model":"m","max_tokens":1000}`),
		`{"goal":"g","labels":{"team":"x"},"policy":{"tools_allowed":["gate:*"],"env_allowed":["CI"]},"workspace":{"excludes":["*.o"]},"steps":[{"name":"a","tool":"gate:x","inputs":{"command":"true"}}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var p run.Plan
		if json.Unmarshal(doc, &p) != nil {
			return
		}
		good, err := p.Normalise()
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("Normalise() = %v, want invalid", err)
			}
			return
		}
		wantFixedPoint(t, good)
	})
}
