package step

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
)

// A group makes calls that come while others are on their way in one
// transaction: what a transaction costs besides its rows is paid once for all of
// them. It does not wait for company; a call that comes alone goes alone. But it
// waits for the transaction before it of the same tenant, which makes company of
// those that come meanwhile, unless that one is late: a run that somebody else
// holds must not keep all others waiting.
type group[Q, A any] struct {
	do       func(context.Context, []Q) ([]A, error) // all of one tenant
	lanes    int                                     // transactions at once
	most     int                                     // calls in one
	patience time.Duration                           // until a transaction is late

	mu      sync.Mutex
	busy    int
	served  map[uuid.UUID]bool // tenants with a transaction that is not late
	waiting []*grouped[Q, A]
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

// dispatch sends off what waits and need not. The caller holds mu.
func (g *group[Q, A]) dispatch() {
	for g.busy < g.lanes {
		batch := g.take()
		if batch == nil {
			return
		}
		g.busy++
		if g.served == nil {
			g.served = make(map[uuid.UUID]bool)
		}
		g.served[batch[0].tenant] = true
		go g.serve(batch) // ends with its transaction, which its callers wait for
	}
}

// take is the longest waiting call of a tenant that is not served, with others of
// that tenant, or nil.
func (g *group[Q, A]) take() (batch []*grouped[Q, A]) {
	rest := g.waiting[:0]
	for _, c := range g.waiting {
		if len(batch) == 0 && !g.served[c.tenant] || len(batch) > 0 && len(batch) < g.most && c.tenant == batch[0].tenant {
			batch = append(batch, c)
		} else {
			rest = append(rest, c)
		}
	}
	clear(g.waiting[len(rest):])
	g.waiting = rest
	return batch
}

func (g *group[Q, A]) serve(batch []*grouped[Q, A]) {
	tenant := batch[0].tenant
	late := time.AfterFunc(g.patience, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.served, tenant)
		g.dispatch()
	})
	g.run(batch[0].ctx, batch)
	g.mu.Lock()
	g.busy--
	if late.Stop() { // else it has left the tenant to the next one, or is about to
		delete(g.served, tenant)
	}
	g.dispatch()
	g.mu.Unlock()
	for _, c := range batch {
		close(c.done)
	}
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
