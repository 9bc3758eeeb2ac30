package snapshot

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
)

// A join of stored trees can be restored once its rows are in.
func TestJoinStored(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, x := newStore()
	dir := t.TempDir()
	w := store.Workspace(x.tenant, dir)
	snap := func(f files) tree.Digest {
		restore(ctx, t, w, tree.Empty)
		f.write(t, dir)
		scan, _ := checkpoint(ctx, t, w, x)
		return scan.Tree
	}
	base := snap(files{"a/1": "1", "a/2": "2", "b/3": "3"})
	left := snap(files{"a/1": "left", "a/2": "2", "b/3": "3"})
	right := snap(files{"a/1": "1", "a/2": "right", "b/3": "3", "c/": ""})
	clash := snap(files{"a/1": "clash", "a/2": "2", "b/3": "3"})

	join := func(sides ...tree.Digest) (root tree.Digest, conflicts []merge.Conflict, saved Saved, err error) {
		m := merge.NewTrees(merge.Source{
			Nodes: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
				return store.Nodes(ctx, x.tenant, digests)
			},
			Files: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
				return store.Files(ctx, x.tenant, digests)
			},
		})
		root = sides[0]
		for _, side := range sides[1:] {
			if root, conflicts, err = m.Merge(ctx, base, root, side); err != nil || len(conflicts) > 0 {
				return root, conflicts, saved, err
			}
		}
		saved, err = store.SaveContents(ctx, x.tenant, m.Made(root))
		return root, nil, saved, err
	}
	joined, conflicts, saved, err := join(left, right)
	if err != nil || len(conflicts) > 0 || len(saved.Objects) != 1 || len(saved.Blobs) != 2 {
		t.Fatalf("join = %s, %v, %+v, %v, want two directories in one pack", joined, conflicts, saved, err)
	}
	x.commit(saved)
	restore(ctx, t, w, joined)
	want := files{"a/1": "left", "a/2": "right", "b/3": "3", "c/": ""}
	if d := cmp.Diff(want.withParents(), readFiles(t, dir)); d != "" {
		t.Errorf("restored join (-want +got):\n%s", d)
	}
	again, _, saved, err := join(left, right)
	if err != nil || again != joined || len(saved.Objects) != 0 {
		t.Errorf("join again = %s, %+v, %v, want the same tree and nothing saved", again, saved, err)
	}
	_, conflicts, _, err = join(left, right, clash)
	if d := cmp.Diff([]merge.Conflict{{Path: "a/1", Kind: merge.Content, Line: 1}}, conflicts); err != nil || d != "" {
		t.Errorf("join with a clash = %v (-want +got):\n%s", err, d)
	}
	if _, _, _, err := join(left, tree.Sum([]byte("nowhere"))); !errors.Is(err, fault.Gone) {
		t.Errorf("join(missing tree) = %v, want Gone", err)
	}
}
