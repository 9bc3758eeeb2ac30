package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// Kind says why a path cannot be joined by itself.
type Kind string

// The kinds of conflicts.
const (
	Content Kind = "content" // its bytes, or the target of a link, became two different ones
	Added   Kind = "added"   // two different ones were added
	Deleted Kind = "deleted" // deleted on one side and changed on the other
	Mode    Kind = "mode"    // same bytes, different modes
	Type    Kind = "type"    // file, link or directory against another of them
	Case    Kind = "case"    // two names that some file systems take for one
)

// Conflict is one path on which two sides disagree.
type Conflict struct {
	Path string `json:"path"`
	Kind Kind   `json:"kind"`
}

// Joined is what became of several trees. With conflicts there is no tree.
type Joined struct {
	Tree      tree.Digest
	Conflicts []Conflict // by path, of the first tree that has any with those before it
	Saved     Saved      // the directories that are new; insert the rows before restoring Tree
}

// Join folds trees, in their order, into one: path by path, what is the same in
// both or was changed since base in only one of them is taken, and everything
// else is a conflict. No lines are merged. base is the tree they all come from.
//
// More than 10,000 conflicts are fault.Conflict (too-many-conflicts).
func (s *Store) Join(ctx context.Context, tenant uuid.UUID, base tree.Digest, trees ...tree.Digest) (Joined, error) {
	if len(trees) == 0 {
		return Joined{Tree: base}, nil
	}
	j := &joiner{store: s, tenant: tenant, nodes: map[tree.Digest][]tree.Entry{}, made: map[tree.Digest][]byte{}}
	result := trees[0]
	for _, t := range trees[1:] {
		var err error
		if result, err = j.dirs(ctx, "", 0, base, result, t); err != nil {
			return Joined{}, fmt.Errorf("join trees: %w", err)
		}
		if len(j.conflicts) > 0 { // what is left of the paths would conflict with the next tree too
			slices.SortFunc(j.conflicts, func(a, b Conflict) int { return strings.Compare(a.Path, b.Path) })
			return Joined{Conflicts: slices.Compact(j.conflicts)}, nil
		}
	}
	var wanted []content
	j.collect(result, &wanted)
	saved, err := s.save(ctx, tenant, nil, wanted)
	if err != nil {
		return Joined{}, fmt.Errorf("join trees: save: %w", err)
	}
	return Joined{Tree: result, Saved: saved}, nil
}

// joiner is one join on its way.
type joiner struct {
	store     *Store
	tenant    uuid.UUID
	nodes     map[tree.Digest][]tree.Entry // those read, and those made
	made      map[tree.Digest][]byte
	conflicts []Conflict
}

// dirs joins two directories that come from base. Where only one differs from
// it, that one is taken without looking into it.
func (j *joiner) dirs(ctx context.Context, at string, depth int, base, ours, theirs tree.Digest) (tree.Digest, error) {
	switch {
	case ours == theirs, base == theirs:
		return ours, nil
	case base == ours:
		return theirs, nil
	case depth > design.depth:
		return tree.Digest{}, beyond("the trees are deeper than %d directories", design.depth)
	}
	if err := j.load(ctx, base, ours, theirs); err != nil {
		return tree.Digest{}, err
	}
	b, o, t := j.nodes[base], j.nodes[ours], j.nodes[theirs]
	var entries []tree.Entry
	for _, name := range names(b, o, t) {
		e, err := j.entry(ctx, join(at, name), depth, find(b, name), find(o, name), find(t, name))
		if err != nil {
			return tree.Digest{}, err
		}
		if e != nil {
			entries = append(entries, *e)
		}
	}
	j.foldCase(at, entries, o, t)
	if len(j.conflicts) > design.conflict {
		return tree.Digest{}, fault.New(fault.Conflict, "too-many-conflicts", "more than %d paths conflict", design.conflict)
	}
	node := tree.Encode(entries)
	d := tree.Sum(node)
	j.nodes[d], j.made[d] = entries, node
	return d, nil
}

// entry joins what two sides have under one name; nil is nothing.
func (j *joiner) entry(ctx context.Context, at string, depth int, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	switch {
	case same(ours, theirs), same(base, theirs):
		return ours, nil
	case same(base, ours):
		return theirs, nil
	}
	// All three differ. A directory missing on a side is one without files there:
	// then it is its files that were deleted or not.
	if isDir(ours) && isDir(theirs) || isDir(base) && (ours == nil && isDir(theirs) || isDir(ours) && theirs == nil) {
		return j.below(ctx, at, depth, base, ours, theirs)
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
		return nil, j.conflict(at, Deleted)
	case class(ours) != class(theirs):
		return nil, j.conflict(at, Type)
	case base == nil || class(base) != class(ours):
		if ours.Digest == theirs.Digest {
			return nil, j.conflict(at, Mode)
		}
		return nil, j.conflict(at, Added)
	}
	// Bytes and mode are joined each for itself; a mode is one of two, so it
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
			return nil, j.conflict(at, Content)
		}
	}
	return &e, nil
}

// below joins directories of which one may be missing. The result is missing
// when nothing is left in it and a side had removed it.
func (j *joiner) below(ctx context.Context, at string, depth int, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	d, err := j.dirs(ctx, at, depth+1, nodeOf(base), nodeOf(ours), nodeOf(theirs))
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
	if node, ok := j.made[d]; ok {
		e.Size = int64(len(node))
	}
	return &e, nil
}

func (j *joiner) conflict(at string, kind Kind) error {
	j.conflicts = append(j.conflicts, Conflict{at, kind})
	return nil
}

// foldCase finds names that differ in case only and that the join brought
// together: a side that has both has decided that it wants them.
func (j *joiner) foldCase(at string, joined, ours, theirs []tree.Entry) {
	folded := make(map[string]string, len(joined))
	for _, e := range joined {
		key := strings.ToLower(e.Name)
		other, ok := folded[key]
		folded[key] = e.Name
		if !ok {
			continue
		}
		both := func(side []tree.Entry) bool { return find(side, e.Name) != nil && find(side, other) != nil }
		if !both(ours) && !both(theirs) {
			j.conflicts = append(j.conflicts, Conflict{join(at, other), Case}, Conflict{join(at, e.Name), Case})
		}
	}
}

// load reads the directories that are not known yet.
func (j *joiner) load(ctx context.Context, digests ...tree.Digest) error {
	unknown := slices.DeleteFunc(digests, func(d tree.Digest) bool { _, ok := j.nodes[d]; return ok })
	if len(unknown) == 0 {
		return nil
	}
	read, err := j.store.src.Nodes(ctx, j.tenant, unknown)
	for d, entries := range read {
		j.nodes[d] = entries
	}
	return err
}

// collect appends the directories of d's tree that were made here.
func (j *joiner) collect(d tree.Digest, all *[]content) {
	node, ok := j.made[d]
	if !ok {
		return
	}
	for _, e := range j.nodes[d] {
		if e.Mode == tree.Directory {
			j.collect(e.Digest, all)
		}
	}
	*all = append(*all, content{digest: d, size: int64(len(node)), bytes: node})
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

// class is the mode without the bit that says executable.
func class(e *tree.Entry) tree.Mode {
	if e.Mode == tree.Executable {
		return tree.File
	}
	return e.Mode
}

// nodeOf is the directory an entry leads to; what is none has nothing in it.
func nodeOf(e *tree.Entry) tree.Digest {
	if !isDir(e) {
		return tree.Empty
	}
	return e.Digest
}
