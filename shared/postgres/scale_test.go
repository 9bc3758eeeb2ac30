package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

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
