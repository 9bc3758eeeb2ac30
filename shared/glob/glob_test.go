package glob_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/glob"
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
		if diff := cmp.Diff(want, slices.Collect(glob.Alternatives(pattern))); diff != "" {
			t.Errorf("Alternatives(%q) (-want +got):\n%s", pattern, diff)
		}
	}
	n := 0
	for range glob.Alternatives(strings.Repeat("{a,b}", 200)) {
		if n++; n == 100 {
			break
		}
	}
	if n != 100 {
		t.Errorf("the first of many alternatives are %d, want 100", n)
	}
}

func TestProblem(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"**/*.{go,sql}": "", "a[": "is not a pattern", "{a": "is not a pattern",
		strings.Repeat("{a,b}", 9):  "",
		strings.Repeat("{a,b}", 10): "its braces stand for more than 1000 alternatives",
		strings.Repeat("{a,a}", 99): "its braces stand for more than 1000 alternatives",
	} {
		if got := glob.Problem(pattern); got != want {
			t.Errorf("Problem(%.40q) = %q, want %q", pattern, got, want)
		}
	}
}
