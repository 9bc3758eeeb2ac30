// Package workflow_test holds the workflow that others copy into their repositories, that of
// this repository's own gates, and the example for Bitbucket, to what they promise: lint and rules of safety for the file
// (this file), and its scripts, run by bash against a strict world (script_test.go,
// bitbucket_test.go; runner_test.go runs them, fake_test.go is the world).
package workflow_test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rhysd/actionlint"
	"go.yaml.in/yaml/v3"
)

const path = "../../.github/workflows/nofx-llm-review.yml"

func workflow(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func parsed(t *testing.T, text string) *actionlint.Workflow {
	t.Helper()
	flow, errs := actionlint.Parse([]byte(text))
	if len(errs) > 0 {
		t.Fatalf("the workflow does not parse: %v", errs)
	}
	return flow
}

func TestS40_WorkflowIsSafe(t *testing.T) {
	t.Parallel()
	if got := unsafe(t, workflow(t)); len(got) > 0 {
		t.Errorf("the workflow breaks rules:\n%s", strings.Join(got, "\n"))
	}
}

// TestWorkflowRules breaks each rule, and sees that it is noticed.
func TestWorkflowRules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, old, new, want string }{
		{"other trigger", "  pull_request:\n", "  pull_request_target:\n", "triggers are [pull_request_target workflow_dispatch]"},
		{"another trigger", "  workflow_dispatch:\n", "  push:\n  workflow_dispatch:\n", "triggers are [pull_request push workflow_dispatch]"},
		{"permissions on top", "permissions: {}", "permissions: {contents: read}", "permissions of the workflow are {contents: read}"},
		{"all permissions", "permissions: {}", "permissions: write-all", "permissions of the workflow are write-all"},
		{"permissions of the job", "      id-token: write\n", "      id-token: write\n      contents: write\n", "permissions of review are {contents: write, id-token: write}"},
		{"permissions of the other job", "    environment: nofx-staging\n", "    environment: nofx-staging\n    permissions: {id-token: write}\n", "permissions of staging are {id-token: write}"},
		{"forks", "github.event.pull_request.head.repo.full_name == github.repository", "true", "review runs for forks"},
		{"staging without a review", "    needs: review\n", "", "staging does not need review"},
		{"expression in a script", "echo \"The review $outcome.\"", "echo \"${{ github.event.pull_request.title }}\"", "has an expression"},
		{"secret in a script", "echo \"The review $outcome.\"", "echo \"${{ secrets.SUPABASE_URL }}\"", "a secret outside env"},
		{"action by its tag", "      - name: Wait for verdict\n", "      - uses: actions/checkout@v4\n      - name: Wait for verdict\n", "uses actions/checkout@v4"},
		{"unknown expression", "${{ github.run_id }}", "${{ github.run_it }}", "actionlint: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			whole := workflow(t)
			if !strings.Contains(whole, test.old) {
				t.Fatalf("the workflow lacks %q", test.old)
			}
			if got := strings.Join(unsafe(t, strings.Replace(whole, test.old, test.new, 1)), "\n"); !strings.Contains(got, test.want) {
				t.Errorf("unsafe(broken) = %q, want %q in it", got, test.want)
			}
		})
	}
}

// TestS40_GatesOfTheWorkflow checks that each scanner runs on each change, by a workflow that
// may read alone.
func TestS40_GatesOfTheWorkflow(t *testing.T) {
	t.Parallel()
	const path = "../../.github/workflows/gates.yml"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := breaches(t, string(raw)); len(got) > 0 {
		t.Errorf("the workflow breaks rules:\n%s", strings.Join(got, "\n"))
	}
	flow := parsed(t, string(raw))
	if got := triggers(flow); !slices.Equal(got, []string{"pull_request", "push", "schedule"}) {
		t.Errorf("triggers = %q, want each change and each week", got)
	}
	job := flow.Jobs["gate"]
	if got := granted(job.Permissions); len(flow.Jobs) != 1 || got != "{contents: read}" {
		t.Errorf("permissions of %d jobs = %s, want one that may read alone", len(flow.Jobs), got)
	}
	var gates []string
	for _, value := range job.Strategy.Matrix.Rows["gate"].Values {
		gates = append(gates, strings.Trim(value.String(), `"`))
	}
	if want := []string{"lint", "sast", "secrets", "audit"}; !slices.Equal(gates, want) {
		t.Errorf("gates = %q, want %q", gates, want)
	}
	if strings.Contains(string(raw), "secrets.") || strings.Contains(string(raw), "continue-on-error") {
		t.Error("the workflow has secrets, or goes on after a gate that failed")
	}
}

var pinned = regexp.MustCompile(`^[^@]+@[0-9a-f]{40}$`)

// unsafe returns what is wrong with the workflow that reviews: what breaches returns, and which
// of its own rules it breaks.
func unsafe(t *testing.T, text string) []string {
	t.Helper()
	found := breaches(t, text)
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	flow, errs := actionlint.Parse([]byte(text))
	if flow == nil || len(errs) > 0 {
		return found
	}
	if got := triggers(flow); !slices.Equal(got, []string{"pull_request", "workflow_dispatch"}) {
		add("triggers are %v", got)
	}
	for name, job := range flow.Jobs {
		want := map[string]string{"review": "{id-token: write}", "staging": "none of its own"}[name]
		if got := granted(job.Permissions); got != want {
			add("permissions of %s are %s", name, got)
		}
	}
	if condition := flow.Jobs["review"].If; condition == nil || !strings.Contains(condition.Value, "github.event.pull_request.head.repo.full_name == github.repository") {
		add("review runs for forks")
	}
	if needs := flow.Jobs["staging"].Needs; len(needs) != 1 || needs[0].Value != "review" {
		add("staging does not need review")
	}
	return found
}

// triggers returns the events that start a workflow, sorted.
func triggers(flow *actionlint.Workflow) []string {
	var names []string
	for _, on := range flow.On {
		names = append(names, on.EventName())
	}
	slices.Sort(names)
	return names
}

// breaches returns what actionlint says about a workflow, and which rules for all workflows it
// breaks.
func breaches(t *testing.T, text string) []string {
	t.Helper()
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	// What shellcheck says depends on its version, and on whether the machine has it.
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{Shellcheck: "", Pyflakes: ""})
	if err != nil {
		t.Fatal(err)
	}
	complaints, err := linter.Lint("workflow.yml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range complaints {
		add("actionlint: %v", c)
	}
	flow, errs := actionlint.Parse([]byte(text))
	if flow == nil || len(errs) > 0 {
		return found
	}
	if got := granted(flow.Permissions); got != "{}" {
		add("permissions of the workflow are %s", got)
	}
	for name, job := range flow.Jobs {
		for _, step := range job.Steps {
			switch exec := step.Exec.(type) {
			case *actionlint.ExecRun:
				if strings.Contains(exec.Run.Value, "${{") {
					add("the script of %q has an expression", step.Name.Value)
				}
			case *actionlint.ExecAction:
				if !pinned.MatchString(exec.Uses.Value) {
					add("%s uses %s, which is not a commit", name, exec.Uses.Value)
				}
			}
		}
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	for _, place := range secretsOutsideEnv(&document, "") {
		add("a secret outside env: %s", place)
	}
	return found
}

// granted returns permissions as text.
func granted(p *actionlint.Permissions) string {
	switch {
	case p == nil:
		return "none of its own"
	case p.All != nil:
		return p.All.Value
	}
	var scopes []string
	for _, s := range p.Scopes {
		scopes = append(scopes, s.Name.Value+": "+s.Value.Value)
	}
	slices.Sort(scopes)
	return "{" + strings.Join(scopes, ", ") + "}"
}

// secretsOutsideEnv returns the places of values with secrets that are no env.
func secretsOutsideEnv(n *yaml.Node, at string) []string {
	var found []string
	switch n.Kind {
	case yaml.ScalarNode:
		if strings.Contains(n.Value, "secrets.") && !strings.Contains(at, "/env/") {
			found = append(found, at)
		}
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			found = append(found, secretsOutsideEnv(n.Content[i+1], at+"/"+n.Content[i].Value)...)
		}
	default:
		for _, c := range n.Content {
			found = append(found, secretsOutsideEnv(c, at)...)
		}
	}
	return found
}

// TestWorkflowSteps keeps names that people find in logs, and that rulesets may name.
func TestWorkflowSteps(t *testing.T) {
	t.Parallel()
	got := map[string][]string{}
	for name, job := range parsed(t, workflow(t)).Jobs {
		for _, s := range job.Steps {
			got[name] = append(got[name], s.Name.Value)
		}
	}
	want := map[string][]string{"review": {"Request review", "Wait for verdict"}, "staging": {"Call Vercel Deploy Hook"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps differ (-want +got):\n%s", diff)
	}
}
