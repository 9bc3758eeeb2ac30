package edit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/bmatcuk/doublestar/v4"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// maxEntries is how many files and folders are looked at.
const maxEntries = 100_000

// Source is a file of the workspace.
type Source struct {
	Path   string
	Text   string // as it is shown
	Masked bool   // something of it was redacted
}

// Collection is the files that patterns chose.
type Collection struct {
	Shown   []Source // by path
	Skipped []string // chosen, but no text
	Others  []string // not chosen
}

// Collect reads the text files that match one of patterns (doublestar's; ** is all)
// and lists the others. Symlinks, what is reserved and what lies in .git are not
// there, nor is a file whose path has a secret in it. Text passes redact. More than MaxShownBytes is fault.Invalid.
func Collect(ctx context.Context, root *os.Root, patterns []string, redact func(string) string) (Collection, error) {
	var c Collection
	entries, total := 0, int64(0)
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if entries++; entries > maxEntries {
			return fault.New(fault.Invalid, "too-large", "the workspace has more than %d files and folders", maxEntries)
		}
		if d.IsDir() && (reserved(d.Name())) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || run.BadPath(p) != "" || redact(p) != p {
			return nil
		}
		if !slices.ContainsFunc(patterns, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, p) }) {
			c.Others = append(c.Others, p)
			return nil
		}
		text, err := read(root, p, MaxShownBytes)
		if err != nil {
			return err
		}
		if text == nil {
			c.Skipped = append(c.Skipped, p)
			return nil
		}
		if total += int64(len(text)); total > MaxShownBytes {
			return fault.New(fault.Invalid, "too-large", "paths choose more than %d bytes of text; narrow them (it was reached at %s)", MaxShownBytes, p)
		}
		shown := redact(string(text))
		c.Shown = append(c.Shown, Source{p, shown, shown != string(text)})
		return nil
	})
	return c, err
}

// reserved returns the folders that no answer may touch and nobody is shown.
func reserved(name string) bool { return strings.EqualFold(name, ".git") || name == ".nofx" }

// Open opens a regular file that is reached through no symlink. One that is not there
// is fs.ErrNotExist; other errors say what is there, in words for people.
func Open(root *os.Root, p string) (*os.File, error) {
	if err := Reach(root, p); err != nil {
		return nil, err
	}
	was, err := root.Lstat(p)
	switch {
	case err != nil:
		return nil, err
	case was.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("it " + symlink(root, p))
	case !was.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	}
	// A Root follows links inside of it, whatever flags it is given, so whether this is
	// what was looked at shows afterwards.
	f, err := root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if is, err := f.Stat(); err != nil || !os.SameFile(was, is) {
		_ = f.Close()
		return nil, cmp.Or(err, errors.New("it changed while it was opened"))
	}
	return f, nil
}

// read returns the text of a file, or nil if it is not text. A text of more than limit bytes
// is fault.Invalid.
func read(root *os.Root, p string, limit int64) ([]byte, error) {
	f, err := Open(root, p)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	over := int64(len(raw)) > limit
	if bytes.IndexByte(raw[:min(len(raw), 8<<10)], 0) >= 0 {
		return nil, nil // no need to say that a picture is large
	}
	if over {
		return nil, fault.New(fault.Invalid, "too-large", "%s is larger than %d bytes", p, limit)
	}
	if run.BadText(string(raw)) != "" {
		return nil, nil
	}
	return raw, nil
}

// Reach returns an error in words for people if a folder of p is none or a symlink. Those
// that are not there are no error.
func Reach(root *os.Root, p string) error {
	link, err := linked(root, p)
	if err != nil || link == "" {
		return err
	}
	return fmt.Errorf("%s %s", link, cmp.Or(symlink(root, link), "is no folder"))
}

// symlink returns where the symlink p leads, or "" if p is not one.
func symlink(root *os.Root, p string) string {
	target, err := root.Readlink(p)
	switch {
	case err != nil:
		return ""
	case path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(p), target)):
		return "is a symlink out of the workspace"
	}
	return "is a symlink"
}

// linked reports the first folder of p that is a symlink or no folder, or "".
func linked(root *os.Root, p string) (string, error) {
	for i, c := range p {
		if c != '/' {
			continue
		}
		info, err := root.Lstat(p[:i])
		switch {
		case isMissing(err):
			return "", nil
		case err != nil:
			return "", err
		case !info.IsDir():
			return path.Clean(p[:i]), nil
		}
	}
	return "", nil
}
