package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"nofx.dev/worker/internal/usertest"
)

func mustOpen(t *testing.T, parent string) *ownDir {
	t.Helper()
	d, err := openDir(parent)
	if err != nil {
		t.Fatalf("openDir(%q) = %v, want a directory", parent, err)
	}
	return d
}

// names returns the names in dir, but for the marker, which must be there.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	at := slices.Index(list, marker)
	if at < 0 {
		t.Fatalf("%s has %v, want %s among them", dir, list, marker)
	}
	return slices.Delete(list, at, at+1)
}

// of returns the names that a directory has in its parent.
func of(dirs ...*ownDir) []string {
	list := []string{}
	for _, d := range dirs {
		list = append(list, filepath.Base(d.path), filepath.Base(d.path)+suffix)
	}
	slices.Sort(list)
	return list
}

// Workers live side by side. What a dead one left goes, also where nobody may write to
// it; what is not of workers stays.
func TestOpenBesideOthers(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		parent := filepath.Join(dir, "a", "b")
		dead, alive := mustOpen(t, parent), mustOpen(t, parent)
		cache := filepath.Join(dead.path, "1", "workspace", "cache")
		if err := errors.Join(os.MkdirAll(filepath.Join(cache, "mod"), 0o700), os.Chmod(cache, 0o555)); err != nil {
			t.Fatal(err)
		}
		for _, stranger := range []string{"worker-notes", "notes"} {
			if err := os.Mkdir(filepath.Join(parent, stranger), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		dead.lock.Close() // as the end of its process does
		last := mustOpen(t, parent)
		if err := last.removeDead(); err != nil {
			t.Errorf("removeDead() = %v, want nil", err)
		}
		want := append(of(alive, last), "notes", "worker-notes")
		slices.Sort(want)
		if got := names(t, parent); !slices.Equal(got, want) {
			t.Errorf("after a worker died and removeDead() there are %v, want %v", got, want)
		}
		if err := errors.Join(alive.close(), last.close()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if got := names(t, parent); !slices.Equal(got, []string{"notes", "worker-notes"}) {
			t.Errorf("after Close() there are %v, want what is not of workers", got)
		}
	})
}

// One that cannot be removed keeps neither the others nor the worker, and is tried again.
func TestRemoveDeadTriesAgain(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		stuck, other, live := mustOpen(t, dir), mustOpen(t, dir), mustOpen(t, dir)
		if err := os.Chmod(stuck.path+suffix, 0); err != nil {
			t.Fatal(err)
		}
		stuck.lock.Close()
		other.lock.Close()
		if err := live.removeDead(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), stuck.path) {
			t.Errorf("removeDead() = %v, want that %s may not be removed", err, stuck.path)
		}
		want := of(stuck, live)
		if got := names(t, dir); !slices.Equal(got, want) {
			t.Errorf("after removeDead() there are %v, want %v", got, want)
		}
		if err := os.Chmod(stuck.path+suffix, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := live.removeDead(); err != nil || !slices.Equal(names(t, dir), of(live)) {
			t.Errorf("removeDead() = %v and leaves %v, want %v", err, names(t, dir), of(live))
		}
	})
}

// Workers that start and end at once keep out of each other's way.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	parent := filepath.Join(t.TempDir(), "new")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range 20 {
				d, err := openDir(parent)
				if err != nil {
					t.Errorf("openDir() = %v, want a directory", err)
					return
				}
				if err := d.removeDead(); err != nil {
					t.Errorf("removeDead() = %v, want nil", err)
				}
				if _, err := os.Stat(d.path); err != nil {
					t.Errorf("the directory of a worker that lives: %v", err)
				}
				if i%2 == 0 {
					d.lock.Close() // dies
				} else if err := d.close(); err != nil {
					t.Errorf("Close() = %v, want nil", err)
				}
			}
		})
	}
	wg.Wait()
	last := mustOpen(t, parent)
	if err := last.removeDead(); err != nil || !slices.Equal(names(t, parent), of(last)) {
		t.Errorf("removeDead() = %v and leaves %v, want %v", err, names(t, parent), of(last))
	}
}

func TestOpenLooksAtTheParent(t *testing.T) {
	t.Parallel()
	dir := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Error(err)
		}
	}
	file := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
	}
	for name, tt := range map[string]struct {
		make func(t *testing.T, path string)
		want string // in the error; none when empty
	}{
		"nothing":            {func(*testing.T, string) {}, ""},
		"an empty directory": {dir, ""},
		"a volume that is new": {func(t *testing.T, path string) {
			dir(t, path)
			dir(t, filepath.Join(path, "lost+found"))
			if err := os.Chmod(filepath.Join(path, "lost+found"), 0); err != nil {
				t.Error(err)
			}
		}, ""},
		"a link to a directory": {func(t *testing.T, path string) {
			dir(t, path+".to")
			if err := os.Symlink(path+".to", path); err != nil {
				t.Error(err)
			}
		}, ""},
		"a file": {file, "not a directory"},
		"a directory with a file": {func(t *testing.T, path string) {
			dir(t, path)
			file(t, filepath.Join(path, "thesis.tex"))
		}, "is not empty"},
		"a directory with a file of that name": {func(t *testing.T, path string) {
			dir(t, path)
			file(t, filepath.Join(path, "lost+found"))
		}, "is not empty"},
		"a directory with a marker that is a link": {func(t *testing.T, path string) {
			dir(t, path)
			file(t, path+".to")
			if err := os.Symlink(path+".to", filepath.Join(path, marker)); err != nil {
				t.Error(err)
			}
		}, "is not empty"},
		"a directory that may not be written to": {func(t *testing.T, path string) {
			dir(t, path)
			if err := os.Chmod(path, 0o555); err != nil {
				t.Error(err)
			}
		}, "permission denied"},
		"a directory of workers that may not be written to": {func(t *testing.T, path string) {
			dir(t, path)
			file(t, filepath.Join(path, marker))
			if err := os.Chmod(path, 0o555); err != nil {
				t.Error(err)
			}
		}, "permission denied"},
		"a directory that may not be read": {func(t *testing.T, path string) {
			dir(t, path)
			if err := os.Chmod(path, 0o300); err != nil {
				t.Error(err)
			}
		}, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			usertest.Plain(t, func(tmp string) {
				path := filepath.Join(tmp, "spaces")
				tt.make(t, path)
				before, _ := os.ReadDir(path)
				d, err := openDir(path)
				if tt.want == "" {
					if err != nil {
						t.Errorf("openDir(%s) = %v, want a directory", name, err)
						return
					}
					if err := errors.Join(d.removeDead(), d.close()); err != nil {
						t.Errorf("removeDead() and Close() = %v, want nil", err)
					}
					if n := len(names(t, path)); n != len(before) {
						t.Errorf("%d entries stay, want the %d that were there", n, len(before))
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), "NOFX_WORKSPACE_DIR: ") || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("openDir(%s) = %v, want NOFX_WORKSPACE_DIR, %s and %q", name, err, path, tt.want)
				}
				if after, _ := os.ReadDir(path); len(after) != len(before) {
					t.Errorf("openDir(%s) leaves %v, want %v", name, after, before)
				}
			})
		})
	}
}

// The default parent is in a place where every user may write.
func TestPrivate(t *testing.T) {
	t.Parallel()
	mkdir := func(mode fs.FileMode) func(string) error {
		return func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)) }
	}
	for name, tt := range map[string]struct {
		make func(path string) error
		want string
	}{
		"nothing":                     {func(string) error { return nil }, ""},
		"our own":                     {mkdir(0o700), ""},
		"others may write":            {mkdir(0o722), "is open to other users"},
		"others may read":             {mkdir(0o750), "is open to other users"},
		"a link to a directory of us": {func(path string) error { return errors.Join(os.Mkdir(path+".to", 0o700), os.Symlink(path+".to", path)) }, "is not a directory"},
		"a link to nothing":           {func(path string) error { return os.Symlink(path+".to", path) }, "is not a directory"},
		"a file":                      {func(path string) error { return os.WriteFile(path, nil, 0o600) }, "is not a directory"},
		"below what is not there":     {func(path string) error { return os.Remove(filepath.Dir(path)) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "d", "spaces")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), tt.make(path)); err != nil {
				t.Fatal(err)
			}
			if err := private(path); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("private(%s) = %v, want %q", name, err, tt.want)
			}
		})
	}
	t.Run("of another user", func(t *testing.T) {
		t.Parallel()
		usertest.Plain(t, func(dir string) {
			if os.Geteuid() != 0 {
				return // nobody but root can make one
			}
			path := filepath.Join(dir, "spaces") // whose owner is not the process's user
			if err := private(path); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
				t.Errorf("private(another user's) = %v, want that it is", err)
			}
		})
	})
}
