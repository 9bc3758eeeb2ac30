package postgres_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// ended makes a run of one step that printed and has succeeded.
func (s *store) ended(t testing.TB) run.Run {
	t.Helper()
	r, steps := s.create(t, "a:")
	c := s.claim(t, steps["a"].ID)
	for n := range 3 {
		key := fmt.Sprintf("log-%s-%d", c.StepID, n)
		if err := s.RecordLogChunk(s.ctx, c, postgres.LogChunk{N: n + 1, Start: int64(3 * n), Bytes: 3, Lines: 1, Key: key, SHA256: make([]byte, 32)}); err != nil {
			t.Fatal(err)
		}
	}
	s.finish(t, c, "succeed")
	return r
}

// age makes runs older by so many days.
func (s *store) age(t testing.TB, days int, runs ...uuid.UUID) {
	t.Helper()
	s.exec(t, "UPDATE nofx.run SET created_at = created_at - make_interval(days => $2), finished_at = finished_at - make_interval(days => $2) WHERE id = ANY ($1)", runs, days)
}

// expired returns the runs that have expired, found in looks of so many.
func (s *store) expired(t testing.TB, looks, limit int) (found []uuid.UUID) {
	t.Helper()
	var at postgres.RunRef
	for range 1000 {
		runs, next, err := s.ExpiredRuns(s.ctx, at, looks, limit)
		if err != nil {
			t.Fatalf("ExpiredRuns(%v) = %v", at, err)
		}
		for _, r := range runs {
			found = append(found, r.Run)
		}
		if next == (postgres.RunRef{}) {
			return found
		}
		at = next
	}
	t.Fatal("ExpiredRuns goes on for ever")
	return nil
}

func (s *store) prune(t testing.TB, limit int, runs ...uuid.UUID) postgres.Pruned {
	t.Helper()
	p, err := s.PruneRuns(s.ctx, s.tenant, runs, limit)
	if err != nil {
		t.Fatalf("PruneRuns(%v) = %v", runs, err)
	}
	return p
}

// What expired is found, whatever lies around it, and only that.
func TestExpiredRuns(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var want []string
	other := *s
	other.tenant = s.Tenant(t)
	s.exec(t, `UPDATE nofx.tenant SET settings = '{"retention_days": 7}' WHERE tenant_id = $1`, other.tenant)
	for _, tt := range []struct {
		of   *store
		keep int
		days []int // ages in the order of making; negative: still live
	}{
		{s, 30, []int{60, 40, -35, 31, 29, 3, 0}}, {&other, 7, []int{40, 8, -8, 6, 0}},
	} {
		for _, days := range tt.days {
			if days < 0 {
				r, _ := tt.of.create(t, "a:")
				s.age(t, -days, r.ID)
				continue
			}
			r := tt.of.ended(t)
			s.age(t, days, r.ID)
			if days > tt.keep {
				want = append(want, r.ID.String())
			}
		}
	}
	for _, size := range [][2]int{{1000, 1000}, {1, 1000}, {3, 1}, {1000, 2}} {
		got := s.expired(t, size[0], size[1])
		found := map[string]bool{}
		for _, id := range got {
			found[id.String()] = true
		}
		for _, id := range want {
			if !found[id] {
				t.Errorf("with %v looks and limit run %s is not found", size, id)
			}
		}
		if len(got) != len(want) {
			t.Errorf("with %v looks and limit %d runs are found, want %d", size, len(got), len(want))
		}
	}
}

// Logs go first and then events, in batches, and what is left is sound at every
// point; a run that is live, or young, is not touched.
func TestPruneRuns(t *testing.T) {
	t.Parallel()
	s := setup(t)
	old, young := s.ended(t), s.ended(t)
	live, _ := s.create(t, "a:")
	s.age(t, 31, old.ID, live.ID)
	all := []uuid.UUID{old.ID, young.ID, live.ID}
	events := one[int64](t, s, "SELECT event_seq FROM nofx.run WHERE id = $1", old.ID)
	step := one[uuid.UUID](t, s, "SELECT id FROM nofx.step WHERE run_id = $1", old.ID)
	var total postgres.Pruned
	for range 100 {
		p := s.prune(t, 2, all...)
		total.Events += p.Events
		total.Chunks += p.Chunks
		s.wantSound(t)
		if p.Chunks > 0 {
			if _, err := s.Log(s.ctx, s.tenant, step, nil, 0, 0); fault.KindOf(err) != fault.Gone {
				t.Errorf("Log() of a run that is being pruned = %v, want gone", err)
			}
		}
		if p.Events+p.Chunks > 2 {
			t.Errorf("PruneRuns(limit 2) = %+v", p)
		}
		if p == (postgres.Pruned{}) {
			break
		}
	}
	if want := (postgres.Pruned{Events: events, Chunks: 3}); total != want {
		t.Errorf("pruned %+v, want %+v", total, want)
	}
	for id, want := range map[uuid.UUID]bool{old.ID: true, young.ID: false, live.ID: false} {
		r, err := s.Run(s.ctx, s.tenant, id)
		if err != nil || (r.PrunedSeq != nil) != want || want && *r.PrunedSeq != r.EventSeq {
			t.Errorf("run %s is pruned up to %v of %d, %v; want pruned: %t", id, r.PrunedSeq, r.EventSeq, err, want)
		}
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.object WHERE state = 'condemned'"); n != 3 {
		t.Errorf("condemned objects = %d, want those of the log", n)
	}
	if got := s.expired(t, 100, 100); len(got) != 1 || got[0] != old.ID {
		t.Errorf("ExpiredRuns afterwards = %v, want the old run, to be deleted as a whole", got)
	}
	if log, err := s.Log(s.ctx, s.tenant, one[uuid.UUID](t, s, "SELECT id FROM nofx.step WHERE run_id = $1", young.ID), nil, 0, 0); err != nil || len(log.Chunks) != 3 {
		t.Errorf("Log() of the young run = %+v, %v, want all of it", log, err)
	}
}

// Cursors before what was deleted are told so, with where to go on.
func TestPrunedCursors(t *testing.T) {
	t.Parallel()
	s := setup(t)
	old := s.ended(t)
	s.untilFed(t)
	_, before, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, postgres.FeedCursor{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	young := s.ended(t)
	s.age(t, 31, old.ID)
	s.prune(t, 6, old.ID) // the logs and three events

	_, err = s.Events(s.ctx, s.tenant, old.ID, 2, nil, 10)
	wantKind(t, "Events(after 2)", err, fault.Gone, "cursor-expired")
	if oldest, ok := postgres.OldestKept(err); !ok || oldest.Seq != 3 {
		t.Errorf("OldestKept() = %v, %t, want 3", oldest, ok)
	}
	if list, err := s.Events(s.ctx, s.tenant, old.ID, 3, nil, 100); err != nil || len(list) == 0 || list[0].Seq != 4 {
		t.Errorf("Events(after 3) = %d, %v, want those from 4 on", len(list), err)
	}
	s.prune(t, 1000, old.ID)
	s.untilFed(t)
	_, _, err = s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, before, 10)
	wantKind(t, "Feed(of a cursor before)", err, fault.Gone, "cursor-expired")
	oldest, _ := postgres.OldestKept(err)
	for _, cursor := range []postgres.FeedCursor{{}, oldest} {
		list, next, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, cursor, 3)
		if err != nil || len(list) != 3 || list[0].RunID != young.ID || list[0].Seq != 1 {
			t.Fatalf("Feed(%v) = %d, %v, want those of the young run", cursor, len(list), err)
		}
		if _, _, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, next, 3); err != nil {
			t.Errorf("Feed(next) = %v, want more", err)
		}
	}
	if _, _, err := s.Feed(s.ctx, s.Tenant(t), postgres.FeedFilter{}, before, 3); err != nil {
		t.Errorf("Feed(of another tenant) = %v, want its own horizon", err)
	}
}

// A run that is tried again after it was pruned goes on where it was, and what it
// leaves expires anew.
func TestPrunedRunTriedAgain(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	s.do(t, steps["a"].ID, "fail")
	s.age(t, 31, r.ID)
	first := s.prune(t, 1000, r.ID)
	again := func(sql string, id uuid.UUID) {
		conn, err := s.Admin.Acquire(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		if _, err := conn.Exec(s.ctx, "SELECT set_config('nofx.tenant_id', $1, false)", s.tenant.String()); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(s.ctx, sql, id); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	again("SELECT nofx.run_transition($1, 'retry', 'again')", r.ID)
	again("SELECT nofx.step_transition($1, 'retry', 'again')", steps["a"].ID)
	silent := s.claim(t, steps["a"].ID)
	s.finish(t, silent, "fail")
	if log, err := s.Log(s.ctx, s.tenant, steps["a"].ID, &silent.Fence, 0, 0); err != nil || log.Size != 0 || !log.Ended {
		t.Errorf("Log() of a new attempt that printed nothing = %+v, %v, want an empty one", log, err)
	}
	if _, err := s.Log(s.ctx, s.tenant, steps["a"].ID, new(int64(1)), 0, 0); fault.KindOf(err) != fault.Gone {
		t.Errorf("Log() of the attempt that was pruned = %v, want gone", err)
	}
	again("SELECT nofx.run_transition($1, 'retry', 'again')", r.ID)
	again("SELECT nofx.step_transition($1, 'retry', 'again')", steps["a"].ID)
	c := s.claim(t, steps["a"].ID)
	if err := s.RecordLogChunk(s.ctx, c, postgres.LogChunk{N: 1, Bytes: 3, Lines: 1, Key: "again", SHA256: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	s.finish(t, c, "succeed")
	s.wantSound(t)
	if p := s.prune(t, 1000, r.ID); p != (postgres.Pruned{}) {
		t.Errorf("PruneRuns(a run that ended now) = %+v, want nothing", p)
	}
	if log, err := s.Log(s.ctx, s.tenant, steps["a"].ID, nil, 0, 0); err != nil || len(log.Chunks) != 1 {
		t.Errorf("Log() of the new attempt = %+v, %v, want its chunk", log, err)
	}
	if list, err := s.Events(s.ctx, s.tenant, r.ID, first.Events, nil, 100); err != nil || len(list) == 0 || list[0].Type != "run.running" {
		t.Errorf("Events(after the pruned) = %d, %v, want the new ones", len(list), err)
	}
	s.exec(t, "UPDATE nofx.run SET finished_at = finished_at - interval '31 days' WHERE id = $1", r.ID)
	if p := s.prune(t, 1000, r.ID); p.Chunks != 1 || p.Events == 0 {
		t.Errorf("PruneRuns(31 days later) = %+v, want what the second attempt left", p)
	}
	s.wantSound(t)
}

// What is told of a run long after its end is kept as long as everything is, and
// with it the feed of its tenant.
func TestLateWaiver(t *testing.T) {
	t.Parallel()
	for name, pruned := range map[string]bool{"of a run that was pruned": true, "of a run that nobody has pruned yet": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", "b:")
			a, b := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID)
			gate := s.finish(t, a, "gate failed").Gate.ID
			s.finish(t, b, "fail")
			s.age(t, 31, r.ID)
			if pruned {
				s.prune(t, 1000, r.ID)
			}
			s.ended(t)
			s.untilFed(t)
			_, before, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, postgres.FeedCursor{}, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.decide(gate, "waive"); err != nil {
				t.Fatalf("DecideGate(waive) = %v", err)
			}
			s.wantStates(t, r.ID, "failed a:failed b:failed")
			if found := s.expired(t, 100, 100); len(found) != 0 {
				t.Errorf("ExpiredRuns = %v, want none", found)
			}
			if p := s.prune(t, 1000, r.ID); p != (postgres.Pruned{}) {
				t.Errorf("PruneRuns = %+v, want nothing", p)
			}
			s.untilFed(t)
			list, _, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{Types: []string{"gate.waived"}}, before, 10)
			if err != nil || len(list) != 1 {
				t.Errorf("Feed(of a cursor before the waiver) = %d, %v, want the waiver", len(list), err)
			}
			s.exec(t, "UPDATE nofx.event SET at = at - interval '31 days' WHERE run_id = $1", r.ID)
			if found := s.expired(t, 100, 100); len(found) != 1 {
				t.Errorf("ExpiredRuns(31 days later) = %v, want the run", found)
			}
			if p := s.prune(t, 1000, r.ID); p.Events == 0 {
				t.Errorf("PruneRuns(31 days later) = %+v, want the waiver", p)
			}
			s.wantSound(t)
		})
	}
}

// Workers that prune the same runs at once delete each row once, and nobody waits
// for a run that somebody else holds.
func TestPruneAtOnce(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 8})
	var ids []uuid.UUID
	for range 10 {
		ids = append(ids, s.ended(t).ID)
	}
	s.age(t, 31, ids...)
	want := one[int64](t, s, "SELECT count(*) FROM nofx.event")
	var mu sync.Mutex
	var got int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for idle := 0; idle < 3; {
				p, err := s.PruneRuns(s.ctx, s.tenant, ids, 7)
				if err != nil {
					t.Errorf("PruneRuns() = %v", err)
					return
				}
				if p == (postgres.Pruned{}) {
					idle++
				}
				mu.Lock()
				got += p.Events
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.prune(t, 1000, ids...)
	if left := one[int64](t, s, "SELECT count(*) FROM nofx.event"); left != 0 || got > want {
		t.Errorf("events left = %d, deleted %d of %d, want none left and each deleted once", left, got, want)
	}
	s.wantSound(t)
	tx, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx)
	held := s.ended(t)
	s.age(t, 31, held.ID)
	if _, err := tx.Exec(s.ctx, "SELECT FROM nofx.run WHERE id = $1 FOR UPDATE", held.ID); err != nil {
		t.Fatal(err)
	}
	if p := s.prune(t, 10, held.ID); p != (postgres.Pruned{}) {
		t.Errorf("PruneRuns(held) = %+v, want nothing: it is passed over", p)
	}
}

// The life of an upload: pending, ready, or given up after a day.
func TestUploads(t *testing.T) {
	t.Parallel()
	s := setup(t)
	announce := func(key string) run.Artifact {
		a, err := s.CreateUpload(s.ctx, s.tenant, run.Artifact{ID: run.NewID(), Name: "x", Key: key, MediaType: "text/plain", Size: 3, SHA256: make([]byte, 32)})
		if err != nil || a.State != run.Pending || a.CreatedAt.IsZero() {
			t.Fatalf("CreateUpload() = %+v, %v, want it pending", a, err)
		}
		return a
	}
	done, late, fresh := announce("u/done"), announce("u/late"), announce("u/fresh")
	_, err := s.Artifact(s.ctx, s.tenant, done.ID)
	wantKind(t, "Artifact(pending)", err, fault.NotFound, "not-found")
	c := s.claimWork(t, s.work(t, "k"))
	stale := *c
	stale.Fence--
	err = s.CompleteUpload(s.ctx, &stale, done.ID, "blob")
	wantKind(t, "CompleteUpload(lost fence)", err, fault.Fenced, "fenced")
	for range 2 {
		if err := s.CompleteUpload(s.ctx, c, done.ID, "blob"); err != nil {
			t.Errorf("CompleteUpload() = %v, want nil", err)
		}
		if a, err := s.Artifact(s.ctx, s.tenant, done.ID); err != nil || a.State != run.Ready || a.Key != "blob" {
			t.Errorf("Artifact(completed) = %+v, %v, want it ready", a, err)
		}
	}
	s.exec(t, "UPDATE nofx.artifact SET created_at = created_at - interval '25 hours' WHERE id <> $1", fresh.ID)
	if n, err := s.ExpireUploads(s.ctx, 10); n != 1 || err != nil {
		t.Errorf("ExpireUploads() = %d, %v, want the late one", n, err)
	}
	err = s.CompleteUpload(s.ctx, c, late.ID, "blob")
	wantKind(t, "CompleteUpload(given up)", err, fault.NotFound, "not-found")
	for id, want := range map[uuid.UUID]run.State{done.ID: run.Ready, fresh.ID: run.Pending} {
		if a, err := s.Upload(s.ctx, s.tenant, id); err != nil || a.State != want {
			t.Errorf("Upload() = %s, %v, want %s", a.State, err, want)
		}
	}
	// Its URL may be used again for a while, so what was uploaded has its day.
	if list, err := s.CondemnedObjects(s.ctx, time.Time{}, 10); err != nil || len(list) != 0 {
		t.Errorf("CondemnedObjects() = %v, %v, want none yet", list, err)
	}
	s.exec(t, "UPDATE nofx.object SET created_at = created_at - interval '25 hours'")
	list, err := s.CondemnedObjects(s.ctx, time.Time{}, 10)
	if got := fmt.Sprint(list); err != nil || len(list) != 2 || !strings.Contains(got, "u/done") || !strings.Contains(got, "u/late") {
		t.Errorf("CondemnedObjects() = %s, %v, want those of the uploads that are over", got, err)
	}
	if rest, err := s.CondemnedObjects(s.ctx, list[0].CreatedAt, 10); err != nil || len(rest) != 1 || rest[0] != list[1] {
		t.Errorf("CondemnedObjects(behind the first) = %v, %v, want the second", rest, err)
	}
	if err := s.ForgetObjects(s.ctx, append(list, postgres.Garbage{TenantID: s.tenant, Key: "blob"})); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(all[string](t, s, "SELECT key || ' ' || state FROM nofx.object ORDER BY key")); got != "[blob live u/fresh live]" {
		t.Errorf("objects = %s, want those that are live", got)
	}
}
