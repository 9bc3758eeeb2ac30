// Package limit bounds what callers may ask of a gateway: [Rates] of requests, and
// [Slots] for what stays open. Both count by name, such as a key's id, and within this
// process alone.
package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// ratesMost is how many names Rates remembers.
const ratesMost = 10_000

// Rates are token buckets, one for each name.
type Rates struct {
	rate  rate.Limit // tokens per second
	burst int        // what a full bucket holds
	now   func() time.Time

	mu sync.Mutex
	of map[string]*rate.Limiter
}

// NewRates returns full buckets of burst tokens, at least one, that fill at perSecond
// tokens a second. A rate of zero is no limit.
func NewRates(perSecond, burst float64) *Rates {
	return &Rates{rate: rate.Limit(perSecond), burst: max(1, int(burst)), now: time.Now, of: map[string]*rate.Limiter{}}
}

// Take takes a token of name's bucket, or reports false and how long to wait for one.
func (r *Rates) Take(name string) (wait time.Duration, ok bool) {
	return r.spend(name, 1, 1)
}

// Owe takes more tokens for a request that has taken one, whether they are there or
// not: the missing ones, a burst of them at most, must come back before the next is
// taken. It reports false, and how long to wait, where name owes tokens already.
func (r *Rates) Owe(name string, tokens int) (wait time.Duration, ok bool) {
	return r.spend(name, tokens, 0)
}

// Empty reports whether Take would refuse now, and how long it would be to wait.
func (r *Rates) Empty(name string) (wait time.Duration, empty bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, known := r.of[name]
	if r.rate <= 0 || !known {
		return 0, false
	}
	tokens := b.TokensAt(r.now())
	return r.until(tokens), tokens < 1
}

// spend takes tokens of a bucket that has at least so many.
func (r *Rates) spend(name string, tokens int, least float64) (wait time.Duration, ok bool) {
	if r.rate <= 0 {
		return 0, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	b, known := r.of[name]
	if !known {
		if len(r.of) >= ratesMost {
			r.forget(now)
		}
		b = rate.NewLimiter(r.rate, r.burst)
		r.of[name] = b
	}
	have := b.TokensAt(now)
	if have < least {
		return r.until(have), false
	}
	// A limiter reserves a burst at a time at most.
	for tokens = min(tokens, int(have)+r.burst); tokens > 0; tokens -= r.burst {
		b.ReserveN(now, min(tokens, r.burst))
	}
	return 0, true
}

func (r *Rates) until(have float64) time.Duration {
	return time.Duration((1 - have) / float64(r.rate) * float64(time.Second))
}

// forget drops the buckets that are full again; when none is, all of them, since
// memory matters more than a few tokens.
func (r *Rates) forget(now time.Time) {
	for name, b := range r.of {
		if b.TokensAt(now) >= float64(r.burst) {
			delete(r.of, name)
		}
	}
	if len(r.of) >= ratesMost {
		clear(r.of)
	}
}
