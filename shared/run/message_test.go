package run_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// said returns the faults of a plan as people see them: where, of which step, and what.
func said(err error) (list []string) {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return nil
	}
	for _, field := range f.Fields {
		at := field.Pointer
		if field.Step != "" {
			at += " (" + field.Step + ")"
		}
		list = append(list, at+": "+field.Detail)
	}
	return list
}

// A message says what was expected, the nearest name that there is and all names, of
// which step it is, and everything at once.
func TestMessages(t *testing.T) {
	t.Parallel()
	const tools = "he tools are bash, workspace:write, git:checkout, http, sleep, signal, codegen, gate:<name>, manual:<name>, gate:llm_review"
	for name, tt := range map[string]struct {
		doc  string
		want []string
	}{
		"a number for a list": {one("http", `{"url":"https://x/","expect_status":201}`),
			[]string{"/plan/steps/0/inputs/expect_status (a): is a number; it must be a list of whole numbers, for example [201]"}},
		"a number for a text": {one("workspace:write", `{"files":[{"path":"x","content":"","mode":644}]}`),
			[]string{`/plan/steps/0/inputs/files/0/mode (a): is a number; it must be a string, for example "644"`}},
		"modes in octal and in decimal": {one("workspace:write", `{"files":[{"path":"a","content":"","mode":420},{"path":"b","content":"","mode":493},{"path":"c","content":"","mode":755},{"path":"d","content":"","mode":1},{"path":"e","content":"","mode":true}]}`),
			[]string{`/plan/steps/0/inputs/files/0/mode (a): is a number; it must be a string, for example "644"`, `/plan/steps/0/inputs/files/1/mode (a): is a number; it must be a string, for example "755"`,
				`/plan/steps/0/inputs/files/2/mode (a): is a number; it must be a string, for example "755"`, `/plan/steps/0/inputs/files/3/mode (a): is a number; it must be a string, for example "644"`,
				`/plan/steps/0/inputs/files/4/mode (a): is true or false; it must be a string, for example "644"`}},
		"no whole number": {one("http", `{"url":"https://x/","expect_status":[200.0,2e2,200.5,1e300,1e-1]}`),
			[]string{`/plan/steps/0/inputs/expect_status/2 (a): is a number; it must be a whole number`, `/plan/steps/0/inputs/expect_status/3 (a): is out of range`, `/plan/steps/0/inputs/expect_status/4 (a): is a number; it must be a whole number`}},
		"names": {withSteps(`{"name":"A","tool":"bash","inputs":{"script":"true","env":{"1":""}}}`, `{"name":"b","tool":"http","inputs":{"url":"https://x/","headers":{"a b":""}}}`, `{"name":"c","tool":"codegen","inputs":{"instruction":"x","model":"-"}}`),
			[]string{`/plan/steps/0/name (A): a step's name must have 1 to 64 characters, of a to z, 0 to 9, '_', '.' and '-', and begins with a letter or digit`,
				`/plan/steps/0/inputs/env/1 (A): a variable's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and '_', and does not begin with a digit`,
				"/plan/steps/1/inputs/headers/a b (b): a header's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and !#$%&'*+-.^_`|~",
				`/plan/steps/2/inputs/model (c): a model's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and ._:/@-, and begins with a letter or digit`}},
		"names in a plan": {`{"goal":"g","labels":{"Team":"x"},"policy":{"env_allowed":["a b"]},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}`,
			[]string{`/plan/labels/Team: a label's name must have 1 to 63 characters, of a to z, 0 to 9, '_', '.' and '-', and begins with a letter or digit`,
				`/plan/policy/env_allowed/0: a variable's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and '_', and does not begin with a digit`}},
		"a method of another kind": {one("http", `{"url":"https://x/","method":7,"body":"x"}`),
			[]string{`/plan/steps/0/inputs/method (a): is a number; it must be a string, for example "7"`}},
		"a misspelt method": {one("http", `{"url":"https://x/","metod":"POST","body":"x"}`),
			[]string{`/plan/steps/0/inputs/metod (a): unknown input; did you mean "method"? There are: method, url, headers, body, expect_status`}},
		"content of another kind": {one("workspace:write", `{"files":[{"path":"x","content":7},{"path":"y","contents":"x"},{"path":"z"}]}`),
			[]string{`/plan/steps/0/inputs/files/0/content (a): is a number; it must be a string, for example "7"`,
				`/plan/steps/0/inputs/files/1/contents (a): unknown input; did you mean "content"? There are: path, content, content_base64, artifact_id, mode`,
				`/plan/steps/0/inputs/files/2 (a): must have exactly one of content, content_base64 and artifact_id`}},
		"a format of another kind": {one("gate:unit", `{"command":"true","report":{"format":7,"path":"r","fail_on":"note"}}`),
			[]string{`/plan/steps/0/inputs/report/format (a): is a number; it must be a string, for example "7"`}},
		"an unknown format": {one("gate:unit", `{"command":"true","report":{"format":"sarf","path":"r","fail_on":"note"}}`),
			[]string{`/plan/steps/0/inputs/report/format (a): must be one of junit, sarif, gotest`}},
		"a list for variables": {one("bash", `{"script":"true","env":["A=b"]}`),
			[]string{`/plan/steps/0/inputs/env (a): is a list; it must be an object of strings, for example {"NAME": "value"}`}},
		"a number for a variable": {one("bash", `{"script":"true","env":{"PORT":8080}}`),
			[]string{`/plan/steps/0/inputs/env/PORT (a): is a number; it must be a string, for example "8080"`}},
		"a path for a report": {one("gate:unit", `{"report":"unit.xml"}`),
			[]string{`/plan/steps/0/inputs/report (a): is a string; it must be an object, for example {"format": "junit", "path": "report.xml"}`}},
		"an object for a list": {one("workspace:write", `{"files":{"a.txt":"x"}}`),
			[]string{`/plan/steps/0/inputs/files (a): is an object; it must be a list of objects, for example [{"path": "a.txt", "content": "hello"}]`}},
		"a text for a number": {one("sleep", `{"duration_s":"30"}`),
			[]string{`/plan/steps/0/inputs/duration_s (a): is a string; it must be a number, for example 30`}},
		"a fraction": {one("manual:ok", `{"message":"?","approvals":1.5}`),
			[]string{`/plan/steps/0/inputs/approvals (a): is a number; it must be a whole number`}},
		"another tool": {withSteps(`{"name":"build","tool":"bahs","inputs":{"script":"make"}}`, `{"name":"get","tool":"checkout"}`, `{"name":"check","tool":"gate"}`, `{"name":"x","tool":"zzzzz"}`),
			[]string{`/plan/steps/0/tool (build): unknown tool "bahs"; did you mean "bash"? T` + tools, `/plan/steps/1/tool (get): unknown tool "checkout"; did you mean "git:checkout"? T` + tools,
				`/plan/steps/2/tool (check): unknown tool "gate"; did you mean "gate:<name>"? T` + tools, `/plan/steps/3/tool (x): unknown tool "zzzzz"; t` + tools}},
		"another input": {one("bash", `{"scirpt":"true","cwd":"/"}`),
			[]string{`/plan/steps/0/inputs/scirpt (a): unknown input; did you mean "script"? There are: script, env, secrets`, `/plan/steps/0/inputs/cwd (a): unknown input; there are: script, env, secrets`, `/plan/steps/0/inputs/script (a): is required`}},
		"of the step": {one("bash", `{"script":"true","timeout_s":5}`),
			[]string{`/plan/steps/0/inputs/timeout_s (a): unknown input; it belongs in the step, next to "inputs"`}},
		"another step": {withSteps(`{"name":"build","tool":"bash","inputs":{"script":"true"},"depends_on":[]}`, `{"name":"unit","tool":"bash","inputs":{"script":"true","env":{"V":"${{ steps.bulid.outputs.v }}"}},"depends_on":["biuld"]}`),
			[]string{`/plan/steps/1/depends_on/0 (unit): no step is named "biuld"; did you mean "build"?`, `/plan/steps/1/inputs/env/V (unit): no step is named "bulid"; did you mean "build"?`}},
		"all of a step": {withSteps(`{"name":"a","tool":"bash","inputs":{"script":1,"env":{"A B":"x","C":2}},"timeout_s":0}`, `{"name":"b","tool":"sleep"}`, `{"name":"b","tool":"sleep","inputs":{"duration_s":-1}}`),
			[]string{`/plan/steps/0/inputs/script (a): is a number; it must be a string, for example "1"`, `/plan/steps/0/inputs/env/C (a): is a number; it must be a string, for example "2"`,
				`/plan/steps/0/inputs/env/A B (a): a variable's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and '_', and does not begin with a digit`, `/plan/steps/0/timeout_s (a): must be between 1 and 86400`,
				`/plan/steps/2/inputs/duration_s (b): must be between 0 and 2592000`, `/plan/steps/2/name (b): "b" is also the name of step 1`}},
		"no cycle of two with a name": {withSteps(`{"name":"a","tool":"sleep","inputs":{"duration_s":0},"depends_on":["b"]}`, `{"name":"b","tool":"sleep","inputs":{"duration_s":0},"depends_on":[]}`, `{"name":"b","tool":"sleep","inputs":{"duration_s":0},"depends_on":["a"]}`),
			[]string{`/plan/steps/2/name (b): "b" is also the name of step 1`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, tt.doc).Normalise()
			if diff := cmp.Diff(tt.want, said(err)); diff != "" {
				t.Errorf("Normalise() says (-want +got):\n%s", diff)
			}
		})
	}
}

// An optional text that a template left empty is no word for the default: a POST would
// become a GET.
func TestInputsTakeNoEmptyTexts(t *testing.T) {
	t.Parallel()
	if in, err := run.Inputs[run.HTTPInputs]([]byte(`{"url":"https://x.example/","method":"","body":""}`)); err == nil || !strings.Contains(err.Error(), "/method: is empty") {
		t.Errorf("Inputs(empty method) = %+v, %v, want it refused", in, err)
	}
	in, err := run.Inputs[run.HTTPInputs]([]byte(`{"url":"https://x.example/","method":"PUT","body":"","headers":{"X-A":""}}`))
	if err != nil || in.Body == nil || *in.Body != "" {
		t.Errorf("Inputs(empty body and header) = %+v, %v, want both taken", in, err)
	}
}

// A body that may have no members names none.
func TestFitOfNothing(t *testing.T) {
	t.Parallel()
	var v struct{}
	if got := run.Fit([]byte(`{"reason":"again"}`), &v); len(got) != 1 || got[0].Detail != "unknown field" {
		t.Errorf("Fit(a member of nothing) = %+v, want an unknown field, without a list", got)
	}
}

// What does not fit into a request is said together with all else that is wrong with
// its plan, and nothing is said that follows from that alone.
func TestFit(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		doc  string
		want []string
	}{
		"fits": {`{"plan":` + one("bash", `{"script":"true"}`) + `}`, nil},
		"beside the plan": {`{"workspace":{"source":"git"},"plan":{"goal":"","steps":[]}}`,
			[]string{`/workspace: unknown field; it belongs inside "plan"`, "/plan/goal: is required", "/plan/steps: a plan has at least one step"}},
		"a plan without its envelope": {one("bash", `{"script":"true"}`),
			[]string{`/goal: unknown field; it belongs inside "plan"`, `/steps: unknown field; it belongs inside "plan"`, "/plan/goal: is required", "/plan/steps: a plan has at least one step"}},
		"kinds": {`{"plan":{"goal":7,"steps":[
			{"name":"a","tool":"bash","inputs":{"script":"true"},"retry":3,"depends_on":[]},
			{"name":"b","tool":"bash","inputs":"make","depends_on":"a","timeout_s":"60"},
			"c",
			{"name":"d","tool":"bahs","depends_on":["c"],"when":"always"}]}}`,
			[]string{`/plan/goal: is a number; it must be a string, for example "7"`,
				`/plan/steps/0/retry (a): is a number; it must be an object, for example {"max_attempts": 3}`,
				`/plan/steps/1/depends_on (b): is a string; it must be a list of strings, for example ["a"]`,
				`/plan/steps/1/timeout_s (b): is a string; it must be a whole number, for example 60`,
				`/plan/steps/2: is a string; it must be an object, for example {"name": "build", "tool": "bash", "inputs": {"script": "make"}}`,
				`/plan/steps/3/when (d): unknown field; there are: name, tool, inputs, depends_on, timeout_s, retry`,
				`/plan/steps/1/inputs (b): is a string; it must be an object, for example {"script": "make"}`,
				`/plan/steps/3/tool (d): unknown tool "bahs"; did you mean "bash"? The tools are bash, workspace:write, git:checkout, http, sleep, signal, codegen, gate:<name>, manual:<name>, gate:llm_review`}},
		"an input beside inputs": {`{"plan":` + withSteps(`{"name":"a","tool":"bash","script":"true"}`) + `}`,
			[]string{`/plan/steps/0/script (a): unknown field; it belongs inside "inputs"`, `/plan/steps/0/inputs/script (a): is required`}},
		"a source of another kind": {`{"plan":{"goal":"g","workspace":{"source":1,"git":{"url":"https://x/y"},"artifact_id":"x"},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`,
			[]string{`/plan/workspace/source: is a number; it must be a string, for example "1"`}},
		"a misspelt source": {`{"plan":{"goal":"g","workspace":{"sorce":"git","git":{"url":"https://x/y"}},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`,
			[]string{`/plan/workspace/sorce: unknown field; did you mean "source"? There are: source, git, artifact_id, excludes`}},
		"tools of another kind": {`{"plan":{"goal":"g","policy":{"tools_allowed":[7]},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`,
			[]string{`/plan/policy/tools_allowed/0: is a number; it must be a string, for example "7"`}},
		"a deadline of another kind": {`{"plan":{"goal":"g","deadline_s":"x","steps":[{"name":"a","tool":"sleep","inputs":{"duration_s":1000000}}]}}`,
			[]string{`/plan/deadline_s: is a string; it must be a whole number`}},
		"a deadline too short": {`{"plan":{"goal":"g","deadline_s":1,"steps":[{"name":"a","tool":"sleep","inputs":{"duration_s":50}}]}}`,
			[]string{`/plan/deadline_s: must be between 60 and 7776000`}},
		"whole numbers": {`{"plan":{"goal":"g","deadline_s":60.0,"steps":[{"name":"a","tool":"manual:x","timeout_s":6e1,"retry":{"max_attempts":1.0},"inputs":{"message":"?","expires_s":0.3E2,"approvals":2.0}}]}}`, nil},
		"no steps at all": {`{"plan":{"goal":"g","steps":{"a":{}}}}`,
			[]string{`/plan/steps: is an object; it must be a list of objects, for example [{"name": "build", "tool": "bash", "inputs": {"script": "make"}}]`}},
		"no request": {`[]`, []string{`: is a list; it must be an object with plan`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var request struct {
				Plan run.Plan `json:"plan"`
			}
			misfits := run.Fit([]byte(tt.doc), &request)
			_, err := request.Plan.Normalise()
			if len(misfits) > 0 {
				err = request.Plan.Refusal("malformed-json", misfits)
			}
			got := said(err)
			if name == "no request" {
				got = got[:min(1, len(got))]
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Fit() and Refusal() say (-want +got):\n%s", diff)
			}
		})
	}
}

// However much is wrong, it is said without much ado: the nearest of a thousand names
// is not looked for twenty thousand times.
func TestFaultsWithoutEnd(t *testing.T) {
	t.Parallel()
	var steps []string
	for i := range run.MaxSteps {
		var needs []string
		for j := range 20 {
			needs = append(needs, fmt.Sprintf(`"step-number-%d-of-the-plan-%d"`, 5000+i, j))
		}
		steps = append(steps, fmt.Sprintf(`{"name":"step-number-%d-of-the-plan","tool":"sleep","inputs":{"duration_s":0},"depends_on":[%s]}`, i, strings.Join(needs, ",")))
	}
	_, err := parse(t, withSteps(steps...)).Normalise()
	if got := said(err); len(got) != 100 || !strings.Contains(got[0], "did you mean") {
		t.Errorf("Normalise() of 20,000 unknown names = %d fields, %v; want 100, the first with the nearest", len(got), err)
	}
	var members []string
	for i := range 50_000 {
		members = append(members, fmt.Sprintf(`"member-%d":1`, i))
	}
	var p run.Plan
	misfits := run.Fit([]byte("{"+strings.Join(members, ",")+"}"), &p)
	if err := p.Refusal("unknown-field", misfits); len(misfits) != 100 || len(said(err)) != 100 {
		t.Errorf("Fit() of 50,000 unknown members = %d, refused by %d; want 100", len(misfits), len(said(err)))
	}
}

// A plan with many faults does not hide that there are more.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	_, err := parse(t, withSteps(slices.Repeat([]string{`{"name":"A","tool":"bash","inputs":{"script":"true"}}`}, 150)...)).Normalise()
	if got := said(err); len(got) != 100 || !strings.Contains(err.Error(), "more)") {
		t.Errorf("Normalise() = %d fields, %v; want 100 and that there are more", len(got), err)
	}
}
