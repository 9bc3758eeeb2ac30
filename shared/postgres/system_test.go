package postgres_test

import (
	"crypto/sha256"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// verification returns work that computes what key says.
func verification(t testing.TB, key string) postgres.Work {
	t.Helper()
	p, err := run.SystemPlan(run.ToolVerify, "verify", run.VerifyInputs{ArtifactID: run.ArtifactID.Format(uuid.Max)})
	if err != nil {
		t.Fatal(err)
	}
	return postgres.Work{Key: key, Project: "default", Plan: p, CreatedBy: "tester"}
}

// work starts the work of a key, or returns the run that does it.
func (s *store) work(t testing.TB, key string) run.Run {
	t.Helper()
	r, err := s.StartWork(s.ctx, s.tenant, verification(t, key))
	if err != nil || r.Kind != run.SystemRun {
		t.Fatalf("StartWork(%s) = %s run, %v, want a system run", key, r.Kind, err)
	}
	return r
}

// claimWork claims the only step of a system run.
func (s *store) claimWork(t testing.TB, r run.Run) *postgres.Claim {
	t.Helper()
	d, err := s.RunDetail(s.ctx, s.tenant, r.ID)
	if err != nil || len(d.Steps) != 1 || d.Steps[0].Queue != run.MaintenanceQueue {
		t.Fatalf("RunDetail() = %d steps, %v, want one in the queue %s", len(d.Steps), err, run.MaintenanceQueue)
	}
	return s.claim(t, d.Steps[0].ID)
}

// failWork claims the step of a system run and fails it.
func (s *store) failWork(t testing.TB, r run.Run, class run.FailureClass) {
	t.Helper()
	f := outcome(s.claimWork(t, r), "fail")
	f.FailureClass = class
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatalf("FinishStep(fail, %s) = %v, want nil", class, err)
	}
}

// Who asks for work again is answered by the run that does it, has done it, or found that
// it cannot be done; any other end begins it anew.
func TestStartWork(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end  func(*testing.T, *store, run.Run)
		same bool
	}{
		"queued":  {func(*testing.T, *store, run.Run) {}, true},
		"running": {func(t *testing.T, s *store, r run.Run) { s.claimWork(t, r) }, true},
		"succeeded": {func(t *testing.T, s *store, r run.Run) {
			s.finish(t, s.claimWork(t, r), "succeed")
		}, true},
		"invalid": {func(t *testing.T, s *store, r run.Run) {
			s.failWork(t, r, run.ClassInvalid)
		}, true},
		"infrastructure": {func(t *testing.T, s *store, r run.Run) {
			s.failWork(t, r, run.ClassInfrastructure)
		}, false},
		"cancelled": {func(t *testing.T, s *store, r run.Run) {
			if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "x"}); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			first := s.work(t, "k")
			tt.end(t, s, first)
			if again := s.work(t, "k"); (again.ID == first.ID) != tt.same {
				t.Errorf("StartWork(again) = the same run: %v, want %v", again.ID == first.ID, tt.same)
			}
			if other := s.work(t, "other"); other.ID == first.ID {
				t.Error("StartWork(another key) = the same run, want another")
			}
			s.wantSound(t)
		})
	}
}

// Of many that ask at once all get one run, and another tenant gets its own.
func TestStartWorkAtOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ids := make([]uuid.UUID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := s.StartWork(s.ctx, s.tenant, verification(t, "k"))
			if err != nil {
				t.Errorf("StartWork() = %v, want nil", err)
			}
			ids[i] = r.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("StartWork() at once = %s and %s, want one run", ids[0], id)
		}
	}
	if r, err := s.StartWork(s.ctx, s.Tenant(t), verification(t, "k")); err != nil || r.ID == ids[0] {
		t.Errorf("StartWork(another tenant) = %s, %v, want a run of its own", r.ID, err)
	}
}

// Lists and counts of runs leave system runs out, unless they are asked for.
func TestSystemRunsAreApart(t *testing.T) {
	t.Parallel()
	s := setup(t)
	plain, _ := s.create(t, "a:")
	system := s.work(t, "k")
	for kind, want := range map[run.Kind]uuid.UUID{run.PlanRun: plain.ID, run.SystemRun: system.ID} {
		for _, words := range [][]string{nil, {"e"}} { // by the runs themselves, and by what is searched
			list, _, err := s.Runs(s.ctx, s.tenant, postgres.RunFilter{Kind: kind, Words: words, Limit: 10, Within: time.Minute})
			if err != nil || len(list) != 1 || list[0].ID != want {
				t.Errorf("Runs(%s, %v) = %d, %v, want its run alone", kind, words, len(list), err)
			}
		}
	}
	counts, err := s.RunCounts(s.ctx)
	if err != nil || counts[run.Queued] != 1 {
		t.Errorf("RunCounts() = %v, %v, want the plan's run alone", counts, err)
	}
}

// A system run goes seven days after its end, with all that it left, and no other does.
func TestExpireSystemRuns(t *testing.T) {
	t.Parallel()
	s := setup(t)
	old, fresh, live := s.work(t, "old"), s.work(t, "fresh"), s.work(t, "live")
	plain, steps := s.create(t, "a:")
	c := s.claimWork(t, old)
	if err := s.RecordLogChunk(s.ctx, c, postgres.LogChunk{N: 1, Bytes: 3, Lines: 1, Key: "log/old", SHA256: make([]byte, 32)}); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("archive"))
	if err := s.FinishStep(s.ctx, postgres.Finish{Claim: c, Outcome: "succeed", Artifacts: []run.Artifact{
		{ID: run.NewID(), Name: "archive", Key: "archive", MediaType: "application/gzip", Size: 1, SHA256: sum[:]},
	}}); err != nil {
		t.Fatal(err)
	}
	s.finish(t, s.claimWork(t, fresh), "succeed")
	s.do(t, steps["a"].ID, "succeed")
	s.exec(t, "UPDATE nofx.run SET created_at = created_at - interval '8 days' WHERE id <> $1", fresh.ID)
	s.exec(t, "UPDATE nofx.run SET finished_at = finished_at - interval '8 days' WHERE id <> $1", fresh.ID)
	if n, err := s.ExpireSystemRuns(s.ctx, 10); n != 1 || err != nil {
		t.Fatalf("ExpireSystemRuns() = %d, %v, want one", n, err)
	}
	for id, want := range map[uuid.UUID]bool{old.ID: false, fresh.ID: true, live.ID: true, plain.ID: true} {
		if _, err := s.Run(s.ctx, s.tenant, id); (err == nil) != want {
			t.Errorf("Run(%s) = %v, want it there: %v", id, err, want)
		}
	}
	_, err := s.Run(s.ctx, s.tenant, old.ID)
	wantKind(t, "Run(expired)", err, fault.NotFound, "not-found")
	for table, sql := range map[string]string{
		"step": "run_id = $1", "event": "run_id = $1", "run_search": "run_id = $1", "attempt": "step_id = $1", "artifact": "run_id = $1", "log_chunk": "step_id = $1",
	} {
		id := old.ID
		if strings.HasPrefix(sql, "step_id") {
			id = c.StepID
		}
		if n := one[int64](t, s, "SELECT count(*) FROM nofx."+table+" WHERE "+sql, id); n != 0 {
			t.Errorf("%s holds %d rows of the expired run, want none", table, n)
		}
	}
	if list, err := s.CondemnedObjects(s.ctx, time.Time{}, 10); err != nil || len(list) != 1 || list[0].Key != "log/old" {
		t.Errorf("CondemnedObjects() = %v, %v, want the log's", list, err)
	}
	s.wantSound(t)
}
