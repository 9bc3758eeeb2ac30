package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// build is the tree of f in memory: its digest, and its directories in nodes.
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
			entries = append(entries, e)
		}
		slices.SortFunc(entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
		d := tree.Sum(tree.Encode(entries))
		nodes[d] = entries
		return d
	}
	return dirAt("")
}

// joinFiles joins in memory; the result is the flat files of the joined tree.
func joinFiles(t fataler, base files, sides ...files) (result map[string]tree.Entry, digest tree.Digest, conflicts []Conflict) {
	t.Helper()
	j := &joiner{nodes: map[tree.Digest][]tree.Entry{tree.Empty: nil}, made: map[tree.Digest][]byte{}}
	b := base.build(j.nodes)
	var trees []tree.Digest
	for _, side := range sides {
		trees = append(trees, side.build(j.nodes))
	}
	digest = trees[0]
	for _, next := range trees[1:] {
		var err error
		if digest, err = j.dirs(context.Background(), "", 0, b, digest, next); err != nil {
			t.Fatalf("join: %v", err)
		}
	}
	slices.SortFunc(j.conflicts, func(a, b Conflict) int { return strings.Compare(a.Path, b.Path) })
	for d, node := range j.made {
		if tree.Sum(node) != d {
			t.Fatalf("a made directory has another digest than its bytes")
		}
		if _, err := tree.Decode(node); err != nil {
			t.Fatalf("a made directory: %v", err)
		}
	}
	return flat(j.nodes, digest), digest, j.conflicts
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

func TestJoin(t *testing.T) {
	t.Parallel()
	base := files{"a": "a", "b": "b", "d/x": "x", "d/y": "y", "l": "link:a", "s": "s"}
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
		{"directory removed, untouched", with(nil, "d/x", "d/y"), base, with(nil, "d/x", "d/y"), nil},
		{"directory removed, added to", with(nil, "d/x", "d/y"), with(files{"d/z": "z"}), with(files{"d/z": "z"}, "d/x", "d/y"), nil},
		{"directory removed, emptied", with(nil, "d/x", "d/y"), with(files{"d/": ""}, "d/x", "d/y"), with(nil, "d/x", "d/y"), nil},
		{"empty directory kept", with(files{"e/": ""}), with(files{"a": "A"}), with(files{"e/": "", "a": "A"}), nil},
		{"case on one side", with(files{"N": "1", "n": "2"}), with(files{"a": "A"}), with(files{"N": "1", "n": "2", "a": "A"}), nil},
		{"file to directory", with(files{"a/in": "1"}, "a"), base, with(files{"a/in": "1"}, "a"), nil},
		{"file removed, to directory", with(nil, "a"), with(files{"a/in": "1"}, "a"), with(files{"a/in": "1"}, "a"), nil},
		{"file removed, to empty directory", with(nil, "a"), with(files{"a/": ""}, "a"), with(files{"a/": ""}, "a"), nil},
		{"directory removed, to file", with(nil, "d/x", "d/y"), with(files{"d": "1"}, "d/x", "d/y"), with(files{"d": "1"}, "d/x", "d/y"), nil},

		{"bytes", with(files{"a": "1"}), with(files{"a": "2"}), nil, []Conflict{{"a", Content}}},
		{"link targets", with(files{"l": "link:1"}), with(files{"l": "link:2"}), nil, []Conflict{{"l", Content}}},
		{"added", with(files{"n": "1"}), with(files{"n": "2"}), nil, []Conflict{{"n", Added}}},
		{"added modes", with(files{"n": "1"}), with(files{"n": "exec:1"}), nil, []Conflict{{"n", Mode}}},
		{"delete and change", with(nil, "a"), with(files{"a": "A"}), nil, []Conflict{{"a", Deleted}}},
		{"delete and mode", with(nil, "a"), with(files{"a": "exec:a"}), nil, []Conflict{{"a", Deleted}}},
		{"directory removed, changed", with(nil, "d/x", "d/y"), with(files{"d/x": "X"}), nil, []Conflict{{"d/x", Deleted}}},
		{"file and link", with(files{"a": "link:b"}), with(files{"a": "A"}), nil, []Conflict{{"a", Type}}},
		{"file and directory", with(files{"a/in": "1"}, "a"), with(files{"a": "A"}), nil, []Conflict{{"a", Type}}},
		{"added file and directory", with(files{"n/in": "1"}), with(files{"n": "1"}), nil, []Conflict{{"n", Type}}},
		{"case", with(files{"N": "1"}), with(files{"n": "1"}), nil, []Conflict{{"N", Case}, {"n", Case}}},
		{"several", with(files{"a": "1", "d/y": "1"}, "b"), with(files{"a": "2", "b": "B", "d/y": "2"}), nil,
			[]Conflict{{"a", Content}, {"b", Deleted}, {"d/y", Content}}},
	} {
		for order, sides := range map[string][]files{"ours, theirs": {c.ours, c.theirs}, "theirs, ours": {c.theirs, c.ours}} {
			_, got, conflicts := joinFiles(t, base, sides...)
			if d := cmp.Diff(c.conflicts, conflicts); d != "" {
				t.Errorf("%s (%s): conflicts (-want +got):\n%s", c.name, order, d)
			}
			if c.want != nil && got != c.want.build(map[tree.Digest][]tree.Entry{}) {
				t.Errorf("%s (%s): joined to another tree than %v", c.name, order, c.want)
			}
		}
	}
	if _, got, conflicts := joinFiles(t, base, with(files{"a": "A"}), with(files{"b": "B"}), with(files{"c": "C"})); len(conflicts) > 0 ||
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

func TestJoinLaws(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := workspaces().Draw(t, "base")
		ours, theirs := edits(base).Draw(t, "ours"), edits(base).Draw(t, "theirs")
		digest := func(f files) tree.Digest { return f.build(map[tree.Digest][]tree.Entry{}) }
		for name, law := range map[string]struct {
			sides []files
			want  files
		}{
			"join(x; x, x) = x": {[]files{base, base}, base}, "ours alone": {[]files{ours, base}, ours},
			"theirs alone": {[]files{base, theirs}, theirs}, "agreed": {[]files{ours, ours}, ours}, "one": {[]files{ours}, ours},
		} {
			if _, got, conflicts := joinFiles(t, base, law.sides...); len(conflicts) > 0 || got != digest(law.want) {
				t.Fatalf("%s: conflicts %v, or another tree", name, conflicts)
			}
		}

		got, one, conflicts := joinFiles(t, base, ours, theirs)
		_, two, swapped := joinFiles(t, base, theirs, ours)
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

// agrees checks a join against the rules, path by path and without directories.
func agrees(b, o, t, got map[string]tree.Entry, conflicts []Conflict) error {
	at := map[string]Kind{}
	for _, c := range conflicts {
		at[c.Path] = c.Kind
	}
	paths := maps.Clone(b)
	maps.Copy(paths, o)
	maps.Copy(paths, t)
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
			if _, ok := got[p]; ok && o[p].Digest != b[p].Digest && t[p].Digest != b[p].Digest && o[p].Digest != t[p].Digest {
				return fmt.Errorf("%q: both changed the bytes, and it was taken", p)
			}
			continue
		}
		above := false // a conflict on a directory's name, or one that took its place
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			_, ok := at[d]
			above = above || ok
		}
		if !above && got[p] != want {
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

// A join of stored trees can be restored once its rows are in.
func TestJoinStored(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	snap := func(f files) tree.Digest {
		restore(ctx, t, w, tree.Empty)
		f.write(t, dir)
		scan, _ := checkpoint(ctx, t, w, x)
		return scan.Tree
	}
	base := snap(files{"a/1": "1", "a/2": "2", "b/3": "3"})
	left := snap(files{"a/1": "left", "a/2": "2", "b/3": "3"})
	right := snap(files{"a/1": "1", "a/2": "right", "b/3": "3", "c/": ""})
	clash := snap(files{"a/1": "clash", "a/2": "2", "b/3": "3"})

	joined, err := store.Join(ctx, x.tenant, base, left, right)
	if err != nil || len(joined.Conflicts) > 0 || len(joined.Saved.Objects) != 1 || len(joined.Saved.Blobs) != 2 {
		t.Fatalf("Join = %+v, %v, want two directories in one pack", joined, err)
	}
	x.commit(joined.Saved)
	restore(ctx, t, w, joined.Tree)
	want := files{"a/1": "left", "a/2": "right", "b/3": "3", "c/": ""}
	if d := cmp.Diff(want.withParents(), readFiles(t, dir)); d != "" {
		t.Errorf("restored join (-want +got):\n%s", d)
	}
	again, err := store.Join(ctx, x.tenant, base, left, right)
	if err != nil || again.Tree != joined.Tree || len(again.Saved.Objects) != 0 {
		t.Errorf("Join again = %+v, %v, want the same tree and nothing saved", again, err)
	}
	bad, err := store.Join(ctx, x.tenant, base, left, right, clash)
	if d := cmp.Diff(Joined{Conflicts: []Conflict{{"a/1", Content}}}, bad); err != nil || d != "" {
		t.Errorf("Join with a clash = %v (-want +got):\n%s", err, d)
	}
	if one, err := store.Join(ctx, x.tenant, base, left); err != nil || one.Tree != left {
		t.Errorf("Join of one = %s, %v, want it", one.Tree, err)
	}
	if none, err := store.Join(ctx, x.tenant, base); err != nil || none.Tree != base {
		t.Errorf("Join of none = %s, %v, want base", none.Tree, err)
	}
	if _, err := store.Join(ctx, x.tenant, base, left, tree.Sum([]byte("nowhere"))); !errors.Is(err, fault.Gone) {
		t.Errorf("Join(missing tree) = %v, want Gone", err)
	}
}

func TestJoinTooManyConflicts(t *testing.T) {
	t.Parallel()
	j := &joiner{nodes: map[tree.Digest][]tree.Entry{tree.Empty: nil}, made: map[tree.Digest][]byte{}}
	ours, theirs := files{}, files{}
	for i := range design.conflict + 1 {
		ours[fmt.Sprint(i)], theirs[fmt.Sprint(i)] = "1", "2"
	}
	_, err := j.dirs(t.Context(), "", 0, tree.Empty, ours.build(j.nodes), theirs.build(j.nodes))
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Conflict || e.Code != "too-many-conflicts" {
		t.Errorf("join with %d conflicts = %v, want too-many-conflicts", len(ours), err)
	}
}
