//go:build !race

// The race detector of Go 1.26 now and then ends a test in which so many goroutines of a
// bubble wake at one time: "ThreadSanitizer: CHECK failed" (golang.org/issue/78156).

package main

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Calls come at their times, and one that had to wait for others is charged from
// when it was due.
func TestOpenLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var calls atomic.Int64
		took, err := openLoop(t.Context(), 200, time.Second, func(context.Context) error {
			n := calls.Add(1) - 1
			if want := time.Duration(n) * 5 * time.Millisecond; time.Since(began) != want {
				t.Errorf("call %d came after %s, want %s", n, time.Since(began), want)
			}
			<-time.After(30 * time.Millisecond)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(took) != 200 || quantile(took, 0) != 30 || quantile(took, 1) != 30 {
			t.Errorf("openLoop = %d calls of %v to %v ms, want 200 of 30", len(took), quantile(took, 0), quantile(took, 1))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		took, err := openLoop(t.Context(), 1000, time.Second, func(context.Context) error {
			<-time.After(time.Until(began.Add(2 * time.Second))) // all hang until then
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, ms := range took {
			if want := float64(2000 - i); ms < want {
				t.Fatalf("openLoop charged call %d with %v ms, want %v at least: it was due that long before its end", i, ms, want)
			}
		}
	})
}
