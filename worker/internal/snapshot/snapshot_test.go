package snapshot

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/tree"
)

// workspaces generates what a step may leave behind.
func workspaces() *rapid.Generator[files] {
	names := rapid.OneOf(
		rapid.SampledFrom([]string{"a", "A", "b", "B", "main.go", "Main.go", "dir", "Dir", ".git", "ä", "Ä", " ", "-", "a\nb", `c\d`, "…", "*", "'\"", "COM1", "x.tar.gz"}),
		rapid.StringN(1, 8, 64).Filter(tree.ValidName),
	)
	contents := rapid.OneOf(
		rapid.SampledFrom([]string{"", "x", "same", "exec:", "exec:same", "link:a", "link:../..", "link:/etc/passwd", "link:nowhere/ä"}),
		rapid.StringN(0, 200, -1).Filter(func(s string) bool { return !strings.HasPrefix(s, "link:") }),
	)
	return rapid.Custom(func(t *rapid.T) files {
		f := files{}
		dirs := []string{""}
		taken := map[string]bool{}
		for range rapid.IntRange(0, 25).Draw(t, "entries") {
			p := rapid.SampledFrom(dirs).Draw(t, "in") + names.Draw(t, "name")
			if taken[p] {
				continue
			}
			taken[p] = true
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				dirs = append(dirs, p+"/")
				f[p+"/"] = ""
			} else {
				f[p] = contents.Draw(t, "content")
			}
		}
		return f
	})
}

// tempDir returns a folder that is removed when the property has been checked once.
func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "nofx-snapshot-*")
	if err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// restore(save(w)) = w, on the same directory after any change, and on another.
func TestRestoreIsTheInverseOfSave(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	rapid.Check(t, func(t *rapid.T) {
		here, there := tempDir(t), tempDir(t)
		first, second := workspaces().Draw(t, "first"), workspaces().Draw(t, "second")
		a, b := store.Workspace(x.tenant, here), store.Workspace(x.tenant, there)

		first.write(t, here)
		one, _ := checkpoint(ctx, t, a, x)
		restore(ctx, t, b, one.Tree)
		if d := cmp.Diff(first.withParents(), readFiles(t, there)); d != "" {
			t.Fatalf("restore elsewhere (-want +got):\n%s", d)
		}

		if err := errors.Join(os.RemoveAll(here), os.Mkdir(here, 0o755)); err != nil {
			t.Fatalf("clear: %v", err)
		}
		second.write(t, here)
		two, _ := checkpoint(ctx, t, a, x)
		if d := cmp.Diff(second.withParents(), readFiles(t, here)); d != "" {
			t.Fatalf("a checkpoint changed the workspace (-want +got):\n%s", d)
		}
		for _, step := range []struct {
			tree tree.Digest
			want files
		}{{two.Tree, second}, {one.Tree, first}, {tree.Empty, files{}}, {two.Tree, second}} {
			for _, w := range []*Workspace{a, b} {
				restore(ctx, t, w, step.tree)
				if d := cmp.Diff(step.want.withParents(), readFiles(t, w.path)); d != "" {
					t.Fatalf("restore from what was there (-want +got):\n%s", d)
				}
				again, saved := checkpoint(ctx, t, w, x)
				if again.Tree != step.tree || saved.Bytes != 0 || len(saved.Blobs) != 0 {
					t.Fatalf("checkpoint of a restored tree = %s, %+v, want %s and nothing saved", again.Tree, saved, step.tree)
				}
			}
		}
	})
}

// A scan that knows the one before says the same as one that knows nothing.
func TestScanWithCache(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	rapid.Check(t, func(t *rapid.T) {
		dir := tempDir(t)
		cached := store.Workspace(x.tenant, dir)
		// Half the runs trust every look at once, as if two seconds had passed.
		if rapid.Bool().Draw(t, "aged") {
			cached.now = func() time.Time { return time.Now().Add(time.Hour) }
		}
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			for p, c := range workspaces().Draw(t, "files") {
				os.RemoveAll(filepath.Join(dir, p)) // what stands in the way stays in the way
				if os.MkdirAll(filepath.Join(dir, filepath.Dir(strings.TrimSuffix(p, "/"))), 0o755) == nil {
					files{p: c}.write(t, dir)
				}
			}
			got, err := cached.Scan(t.Context(), nil)
			if err != nil {
				t.Fatalf("Scan: %v", err)
			}
			want, err := store.Workspace(x.tenant, dir).Scan(t.Context(), nil)
			if err != nil {
				t.Fatalf("Scan: %v", err)
			}
			if got.Tree != want.Tree || got.Files != want.Files || got.Bytes != want.Bytes {
				t.Fatalf("Scan with cache = %s, %d files, %d bytes, want %s, %d, %d", got.Tree, got.Files, got.Bytes, want.Tree, want.Files, want.Bytes)
			}
		}
	})
}

// A file changed within the clock's tick looks as before and is still noticed.
func TestRacyFile(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	files{"f": "one"}.write(t, dir)
	first, err := w.Scan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Same size, and remembered as if it had had the looks it has now.
	files{"f": "two"}.write(t, dir)
	st := look(t, dir, "f")
	w.seen.stats[0] = stat{size: st.size, mtime: st.mtime, ctime: st.ctime, ino: st.ino, mode: st.mode, settled: w.seen.stats[0].settled}
	second, err := w.Scan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Tree == second.Tree {
		t.Error("Scan right after a change with equal looks = the old tree, want it read again")
	}
	// Two seconds later its looks are enough: the cache is what answers.
	w.now = func() time.Time { return time.Now().Add(settled + time.Second) }
	if _, err := w.Scan(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	marked := tree.Sum([]byte("from the cache"))
	w.seen.entries[0].Digest = marked
	third, err := w.Scan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := third.root.entries[0].Digest; got != marked {
		t.Errorf("Scan of a settled file = %s, want the cached %s", got, marked)
	}
}

func look(t *testing.T, dir, name string) stat {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := fstat(f, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestSaveSendsWhatIsNew(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	big := strings.Repeat("big", tree.Small)
	files{"a/one": "1", "a/copy": "1", "b/two": "2", "big": big, "bigcopy": big, "empty": "", "none/": ""}.write(t, dir)
	scan, saved := checkpoint(ctx, t, w, x)
	// Pack: 1, 2 and the nodes of a, b and the root; big on its own; nothing for
	// empty content.
	if len(saved.Blobs) != 6 || len(saved.Objects) != 2 {
		t.Fatalf("first Save = %d blobs, %d objects, want 6, 2: %+v", len(saved.Blobs), len(saved.Objects), saved)
	}
	if scan.Files != 6 || scan.Bytes != int64(2*len(big)+3) {
		t.Errorf("Scan = %d files, %d bytes, want 6, %d", scan.Files, scan.Bytes, 2*len(big)+3)
	}
	if got := x.questions(); got != 6 {
		t.Errorf("first Save asked for %d digests, want 6", got)
	}
	var total int64
	for _, o := range saved.Objects {
		info, err := blobs.Stat(ctx, o.Key)
		if err != nil || info.Size != o.Bytes {
			t.Errorf("Stat(%s) = %+v, %v, want %d bytes", o.Key, info, err, o.Bytes)
		}
		total += o.Bytes
	}
	if total != saved.Bytes {
		t.Errorf("Saved.Bytes = %d, want %d", saved.Bytes, total)
	}

	for _, again := range []*Workspace{w, store.Workspace(x.tenant, dir)} { // with and without what is known here
		if _, saved := checkpoint(ctx, t, again, x); len(saved.Blobs)+len(saved.Objects) != 0 || saved.Bytes != 0 {
			t.Errorf("second Save = %+v, want nothing", saved)
		}
	}
	x.questions()

	// Content that is somewhere already is not sent again, only the new nodes.
	files{"b/three": "1"}.write(t, dir)
	_, saved = checkpoint(ctx, t, w, x)
	if len(saved.Blobs) != 2 || len(saved.Objects) != 1 {
		t.Errorf("Save after a copy = %d blobs, %d objects, want the two nodes in a pack", len(saved.Blobs), len(saved.Objects))
	}
	if got := x.questions(); got != 3 {
		t.Errorf("Save after a copy asked for %d digests, want 3", got)
	}

	// A save whose transaction failed is repeated in full.
	files{"b/four": "4"}.write(t, dir)
	lost, err := w.Scan(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Save(ctx, lost)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.Save(ctx, lost)
	digests := func(s Saved) (list []tree.Digest) {
		for _, b := range s.Blobs {
			list = append(list, b.SHA256)
		}
		return list
	}
	if d := cmp.Diff(digests(first), digests(second)); err != nil || d != "" || len(first.Blobs) != 3 {
		t.Errorf("Save again without its rows = %v (-first +second):\n%s", err, d)
	}
	if first.Objects[0].Key == second.Objects[0].Key {
		t.Errorf("Save again without its rows used the key %s again, which a collection may be about to delete", first.Objects[0].Key)
	}

	if other, saved := checkpoint(ctx, t, New(Config{Blobs: blobs, Index: x}).Workspace(x.tenant, dir), x); other.Tree != lost.Tree || len(saved.Blobs) != 3 {
		t.Errorf("checkpoint by another worker = %s, %d blobs, want %s, 3", other.Tree, len(saved.Blobs), lost.Tree)
	}
}

func TestSaveDocuments(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	w := store.Workspace(x.tenant, t.TempDir())
	small, large := []byte(`{"small":1}`), bytes.Repeat([]byte("x"), tree.Small)
	saved, err := w.Save(ctx, nil, small, large, small)
	if err != nil || len(saved.Blobs) != 2 || len(saved.Objects) != 2 {
		t.Fatalf("Save(documents) = %+v, %v, want two blobs in two objects", saved, err)
	}
	x.commit(saved)
	for _, want := range [][]byte{small, large} {
		r, err := store.src.Open(ctx, x.tenant, tree.Sum(want))
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := got.ReadFrom(r); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("document = %d bytes, %v, want %d", got.Len(), err, len(want))
		}
		r.Close()
	}
}

// What changes between scan and save is not stored under the wrong name.
func TestSaveNoticesChange(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	large := strings.Repeat("x", tree.Small+1)
	for name, change := range map[string]func(dir string) error{
		"rewritten": func(dir string) error { return os.WriteFile(filepath.Join(dir, "small"), []byte("SMALL"), 0o644) },
		"grown": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "small"), []byte("small and more"), 0o644)
		},
		"large": func(dir string) error { return os.WriteFile(filepath.Join(dir, "large"), []byte(large[1:]+"y"), 0o644) },
		"link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "small")), os.Symlink("large", filepath.Join(dir, "small")))
		},
		"gone": func(dir string) error { return os.Remove(filepath.Join(dir, "small")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := store.Workspace(x.tenant, dir)
			files{"small": "small" + name, "large": large + name}.write(t, dir)
			scan, err := w.Scan(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			if saved, err := w.Save(t.Context(), scan); err == nil {
				t.Errorf("Save(%s since the scan) = %+v, want an error", name, saved)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	files{"a/b": "c"}.write(t, dir)
	scan, _ := checkpoint(t.Context(), t, w, x)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Scan(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Scan(cancelled) = %v, want context.Canceled", err)
	}
	if err := w.Restore(ctx, tree.Empty); !errors.Is(err, context.Canceled) {
		t.Errorf("Restore(cancelled) = %v, want context.Canceled", err)
	}
	if got := readFiles(t, dir); !slices.Equal(slices.Sorted(maps.Keys(got)), []string{"a/", "a/b"}) {
		t.Errorf("files after a cancelled Restore = %v, want them untouched", got)
	}
	restore(t.Context(), t, w, scan.Tree)
}
