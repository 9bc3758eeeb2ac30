package step

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// What spoils a transaction for one is tried for each; what the database's silence
// spoils is not, as each would wait for all before it.
func TestGroupFails(t *testing.T) {
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
			calls := 0
			g := group[int, int]{do: func(_ context.Context, asks []int) ([]int, error) {
				calls++
				return asks, c.err
			}}
			batch := []*grouped[int, int]{{ask: 1}, {ask: 2}, {ask: 3}}
			g.run(t.Context(), batch)
			if calls != c.want {
				t.Errorf("do was called %d times, want %d", calls, c.want)
			}
			for _, b := range batch {
				if !errors.Is(b.err, c.err) {
					t.Errorf("call(%d) = %v, want %v", b.ask, b.err, c.err)
				}
			}
		})
	}
}

// Calls that come while their tenant is served go together, after it. Another
// tenant's go beside, and so do those of a tenant whose transaction is late.
func TestGroupGathers(t *testing.T) {
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
			g := group[int, int]{lanes: 2, most: 64, patience: c.patience, do: func(_ context.Context, asks []int) ([]int, error) {
				began <- slices.Clone(asks)
				<-end
				return asks, nil
			}}
			var calls sync.WaitGroup
			call := func(tenant uuid.UUID, ask int) {
				calls.Go(func() {
					if got, err := g.call(t.Context(), tenant, ask); got != ask || err != nil {
						t.Errorf("call(%d) = %d, %v", ask, got, err)
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
					g.mu.Lock()
					defer g.mu.Unlock()
					return len(g.waiting)
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
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.busy != 0 || len(g.waiting) != 0 {
				t.Errorf("%d lanes are busy and %d calls wait, want none", g.busy, len(g.waiting))
			}
		})
	}
}
