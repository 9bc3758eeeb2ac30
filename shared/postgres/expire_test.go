package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// tablesOfRun counts what each table holds of a run, found before it is deleted.
func (s *store) tablesOfRun(t testing.TB, id uuid.UUID) func() string {
	t.Helper()
	steps := all[uuid.UUID](t, s, "SELECT id FROM nofx.step WHERE run_id = $1", id)
	checkpoints := all[uuid.UUID](t, s, "SELECT id FROM nofx.checkpoint WHERE run_id = $1", id)
	return func() string {
		var left []string
		for _, q := range []string{
			"run WHERE id = $1 AND expired_at IS NOT NULL AND $2::uuid[] IS NOT NULL", "run WHERE id = $1 AND $2::uuid[] IS NOT NULL", "run_search WHERE run_id = $1 AND $2::uuid[] IS NOT NULL",
			"event WHERE run_id = $1 AND $2::uuid[] IS NOT NULL", "checkpoint WHERE run_id = $1 AND $2::uuid[] IS NOT NULL",
			"step WHERE run_id = $1 AND $2::uuid[] IS NOT NULL", "step_dep WHERE run_id = $1 AND $2::uuid[] IS NOT NULL", "gate WHERE run_id = $1 AND $2::uuid[] IS NOT NULL",
			"step_effect WHERE run_id = $1 AND $2::uuid[] IS NOT NULL", "artifact WHERE run_id = $1 AND $2::uuid[] IS NOT NULL",
			"wait WHERE step_id = ANY ($2) AND $1::uuid IS NOT NULL", "attempt WHERE step_id = ANY ($2) AND $1::uuid IS NOT NULL", "log_chunk WHERE step_id = ANY ($2) AND $1::uuid IS NOT NULL",
		} {
			if n := one[int](t, s, "SELECT count(*) FROM nofx."+q, id, steps); n > 0 {
				table, _, _ := strings.Cut(q, " ")
				left = append(left, fmt.Sprintf("%s %d", table, n))
			}
		}
		if n := one[int](t, s, "SELECT count(*) FROM nofx.checkpoint_parent WHERE checkpoint_id = ANY ($1) OR parent_id = ANY ($1)", checkpoints); n > 0 {
			left = append(left, fmt.Sprintf("checkpoint_parent %d", n))
		}
		return strings.Join(left, ", ")
	}
}

// A run goes whole, in small transactions of which each leaves what is sound, and cannot be
// read or changed from the first of them on.
func TestExpireRuns(t *testing.T) {
	t.Parallel()
	s := setup(t)
	e := s.everything(t)
	s.finish(t, e.claim, "succeed")
	if _, err := s.decide(e.gate, "approve"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AbandonMerge(s.ctx, s.tenant, e.merge, postgres.Verb{Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	old := e.run
	young := s.ended(t)
	left := s.tablesOfRun(t, old.ID)
	s.age(t, 31, old.ID)
	s.exec(t, "UPDATE nofx.event SET at = at - interval '31 days' WHERE run_id = $1", old.ID)
	others := one[int](t, s, "SELECT count(*) FROM nofx.run WHERE kind = 'plan' AND id <> $1", old.ID)
	ids := []uuid.UUID{old.ID, young.ID}
	if gone, more, err := s.ExpireRuns(s.ctx, s.tenant, ids, 1); err != nil || len(gone) != 0 || more {
		t.Fatalf("ExpireRuns(not pruned) = %v, %t, %v, want nothing yet", gone, more, err)
	}
	s.prune(t, 1000, ids...)
	if found := s.expired(t, 100, 100); len(found) != 1 || found[0] != old.ID {
		t.Fatalf("ExpiredRuns() = %v, want the old run %s", found, old.ID)
	}
	calls := 0
	for more := true; more; calls++ {
		var gone []uuid.UUID
		var err error
		if gone, more, err = s.ExpireRuns(s.ctx, s.tenant, ids, 1); err != nil || more == (len(gone) == 1) || len(gone) == 1 && gone[0] != old.ID {
			t.Fatalf("ExpireRuns() = %v, %t, %v, want the old run once nothing more is left", gone, more, err)
		}
		s.wantSound(t)
		_, err = s.Run(s.ctx, s.tenant, old.ID)
		wantKind(t, "Run(expired)", err, fault.NotFound, "not-found")
		_, err = s.RetryRun(s.ctx, s.tenant, old.ID, postgres.Verb{Reason: "x"})
		wantKind(t, "RetryRun(expired)", err, fault.NotFound, "not-found")
		list, _, err := s.Runs(s.ctx, s.tenant, postgres.RunFilter{Limit: 10})
		if err != nil || len(list) != others || slices.ContainsFunc(list, func(r run.Run) bool { return r.ID == old.ID }) {
			t.Errorf("Runs() = %d, %v, want all but the old one", len(list), err)
		}
		if found := s.expired(t, 100, 100); more && len(found) != 1 {
			t.Errorf("ExpiredRuns(half deleted) = %v, want it, for whoever goes on", found)
		}
	}
	if calls < 4 { // three steps
		t.Errorf("one step at a time took %d calls, want more", calls)
	}
	if got := left(); got != "" {
		t.Errorf("the expired run has left %s, want nothing", got)
	}
	if got := s.tablesOfRun(t, young.ID)(); !strings.Contains(got, "step 1") || !strings.Contains(got, "log_chunk 3") {
		t.Errorf("of the young run there is %s, want all", got)
	}
}

// What something that stays needs is kept, and goes once that is over.
func TestExpireRunsThatAreNeeded(t *testing.T) {
	t.Parallel()
	parentOf := func(s *store, t *testing.T, parent uuid.UUID) {
		child := s.withCheckpoint(t)
		s.exec(t, `INSERT INTO nofx.checkpoint_parent (tenant_id, checkpoint_id, ord, parent_id)
			SELECT $1, (SELECT id FROM nofx.checkpoint WHERE run_id = $2 ORDER BY seq LIMIT 1), 99, (SELECT id FROM nofx.checkpoint WHERE run_id = $3 ORDER BY seq DESC LIMIT 1)`,
			s.tenant, child.ID, parent)
	}
	merging := func(s *store, t *testing.T, target, source uuid.UUID) {
		s.exec(t, `INSERT INTO nofx.merge (tenant_id, id, target_run_id, source_run_id, target_head, source_head, target_leaves, source_leaves, base_id, strategy, mode, created_by)
			SELECT a.tenant_id, $3, a.id, b.id, a.head_checkpoint_id, b.head_checkpoint_id, ARRAY[a.head_checkpoint_id], ARRAY[b.head_checkpoint_id], a.head_checkpoint_id, 'manual', 'normal', 'tester'
			FROM nofx.run a, nofx.run b WHERE a.id = $1 AND b.id = $2`, target, source, run.NewID())
		s.exec(t, `INSERT INTO nofx.merge_conflict (tenant_id, merge_id, n, unit, at, kind, takes) SELECT tenant_id, id, 1, 'path', 'f', 'text', '{ours}' FROM nofx.merge`)
	}
	const abandon = "UPDATE nofx.merge SET event = 'abandon', version = version + 1, reason = 'x' WHERE $1 IN (target_run_id, source_run_id)"
	for name, tt := range map[string]struct {
		need func(s *store, t *testing.T, id uuid.UUID)
		over string // ends the need of run $1
	}{
		"held": {
			func(s *store, t *testing.T, id uuid.UUID) {
				s.exec(t, "UPDATE nofx.checkpoint SET hold = true WHERE run_id = $1 AND seq = (SELECT min(seq) FROM nofx.checkpoint WHERE run_id = $1)", id)
			},
			"UPDATE nofx.checkpoint SET hold = false WHERE run_id = $1",
		},
		"labelled": {
			func(s *store, t *testing.T, id uuid.UUID) {
				s.exec(t, "UPDATE nofx.checkpoint SET label = 'release' WHERE run_id = $1 AND seq = (SELECT min(seq) FROM nofx.checkpoint WHERE run_id = $1)", id)
			},
			"UPDATE nofx.checkpoint SET label = NULL WHERE run_id = $1",
		},
		"a branch lives": {
			func(s *store, t *testing.T, id uuid.UUID) {
				s.exec(t, "UPDATE nofx.run SET parent_run_id = $2, root_run_id = $2 WHERE id = $1", s.ended(t).ID, id)
			},
			"UPDATE nofx.run SET parent_run_id = NULL, root_run_id = id WHERE parent_run_id = $1",
		},
		"to be merged into another": {func(s *store, t *testing.T, id uuid.UUID) { merging(s, t, s.withCheckpoint(t).ID, id) }, abandon},
		"another is to be merged":   {func(s *store, t *testing.T, id uuid.UUID) { merging(s, t, id, s.withCheckpoint(t).ID) }, abandon},
		"merged into another":       {parentOf, "DELETE FROM nofx.checkpoint_parent p USING nofx.checkpoint c WHERE c.id = p.parent_id AND c.run_id = $1 AND p.ord = 99"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r := s.withCheckpoint(t)
			s.age(t, 31, r.ID)
			prune := func() { // as if all that was done to the run had been done long ago
				s.exec(t, "UPDATE nofx.event SET at = at - interval '31 days' WHERE run_id = $1", r.ID)
				s.prune(t, 1000, r.ID)
			}
			tt.need(s, t, r.ID)
			prune()
			if found := s.expired(t, 100, 100); len(found) != 0 {
				t.Errorf("ExpiredRuns() = %v, want none", found)
			}
			if gone, more, err := s.ExpireRuns(s.ctx, s.tenant, []uuid.UUID{r.ID}, 10); err != nil || len(gone) != 0 || more {
				t.Errorf("ExpireRuns() = %v, %t, %v, want nothing", gone, more, err)
			}
			if _, err := s.Run(s.ctx, s.tenant, r.ID); err != nil {
				t.Errorf("Run() = %v, want it there", err)
			}
			s.exec(t, tt.over, r.ID)
			prune()
			if found := s.expired(t, 100, 100); len(found) != 1 {
				t.Errorf("ExpiredRuns(after it is over) = %v, want the run", found)
			}
			for more := true; more; {
				var gone []uuid.UUID
				var err error
				if gone, more, err = s.ExpireRuns(s.ctx, s.tenant, []uuid.UUID{r.ID}, 10); err != nil || more == (len(gone) == 1) {
					t.Fatalf("ExpireRuns(after it is over) = %v, %t, %v, want the run once nothing more is left", gone, more, err)
				}
			}
			if n := one[int](t, s, "SELECT count(*) FROM nofx.merge"); n != 0 {
				t.Errorf("%d merges of the run are left, want none", n)
			}
		})
	}
}

// A run that is being deleted can be neither side of a merge.
func TestMergeExpired(t *testing.T) {
	t.Parallel()
	s := setup(t)
	old, young := s.withCheckpoint(t), s.withCheckpoint(t)
	s.exec(t, "UPDATE nofx.run SET expired_at = clock_timestamp() WHERE id = $1", old.ID)
	merge := func(target, source uuid.UUID) error {
		_, _, err := s.StartMerge(s.ctx, s.tenant, postgres.NewMerge{TargetRunID: target, SourceRunID: source, Strategy: run.ManualStrategy, Mode: run.NormalMode, CreatedBy: "tester"})
		return err
	}
	wantKind(t, "StartMerge(into an expired run)", merge(old.ID, young.ID), fault.NotFound, "not-found")
	wantKind(t, "StartMerge(of an expired run)", merge(young.ID, old.ID), fault.Invalid, "invalid-field")
}

// withCheckpoint makes a run of one step that has succeeded with two checkpoints.
func (s *store) withCheckpoint(t testing.TB) run.Run {
	t.Helper()
	r, steps := s.create(t, "a:")
	f := outcome(s.claim(t, steps["a"].ID), "succeed")
	pre := checkpoint(run.PreCheckpoint)
	if err := s.RecordCheckpoint(s.ctx, f.Claim, pre); err != nil {
		t.Fatal(err)
	}
	f.Checkpoints = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint, pre.ID)}
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatal(err)
	}
	return r
}
