package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/run"
)

// The densest plan that is allowed is created within the statement timeout.
func TestDensestPlan(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const each = run.MaxEdges / run.MaxSteps
	text := make([]string, run.MaxSteps)
	for i := range text {
		var deps []string
		for j := max(0, i-each); j < i; j++ {
			deps = append(deps, fmt.Sprint("s", j))
		}
		text[i] = fmt.Sprintf("s%d: %s", i, strings.Join(deps, " "))
	}
	start := time.Now()
	_, steps := s.create(t, text...)
	t.Logf("created in %s", time.Since(start))
	if n := len(steps["s999"].DependsOn); n != each {
		t.Errorf("dependencies of the last step = %d, want %d", n, each)
	}
}

// A thousand steps at once, out and in again, within the statement timeout.
func TestFanOutFanIn(t *testing.T) {
	t.Parallel()
	s := setup(t)
	lines := []string{"first:"}
	middle := make([]string, 998)
	for i := range middle {
		middle[i] = fmt.Sprintf("s%d", i)
		lines = append(lines, middle[i]+": first")
	}
	lines = append(lines, "last: "+strings.Join(middle, " "))
	start := time.Now()
	r, steps := s.create(t, lines...)
	t.Logf("create: %s", time.Since(start))
	start = time.Now()
	s.do(t, steps["first"].ID, "succeed")
	t.Logf("fan-out: %s", time.Since(start))
	start = time.Now()
	for _, name := range middle {
		s.do(t, steps[name].ID, "succeed")
	}
	t.Logf("998 steps: %s", time.Since(start))
	s.do(t, steps["last"].ID, "succeed")
	if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.State != "succeeded" {
		t.Errorf("Run() = %s, %v, want succeeded", d.State, err)
	}
}
