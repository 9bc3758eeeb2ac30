package step

import (
	"math"
	"math/rand/v2"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// Rules of EXECUTION.md, Retries and timeouts.
const (
	infrastructureAttempts = 5
	maxBackoff             = 5 * time.Minute
)

// retry decides what becomes of an attempt that failed: another one after a
// delay, or the end of the step. A failure of its tool and a timeout are tried
// again as the plan says; of the infrastructure at least five times; anything
// else never.
func retry(c *postgres.Claim, class run.FailureClass, reason string, retryAfter time.Duration) postgres.Finish {
	allowed := 1
	switch class {
	case run.ClassTool, run.ClassTimeout:
		allowed = c.MaxAttempts
	case run.ClassInfrastructure:
		allowed = max(c.MaxAttempts, infrastructureAttempts)
	}
	f := postgres.Finish{Claim: c, Outcome: "fail", Reason: reason, FailureClass: class}
	switch {
	case c.Attempt < allowed:
		f.Outcome = "retry"
		f.Delay = max(backoff(c.Spec.Retry.InitialS, c.Attempt), retryAfter)
	case allowed > 1:
		f.FailureClass = run.ClassExhausted
		f.Reason = string(class) + ": " + reason
	}
	return f
}

// backoff is full jitter on initial × 2^(attempt-1), at most five minutes.
func backoff(initialS float64, attempt int) time.Duration {
	ceiling := min(initialS*math.Pow(2, float64(attempt-1)), maxBackoff.Seconds())
	return time.Duration(rand.Float64() * ceiling * float64(time.Second))
}

// classOf is the failure class of an error that no tool classified.
func classOf(err error) run.FailureClass {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound, fault.Gone:
		return run.ClassInvalid
	case fault.Forbidden, fault.Unauthenticated:
		return run.ClassPolicy
	}
	return run.ClassInfrastructure
}
