package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clockwork is a system whose runs take a fixed time, however many there are.
type clockwork struct {
	takes time.Duration
	fail  error // of submit

	mu   sync.Mutex
	ends []time.Time
	most int // in flight at once
}

func (c *clockwork) submit(context.Context, int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	c.ends = append(c.ends, time.Now().Add(c.takes))
	c.most = max(c.most, c.running())
	return nil
}

// running counts the runs that have not ended; c.mu is held.
func (c *clockwork) running() (n int) {
	for _, at := range c.ends {
		if at.After(time.Now()) {
			n++
		}
	}
	return n
}

func (c *clockwork) live(context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running(), nil
}

func (c *clockwork) now(context.Context) (time.Time, error) { return time.Now(), nil }

func (c *clockwork) finished(_ context.Context, from, to time.Time) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range c.ends {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n, nil
}

func (c *clockwork) startDelays(context.Context, time.Time) ([]float64, error) { return nil, nil }
func (c *clockwork) nextDelays(context.Context, time.Time) ([]float64, error)  { return nil, nil }
func (c *clockwork) sessions(context.Context) ([]int, error)                   { return nil, nil }

func TestThroughput(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &clockwork{takes: 95 * time.Millisecond} // 100 ms with the loop's look
		rate, err := throughput(t.Context(), s, 8, 3, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if rate < 78 || rate > 83 {
			t.Errorf("throughput(8 in flight of 100 ms) = %.1f/s, want 80", rate)
		}
		if s.most != 8 {
			t.Errorf("throughput held %d runs in flight, want 8", s.most)
		}
		if left, _ := s.live(t.Context()); left != 0 {
			t.Errorf("throughput left %d runs behind, want 0", left)
		}
	})
}

func TestThroughputFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		if rate, err := throughput(t.Context(), &clockwork{fail: broken}, 64, 3, time.Hour); !errors.Is(err, broken) {
			t.Errorf("throughput of a broken system = %v, %v, want its error", rate, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(2*time.Second, func() { cancel(broken) })
		if rate, err := throughput(ctx, &clockwork{takes: time.Millisecond}, 8, 3, time.Hour); !errors.Is(err, broken) {
			t.Errorf("throughput, cancelled = %v, %v, want the cause", rate, err)
		}
	})
}

func TestOpenLoopFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		_, err := openLoop(t.Context(), 100, time.Hour, func(context.Context) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("openLoop of failing calls = %v, want their error", err)
		}
	})
}

func TestFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rate, err := flood(t.Context(), time.Second, func(context.Context) error {
			<-time.After(10 * time.Millisecond)
			return nil
		})
		if want := float64(clients * 100); err != nil || rate != want {
			t.Errorf("flood(10 ms each) = %v, %v, want %v", rate, err, want)
		}
	})
}
