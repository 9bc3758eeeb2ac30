package postgres_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// packed returns a checkpoint that brings a pack of n blobs; off tells packs apart.
func packed(key string, n int, off int64) *postgres.Checkpoint {
	pack := tree.Sum([]byte(key))
	ck := checkpoint(run.PreCheckpoint)
	for i := range n {
		ck.Blobs = append(ck.Blobs, tree.Blob{SHA256: tree.Sum([]byte{byte(i)}), Location: tree.Location{Size: 1, Pack: &pack, Off: off, Len: 1}})
	}
	ck.Objects = []tree.Object{{Key: key, SHA256: pack, Bytes: int64(n), Kind: "pack"}}
	return ck
}

// blobs returns where the first n blobs of a tenant are, and which are condemned.
func (s *store) blobs(t *testing.T, tenant uuid.UUID, n int) string {
	t.Helper()
	var text string
	for i := range n {
		sum := tree.Sum([]byte{byte(i)})
		found, err := s.LocateBlobs(s.ctx, tenant, []tree.Digest{sum})
		if err != nil {
			t.Fatalf("LocateBlobs() = %v", err)
		}
		known, err := s.KnownBlobs(s.ctx, tenant, []tree.Digest{sum})
		if err != nil {
			t.Fatalf("KnownBlobs() = %v", err)
		}
		at, stored := found[sum]
		text += fmt.Sprintf("%d:%t ", at.Off, stored && !known[sum])
	}
	return text
}

// What is in an object that was lost is condemned, in its tenant alone, and stays
// findable; the checkpoint that stores some of it anew renews that and nothing else.
func TestCondemnedBlobsAreRenewed(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	record := func(ck *postgres.Checkpoint) {
		t.Helper()
		if err := s.RecordCheckpoint(s.ctx, c, ck); err != nil {
			t.Fatalf("RecordCheckpoint() = %v, want nil", err)
		}
	}
	want := func(what, blobs, objects string) {
		t.Helper()
		if got := s.blobs(t, s.tenant, 3); got != blobs {
			t.Errorf("%s: blobs = %q, want %q", what, got, blobs)
		}
		if got := fmt.Sprint(all[string](t, s, "SELECT key || ' ' || state FROM nofx.object ORDER BY key")); got != objects {
			t.Errorf("%s: objects = %s, want %s", what, got, objects)
		}
	}
	record(packed("old", 3, 1))
	record(packed("twin", 3, 2)) // known already: stays where it is
	want("stored twice", "1:false 1:false 1:false ", "[old live twin live]")
	other := s.Tenant(t)
	for _, lost := range []struct {
		tenant uuid.UUID
		key    string
	}{{other, "old"}, {s.tenant, "twin"}, {s.tenant, "nowhere"}} {
		if err := s.CondemnObject(s.ctx, lost.tenant, lost.key); err != nil {
			t.Fatalf("CondemnObject(%s) = %v, want nil", lost.key, err)
		}
	}
	want("another's, an unused and an unknown object are lost", "1:false 1:false 1:false ", "[old live twin condemned]")
	for range 2 {
		if err := s.CondemnObject(s.ctx, s.tenant, "old"); err != nil {
			t.Fatalf("CondemnObject(old) = %v, want nil", err)
		}
	}
	want("lost", "1:true 1:true 1:true ", "[old condemned twin condemned]")
	record(packed("new", 2, 3))
	want("two of three stored anew", "3:false 3:false 1:true ", "[new live old condemned twin condemned]")
	record(packed("old", 3, 4))
	want("the pack itself stored anew", "3:false 3:false 4:false ", "[new live old live twin condemned]")
}

// To condemn what others store at the same time makes nobody fail.
func TestCondemnWhileStoring(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 8})
	var fns []func()
	for i := range 8 {
		_, steps := s.create(t, "a:")
		c := s.claim(t, steps["a"].ID)
		key := fmt.Sprint("pack", i%2)
		fns = append(fns, func() {
			for n := range 10 {
				if err := s.RecordCheckpoint(s.ctx, c, packed(key, 100, int64(n))); err != nil {
					t.Errorf("RecordCheckpoint(%s) = %v, want nil", key, err)
				}
				if err := s.CondemnObject(s.ctx, s.tenant, key); err != nil {
					t.Errorf("CondemnObject(%s) = %v, want nil", key, err)
				}
			}
		})
	}
	atOnce(fns...)
	s.wantNoDeadlock(t)
}

// Only who holds the step may write that it lacks bytes.
func TestCorruptIsFenced(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	id := run.NewID()
	if err := s.RecordCorrupt(s.ctx, c, id, "object-gone", nil); err != nil {
		t.Fatalf("RecordCorrupt() = %v, want nil", err)
	}
	stale := *c
	stale.Fence--
	wantKind(t, "RecordCorrupt(old fence)", s.RecordCorrupt(s.ctx, &stale, id, "object-gone", nil), fault.Fenced, "fenced")
	got := all[string](t, s, "SELECT data::text FROM nofx.event WHERE type = 'checkpoint.corrupt'")
	if want := fmt.Sprintf(`[{"code": "object-gone", "checkpoint_id": "%s"}]`, run.CheckpointID.Format(id)); fmt.Sprint(got) != want {
		t.Errorf("events = %s, want %s", got, want)
	}
	s.wantSound(t)
}
