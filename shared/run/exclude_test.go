package run_test

import (
	"strings"
	"testing"

	"nofx.dev/shared/run"
)

func TestExclude(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern  string
		excludes []string // paths; of a directory with a slash behind
		keeps    []string
	}{
		{".env", []string{".env", "a/.env", "a/b/.env/"}, []string{".envrc", "a.env"}},
		{"*.o", []string{"x.o", "a/b/.o", "d.o/"}, []string{"x.ob", "o"}},
		{"**/.env", []string{".env", "a/.env", "a/b/.env"}, []string{"a/.env2"}},
		{"/.env", []string{".env", ".env/"}, []string{"a/.env"}},
		{"build/", []string{"build/", "a/build/"}, []string{"build", "a/build", "build2/"}},
		{"/build/", []string{"build/"}, []string{"build", "a/build/"}},
		{"a/b", []string{"a/b", "a/b/"}, []string{"c/a/b", "a/bb"}},
		{"a/b/", []string{"a/b/"}, []string{"a/b"}},
		{"a/*.log", []string{"a/x.log", "a/.log"}, []string{"a/b/x.log", "x.log"}},
		{"a/**/*.log", []string{"a/x.log", "a/b/c/x.log"}, []string{"x.log"}},
		{"logs/**", []string{"logs/x", "logs/a/"}, []string{"logs/", "a/logs/x"}},
		{"**/logs/**", []string{"logs/x", "a/logs/x"}, []string{"logs/", "a/logs/"}},
		{"**/logs/", []string{"logs/", "a/logs/"}, []string{"logs"}},
		{"**", []string{"a", "b/"}, nil},
		{"*.{o,tmp}", []string{"x.o", "a/x.tmp"}, []string{"x.c"}},
		{"{a,b}/c", []string{"a/c", "b/c"}, []string{"c", "d/a/c"}},
		{"[a-c]?", []string{"a1", "x/bb"}, []string{"d1", "a"}},
		{`\!x`, []string{"!x"}, []string{`\!x`}},
		{"größe", []string{"größe", "a/größe"}, []string{"gross"}},
		{"node_modules", []string{"node_modules/", "a/node_modules/"}, []string{"node_modules2/"}},
	} {
		e, problem := run.ParseExclude(tt.pattern)
		if problem != "" {
			t.Errorf("ParseExclude(%q) says %q, want a pattern", tt.pattern, problem)
			continue
		}
		check := func(paths []string, want bool) {
			for _, p := range paths {
				name, dir := strings.CutSuffix(p, "/")
				if got := e.Match(name, dir); got != want {
					t.Errorf("Exclude %q Match(%q, %v) = %v, want %v", tt.pattern, name, dir, got, want)
				}
			}
		}
		check(tt.excludes, true)
		check(tt.keeps, false)
	}
	for pattern, says := range map[string]string{
		"": "must name a file or folder", "/": "must name a file or folder", "[": "is not a pattern", "a/[": "is not a pattern", "a[]": "is not a pattern", "{a": "is not a pattern", `a\`: "is not a pattern",
		"a//b": "element", "./a": "element", "../a": "element", "a/..": "element", "//a": "element", "!keep": "cannot bring files back",
		strings.Repeat("{a,b}", 11): "alternatives", "\x00": "NUL",
	} {
		if _, problem := run.ParseExclude(pattern); !strings.Contains(problem, says) {
			t.Errorf("ParseExclude(%q) says %q, want %q", pattern, problem, says)
		}
	}
}
