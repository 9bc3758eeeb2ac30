package gc_test

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/gc"
)

// rounds is how often the race is run: NOFX_TEST_GC_ROUNDS, or few.
func rounds(t *testing.T) int {
	if text := os.Getenv("NOFX_TEST_GC_ROUNDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("NOFX_TEST_GC_ROUNDS = %q, want a number", text)
		}
		return n
	}
	return 20
}

// Collections race checkpoints that use the same content again, at every phase of its end:
// while it is live and unused, while it is condemned, and while it is being deleted. After
// each round all that the checkpoint names is there.
//
// The grace is short, and a save that takes longer from its first question to its row than
// the grace proves nothing, so it is not counted.
func TestReuseRacesCollection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const contents, grace = 4, 2 * time.Second
	want := rounds(t)
	stop := make(chan struct{})
	var collecting sync.WaitGroup
	ended := sync.NewCond(new(sync.Mutex))
	collections, over := 0, false
	var condemned, deleted atomic.Int64
	collecting.Go(func() {
		defer func() {
			ended.L.Lock()
			defer ended.L.Unlock()
			over = true
			ended.Broadcast()
		}()
		for {
			select {
			case <-stop:
				return
			default:
			}
			c, err := b.tryWork(b.TenantID)
			if err != nil {
				t.Errorf("start a collection: %v", err)
				return
			}
			r, err := gc.Collect(b.Ctx, b.job(c, grace), false)
			if err != nil {
				t.Errorf("Collect() = %v", err)
				return
			}
			ended.L.Lock()
			collections++
			ended.Broadcast()
			ended.L.Unlock()
			condemned.Add(r.Condemned.N)
			deleted.Add(r.Deleted.N)
		}
	})
	await := func(n int) { // the collections that begin after now
		ended.L.Lock()
		defer ended.L.Unlock()
		for until := collections + n; collections < until && !over; {
			ended.Wait()
		}
	}
	age := func(files map[string]string) {
		for _, content := range files {
			d := tree.Sum([]byte(content))
			b.exec(t, `UPDATE nofx.blob SET last_ref = last_ref - $1::interval, condemned_at = condemned_at - $1::interval
				WHERE tenant_id = $2 AND sha256 = $3`, 2*grace, b.TenantID, d[:])
		}
	}
	var done, late atomic.Int64
	var racing sync.WaitGroup
	for n := range contents {
		files := map[string]string{"f": fmt.Sprint("content ", n), "dir/g": fmt.Sprint("more ", n), "big": large + fmt.Sprint(n)}
		racing.Go(func() {
			for done.Load() < int64(want) && !t.Failed() {
				r, err := newRun(b.Ctx, b.DB, b.TenantID)
				if err != nil {
					t.Errorf("CreateRun() = %v", err)
					return
				}
				c := b.claim(t, r)
				began := time.Now()
				ck, err := b.save(t, c, files)
				if err != nil {
					t.Errorf("save() = %v", err)
					return
				}
				b.commit(t, c, ck)
				if time.Since(began) > grace {
					late.Add(1)
				} else {
					b.whole(t, b.TenantID, ck)
					done.Add(1)
				}
				b.expire(t, r)
				// The next round meets content that is about to be condemned, was condemned,
				// or is about to be deleted.
				for range done.Load() % 3 {
					age(files)
					await(2)
				}
				age(files)
			}
		})
	}
	racing.Wait()
	close(stop)
	collecting.Wait()
	t.Logf("%d rounds (%d took longer than the grace), %d collections condemned %d blobs and deleted %d", done.Load(), late.Load(), collections, condemned.Load(), deleted.Load())
	if v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), true); err != nil || !v.Sound() {
		t.Errorf("Verify(deep) = %+v, %v, want no row without its object", v, err)
	}
}
