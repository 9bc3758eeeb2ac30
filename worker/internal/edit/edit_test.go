package edit_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/edit"
)

// workspace has files, and links that lead around in it and out of it.
func workspace(t *testing.T) (dir string, root *os.Root) {
	t.Helper()
	dir = t.TempDir()
	outside := t.TempDir()
	for name, text := range map[string]string{
		"a.go": "package a\n\nvar x = 1\nvar y = 1\n", "sub/b.go": "package b\n", "run.sh": "#!/bin/sh\n", "logo.png": "\x89PNG\x00\x00", "latin.txt": "caf\xe9",
		"nofx.json": "{}", ".git/config": "[core]", "sub/.git/config": "[core]", ".nofx/x": "x", "big.txt": strings.Repeat("x", edit.MaxFileBytes+1), "secret.env": "KEY=hunter2\nA=b\n",
		"overlap": "aaa",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("OUTSIDE"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"out": outside, "secret.go": filepath.Join(outside, "secret"), "in": "sub", "self.go": "a.go"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func redact(s string) string { return strings.ReplaceAll(s, "hunter2", "[redacted]") }

func TestCollect(t *testing.T) {
	t.Parallel()
	_, root := workspace(t)
	c, err := edit.Collect(t.Context(), root, []string{"**/*.go", "*.env", "logo.png", "latin.txt", ".git/**", "out/**", "*/.git/*"}, redact)
	if err != nil {
		t.Fatal(err)
	}
	want := edit.Collection{
		Shown: []edit.Source{
			{Path: "a.go", Text: "package a\n\nvar x = 1\nvar y = 1\n"}, {Path: "secret.env", Text: "KEY=[redacted]\nA=b\n", Masked: true}, {Path: "sub/b.go", Text: "package b\n"},
		},
		Skipped: []string{"latin.txt", "logo.png"},
		Others:  []string{"big.txt", "nofx.json", "overlap", "run.sh"},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("Collect (-want +got):\n%s", diff)
	}
	if _, err := edit.Collect(t.Context(), root, []string{"**"}, redact); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "big.txt") {
		t.Errorf("Collect(all) = %v, want invalid with the file that is too large", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"summary":"s","files":[{"path":"a","action":"write","content":"x","edits":null}]}`:                          "",
		`{"summary":"s","files":[{"path":"a","action":"edit","content":null,"edits":[{"search":"x","replace":""}]}]}`: "",
		`{"summary":"s","files":[{"path":"a","action":"delete","content":null,"edits":null}]}`:                        "",
		`{"summary":"s","files":[{"path":"a","action":"delete","content":null,"edits":[]}]}`:                          "",
		`{"summary":"s","files":[]}`: "changes nothing",
		`{"summary":"s","files":[{"path":"a","action":"write","content":null,"edits":null}]}`:             "files/0",
		`{"summary":"s","files":[{"path":"a","action":"edit","content":null,"edits":[]}]}`:                "files/0",
		`{"summary":"s","files":[{"path":"a","action":"delete","content":"x","edits":null}]}`:             "files/0",
		`{"summary":"s","files":[{"path":"a","action":"run","content":"x","edits":null}]}`:                "/files/0/action",
		`{"summary":"s","files":[{"path":"a","action":"write","content":"x","edits":null,"mode":"755"}]}`: "additional",
		`{"summary":"s"}`: "files",
		`{"summary":"` + strings.Repeat("s", 2001) + `","files":[{"path":"a","action":"delete","content":null,"edits":null}]}`: "summary",
		"I have written the file for you.": "JSON",
	} {
		_, err := edit.Parse(text)
		var invalid *edit.Invalid
		if (err == nil) != (want == "") || err != nil && (!errors.As(err, &invalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("Parse(%.200s) = %v, want %q", text, err, want)
		}
	}
}

func change(path, search, replace string) edit.File {
	return edit.File{Path: path, Action: edit.Edit, Edits: []edit.Replacement{{Search: search, Replace: replace}}}
}

func write(path, text string) edit.File {
	return edit.File{Path: path, Action: edit.Write, Content: &text}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	_, root := workspace(t)
	shown := []edit.Source{{Path: "a.go"}, {Path: "secret.env", Masked: true}}
	for want, files := range map[string][]edit.File{
		"absolute":                    {write("/etc/passwd", "x")},
		"..":                          {write("../x", "x")},
		".. element":                  {write("sub/../../x", "x")},
		"reserved element .nofx":      {write(".nofx/review.yaml", "x")},
		"element .git":                {write(".git/hooks/pre-commit", "x")},
		"has the element .git":        {write("sub/.GIT/config", "x")},
		"what the gates run":          {write("nofx.json", "{}")},
		`"out" is no folder`:          {write("out/x", "x")},
		`"in" is no folder`:           {write("in/x", "x")},
		`"a.go" is no folder`:         {write("a.go/x", "x")},
		"is no regular file":          {write("sub", "x")},
		"no regular file":             {change("self.go", "package", "x")},
		"there twice":                 {write("n", "x"), write("n", "y")},
		"is one of the files too":     {write("n", "x"), write("n/m", "y")},
		"was not shown":               {write("run.sh", "x")},
		"secrets masked":              {write("secret.env", "KEY=[redacted]\n")},
		"no such file":                {change("none", "a", "b")},
		"there is no such file":       {{Path: "none", Action: edit.Delete}},
		"not in the file":             {change("a.go", "var z", "x")},
		"more than once":              {change("a.go", "= 1", "= 2")},
		"in the file more than once":  {change("overlap", "aa", "b")},
		"search is empty":             {change("a.go", "", "b")},
		"is no text":                  {change("logo.png", "PNG", "GIF")},
		"larger than 1048576 bytes":   {change("big.txt", "y", "b")},
		"at most 1048576":             {write("n", strings.Repeat("x", edit.MaxFileBytes+1))},
		"more than 1048576 bytes":     {change("a.go", "package a", strings.Repeat("x", edit.MaxFileBytes))},
		"its text contains a NUL":     {write("n", "a\x00")},
		"edits/1: the search text is": {{Path: "a.go", Action: edit.Edit, Edits: []edit.Replacement{{Search: "package a", Replace: "package b"}, {Search: "package a", Replace: "c"}}}},
	} {
		_, err := edit.Prepare(root, edit.Answer{Files: append([]edit.File{write("fine", "x")}, files...)}, shown)
		var invalid *edit.Invalid
		if !errors.As(err, &invalid) || len(invalid.Problems) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("Prepare(%+v) = %v, want one problem that says %q", files, err, want)
		}
	}
	var all []edit.File
	for range 50 {
		all = append(all, write("../x", ""))
	}
	_, err := edit.Prepare(root, edit.Answer{Files: all}, nil)
	if invalid, ok := errors.AsType[*edit.Invalid](err); !ok || len(invalid.Problems) != 20 {
		t.Errorf("Prepare(50 mistakes) = %v, want the first 20", err)
	}
}

// tree returns what is in a folder: modes and texts by path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		rel, _ := filepath.Rel(dir, file)
		all[rel] = info.Mode().String() + " " + string(text[:min(len(text), 100)])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestApply(t *testing.T) {
	t.Parallel()
	dir, root := workspace(t)
	want := tree(t, dir)
	a := edit.Answer{Files: []edit.File{
		{Path: "a.go", Action: edit.Edit, Edits: []edit.Replacement{{Search: "x = 1", Replace: "x = 2"}, {Search: "x = 2\n", Replace: "x = 3\n"}}},
		change("run.sh", "#!/bin/sh", "#!/bin/bash"), write("new/deep/c.go", "package c\n"), {Path: "sub/b.go", Action: edit.Delete}, write("sub/c.go", ""),
		change("secret.env", "A=b", "A=c"),
	}}
	changes, err := edit.Prepare(root, a, nil)
	if err == nil {
		err = edit.Apply(root, changes)
	}
	if err != nil {
		t.Fatal(err)
	}
	want["a.go"], want["run.sh"], want["new/deep/c.go"], want["sub/c.go"] = "-rw-r--r-- package a\n\nvar x = 3\nvar y = 1\n", "-rwxr-xr-x #!/bin/bash\n", "-rw-r--r-- package c\n", "-rw-r--r-- "
	want["secret.env"] = "-rw-r--r-- KEY=hunter2\nA=c\n"
	delete(want, "sub/b.go")
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("workspace (-want +got):\n%s", diff)
	}
}

// Edits find their lines whatever ends them, and leave a file with the line ends that
// it has, and with a last line that ends as it did.
func TestEditsKeepLineEnds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, search, replace, want string }{
		"CRLF":                     {"a\r\nb\r\nc\r\n", "a\nb\n", "A\nB\n", "A\r\nB\r\nc\r\n"},
		"CRLF, within a line":      {"a\r\nb\r\n", "b", "b1\nb2", "a\r\nb1\r\nb2\r\n"},
		"CRLF, a line goes":        {"a\r\nb\r\nc\r\n", "b\n", "", "a\r\nc\r\n"},
		"CRLF, lines come":         {"a\r\nc\r\n", "a\n", "a\nb\n", "a\r\nb\r\nc\r\n"},
		"CRLF, without last one":   {"a\r\nb", "a\nb\n", "A\nB\n", "A\r\nB"},
		"CRLF, from a line's end":  {"a\r\nb\r\n", "\nb", "\nB", "a\r\nB\r\n"},
		"CRLF, to a line's end":    {"a\r\nb\r\n", "a", "A", "A\r\nb\r\n"},
		"CRLF, asked for as such":  {"a\r\nb\r\n", "a\r\nb\r\n", "A\r\nB\r\n", "A\r\nB\r\n"},
		"CRLF, to be changed":      {"a\r\nb\r\n", "a\r\n", "a\n", "a\nb\r\n"},
		"CR alone":                 {"a\rb\r\nc\r\n", "b\n", "B\n", "a\rB\r\nc\r\n"},
		"LF, asked for with CRLF":  {"a\nb\nc\n", "a\r\nb\r\n", "A\r\nB\r\n", "A\nB\nc\n"},
		"LF, a line of CRLF":       {"a\nb\n", "b", "b1\r\nb2", "a\nb1\nb2\n"},
		"LF, without last one":     {"a\nb", "b\n", "B\n", "a\nB"},
		"LF, last line goes":       {"a\nb", "b\n", "", "a\n"},
		"LF, after the last line":  {"a\nb", "b\n", "b\nc\n", "a\nb\nc"},
		"LF, within the last line": {"a\nb", "b", "B\n", "a\nB\n"},
		"no line end":              {"a", "a\n", "x\ny\n", "x\ny"},
		"no line end, CRLF comes":  {"a", "a", "x\r\ny", "x\r\ny"},
		"mixed, lines of CRLF":     {"a\nb\nc\r\nd\r\n", "c\nd\n", "C\nD\n", "a\nb\nC\r\nD\r\n"},
		"mixed, lines of LF":       {"a\r\nb\r\nc\nd\n", "c\nd\n", "C\nD\n", "a\r\nb\r\nC\nD\n"},
		"mixed, others stay":       {"a\r\nb\nc\r\n", "b", "B", "a\r\nB\nc\r\n"},
		"twice by other ends":      {"a\r\nb\r\na\nb\n", "a\nb\n", "x", ""},
		"twice by the last line":   {"b\nb", "b\n", "x", ""},
		"twice by overlap":         {"\r\n\r\n\r\n", "\n\n", "x", ""},
		"an empty file":            {"", "\n", "x", ""},
		"CRLF that is not there":   {"a\nb\n", "a\r\nc\r\n", "x", ""},
		"white space counts":       {"a \r\nb\r\n", "a\nb\n", "x", ""},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "f")
		if err := os.WriteFile(file, []byte(tt.text), 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		changes, err := edit.Prepare(root, edit.Answer{Files: []edit.File{change("f", tt.search, tt.replace)}}, nil)
		if _, refused := errors.AsType[*edit.Invalid](err); refused && tt.want == "" {
			continue
		}
		if err == nil {
			err = edit.Apply(root, changes)
		}
		if err != nil || tt.want == "" {
			t.Errorf("%s: edit of %q = %v, want %q", name, tt.text, err, tt.want)
			continue
		}
		if diff := cmp.Diff(map[string]string{"f": "-rwxr-xr-x " + tt.want}, tree(t, dir)); diff != "" {
			t.Errorf("%s: %q edited (-want +got):\n%s", name, tt.text, diff)
		}
	}
}

// A change that fails, at whatever place, leaves all files as they were.
func TestApplyAllOrNothing(t *testing.T) {
	t.Parallel()
	dir, root := workspace(t)
	before := tree(t, dir)
	good, err := edit.Prepare(root, edit.Answer{Files: []edit.File{
		change("a.go", "x = 1", "x = 2"), write("new.go", "package n\n"), {Path: "sub/b.go", Action: edit.Delete}, change("run.sh", "sh", "bash"),
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]edit.Change{
		"before any move":     {Path: "a.go/below", Content: []byte("x")},
		"in the midst of all": {Path: "."}, // cannot be moved away
	} {
		for at := range len(good) + 1 {
			changes := slices.Insert(slices.Clone(good), at, bad)
			if err := edit.Apply(root, changes); err == nil {
				t.Fatalf("Apply(change %d fails %s) = nil, want an error", at, name)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("after change %d failed %s (-before +after):\n%s", at, name, diff)
			}
		}
	}
}
