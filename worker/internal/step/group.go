package step

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
)

// How claims and finishes share transactions: so many transactions of each at
// once, of which one tenant has one, or its share when they take longer than
// patience; so many steps in one at the most. After one of several steps the next
// few linger for company (EXECUTION.md, Finish and Limits).
const (
	lanes    = 4
	share    = 2
	most     = 64
	patience = 100 * time.Millisecond
	linger   = 2 * time.Millisecond
	few      = 8
)

// A group makes calls that come while others are on their way in one
// transaction: what a transaction costs besides its rows is paid once for all of
// them. A call that comes alone goes alone and at once. But it waits for the
// transaction before it of the same tenant, which makes company of those that come
// meanwhile, unless that one is late: a run that somebody else holds must not keep
// all others waiting. And where there was company, more is likely: the next few
// transactions linger for it, unless another tenant has use for their lane.
type group[Q, A any] struct {
	do       func(context.Context, []Q) ([]A, error) // all of one tenant
	lanes    int                                     // transactions at once
	share    int                                     // of one tenant
	most     int                                     // calls in one
	patience time.Duration                           // until a transaction is late
	linger   time.Duration                           // until one begins that waits for company
	few      int                                     // that do so after one of several calls

	mu      sync.Mutex
	busy    map[uuid.UUID]int  // transactions of each tenant
	served  map[uuid.UUID]bool // tenants with a transaction that is not late
	crowded map[uuid.UUID]int  // tenants of which so many transactions are to linger
	waiting []*grouped[Q, A]
}

func newGroup[Q, A any](do func(context.Context, []Q) ([]A, error)) *group[Q, A] {
	return &group[Q, A]{do: do, lanes: lanes, share: share, most: most, patience: patience, linger: linger, few: few,
		busy: map[uuid.UUID]int{}, served: map[uuid.UUID]bool{}, crowded: map[uuid.UUID]int{}}
}

type grouped[Q, A any] struct {
	ctx    context.Context
	tenant uuid.UUID
	ask    Q
	answer A
	err    error
	done   chan struct{}
}

// call is do for one. It returns when do has, whatever becomes of its caller: a
// transaction under way is not the caller's alone. Where do fails for several
// together, each is tried by itself, so that one cannot spoil the others; but not
// while the database is silent, which would make each wait for all before it.
func (g *group[Q, A]) call(ctx context.Context, tenant uuid.UUID, ask Q) (A, error) {
	c := &grouped[Q, A]{ctx: context.WithoutCancel(ctx), tenant: tenant, ask: ask, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	g.dispatch()
	g.mu.Unlock()
	<-c.done
	return c.answer, c.err
}

// dispatch has the tenants served that wait and need not. The caller holds mu.
func (g *group[Q, A]) dispatch() {
	for g.running() < g.lanes {
		tenant, waits := g.next()
		if !waits {
			return
		}
		g.busy[tenant]++
		g.served[tenant] = true
		go g.serve(tenant) // ends with its transaction, which its callers wait for
	}
}

// running returns how many transactions are under way. The caller holds mu.
func (g *group[Q, A]) running() (n int) {
	for _, of := range g.busy {
		n += of
	}
	return n
}

// next is the tenant that has waited longest without being served, if one does
// and has not got its share. The caller holds mu.
func (g *group[Q, A]) next() (tenant uuid.UUID, waits bool) {
	for _, c := range g.waiting {
		if !g.served[c.tenant] && g.busy[c.tenant] < g.share {
			return c.tenant, true
		}
	}
	return uuid.Nil, false
}

func (g *group[Q, A]) serve(tenant uuid.UUID) {
	batch := g.take(tenant)
	late := time.AfterFunc(g.patience, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.served, tenant)
		g.dispatch()
	})
	g.run(batch[0].ctx, batch)
	g.mu.Lock()
	if g.busy[tenant]--; g.busy[tenant] == 0 {
		delete(g.busy, tenant)
	}
	if late.Stop() { // else it has left the tenant to the next one, or is about to
		delete(g.served, tenant)
	}
	g.dispatch()
	g.mu.Unlock()
	for _, c := range batch {
		close(c.done)
	}
}

// take is the calls of a tenant that go together: those that wait, after lingering
// where that is due. There is one at least, for which the tenant is served.
func (g *group[Q, A]) take(tenant uuid.UUID) (batch []*grouped[Q, A]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, others := g.next(); g.crowded[tenant] > 0 && !others {
		g.mu.Unlock()
		time.Sleep(g.linger)
		g.mu.Lock()
	}
	rest := g.waiting[:0]
	for _, c := range g.waiting {
		if c.tenant == tenant && len(batch) < g.most {
			batch = append(batch, c)
		} else {
			rest = append(rest, c)
		}
	}
	clear(g.waiting[len(rest):])
	g.waiting = rest
	if len(batch) > 1 {
		g.crowded[tenant] = g.few
	} else if g.crowded[tenant]--; g.crowded[tenant] <= 0 {
		delete(g.crowded, tenant)
	}
	return batch
}

func (g *group[Q, A]) run(ctx context.Context, batch []*grouped[Q, A]) {
	asks := make([]Q, len(batch))
	for i, c := range batch {
		asks[i] = c.ask
	}
	answers, err := g.do(ctx, asks)
	switch {
	case err == nil:
		for i, c := range batch {
			c.answer = answers[i]
		}
	case len(batch) == 1 || postgres.Silent(err):
		for _, c := range batch {
			c.err = err
		}
	default:
		for _, c := range batch {
			g.run(ctx, []*grouped[Q, A]{c})
		}
	}
}
