package identity

import (
	"time"

	"nofx.dev/gateway/internal/limit"
	"nofx.dev/shared/fault"
)

// tries counts by address the credentials that were not valid: 10 at once, and 10 a minute.
type tries struct{ of *limit.Rates }

func newTries() tries { return tries{limit.NewRates(10.0/60, 10)} }

// spent returns fault.RateLimited for an address that has tried too often, else nil.
func (t tries) spent(address string) error {
	if wait, spent := t.of.Empty(address); spent {
		return tooManyFailures(wait)
	}
	return nil
}

// failed counts a try, and returns wrong, or fault.RateLimited where it was one too many.
func (t tries) failed(address string, wrong error) error {
	if wait, ok := t.of.Take(address); !ok {
		return tooManyFailures(wait)
	}
	return wrong
}

func tooManyFailures(wait time.Duration) error {
	e := fault.New(fault.RateLimited, "rate-limited", "too many requests with invalid credentials")
	e.RetryAfter = wait
	return e
}
