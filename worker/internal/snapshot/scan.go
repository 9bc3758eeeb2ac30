package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// hashers is how many files are read side by side.
const hashers = 2

// settled is how long before it was looked at a file must have been changed last
// for its looks to be trusted. A file changed twice within the clock's tick
// looks the same both times; git calls such an entry racy.
const settled = 2 * time.Second

// Scan is what a workspace held at one moment.
type Scan struct {
	Tree    tree.Digest
	Files   int   // with links, without directories
	Bytes   int64 // of the files
	Skipped []Skipped
	Modes   Modes // that are not part of the tree

	root *dir
}

// Modes are files and directories with permissions that no tree holds, in the order of
// their paths: somebody else may read or execute them once they are restored.
type Modes []Permissions

// Permissions are those of the file or directory at a path, and what it is restored
// with.
type Permissions struct {
	Path          string
	Was, Restored os.FileMode
}

// String names the first of them.
func (m Modes) String() string {
	return first(len(m), func(i int) string { return fmt.Sprintf("%q %o (was %o)", m[i].Path, m[i].Restored, m[i].Was) })
}

// first returns a text about n things that names three of them.
func first(n int, name func(i int) string) string {
	const most = 3
	var all []string
	for i := range min(n, most) {
		all = append(all, name(i))
	}
	if n > most {
		all = append(all, fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(all, ", ")
}

// Skipped is something in the workspace that is not part of its tree.
type Skipped struct {
	Path string `json:"path"`
	Why  string `json:"why"` // device, fifo, socket, name (that is not UTF-8), excluded
}

// Lost names the first of what is skipped although nobody asked for it, or is "".
func (s *Scan) Lost() string {
	lost := slices.DeleteFunc(slices.Clone(s.Skipped), func(sk Skipped) bool { return sk.Why == "excluded" })
	return first(len(lost), func(i int) string {
		if lost[i].Why == "name" {
			return fmt.Sprintf("%q (its name is not UTF-8)", lost[i].Path)
		}
		return fmt.Sprintf("%q (a %s)", lost[i].Path, lost[i].Why)
	})
}

// Scan reads the workspace without what the patterns excludes match (run.Exclude).
//
// A workspace beyond a limit, or with something that may not be read, is
// fault.Invalid. Nothing in the workspace is followed out of it: directories are
// opened one name below the other without following links, and a file must still
// be the one that was listed.
func (w *Workspace) Scan(ctx context.Context, excludes []string) (*Scan, error) {
	patterns := make([]run.Exclude, len(excludes))
	for i, text := range excludes {
		var problem string
		if patterns[i], problem = run.ParseExclude(text); problem != "" {
			return nil, fault.New(fault.Invalid, "invalid-field", "workspace.excludes: %q %s", text, problem)
		}
	}
	s := &scanner{ctx: ctx, limits: &w.store.limits, excludes: patterns, now: w.now()}
	if err := s.run(w.path, w.seen); err != nil {
		return nil, fmt.Errorf("scan workspace: %w", unreadable(w.path, err))
	}
	w.seen = s.root
	return &Scan{Tree: s.root.digest, Files: s.files, Bytes: s.bytes, Skipped: s.skipped, Modes: s.modes, root: s.root}, nil
}

// rights are the permissions that are told: who may read and execute, and what is
// set on execution. Who may write differs by umask and is seldom meant.
const rights = 0o7555

// scanner is one scan on its way.
type scanner struct {
	ctx      context.Context
	limits   *limits // nil: whatever there is
	excludes []run.Exclude
	now      time.Time

	root    *dir
	files   int
	entries int
	bytes   int64
	skipped []Skipped
	modes   Modes
	unhash  []unhashed
	odd     []target // without limits: what has not the permissions of its mode
}

// unhashed is a file whose content the cache does not know.
type unhashed struct {
	dir  *dir
	i    int
	path string
}

func (s *scanner) run(dirPath string, was *dir) error {
	f, err := os.OpenFile(dirPath, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.root, err = s.dir(f, "", 1, was); err != nil {
		return err
	}
	if err := s.hash(dirPath); err != nil {
		return err
	}
	s.root.seal(was)
	return nil
}

// dir lists the open directory f. What is known to be unchanged since was comes
// with its digest, the rest is put down to be hashed.
func (s *scanner) dir(f *os.File, at string, depth int, was *dir) (*dir, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	d := &dir{
		entries: make([]tree.Entry, 0, len(names)), stats: make([]stat, 0, len(names)), dirs: make([]*dir, 0, len(names)),
	}
	fd := int(f.Fd())
	for _, name := range names {
		var raw unix.Stat_t
		switch err := unix.Fstatat(fd, name, &raw, unix.AT_SYMLINK_NOFOLLOW); {
		case errors.Is(err, unix.ENOENT): // gone since it was listed
			continue
		case err != nil:
			return nil, &os.PathError{Op: "stat", Path: join(at, name), Err: err}
		}
		if why := s.skip(at, name, &raw); why != "" {
			s.skipped = append(s.skipped, Skipped{join(at, name), why})
			continue
		}
		if err := s.check(at, name, depth, &raw); err != nil {
			return nil, err
		}
		if err := s.entry(d, fd, at, name, depth, &raw, was); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (s *scanner) entry(d *dir, fd int, at, name string, depth int, raw *unix.Stat_t, was *dir) error {
	mode := modeOf(raw)
	if was := os.FileMode(raw.Mode & 0o7777); mode != tree.Symlink && was != permOf(mode) {
		if s.limits == nil {
			s.odd = append(s.odd, target{d, len(d.entries), join(at, name)})
		}
		if (was^permOf(mode))&rights != 0 {
			s.modes = append(s.modes, Permissions{join(at, name), was, permOf(mode)})
		}
	}
	if mode == tree.Directory {
		sub, err := openDir(fd, name)
		if err != nil {
			return &os.PathError{Op: "open", Path: join(at, name), Err: err}
		}
		defer sub.Close()
		below, err := s.dir(sub, join(at, name), depth+1, was.sub(name))
		if err != nil {
			return err
		}
		d.add(tree.Entry{Name: name, Mode: tree.Directory}, stat{}, below)
		return nil
	}

	e, st := tree.Entry{Name: name, Mode: mode, Size: raw.Size}, statOf(raw, s.now)
	s.files++
	s.bytes += raw.Size
	switch i, ok := was.find(name); {
	case ok && was.stats[i].sameAs(st):
		// Its mode is part of what is the same. It stays as settled as it was when
		// its content was read.
		e, st = was.entries[i], was.stats[i]
	case e.Mode == tree.Symlink:
		target, err := readlink(fd, name)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: join(at, name), Err: err}
		}
		e.Digest, e.Size = tree.Sum(target), int64(len(target))
	default:
		s.unhash = append(s.unhash, unhashed{d, len(d.entries), join(at, name)})
	}
	d.add(e, st, nil)
	return nil
}

// hash reads the files that the cache does not know.
func (s *scanner) hash(dirPath string) error {
	if len(s.unhash) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dirPath)
	if err != nil {
		return err
	}
	defer root.Close()
	todo := make(chan unhashed)
	g, ctx := errgroup.WithContext(s.ctx)
	for range min(hashers, len(s.unhash)) {
		g.Go(func() error {
			buf := make([]byte, tree.Small)
			for u := range todo {
				if err := s.hashFile(root, u, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(todo)
		for _, u := range s.unhash {
			select {
			case todo <- u:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return g.Wait()
}

func (s *scanner) hashFile(root *os.Root, u unhashed, buf []byte) error {
	e := &u.dir.entries[u.i]
	f, err := openListed(root, u.path, u.dir.stats[u.i])
	if err != nil {
		return err
	}
	defer f.Close()
	// Into a buffer first: most files fit, and one call hashes them fastest.
	n, err := io.ReadFull(f, buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		e.Digest, e.Size = sha256.Sum256(buf[:n]), int64(n)
		return nil
	}
	h := sha256.New()
	h.Write(buf)
	rest, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, buf)
	e.Digest, e.Size = tree.Digest(h.Sum(nil)), int64(n)+rest
	return err
}

// skip returns why something is not part of the tree, or nothing.
func (s *scanner) skip(at, name string, raw *unix.Stat_t) string {
	switch raw.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	default:
		return "device"
	}
	dir := raw.Mode&unix.S_IFMT == unix.S_IFDIR
	if slices.ContainsFunc(s.excludes, func(e run.Exclude) bool { return e.Match(join(at, name), dir) }) {
		return "excluded"
	}
	switch {
	case !tree.ValidName(name):
		return "name"
	case s.limits != nil:
		return ""
	case raw.Mode&unix.S_IFMT == unix.S_IFREG && raw.Nlink > 1:
		return "linked"
	}
	return ""
}

// check holds one entry against the limits.
func (s *scanner) check(at, name string, depth int, raw *unix.Stat_t) error {
	s.entries++
	l := s.limits
	switch regular := raw.Mode&unix.S_IFMT == unix.S_IFREG; {
	case l == nil:
		return nil
	case s.entries > l.entries:
		return beyond("the workspace has more than %d files and directories", l.entries)
	case len(at)+min(len(at), 1)+len(name) > l.path:
		return beyond("a path is longer than %d bytes: %.200q…", l.path, join(at, name))
	case depth > l.depth:
		return beyond("the workspace is deeper than %d directories: %.200q…", l.depth, join(at, name))
	case regular && raw.Size > l.file:
		return beyond("%q is larger than %d bytes", join(at, name), l.file)
	case regular && s.bytes+raw.Size > l.bytes:
		return beyond("the workspace is larger than %d bytes", l.bytes)
	}
	return nil
}
