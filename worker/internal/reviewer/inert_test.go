package reviewer

import (
	"html"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"nofx.dev/shared/telemetry"
)

func TestS35_Inert(t *testing.T) {
	t.Parallel()
	redact := telemetry.NewRedactor("c4n4ry-7f3a9b2c").String
	for _, test := range []struct{ text, want string }{
		{"It fails if `x` is nil.", "It fails if `x` is nil."},
		{"a < b && c > d, a & b", "a < b && c > d, a & b"},
		{"see [here](https://evil.example/x)", "see here"},
		{"see [here][1]\n[1]: https://evil.example", "see here"},
		{"[a[b]](https://evil.example)", "[a[b]] ((link removed))"},
		{"m[x](y) and a[1]: b", "mx and a[1] : b"},
		{"![x](https://evil.example/?q=secret)", "x"},
		{"[![x](https://a.example)](https://b.example)", "x"},
		{"go to https://evil.example/x?y=z now", "go to (link removed) now"},
		{"<https://evil.example>", "(link removed)"},
		{"www.evil.example", "(link removed)"},
		{"ask @admin and @org/team", "ask @ admin and @ org/team"},
		{"fixes #12 and GH-3", "fixes # 12 and GH- 3"},
		{"<img src=x onerror=y>", "< img src=x onerror=y>"},
		{"&lt;script&gt;", "< script>"},
		{"&amp;lt;b&amp;gt;", "& lt;b& gt;"},
		{"<!-- hidden -->", "< !-- hidden -->"},
		{"/approve", "approve"},
		{"text\n  /merge now\n> /lgtm", "text\n  merge now\n> lgtm"},
		{"a/b/c and 1 / 2", "a/b/c and 1 / 2"},
		{"```suggestion\nrm -rf\n```", "```\nrm -rf\n```"},
		{"~~~suggestion\nx\n~~~", "```\nx\n```"},
		{"```go\nopen", "open"},
		{"<sub>nofx fp1.abcdefghijkl</sub>", "< sub>nofx fp1 abcdefghijkl< /sub>"},
		{"nofx fp1&#46;abcdefghijkl", "nofx fp1 abcdefghijkl"},
		{"a\u202eb\u200bc\x07", "abc"},
		{"the key c4n4ry-7f3a9b2c leaks", "the key [redacted] leaks"},
		{"the key c4n\u200b4ry-7f3a9b2c leaks", "the key [redacted] leaks"},
		{"bad \xff", "bad \ufffd"},
	} {
		if got := inert(test.text, maxBody, redact); got != test.want {
			t.Errorf("inert(%q) = %q, want %q", test.text, got, test.want)
		}
	}
	if got := inert(strings.Repeat("ä", 2000), maxBody, redact); utf8.RuneCountInString(got) != maxBody {
		t.Errorf("inert of 2000 characters has %d, want %d", utf8.RuneCountInString(got), maxBody)
	}
}

// active are the forms of text that a forge does something with.
var active = []*regexp.Regexp{
	regexp.MustCompile(`<[a-zA-Z/!?]`), regexp.MustCompile(`@[a-zA-Z0-9_{]`), regexp.MustCompile(`\]\(`), regexp.MustCompile(`[a-z]://`),
	regexp.MustCompile(`(?m)^[ \t>*+-]*/\w`), regexp.MustCompile("```[a-z]"), regexp.MustCompile(`(?i)fp1\.`), regexp.MustCompile(`#\d`),
}

// FuzzInert: nothing that does more than be read is left, not even after a reader undoes
// the escapes of HTML, and doing it again changes nothing.
func FuzzInert(f *testing.F) {
	for _, s := range []string{"[a](b)", "[[a](b)](c)", "<a", "&lt;a", "@a", "!!1", "```suggestion", "https://https://x", "fp1&#46;", "fp1\n.", "//a", "<\u200ba", "&am\u200bp;lt;", "\r/a", "![[]()](x)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := inert(text, maxBody, telemetry.NewRedactor().String)
		for _, form := range active {
			if form.MatchString(got) || form.MatchString(html.UnescapeString(got)) {
				t.Errorf("inert(%q) = %q, which has %s", text, got, form)
			}
		}
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > maxBody || strings.ContainsFunc(strings.ReplaceAll(got, "\n", ""), invisible) {
			t.Errorf("inert(%q) = %q, which is no plain text", text, got)
		}
		if strings.Count(got, "```")%2 != 0 {
			t.Errorf("inert(%q) = %q, in which code does not end", text, got)
		}
	})
}
