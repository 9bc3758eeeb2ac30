package step

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A job's context passes on that it was cancelled, and not that its time is up.
func TestWithoutDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late, cancelLate := context.WithTimeout(t.Context(), time.Second)
		defer cancelLate()
		cancelled, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		why := errors.New("stopped")
		for name, c := range map[string]struct {
			ctx  context.Context
			want error
		}{"time is up": {late, nil}, "cancelled": {cancelled, why}} {
			free, stop := withoutDeadline(c.ctx)
			defer stop()
			<-late.Done()
			cancel(why)
			synctest.Wait()
			if got := context.Cause(free); got != c.want {
				t.Errorf("%s: cause = %v, want %v", name, got, c.want)
			}
		}
	})
}
