package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// searches limits reads that may scan much to find little. Searches of all tenants have
// half of the connections and those of one tenant an eighth, so that short requests find a
// connection.
type searches struct {
	all  chan struct{}
	each int // of one tenant

	mu sync.Mutex
	of map[uuid.UUID]*tenantSearches
}

type tenantSearches struct {
	slots chan struct{}
	refs  int // searches that have a slot or wait for one
}

// searchPatience is how long a search waits for a slot.
const searchPatience = time.Second

func newSearches(conns int32) *searches {
	return &searches{all: make(chan struct{}, max(1, conns/2)), each: max(1, int(conns/8)), of: map[uuid.UUID]*tenantSearches{}}
}

// acquire waits for a slot for a search of tenant; release returns it. fault.RateLimited
// means that all slots of the tenant are taken, fault.Unavailable that all slots of the
// process are.
func (s *searches) acquire(ctx context.Context, tenant uuid.UUID) (release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, searchPatience)
	defer cancel()
	own := s.enter(tenant)
	if !take(waiting, own.slots) {
		s.leave(tenant)
		return nil, refused(ctx, fault.New(fault.RateLimited, "rate-limited", "%d searches of this tenant are running already", s.each))
	}
	if !take(waiting, s.all) {
		<-own.slots
		s.leave(tenant)
		return nil, refused(ctx, fault.New(fault.Unavailable, "unavailable", "%d searches are running already", cap(s.all)))
	}
	return func() {
		<-s.all
		<-own.slots
		s.leave(tenant)
	}, nil
}

func take(ctx context.Context, slots chan<- struct{}) bool {
	select {
	case slots <- struct{}{}: // even if the time is up by now
		return true
	default:
	}
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// refused returns busy, unless the caller itself gave up.
func refused(ctx context.Context, busy *fault.Error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	busy.RetryAfter = searchPatience
	return busy
}

// enter returns the searches of a tenant, which leave forgets after the last.
func (s *searches) enter(tenant uuid.UUID) *tenantSearches {
	s.mu.Lock()
	defer s.mu.Unlock()
	own, ok := s.of[tenant]
	if !ok {
		own = &tenantSearches{slots: make(chan struct{}, s.each)}
		s.of[tenant] = own
	}
	own.refs++
	return own
}

func (s *searches) leave(tenant uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[tenant].refs--; s.of[tenant].refs == 0 {
		delete(s.of, tenant)
	}
}
