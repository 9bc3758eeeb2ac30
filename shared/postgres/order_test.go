package postgres_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// wantNoDeadlock fails when the database had to end one. The store tries again,
// so that nobody else hears of it.
func (s *store) wantNoDeadlock(t testing.TB) {
	t.Helper()
	s.DB.Close() // connections report what they saw when they end, if not before
	if n := one[int](t, s, "SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("deadlocks = %d, want 0", n)
	}
}

// atOnce runs all of the functions at the same time.
func atOnce(fns ...func()) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, fn := range fns {
		wg.Go(func() {
			<-start
			fn()
		})
	}
	close(start)
	wg.Wait()
}

// Whoever stores the same bytes at the same time, in whatever order and over
// whatever checkpoints, waits for others at the most.
func TestBlobsAtOnce(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 8})
	storing := func(blobs []tree.Blob) *postgres.Checkpoint {
		ck := checkpoint(run.PreCheckpoint)
		ck.Blobs = blobs
		for _, b := range blobs {
			ck.Objects = append(ck.Objects, tree.Object{Key: fmt.Sprintf("blob/%x", b.SHA256), SHA256: b.SHA256, Bytes: b.Size, Kind: "blob"})
		}
		return ck
	}
	for round := range 3 {
		blobs := make([]tree.Blob, 200)
		for i := range blobs {
			blobs[i] = tree.Blob{SHA256: tree.Sum(fmt.Append(nil, round, i)), Location: tree.Location{Size: 1, Len: 1}}
		}
		back := slices.Clone(blobs)
		slices.Reverse(back)
		var fns []func()
		for i := range 4 {
			list := [][]tree.Blob{blobs, back}[i%2]
			_, steps := s.create(t, "a:", "b:", "c:")
			a, b, c := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID), s.claim(t, steps["c"].ID)
			batch := []postgres.Finish{outcome(a, "succeed"), outcome(b, "succeed")}
			batch[0].Checkpoints = []*postgres.Checkpoint{storing(list[:100])}
			batch[1].Checkpoints = []*postgres.Checkpoint{storing(list[100:])}
			fns = append(fns, func() {
				done, err := s.FinishSteps(s.ctx, batch, postgres.Worker{ID: "w1", PID: 1}, ttl)
				if err != nil || done[0].Err != nil || done[1].Err != nil {
					t.Errorf("FinishSteps() = %v, %v, want both recorded", done, err)
				}
			}, func() {
				if err := s.RecordCheckpoint(s.ctx, c, storing(list)); err != nil {
					t.Errorf("RecordCheckpoint() = %v, want nil", err)
				}
			})
		}
		atOnce(fns...)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.blob"); n != 600 {
		t.Errorf("blobs = %d, want each of the 600 once", n)
	}
	s.wantSound(t)
	s.wantNoDeadlock(t)
}

// Batches of steps that begin to wait for the same signals, each in an order of its
// own, and the signals as they come.
func TestSignalKeysAtOnce(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 8})
	const keys = 20
	for round := range 3 {
		key := func(i int) string { return fmt.Sprint("k", round, "/", i) }
		batches := make([][]postgres.Finish, 4)
		for i := range keys {
			for b := range batches {
				_, steps := s.create(t, "s:")
				k := i
				if b%2 == 1 {
					k = keys - 1 - i
				}
				batches[b] = append(batches[b], postgres.Finish{Claim: s.claim(t, steps["s"].ID), Outcome: "wait",
					Reason: "waits for a signal", Wait: &postgres.NewWait{Kind: "signal", Key: key(k), After: time.Hour}})
			}
		}
		var fns []func()
		for _, batch := range batches {
			fns = append(fns, func() {
				if _, err := s.FinishSteps(s.ctx, batch, postgres.Worker{ID: "w1", PID: 1}, ttl); err != nil {
					t.Errorf("FinishSteps() = %v, want nil", err)
				}
			}, func() {
				for i := range keys {
					s.signal(t, key(i), "1")
				}
			})
		}
		atOnce(fns...)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.inbox WHERE step_id IS NULL") + one[int](t, s, "SELECT count(*) FROM nofx.step WHERE state <> 'ready'"); n != 0 {
		t.Errorf("signals that nobody took and steps that were not woken = %d, want 0", n)
	}
	s.wantSound(t)
	s.wantNoDeadlock(t)
}
