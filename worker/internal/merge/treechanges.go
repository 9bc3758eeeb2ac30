package merge

import (
	"context"
	"slices"
	"strings"

	"nofx.dev/shared/tree"
)

// Change is a file that two trees do not have alike.
type Change struct {
	Path     string
	From, To *tree.Entry // nil: it is not there
}

// Changes returns the files and links that differ between two trees, by path.
func (m *Trees) Changes(ctx context.Context, from, to tree.Digest) (list []Change, err error) {
	if from == to {
		return nil, nil
	}
	err = m.readLevels(ctx, [3]tree.Digest{from, to, to}, func(_ string, of [3]*tree.Entry) bool { return isDir(of[0]) || isDir(of[1]) })
	if err == nil {
		err = m.changes(ctx, "", 0, from, to, &list)
	}
	slices.SortFunc(list, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return list, err
}

func (m *Trees) changes(ctx context.Context, at string, depth int, from, to tree.Digest, list *[]Change) error {
	if from == to || depth > maxDepth {
		return nil
	}
	if err := m.load(ctx, from, to); err != nil {
		return err
	}
	for name, of := range entriesOf(m.nodes[from], m.nodes[to]) {
		was, is := of[0], of[1]
		if same(was, is) {
			continue
		}
		if isDir(was) || isDir(is) {
			if err := m.changes(ctx, join(at, name), depth+1, nodeOf(was), nodeOf(is), list); err != nil {
				return err
			}
		}
		if was, is = fileOf(was), fileOf(is); was != nil || is != nil {
			*list = append(*list, Change{join(at, name), was, is})
		}
	}
	return nil
}
