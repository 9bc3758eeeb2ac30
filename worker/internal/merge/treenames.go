package merge

import (
	"context"
	"strings"
	"unicode"

	"nofx.dev/shared/tree"
)

// foldCase finds names that differ in case only and that the merge brought together: a
// side that has both has decided that it wants them. It returns the entries with what is
// decided about these.
func (m *Trees) foldCase(ctx context.Context, at string, merged, base, ours, theirs []tree.Entry) ([]tree.Entry, error) {
	if hasAll(ours, merged) || hasAll(theirs, merged) {
		return merged, nil
	}
	folded := make(map[string]string, len(merged))
	clash := map[string]bool{}
	for _, e := range merged {
		key := fold(e.Name)
		other, ok := folded[key]
		folded[key] = e.Name
		if !ok {
			continue
		}
		both := func(side []tree.Entry) bool { return find(side, e.Name) != nil && find(side, other) != nil }
		if !both(ours) && !both(theirs) {
			clash[e.Name], clash[other] = true, true
		}
	}
	if len(clash) == 0 {
		return merged, nil
	}
	var entries []tree.Entry
	for _, e := range merged {
		if !clash[e.Name] {
			entries = append(entries, e)
			continue
		}
		taken, err := m.conflict(ctx, join(at, e.Name), Conflict{Kind: Case}, find(base, e.Name), find(ours, e.Name), find(theirs, e.Name))
		if err != nil {
			return nil, err
		}
		if taken != nil {
			entries = append(entries, *taken)
		}
	}
	return entries, nil
}

// hasAll reports whether a directory has all names of another.
func hasAll(dir, names []tree.Entry) bool {
	i := 0
	for _, e := range dir {
		if i < len(names) && names[i].Name == e.Name {
			i++
		}
	}
	return i == len(names)
}

// fold returns a name in the form that it shares with all that differ from it in case
// only: of each letter the least that stands for it.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name)
}

// findRenames names, for each file that one side deleted and the other changed, the file
// of the same bytes that the side which deleted it has added, if there is one.
func (m *Trees) findRenames(ctx context.Context, base, ours, theirs tree.Digest) error {
	added := map[tree.Digest]map[tree.Digest]string{} // by side and file
	for i := range m.conflicts {
		c := &m.conflicts[i]
		if c.Kind != Deleted || c.Base == nil || isDir(c.Base.Entry) {
			continue
		}
		side := ours
		if c.Ours != nil {
			side = theirs
		}
		if added[side] == nil {
			added[side] = map[tree.Digest]string{}
			if err := m.readLevels(ctx, [3]tree.Digest{base, side, side}, func(_ string, of [3]*tree.Entry) bool { return isDir(of[1]) }); err != nil {
				return err
			}
			if err := m.addedFiles(ctx, "", 0, base, side, added[side]); err != nil {
				return err
			}
		}
		c.Renamed = added[side][c.Base.Entry.Digest]
	}
	return nil
}

// addedFiles collects the files of a directory that the base does not have, by their
// bytes: of several, the first by path.
func (m *Trees) addedFiles(ctx context.Context, at string, depth int, base, side tree.Digest, found map[tree.Digest]string) error {
	if base == side || depth > maxDepth {
		return nil
	}
	if err := m.load(ctx, base, side); err != nil {
		return err
	}
	b := m.nodes[base]
	for _, e := range m.nodes[side] {
		was := find(b, e.Name)
		if isDir(&e) {
			if err := m.addedFiles(ctx, join(at, e.Name), depth+1, nodeOf(was), e.Digest, found); err != nil {
				return err
			}
		} else if _, known := found[e.Digest]; was == nil && !known {
			found[e.Digest] = join(at, e.Name)
		}
	}
	return nil
}
