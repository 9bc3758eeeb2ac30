package reviewer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
)

// repository is a git repository of a test.
type repository struct {
	t   testing.TB
	dir string
}

func newRepository(t testing.TB) repository {
	r := repository{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

// git returns the output of a git command.
func (r repository) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always", "-c", "core.autocrlf=false"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		r.t.Fatalf("git %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

// write writes a file, or removes it for "-".
func (r repository) write(path, text string) {
	r.t.Helper()
	full := filepath.Join(r.dir, path)
	err := os.MkdirAll(filepath.Dir(full), 0o755)
	if err == nil && text == "-" {
		err = os.Remove(full)
	} else if err == nil {
		err = os.WriteFile(full, []byte(text), 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// commit commits all there is and returns the commit.
func (r repository) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "c")
	return strings.TrimSpace(r.git("rev-parse", "HEAD"))
}

func numbered(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

func TestParseDiff(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	sub := newRepository(t)
	sub.write("s", "s\n")
	sub.commit()
	r.write("edited.go", numbered(1, 40))
	r.write("gone.txt", "a\nb\n")
	r.write("old name.txt", numbered(1, 20))
	r.write("source.txt", numbered(1, 30))
	r.write("run.sh", "#!/bin/sh\n")
	r.write("crlf.txt", "a\r\nb\r\n")
	r.write("open.txt", "a\nb")
	r.write("dir/grüße \"x\"\t.txt", "a\n")
	r.write("picture", "a\x00b")
	r.git("submodule", "add", "-q", sub.dir, "module")
	base := r.commit()
	sub.write("s", "t\n")
	newer := sub.commit()
	r.write("edited.go", "first\n"+numbered(1, 19)+"changed\n"+numbered(21, 40))
	r.write("gone.txt", "-")
	r.write("old name.txt", "-")
	r.write("new name.txt", numbered(1, 19)+"twenty\n")
	r.write("source.txt", numbered(1, 30)+"more\n")
	r.write("copy.txt", numbered(1, 30)+"other\n")
	if err := os.Chmod(filepath.Join(r.dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("crlf.txt", "a\r\nc\r\n")
	r.write("open.txt", "a\nc")
	r.write("dir/grüße \"x\"\t.txt", "a\nb\n")
	r.write("picture", "a\x00c")
	r.write("added with spaces.txt", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n")
	r.write("empty", "")
	r.git("-C", "module", "fetch", "-q")
	r.git("-C", "module", "checkout", "-q", newer)
	head := r.commit()

	want := []string{
		"added added with spaces.txt +3 -0 modes  100644 hunks 1",
		"copied copy.txt from source.txt +1 -0 modes 100644  hunks 1",
		"modified crlf.txt +1 -1 modes 100644  hunks 1",
		"modified dir/grüße \"x\"\t.txt +1 -0 modes 100644  hunks 1",
		"modified edited.go +2 -1 modes 100644  hunks 2",
		"added empty +0 -0 modes  100644 hunks 0",
		"deleted gone.txt +0 -2 modes 100644  hunks 1",
		"modified module submodule +1 -1 modes 160000  hunks 1",
		"renamed new name.txt from old name.txt +1 -1 modes 100644  hunks 1",
		"modified open.txt +1 -1 modes 100644  hunks 1",
		"modified picture binary +0 -0 modes 100644  hunks 0",
		"modified run.sh +0 -0 modes 100644 100755 hunks 0",
		"modified source.txt +1 -0 modes 100644  hunks 1",
	}
	for _, form := range [][]string{{}, {"--binary"}, {"-c", "core.quotePath=false"}, {"-c", "diff.mnemonicPrefix=true"}, {"--full-index"}} {
		t.Run(strings.Join(form, " "), func(t *testing.T) {
			config := []string{}
			if len(form) == 2 {
				config, form = form, nil
			}
			text := r.git(append(append(append(config, "diff"), form...), "-C", "--find-copies-harder", base, head)...)
			files, err := ParseDiff(text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range files {
				got = append(got, outline(f))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ParseDiff: want -, got +\n%s", diff)
			}
			if got, want := files[2].Hunks[0].Lines[1].Text, "b"; got != want {
				t.Errorf("a line that ends with CRLF = %q, want %q", got, want)
			}
		})
	}
}

// TestParseDiffOfOtherKinds: git shows a file that becomes something else, such as a symlink, as
// two changes of one path.
func TestParseDiffOfOtherKinds(t *testing.T) {
	t.Parallel()
	r, sub := newRepository(t), newRepository(t)
	sub.write("s", "s\n")
	sub.commit()
	link := func(path string) {
		t.Helper()
		r.write(path, "-")
		if err := os.Symlink("target", filepath.Join(r.dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"text", "empty", "picture", "module", "link"} {
		r.write(path, map[string]string{"text": "a\nb\n", "picture": "a\x00b", "module": "a\n"}[path])
	}
	link("link")
	base := r.commit()
	link("text")
	link("empty")
	link("picture")
	r.write("link", "-")
	r.write("link", "package link\n")
	r.git("rm", "-q", "module")
	r.git("submodule", "add", "-q", sub.dir, "module")
	head := r.commit()
	want := []string{
		"modified empty +1 -0 modes 100644 120000 hunks 1",
		"modified link +1 -1 modes 120000 100644 hunks 2",
		"modified module +1 -1 modes 100644 160000 hunks 2",
		"modified picture +1 -0 modes 100644 120000 hunks 1",
		"modified text +1 -2 modes 100644 120000 hunks 2",
	}
	text := r.git("diff", base, head, "--", ".", ":!.gitmodules")
	files, err := ParseDiff(text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, outline(f))
		for _, h := range f.Hunks {
			for _, l := range h.Lines {
				c := Comment{Path: f.Path}
				if c.Side, c.Line = l.Place(); newStrictForge(t, text).accept(c) != nil {
					t.Errorf("a forge refuses a comment at %s %s:%d", c.Path, c.Side, c.Line)
				}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseDiff: want -, got +\n%s", diff)
	}
}

// outline is a file of a diff in one line.
func outline(f File) string {
	s := fmt.Sprintf("%s %s", f.Change, f.Path)
	if f.OldPath != "" {
		s += " from " + f.OldPath
	}
	if f.Binary {
		s += " binary"
	}
	if f.Submodule {
		s += " submodule"
	}
	added, deleted := f.Changed()
	return fmt.Sprintf("%s +%d -%d modes %s %s hunks %d", s, added, deleted, f.OldMode, f.NewMode, len(f.Hunks))
}

const small = "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,2 +1,3 @@ func f()\n a\n-b\n+c\n+d\n"

func TestNumbered(t *testing.T) {
	t.Parallel()
	files, err := ParseDiff(small)
	if err != nil {
		t.Fatal(err)
	}
	got := Numbered(files[0].Hunks)
	want := "@@ -1,2 +1,3 @@ func f()\nR1  a\nL2 -b\nR2 +c\nR3 +d\n"
	if got != want {
		t.Errorf("Numbered = %q, want %q", got, want)
	}
	back, err := ReadNumbered(got)
	if diff := cmp.Diff(files[0].Hunks, back); err != nil || diff != "" {
		t.Errorf("ReadNumbered = %v, want what was written (-), got (+)\n%s", err, diff)
	}
	for text, want := range map[string]string{
		"":                               "line 1 is not the heading of a hunk",
		"R1 +x":                          "line 1 is not the heading of a hunk",
		"@@ -1,1 +1,1 @@\nR2 +x":         "line 2 is R2 and should be R1",
		"@@ -1,1 +1,1 @@\nL1 +x":         "line 2 is L1 and should be R1",
		"@@ -1,1 +1,1 @@\nR1 *x":         "line 2 has the mark '*'",
		"@@ -1,1 +1,1 @@\nnothing":       "line 2 has no side, number and mark",
		"@@ -1,1 +1,1 @@\nR1 +x\nRx  ":   "line 3 has no number after its side",
		"@@ -1,1 +1,1 @@\nR1 +x\n\nR2 +": "line 3 has no side, number and mark",
	} {
		if _, err := ReadNumbered(text); err == nil || err.Error() != want {
			t.Errorf("ReadNumbered(%q) = %v, want %s", text, err, want)
		}
	}
}

func TestParseDiffRefuses(t *testing.T) {
	t.Parallel()
	hunk := "--- a/x\n+++ b/x\n@@ -1,2 +1,3 @@\n a\n-b\n+c\n+d\n"
	gone := "diff --git a/x b/x\ndeleted file mode 100644\nindex 1..0\n--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
	link := strings.Replace(addition("x", "a"), "100644", "120000", 1)
	for _, test := range []struct{ name, text, want string }{
		{"prose", "hello\n", "it changes no file"},
		{"JSON", `{"diff": "x"}`, "it changes no file"},
		{"merge", "diff --cc x\nindex 1,2..3\n--- a/x\n+++ b/x\n@@@ -1,1 -1,1 +1,2 @@@\n", "line 1: this is the combined diff of a merge"},
		{"merge after a file", small + "diff --cc y\n", "line 10: this is the combined diff of a merge"},
		{"without prefixes", "diff --git src/y src/y\nindex 1..2\n--- src/y\n+++ src/y\n@@ -1 +1 @@\n-a\n+b\n", "line 1: its paths have no prefixes such as a/ and b/; make it with git diff --src-prefix=a/ --dst-prefix=b/"},
		{"UTF-16", "\xff\xfed\x00i\x00f\x00f\x00 \x00", "it is UTF-16; write it as UTF-8"},
		{"text between files", small + "secret\n", `line 10: "secret" is no part of a diff`},
		{"one side only", small + "Only in b: y\n", `line 10: "Only in b: y" is no part of a diff`},
		{"cut off", small[:len(small)-4], "line 5: the hunk that begins here has more lines than are there"},
		{"too many lines", small + "+e\n", `line 10: "+e" is no part of a diff`},
		{"bad heading", "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,z +1 @@\n", `line 4: "@@ -1,z +1 @@" is no heading of a hunk`},
		{"negative", "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,0 +-4,1 @@\n+a\n", "has the number -4"},
		{"huge", "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,0 +4294967296,1 @@\n+a\n", "has the number 4294967296"},
		{"line 0", "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,1 +0,1 @@\n-a\n+b\n", "begins at line 0"},
		{"hunks that overlap", small + "@@ -1,1 +1,1 @@\n-a\n+b\n", "hunk 2 of \"x\" begins before"},
		{"twice", small + small, `it changes "x" twice`},
		{"made and taken away", addition("x", "a") + gone, `it changes "x" twice`},
		{"taken away and made, and changed", gone + link + small, `it changes "x" twice`},
		{"taken away and made again", gone + addition("x", "a"), `it changes "x" twice`},
		{"taken away twice", gone + gone, `it changes "x" twice`},
		{"hunk alone", "@@ -1 +1 @@\n-a\n+b\n", "line 1: patch fragment without file header"},
		{"out of the repository", strings.ReplaceAll(hunk, "b/x", "b/../../x"), "leads out of the repository"},
		{"absolute", "diff --git a/x b//x\nnew file mode 100644\n--- /dev/null\n+++ \"b//etc\"\n@@ -0,0 +1 @@\n+a\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files, err := ParseDiff(test.text)
			if test.want == "" {
				for _, f := range files {
					if problem := badPath(f.Path); problem != "" {
						t.Errorf("ParseDiff has the path %q, which %s", f.Path, problem)
					}
				}
				return
			}
			if !errors.Is(err, fault.Invalid) || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("ParseDiff = %v, want an error with %q", err, test.want)
			}
		})
	}
	for _, text := range []string{"", "\n"} {
		if files, err := ParseDiff(text); err != nil || len(files) != 0 {
			t.Errorf("ParseDiff(%q) = %v, %v, want nothing", text, files, err)
		}
	}
}

func TestParseDiffOfManyFiles(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "diff --git a/f%d b/f%d\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/f%d\n@@ -0,0 +1 @@\n+x\n", i, i, i)
	}
	files, err := ParseDiff(strings.ReplaceAll(b.String(), "\n", "\r\n"))
	if err != nil || len(files) != 400 {
		t.Fatalf("ParseDiff = %d files, %v, want 400", len(files), err)
	}
	if _, err := ParseDiff(addition("a.txt", slices.Repeat([]string{""}, maxLines)...)); !errors.Is(err, fault.Invalid) {
		t.Errorf("ParseDiff of more than %d lines = %v, want fault.Invalid", maxLines, err)
	}
	mail := "From 1 Mon Sep 17\nSubject: x\n\n---\n x | 3 ++-\n\n" + small + "-- \n2.40.1\n\n"
	if files, err := ParseDiff(mail); err != nil || len(files) != 1 {
		t.Errorf("ParseDiff of a mail = %d files, %v, want 1", len(files), err)
	}
}

// FuzzParseDiff: whatever is read is in order, and is the same after it was numbered.
func FuzzParseDiff(f *testing.F) {
	f.Add(small)
	f.Add("--- x\n+++ x\n@@ -1 +1 @@\n-a\r\n+b\n\\ No newline at end of file\n")
	f.Add("diff --git \"a/\\303\\244 b\" \"b/\\303\\244 b\"\nold mode 100644\nnew mode 100755\n")
	f.Add("diff --git a/s b/s\nindex 1..2 160000\n--- a/s\n+++ b/s\n@@ -1 +1 @@\n-Subproject commit 1\n+Subproject commit 2\n")
	f.Add("diff --git a/a b/b\nsimilarity index 90%\nrename from a\nrename to b\n@@ -1,0 +2 @@ h\n+\xff\n@@ -9 +9,0 @@\n-z\n")
	f.Add("diff --git a/p b/p\nGIT binary patch\nliteral 1\nIcmZPo000310RR91\n\nliteral 1\nIcmZPo000310RR91\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		files, err := ParseDiff(text)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("ParseDiff = %v, want fault.Invalid", err)
			}
			return
		}
		for _, f := range files {
			if f.Path == "" {
				t.Fatal("a file has no path")
			}
			for _, h := range f.Hunks {
				was, now := h.OldStart, h.NewStart
				for _, l := range h.Lines {
					if l.Old != 0 && l.Old != was || l.New != 0 && l.New != now {
						t.Fatalf("%s: line %+v, want %d, %d", f.Path, l, was, now)
					}
					if l.Mark != Addition {
						was++
					}
					if l.Mark != Subtracted {
						now++
					}
				}
				if was != h.OldStart+h.OldLines || now != h.NewStart+h.NewLines {
					t.Fatalf("%s: a hunk ends at %d, %d and not as its heading says: %+v", f.Path, was, now, h)
				}
			}
			if len(f.Hunks) == 0 {
				continue
			}
			back, err := ReadNumbered(Numbered(f.Hunks))
			if diff := cmp.Diff(f.Hunks, back); err != nil || diff != "" {
				t.Fatalf("%s: ReadNumbered = %v\n%s", f.Path, err, diff)
			}
		}
	})
}
