package snapshot

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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

	join := func(sides ...tree.Digest) (merge.Merged, Saved, error) {
		src := merge.Source{
			Nodes: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
				return store.Nodes(ctx, x.tenant, digests)
			},
			File: func(ctx context.Context, d tree.Digest) ([]byte, error) {
				r, err := store.src.Open(ctx, x.tenant, d)
				if err != nil {
					return nil, err
				}
				defer r.Close()
				return io.ReadAll(r)
			},
		}
		merged, err := merge.Trees(ctx, src, base, sides...)
		if err != nil {
			return merged, Saved{}, err
		}
		saved, err := store.SaveContents(ctx, x.tenant, merged.Made)
		return merged, saved, err
	}
	joined, saved, err := join(left, right)
	if err != nil || len(joined.Conflicts) > 0 || len(saved.Objects) != 1 || len(saved.Blobs) != 2 {
		t.Fatalf("join = %+v, %+v, %v, want two directories in one pack", joined, saved, err)
	}
	x.commit(saved)
	restore(ctx, t, w, joined.Tree)
	want := files{"a/1": "left", "a/2": "right", "b/3": "3", "c/": ""}
	if d := cmp.Diff(want.withParents(), readFiles(t, dir)); d != "" {
		t.Errorf("restored join (-want +got):\n%s", d)
	}
	again, saved, err := join(left, right)
	if err != nil || again.Tree != joined.Tree || len(saved.Objects) != 0 {
		t.Errorf("join again = %+v, %+v, %v, want the same tree and nothing saved", again, saved, err)
	}
	bad, _, err := join(left, right, clash)
	if d := cmp.Diff(merge.Merged{Conflicts: []merge.Conflict{{Path: "a/1", Kind: merge.Content, Line: 1}}}, bad, cmpopts.IgnoreUnexported(merge.Merged{})); err != nil || d != "" {
		t.Errorf("join with a clash = %v (-want +got):\n%s", err, d)
	}
	if one, _, err := join(left); err != nil || one.Tree != left {
		t.Errorf("join of one = %s, %v, want it", one.Tree, err)
	}
	if none, _, err := join(); err != nil || none.Tree != base {
		t.Errorf("join of none = %s, %v, want base", none.Tree, err)
	}
	if _, _, err := join(left, tree.Sum([]byte("nowhere"))); !errors.Is(err, fault.Gone) {
		t.Errorf("join(missing tree) = %v, want Gone", err)
	}
}
