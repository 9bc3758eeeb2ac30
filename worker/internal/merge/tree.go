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

// Merged is what became of several trees. With conflicts there is no tree.
type Merged struct {
	Tree      tree.Digest
	Made      [][]byte   // its directories and files that the merge made, to be stored
	Conflicts []Conflict // by path, of the first side that has any with those before it

	nodes map[tree.Digest][]tree.Entry // those of Made that are directories
}

// Over returns a source of what the merge made and of what src reads, so that a tree which
// is not stored can be the base of another merge.
func (m Merged) Over(src Source) Source {
	made := make(map[tree.Digest][]byte, len(m.Made))
	for _, content := range m.Made {
		made[tree.Sum(content)] = content
	}
	return Source{
		Nodes: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
			found := map[tree.Digest][]tree.Entry{}
			var others []tree.Digest
			for _, d := range digests {
				if entries, ok := m.nodes[d]; ok {
					found[d] = entries
				} else {
					others = append(others, d)
				}
			}
			if len(others) == 0 {
				return found, nil
			}
			read, err := src.Nodes(ctx, others)
			maps.Copy(found, read)
			return found, err
		},
		File: func(ctx context.Context, d tree.Digest) ([]byte, error) {
			if content, ok := made[d]; ok {
				return content, nil
			}
			return src.File(ctx, d)
		},
	}
}

// Trees merges trees, in their order, into one, path by path, and text files line by line.
// base is the tree that all of them come from.
//
// More than 10,000 conflicts are fault.Conflict (too-many-conflicts), trees that are
// deeper than a workspace may be fault.Invalid (workspace-limit); other errors are those
// of src.
func Trees(ctx context.Context, src Source, base tree.Digest, sides ...tree.Digest) (Merged, error) {
	if len(sides) == 0 {
		return Merged{Tree: base}, nil
	}
	m := &trees{src: src, nodes: map[tree.Digest][]tree.Entry{}, made: map[tree.Digest][]byte{}}
	result := sides[0]
	for _, side := range sides[1:] {
		var err error
		if result, err = m.dirs(ctx, "", 0, base, result, side); err != nil {
			return Merged{}, err
		}
		if len(m.conflicts) > 0 { // what is left of the paths would conflict with the next tree too
			slices.SortFunc(m.conflicts, func(a, b Conflict) int { return strings.Compare(a.Path, b.Path) })
			return Merged{Conflicts: slices.Compact(m.conflicts)}, nil
		}
	}
	merged := Merged{Tree: result, nodes: map[tree.Digest][]tree.Entry{}}
	m.collect(&merged, result)
	return merged, nil
}

// trees is one merge on its way.
type trees struct {
	src       Source
	nodes     map[tree.Digest][]tree.Entry // those read, and those made
	made      map[tree.Digest][]byte       // directories and files
	conflicts []Conflict
}

// dirs merges two directories that come from base. Where only one differs from
// it, that one is taken without looking into it.
func (m *trees) dirs(ctx context.Context, at string, depth int, base, ours, theirs tree.Digest) (tree.Digest, error) {
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
func (m *trees) entry(ctx context.Context, at string, depth int, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
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
func (m *trees) file(ctx context.Context, at string, e tree.Entry, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
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

func (m *trees) content(ctx context.Context, d tree.Digest) ([]byte, error) {
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
func (m *trees) below(ctx context.Context, at string, depth int, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
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

func (m *trees) conflict(at string, kind Kind) error {
	m.conflicts = append(m.conflicts, Conflict{Path: at, Kind: kind})
	return nil
}

// foldCase finds names that differ in case only and that the merge brought
// together: a side that has both has decided that it wants them.
func (m *trees) foldCase(at string, merged, ours, theirs []tree.Entry) {
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
func (m *trees) load(ctx context.Context, digests ...tree.Digest) error {
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

// collect adds to merged the directories and files of d's tree that were made here, each
// directory after what is in it.
func (m *trees) collect(merged *Merged, d tree.Digest) {
	node, ok := m.made[d]
	if _, seen := merged.nodes[d]; !ok || seen {
		return
	}
	for _, e := range m.nodes[d] {
		if e.Mode == tree.Directory {
			m.collect(merged, e.Digest)
		} else if content, ok := m.made[e.Digest]; ok && class(&e) == tree.File {
			merged.Made = append(merged.Made, content)
		}
	}
	merged.nodes[d] = m.nodes[d]
	merged.Made = append(merged.Made, node)
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
