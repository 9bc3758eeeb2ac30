// Package batch makes calls that come at the same time one transaction: what a
// transaction costs besides its rows is paid once for all of them.
//
// A call that comes alone goes alone and at once. Calls of a tenant whose transaction is
// under way wait for its end and go together, unless it is late: a row that somebody else
// has locked must not keep all others waiting. After a transaction of several calls more
// of them are likely, so the next few transactions wait a moment for further calls before
// they begin, unless another tenant has use for the lane. A tenant has no more than its
// share of the lanes.
package batch

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The defaults of a Batcher (EXECUTION.md, Finish and Limits).
const (
	lanes    = 4
	share    = 2
	most     = 64
	patience = 100 * time.Millisecond
	linger   = 2 * time.Millisecond
	few      = 8
)

// Batcher makes calls of one kind. It is safe for concurrent use.
type Batcher[Q, A any] struct {
	do       func(context.Context, []Q) ([]A, error) // all of one tenant
	silent   func(error) bool
	lanes    int           // transactions at once
	share    int           // of one tenant
	most     int           // calls in one
	patience time.Duration // until a transaction is late
	linger   time.Duration // how long one waits for further calls before it begins
	few      int           // how many do so after one of several calls

	mu      sync.Mutex
	busy    map[uuid.UUID]int  // transactions of each tenant
	served  map[uuid.UUID]bool // tenants with a transaction that is not late
	crowded map[uuid.UUID]int  // tenants of which so many transactions are to linger
	waiting []*call[Q, A]
}

// New makes a Batcher. do answers several calls of one tenant in one transaction, in
// their order. silent reports whether an error of do means that the database does not
// answer at all.
func New[Q, A any](do func(context.Context, []Q) ([]A, error), silent func(error) bool) *Batcher[Q, A] {
	return &Batcher[Q, A]{do: do, silent: silent, lanes: lanes, share: share, most: most, patience: patience, linger: linger, few: few,
		busy: map[uuid.UUID]int{}, served: map[uuid.UUID]bool{}, crowded: map[uuid.UUID]int{}}
}

type call[Q, A any] struct {
	ctx    context.Context
	tenant uuid.UUID
	ask    Q
	answer A
	err    error
	done   chan struct{}
}

// Call returns what do answers to one call. It returns when do has, whatever becomes of
// its caller: a transaction under way is not the caller's alone. Where do fails for several
// calls together, each is tried by itself, so that one cannot spoil the others; but not
// while the database is silent, which would make each wait for all before it.
func (b *Batcher[Q, A]) Call(ctx context.Context, tenant uuid.UUID, ask Q) (A, error) {
	c := &call[Q, A]{ctx: context.WithoutCancel(ctx), tenant: tenant, ask: ask, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	b.dispatch()
	b.mu.Unlock()
	<-c.done
	return c.answer, c.err
}

// dispatch begins the transactions of tenants that need not wait. The caller holds mu.
func (b *Batcher[Q, A]) dispatch() {
	for b.running() < b.lanes {
		tenant, waits := b.next()
		if !waits {
			return
		}
		b.busy[tenant]++
		b.served[tenant] = true
		go b.serve(tenant) // ends with its transaction, which its callers wait for
	}
}

// running returns how many transactions are under way. The caller holds mu.
func (b *Batcher[Q, A]) running() (n int) {
	for _, of := range b.busy {
		n += of
	}
	return n
}

// next returns the tenant that has waited longest without being served, if one does
// and has not got its share. The caller holds mu.
func (b *Batcher[Q, A]) next() (tenant uuid.UUID, waits bool) {
	for _, c := range b.waiting {
		if !b.served[c.tenant] && b.busy[c.tenant] < b.share {
			return c.tenant, true
		}
	}
	return uuid.Nil, false
}

func (b *Batcher[Q, A]) serve(tenant uuid.UUID) {
	calls := b.take(tenant)
	late := time.AfterFunc(b.patience, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.served, tenant)
		b.dispatch()
	})
	b.run(calls[0].ctx, calls)
	b.mu.Lock()
	if b.busy[tenant]--; b.busy[tenant] == 0 {
		delete(b.busy, tenant)
	}
	if late.Stop() { // else it has left the tenant to the next one, or is about to
		delete(b.served, tenant)
	}
	b.dispatch()
	b.mu.Unlock()
	for _, c := range calls {
		close(c.done)
	}
}

// take returns the calls of a tenant that go together: those that wait, after lingering
// where that is due. There is one at least, for which the tenant is served.
func (b *Batcher[Q, A]) take(tenant uuid.UUID) (calls []*call[Q, A]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, others := b.next(); b.crowded[tenant] > 0 && !others {
		b.mu.Unlock()
		time.Sleep(b.linger)
		b.mu.Lock()
	}
	rest := b.waiting[:0]
	for _, c := range b.waiting {
		if c.tenant == tenant && len(calls) < b.most {
			calls = append(calls, c)
		} else {
			rest = append(rest, c)
		}
	}
	clear(b.waiting[len(rest):])
	b.waiting = rest
	if len(calls) > 1 {
		b.crowded[tenant] = b.few
	} else if b.crowded[tenant]--; b.crowded[tenant] <= 0 {
		delete(b.crowded, tenant)
	}
	return calls
}

func (b *Batcher[Q, A]) run(ctx context.Context, calls []*call[Q, A]) {
	asks := make([]Q, len(calls))
	for i, c := range calls {
		asks[i] = c.ask
	}
	answers, err := b.do(ctx, asks)
	switch {
	case err == nil:
		for i, c := range calls {
			c.answer = answers[i]
		}
	case len(calls) == 1 || b.silent(err):
		for _, c := range calls {
			c.err = err
		}
	default:
		for _, c := range calls {
			b.run(ctx, []*call[Q, A]{c})
		}
	}
}
