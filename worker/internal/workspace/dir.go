package workspace

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"nofx.dev/shared/servertest/filelock"
	"nofx.dev/worker/internal/snapshot"
)

const (
	marker = ".nofx-workspaces"
	note   = "Workers of NOFX keep their workspaces here. When one starts, it removes the directories of those that have died.\n"

	prefix = "worker-" // of the directories of workers
	suffix = ".lock"   // of the lock beside each
)

// ownDir is the directory of this worker.
type ownDir struct {
	path   string // absolute
	parent string
	lock   *os.File
}

// openDir makes a directory for this worker in parent, which is made unless it is there.
// An empty parent is the default one.
func openDir(parent string) (*ownDir, error) {
	d, err := makeDir(parent)
	if err != nil {
		return nil, fmt.Errorf("NOFX_WORKSPACE_DIR: %w", err)
	}
	return d, nil
}

func makeDir(parent string) (*ownDir, error) {
	if parent == "" {
		parent = filepath.Join(os.TempDir(), fmt.Sprintf("nofx-worker-%d", os.Geteuid()))
		if err := private(parent); err != nil {
			return nil, err
		}
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	if err := mark(parent); err != nil {
		return nil, err
	}
	d := &ownDir{path: filepath.Join(parent, prefix+rand.Text()), parent: parent}
	// The lock is taken before the directory is made, so that a directory whose lock is
	// free is always one of a dead worker.
	if d.lock, err = filelock.Try(d.path + suffix); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// private makes the directory at path. One that is there must be ours alone: in the
// system's temporary directory every user may make it, or a link of that name.
func private(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case !ok || int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to other users, want mode 700", path)
	}
	return nil
}

// mark puts the marker into an empty directory. One that is not empty must have it.
func mark(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// The marker is looked for after the list: another worker may be starting here.
	path := filepath.Join(dir, marker)
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" || !e.IsDir() { // as new file systems have it
			return fmt.Errorf("%s is not empty and has no file %s, want an empty directory or one of workers", dir, marker)
		}
	}
	return os.WriteFile(path, []byte(note), 0o600)
}

// removeDead removes the directories of workers that have died. The error names those
// that could not be removed; the next start tries again.
func (d *ownDir) removeDead() error {
	entries, err := os.ReadDir(d.parent)
	for _, e := range entries {
		path := filepath.Join(d.parent, e.Name())
		if !strings.HasPrefix(e.Name(), prefix) || !e.IsDir() {
			continue
		}
		if info, lstatErr := os.Lstat(path + suffix); lstatErr != nil || !info.Mode().IsRegular() {
			continue // not a worker's
		}
		lock, lockErr := filelock.Try(path + suffix)
		if errors.Is(lockErr, filelock.ErrHeld) {
			continue // its worker lives, or another removes it
		}
		if lockErr == nil {
			lockErr = (&ownDir{path: path, lock: lock}).close()
		}
		err = errors.Join(err, lockErr)
	}
	return err
}

// close removes the directory with all that is in it and gives the lock back. If it
// cannot be removed, the next worker that starts tries again.
func (d *ownDir) close() error {
	defer d.lock.Close()
	if err := snapshot.RemoveAll(d.path); err != nil {
		return err
	}
	if err := os.Remove(d.path + suffix); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
