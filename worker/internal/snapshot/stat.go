package snapshot

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// stat is what a file or link looked like when its content was read: as long as
// it looks the same, the content is taken to be the same.
type stat struct {
	size, mtime, ctime int64 // times in ns
	ino                uint64
	mode               tree.Mode
	settled            bool // false: looks prove nothing
}

func statOf(raw *unix.Stat_t, now time.Time) stat {
	st := stat{size: raw.Size, mtime: raw.Mtim.Nano(), ctime: raw.Ctim.Nano(), ino: raw.Ino, mode: modeOf(raw)}
	st.settled = max(st.mtime, st.ctime) < now.Add(-settled).UnixNano()
	return st
}

// sameAs reports whether the content read at st is still that of a file that now
// looks like other.
func (st stat) sameAs(other stat) bool {
	other.settled = true
	return st == other
}

// modeOf returns the mode in a tree, or zero for what no tree holds.
func modeOf(raw *unix.Stat_t) tree.Mode {
	switch kind := raw.Mode & unix.S_IFMT; {
	case kind == unix.S_IFDIR:
		return tree.Directory
	case kind == unix.S_IFLNK:
		return tree.Symlink
	case kind != unix.S_IFREG:
		return 0
	case raw.Mode&unix.S_IXUSR != 0:
		return tree.Executable
	default:
		return tree.File
	}
}

// permOf returns the permissions that a restored file or directory is made with.
func permOf(m tree.Mode) os.FileMode {
	if m == tree.File {
		return 0o644
	}
	return 0o755
}

// openDir opens a directory by its name in another, and nothing but a directory.
func openDir(fd int, name string) (*os.File, error) {
	for {
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(sub), name), nil
	}
}

func readlink(fd int, name string) ([]byte, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// openListed opens the regular file at path, provided that it is the one that
// was listed. os.Root keeps it in the workspace but would follow a link there,
// and opening a FIFO would wait for its writer; neither can be what was listed.
func openListed(root *os.Root, path string, listed stat) (*os.File, error) {
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := fstat(f, time.Time{})
	if err == nil && (st.ino != listed.ino || st.mode != listed.mode) {
		err = fault.New(fault.Conflict, "content-changed", "the workspace changed while it was being read").
			Because(fmt.Errorf("%s is another file", path))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func fstat(f *os.File, now time.Time) (stat, error) {
	var raw unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &raw); err != nil {
		return stat{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return statOf(&raw, now), nil
}
