package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// RemoveAll removes what is at path, which may be nothing, with all below it. A
// step may leave directories that not even their owner may write to; they go too.
// As much as can be is removed, whatever the error.
func RemoveAll(path string) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return removeAll(root, filepath.Base(path))
}

// removeAll does what RemoveAll does within root, which no link leads out of.
func removeAll(root *os.Root, p string) error {
	err := root.RemoveAll(p)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if info, statErr := root.Lstat(p); statErr != nil || !info.IsDir() {
		return err
	}
	unlock(root, p)
	return root.RemoveAll(p)
}

// unlock lets the owner write to the directory at p and to all below, where it
// may be changed; where not, the removal that follows tells. It goes down by one
// name at a time: those that steps choose are no paths for package fs.
func unlock(root *os.Root, p string) {
	if root.Chmod(p, 0o700) != nil {
		return
	}
	dir, err := root.OpenRoot(p)
	if err != nil {
		return
	}
	defer dir.Close()
	f, err := dir.Open(".")
	if err != nil {
		return
	}
	entries, _ := f.ReadDir(-1)
	f.Close()
	for _, e := range entries {
		if e.IsDir() {
			unlock(dir, e.Name())
		}
	}
}
