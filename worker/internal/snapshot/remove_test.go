package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/worker/internal/usertest"
)

// lock gives directories a mode, the first one first.
func lock(t *testing.T, mode os.FileMode, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.Chmod(d, mode); err != nil {
			t.Error(err)
		}
	}
}

func TestRemoveAll(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		kept := files{"outside/": "", "outside/f": "x"}
		kept.write(t, dir)
		for _, mode := range []os.FileMode{0o555, 0o000, 0o400, 0o300} {
			tree := filepath.Join(dir, "tree")
			files{"mod/cache/a/f": "x", "mod/cache/b\xff/c/f": "y", "mod/cache/l": "link:../../../outside", "empty/": ""}.write(t, tree)
			lock(t, mode, filepath.Join(tree, "mod/cache/b\xff/c"), filepath.Join(tree, "mod/cache/b\xff"),
				filepath.Join(tree, "mod/cache/a"), filepath.Join(tree, "mod/cache"), filepath.Join(tree, "mod"), tree)
			if err := RemoveAll(tree); err != nil {
				t.Errorf("RemoveAll(directories of mode %v) = %v, want nil", mode, err)
			}
			if d := cmp.Diff(kept, readFiles(t, dir)); d != "" {
				t.Fatalf("after RemoveAll(directories of mode %v) (-want +got):\n%s", mode, d)
			}
		}
		for _, nothing := range []string{"nothing", "nothing/below"} {
			if err := RemoveAll(filepath.Join(dir, nothing)); err != nil {
				t.Errorf("RemoveAll(%s) = %v, want nil", nothing, err)
			}
		}
		lock(t, 0o555, dir)
		if err := RemoveAll(filepath.Join(dir, "outside/f")); err != nil {
			t.Errorf("RemoveAll(file in a directory that may be written to) = %v, want nil", err)
		}
		if err := RemoveAll(filepath.Join(dir, "outside")); !errors.Is(err, os.ErrPermission) {
			t.Errorf("RemoveAll(directory in one of another's) = %v, want %v", err, os.ErrPermission)
		}
		lock(t, 0o755, dir)
	})
}
