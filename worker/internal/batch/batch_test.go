package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

func isSilent(err error) bool { return errors.Is(err, fault.Unavailable) }

// What spoils a transaction for one is tried for each; what the database's silence
// spoils is not, as each would wait for all before it.
func TestFailures(t *testing.T) {
	t.Parallel()
	silence := fault.New(fault.Unavailable, "unavailable", "no answer")
	for name, c := range map[string]struct {
		err  error
		want int // calls of do for three
	}{
		"one is refused":         {errors.New("refused"), 4},
		"the database is silent": {silence, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			count := 0
			b := New(func(_ context.Context, asks []int) ([]int, error) {
				count++
				return asks, c.err
			}, isSilent)
			calls := []*call[int, int]{{ask: 1}, {ask: 2}, {ask: 3}}
			b.run(t.Context(), calls)
			if count != c.want {
				t.Errorf("do was called %d times, want %d", count, c.want)
			}
			for _, one := range calls {
				if !errors.Is(one.err, c.err) {
					t.Errorf("Call(%d) = %v, want %v", one.ask, one.err, c.err)
				}
			}
		})
	}
}

// Calls that come while their tenant is served go together, after it. Another
// tenant's go beside, and so do those of a tenant whose transaction is late.
func TestGathers(t *testing.T) {
	t.Parallel()
	one, other := uuid.New(), uuid.New()
	for name, c := range map[string]struct {
		patience time.Duration
		second   uuid.UUID // the tenant of the calls that come while the first is served
		beside   bool      // they do not wait for it
	}{
		"the tenant is served":     {time.Hour, one, false},
		"another tenant is served": {time.Hour, other, true},
		"the tenant's is late":     {time.Millisecond, one, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, end := make(chan []int, 3), make(chan struct{})
			b := New(func(_ context.Context, asks []int) ([]int, error) {
				began <- slices.Clone(asks)
				<-end
				return asks, nil
			}, isSilent)
			b.patience = c.patience
			var calls sync.WaitGroup
			call := func(tenant uuid.UUID, ask int) {
				calls.Go(func() {
					if got, err := b.Call(t.Context(), tenant, ask); got != ask || err != nil {
						t.Errorf("Call(%d) = %d, %v", ask, got, err)
					}
				})
			}
			call(one, 1)
			<-began
			call(c.second, 2)
			if c.beside {
				if got := <-began; !slices.Equal(got, []int{2}) {
					t.Errorf("beside it went %v, want 2", got)
				}
				end <- struct{}{}
			} else {
				call(c.second, 3)
				waiting := func() int {
					b.mu.Lock()
					defer b.mu.Unlock()
					return len(b.waiting)
				}
				for waiting() < 2 {
					runtime.Gosched()
				}
				select {
				case got := <-began:
					t.Errorf("beside it went %v, want nothing", got)
				default:
				}
				end <- struct{}{}
				got := <-began
				slices.Sort(got)
				if !slices.Equal(got, []int{2, 3}) {
					t.Errorf("after it went %v, want 2 and 3 together", got)
				}
			}
			end <- struct{}{}
			calls.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.running() != 0 || len(b.waiting) != 0 {
				t.Errorf("%d lanes are busy and %d calls wait, want none", b.running(), len(b.waiting))
			}
		})
	}
}

// However late the transactions of a tenant are, it has its share of the lanes: the
// others are for the other tenants.
func TestShares(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		greedy, modest := uuid.New(), uuid.New()
		locked := make(chan struct{})
		running, most := 0, 0
		var lock sync.Mutex
		count := func(n int) {
			lock.Lock()
			defer lock.Unlock()
			running += n
			most = max(most, running)
		}
		b := New(func(_ context.Context, asks []uuid.UUID) ([]uuid.UUID, error) {
			if asks[0] == greedy {
				count(1)
				<-locked
				count(-1)
			}
			return asks, nil
		}, isSilent)
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() { _, _ = b.Call(t.Context(), greedy, greedy) })
			time.Sleep(2 * b.patience)
		}
		began := time.Now()
		for range 10 {
			if got, err := b.Call(t.Context(), modest, modest); got != modest || err != nil {
				t.Errorf("Call() of another tenant = %v, %v", got, err)
			}
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("another tenant waited %v, want not at all", waited)
		}
		close(locked)
		calls.Wait()
		if most != b.share || most >= b.lanes {
			t.Errorf("one tenant had %d of %d lanes, want its share of %d", most, b.lanes, b.share)
		}
	})
}

// A call that comes alone does not wait for others. After a transaction of several
// calls the next few do, for those that come within linger and no longer, and not
// while another tenant waits for their lane.
func TestLingers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const took = 5 * time.Millisecond // each transaction
		var lock sync.Mutex
		var got []string
		start := time.Now()
		b := New(func(_ context.Context, asks []string) ([]string, error) {
			slices.Sort(asks)
			lock.Lock()
			got = append(got, fmt.Sprintf("%v %v", time.Since(start), asks))
			lock.Unlock()
			time.Sleep(took)
			return asks, nil
		}, isSilent)
		b.lanes, b.few = 1, 2
		tenant, other := uuid.New(), uuid.New()
		var calls sync.WaitGroup
		for ask, at := range map[string]time.Duration{
			"a": 0, "b": 1, "c": 2, // b and c while a is on its way
			"d": 6, "e": 11, "f": 13, // d while they are, e as the next one lingers, f too late
			"g": 40,                                         // alone, as f was: both have lingered for nobody
			"h": 50,                                         // at once
			"i": 60, "j": 61, "k": 62, "l": 66, "other": 67, // l without lingering
			"m": 90,
		} {
			calls.Go(func() {
				time.Sleep(at * time.Millisecond)
				of := tenant
				if ask == "other" {
					of = other
				}
				if answer, err := b.Call(t.Context(), of, ask); answer != ask || err != nil {
					t.Errorf("Call(%s) = %s, %v", ask, answer, err)
				}
			})
		}
		calls.Wait()
		want := []string{"0s [a]", "5ms [b c]", "12ms [d e]", "19ms [f]", "42ms [g]", "50ms [h]", "60ms [i]", "65ms [j k]", "70ms [l]", "75ms [other]", "92ms [m]"}
		if !slices.Equal(got, want) {
			t.Errorf("transactions at %v, want %v", got, want)
		}
		if len(b.served)+len(b.crowded)+len(b.waiting)+len(b.busy) != 0 {
			t.Errorf("it keeps %d served, %d crowded and %d busy tenants and %d calls, want none", len(b.served), len(b.crowded), len(b.busy), len(b.waiting))
		}
	})
}
