package httpapi

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// buckets hold tokens that come back with time, a bucket per name. A rate of zero
// is no limit.
type buckets struct {
	rate  float64 // tokens per second
	burst float64 // what a full bucket holds, at least one token
	now   func() time.Time

	mu sync.Mutex
	m  map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

const bucketsMost = 10_000

func newBuckets(rate, burst float64) *buckets {
	return &buckets{rate: rate, burst: max(1, burst), now: time.Now, m: map[string]bucket{}}
}

// take takes a token of name's bucket, or says how long to wait for one.
func (b *buckets) take(name string) (wait time.Duration, ok bool) { return b.spend(name, 1, 1) }

// owe takes more tokens for a request that has taken one, whether they are there or
// not: what lacks, a burst of them at most, must come back before the next is taken.
// It reports false, and how long to wait, where name owes tokens already.
func (b *buckets) owe(name string, tokens int) (wait time.Duration, ok bool) {
	return b.spend(name, tokens, 0)
}

// spend takes tokens of a bucket that has as many as least.
func (b *buckets) spend(name string, tokens int, least float64) (wait time.Duration, ok bool) {
	if b.rate <= 0 {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.have(name)
	if have.tokens < least {
		return b.until(have), false
	}
	have.tokens = max(have.tokens-float64(tokens), -b.burst)
	if len(b.m) >= bucketsMost {
		b.sweep()
	}
	b.m[name] = have
	return 0, true
}

// empty reports whether take would fail now, taking nothing.
func (b *buckets) empty(name string) (wait time.Duration, empty bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := b.have(name)
	return b.until(have), b.rate > 0 && have.tokens < 1
}

func (b *buckets) have(name string) bucket {
	now := b.now()
	have, ok := b.m[name]
	if !ok {
		return bucket{b.burst, now}
	}
	return bucket{min(b.burst, have.tokens+now.Sub(have.at).Seconds()*b.rate), now}
}

func (b *buckets) until(have bucket) time.Duration {
	return time.Duration((1 - have.tokens) / b.rate * float64(time.Second))
}

// sweep forgets the buckets that are full again; when none is, all of them, since
// memory matters more than a few tokens.
func (b *buckets) sweep() {
	for name := range b.m {
		if b.have(name).tokens >= b.burst {
			delete(b.m, name)
		}
	}
	if len(b.m) >= bucketsMost {
		clear(b.m)
	}
}

// stepsPerToken is how many steps of a run weigh as much as a request by itself.
// To create, cancel or resume a thousand costs the database what a hundred small
// requests and more do.
const stepsPerToken = 10

// throttle takes a token of the caller's key and one of its tenant.
func (s *Server) throttle(p *Principal) error { return s.limited(p, (*buckets).take) }

// weigh has the caller's key and its tenant owe what a request costs beside itself,
// by the steps that the run has which it changes.
func (s *Server) weigh(p *Principal, steps int) error {
	tokens := steps / stepsPerToken
	if tokens == 0 {
		return nil
	}
	return s.limited(p, func(b *buckets, name string) (time.Duration, bool) { return b.owe(name, tokens) })
}

// weighRun is weigh by the steps of a run, or of the run of a step.
func (s *Server) weighRun(ctx context.Context, p *Principal, id uuid.UUID) error {
	steps, err := s.Store.CountSteps(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	return s.weigh(p, steps)
}

func (s *Server) limited(p *Principal, take func(b *buckets, name string) (time.Duration, bool)) error {
	wait, ok := take(s.rate, p.Key.String())
	if ok {
		wait, ok = take(s.shared, p.Tenant.String())
	}
	if ok {
		return nil
	}
	e := fault.New(fault.RateLimited, "rate-limited", "too many requests at once")
	e.RetryAfter = wait
	return e
}

// slots count what is open under a name. Most 0 is no limit.
type slots struct {
	most int
	mu   sync.Mutex
	open map[string]int
}

// streams are the places for open streams: of a caller, of a tenant, of all.
type streams struct{ key, tenant, total slots }

func (s *slots) acquire(name string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 0 && s.open[name] >= s.most {
		return nil, false
	}
	if s.open == nil {
		s.open = map[string]int{}
	}
	s.open[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[name]--; s.open[name] == 0 {
			delete(s.open, name)
		}
	}, true
}

// openStream takes a place for a stream of the caller; release gives it back.
// fault.RateLimited says that the caller or its tenant has as many as it may,
// fault.Unavailable that this process has.
func (s *Server) openStream(p *Principal) (release func(), err error) {
	var taken []func()
	release = func() {
		for _, release := range taken {
			release()
		}
	}
	for _, of := range []struct {
		*slots
		name, whose string
		kind        fault.Kind
		code        string
	}{
		{&s.streams.key, p.Key.String(), "of this key", fault.RateLimited, "rate-limited"},
		{&s.streams.tenant, p.Tenant.String(), "of this tenant", fault.RateLimited, "rate-limited"},
		{&s.streams.total, "", "of this gateway", fault.Unavailable, "unavailable"},
	} {
		place, ok := of.acquire(of.name)
		if !ok {
			release()
			e := fault.New(of.kind, of.code, "%d streams %s are open already", of.most, of.whose)
			e.RetryAfter = 5 * time.Second
			return nil, e
		}
		taken = append(taken, place)
	}
	return release, nil
}
