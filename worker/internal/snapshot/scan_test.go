package snapshot

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/usertest"
)

func TestScanSkips(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	files{
		"keep": "k", ".nofx/own": "x", "sub/.nofx": "y", "node_modules/a": "1", "sub/node_modules/b": "2",
		"sub/out/x.o": "3", "out/y.o": "4", "sub/x.tmp": "5", "keep.tmp.txt": "6", "deep/a/b/.env": "7", ".env": "8", "sub/build/x": "9", "build": "f",
	}.write(t, dir)
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sub", "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	scan, err := store.Workspace(x.tenant, dir).Scan(t.Context(), []string{"node_modules", "sub/out", "*.tmp", "nowhere/*", "**/.env", "build/"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Skipped{
		{".env", "excluded"}, {"deep/a/b/.env", "excluded"}, {"node_modules", "excluded"}, {"pipe", "fifo"},
		{"sub/build", "excluded"}, {"sub/node_modules", "excluded"}, {"sub/out", "excluded"}, {"sub/sock", "socket"}, {"sub/x.tmp", "excluded"},
	}
	if d := cmp.Diff(want, scan.Skipped); d != "" {
		t.Errorf("Scan.Skipped (-want +got):\n%s", d)
	}
	if got, want := scan.Lost(), `"pipe" (a fifo), "sub/sock" (a socket)`; got != want {
		t.Errorf("Scan.Lost() = %s, want %s", got, want)
	}
	if scan.Files != 6 {
		t.Errorf("Scan.Files = %d, want 6", scan.Files)
	}
	for _, bad := range []string{"", "[", "a/["} {
		if _, err := store.Workspace(x.tenant, dir).Scan(t.Context(), []string{bad}); !errors.Is(err, fault.Invalid) {
			t.Errorf("Scan(exclude %q) = %v, want Invalid", bad, err)
		}
	}
}

func TestScanLimits(t *testing.T) {
	t.Parallel()
	small := limits{entries: 5, bytes: 100, file: 60, path: 30, depth: 3}
	for _, c := range []struct {
		name  string
		files files
		limit string // in the detail; "" passes
	}{
		{"at every limit", files{"1": strings.Repeat("x", 60), "2": strings.Repeat("x", 40), "a/b/c": "", strings.Repeat("p", 30): ""}.without("2"), ""},
		{"entries", files{"1": "", "2": "", "3": "", "4": "", "5": "", "6/": ""}, "more than 5 files"},
		{"bytes", files{"1": strings.Repeat("x", 60), "2": strings.Repeat("x", 41)}, "the workspace is larger than 100 bytes"},
		{"file", files{"1": strings.Repeat("x", 61)}, "\"1\" is larger than 60 bytes"},
		{"path", files{"dir/" + strings.Repeat("p", 27): ""}, "a path is longer than 30 bytes"},
		{"depth", files{"a/b/c/d": ""}, "deeper than 3 directories"},
		{"depth of directories", files{"a/b/c/d/": ""}, "deeper than 3 directories"},
		{"links count", files{"1": "link:x", "2": "link:x", "3": "link:x", "4": "link:x", "5": "link:x", "6": "link:x"}, "more than 5 files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store, x := newStore()
			store.limits = small
			dir := t.TempDir()
			c.files.write(t, dir)
			w := store.Workspace(x.tenant, dir)
			_, err := w.Scan(t.Context(), nil)
			if c.limit == "" {
				if err != nil {
					t.Errorf("Scan = %v, want nil", err)
				}
				return
			}
			e, ok := errors.AsType[*fault.Error](err)
			if !ok || e.Kind != fault.Invalid || e.Code != "workspace-limit" || !strings.Contains(e.Detail, c.limit) {
				t.Errorf("Scan = %v, want workspace-limit with %q", err, c.limit)
			}
			restore(t.Context(), t, w, tree.Empty) // what cannot be kept can be cleared
			if got := readFiles(t, dir); len(got) != 0 {
				t.Errorf("files after Restore(empty) = %v, want none", got)
			}
		})
	}
}

func (f files) without(p string) files {
	delete(f, p)
	return f
}

func TestScanInvalidName(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	dir := t.TempDir()
	files{"good/b\xffd": "x"}.write(t, dir)
	w := store.Workspace(x.tenant, dir)
	scan, err := w.Scan(t.Context(), nil)
	if err != nil || scan.Lost() != `"good/b\xffd" (its name is not UTF-8)` {
		t.Errorf("Scan(name that is not UTF-8) = %+v, %v, want it skipped and told", scan, err)
	}
	restore(t.Context(), t, w, tree.Empty)
	if got := readFiles(t, dir); len(got) != 0 {
		t.Errorf("files after Restore(empty) = %v, want none", got)
	}
}

// Links are text, wherever they lead: nothing behind them is read.
func TestScanDoesNotFollow(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	outside, dir := t.TempDir(), t.TempDir()
	files{"secret/key": "s3cr3t"}.write(t, outside)
	files{"file": "link:" + outside + "/secret/key", "dir": "link:" + outside + "/secret", "loop": "link:loop", "up": "link:../.."}.write(t, dir)
	scan, _ := checkpoint(t.Context(), t, store.Workspace(x.tenant, dir), x)
	for _, e := range scan.root.entries {
		if e.Mode != tree.Symlink {
			t.Errorf("%s has mode %s, want a link", e.Name, e.Mode)
		}
	}
	if _, ok := x.rows[tree.Sum([]byte("s3cr3t"))]; ok {
		t.Error("what a link leads to was stored")
	}
	if _, err := store.Workspace(x.tenant, filepath.Join(dir, "dir")).Scan(t.Context(), nil); err == nil {
		t.Error("Scan(workspace that is a link) = nil, want an error")
	}
}

// A file exchanged for a link between listing and reading is not followed.
func TestOpenListed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files{"a": "a", "b": "b"}.write(t, dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	listed := look(t, dir, "a")
	f, err := openListed(root, "a", listed)
	if err != nil {
		t.Fatalf("openListed(same) = %v, want nil", err)
	}
	f.Close()
	for name, swap := range map[string]func() error{
		"link": func() error { return os.Symlink("b", filepath.Join(dir, "a")) },
		"fifo": func() error { return unix.Mkfifo(filepath.Join(dir, "a"), 0o644) },
		"file": func() error { return os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "a")) },
		"none": func() error { return nil },
	} {
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, "a")), swap()); err != nil {
			t.Fatal(err)
		}
		if f, err := openListed(root, "a", listed); err == nil {
			t.Errorf("openListed(%s in its place) = %v, want an error", name, f.Name())
		}
	}
}

// What permissions keep from being read is the step's doing, and the error names it.
func TestScanNamesTheUnreadable(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		path string
		mode os.FileMode
		want string
	}{
		"directory":                 {"sub", 0, `"sub"`},
		"directory without a look":  {"sub", 0o600, `"sub/secret"`},
		"workspace":                 {".", 0, `"."`},
		"workspace without a look":  {".", 0o600, `"sub"`},
		"nothing that is forbidden": {"sub", 0o500, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			usertest.Plain(t, func(top string) {
				dir := filepath.Join(top, "workspace")
				files{"sub/secret": "x"}.write(t, dir)
				path := filepath.Join(dir, tt.path)
				if err := os.Chmod(path, tt.mode); err != nil {
					t.Fatal(err)
				}
				defer os.Chmod(path, 0o755) //nolint:errcheck // for the directory to be removed
				store, x := newStore()
				_, err := store.Workspace(x.tenant, dir).Scan(t.Context(), nil)
				if tt.want == "" {
					if err != nil {
						t.Errorf("Scan() = %v, want nil", err)
					}
					return
				}
				wantUnreadable(t, "Scan()", err, tt.want, dir)
			})
		})
	}
}

// Files are read by goroutines of the scan, so this reads one itself.
func TestHashNamesTheUnreadable(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		files{"sub/secret": "x"}.write(t, dir)
		if err := os.Chmod(filepath.Join(dir, "sub/secret"), 0); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_, err = openListed(root, "sub/secret", stat{})
		wantUnreadable(t, "openListed(mode 000)", unreadable(dir, err), `"sub/secret"`, dir)
	})
}

func wantUnreadable(t *testing.T, what string, err error, path, dir string) {
	t.Helper()
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Invalid || e.Code != "workspace-unreadable" || !strings.Contains(e.Detail, path) || strings.Contains(e.Detail, dir) {
		t.Errorf("%s = %v, want invalid (workspace-unreadable) that names %s", what, err, path)
	}
}
