package diff

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
)

// shape returns what a document says of its files, one a line.
func shape(doc *Document) string {
	var out strings.Builder
	for _, f := range doc.Files {
		fmt.Fprintf(&out, "%s %s %s", f.Status, f.Kind, f.Path)
		if f.Status == Renamed {
			fmt.Fprintf(&out, " from %s", f.From.Path)
		}
		if f.Lines != nil {
			fmt.Fprintf(&out, " +%d -%d", f.Lines.Added, f.Lines.Deleted)
		}
		if f.Truncated {
			out.WriteString(" truncated: " + f.Reason)
		}
		out.WriteString("\n")
	}
	return out.String()
}

func TestTrees(t *testing.T) {
	t.Parallel()
	link := func(text string) item { return item{tree.Symlink, text} }
	exec := func(content string) item { return item{tree.Executable, content} }
	empty := item{mode: tree.Directory}
	large := strings.Repeat("line\n", maxText/5+1)
	for name, c := range map[string]struct {
		from, to workspace
		want     string
	}{
		"nothing":               {filesOf(map[string]string{"a/b": "1"}), filesOf(map[string]string{"a/b": "1"}), ""},
		"added, deleted":        {workspace{"a": file("1\n")}, workspace{"b/c": file("2\n3\n")}, "deleted text a +0 -1\nadded text b/c +2 -0\n"},
		"modified":              {workspace{"a": file("1\n")}, workspace{"a": file("2\n")}, "modified text a +1 -1\n"},
		"modified with mode":    {workspace{"a": file("1\n")}, workspace{"a": exec("2\n")}, "modified text a +1 -1\n"},
		"mode":                  {workspace{"a": file("1\n")}, workspace{"a": exec("1\n")}, "mode text a\n"},
		"renamed":               {workspace{"a": file("1\n")}, workspace{"d/b": exec("1\n")}, "renamed text d/b from a\n"},
		"renamed, one of two":   {workspace{"x/a": file("1\n"), "y": file("1\n")}, workspace{"a": file("1\n")}, "renamed text a from x/a\ndeleted text y +0 -1\n"},
		"a copy is added":       {workspace{"a": file("1\n")}, workspace{"a": file("1\n"), "b": file("1\n")}, "added text b +1 -0\n"},
		"a file and a link":     {workspace{"a": file("t")}, workspace{"b": link("t")}, "deleted text a +0 -1\nadded symlink b +1 -0\n"},
		"link changed":          {workspace{"a": link("t")}, workspace{"a": link("u")}, "modified symlink a +1 -1\n"},
		"file to link":          {workspace{"a": file("1\n")}, workspace{"a": link("t")}, "type text a +1 -1\n"},
		"file to directory":     {workspace{"a": file("1\n")}, workspace{"a/b": file("2\n")}, "deleted text a +0 -1\nadded text a/b +1 -0\n"},
		"directory to file":     {workspace{"a/b": file("1\n")}, workspace{"a": file("2\n")}, "added text a +1 -0\ndeleted text a/b +0 -1\n"},
		"empty directory":       {workspace{}, workspace{"a": empty}, "added directory a\n"},
		"emptied":               {workspace{"a/b": file("1\n")}, workspace{"a": empty}, "added directory a\ndeleted text a/b +0 -1\n"},
		"filled":                {workspace{"a": empty}, workspace{"a/b": file("1\n")}, "added text a/b +1 -0\n"},
		"empty directory gone":  {workspace{"a": empty, "b": empty}, workspace{"b": empty}, "deleted directory a\n"},
		"directory to its file": {workspace{"a": empty}, workspace{"a": file("1\n")}, "type text a +1 -0\n"},
		"binary":                {workspace{"a": file("1\x00\n")}, workspace{"a": file("2\n")}, "modified binary a\n"},
		"a late zero is text":   {workspace{}, workspace{"a": file(strings.Repeat("x", 8000) + "\x00")}, "added text a +1 -0\n"},
		"not UTF-8":             {workspace{"a": file("\xff\n")}, workspace{"a": file("\xfe\n")}, "modified text a +1 -1 truncated: not UTF-8\n"},
		"empty file":            {workspace{}, workspace{"a": file("")}, "added text a +0 -0\n"},
		"large":                 {workspace{"a": file(large)}, workspace{"a": file("1\n")}, "modified large a truncated: larger than 1048576 bytes\n"},
		"many lines":            {workspace{}, workspace{"a": file(strings.Repeat("\n", maxLines+1))}, "added text a truncated: more than 20000 lines\n"},
	} {
		doc := compute(t, c.from, c.to, Options{})
		if got := shape(doc); got != c.want {
			t.Errorf("Compute(%s) has\n%swant\n%s", name, got, c.want)
		}
		if got := strings.Count(c.want, "\n") - strings.Count(c.want, "directory"); doc.Summary.Files.Total() != got {
			t.Errorf("Compute(%s) counts %+v, want %d", name, doc.Summary.Files, got)
		}
	}
}

func TestPath(t *testing.T) {
	t.Parallel()
	from := filesOf(map[string]string{"a/x": "1", "ab": "1", "b/c/d": "1", "b/cc": "1"})
	to := filesOf(map[string]string{"a/x": "2", "ab": "2", "b/c/d": "2", "b/cc": "2", "b/moved": "3"})
	for filter, want := range map[string]string{
		"": "a/x ab b/c/d b/cc b/moved", "a": "a/x", "a/": "a/x", "b/c": "b/c/d", "b/c/d": "b/c/d", "ab": "ab", "none": "", "a/x/y": "",
	} {
		var got []string
		for _, f := range compute(t, from, to, Options{Path: filter}).Files {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("Compute(path %q) has %q, want %q", filter, got, want)
		}
	}
}

// Directories that are equal are not read.
func TestCostFollowsTheChange(t *testing.T) {
	t.Parallel()
	from, to := workspace{}, workspace{}
	for i := range 100 {
		for j := range 10 {
			p := fmt.Sprintf("d%d/e%d/f", i, j)
			from[p], to[p] = file(p), file(p)
		}
	}
	to["d7/e3/f"] = file("changed")
	m := newMemory()
	f, o := Checkpoint{ID: "ckpt_1", Tree: m.add(from)}, Checkpoint{ID: "ckpt_2", Tree: m.add(to)}
	if _, err := Compute(t.Context(), m.source(), f, o, Options{}); err != nil || m.read != 6 {
		t.Errorf("Compute(one of 1000 files) = %v and read %d directories, want 6", err, m.read)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	to, all := workspace{}, map[string]bool{}
	for i := range maxFiles + 10 {
		to[fmt.Sprintf("f%d", i)] = file("1\n")
	}
	m := newMemory()
	c := Checkpoint{ID: "ckpt_2", Tree: m.add(to), State: []byte(`{"vars":{"a":1}}`)}
	for at, want := range []int{maxFiles, 10} {
		doc, err := Compute(t.Context(), m.source(), Checkpoint{}, c, Options{From: at * maxFiles})
		if err != nil || len(doc.Files) != want || doc.Truncated != (at == 0) || (doc.Next != nil) != (at == 0) || doc.Summary.Lines.Added != want || doc.Summary.Files.Added != len(to) {
			t.Fatalf("Compute(page %d) = %d files, %+v, truncated %t, %v, want %d files", at, len(doc.Files), doc.Summary, doc.Truncated, err, want)
		}
		if doc.Next != nil && *doc.Next != strconv.Itoa(maxFiles) || (len(doc.State) > 0) != (at == 0) {
			t.Errorf("Compute(page %d): next %q with %d operations, want them and a cursor on the first page", at, *doc.Next, len(doc.State))
		}
		for _, f := range doc.Files {
			all[f.Path] = true
		}
	}
	if len(all) != len(to) {
		t.Errorf("the pages have %d files, want %d", len(all), len(to))
	}
	for _, from := range []int{-1, len(to), len(to) + 1} {
		if _, err := Compute(t.Context(), m.source(), Checkpoint{}, c, Options{From: from}); !errors.Is(err, fault.Invalid) {
			t.Errorf("Compute(from %d) = %v, want Invalid", from, err)
		}
	}
}

// A document ends before it is larger than its limit.
func TestSizeOfDocuments(t *testing.T) {
	t.Parallel()
	to := workspace{}
	for i := range 40 {
		to[fmt.Sprint(i)] = file(fmt.Sprint(i) + strings.Repeat("x", 1000))
	}
	const most = 32_000
	doc := compute(t, workspace{}, to, Options{document: most})
	b, err := doc.Encode()
	if err != nil || !doc.Truncated || len(b) > most || len(b) < most-3000 {
		t.Errorf("Compute(40 KiB) = %d bytes, truncated %t, %v, want just under %d", len(b), doc.Truncated, err, most)
	}
	if doc := compute(t, workspace{}, to, Options{document: 1}); len(doc.Files) != 1 {
		t.Errorf("Compute(a file over the limit) has %d files, want the one, so that the next page is another", len(doc.Files))
	}
}

func TestPurgedAndLost(t *testing.T) {
	t.Parallel()
	m := newMemory()
	f, o := Checkpoint{ID: "ckpt_1", Tree: m.add(workspace{"a": file("1")})}, Checkpoint{ID: "ckpt_2", Tree: m.add(workspace{"a": file("2")})}
	delete(m.files, tree.Sum([]byte("2")))
	doc, err := Compute(t.Context(), m.source(), f, o, Options{})
	if err != nil || shape(doc) != "modified redacted a\n" {
		t.Errorf("Compute(purged) = %s, %v, want it redacted", shape(doc), err)
	}
	lost := errors.New("lost")
	src := m.source()
	src.Files = func(context.Context, []tree.Digest) (map[tree.Digest][]byte, error) { return nil, lost }
	if _, err := Compute(t.Context(), src, f, o, Options{}); !errors.Is(err, lost) {
		t.Errorf("Compute(lost file) = %v, want the source's error", err)
	}
	delete(m.nodes, o.Tree)
	if _, err := Compute(t.Context(), m.source(), f, o, Options{}); err == nil {
		t.Error("Compute(lost directory) = nil, want the source's error")
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	const secret = "hunter2hunter2"
	key := "-----BEGIN RSA PRIVATE KEY-----\n" + strings.Repeat("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg==\n", 4) + "-----END RSA PRIVATE KEY-----\n"
	far := strings.Repeat("line\n", 20)
	m := newMemory()
	from := Checkpoint{ID: "ckpt_1", State: []byte(`{"steps":{},"vars":{"t":"x","password":"q1w2e3r4"}}`), Tree: m.add(workspace{"far": file(secret + "\n" + far)})}
	to := Checkpoint{ID: "ckpt_2", State: []byte(`{"steps":{},"vars":{"t":"` + secret + `","password":"q1w2e3r5"}}`), Tree: m.add(workspace{
		secret: file("a"), "env": file("T=" + secret + "\n"), "key": file("k\n" + key), "link": {tree.Symlink, secret}, "far": file(secret + "\n" + far + "more\n"),
	})}
	doc, err := Compute(t.Context(), m.source(), from, to, Options{Redactor: telemetry.NewRedactor(secret)})
	if err != nil {
		t.Fatal(err)
	}
	b, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(b), string(doc.Patch())} {
		for _, s := range []string{secret, "QUJDREVG", "q1w2e3r"} {
			if strings.Contains(text, s) {
				t.Errorf("the diff has %q:\n%s", s, text)
			}
		}
	}
	masked := map[string]bool{}
	for _, f := range doc.Files {
		masked[f.Path] = f.Masked
	}
	want := map[string]bool{"[redacted]": true, "env": true, "key": true, "link": true, "far": false}
	if d := cmp.Diff(want, masked); d != "" {
		t.Errorf("masked files (-want +got):\n%s", d)
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	m := newMemory()
	from := Checkpoint{ID: "ckpt_1", Digest: "sha256:1", State: []byte(`{"steps":{"unit":{"state":"running","attempt":1}},"vars":{"retries":3}}`), Tree: m.add(workspace{"a": file("1\n2\n"), "b": file("1\n")})}
	to := Checkpoint{ID: "ckpt_2", Digest: "sha256:2", State: []byte(`{"steps":{"unit":{"state":"failed","attempt":1,"outputs":{"verdict":"failed"}}},"vars":{"retries":5,"url":"x"}}`), Tree: m.add(workspace{"a": file("1\n3\n4\n"), "c": file("1\n")})}
	doc, err := Compute(t.Context(), m.source(), from, to, Options{Gates: map[string]string{"unit": "tests"}})
	if err != nil {
		t.Fatal(err)
	}
	want := Summary{Files: Counts{Modified: 1, Renamed: 1}, Lines: Lines{2, 1}, Bytes: 8, StateOps: 4, Text: "2 files changed; vars.retries 3 to 5; vars.url added; unit failed"}
	if d := cmp.Diff(want, doc.Summary); d != "" {
		t.Errorf("summary (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Step{{"unit", "running", "failed"}}, doc.Steps); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]Gate{{"tests", "unit", "failed"}}, doc.Gates); d != "" {
		t.Errorf("gates (-want +got):\n%s", d)
	}
	same, err := Compute(t.Context(), m.source(), from, from, Options{})
	if err != nil || same.Summary.Text != "nothing changed" {
		t.Errorf("Compute(the same) = %+v, %v, want nothing changed", same, err)
	}
}

// generator makes workspaces and what may have become of them.
type generator struct{ *rand.Rand }

// names are odd ones, and few enough that a file meets a directory.
var names = []string{"a", "b", "dir", "with space", "quo\"te", "back\\slash", "tab\tin", "new\nline", "é", "-dash", "b.txt", "a b", "'", "#", "\x01", "\u2028", "dev", "null"}

func (g generator) path() string {
	p := names[g.IntN(len(names))]
	for range g.IntN(3) {
		p = path.Join(p, names[g.IntN(len(names))])
	}
	return p
}

func (g generator) content() string {
	var b strings.Builder
	for range g.IntN(12) {
		fmt.Fprintf(&b, "%s %d\n", names[g.IntN(len(names))], g.IntN(4))
	}
	if g.IntN(4) == 0 {
		b.WriteString([]string{"no end", "\r", "--- a/x", "\xff", "@@ -1 +1 @@"}[g.IntN(5)])
	}
	return b.String()
}

func (g generator) item() item {
	switch n := g.IntN(10); n {
	case 0:
		return item{tree.Symlink, names[g.IntN(5)]}
	case 1:
		return item{tree.Executable, g.content()}
	}
	return file(g.content())
}

// put puts an item where a file, or nothing, is, and none below a file.
func (g generator) put(w workspace, p string, it item) {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if _, ok := w[dir]; ok {
			return
		}
	}
	for other := range w {
		if strings.HasPrefix(other, p+"/") {
			delete(w, other)
		}
	}
	w[p] = it
}

func (g generator) workspace() workspace {
	w := workspace{}
	for range g.IntN(12) {
		g.put(w, g.path(), g.item())
	}
	return w
}

func (g generator) changed(w workspace) workspace {
	to := maps.Clone(w)
	for _, p := range slices.Sorted(maps.Keys(w)) {
		it, ok := to[p]
		if !ok {
			continue // something took its place
		}
		switch g.IntN(8) {
		case 0:
			delete(to, p)
		case 1:
			delete(to, p)
			g.put(to, g.path(), it)
		case 2:
			g.put(to, p, g.item())
		case 3:
			if it.mode == tree.File {
				lines := strings.SplitAfter(it.content, "\n")
				lines[g.IntN(len(lines))] = "changed\n"
				to[p] = file(strings.Join(lines, ""))
			}
		case 4:
			if it.mode == tree.File {
				to[p] = item{tree.Executable, it.content}
			}
		}
	}
	for range g.IntN(4) {
		g.put(to, g.path(), g.item())
	}
	return to
}

// cases returns how many random trees are compared, and pairs of commits.
func cases(otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv("NOFX_TEST_DIFFS")); err == nil {
		return n
	}
	return otherwise
}

// What a diff says, done to the one workspace, makes the other.
func TestTreesRoundTrip(t *testing.T) {
	t.Parallel()
	g := generator{rand.New(rand.NewPCG(1, 2))}
	for range max(cases(0), 500) {
		from := g.workspace()
		to := g.changed(from)
		if g.IntN(3) == 0 {
			g.put(to, g.path(), item{mode: tree.Directory})
		}
		all := map[string]string{}
		for _, it := range to {
			d := tree.Sum([]byte(it.content))
			all[hex.EncodeToString(d[:])] = it.content
		}
		doc := compute(t, from, to, Options{})
		if got := applied(from, doc, all); !maps.Equal(got, to) {
			t.Fatalf("the diff\n%sof %+v\nmakes %+v,\nwant %+v", shape(doc), from, got, to)
		}
	}
}

// git is a repository for a test.
type git struct {
	t   *testing.T
	env []string
	dir string
}

func newGit(t *testing.T, env ...string) *git {
	t.Helper()
	g := &git{t: t, dir: t.TempDir(), env: append(os.Environ(), append([]string{"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1"}, env...)...)}
	return g
}

func (g *git) try(input []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(g.t.Context(), "git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = g.dir, g.env, bytes.NewReader(input)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, problems.String())
	}
	return out.Bytes(), nil
}

func (g *git) run(input []byte, args ...string) []byte {
	g.t.Helper()
	out, err := g.try(input, args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// write makes the folder hold a workspace.
func (g *git) write(w workspace) {
	g.t.Helper()
	for p, it := range w {
		at := filepath.Join(g.dir, p)
		err := os.MkdirAll(filepath.Dir(at), 0o700)
		switch {
		case err != nil:
		case it.mode == tree.Symlink:
			err = os.Symlink(it.content, at)
		case it.mode == tree.Executable:
			err = os.WriteFile(at, []byte(it.content), 0o755)
		default:
			err = os.WriteFile(at, []byte(it.content), 0o644)
		}
		if err != nil {
			g.t.Fatal(err)
		}
	}
}

// read returns what the folder holds.
func (g *git) read() workspace {
	g.t.Helper()
	w := workspace{}
	err := filepath.WalkDir(g.dir, func(at string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		p, err := filepath.Rel(g.dir, at)
		if err != nil {
			return err
		}
		if e.Type()&os.ModeSymlink != 0 {
			text, err := os.Readlink(at)
			w[p] = item{tree.Symlink, text}
			return err
		}
		content, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := tree.File
		if info.Mode()&0o100 != 0 {
			mode = tree.Executable
		}
		w[p] = item{mode, string(content)}
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return w
}

// Patches of random trees, with odd names and every kind of change, are taken by git apply
// and make the other tree.
func TestGitAppliesPatches(t *testing.T) {
	t.Parallel()
	random := generator{rand.New(rand.NewPCG(3, 4))}
	for i := range cases(40) {
		from := random.workspace()
		to := random.changed(from)
		doc := compute(t, from, to, Options{})
		patch := doc.Patch()
		if bytes.Contains(patch, []byte("# left out")) {
			t.Fatalf("case %d: the patch leaves something out:\n%s", i, patch)
		}
		g := newGit(t)
		g.write(from)
		if len(doc.Files) > 0 {
			if _, err := g.try(patch, "apply", "--whitespace=nowarn", "-"); err != nil {
				t.Fatalf("case %d: %v\n%s\nfrom %+v\nto %+v", i, err, patch, from, to)
			}
		}
		if got := g.read(); !maps.Equal(got, to) {
			t.Fatalf("case %d: git apply makes %+v, want %+v, of\n%s", i, got, to, patch)
		}
	}
}

func TestPatchSaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	from := workspace{"bin": file("\x00"), "gone": file("\x00"), "text": file("1\n"), "moved bin": file("\x00\x01")}
	to := workspace{"bin": file("\x00\x00"), "text": file("2\n"), "large": file(strings.Repeat("x", maxText+1)), "empty": {mode: tree.Directory}, "moved": file("\x00\x01")}
	got := string(compute(t, from, to, Options{}).Patch())
	want := `# ckpt_1 to ckpt_2: 5 files changed
# left out: bin (binary)
# left out: empty (an empty directory)
# left out: gone (binary)
# left out: large (larger than 1048576 bytes)
diff --git a/moved bin b/moved
similarity index 100%
rename from moved bin
rename to moved
diff --git a/text b/text
--- a/text
+++ b/text
@@ -1 +1 @@
-1
+2
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Patch (-want +got):\n%s", d)
	}
}
