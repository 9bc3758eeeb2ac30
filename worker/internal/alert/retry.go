package alert

import (
	"net/http"
	"strconv"
	"time"

	"nofx.dev/worker/internal/pause"
)

// delays are the times between attempts; after the last of them there is one more attempt.
var delays = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

// maxAfter is how long a receiver may be left alone at its own wish.
const maxAfter = 24 * time.Hour

// next returns the seconds from the end of an attempt until the next one: its delay ± 20 %, and
// no less than after; nil when there is none.
func next(attempt int, after time.Duration) *float64 {
	if attempt > len(delays) {
		return nil
	}
	return new(max(pause.Jitter(delays[attempt-1], 0.2), after).Seconds())
}

// retryAfter returns the wait that a header asks for, in seconds or as a time, at most
// maxAfter; 0 for none.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxAfter)
	}
	return 0
}
