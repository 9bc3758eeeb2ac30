package postgres_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// TestLocateBlobs finds content of two packs and of an object of its own where the
// checkpoint said that it is.
func TestLocateBlobs(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	want := map[tree.Digest]tree.Location{
		{1}: {Size: 5, Len: 5},
		{2}: {Size: 6, Len: 4, Off: 8, Pack: &tree.Digest{20}},
		{3}: {Size: 7, Len: 3, Off: 9, Pack: &tree.Digest{30}},
		{4}: {Size: 8, Len: 8},
	}
	ck := checkpoint(run.PreCheckpoint)
	for d, at := range want {
		ck.Blobs = append(ck.Blobs, tree.Blob{SHA256: d, Location: at})
	}
	if err := s.RecordCheckpoint(s.ctx, s.claim(t, steps["a"].ID), ck); err != nil {
		t.Fatalf("RecordCheckpoint() = %v, want nil", err)
	}
	ask := append(slices.Collect(maps.Keys(want)), tree.Digest{5})
	got, err := s.LocateBlobs(s.ctx, s.tenant, ask)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("LocateBlobs() = %v (-want +got):\n%s", err, diff)
	}
	known, err := s.KnownBlobs(s.ctx, s.tenant, ask)
	if diff := cmp.Diff(map[tree.Digest]bool{{1}: true, {2}: true, {3}: true, {4}: true}, known); diff != "" || err != nil {
		t.Errorf("KnownBlobs() = %v (-want +got):\n%s", err, diff)
	}
}
