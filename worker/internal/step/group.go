package step

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
)

// A group makes calls that come while others are on their way in one
// transaction: what a transaction costs besides its rows is paid once for all of
// them. It does not wait for company; a call that comes alone goes alone.
type group[Q, A any] struct {
	do    func(context.Context, []Q) ([]A, error) // all of one tenant
	lanes int                                     // transactions at once
	most  int                                     // calls in one

	mu      sync.Mutex
	busy    int
	waiting []*grouped[Q, A]
}

type grouped[Q, A any] struct {
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
	c := &grouped[Q, A]{tenant: tenant, ask: ask, done: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	lead := g.busy < g.lanes
	if lead {
		g.busy++
	}
	g.mu.Unlock()
	if lead {
		go g.drive(context.WithoutCancel(ctx)) // ends when nothing waits: its callers wait for it
	}
	<-c.done
	return c.answer, c.err
}

// drive makes calls until none waits.
func (g *group[Q, A]) drive(ctx context.Context) {
	for {
		batch := g.take()
		if batch == nil {
			return
		}
		g.run(ctx, batch)
		for _, c := range batch {
			close(c.done)
		}
	}
}

// take is the longest waiting call with others of its tenant, or nil, and then
// the lane is free.
func (g *group[Q, A]) take() (batch []*grouped[Q, A]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rest := g.waiting[:0]
	for _, c := range g.waiting {
		if len(batch) < g.most && (len(batch) == 0 || c.tenant == batch[0].tenant) {
			batch = append(batch, c)
		} else {
			rest = append(rest, c)
		}
	}
	clear(g.waiting[len(rest):])
	g.waiting = rest
	if batch == nil {
		g.busy--
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
