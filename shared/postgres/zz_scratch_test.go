package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestScratch(t *testing.T) {
	s0 := setup(t)
	s0.exec(t, "ALTER ROLE nofx_app SET track_functions = 'all'")
	s := setup(t)
	lines := []string{"first:"}
	middle := make([]string, 998)
	for i := range middle {
		middle[i] = fmt.Sprintf("s%d", i)
		lines = append(lines, middle[i]+": first")
	}
	lines = append(lines, "last: "+strings.Join(middle, " "))
	_, steps := s.create(t, lines...)
	dump := func(what string) {
		time.Sleep(1500 * time.Millisecond)
		s.Admin.Exec(s.ctx, "SELECT pg_stat_clear_snapshot()")
		rows := all[string](t, s, "SELECT format('%s calls=%s total=%s self=%s', funcname, calls, round(total_time), round(self_time)) FROM pg_stat_user_functions ORDER BY self_time DESC LIMIT 14")
		t.Logf("%s\n%s", what, strings.Join(rows, "\n"))
		s.exec(t, "SELECT pg_stat_reset()")
	}
	dump("create")
	c := s.claim(t, steps["first"].ID)
	start := time.Now()
	s.finish(t, c, "succeed")
	t.Logf("fan-out: %s", time.Since(start))
	dump("fan")
	start = time.Now()
	for _, name := range middle[:300] {
		s.do(t, steps[name].ID, "succeed")
	}
	t.Logf("300: %s", time.Since(start))
	dump("300")
}
