package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

func (s *store) keyOf(d postgres.Diff, form string) string {
	return blob.DiffKey(s.tenant, map[string]tree.Digest{"json": d.JSON, "patch": d.Patch}[form], d.Copy, form)
}

// A diff is recorded once, with the fence of the step that computed it.
func TestRecordDiff(t *testing.T) {
	t.Parallel()
	s := setup(t)
	of := s.withCheckpoint(t)
	ends := all[uuid.UUID](t, s, "SELECT id FROM nofx.checkpoint WHERE run_id = $1 ORDER BY seq", of.ID)
	_, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	want := postgres.Diff{
		From: ends[0], To: ends[1], Options: "1:0:src", Copy: 1, JSON: tree.Digest{1}, JSONBytes: 10, Patch: tree.Digest{2}, PatchBytes: 20,
		Files: 3, LinesAdded: 4, LinesDeleted: 5, Truncated: true,
	}
	objects := func(d postgres.Diff) []tree.Object {
		return []tree.Object{{Key: s.keyOf(d, "json"), SHA256: d.JSON, Bytes: 7}, {Key: s.keyOf(d, "patch"), SHA256: d.Patch, Bytes: 20}}
	}
	stale := *c
	stale.Fence++
	if err := s.RecordDiff(s.ctx, &stale, want, objects(want)); !errors.Is(err, fault.Fenced) {
		t.Errorf("RecordDiff(another fence) = %v, want Fenced", err)
	}
	if _, err := s.Diff(s.ctx, s.tenant, want.From, want.To, want.Options); !errors.Is(err, fault.NotFound) {
		t.Errorf("Diff() = %v before it is recorded, want NotFound", err)
	}
	if err := s.RecordDiff(s.ctx, c, want, objects(want)); err != nil {
		t.Fatalf("RecordDiff() = %v", err)
	}
	live := func(want int) {
		t.Helper()
		var got int
		if err := s.Admin.QueryRow(s.ctx, "SELECT count(*) FROM nofx.object WHERE kind = 'diff' AND state = 'live'").Scan(&got); err != nil || got != want {
			t.Errorf("live objects of diffs = %d, %v, want %d", got, err, want)
		}
	}
	live(2)
	other := want
	other.Copy, other.JSON, other.Patch = 2, tree.Digest{3}, tree.Digest{4}
	stored := func(when string, want postgres.Diff) {
		t.Helper()
		got, err := s.Diff(s.ctx, s.tenant, want.From, want.To, want.Options)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("Diff(%s) = %v (-want +got):\n%s", when, err, d)
		}
	}
	if err := s.RecordDiff(s.ctx, c, other, objects(other)); err != nil {
		t.Fatalf("RecordDiff(again) = %v", err)
	}
	stored("recorded twice", want)
	if err := s.LoseDiff(s.ctx, s.tenant, want, s.keyOf(other, "json")); err != nil {
		t.Fatalf("LoseDiff(another object) = %v", err)
	}
	stored("another object lost", want)
	for range 2 { // two requests may notice it
		if err := s.LoseDiff(s.ctx, s.tenant, want, s.keyOf(want, "patch")); err != nil {
			t.Fatalf("LoseDiff() = %v", err)
		}
	}
	want.Lost, want.Losses = true, 1
	stored("lost", want)
	live(0)
	if err := s.RecordDiff(s.ctx, c, other, objects(other)); err != nil {
		t.Fatalf("RecordDiff(anew) = %v", err)
	}
	other.Losses = 1
	stored("recorded anew", other)
	live(2)
	gone := other
	gone.To, gone.Copy = run.NewID(), 3
	wantKind(t, "RecordDiff(of a checkpoint that is gone)", s.RecordDiff(s.ctx, c, gone, objects(gone)), fault.NotFound, "not-found")
	live(2)

	// They go with either of their checkpoints.
	before := want
	before.From, before.Copy, before.Lost, before.Losses = uuid.Nil, 4, false, 0
	if err := s.RecordDiff(s.ctx, c, before, objects(before)); err != nil {
		t.Fatalf("RecordDiff(of the first checkpoint) = %v", err)
	}
	live(4)
	s.age(t, 31, of.ID)
	s.prune(t, 1000, of.ID)
	for more := true; more; {
		var err error
		if _, more, err = s.ExpireRuns(s.ctx, s.tenant, []uuid.UUID{of.ID}, 1); err != nil {
			t.Fatal(err)
		}
	}
	live(0)
	if n := one[int](t, s, "SELECT count(*) FROM nofx.diff"); n != 0 {
		t.Errorf("%d diffs of an expired run are left, want none", n)
	}
	condemned, err := s.CondemnedObjects(s.ctx, time.Time{}, 100)
	if err != nil || len(condemned) != 6 {
		t.Errorf("CondemnedObjects() = %d, %v, want the six of all that were stored", len(condemned), err)
	}
	if _, err := s.Diff(s.ctx, uuid.New(), want.From, want.To, want.Options); !errors.Is(err, fault.NotFound) {
		t.Errorf("Diff(another tenant) = %v, want NotFound", err)
	}
}

// The base of a checkpoint is the nearest one of another run that it descends from.
func TestBase(t *testing.T) {
	t.Parallel()
	s := setup(t)
	runs := map[string]uuid.UUID{}
	ids := map[string]uuid.UUID{}
	above := map[string]string{"branch": "parent", "branch of it": "branch", "sibling": "parent"}
	for _, c := range []struct {
		name, run string
		parents   []string
	}{
		{"p1", "parent", nil}, {"p2", "parent", []string{"p1"}}, {"p3", "parent", []string{"p2"}},
		{"b1", "branch", []string{"p2"}}, {"b2", "branch", []string{"b1"}}, {"b3", "branch", []string{"b2", "p3"}},
		{"c1", "branch of it", []string{"b2"}}, {"c2", "branch of it", []string{"c1"}},
		{"s1", "sibling", []string{"p3"}}, {"b4", "branch", []string{"b2", "s1"}}, {"b5", "branch", []string{"b2", "c2"}}, {"o1", "other", []string{"s1"}},
		{"p4", "parent", []string{"p3", "b2"}},
	} {
		if runs[c.run] == uuid.Nil {
			r, _ := s.create(t, "a:")
			runs[c.run] = r.ID
			if parent := above[c.run]; parent != "" {
				s.exec(t, "UPDATE nofx.run SET parent_run_id = $2 WHERE id = $1", r.ID, runs[parent])
			}
		}
		id, generation := run.NewID(), 1+len(ids)
		ids[c.name] = id
		if _, err := s.Admin.Exec(s.ctx, `INSERT INTO nofx.checkpoint (tenant_id, id, run_id, seq, kind, generation, digest, manifest, state_digest, tree_digest, bytes_new)
			VALUES ($1, $2, $3, $4, 'post', $5, '', '', '', '', 0)`, s.tenant, id, runs[c.run], 1000+len(ids), generation); err != nil {
			t.Fatal(err)
		}
		for ord, p := range c.parents {
			if _, err := s.Admin.Exec(s.ctx, `INSERT INTO nofx.checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id) VALUES ($1, $2, $3, $4)`,
				s.tenant, id, ord+1, ids[p]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]string{"b1": "p2", "b2": "p2", "b3": "p3", "c2": "b2", "p3": "", "b4": "p3", "b5": "p2", "o1": "", "p4": ""} {
		got, err := s.Base(s.ctx, s.tenant, ids[name])
		if got != ids[want] || errors.Is(err, fault.NotFound) != (want == "") {
			t.Errorf("Base(%s) = %s, %v, want %q", name, got, err, want)
		}
	}
}
