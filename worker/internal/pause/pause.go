// Package pause waits: for a time, and no longer than a context.
package pause

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d. The error is the cause of ctx's end, if that came first.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Jitter returns d, shorter or longer by up to so large a part of it, so that many who
// wait do not go on at the same time.
func Jitter(d time.Duration, part float64) time.Duration {
	return time.Duration(float64(d) * (1 - part + 2*part*rand.Float64()))
}
