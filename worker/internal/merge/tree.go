package merge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// maxDepth is how many directories may be above a file, as in a workspace.
const maxDepth = 64

// Source reads what trees are made of.
type Source struct {
	// Nodes returns the entries of each of the directories.
	Nodes func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error)
	// File returns the content of a file. It is called for files of at most a mebibyte.
	File func(ctx context.Context, digest tree.Digest) ([]byte, error)
}

// Trees merges trees. It knows what it has made, so that a tree which is not stored can be
// a side or the base of its next merge. Use it from one goroutine at a time.
type Trees struct {
	src       Source
	nodes     map[tree.Digest][]tree.Entry // those read, and those made
	made      map[tree.Digest][]byte       // directories and files
	conflicts []Conflict                   // of the merge under way
}

// NewTrees returns a merger of trees that src reads.
func NewTrees(src Source) *Trees {
	return &Trees{src: src, nodes: map[tree.Digest][]tree.Entry{}, made: map[tree.Digest][]byte{}}
}

// Merge merges two trees that come from base, path by path, and text files line by line. It
// returns the merged tree, or the conflicts, by path, without a tree.
//
// More than 10,000 conflicts are fault.Conflict (too-many-conflicts), trees that are
// deeper than a workspace may be fault.Invalid (workspace-limit); other errors are those
// of the source.
func (m *Trees) Merge(ctx context.Context, base, ours, theirs tree.Digest) (merged tree.Digest, conflicts []Conflict, err error) {
	m.conflicts = nil
	if merged, err = m.dirs(ctx, "", 0, base, ours, theirs); err != nil {
		return tree.Digest{}, nil, err
	}
	if len(m.conflicts) > 0 {
		slices.SortFunc(m.conflicts, func(a, b Conflict) int { return strings.Compare(a.Path, b.Path) })
		return tree.Digest{}, slices.Compact(m.conflicts), nil
	}
	return merged, nil, nil
}

// Made returns the directories and files of a tree that merges have made, which are to be
// stored: each directory after what is in it.
func (m *Trees) Made(root tree.Digest) (contents [][]byte) {
	seen := map[tree.Digest]bool{}
	var walk func(tree.Digest)
	walk = func(d tree.Digest) {
		node, ok := m.made[d]
		if !ok || seen[d] {
			return
		}
		seen[d] = true
		for _, e := range m.nodes[d] {
			if e.Mode == tree.Directory {
				walk(e.Digest)
			} else if content, ok := m.made[e.Digest]; ok && class(&e) == tree.File {
				contents = append(contents, content)
			}
		}
		contents = append(contents, node)
	}
	walk(root)
	return contents
}

// dirs merges two directories that come from base. Where only one differs from
// it, that one is taken without looking into it.
func (m *Trees) dirs(ctx context.Context, at string, depth int, base, ours, theirs tree.Digest) (tree.Digest, error) {
	switch {
	case ours == theirs, base == theirs:
		return ours, nil
	case base == ours:
		return theirs, nil
	case depth > maxDepth:
		return tree.Digest{}, fault.New(fault.Invalid, "workspace-limit", "the trees are deeper than %d directories", maxDepth)
	}
	if err := m.load(ctx, base, ours, theirs); err != nil {
		return tree.Digest{}, err
	}
	b, o, t := m.nodes[base], m.nodes[ours], m.nodes[theirs]
	var entries []tree.Entry
	for _, name := range names(b, o, t) {
		e, err := m.entry(ctx, join(at, name), depth, find(b, name), find(o, name), find(t, name))
		if err != nil {
			return tree.Digest{}, err
		}
		if e != nil {
			entries = append(entries, *e)
		}
	}
	m.foldCase(at, entries, o, t)
	if len(m.conflicts) > mostConflicts {
		return tree.Digest{}, tooMany("paths")
	}
	node := tree.Encode(entries)
	d := tree.Sum(node)
	m.nodes[d], m.made[d] = entries, node
	return d, nil
}

// entry merges what two sides have under one name; nil is nothing.
func (m *Trees) entry(ctx context.Context, at string, depth int, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	switch {
	case same(ours, theirs), same(base, theirs):
		return ours, nil
	case same(base, ours):
		return theirs, nil
	}
	// All three differ. A directory missing on a side is one without files there:
	// then it is its files that were deleted or not.
	if isDir(ours) && isDir(theirs) || isDir(base) && (ours == nil && isDir(theirs) || isDir(ours) && theirs == nil) {
		return m.below(ctx, at, depth, base, ours, theirs)
	}
	switch {
	// Where a directory took a file's place, or a file a directory's, the paths of
	// the one are gone and those of the other are new: a side that has nothing
	// here removed the old ones too, and has no say in the new.
	case ours == nil && isDir(base) != isDir(theirs):
		return theirs, nil
	case theirs == nil && isDir(base) != isDir(ours):
		return ours, nil
	case ours == nil || theirs == nil:
		return nil, m.conflict(at, Deleted)
	case class(ours) != class(theirs):
		return nil, m.conflict(at, Type)
	case base == nil || class(base) != class(ours):
		if ours.Digest == theirs.Digest {
			return nil, m.conflict(at, Mode)
		}
		return nil, m.conflict(at, Added)
	}
	// Bytes and mode are merged each for itself; a mode is one of two, so it
	// cannot have become two others.
	e := *ours
	if ours.Mode == base.Mode {
		e.Mode = theirs.Mode
	}
	switch base.Digest {
	case ours.Digest:
		e.Digest, e.Size = theirs.Digest, theirs.Size
	case theirs.Digest:
	default:
		if ours.Digest != theirs.Digest {
			return m.file(ctx, at, e, base, ours, theirs)
		}
	}
	return &e, nil
}

// file merges a file whose bytes both sides changed differently. e is what is merged of it
// besides.
func (m *Trees) file(ctx context.Context, at string, e tree.Entry, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	texts := make([]string, 3)
	for i, side := range []*tree.Entry{base, ours, theirs} {
		if class(side) != tree.File || side.Size > mostText {
			return nil, m.conflict(at, Content)
		}
		content, err := m.content(ctx, side.Digest)
		if err != nil {
			return nil, err
		}
		texts[i] = string(content)
	}
	if !mergeable(texts...) {
		return nil, m.conflict(at, Content)
	}
	merged, hunks := Text(texts[0], texts[1], texts[2])
	if len(hunks) > 0 {
		m.conflicts = append(m.conflicts, Conflict{Path: at, Kind: Content, Line: hunks[0].Line})
		return nil, nil
	}
	content := []byte(merged)
	e.Digest, e.Size = tree.Sum(content), int64(len(content))
	m.made[e.Digest] = content
	return &e, nil
}

func (m *Trees) content(ctx context.Context, d tree.Digest) ([]byte, error) {
	if content, ok := m.made[d]; ok {
		return content, nil
	}
	content, err := m.src.File(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read file %s: %w", d, err)
	}
	return content, nil
}

// below merges directories of which one may be missing. The result is missing
// when nothing is left in it and a side had removed it.
func (m *Trees) below(ctx context.Context, at string, depth int, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	d, err := m.dirs(ctx, at, depth+1, nodeOf(base), nodeOf(ours), nodeOf(theirs))
	if err != nil {
		return nil, err
	}
	if d == tree.Empty && (ours == nil || theirs == nil) {
		return nil, nil
	}
	e := tree.Entry{Name: at[strings.LastIndexByte(at, '/')+1:], Mode: tree.Directory, Digest: d}
	for _, side := range []*tree.Entry{ours, theirs} {
		if side != nil && side.Digest == d {
			e.Size = side.Size
		}
	}
	if node, ok := m.made[d]; ok {
		e.Size = int64(len(node))
	}
	return &e, nil
}

func (m *Trees) conflict(at string, kind Kind) error {
	m.conflicts = append(m.conflicts, Conflict{Path: at, Kind: kind})
	return nil
}

// foldCase finds names that differ in case only and that the merge brought
// together: a side that has both has decided that it wants them.
func (m *Trees) foldCase(at string, merged, ours, theirs []tree.Entry) {
	folded := make(map[string]string, len(merged))
	for _, e := range merged {
		key := strings.ToLower(e.Name)
		other, ok := folded[key]
		folded[key] = e.Name
		if !ok {
			continue
		}
		both := func(side []tree.Entry) bool { return find(side, e.Name) != nil && find(side, other) != nil }
		if !both(ours) && !both(theirs) {
			m.conflicts = append(m.conflicts, Conflict{Path: join(at, other), Kind: Case}, Conflict{Path: join(at, e.Name), Kind: Case})
		}
	}
}

// load reads the directories that are not known yet.
func (m *Trees) load(ctx context.Context, digests ...tree.Digest) error {
	unknown := slices.DeleteFunc(digests, func(d tree.Digest) bool { _, ok := m.nodes[d]; return ok || d == tree.Empty })
	if len(unknown) == 0 {
		return nil
	}
	read, err := m.src.Nodes(ctx, unknown)
	if err != nil {
		return fmt.Errorf("read directories: %w", err)
	}
	maps.Copy(m.nodes, read)
	return nil
}

func names(sides ...[]tree.Entry) []string {
	var all []string
	for _, side := range sides {
		for _, e := range side {
			all = append(all, e.Name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func find(entries []tree.Entry, name string) *tree.Entry {
	i, ok := slices.BinarySearchFunc(entries, name, func(e tree.Entry, name string) int { return strings.Compare(e.Name, name) })
	if !ok {
		return nil
	}
	return &entries[i]
}

func same(a, b *tree.Entry) bool {
	return a == b || a != nil && b != nil && a.Mode == b.Mode && a.Digest == b.Digest
}

func isDir(e *tree.Entry) bool { return e != nil && e.Mode == tree.Directory }

// class returns the mode without the bit that says executable.
func class(e *tree.Entry) tree.Mode {
	if e.Mode == tree.Executable {
		return tree.File
	}
	return e.Mode
}

// nodeOf returns the directory that an entry leads to, an empty one for other entries.
func nodeOf(e *tree.Entry) tree.Digest {
	if !isDir(e) {
		return tree.Empty
	}
	return e.Digest
}

// join makes a path of a directory's path and a name.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
