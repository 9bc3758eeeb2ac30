package run_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
)

func TestAlternatives(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string][]string{
		"**/a*.xml":         {"**/a*.xml"},
		"{a,b}.xml":         {"a.xml", "b.xml"},
		"{a,b}/{1,2}":       {"a/1", "a/2", "b/1", "b/2"},
		"x{a,b{1,,2}c,}y":   {"xay", "xb1cy", "xbcy", "xb2cy", "xy"},
		"{a}":               {"a"},
		"{}a,b":             {"a,b"},
		`\{a,b\}`:           {`\{a,b\}`},
		`{a\,b,c\}}`:        {`a\,b`, `c\}`},
		"[{,}]{[,],[\\]{]}": {"[{,}][,]", "[{,}][\\]{]"},
		"{**/a,b}/*":        {"**/a/*", "b/*"},
	} {
		if diff := cmp.Diff(want, slices.Collect(run.Alternatives(pattern))); diff != "" {
			t.Errorf("Alternatives(%q) (-want +got):\n%s", pattern, diff)
		}
	}
	n := 0
	for range run.Alternatives(strings.Repeat("{a,b}", 200)) {
		if n++; n == 100 {
			break
		}
	}
	if n != 100 {
		t.Errorf("the first of many alternatives are %d, want 100", n)
	}
}
