package postgres

import (
	"context"
	"sync"

	"github.com/google/uuid"
)

// shares limits the connections of a pool that one tenant uses, so that some are left for
// other tenants, whatever its transactions wait for.
type shares struct {
	most int

	mu sync.Mutex
	of map[uuid.UUID]*shareOf
}

type shareOf struct {
	places chan struct{} // one for each connection
	users  int           // who has a place or waits for one
}

// newShares leaves a quarter of so many connections, where there are several.
func newShares(conns int32) *shares {
	return &shares{most: int(conns - (conns+2)/4), of: map[uuid.UUID]*shareOf{}}
}

// take waits for a place of the tenant, which release gives back.
func (s *shares) take(ctx context.Context, tenant uuid.UUID) (release func(), err error) {
	s.mu.Lock()
	of := s.of[tenant]
	if of == nil {
		of = &shareOf{places: make(chan struct{}, s.most)}
		s.of[tenant] = of
	}
	of.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if of.users--; of.users == 0 {
			delete(s.of, tenant)
		}
	}
	select {
	case of.places <- struct{}{}:
		return func() { <-of.places; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
