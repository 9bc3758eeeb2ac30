package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

func TestHere(t *testing.T) {
	t.Parallel()
	const checkout = `"steps":[{"inputs":{"url":%},"tool":"git:checkout"},{"inputs":{"url":"."},"tool":"bash"},{"timeout_s":12345678901234567890}]`
	for _, wrap := range []string{`{%}`, `{"plan":{%},"session_id":"s"}`} {
		plan := func(url string) string {
			return strings.Replace(wrap, "%", strings.Replace(checkout, "%", url, 1), 1)
		}
		for from, want := range map[string]string{`"."`: `"file:///a%20folder"`, `"https://git.example/x"`: `"https://git.example/x"`, `7`: `7`} {
			got, err := here([]byte(plan(from)), "/a folder")
			if err != nil || string(got) != plan(want) {
				t.Errorf("here(%s) = %s, %v, want %s", plan(from), got, err, plan(want))
			}
		}
	}
	if got, err := here([]byte("\ufeff{}"), "/r"); err != nil || string(got) != "{}" {
		t.Errorf("here of a plan with a byte order mark = %q, %v, want it without", got, err)
	}
	for _, odd := range []string{`{}`, `{"plan":[]}`, `{"steps":["x",{"inputs":7,"tool":"git:checkout"}]}`} {
		if got, err := here([]byte(odd), "/r"); err != nil || string(got) != odd {
			t.Errorf("here(%s) = %s, %v, want it as it is: the gateway says what is wrong", odd, got, err)
		}
	}
	if got, err := here([]byte(`{`), "/r"); err == nil {
		t.Errorf("here of no JSON = %s, want an error", got)
	}
}

func TestStepEnvironment(t *testing.T) {
	t.Setenv("GOVULNDB", "file:///db")
	t.Setenv("NOFX_STEP_ENV", "GOPROXY=mine")
	env, err := stepEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(env, "\nGOPROXY=mine") {
		t.Errorf("stepEnvironment() = %q, want what the user has set at its end", env)
	}
	for _, want := range []string{"GOBIN=/", "GOMODCACHE=/", "GOVULNDB=file:///db\n", "PATH="} {
		if !strings.Contains("\n"+env+"\n", "\n"+want) {
			t.Errorf("stepEnvironment() = %q, want a line %q", env, want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	steps := []api.Step{
		{ID: "step_1", Tool: "bash", Status: "succeeded"},
		{ID: "step_2", Tool: "gate:unit", Status: "succeeded"},
		{ID: "step_3", Tool: "gate:sast", Status: "failed"},
		{ID: "step_4", Tool: "gate:lint", Status: "failed"},
		{ID: "step_5", Tool: "gate:audit", Status: "cancelled"},
		{ID: "step_6", Name: "build", Tool: "bash", Status: "failed", Reason: new("exit code 2"), StartedAt: new(time.Unix(100, 0)), FinishedAt: new(time.Unix(103, 0))},
	}
	evidence := func(text string) api.Object { return json.RawMessage(text) }
	gates := []api.Gate{
		{StepID: "step_2", Round: 2, Status: "passed", Evidence: evidence(`{"duration_ms": 1500, "output": "ok"}`)},
		{StepID: "step_2", Round: 1, Status: "failed", Evidence: evidence(`{"reason": "exit code 1"}`)},
		{StepID: "step_3", Round: 1, Status: "error", Evidence: evidence(`{"reason": "exit code 127", "missing": "gosec", "output": "line 1: gosec: command not found\n"}`)},
		{StepID: "step_4", Round: 1, Status: "failed", Evidence: evidence(`{"reason": "exit code 1", "duration_ms": 200, "output": "a.go:1: \u001b[31mbad\n"}`)},
	}
	got := collect(steps, gates)
	want := []verdict{
		{"unit", "passed", "", "ok", 1500 * time.Millisecond, ""},
		{"sast", "error", "gosec is not there", "line 1: gosec: command not found\n", 0, ""},
		{"lint", "failed", "exit code 1", "a.go:1: \x1b[31mbad\n", 200 * time.Millisecond, ""},
		{"audit", "cancelled", "", "", 0, ""},
		{"build", "failed", "exit code 2", "", 3 * time.Second, "step_6"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(verdict{})); diff != "" {
		t.Errorf("collect (-want +got):\n%s", diff)
	}
	var out bytes.Buffer
	newTerminal(&out).verdicts(got)
	const table = `
sast
  line 1: gosec: command not found

lint
  a.go:1: ·[31mbad

gate or step  verdict    time   why
unit          passed     1.5s   
sast          error      0s     gosec is not there
lint          failed     200ms  exit code 1
audit         cancelled  0s     
build         failed     3s     exit code 2
`
	if diff := cmp.Diff(table, out.String()); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}
