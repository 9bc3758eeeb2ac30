package diff

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestHunks(t *testing.T) {
	t.Parallel()
	long := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%d\n", i)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		from, to, want string
		added, deleted int
	}{
		"nothing":           {"a\n", "a\n", "", 0, 0},
		"both empty":        {"", "", "", 0, 0},
		"added":             {"", "a\nb\n", "@@ -0,0 +1,2 @@\n+a\n+b\n", 2, 0},
		"deleted":           {"a\n", "", "@@ -1 +0,0 @@\n-a\n", 0, 1},
		"changed":           {"a\nb\nc\n", "a\nB\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", 1, 1},
		"end of line added": {"a", "a\n", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n", 1, 1},
		"no end of line":    {"a\nb", "A\nb", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n\\ No newline at end of file\n", 1, 1},
		"far apart":         {long(20), "x\n" + long(20) + "y\n", "@@ -1,3 +1,4 @@\n+x\n 0\n 1\n 2\n@@ -18,3 +19,4 @@\n 17\n 18\n 19\n+y\n", 2, 0},
		"near each other":   {long(7), "x\n" + long(6), "@@ -1,7 +1,7 @@\n+x\n 0\n 1\n 2\n 3\n 4\n 5\n-6\n", 1, 1},
		"the last of equal": {"{\n}\n", "{\n}\n{\n}\n", "@@ -1,2 +1,4 @@\n {\n }\n+{\n+}\n", 2, 0},
		"a carriage return": {"a\r\n", "a\n", "@@ -1 +1 @@\n-a\r\n+a\n", 1, 1},
		"one of equal gone": {"a\nx\nx\nx\nb\n", "a\nx\nx\nb\n", "@@ -1,5 +1,4 @@\n a\n x\n x\n-x\n b\n", 0, 1},
	} {
		got, lines := hunks(c.from, c.to)
		if got != c.want || lines != (Lines{c.added, c.deleted}) {
			t.Errorf("hunks(%s) = %q, %+v, want %q, %+v", name, got, lines, c.want, Lines{c.added, c.deleted})
		}
	}
}

// common returns the length of the longest common subsequence.
func common(a, b []int) int {
	row := make([]int, len(b)+1)
	for i := range a {
		diagonal := 0
		for j := range b {
			above := row[j+1]
			if a[i] == b[j] {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}

// checkEdits compares edits with what they are to be: they lead from a to b, and there
// are no fewer.
func checkEdits(t interface{ Fatalf(string, ...any) }, a, b []int, n int) {
	list := edits(a, b, n)
	at, to, added, deleted := 0, 0, 0, 0
	for i, e := range list {
		if e.a0 < at || e.a0-at != e.b0-to || e.a0 == e.a1 && e.b0 == e.b1 || i > 0 && e.a0 == at {
			t.Fatalf("edits(%v, %v) = %v, want them apart and in order", a, b, list)
		}
		for ; at < e.a0; at, to = at+1, to+1 {
			if a[at] != b[to] {
				t.Fatalf("edits(%v, %v) = %v, which take %d and %d for equal", a, b, list, at, to)
			}
		}
		at, to = e.a1, e.b1
		added, deleted = added+e.b1-e.b0, deleted+e.a1-e.a0
	}
	for ; at < len(a) && to < len(b) && a[at] == b[to]; at, to = at+1, to+1 {
	}
	if at != len(a) || to != len(b) {
		t.Fatalf("edits(%v, %v) = %v, which end at %d and %d", a, b, list, at, to)
	}
	if want := common(a, b); len(a)-deleted != want || len(b)-added != want {
		t.Fatalf("edits(%v, %v) = %v, which leave %d equal, want %d", a, b, list, len(a)-deleted, want)
	}
}

func TestEditsAreTheFewest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "n")
		items := rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 60)
		checkEdits(t, items.Draw(t, "a"), items.Draw(t, "b"), n)
	})
}

// A search of very many lines is cut short, and what it comes to is a diff all the same.
func TestEditsOfVeryDifferentTexts(t *testing.T) {
	t.Parallel()
	const n = 3 * most
	var from, to strings.Builder
	for i := range n {
		fmt.Fprintln(&from, i*7919%n)
		fmt.Fprintln(&to, i*104729%n)
	}
	text, lines := hunks(from.String(), to.String())
	if got := patched(t, from.String(), text); got != to.String() {
		t.Errorf("hunks(%d shuffled lines) lead to another text", n)
	}
	if lines.Added != lines.Deleted || lines.Added == 0 {
		t.Errorf("hunks(%d shuffled lines) = %+v, want as many added as deleted", n, lines)
	}
}

// patched returns a text after the hunks, which have to fit.
func patched(t testing.TB, from, hunks string) string {
	t.Helper()
	lines := splitLines(from)
	var out strings.Builder
	at := 0
	take := func(n int) {
		for ; at < n; at++ {
			out.WriteString(lines[at])
		}
	}
	all := splitLines(hunks)
	for i, l := range all {
		text := l[1:]
		if i+1 < len(all) && strings.HasPrefix(all[i+1], `\`) {
			text = strings.TrimSuffix(text, "\n")
		}
		switch l[0] {
		case '@':
			var start, count int
			if n, _ := fmt.Sscanf(l, "@@ -%d,%d", &start, &count); n == 2 && count == 0 {
				start++
			}
			take(start - 1)
		case '-', ' ':
			if at >= len(lines) || lines[at] != text {
				t.Fatalf("line %d is not %q", at+1, text)
			}
			if l[0] == ' ' {
				out.WriteString(text)
			}
			at++
		case '+':
			out.WriteString(text)
		}
	}
	take(len(lines))
	return out.String()
}

func FuzzHunks(f *testing.F) {
	f.Add("a\nb\n", "a\nc")
	f.Add("", "\n\n")
	f.Fuzz(func(t *testing.T, from, to string) {
		text, _ := hunks(from, to)
		if got := patched(t, from, text); got != to {
			t.Errorf("hunks(%q, %q) = %q, which lead to %q", from, to, text, got)
		}
		a, b, n := numbered(splitLines(from), splitLines(to))
		if len(a)*len(b) < 1<<20 {
			checkEdits(t, a, b, n)
		}
	})
}
