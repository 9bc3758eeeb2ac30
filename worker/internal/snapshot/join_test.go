package snapshot

import (
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

	joined, err := store.Join(ctx, x.tenant, base, left, right)
	if err != nil || len(joined.Conflicts) > 0 || len(joined.Saved.Objects) != 1 || len(joined.Saved.Blobs) != 2 {
		t.Fatalf("Join = %+v, %v, want two directories in one pack", joined, err)
	}
	x.commit(joined.Saved)
	restore(ctx, t, w, joined.Tree)
	want := files{"a/1": "left", "a/2": "right", "b/3": "3", "c/": ""}
	if d := cmp.Diff(want.withParents(), readFiles(t, dir)); d != "" {
		t.Errorf("restored join (-want +got):\n%s", d)
	}
	again, err := store.Join(ctx, x.tenant, base, left, right)
	if err != nil || again.Tree != joined.Tree || len(again.Saved.Objects) != 0 {
		t.Errorf("Join again = %+v, %v, want the same tree and nothing saved", again, err)
	}
	bad, err := store.Join(ctx, x.tenant, base, left, right, clash)
	if d := cmp.Diff(Joined{Conflicts: []merge.Conflict{{Path: "a/1", Kind: merge.Content}}}, bad); err != nil || d != "" {
		t.Errorf("Join with a clash = %v (-want +got):\n%s", err, d)
	}
	if one, err := store.Join(ctx, x.tenant, base, left); err != nil || one.Tree != left {
		t.Errorf("Join of one = %s, %v, want it", one.Tree, err)
	}
	if none, err := store.Join(ctx, x.tenant, base); err != nil || none.Tree != base {
		t.Errorf("Join of none = %s, %v, want base", none.Tree, err)
	}
	if _, err := store.Join(ctx, x.tenant, base, left, tree.Sum([]byte("nowhere"))); !errors.Is(err, fault.Gone) {
		t.Errorf("Join(missing tree) = %v, want Gone", err)
	}
}
