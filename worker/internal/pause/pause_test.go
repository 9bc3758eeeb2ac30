package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(why) })
		began := time.Now()
		if err := For(ctx, time.Second); err != nil || time.Since(began) != time.Second {
			t.Errorf("For(a second) = %v after %v, want nil after it", err, time.Since(began))
		}
		if err := For(ctx, time.Hour); err != why || time.Since(began) != time.Minute {
			t.Errorf("For(an hour) = %v after %v, want %v after the minute of its context", err, time.Since(began), why)
		}
	})
}

func TestJitter(t *testing.T) {
	t.Parallel()
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		d := Jitter(time.Second, 0.2)
		least, most = min(least, d), max(most, d)
	}
	if least < 800*time.Millisecond || most > 1200*time.Millisecond || most-least < 300*time.Millisecond {
		t.Errorf("Jitter(1 s, 0.2) = %v to %v, want about 800 ms to 1.2 s", least, most)
	}
}
