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

// Nodes reads directories: the result has the entries of each of the digests.
type Nodes func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error)

// Merged is what became of several trees. With conflicts there is no tree.
type Merged struct {
	Tree      tree.Digest
	Nodes     [][]byte   // its directories that the merge made, to be stored
	Conflicts []Conflict // by path, of the first side that has any with those before it
}

// Over returns a reader of the directories that the merge made and of those that nodes
// reads, so that a tree which is not stored can be the base of another merge.
func (m Merged) Over(nodes Nodes) Nodes {
	made := make(map[tree.Digest][]byte, len(m.Nodes))
	for _, node := range m.Nodes {
		made[tree.Sum(node)] = node
	}
	return func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
		found := map[tree.Digest][]tree.Entry{}
		var others []tree.Digest
		for _, d := range digests {
			node, ok := made[d]
			if !ok {
				others = append(others, d)
				continue
			}
			entries, err := tree.Decode(node)
			if err != nil {
				return nil, err
			}
			found[d] = entries
		}
		if len(others) == 0 {
			return found, nil
		}
		read, err := nodes(ctx, others)
		maps.Copy(found, read)
		return found, err
	}
}

// Trees merges trees, in their order, into one, path by path. No lines are merged.
// base is the tree that all of them come from.
//
// More than 10,000 conflicts are fault.Conflict (too-many-conflicts), trees that are
// deeper than a workspace may be fault.Invalid (workspace-limit); other errors are those
// of nodes.
func Trees(ctx context.Context, nodes Nodes, base tree.Digest, sides ...tree.Digest) (Merged, error) {
	if len(sides) == 0 {
		return Merged{Tree: base}, nil
	}
	m := &trees{read: nodes, nodes: map[tree.Digest][]tree.Entry{}, made: map[tree.Digest][]byte{}}
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
	return Merged{Tree: result, Nodes: m.collect(nil, result)}, nil
}

// trees is one merge on its way.
type trees struct {
	read      Nodes
	nodes     map[tree.Digest][]tree.Entry // those read, and those made
	made      map[tree.Digest][]byte
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
			return nil, m.conflict(at, Content)
		}
	}
	return &e, nil
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
	read, err := m.read(ctx, unknown)
	if err != nil {
		return fmt.Errorf("read directories: %w", err)
	}
	maps.Copy(m.nodes, read)
	return nil
}

// collect appends the directories of d's tree that were made here, each after those in it.
func (m *trees) collect(all [][]byte, d tree.Digest) [][]byte {
	node, ok := m.made[d]
	if !ok {
		return all
	}
	for _, e := range m.nodes[d] {
		if e.Mode == tree.Directory {
			all = m.collect(all, e.Digest)
		}
	}
	return append(all, node)
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
