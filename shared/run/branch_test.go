package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// drawn returns a normalised plan of lines such as "c: a b", a step and what it depends on.
// Names that begin with g are command gates, with m manual ones.
func drawn(t testing.TB, text ...string) Plan {
	t.Helper()
	p := Plan{Goal: "test"}
	for _, line := range text {
		name, deps, _ := strings.Cut(line, ":")
		name, script, _ := strings.Cut(name, "=")
		s := PlanStep{Name: name, Tool: ToolBash, Inputs: fmt.Appendf(nil, `{"script":"true %s"}`, script), DependsOn: append([]string{}, strings.Fields(deps)...)}
		switch name[0] {
		case 'g':
			s.Tool, s.Inputs = GateFamily+"unit", json.RawMessage(`{"command":"true"}`)
		case 'm':
			s.Tool, s.Inputs = ManualFamily+"ok", json.RawMessage(`{"message":"go on?"}`)
		}
		p.Steps = append(p.Steps, s)
	}
	p, err := p.Normalise()
	if err != nil {
		t.Fatalf("Normalise(%q) = %v", text, err)
	}
	return p.Expanded()
}

// told describes the steps of a branch, each as name, ! for restored, the reason for which
// it runs, and what it needs.
func told(steps []BranchStep) string {
	var words []string
	for _, s := range steps {
		word := s.Name
		switch {
		case s.Restored:
			word += "!"
		case s.Reopened:
			word += "?"
		default:
			word += "=" + string(s.Why)
			if s.Because != "" {
				word += "/" + s.Because
			}
		}
		words = append(words, word+"("+strings.Join(s.Needs, " ")+")")
	}
	return strings.Join(words, " ")
}

func TestForkSteps(t *testing.T) {
	t.Parallel()
	line := []string{"a:", "b: a", "c: b"}
	gated := []string{"a:", "g: a", "b: g", "c: b"}
	for name, tt := range map[string]struct {
		before, after []string // no after: as before
		passed        string
		changed       string
		want          string
	}{
		"a line":            {before: line, passed: "a b", want: "a!() b!(a) c=not_reached(b)"},
		"from its start":    {before: line, want: "a=not_reached() b=not_reached(a) c=not_reached(b)"},
		"all of it":         {before: line, passed: "a b c", want: "a!() b!(a) c!(b)"},
		"a sibling":         {before: []string{"a:", "b: a", "c: a", "d: b c"}, passed: "a b", want: "a!() b!(a) c=not_reached(a) d=not_reached(b c)"},
		"another script":    {before: line, after: []string{"a:", "b=x: a", "c: b"}, passed: "a b c", want: "a!() b=definition_changed(a) c=dependency_reruns/b(b)"},
		"a step in front":   {before: line, after: []string{"z:", "a: z", "b: a", "c: b"}, passed: "a b", want: "z=new() a=definition_changed(z) b=dependency_reruns/a(a) c=not_reached(b)"},
		"a step behind":     {before: line, after: []string{"a:", "b: a", "c: b", "d: a"}, passed: "a b c", want: "a!() b!(a) c!(b) d=new(a)"},
		"a step is gone":    {before: line, after: []string{"a:", "c: a"}, passed: "a b c", want: "a!() c=definition_changed(a)"},
		"edited inputs":     {before: line, passed: "a b c", changed: "b", want: "a!() b=inputs_changed(a) c=dependency_reruns/b(b)"},
		"not in order":      {before: []string{"c: b", "b: a", "a:"}, passed: "a", want: "c=not_reached(b) b=not_reached(a) a!()"},
		"a gate at the end": {before: []string{"a:", "g: a"}, passed: "a g", want: "a!() g?(a)"},
		// The gate judges what came after it, and all that runs waits for it.
		"a gate before":           {before: gated, passed: "a g b", want: "a!() g?(a b) b!() c=not_reached(g b)"},
		"a gate that was not met": {before: gated, passed: "a", want: "a!() g=not_reached(a) b=not_reached(g) c=not_reached(b)"},
		"a gate that was to pass again, before a restored step": {before: gated, passed: "a b", want: "a!() g?(a b) b!() c=not_reached(g b)"},
		"gates that were to pass again, one after the other":    {before: []string{"a:", "g1: a", "g2: g1", "b: g2", "c: b"}, passed: "a b", want: "a!() g1?(a b) g2?(g1 b) b!() c=not_reached(g2 b)"},
		"a gate that was to pass again, and is defined anew":    {before: gated, after: []string{"a:", "z:", "g: a z", "b: g", "c: b"}, passed: "a b", want: "a!() z=new() g=definition_changed(a z) b=dependency_reruns/g(g) c=not_reached(b)"},
		"a person's gate":   {before: []string{"a:", "m: a", "b: m", "c: b"}, passed: "a m b", want: "a!() m?(a b) b!() c=not_reached(m b)"},
		"a gate far before": {before: []string{"a:", "g: a", "b: g", "c: b", "d: c"}, passed: "a g b c", want: "a!() g?(a c) b!() c!(b) d=not_reached(g c)"},
		// The last gate waits for the first one.
		"two gates":          {before: []string{"a:", "g1: a", "b: g1", "g2: b", "c: g2", "d: c"}, passed: "a g1 b g2 c", want: "a!() g1?(a c) b!() g2?(g1 b c) c!() d=not_reached(g2 c)"},
		"gates side by side": {before: []string{"a:", "g1: a", "g2: a", "b: g1 g2", "c: b"}, passed: "a g1 g2 b", want: "a!() g1?(a b) g2?(a b) b!() c=not_reached(g1 g2 b)"},
		"another gate":       {before: gated, after: []string{"a:", "b: a", "g: b", "c: b g"}, passed: "a g b", want: "a!() b=definition_changed(a) g=definition_changed(b) c=not_reached(b g)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := tt.after
			if after == nil {
				after = tt.before
			}
			has := func(list string) func(string) bool {
				return func(step string) bool { return slices.Contains(strings.Fields(list), step) }
			}
			got := told(Fork{Before: drawn(t, tt.before...), After: drawn(t, after...), Passed: has(tt.passed), Changed: has(tt.changed)}.Steps())
			if got != tt.want {
				t.Errorf("Steps() =\n%s, want\n%s", got, tt.want)
			}
		})
	}
}

// What is only about how often and how long a step is tried does not make it run again, nor
// does the order in which JSON is written.
func TestForkSameDefinition(t *testing.T) {
	t.Parallel()
	before := drawn(t, "a:", "b: a")
	for name, tt := range map[string]struct {
		change func(*Plan)
		want   string
	}{
		"timeout":  {func(p *Plan) { p.Steps[0].TimeoutS = new(5) }, "a!() b!(a)"},
		"retry":    {func(p *Plan) { p.Steps[0].Retry = &PlanRetry{MaxAttempts: new(7), InitialS: new(1.0)} }, "a!() b!(a)"},
		"spaces":   {func(p *Plan) { p.Steps[0].Inputs = json.RawMessage(`{ "script" : "true " }`) }, "a!() b!(a)"},
		"env":      {func(p *Plan) { p.Policy = &Policy{EnvAllowed: []string{"CI"}} }, "a=definition_changed() b=definition_changed(a)"},
		"excludes": {func(p *Plan) { p.Workspace = &Workspace{Source: EmptyWorkspace, Excludes: []string{"bin"}} }, "a=definition_changed() b=definition_changed(a)"},
		"source": {func(p *Plan) {
			p.Workspace = &Workspace{Source: GitWorkspace, Git: &WorkspaceGit{URL: "https://example.org/x"}}
			*p = p.Expanded()
		}, "workspace~git=new() a=definition_changed(workspace~git) b=dependency_reruns/a(a)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			after := before
			after.Steps = slices.Clone(before.Steps)
			tt.change(&after)
			if got := told(Fork{Before: before, After: after, Passed: func(string) bool { return true }}.Steps()); got != tt.want {
				t.Errorf("Steps() = %s, want %s", got, tt.want)
			}
		})
	}
}

// A thousand steps with a gate after each are planned without more dependencies than a
// database takes.
func TestForkManyGates(t *testing.T) {
	t.Parallel()
	var text []string
	before := ""
	for i := range 500 {
		text = append(text, fmt.Sprintf("a%d: %s", i, before), fmt.Sprintf("g%d: a%d", i, i))
		before = fmt.Sprintf("g%d", i)
	}
	p := drawn(t, text...)
	edges := 0
	for _, s := range (Fork{Before: p, After: p, Passed: func(s string) bool { return s != "g499" }}).Steps() {
		edges += len(s.Needs)
	}
	if want := 2000; edges > want {
		t.Errorf("Steps() has %d dependencies, want at most %d", edges, want)
	}
}

// BenchmarkForkSteps plans a branch of a thousand steps.
func BenchmarkForkSteps(b *testing.B) {
	text := []string{"a0:"}
	for i := 1; i < MaxSteps; i++ {
		text = append(text, fmt.Sprintf("a%d: a%d", i, i-1))
	}
	p := drawn(b, text...)
	for b.Loop() {
		Fork{Before: p, After: p, Passed: func(s string) bool { return s < "a5" }}.Steps()
	}
}
