package merge

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"nofx.dev/shared/tree"
)

// Reading goes level by level, and files many at a time: one by one each directory and each
// file would cost a way to the storage and back.

// mostAtOnce is how many bytes of files are read, and kept, together.
const mostAtOnce = 16 << 20

// place is a directory of up to three trees: of one that does not have it, tree.Empty.
type place struct {
	at    string
	nodes [3]tree.Digest
}

// readMerge reads the directories that a merge looks into, and notes the files that it may
// read.
func (m *Trees) readMerge(ctx context.Context, base, ours, theirs tree.Digest) error {
	m.wanted, m.files = nil, nil
	if ours == theirs || base == theirs || base == ours {
		return nil
	}
	type file struct {
		at    string
		sides [3]*tree.Entry
	}
	var both []file
	err := m.readLevels(ctx, [3]tree.Digest{base, ours, theirs}, func(at string, of [3]*tree.Entry) bool {
		if same(of[1], of[2]) || same(of[0], of[1]) || same(of[0], of[2]) {
			return false
		}
		if isFile(of[1]) && isFile(of[2]) {
			both = append(both, file{at, of})
		}
		return asDirs(of[0], of[1], of[2])
	})
	slices.SortFunc(both, func(a, b file) int { return comparePaths(a.at, b.at) })
	for _, f := range both {
		for _, e := range f.sides {
			if isFile(e) && e.Size <= mostText {
				m.wanted = append(m.wanted, *e)
			}
		}
	}
	return err
}

// readLevels reads directories of three trees from their roots on. into is called for what
// these have under one name, and reports whether to go into it.
func (m *Trees) readLevels(ctx context.Context, roots [3]tree.Digest, into func(at string, of [3]*tree.Entry) bool) error {
	level := []place{{"", roots}}
	for depth := 0; len(level) > 0 && depth <= maxDepth; depth++ {
		var digests []tree.Digest
		for _, p := range level {
			digests = append(digests, p.nodes[:]...)
		}
		if err := m.load(ctx, digests...); err != nil {
			return err
		}
		seen := map[[3]tree.Digest]bool{}
		var next []place
		for _, p := range level {
			for name, of := range entriesOf(m.nodes[p.nodes[0]], m.nodes[p.nodes[1]], m.nodes[p.nodes[2]]) {
				if same(of[0], of[1]) && same(of[1], of[2]) {
					continue
				}
				at := join(p.at, name)
				if !into(at, of) {
					continue
				}
				nodes := [3]tree.Digest{nodeOf(of[0]), nodeOf(of[1]), nodeOf(of[2])}
				if !seen[nodes] {
					seen[nodes] = true
					next = append(next, place{at, nodes})
				}
			}
		}
		level = next
	}
	return nil
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

// content returns the content of a file. One that is not known is read with those that the
// merge wants next.
func (m *Trees) content(ctx context.Context, d tree.Digest) ([]byte, error) {
	if content, ok := m.made[d]; ok {
		return content, nil
	}
	if content, ok := m.files[d]; ok {
		return content, purged(content)
	}
	batch := []tree.Digest{d}
	if i := slices.IndexFunc(m.wanted, func(e tree.Entry) bool { return e.Digest == d }); i >= 0 {
		size := m.wanted[i].Size
		for _, e := range m.wanted[i+1:] {
			if _, ok := m.made[e.Digest]; ok {
				continue
			}
			if size += e.Size; size > mostAtOnce {
				break
			}
			batch = append(batch, e.Digest)
		}
	}
	var err error
	if m.files, err = m.src.Files(ctx, batch); err != nil {
		return nil, fmt.Errorf("read files: %w", err)
	}
	for _, d := range batch {
		if _, ok := m.files[d]; !ok {
			m.files[d] = nil // so that it is not asked for again
		}
	}
	return m.files[d], purged(m.files[d])
}

// purged returns errPurged for content that its source has left out, which is nil.
func purged(content []byte) error {
	if content == nil {
		return errPurged
	}
	return nil
}

// entriesOf yields the names that any of three directories has, in their order, each with
// what the three have under it.
func entriesOf(dirs ...[]tree.Entry) iter.Seq2[string, [3]*tree.Entry] {
	return func(yield func(string, [3]*tree.Entry) bool) {
		var left [3][]tree.Entry
		copy(left[:], dirs)
		for {
			var first *tree.Entry
			for _, l := range left {
				if len(l) > 0 && (first == nil || l[0].Name < first.Name) {
					first = &l[0]
				}
			}
			if first == nil {
				return
			}
			var of [3]*tree.Entry
			for i, l := range left {
				if len(l) > 0 && l[0].Name == first.Name {
					of[i], left[i] = &l[0], l[1:]
				}
			}
			if !yield(first.Name, of) {
				return
			}
		}
	}
}

// comparePaths orders paths as a walk meets them: a directory and what is below it before
// the names that come after it.
func comparePaths(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch x, y := a[i], b[i]; {
		case x == y:
		case x == '/':
			return -1
		case y == '/':
			return 1
		default:
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}
