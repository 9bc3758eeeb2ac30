package limit

import (
	"fmt"
	"testing"
	"time"
)

// TestSlowRates checks that a rate of less than one request in two seconds lets one
// pass at times, and not none for ever.
func TestSlowRates(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0.001, 0.4, 0.5, 3} {
		b := NewRates(rate, 2*rate)
		now := time.Unix(1000, 0)
		b.now = func() time.Time { return now }
		want := max(1, int(2*rate))
		for i := range want {
			if _, ok := b.Take("x"); !ok {
				t.Errorf("rate %g: request %d of a burst was refused, want %d", rate, i+1, want)
			}
		}
		wait, ok := b.Take("x")
		if ok {
			t.Errorf("rate %g: a burst of %d passed, want %d", rate, want+1, want)
		}
		now = now.Add(wait + time.Millisecond)
		if _, ok := b.Take("x"); !ok {
			t.Errorf("rate %g: refused after the wait of %s that it asked for", rate, wait)
		}
	}
}

// TestOwe checks that what is owed for a heavy request is paid before the next.
func TestOwe(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	b := NewRates(100, 200)
	b.now = func() time.Time { return now }
	for i, want := range []struct {
		tokens int
		wait   time.Duration // 0: they were taken
	}{{100, 0}, {150, 0}, {1, 510 * time.Millisecond}, {1_000_000, 510 * time.Millisecond}} {
		if wait, ok := b.Owe("x", want.tokens); ok != (want.wait == 0) || wait.Round(time.Millisecond) != want.wait {
			t.Errorf("owe %d of %d tokens = %v, %v, want %v", i, want.tokens, wait, ok, want.wait)
		}
	}
	now = now.Add(time.Second)
	if _, ok := b.Owe("x", 1_000_000); !ok {
		t.Error("owe(1,000,000) of a bucket that owes nothing was refused")
	}
	if wait, ok := b.Take("x"); ok || wait.Round(time.Millisecond) != 2010*time.Millisecond {
		t.Errorf("take after it = %v, %v, want a burst and a token to be waited for, 2.01s", wait, ok)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	b := NewRates(2, 3)
	b.now = func() time.Time { return now }
	taken := func(name string) (n int) {
		for {
			if _, ok := b.Take(name); !ok {
				return n
			}
			n++
		}
	}
	if got := taken("a"); got != 3 {
		t.Errorf("a full bucket gave %d, want 3", got)
	}
	if wait, empty := b.Empty("a"); !empty || wait != 500*time.Millisecond {
		t.Errorf("empty = %s, %v, want 500ms, true", wait, empty)
	}
	now = now.Add(time.Second)
	if got := taken("a"); got != 2 {
		t.Errorf("after a second it gave %d, want 2", got)
	}
	if got := taken("b"); got != 3 {
		t.Errorf("another name's bucket gave %d, want 3", got)
	}
	for i := range 2 * ratesMost {
		b.Take(fmt.Sprint(i))
	}
	if len(b.of) > ratesMost {
		t.Errorf("%d buckets are kept, want at most %d", len(b.of), ratesMost)
	}
	if off := NewRates(0, 0); !func() bool { _, ok := off.Take("x"); return ok }() {
		t.Error("a rate of 0 refused")
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	s := NewSlots(2)
	var taken []func()
	for i, want := range []bool{true, true, false} {
		release, ok := s.Acquire("x")
		if ok != want {
			t.Errorf("Acquire %d = %v, want %v", i, ok, want)
		}
		taken = append(taken, release)
	}
	if _, ok := s.Acquire("y"); !ok {
		t.Error("Acquire of another name was refused")
	}
	taken[0]()
	if _, ok := s.Acquire("x"); !ok {
		t.Error("Acquire after a release was refused")
	}
	free := NewSlots(0)
	for range 1000 {
		if _, ok := free.Acquire("x"); !ok {
			t.Fatal("no limit refused")
		}
	}
}
