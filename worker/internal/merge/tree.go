package merge

import (
	"context"
	"errors"
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
	// Files returns the content of each of the files: at most a mebibyte of one, and
	// several mebibytes together. It leaves out content that was deleted for good: such
	// files are merged as those are that have no lines.
	Files func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error)
}

// errPurged is the error of a content that its source has left out.
var errPurged = errors.New("the content was purged")

// Trees merges trees. It knows what it has made, so that a tree which is not stored can be
// a side or the base of its next merge. Use it from one goroutine at a time.
type Trees struct {
	src       Source
	nodes     map[tree.Digest][]tree.Entry // those read, and those made
	made      map[tree.Digest][]byte       // directories and files
	wanted    []tree.Entry                 // files that the merge under way may read, in its order
	files     map[tree.Digest][]byte       // those of them that were read together
	rules     Rules
	conflicts []Conflict // of the merge under way
	open      int        // those of them that nothing is decided about
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
	return m.MergeBy(ctx, Rules{}, base, ours, theirs)
}

// MergeBy does what Merge does, by rules. It returns the merged tree as well when the rules
// decide all conflicts, which are returned all the same.
func (m *Trees) MergeBy(ctx context.Context, rules Rules, base, ours, theirs tree.Digest) (merged tree.Digest, conflicts []Conflict, err error) {
	m.rules, m.conflicts, m.open = rules, nil, 0
	if err := m.readMerge(ctx, base, ours, theirs); err != nil {
		return tree.Digest{}, nil, err
	}
	if merged, err = m.dirs(ctx, "", 0, base, ours, theirs); err != nil {
		return tree.Digest{}, nil, err
	}
	if rules.Values {
		if err := m.findRenames(ctx, base, ours, theirs); err != nil {
			return tree.Digest{}, nil, err
		}
	}
	slices.SortStableFunc(m.conflicts, func(a, b Conflict) int { return strings.Compare(a.Path, b.Path) })
	conflicts = slices.CompactFunc(m.conflicts, func(a, b Conflict) bool { return a.Path == b.Path && a.Kind == b.Kind })
	if m.open > 0 {
		return tree.Digest{}, conflicts, nil
	}
	return merged, conflicts, nil
}

// Made returns the files and directories of a tree that merges have made, which are to be
// stored: the files first, and each directory after what is in it.
func (m *Trees) Made(root tree.Digest) [][]byte {
	var files, nodes [][]byte
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
			} else if content, ok := m.made[e.Digest]; ok && isFile(&e) {
				files = append(files, content)
			}
		}
		nodes = append(nodes, node)
	}
	walk(root)
	return append(files, nodes...)
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
	entries := make([]tree.Entry, 0, max(len(o), len(t)))
	for name, of := range entriesOf(b, o, t) {
		if same(of[1], of[2]) && of[1] != nil { // most are
			entries = append(entries, *of[1])
			continue
		}
		e, err := m.entry(ctx, join(at, name), depth, of[0], of[1], of[2])
		if err != nil {
			return tree.Digest{}, err
		}
		if e != nil {
			entries = append(entries, *e)
		}
	}
	entries, err := m.foldCase(ctx, at, entries, b, o, t)
	if err != nil {
		return tree.Digest{}, err
	}
	if len(m.conflicts) > MaxConflicts {
		return tree.Digest{}, TooMany("paths")
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
	if asDirs(base, ours, theirs) {
		return m.below(ctx, at, depth, base, ours, theirs)
	}
	switch {
	// Where a directory took a file's place, or a file a directory's, the paths of
	// the one are gone and those of the other are new: a side that has nothing
	// here removed the old ones too, and has no say in the new.
	case ours == nil && isDir(base) != isDir(theirs) && !m.rules.Strict:
		return theirs, nil
	case theirs == nil && isDir(base) != isDir(ours) && !m.rules.Strict:
		return ours, nil
	case ours == nil || theirs == nil:
		return m.conflict(ctx, at, Conflict{Kind: Deleted}, base, ours, theirs)
	case class(ours) != class(theirs):
		return m.conflict(ctx, at, Conflict{Kind: Type}, base, ours, theirs)
	case base == nil || class(base) != class(ours):
		if ours.Digest == theirs.Digest {
			return m.conflict(ctx, at, Conflict{Kind: Mode}, base, ours, theirs)
		}
		return m.added(ctx, at, base, ours, theirs)
	}
	// Bytes and mode are merged each for itself; a mode is one of two, so it
	// cannot have become two others.
	e := *ours
	if ours.Mode == base.Mode {
		e.Mode = theirs.Mode
	}
	if m.rules.Strict || ours.Digest != theirs.Digest && ours.Digest != base.Digest && theirs.Digest != base.Digest {
		return m.file(ctx, at, e, base, ours, theirs)
	}
	if ours.Digest == base.Digest {
		e.Digest, e.Size = theirs.Digest, theirs.Size
	}
	return &e, nil
}

// asDirs reports whether what is under one name, all three of it different, is merged as
// directories are. One missing on a side is one without files there: then it is its files
// that were deleted or not.
func asDirs(base, ours, theirs *tree.Entry) bool {
	return isDir(ours) && isDir(theirs) || isDir(base) && (ours == nil && isDir(theirs) || isDir(ours) && theirs == nil)
}

// added reports a conflict of two different files or links, where the base has neither.
func (m *Trees) added(ctx context.Context, at string, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	c := Conflict{Kind: Added}
	if m.rules.Values {
		texts, err := m.texts(ctx, ours, theirs)
		if err != nil {
			return nil, err
		}
		if texts != nil {
			c.Text, c.Ours, c.Theirs = true, &Value{Excerpt: texts[0]}, &Value{Excerpt: texts[1]}
		}
	}
	return m.conflict(ctx, at, c, base, ours, theirs)
}

// file merges a file whose bytes both sides changed differently. e is what is merged of it
// besides.
func (m *Trees) file(ctx context.Context, at string, e tree.Entry, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	texts, err := m.texts(ctx, base, ours, theirs)
	if err != nil {
		return nil, err
	}
	if texts == nil {
		return m.conflict(ctx, at, Conflict{Kind: Content}, base, ours, theirs)
	}
	merged, hunks := Text(texts[0], texts[1], texts[2])
	if len(hunks) == 0 && !m.rules.Strict {
		return m.make(e, []byte(merged)), nil
	}
	c := Conflict{Kind: Content}
	if len(hunks) > 0 {
		c.Line = hunks[0].Line
	}
	if m.rules.Values {
		h := append(hunks, Hunk{Base: texts[0], Ours: texts[1], Theirs: texts[2]})[0]
		c.Text, c.Base, c.Ours, c.Theirs = true, &Value{Excerpt: h.Base}, &Value{Excerpt: h.Ours}, &Value{Excerpt: h.Theirs}
	}
	return m.conflict(ctx, at, c, base, ours, theirs)
}

// make returns e with a content that was made here.
func (m *Trees) make(e tree.Entry, content []byte) *tree.Entry {
	e.Digest, e.Size = tree.Sum(content), int64(len(content))
	m.made[e.Digest] = content
	return &e
}

// texts returns the contents of files, or nil unless lines of all of them may be merged.
func (m *Trees) texts(ctx context.Context, files ...*tree.Entry) ([]string, error) {
	var texts []string
	for _, f := range files {
		if !isFile(f) || f.Size > mostText {
			return nil, nil
		}
		content, err := m.content(ctx, f.Digest)
		if errors.Is(err, errPurged) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(content))
	}
	if !mergeable(texts...) {
		return nil, nil
	}
	return texts, nil
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

// fileOf returns an entry that is no directory, or nil.
func fileOf(e *tree.Entry) *tree.Entry {
	if isDir(e) {
		return nil
	}
	return e
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

func isDir(e *tree.Entry) bool  { return e != nil && e.Mode == tree.Directory }
func isFile(e *tree.Entry) bool { return e != nil && class(e) == tree.File }

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
