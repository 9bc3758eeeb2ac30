package tree

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// Tree is one stored workspace, for reading by path. Paths are relative, with
// slashes; the empty path is the workspace itself. Symbolic links are entries
// like others and never followed. A Tree keeps the directories it has read, and
// is for one goroutine.
type Tree struct {
	src    *Source
	tenant uuid.UUID
	root   Digest
	nodes  map[Digest][]Entry
}

// Tree returns the workspace whose root directory has the digest.
func (s *Source) Tree(tenant uuid.UUID, root Digest) *Tree {
	return &Tree{src: s, tenant: tenant, root: root, nodes: map[Digest][]Entry{}}
}

// Lookup finds the entry at a path: fault.NotFound when there is none, or when
// the path could not be one.
func (t *Tree) Lookup(ctx context.Context, p string) (Entry, error) {
	e := Entry{Mode: Directory, Digest: t.root}
	if p == "" {
		return e, nil
	}
	for name := range strings.SplitSeq(p, "/") {
		if e.Mode != Directory || !ValidName(name) {
			return Entry{}, notFound(p)
		}
		entries, err := t.node(ctx, e.Digest)
		if err != nil {
			return Entry{}, err
		}
		i, ok := find(entries, name)
		if !ok {
			return Entry{}, notFound(p)
		}
		e = entries[i]
	}
	return e, nil
}

// List returns the entries of the directory at a path, sorted; of a file, itself.
func (t *Tree) List(ctx context.Context, p string) ([]Entry, error) {
	e, err := t.Lookup(ctx, p)
	switch {
	case err != nil:
		return nil, err
	case e.Mode != Directory:
		return []Entry{e}, nil
	}
	return t.node(ctx, e.Digest)
}

// Open reads the file at a path, whatever its mode: of a symbolic link, its
// target. What it reads is verified at the end. A directory is fault.NotFound.
func (t *Tree) Open(ctx context.Context, p string) (io.ReadCloser, Entry, error) {
	e, err := t.Lookup(ctx, p)
	if err != nil {
		return nil, Entry{}, err
	}
	if e.Mode == Directory {
		return nil, Entry{}, notFound(p)
	}
	r, err := t.src.Open(ctx, t.tenant, e.Digest)
	return r, e, err
}

// Walk calls fn for every entry below the directory at a path, a directory
// before what is in it and names in their order, beginning behind the path after
// unless that is empty. fn may return fs.SkipAll to end the walk and fs.SkipDir
// to leave a directory out.
func (t *Tree) Walk(ctx context.Context, dir, after string, fn func(p string, e Entry) error) error {
	e, err := t.Lookup(ctx, dir)
	if err != nil {
		return err
	}
	if e.Mode != Directory {
		return notFound(dir)
	}
	if dir != "" {
		switch rest, below := strings.CutPrefix(after, dir+"/"); {
		case below:
			after = rest
		case after != "":
			return notFound(after)
		}
	}
	if err := t.walk(ctx, dir, e.Digest, after, fn); !errors.Is(err, fs.SkipAll) {
		return err
	}
	return nil
}

func (t *Tree) walk(ctx context.Context, dir string, d Digest, after string, fn func(string, Entry) error) error {
	entries, err := t.node(ctx, d)
	if err != nil {
		return err
	}
	if first, below, _ := strings.Cut(after, "/"); after != "" {
		i, ok := find(entries, first)
		entries = entries[i:]
		if ok {
			if e := entries[0]; e.Mode == Directory {
				if err := t.walk(ctx, path.Join(dir, first), e.Digest, below, fn); err != nil {
					return err
				}
			}
			entries = entries[1:]
		}
	}
	for i, e := range entries {
		p := path.Join(dir, e.Name)
		switch err := fn(p, e); {
		case e.Mode == Directory && err == nil:
			if err := t.ahead(ctx, entries[i:]); err != nil {
				return err
			}
			if err := t.walk(ctx, p, e.Digest, "", fn); err != nil {
				return err
			}
		case e.Mode == Directory && errors.Is(err, fs.SkipDir):
		case err != nil:
			return err
		}
	}
	return nil
}

// ahead reads the first of entries, a directory, and the next ones with it:
// they mostly lie in the same pack.
func (t *Tree) ahead(ctx context.Context, entries []Entry) error {
	const most = 64
	if _, ok := t.nodes[entries[0].Digest]; ok {
		return nil
	}
	var digests []Digest
	for _, e := range entries {
		if e.Mode == Directory {
			digests = append(digests, e.Digest)
		}
		if len(digests) == most {
			break
		}
	}
	return t.load(ctx, digests)
}

func (t *Tree) node(ctx context.Context, d Digest) ([]Entry, error) {
	if _, ok := t.nodes[d]; !ok {
		if err := t.load(ctx, []Digest{d}); err != nil {
			return nil, err
		}
	}
	return t.nodes[d], nil
}

func (t *Tree) load(ctx context.Context, digests []Digest) error {
	nodes, err := t.src.Nodes(ctx, t.tenant, digests)
	if err != nil {
		return err
	}
	for d, entries := range nodes {
		t.nodes[d] = entries
	}
	return nil
}

// find returns where name is among sorted entries, or would be.
func find(entries []Entry, name string) (int, bool) {
	return slices.BinarySearchFunc(entries, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
}

func notFound(p string) error {
	return fault.New(fault.NotFound, "not-found", "no file %q in this checkpoint", p)
}
