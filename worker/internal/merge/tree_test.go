package merge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// fataler is what *testing.T and *rapid.T share of failing.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// files is a workspace in short: by path, "link:" and a target, "exec:" and
// content, or content; a path that ends in a slash is a directory.
type files map[string]string

// withParents returns f with the directories its paths imply.
func (f files) withParents() files {
	all := maps.Clone(f)
	for p := range f {
		for d := path.Dir(strings.TrimSuffix(p, "/")); d != "."; d = path.Dir(d) {
			all[d+"/"] = ""
		}
	}
	return all
}

// workspaces generates what a step may leave behind.
func workspaces() *rapid.Generator[files] {
	return rapid.Custom(func(t *rapid.T) files {
		f := files{}
		dirs := []string{""}
		for range rapid.IntRange(0, 12).Draw(t, "entries") {
			p := rapid.SampledFrom(dirs).Draw(t, "in") + rapid.SampledFrom([]string{"a", "A", "b", "dir", "ä", "Ä", " ", "a\nb"}).Draw(t, "name")
			_, isFile := f[p]
			_, isDir := f[p+"/"]
			switch {
			case isFile || isDir:
			case rapid.IntRange(0, 3).Draw(t, "kind") == 0:
				dirs = append(dirs, p+"/")
				f[p+"/"] = ""
			default:
				f[p] = rapid.SampledFrom([]string{"", "x", "same", "exec:", "exec:same", "link:a"}).Draw(t, "content")
			}
		}
		return f
	})
}

// build returns the tree of f in memory: its digest, and its directories in nodes.
func (f files) build(nodes map[tree.Digest][]tree.Entry) tree.Digest {
	var dirAt func(prefix string) tree.Digest
	dirAt = func(prefix string) tree.Digest {
		var entries []tree.Entry
		for _, p := range slices.Sorted(maps.Keys(f.withParents())) {
			name, ok := strings.CutPrefix(p, prefix)
			if !ok || name == "" || strings.Contains(strings.TrimSuffix(name, "/"), "/") {
				continue
			}
			if dir, ok := strings.CutSuffix(name, "/"); ok {
				d := dirAt(p)
				entries = append(entries, tree.Entry{Name: dir, Mode: tree.Directory, Digest: d, Size: int64(len(tree.Encode(nodes[d])))})
				continue
			}
			e := tree.Entry{Name: name, Mode: tree.File}
			content := f[p]
			if c, ok := strings.CutPrefix(content, "exec:"); ok {
				e.Mode, content = tree.Executable, c
			} else if c, ok := strings.CutPrefix(content, "link:"); ok {
				e.Mode, content = tree.Symlink, c
			}
			e.Digest, e.Size = tree.Sum([]byte(content)), int64(len(content))
			written.Store(e.Digest, content)
			entries = append(entries, e)
		}
		slices.SortFunc(entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
		d := tree.Sum(tree.Encode(entries))
		nodes[d] = entries
		return d
	}
	return dirAt("")
}

// written has the contents of all files that were built, by digest.
var written sync.Map

// stored returns a source of nodes and of all files that were built.
func stored(nodes map[tree.Digest][]tree.Entry) Source {
	return Source{Nodes: func(_ context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
		found := map[tree.Digest][]tree.Entry{}
		for _, d := range digests {
			entries, ok := nodes[d]
			if !ok {
				return nil, fault.New(fault.Gone, "object-gone", "no directory %s", d)
			}
			found[d] = entries
		}
		return found, nil
	}, Files: func(_ context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
		found := map[tree.Digest][]byte{}
		for _, d := range digests {
			content, ok := written.Load(d)
			if !ok {
				return nil, fault.New(fault.Gone, "object-gone", "no file %s", d)
			}
			found[d] = []byte(content.(string))
		}
		return found, nil
	}}
}

// mergeFiles merges in memory; the result is the flat files of the merged tree, and the
// directories of all.
func mergeFiles(t fataler, base files, sides ...files) (result map[string]tree.Entry, digest tree.Digest, conflicts []Conflict) {
	t.Helper()
	nodes := map[tree.Digest][]tree.Entry{}
	b := base.build(nodes)
	var digests []tree.Digest
	for _, side := range sides {
		digests = append(digests, side.build(nodes))
	}
	m := NewTrees(stored(nodes))
	digest = b
	for i, side := range digests {
		if i == 0 {
			digest = side
			continue
		}
		var err error
		if digest, conflicts, err = m.Merge(context.Background(), b, digest, side); err != nil {
			t.Fatalf("Merge() = %v", err)
		}
		if len(conflicts) > 0 {
			break
		}
	}
	maps.Copy(nodes, m.nodes)
	return flat(nodes, digest), digest, conflicts
}

func flat(nodes map[tree.Digest][]tree.Entry, root tree.Digest) map[string]tree.Entry {
	all := map[string]tree.Entry{}
	var walk func(at string, d tree.Digest)
	walk = func(at string, d tree.Digest) {
		for _, e := range nodes[d] {
			p := join(at, e.Name)
			if e.Mode == tree.Directory {
				walk(p, e.Digest)
				continue
			}
			all[p] = e
		}
	}
	walk("", root)
	return all
}

func TestTrees(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("line\n", mostText/5)
	base := files{
		"a": "a", "b": "b", "d/x": "x", "d/y": "y", "l": "link:a", "s": "s",
		"t": "a\nb\nc\n", "z": "a\nb\nc\x00", "large": "a\n" + long,
	}
	with := func(edits files, gone ...string) files {
		f := maps.Clone(base)
		for _, p := range gone {
			delete(f, p)
		}
		maps.Copy(f, edits)
		return f
	}
	for _, c := range []struct {
		name         string
		ours, theirs files
		want         files // nil with conflicts
		conflicts    []Conflict
	}{
		{"nothing", base, base, base, nil},
		{"different files", with(files{"a": "A"}), with(files{"d/x": "X"}), with(files{"a": "A", "d/x": "X"}), nil},
		{"the same change", with(files{"a": "A"}), with(files{"a": "A"}), with(files{"a": "A"}), nil},
		{"both delete", with(nil, "a"), with(nil, "a"), with(nil, "a"), nil},
		{"both add", with(files{"n/1": "1"}), with(files{"n/2": "2"}), with(files{"n/1": "1", "n/2": "2"}), nil},
		{"mode and bytes", with(files{"s": "exec:s"}), with(files{"s": "S"}), with(files{"s": "exec:S"}), nil},
		{"lines apart", with(files{"t": "A\nb\nc\n"}), with(files{"t": "a\nb\nC\n"}), with(files{"t": "A\nb\nC\n"}), nil},
		{"lines and mode", with(files{"t": "exec:A\nb\nc\n"}), with(files{"t": "a\nb\nC\n"}), with(files{"t": "exec:A\nb\nC\n"}), nil},
		{"directory removed, untouched", with(nil, "d/x", "d/y"), base, with(nil, "d/x", "d/y"), nil},
		{"directory removed, added to", with(nil, "d/x", "d/y"), with(files{"d/z": "z"}), with(files{"d/z": "z"}, "d/x", "d/y"), nil},
		{"directory removed, emptied", with(nil, "d/x", "d/y"), with(files{"d/": ""}, "d/x", "d/y"), with(nil, "d/x", "d/y"), nil},
		{"empty directory kept", with(files{"e/": ""}), with(files{"a": "A"}), with(files{"e/": "", "a": "A"}), nil},
		{"case on one side", with(files{"N": "1", "n": "2"}), with(files{"a": "A"}), with(files{"N": "1", "n": "2", "a": "A"}), nil},
		{"file to directory", with(files{"a/in": "1"}, "a"), base, with(files{"a/in": "1"}, "a"), nil},
		{"file removed, to directory", with(nil, "a"), with(files{"a/in": "1"}, "a"), with(files{"a/in": "1"}, "a"), nil},
		{"file removed, to empty directory", with(nil, "a"), with(files{"a/": ""}, "a"), with(files{"a/": ""}, "a"), nil},
		{"directory removed, to file", with(nil, "d/x", "d/y"), with(files{"d": "1"}, "d/x", "d/y"), with(files{"d": "1"}, "d/x", "d/y"), nil},

		{"bytes", with(files{"a": "1"}), with(files{"a": "2"}), nil, []Conflict{{Path: "a", Kind: Content, Line: 1}}},
		{"adjacent lines", with(files{"t": "a\nB\nc\n"}), with(files{"t": "a\nb\nC\n"}), nil, []Conflict{{Path: "t", Kind: Content, Line: 2}}},
		{"lines of no text", with(files{"z": "A\nb\nc\x00"}), with(files{"z": "a\nb\nC\x00"}), nil, []Conflict{{Path: "z", Kind: Content}}},
		{"lines with other ends", with(files{"t": "A\r\nb\r\nc\r\n"}), with(files{"t": "a\nb\nC\n"}), nil, []Conflict{{Path: "t", Kind: Content}}},
		{"lines of a large file", with(files{"large": "A\n" + long}), with(files{"large": "a\n" + long + "c\n"}), nil, []Conflict{{Path: "large", Kind: Content}}},
		{"link targets", with(files{"l": "link:1"}), with(files{"l": "link:2"}), nil, []Conflict{{Path: "l", Kind: Content}}},
		{"added", with(files{"n": "1"}), with(files{"n": "2"}), nil, []Conflict{{Path: "n", Kind: Added}}},
		{"added modes", with(files{"n": "1"}), with(files{"n": "exec:1"}), nil, []Conflict{{Path: "n", Kind: Mode}}},
		{"delete and change", with(nil, "a"), with(files{"a": "A"}), nil, []Conflict{{Path: "a", Kind: Deleted}}},
		{"delete and mode", with(nil, "a"), with(files{"a": "exec:a"}), nil, []Conflict{{Path: "a", Kind: Deleted}}},
		{"directory removed, changed", with(nil, "d/x", "d/y"), with(files{"d/x": "X"}), nil, []Conflict{{Path: "d/x", Kind: Deleted}}},
		{"file and link", with(files{"a": "link:b"}), with(files{"a": "A"}), nil, []Conflict{{Path: "a", Kind: Type}}},
		{"file and directory", with(files{"a/in": "1"}, "a"), with(files{"a": "A"}), nil, []Conflict{{Path: "a", Kind: Type}}},
		{"added file and directory", with(files{"n/in": "1"}), with(files{"n": "1"}), nil, []Conflict{{Path: "n", Kind: Type}}},
		{"case", with(files{"N": "1"}), with(files{"n": "1"}), nil, []Conflict{{Path: "N", Kind: Case}, {Path: "n", Kind: Case}}},
		{"several", with(files{"a": "1", "d/y": "1"}, "b"), with(files{"a": "2", "b": "B", "d/y": "2"}), nil,
			[]Conflict{{Path: "a", Kind: Content, Line: 1}, {Path: "b", Kind: Deleted}, {Path: "d/y", Kind: Content, Line: 1}}},
	} {
		for order, sides := range map[string][]files{"ours, theirs": {c.ours, c.theirs}, "theirs, ours": {c.theirs, c.ours}} {
			_, got, conflicts := mergeFiles(t, base, sides...)
			if d := cmp.Diff(c.conflicts, conflicts); d != "" {
				t.Errorf("%s (%s): conflicts (-want +got):\n%s", c.name, order, d)
			}
			if c.want != nil && got != c.want.build(map[tree.Digest][]tree.Entry{}) {
				t.Errorf("%s (%s): merged to another tree than %v", c.name, order, c.want)
			}
		}
	}
	if _, got, conflicts := mergeFiles(t, base, with(files{"a": "A"}), with(files{"b": "B"}), with(files{"c": "C"})); len(conflicts) > 0 ||
		got != with(files{"a": "A", "b": "B", "c": "C"}).build(map[tree.Digest][]tree.Entry{}) {
		t.Errorf("three sides: conflicts %v or another tree", conflicts)
	}
}

// edits generates what a side may have made of base.
func edits(base files) *rapid.Generator[files] {
	return rapid.Custom(func(t *rapid.T) files {
		f := maps.Clone(base)
		for range rapid.IntRange(0, 5).Draw(t, "edits") {
			paths := slices.Sorted(maps.Keys(f))
			if len(paths) > 0 && rapid.Bool().Draw(t, "existing") {
				p := rapid.SampledFrom(paths).Draw(t, "path")
				if rapid.Bool().Draw(t, "remove") {
					maps.DeleteFunc(f, func(q, _ string) bool { return q == p || strings.HasPrefix(q, strings.TrimSuffix(p, "/")+"/") })
				} else if !strings.HasSuffix(p, "/") {
					f[p] = rapid.SampledFrom([]string{"1", "2", "exec:1", "exec:2", "link:1"}).Draw(t, "content")
				}
				continue
			}
			p := rapid.SampledFrom([]string{"n", "N", "m/n", "m/o", "a", "a/b", "dir/n"}).Draw(t, "new")
			if f.fits(p) {
				f[p] = rapid.SampledFrom([]string{"1", "2", "exec:1"}).Draw(t, "content")
			}
		}
		return f
	})
}

// fits reports whether a file may be at p: nothing is there, nor a file above.
func (f files) fits(p string) bool {
	all := f.withParents()
	for d := p; d != "."; d = path.Dir(d) {
		if _, ok := all[d]; ok {
			return false
		}
	}
	_, ok := all[p+"/"]
	return !ok
}

func TestLawsOfTrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := workspaces().Draw(t, "base")
		ours, theirs := edits(base).Draw(t, "ours"), edits(base).Draw(t, "theirs")
		digest := func(f files) tree.Digest { return f.build(map[tree.Digest][]tree.Entry{}) }
		for name, law := range map[string]struct {
			sides []files
			want  files
		}{
			"nobody changed it": {[]files{base, base}, base}, "ours alone": {[]files{ours, base}, ours},
			"theirs alone": {[]files{base, theirs}, theirs}, "agreed": {[]files{ours, ours}, ours}, "one": {[]files{ours}, ours},
		} {
			if _, got, conflicts := mergeFiles(t, base, law.sides...); len(conflicts) > 0 || got != digest(law.want) {
				t.Fatalf("%s: conflicts %v, or another tree", name, conflicts)
			}
		}

		got, one, conflicts := mergeFiles(t, base, ours, theirs)
		_, two, swapped := mergeFiles(t, base, theirs, ours)
		if d := cmp.Diff(conflicts, swapped); d != "" || len(conflicts) == 0 && one != two {
			t.Fatalf("swapped sides differ (-ours, theirs +theirs, ours):\n%s", d)
		}
		nodes := map[tree.Digest][]tree.Entry{}
		b, o, th := flat(nodes, base.build(nodes)), flat(nodes, ours.build(nodes)), flat(nodes, theirs.build(nodes))
		if err := agrees(b, o, th, got, conflicts); err != nil {
			t.Fatalf("%v\nconflicts: %v", err, conflicts)
		}
	})
}

// agrees checks a merge against the rules, path by path and without directories.
func agrees(b, o, t, got map[string]tree.Entry, conflicts []Conflict) error {
	at := map[string]Kind{}
	for _, c := range conflicts {
		at[c.Path] = c.Kind
	}
	paths := maps.Clone(b)
	maps.Copy(paths, o)
	maps.Copy(paths, t)
	clean := len(conflicts) == 0 // else there is no tree
	for p := range paths {
		if kind, ok := at[p]; ok && kind != Case {
			if kind != Type && (o[p] == t[p] || b[p] == o[p] || b[p] == t[p]) {
				return fmt.Errorf("%q: a conflict (%s) where only one side changed", p, kind)
			}
			continue
		}
		want := o[p]
		switch {
		case o[p] == t[p] || b[p] == t[p]:
		case b[p] == o[p]:
			want = t[p]
		default:
			if clean && o[p].Digest != b[p].Digest && t[p].Digest != b[p].Digest && o[p].Digest != t[p].Digest {
				return fmt.Errorf("%q: both changed the bytes, and it was taken", p)
			}
			continue
		}
		if clean && got[p] != want {
			return fmt.Errorf("%q: got %+v, want %+v", p, got[p], want)
		}
	}
	for p := range got {
		if _, ok := paths[p]; !ok {
			return fmt.Errorf("%q: from nowhere", p)
		}
	}
	return nil
}

// What was merged is the base of another merge without being stored.
func TestTreesOverAMerge(t *testing.T) {
	t.Parallel()
	nodes := map[tree.Digest][]tree.Entry{}
	build := func(f files) tree.Digest { return f.build(nodes) }
	one, two := build(files{"d/one": "1"}), build(files{"d/two": "2"})
	m := NewTrees(stored(nodes))
	together, conflicts, err := m.Merge(t.Context(), tree.Empty, one, two)
	if err != nil || len(conflicts) > 0 || len(m.Made(together)) != 2 {
		t.Fatalf("Merge(one, two) = %v, %v, %d made, want two new directories", conflicts, err, len(m.Made(together)))
	}
	left, right := build(files{"d/one": "left", "d/two": "left"}), build(files{"d/one": "1", "d/two": "2", "d/right": "r"})
	got, conflicts, err := m.Merge(t.Context(), together, left, right)
	if want := build(files{"d/one": "left", "d/two": "left", "d/right": "r"}); err != nil || got != want || len(conflicts) > 0 {
		t.Errorf("Merge(left, right) over what was merged = %s, %v, %v, want what both changed", got, conflicts, err)
	}
	for name, base := range map[string]tree.Digest{"one": one, "two": two} {
		if _, conflicts, err := m.Merge(t.Context(), base, left, right); err != nil || len(conflicts) != 1 {
			t.Errorf("Merge(left, right) over %s alone = %v, %v, want a conflict: the test looks at nothing", name, conflicts, err)
		}
	}
	if again := m.Made(together); len(again) != 2 {
		t.Errorf("Made(the first merge) = %d later, want its two directories", len(again))
	}
}

func TestTreesWithTooManyConflicts(t *testing.T) {
	t.Parallel()
	nodes := map[tree.Digest][]tree.Entry{}
	ours, theirs := files{}, files{}
	for i := range MaxConflicts + 1 {
		ours[fmt.Sprint(i)], theirs[fmt.Sprint(i)] = "1", "2"
	}
	read := func(context.Context, []tree.Digest) (map[tree.Digest][]tree.Entry, error) { return nodes, nil }
	_, _, err := NewTrees(Source{Nodes: read}).Merge(t.Context(), tree.Empty, ours.build(nodes), theirs.build(nodes))
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Conflict || e.Code != "too-many-conflicts" {
		t.Errorf("Merge(%d conflicts) = %v, want too-many-conflicts", len(ours), err)
	}
}

// reads counts what a source is asked.
type reads struct{ directories, files int }

func (r *reads) of(src Source) Source {
	return Source{Nodes: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
		r.directories++
		return src.Nodes(ctx, digests)
	}, Files: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
		r.files++
		return src.Files(ctx, digests)
	}}
}

// A merge asks for directories once per level, and for files many at a time, however many
// of them differ; so does the list of what it changed.
func TestReadsOfAMerge(t *testing.T) {
	t.Parallel()
	nodes := map[tree.Digest][]tree.Entry{}
	base, ours, theirs := files{}, files{}, files{}
	for i := range 5 {
		for k := range 5 {
			at := fmt.Sprintf("d%d/e%d/", i, k)
			base[at+"text"], ours[at+"text"], theirs[at+"text"] = at+"\nb\nc\n", at+"A\nb\nc\n", at+"\nb\nC\n"
			ours[at+"ours"], theirs[at+"theirs"], theirs[fmt.Sprintf("n%d/e%d/new", i, k)] = "1", "2", "3"
			base[fmt.Sprintf("r%d/e%d/old", i, k)], theirs[fmt.Sprintf("r%d/e%d/old", i, k)], ours[fmt.Sprintf("s%d/e%d/old", i, k)] = at, at+"new", at
		}
	}
	var asked reads
	m := NewTrees(asked.of(stored(nodes)))
	b, o := base.build(nodes), ours.build(nodes)
	merged, conflicts, err := m.MergeBy(t.Context(), Rules{Values: true, Takes: func(Conflict) (Take, bool) { return Take{Side: Ours}, true }}, b, o, theirs.build(nodes))
	if err != nil || len(conflicts) != 25 || conflicts[0].Renamed != "s0/e0/old" {
		t.Fatalf("MergeBy() = %d conflicts, %v, want 25 of renamed files", len(conflicts), err)
	}
	if want := (reads{3, 1}); asked != want {
		t.Errorf("the merge asked %+v, want %+v", asked, want)
	}
	asked = reads{}
	list, err := m.Changes(t.Context(), o, merged)
	if err != nil || len(list) != 75 {
		t.Fatalf("Changes() = %d files, %v, want 75", len(list), err)
	}
	if want := (reads{2, 0}); asked != want {
		t.Errorf("the list of changes asked %+v, want %+v", asked, want)
	}
}

// Files that are too many to be held together are read in several goes.
func TestReadsOfManyFiles(t *testing.T) {
	t.Parallel()
	nodes := map[tree.Digest][]tree.Entry{}
	base, ours, theirs := files{}, files{}, files{}
	for i := range 8 {
		p, long := fmt.Sprintf("d%d/long", i), strings.Repeat(fmt.Sprintf("line %d\n", i), 100_000)
		base[p], ours[p], theirs[p] = "\n"+long+"\n", "ours\n"+long+"\n", "\n"+long+"theirs\n"
	}
	var asked reads
	m := NewTrees(asked.of(stored(nodes)))
	if _, conflicts, err := m.Merge(t.Context(), base.build(nodes), ours.build(nodes), theirs.build(nodes)); err != nil || len(conflicts) > 0 {
		t.Fatalf("Merge() = %v, %v, want all merged", conflicts, err)
	}
	if want := (reads{2, 2}); asked != want {
		t.Errorf("a merge of 8 files of 0.8 MB asked %+v, want %+v", asked, want)
	}
}

// A file whose content was purged is merged as one without lines, and keeps no other from
// being merged.
func TestTreesOfPurgedFiles(t *testing.T) {
	t.Parallel()
	nodes := map[tree.Digest][]tree.Entry{}
	base := files{"purged": "a\nb\nc\n", "stays": "d\ne\nf\n"}
	ours := files{"purged": "A\nb\nc\n", "stays": "D\ne\nf\n"}
	theirs := files{"purged": "a\nb\nC\n", "stays": "d\ne\nF\n"}
	var asked reads
	src := asked.of(stored(nodes))
	m := NewTrees(Source{Nodes: src.Nodes, Files: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
		found, err := src.Files(ctx, digests)
		delete(found, tree.Sum([]byte(ours["purged"])))
		return found, err
	}})
	merged, conflicts, err := m.MergeBy(t.Context(), Rules{Values: true, Takes: func(Conflict) (Take, bool) { return Take{Side: Theirs}, true }},
		base.build(nodes), ours.build(nodes), theirs.build(nodes))
	if err != nil || len(conflicts) != 1 || conflicts[0].Path != "purged" || conflicts[0].Kind != Content || conflicts[0].Text {
		t.Fatalf("MergeBy() = %+v, %v, want one conflict of a content without lines", conflicts, err)
	}
	if want := (files{"purged": theirs["purged"], "stays": "D\ne\nF\n"}).build(nodes); merged != want {
		t.Errorf("MergeBy() = %v, want %v", m.nodes[merged], nodes[want])
	}
	if asked.files != 1 {
		t.Errorf("the merge asked %d times for files, want 1", asked.files)
	}
}

// The merge of 10,000 files in 100 directories of which each side changed one, from memory.
func BenchmarkTrees(b *testing.B) {
	nodes := map[tree.Digest][]tree.Entry{}
	workspace := func(changed int) tree.Digest {
		var root []tree.Entry
		for d := range 100 {
			var dir []tree.Entry
			for f := range 100 {
				name := fmt.Sprintf("f%02d.go", f)
				content := fmt.Sprint(d, name)
				if f == changed {
					content += "changed"
				}
				dir = append(dir, tree.Entry{Name: name, Mode: tree.File, Digest: tree.Sum([]byte(content)), Size: 4096})
			}
			node := tree.Encode(dir)
			nodes[tree.Sum(node)] = dir
			root = append(root, tree.Entry{Name: fmt.Sprintf("d%02d", d), Mode: tree.Directory, Digest: tree.Sum(node), Size: int64(len(node))})
		}
		digest := tree.Sum(tree.Encode(root))
		nodes[digest] = root
		return digest
	}
	base, ours, theirs := workspace(-1), workspace(1), workspace(2)
	b.ReportAllocs()
	for b.Loop() {
		m := NewTrees(stored(nodes))
		merged, _, err := m.Merge(b.Context(), base, ours, theirs)
		if err != nil {
			b.Fatal(err)
		}
		if list, err := m.Changes(b.Context(), ours, merged); err != nil || len(list) != 100 {
			b.Fatalf("Changes() = %d files, %v, want 100", len(list), err)
		}
	}
}
