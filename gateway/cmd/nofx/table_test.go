package main

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTable(t *testing.T) {
	t.Parallel()
	run, goal := id("run", 1), "ship the fix to all of the customers in the north"
	for name, tt := range map[string]struct {
		width int // 0: no terminal
		head  []string
		rows  [][]string
		spare []string
		want  string
	}{
		"lines up":         {0, []string{"NAME", "STATUS"}, [][]string{{"构建项目", "ready"}, {"unit", ""}}, nil, "NAME      STATUS\n构建项目  ready\nunit      -\n"},
		"no terminal":      {0, []string{"A", "GOAL", "NONE"}, [][]string{{"1", goal, ""}}, []string{"A"}, "A  " + pad("GOAL", len(goal)) + "  NONE\n1  " + goal + "  -\n"},
		"fits":             {20, []string{"A", "B"}, [][]string{{"1", strings.Repeat("b", 17)}}, []string{"A"}, "A  B\n1  bbbbbbbbbbbbbbbbb\n"},
		"without content":  {20, []string{"NONE", "A", "B"}, [][]string{{"", "1", strings.Repeat("b", 17)}}, []string{"A"}, "A  B\n1  bbbbbbbbbbbbbbbbb\n"},
		"spared in order":  {20, []string{"A", "B", "C"}, [][]string{{"aaaaa", "bbbbb", "cccccccc"}}, []string{"C", "A"}, "A      B\naaaaa  bbbbb\n"},
		"cut before spare": {24, []string{"A", "GOAL"}, [][]string{{"aaaaa", goal}}, []string{"A"}, "A      GOAL\naaaaa  ship the fix to …\n"},
		"spare before cut": {20, []string{"A", "GOAL"}, [][]string{{"aaaaa", goal}}, []string{"A"}, "GOAL\nship the fix to all…\n"},
		"a word, last":     {20, []string{"A", "GOAL"}, [][]string{{strings.Repeat("a", 30), goal}}, nil, "A          GOAL\naaaaaaaa…  ship the…\n"},
		"never an id":      {20, []string{"RUN", "B"}, [][]string{{run, strings.Repeat("b", 17)}}, nil, pad("RUN", len(run)) + "  B\n" + run + "  bbbbbbb…\n"},
		"no rows":          {8, []string{"RUN", "STATUS"}, nil, []string{"STATUS"}, "RUN\n"},
	} {
		var out strings.Builder
		a := &app{}
		if tt.width > 0 {
			a.screen = func() (int, int) { return tt.width, 24 }
		}
		a.table(&out, tt.head, tt.rows, tt.spare...)
		if got := out.String(); got != tt.want {
			t.Errorf("%s: table(width %d) =\n%swant\n%s", name, tt.width, got, tt.want)
		}
	}
}

// TestTableFits makes any table without ids fit, however narrow the terminal is, and leaves
// the columns that remain in their order.
func TestTableFits(t *testing.T) {
	t.Parallel()
	heads := []string{"A", "BB", "CCC", "DDDD"}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, len(heads)).Draw(t, "columns")
		width := rapid.IntRange(leastWord*n+gap*(n-1), 120).Draw(t, "width")
		rows := rapid.SliceOfN(rapid.SliceOfN(rapid.StringMatching(`[a-z目 \n]{0,60}`), n, n), 0, 5).Draw(t, "rows")
		spare := rapid.SliceOfNDistinct(rapid.SampledFrom(heads[1:]), 0, 3, rapid.ID).Draw(t, "spare")
		var out strings.Builder
		(&app{screen: func() (int, int) { return width, 24 }}).table(&out, heads[:n], rows, spare...)
		lines := slices.Collect(strings.Lines(out.String()))
		for _, line := range lines {
			if got := cells(strings.TrimSuffix(line, "\n")); got > width {
				t.Fatalf("a line of %d cells on a terminal of %d: %q", got, width, line)
			}
		}
		if len(lines) != len(rows)+1 || !slices.IsSorted(strings.Fields(lines[0])) {
			t.Fatalf("table() =\n%swant the head and %d rows", out.String(), len(rows))
		}
	})
}
