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
const maxBackoff = 5 * time.Minute

// retry decides what becomes of an attempt that failed: another one after a
// delay, or the end of the step. A failure of its tool, a timeout and a gate that did
// not pass are tried again as the plan says; of the infrastructure for as long as the
// budget lasts, which uses up none of the plan's attempts; anything else never.
func (a *attempt) retry(class run.FailureClass, reason string, retryAfter time.Duration) postgres.Finish {
	c := a.claim
	f := postgres.Finish{Claim: c, Outcome: "fail", Reason: reason, FailureClass: class}
	limited := false // the class is tried again, but not without end
	switch class {
	case run.ClassTool, run.ClassTimeout, run.ClassGateFailed, run.ClassGateError:
		verdict := class == run.ClassGateFailed || class == run.ClassGateError // the last of which stands
		limited = c.MaxAttempts > 1 && !verdict
		if c.Attempt < c.MaxAttempts {
			f.Outcome, f.Delay = "retry", max(backoff(c.Spec.Retry.InitialS, c.Attempt), retryAfter)
		}
	case run.ClassInfrastructure:
		limited = true
		if left := a.budgetLeft(); left > 0 {
			f.Outcome, f.Delay = "retry", min(max(pauseAfter(c.Spec.Retry.InitialS, a.budget-left), retryAfter), left)
		}
	}
	if f.Outcome == "fail" && limited {
		f.FailureClass = run.ClassExhausted
		f.Reason = string(class) + ": " + reason
	}
	return f
}

// pauseAfter returns full jitter on what doubles the time for which the infrastructure
// has failed already: from initial on, at most five minutes.
func pauseAfter(initialS float64, failing time.Duration) time.Duration {
	ceiling := min(initialS+failing.Seconds(), maxBackoff.Seconds())
	return time.Duration(rand.Float64() * ceiling * float64(time.Second))
}

// backoff returns full jitter on initial × 2^(attempt-1), at most five minutes.
func backoff(initialS float64, attempt int) time.Duration {
	ceiling := min(initialS*math.Pow(2, float64(attempt-1)), maxBackoff.Seconds())
	return time.Duration(rand.Float64() * ceiling * float64(time.Second))
}

// classOf returns the failure class of an error that no tool classified.
func classOf(err error) run.FailureClass {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.NotFound, fault.Gone:
		return run.ClassInvalid
	case fault.Forbidden, fault.Unauthenticated:
		return run.ClassPolicy
	}
	return run.ClassInfrastructure
}
