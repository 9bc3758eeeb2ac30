package diff

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"nofx.dev/shared/tree"
)

// leaf is a file, a link or a directory without entries.
type leaf struct {
	path string
	tree.Entry
}

// delta is a path that differs between two trees. One of the two may be nil.
type delta struct{ from, to *leaf }

func (d delta) path() string {
	if d.to != nil {
		return d.to.path
	}
	return d.from.path
}

// trees compares two trees, level by level: directories with equal digests are not looked
// into.
type trees struct {
	src    Source
	filter string // path whose files are wanted; "": all
	deltas []delta
}

// dirs is a directory of both trees; one of the two may be tree.Empty.
type dirs struct {
	at       string
	from, to tree.Digest
}

// compareTrees returns what differs between two trees in the order of paths, of files at a
// path and below it.
func compareTrees(ctx context.Context, src Source, filter string, from, to tree.Digest) ([]delta, error) {
	t := &trees{src: src, filter: filter}
	level := []dirs{{"", from, to}}
	if from == to {
		return nil, nil
	}
	for len(level) > 0 {
		var unknown []tree.Digest
		for _, d := range level {
			for _, digest := range []tree.Digest{d.from, d.to} {
				if digest != tree.Empty {
					unknown = append(unknown, digest)
				}
			}
		}
		nodes, err := src.Nodes(ctx, unknown)
		if err != nil {
			return nil, fmt.Errorf("read directories: %w", err)
		}
		var next []dirs
		for _, d := range level {
			next = t.compare(next, d.at, nodes[d.from], nodes[d.to])
		}
		level = next
	}
	t.pair()
	slices.SortFunc(t.deltas, func(a, b delta) int { return strings.Compare(a.path(), b.path()) })
	return t.deltas, nil
}

// compare appends the directories that differ to next, and collects other differences.
func (t *trees) compare(next []dirs, at string, from, to []tree.Entry) []dirs {
	for len(from) > 0 || len(to) > 0 {
		var f, o *tree.Entry
		if len(to) == 0 || len(from) > 0 && from[0].Name <= to[0].Name {
			f = &from[0]
		}
		if len(from) == 0 || len(to) > 0 && to[0].Name <= from[0].Name {
			o = &to[0]
		}
		if f != nil {
			from = from[1:]
		}
		if o != nil {
			to = to[1:]
		}
		if f != nil && o != nil && f.Mode == o.Mode && f.Digest == o.Digest {
			continue
		}
		name := nameOf(f, o)
		p := path.Join(at, name)
		if below := (dirs{p, subtree(f), subtree(o)}); below.from != below.to && t.leadsTo(p) {
			next = append(next, below)
		}
		d := delta{asLeaf(p, f), asLeaf(p, o)}
		if d.from != nil && d.from.Mode == tree.Directory && isDirectory(o) {
			d.from = nil // it is still there, with something in it
		}
		if (d.from != nil || d.to != nil) && t.wants(p) {
			t.deltas = append(t.deltas, d)
		}
	}
	return next
}

func nameOf(a, b *tree.Entry) string {
	if a != nil {
		return a.Name
	}
	return b.Name
}

func isDirectory(e *tree.Entry) bool { return e != nil && e.Mode == tree.Directory }

// subtree returns the directory that an entry leads to, an empty one for others.
func subtree(e *tree.Entry) tree.Digest {
	if !isDirectory(e) {
		return tree.Empty
	}
	return e.Digest
}

// asLeaf returns an entry that has no entries itself, or nil.
func asLeaf(p string, e *tree.Entry) *leaf {
	if e == nil || isDirectory(e) && e.Digest != tree.Empty {
		return nil
	}
	return &leaf{p, *e}
}

// wants reports whether a path is one of those asked for.
func (t *trees) wants(p string) bool {
	return t.filter == "" || p == t.filter || strings.HasPrefix(p, t.filter+"/")
}

// leadsTo reports whether there may be paths asked for below a directory.
func (t *trees) leadsTo(dir string) bool {
	return t.wants(dir) || strings.HasPrefix(t.filter, dir+"/")
}

// pair makes renames of files that were deleted and added with the same bytes: one of the
// same name is preferred, then the first by path.
func (t *trees) pair() {
	type content struct {
		digest tree.Digest
		link   bool
	}
	contentOf := func(l *leaf) content { return content{l.Digest, l.Mode == tree.Symlink} }
	deleted := map[content][]int{}
	slices.SortFunc(t.deltas, func(a, b delta) int { return strings.Compare(a.path(), b.path()) })
	for i, d := range t.deltas {
		if d.to == nil && d.from.Mode != tree.Directory {
			deleted[contentOf(d.from)] = append(deleted[contentOf(d.from)], i)
		}
	}
	gone := map[int]bool{}
	for sameName := range 2 {
		for i, d := range t.deltas {
			if d.from != nil || d.to.Mode == tree.Directory {
				continue
			}
			all := deleted[contentOf(d.to)]
			k := slices.IndexFunc(all, func(j int) bool { return sameName == 1 || t.deltas[j].from.Name == d.to.Name })
			if k < 0 {
				continue
			}
			t.deltas[i].from = t.deltas[all[k]].from
			gone[all[k]] = true
			deleted[contentOf(d.to)] = slices.Delete(slices.Clone(all), k, k+1)
		}
	}
	kept := t.deltas[:0]
	for i, d := range t.deltas {
		if !gone[i] {
			kept = append(kept, d)
		}
	}
	t.deltas = kept
}

// status returns what has become of a path.
func (d delta) status() Status {
	switch {
	case d.from == nil:
		return Added
	case d.to == nil:
		return Deleted
	case d.from.path != d.to.path:
		return Renamed
	case class(d.from.Mode) != class(d.to.Mode):
		return Type
	case d.from.Digest == d.to.Digest:
		return Mode
	}
	return Modified
}

// class returns a mode without the bit that says executable.
func class(m tree.Mode) tree.Mode {
	if m == tree.Executable {
		return tree.File
	}
	return m
}

// count adds a path to the numbers of files.
func (c *Counts) count(d delta) {
	if (d.from == nil || d.from.Mode == tree.Directory) && (d.to == nil || d.to.Mode == tree.Directory) {
		return
	}
	switch d.status() {
	case Added:
		c.Added++
	case Modified:
		c.Modified++
	case Deleted:
		c.Deleted++
	case Renamed:
		c.Renamed++
	case Mode:
		c.Mode++
	case Type:
		c.Type++
	}
}

// Total returns the number of all files.
func (c Counts) Total() int { return c.Added + c.Modified + c.Deleted + c.Renamed + c.Mode + c.Type }
