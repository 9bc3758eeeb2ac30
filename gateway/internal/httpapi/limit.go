package httpapi

import (
	"context"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/shared/fault"
)

// stepsPerToken is the number of steps of a run that count as one more request. To create,
// cancel or resume a thousand costs the database as much as a hundred small requests.
const stepsPerToken = 10

// nameOf returns the name under which the requests and streams of a caller are counted.
func nameOf(p *identity.Principal) string { return p.Tenant.String() + "/" + p.Subject }

// throttle takes one token of the caller and one of its tenant.
func (s *Server) throttle(p *identity.Principal) error { return s.limited(p, (*limit.Rates).Take) }

// weigh takes further tokens of the caller and its tenant for a request that changes
// a run of so many steps.
func (s *Server) weigh(p *identity.Principal, steps int) error {
	tokens := steps / stepsPerToken
	if tokens == 0 {
		return nil
	}
	return s.limited(p, func(r *limit.Rates, name string) (time.Duration, bool) { return r.Owe(name, tokens) })
}

// weighRun takes the tokens for a request that changes a run, given by its id or by that
// of one of its steps.
func (s *Server) weighRun(ctx context.Context, p *identity.Principal, id uuid.UUID) error {
	steps, err := s.Store.CountSteps(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	return s.weigh(p, steps)
}

func (s *Server) limited(p *identity.Principal, take func(r *limit.Rates, name string) (time.Duration, bool)) error {
	wait, ok := take(s.rate, nameOf(p))
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

// streams are the limits of open streams: of a caller, of a tenant, of this process.
type streams struct{ caller, tenant, total *limit.Slots }

// openStream takes a slot for a stream of the caller, which release gives back. It returns
// fault.RateLimited when the caller or the tenant has none left, and fault.Unavailable when
// this process has none left.
func (s *Server) openStream(p *identity.Principal) (release func(), err error) {
	var taken []func()
	release = func() {
		for _, release := range taken {
			release()
		}
	}
	for _, of := range []struct {
		*limit.Slots
		name, whose string
		kind        fault.Kind
		code        string
	}{
		{s.streams.caller, nameOf(p), "of this caller", fault.RateLimited, "rate-limited"},
		{s.streams.tenant, p.Tenant.String(), "of this tenant", fault.RateLimited, "rate-limited"},
		{s.streams.total, "", "of this gateway", fault.Unavailable, "unavailable"},
	} {
		place, ok := of.Acquire(of.name)
		if !ok {
			release()
			e := fault.New(of.kind, of.code, "no more than %s %s can be open at once", fault.Count(of.Most(), "stream"), of.whose)
			e.RetryAfter = 5 * time.Second
			return nil, e
		}
		taken = append(taken, place)
	}
	return release, nil
}
