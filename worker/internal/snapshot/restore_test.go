package snapshot

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/usertest"
)

// Only what differs is asked for, and so fetched.
func TestRestoreFetchesTheDifference(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	here, there := t.TempDir(), t.TempDir()
	w, other := store.Workspace(x.tenant, here), store.Workspace(x.tenant, there)
	f := files{}
	for _, d := range []string{"a", "b", "c"} {
		for _, n := range []string{"1", "2", "3"} {
			f[d+"/"+n] = d + n
		}
	}
	f.write(t, here)
	one, _ := checkpoint(ctx, t, w, x)
	restore(ctx, t, other, one.Tree)
	x.questions()

	files{"b/2": "changed"}.write(t, here)
	two, _ := checkpoint(ctx, t, w, x)
	x.questions()
	restore(ctx, t, other, two.Tree)
	if got, want := x.questions(), 3; got != want { // the root, b and b/2
		t.Errorf("Restore of one change asked for %d digests, want %d", got, want)
	}
	restore(ctx, t, other, two.Tree)
	checkpoint(ctx, t, other, x)
	if got := x.questions(); got != 0 {
		t.Errorf("Restore and checkpoint of what is there asked for %d digests, want 0", got)
	}
	// A new worker without a cache looks at the directory instead.
	restore(ctx, t, store.Workspace(x.tenant, there), one.Tree)
	if got, want := x.questions(), 3; got != want {
		t.Errorf("Restore without a cache asked for %d digests, want %d", got, want)
	}
	if d := cmp.Diff(f.withParents(), readFiles(t, there)); d != "" {
		t.Errorf("restored (-want +got):\n%s", d)
	}
}

// Files of purged content are left out, whatever the directory held before: a workspace that
// was kept from an earlier step becomes what a new one becomes.
func TestRestoreLeavesOutWhatWasPurged(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("big", tree.Small)
	want := files{"same/secret": "secret", "same/other": "other", "d/secret": "exec:secret", "d/other": "d", "big": big, "link": "link:secret", "only/secret": "secret", "f": "f"}
	purged := []string{"secret", big}
	for name, before := range map[string]files{
		"a new directory":       {},
		"the tree itself":       want,
		"another file differs":  with(want, "f", "another", "d/other", "another"),
		"another mode":          with(want, "same/secret", "exec:secret", "d/secret", "secret"),
		"another content":       with(want, "same/secret", "public", "big", "small", "link", "link:f"),
		"the content elsewhere": {"x/copy": "secret", "only": "secret", "d/secret": big},
		"a directory there":     {"d/secret/secret": "secret", "big/x": "x", "link/secret": big, "f": "f"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			store, x := newStore()
			kept, next := store.Workspace(x.tenant, t.TempDir()), store.Workspace(x.tenant, t.TempDir())
			want.write(t, next.path)
			scan, _ := checkpoint(ctx, t, next, x)
			before.write(t, kept.path)
			checkpoint(ctx, t, kept, x)
			x.purge(purged...)

			left := maps.Clone(want)
			maps.DeleteFunc(left, func(p, content string) bool {
				return slices.Contains(purged, strings.TrimPrefix(strings.TrimPrefix(content, "link:"), "exec:"))
			})
			left["only/"] = ""
			for range 2 {
				restore(ctx, t, kept, scan.Tree)
				if d := cmp.Diff(left.withParents(), readFiles(t, kept.path)); d != "" {
					t.Errorf("restored (-want +got):\n%s", d)
				}
				if want := []string{"big", "d/secret", "link", "only/secret", "same/secret"}; !slices.Equal(kept.Purged, want) {
					t.Errorf("Purged = %q, want %q", kept.Purged, want)
				}
			}
			restore(ctx, t, next, scan.Tree)
			if d := cmp.Diff(readFiles(t, next.path), readFiles(t, kept.path)); d != "" {
				t.Errorf("what the workspace of the step before became (-) is not what another became (+):\n%s", d)
			}
			// A step writes the content again: what it names is left out as before.
			files{"again": "secret", "new": "new"}.write(t, kept.path)
			again, saved := checkpoint(ctx, t, kept, x)
			for _, b := range saved.Blobs {
				if b.SHA256 == tree.Sum([]byte("secret")) {
					t.Error("Save() stored purged content again")
				}
			}
			restore(ctx, t, kept, again.Tree)
			if _, err := os.Lstat(filepath.Join(kept.path, "again")); !errors.Is(err, os.ErrNotExist) || !slices.Equal(kept.Purged, []string{"again"}) {
				t.Errorf("Restore() after the content was written again left it there (%v), Purged = %q", err, kept.Purged)
			}
		})
	}
}

// A purge of content that the tree does not name costs no file.
func TestRestoreKeepsWhatWasNotPurged(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	w := store.Workspace(x.tenant, t.TempDir())
	want := files{"d/f": "f", "empty": ""}
	want.write(t, w.path)
	scan, _ := checkpoint(t.Context(), t, w, x)
	x.purge("else")
	restore(t.Context(), t, w, scan.Tree)
	if d := cmp.Diff(want.withParents(), readFiles(t, w.path)); d != "" || len(w.Purged) > 0 {
		t.Errorf("restored (-want +got), without %q:\n%s", w.Purged, d)
	}
}

// with returns f with other contents at some paths.
func with(f files, changes ...string) files {
	f = maps.Clone(f)
	for i := 0; i < len(changes); i += 2 {
		f[changes[i]] = changes[i+1]
	}
	return f
}

// What a tree does not hold of modes is told by the scan, and by a restore of what is
// still there. Who may write is not told.
func TestModesThatAreNotKept(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	files{"d/private": "p", "gone": "g", "run": "exec:r", "shared": "s", "wide/open": "w", "read-only": "o"}.write(t, dir)
	for name, mode := range map[string]os.FileMode{"d/private": 0o600, "d": 0o700, "gone": 0o400, "run": 0o4755, "shared": 0o664, "wide": 0o777, "read-only": 0o444} {
		if err := unix.Chmod(filepath.Join(dir, name), uint32(mode)); err != nil {
			t.Fatal(err)
		}
	}
	scan, _ := checkpoint(t.Context(), t, w, x)
	const want = `"d" 755 (was 700), "d/private" 644 (was 600), "gone" 644 (was 400), 1 more`
	if got := scan.Modes.String(); got != want {
		t.Errorf("Scan().Modes = %s, want %s", got, want)
	}
	other := t.TempDir()
	files{"d/private": "p", "run": "exec:r"}.write(t, other)
	less, _ := checkpoint(t.Context(), t, store.Workspace(x.tenant, other), x)
	restore(t.Context(), t, w, less.Tree)
	if got, want := w.Reset.String(), `"d" 755 (was 700), "d/private" 644 (was 600), "run" 755 (was 4755)`; got != want {
		t.Errorf("Reset after Restore = %s, want %s", got, want)
	}
	restore(t.Context(), t, w, less.Tree)
	if len(w.Reset) > 0 {
		t.Errorf("Reset after another Restore = %v, want none", w.Reset)
	}
}

// What was restored is known to the next scan, which does not read it again.
func TestRestoreFillsTheCache(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	files{"kept": "k", "mode": "m", "made": "1"}.write(t, dir)
	one, _ := checkpoint(t.Context(), t, store.Workspace(x.tenant, dir), x)
	w := store.Workspace(x.tenant, t.TempDir())
	w.now = func() time.Time { return time.Now().Add(time.Hour) } // looks are trusted at once
	files{"kept": "k", "mode": "exec:m", "made": "2"}.write(t, w.path)
	restore(t.Context(), t, w, one.Tree)
	for i := range w.seen.entries {
		w.seen.entries[i].Digest = tree.Sum([]byte("from the cache"))
	}
	scan, err := w.Scan(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range scan.root.entries {
		if e.Digest != tree.Sum([]byte("from the cache")) {
			t.Errorf("%s was read again after the restore", e.Name)
		}
	}
}

func TestRestoreRemovesEverythingElse(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	want := files{"f": "file", "d/x": "in d", "l": "link:f", "tool": "exec:#!", "pipe": "was a file", "twin": "f"}
	want.write(t, dir)
	scan, _ := checkpoint(ctx, t, w, x)

	for _, err := range []error{
		os.RemoveAll(filepath.Join(dir, "pipe")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.RemoveAll(filepath.Join(dir, "l")), os.MkdirAll(filepath.Join(dir, "l", "deep", "er"), 0o755),
		os.RemoveAll(filepath.Join(dir, "d")), os.Symlink("/etc", filepath.Join(dir, "d")),
		os.Remove(filepath.Join(dir, "twin")), os.Symlink("f", filepath.Join(dir, "twin")), // the same bytes
		os.Chmod(filepath.Join(dir, "tool"), 0o644), os.Chmod(filepath.Join(dir, "f"), 0o755),
		os.MkdirAll(filepath.Join(dir, ".nofx", "x"), 0o755),
		os.MkdirAll(filepath.Join(dir, "locked", "in"), 0o755), os.Chmod(filepath.Join(dir, "locked"), 0o500),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files{"f2": "extra", "b\xffd": "name"}.write(t, dir)
	restore(ctx, t, w, scan.Tree)
	if d := cmp.Diff(want.withParents(), readFiles(t, dir)); d != "" {
		t.Errorf("restored (-want +got):\n%s", d)
	}
}

// A step on a directory that was used sees what it would see on a new one: what
// it may write to, and that no file changes with another.
func TestRestorePermissions(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	want := files{"src/a/f": "file", "src/a/tool": "exec:#!", "src/l": "link:a/f", "one": "same", "two": "same", "d/three": "same", "run": "exec:same"}
	dir := t.TempDir()
	want.write(t, dir)
	scan, _ := checkpoint(t.Context(), t, store.Workspace(x.tenant, dir), x)
	for name, change := range map[string]func(dir string) error{
		"read-only": func(dir string) error {
			return errors.Join(
				os.Chmod(filepath.Join(dir, "src/a/f"), 0o444), os.Chmod(filepath.Join(dir, "src/a/tool"), 0o555),
				os.Chmod(filepath.Join(dir, "src/a"), 0o555), os.Chmod(filepath.Join(dir, "src"), 0o555), os.Chmod(dir, 0o555))
		},
		"unreadable": func(dir string) error {
			return errors.Join(os.Chmod(filepath.Join(dir, "one"), 0), os.Chmod(filepath.Join(dir, "src"), 0), os.Chmod(dir, 0))
		},
		"open to all": func(dir string) error {
			return errors.Join(os.Chmod(filepath.Join(dir, "one"), 0o666), os.Chmod(filepath.Join(dir, "run"), 0o777|os.ModeSetuid), os.Chmod(dir, 0o777))
		},
		"a new file in what is read-only": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "src/a/extra"), nil, 0o444), os.Remove(filepath.Join(dir, "src/a/f")),
				os.Chmod(filepath.Join(dir, "src/a"), 0o555))
		},
		"hard links": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "two")), os.Remove(filepath.Join(dir, "d/three")), os.Remove(filepath.Join(dir, "run")),
				os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "two")), os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "d/three")),
				os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "run"))) // the same bytes, another mode
		},
		"nothing": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			usertest.Plain(t, func(top string) {
				w := store.Workspace(x.tenant, filepath.Join(top, "w"))
				want.write(t, w.path) // not restored: that writes on goroutines of its own, as who the test is
				if err := change(w.path); err != nil {
					t.Fatal(err)
				}
				restore(t.Context(), t, w, scan.Tree)
				if got, err := w.Scan(t.Context(), nil); err != nil || got.Tree != scan.Tree {
					t.Errorf("Scan() after the restore = %v, %v, want %s", got, err, scan.Tree)
				}
				if d := cmp.Diff(want.withParents(), readFiles(t, w.path)); d != "" {
					t.Errorf("restored (-want +got):\n%s", d)
				}
				for _, p := range []string{".", "src", "src/a", "one", "two", "d/three", "run"} {
					var raw unix.Stat_t
					if err := unix.Lstat(filepath.Join(w.path, p), &raw); err != nil {
						t.Fatal(err)
					}
					if kind := raw.Mode & unix.S_IFMT; kind == unix.S_IFDIR && raw.Mode != kind|0o755 || kind == unix.S_IFREG && raw.Nlink != 1 {
						t.Errorf("%s has mode %o and %d links, want a directory of 755, a file of one link", p, raw.Mode, raw.Nlink)
					}
				}
			})
		})
	}
}

// Where nothing differs, nothing is touched.
func TestRestoreLeavesTheSameAlone(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	files{"d/f": "file", "tool": "exec:#!"}.write(t, dir)
	scan, _ := checkpoint(t.Context(), t, w, x)
	before := []stat{look(t, dir, "d"), look(t, dir, "d/f"), look(t, dir, "tool")}
	restore(t.Context(), t, w, scan.Tree)
	if after := []stat{look(t, dir, "d"), look(t, dir, "d/f"), look(t, dir, "tool")}; !slices.Equal(before, after) {
		t.Errorf("after a restore of the same tree files look like %+v, want %+v", after, before)
	}
}

// A link in the workspace does not lead a restore out of it.
func TestS16_RestoreStaysInside(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	outside, dir := t.TempDir(), t.TempDir()
	files{"keep": "outside"}.write(t, outside)
	w := store.Workspace(x.tenant, dir)
	files{"d/keep": "inside", "d/more": "inside"}.write(t, dir)
	scan, _ := checkpoint(ctx, t, w, x)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "d")), os.Symlink(outside, filepath.Join(dir, "d"))); err != nil {
		t.Fatal(err)
	}
	restore(ctx, t, w, scan.Tree)
	if d := cmp.Diff(files{"keep": "outside"}, readFiles(t, outside)); d != "" {
		t.Errorf("outside (-want +got):\n%s", d)
	}
	if d := cmp.Diff(files{"d/": "", "d/keep": "inside", "d/more": "inside"}, readFiles(t, dir)); d != "" {
		t.Errorf("inside (-want +got):\n%s", d)
	}
}

// Large content is streamed, also to several files, within flat memory.
func TestRestoreLarge(t *testing.T) {
	ctx := t.Context() // not parallel: it measures the heap
	store, x := newStore()
	dir := t.TempDir()
	block := make([]byte, 1<<20)
	rand.Read(block)
	large := bytes.Repeat(block, 64)
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, name), large, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := tree.Sum(large)
	block, large = nil, nil //nolint:ineffassign // garbage from here on, whatever the compiler makes of it
	scan, saved := checkpoint(ctx, t, store.Workspace(x.tenant, dir), x)
	if len(saved.Objects) != 2 {
		t.Errorf("Save = %d objects, want the content once and a pack", len(saved.Objects))
	}

	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w := store.Workspace(x.tenant, t.TempDir())
	restore(ctx, t, w, scan.Tree)
	runtime.ReadMemStats(&after)
	if used := int64(after.TotalAlloc - before.TotalAlloc); used > 16<<20 {
		t.Errorf("Restore of 128 MiB allocated %d bytes, want at most 16 MiB", used)
	}
	again, err := store.Workspace(x.tenant, w.path).Scan(ctx, nil)
	if err != nil || again.Tree != scan.Tree || again.root.entries[1].Digest != want {
		t.Errorf("Scan of the restored = %v, %v, want %s", again, err, scan.Tree)
	}
}

// What storage lost or changed is told apart, and never restored.
func TestRestoreDamaged(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) []byte { b[len(b)/3] ^= 1; return b }
	for _, c := range []struct {
		name, kind string
		damage     func([]byte) []byte // nil deletes
		want       fault.Kind
		code       string
	}{
		{"flipped pack", "pack", flip, fault.Conflict, "object-corrupt"},
		{"truncated pack", "pack", func(b []byte) []byte { return b[:20] }, fault.Conflict, "object-corrupt"},
		{"missing pack", "pack", nil, fault.Gone, "object-gone"},
		{"flipped blob", "blob", flip, fault.Conflict, "object-corrupt"},
		{"truncated blob", "blob", func(b []byte) []byte { return b[:len(b)-1] }, fault.Conflict, "object-corrupt"},
		{"missing blob", "blob", nil, fault.Gone, "object-gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			store, x := newStore()
			dir := t.TempDir()
			good := files{"small": strings.Repeat("small", 100), "large": strings.Repeat(c.name, tree.Small)}
			good.write(t, dir)
			scan, saved := checkpoint(ctx, t, store.Workspace(x.tenant, dir), x)
			for _, o := range saved.Objects {
				if o.Kind == c.kind {
					corrupt(t, o.Key, c.damage)
				}
			}
			w := store.Workspace(x.tenant, t.TempDir())
			err := w.Restore(ctx, scan.Tree)
			if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != c.want || e.Code != c.code {
				t.Fatalf("Restore = %v, want %s %s", err, c.want, c.code)
			}
			for p, content := range readFiles(t, w.path) {
				if content != good[p] {
					t.Errorf("%s was restored with other content", p)
				}
			}
			restore(ctx, t, w, tree.Empty) // the directory can still be used
		})
	}
	t.Run("another tenant's", func(t *testing.T) {
		t.Parallel()
		store, x := newStore()
		dir := t.TempDir()
		files{"f": "x"}.write(t, dir)
		scan, _ := checkpoint(t.Context(), t, store.Workspace(x.tenant, dir), x)
		if err := store.Workspace(uuid.New(), t.TempDir()).Restore(t.Context(), scan.Tree); !errors.Is(err, fault.Gone) {
			t.Errorf("Restore(another tenant's tree) = %v, want Gone", err)
		}
	})
}

func corrupt(t *testing.T, key string, damage func([]byte) []byte) {
	t.Helper()
	if damage == nil {
		if err := blobs.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		return
	}
	b := fetch(t, key)
	b = damage(b)
	if err := blobs.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func fetch(t *testing.T, key string) []byte {
	t.Helper()
	r, err := blobs.Open(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A pack is a zstd stream, and its index says what its rows say.
func TestPackFormat(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	files{"a": strings.Repeat("a", 1000), "b": "b", "c": "link:a"}.write(t, dir)
	_, saved := checkpoint(t.Context(), t, store.Workspace(x.tenant, dir), x)
	if len(saved.Objects) != 1 {
		t.Fatalf("Save = %d objects, want one pack", len(saved.Objects))
	}
	pack := fetch(t, saved.Objects[0].Key)
	if tree.Sum(pack) != saved.Objects[0].SHA256 {
		t.Errorf("pack has digest %s, want its address %s", tree.Sum(pack), saved.Objects[0].SHA256)
	}
	dec, err := zstd.NewReader(bytes.NewReader(pack))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	all, err := io.ReadAll(dec)
	var size int64
	for _, b := range saved.Blobs {
		size += b.Size
	}
	if err != nil || int64(len(all)) != size {
		t.Errorf("pack decompresses to %d bytes, %v, want %d", len(all), err, size)
	}
	rows, err := readIndex(pack)
	for i := range rows {
		rows[i].Pack = &saved.Objects[0].SHA256
	}
	if d := cmp.Diff(saved.Blobs, rows); err != nil || d != "" {
		t.Errorf("index = %v (-rows +index):\n%s", err, d)
	}
}
