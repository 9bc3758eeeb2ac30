package run_test

import (
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nofx.dev/shared/run"
)

func TestBadRef(t *testing.T) {
	t.Parallel()
	for _, ref := range []string{
		"main", "HEAD", "v1.0.0+build.5", "@scope/pkg@1.0.0", "fix/#12-x", "_dev", "größe", "x,y", "deadbeef", "refs/heads/v1", "+x", "a@b", "%", "tag", "a/-b", "x'\"$(id)", "機能/一",
	} {
		if got := run.BadRef(ref); got != "" {
			t.Errorf("BadRef(%q) = %q, want none", ref, got)
		}
	}
	for ref, says := range map[string]string{
		"": "is required", "-x": "begins with -", "--upload-pack=id": "begins with -", "a:b": `has ":"`, "a b": "has a space", "a\tb": "control character", "a\x7f": "control character",
		"a~1": `has "~"`, "a^": `has "^"`, "a?": `has "?"`, "a*": `has "*"`, "a[b": `has "["`, `a\b`: `has "\\"`, "a..b": `has ".."`, "a@{1}": `has "@{"`, "@": "is only @",
		"/a": "empty part", "a/": "empty part", "a//b": "empty part", ".a": "begins with .", "a/.b": "begins with .", "a.lock": "ends with .lock", "a.lock/b": "ends with .lock", "a.": "ends with .",
		"a\x00": "NUL", "a\xff": "UTF-8", strings.Repeat("ß", 256): "255 characters",
	} {
		if got := run.BadRef(ref); !strings.Contains(got, says) {
			t.Errorf("BadRef(%q) = %q, want %q", ref, got, says)
		}
	}
}

// What git takes for the name of a ref is one, but for a - in front, which would be
// an option.
func TestBadRefAgreesWithGit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SampledFrom([]string{"a", ".", "/", "@", "{", "}", "-", "+", ":", "~", "^", "?", "*", "[", "]", "\\", " ", "\t", "\x7f", ".lock", "é", "#", "$", "'"}), 1, 6).Draw(rt, "pieces")
		ref := strings.Join(pieces, "")
		want := !strings.HasPrefix(ref, "-") && exec.CommandContext(t.Context(), "git", "check-ref-format", "--allow-onelevel", ref).Run() == nil
		if got := run.BadRef(ref); (got == "") != want {
			rt.Errorf("BadRef(%q) = %q, but git takes it: %v", ref, got, want)
		}
	})
}
