package tool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/bmatcuk/doublestar/v4"

	"nofx.dev/shared/glob"
)

const (
	maxReports = 10_000  // files of a report
	maxSeen    = 1 << 20 // files and folders that are looked at for them
)

// alternative is one of the patterns without braces that a report's path stands for.
type alternative struct {
	pattern  string
	elements []string        // of a pattern with wildcards: what matches one name each, or any folders
	files    map[string]bool // that it stands for
}

// reports returns the alternatives of a report's path with their files. One without
// wildcards stands for the file of that name, whether it is there or not.
//
// Wildcards match no folders, and nothing in folders of the name .git or .nofx. They
// do match what is behind a symlink to a folder of the workspace; such a file is
// returned by the path that goes through no symlink. One to a folder elsewhere, behind
// which there may be files that match, is an error: they are not the workspace's, and
// a report must not be passed over.
func reports(root *os.Root, pattern string) (all []alternative, err error) {
	for p := range glob.Alternatives(pattern) {
		a := alternative{pattern: p, files: map[string]bool{}}
		if strings.ContainsAny(p, `*?[\`) {
			a.elements = elements(p)
		} else {
			a.files[p] = true
		}
		all = append(all, a)
	}
	workspace, err := filepath.EvalSymlinks(root.Name())
	if err != nil {
		return nil, err
	}
	f := finder{root: root, workspace: workspace, globs: all, visited: map[visit]bool{}}
	var start []place
	for i := range all {
		start = f.reach(start, place{i, 0})
	}
	if len(start) == 0 {
		return all, nil
	}
	return all, f.folder(".", start)
}

// elements returns the parts of a pattern between its slashes.
func elements(glob string) (list []string) {
	class, begin := false, 0
	for i := 0; i < len(glob); i++ {
		switch c := glob[i]; {
		case strings.HasPrefix(glob[i:], `\/`):
			list = append(list, glob[begin:i])
			i++
			begin = i + 1
		case c == '\\':
			i++
		case c == '[':
			class = true
		case c == ']':
			class = false
		case c == '/' && !class:
			list = append(list, glob[begin:i])
			begin = i + 1
		}
	}
	return append(list, glob[begin:])
}

// finder looks for files whose names match globs, as it goes along a path element by
// element. A folder may be reached by several paths, by which its files match other
// parts of the globs; symlinks may lead round in circles, but not for ever: there are
// only so many folders and parts.
type finder struct {
	root      *os.Root
	workspace string // the path of root, which goes through no symlink
	globs     []alternative
	visited   map[visit]bool
	seen      int // files and folders
	matched   int
}

// place is an element of a glob that a name has to match.
type place struct{ glob, element int }

// visit is a folder and the places at which the names in it are.
type visit struct {
	folder string
	places [sha256.Size]byte
}

// reach adds a place to others, with those that come next if ** stands for no folder.
func (f *finder) reach(places []place, p place) []place {
	for ; p.element < len(f.globs[p.glob].elements); p.element++ {
		if slices.Contains(places, p) {
			break
		}
		places = append(places, p)
		if f.globs[p.glob].elements[p.element] != "**" {
			break
		}
	}
	return places
}

// match returns the globs that a path which ends in name matches if it is a file's, and
// the places that its names are at if it is a folder's.
func (f *finder) match(at []place, name string) (globs []int, next []place) {
	for _, p := range at {
		element, last := f.globs[p.glob].elements[p.element], p.element == len(f.globs[p.glob].elements)-1
		switch {
		case element == "**":
			next = f.reach(next, p)
		case !doublestar.MatchUnvalidated(element, name):
			continue
		case !last:
			next = f.reach(next, place{p.glob, p.element + 1})
		}
		if last {
			globs = append(globs, p.glob)
		}
	}
	return globs, next
}

// folder looks at what is in a folder of the workspace, which is given by its own path.
func (f *finder) folder(dir string, at []place) error {
	v := visit{dir, sha256.Sum256(fmt.Append(nil, at))}
	if f.visited[v] {
		return nil
	}
	f.visited[v] = true
	entries, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if f.seen++; f.seen > maxSeen {
			return fmt.Errorf("more than %d files and folders may match", maxSeen)
		}
		globs, next := f.match(at, e.Name())
		if len(globs)+len(next) == 0 {
			continue
		}
		own, is, err := f.follow(path.Join(dir, e.Name()), e.Type())
		switch {
		case err != nil:
			return err
		case is == outside && len(next) > 0:
			return fmt.Errorf("%s is a symlink out of the workspace, and files behind it may match %s", own, f.globs[next[0].glob].pattern)
		case is == inside && len(next) > 0 && !hidden(own):
			if err := f.folder(own, next); err != nil {
				return err
			}
		case is == file:
			for _, g := range globs {
				f.globs[g].files[own] = true
				if f.matched++; f.matched > maxReports {
					return fmt.Errorf("more than %d files match", maxReports)
				}
			}
		}
	}
	return nil
}

// hidden reports whether a folder is, or is in, one in which nothing matches.
func hidden(dir string) bool {
	return slices.ContainsFunc(strings.Split(dir, "/"), func(name string) bool { return name == ".git" || name == ".nofx" })
}

// kind is what a path leads to.
type kind int

const (
	file kind = iota
	inside
	outside
)

// follow returns what a path leads to, and of a folder in the workspace its own path. A
// symlink that leads to no folder is itself taken for a file.
func (f *finder) follow(p string, mode fs.FileMode) (own string, is kind, err error) {
	switch {
	case mode.IsDir():
		return p, inside, nil
	case mode&fs.ModeSymlink == 0:
		return p, file, nil
	}
	// The step's code sees what its worker sees, so that is no more than it could look at.
	info, err := os.Stat(filepath.Join(f.workspace, p))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENOTDIR):
		return p, file, nil
	case err == nil && !info.IsDir():
		return p, file, nil
	}
	var target string
	if err == nil {
		target, err = filepath.EvalSymlinks(filepath.Join(f.workspace, p))
	}
	if err != nil {
		return "", 0, fmt.Errorf("where the symlink %s leads: %w", p, err)
	}
	own, err = filepath.Rel(f.workspace, target)
	if err != nil || !filepath.IsLocal(own) {
		return p, outside, nil
	}
	return own, inside, nil
}

// target returns the path of a file that goes through no symlink, or p itself where that
// leads to nothing that may be read: whoever opens it is told why.
func target(root *os.Root, p string) string {
	workspace, err := filepath.EvalSymlinks(root.Name())
	if err != nil {
		return p
	}
	full, err := filepath.EvalSymlinks(filepath.Join(workspace, p))
	if err != nil {
		return p
	}
	own, err := filepath.Rel(workspace, full)
	if err != nil || !filepath.IsLocal(own) || hidden(own) {
		return p
	}
	return own
}
