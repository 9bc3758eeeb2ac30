package step

import (
	"errors"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/merge"
)

func TestRetry(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		class       run.FailureClass
		attempt     int
		maxAttempts int
		retryAfter  time.Duration
		failing     time.Duration // before this attempt; 0: the infrastructure was fine
		outcome     string
		wantClass   run.FailureClass
	}{
		{"tool, one attempt", run.ClassTool, 1, 1, 0, 0, "fail", run.ClassTool},
		{"tool, first of three", run.ClassTool, 1, 3, 0, 0, "retry", run.ClassTool},
		{"tool, last of three", run.ClassTool, 3, 3, 0, 0, "fail", run.ClassExhausted},
		{"tool, after failures of the infrastructure", run.ClassTool, 1, 2, 0, time.Hour, "retry", run.ClassTool},
		{"timeout, first of two", run.ClassTimeout, 1, 2, 0, 0, "retry", run.ClassTimeout},
		{"infrastructure, whatever the plan says", run.ClassInfrastructure, 1, 1, 0, 0, "retry", run.ClassInfrastructure},
		{"infrastructure, within its time", run.ClassInfrastructure, 1, 1, 0, 14 * time.Minute, "retry", run.ClassInfrastructure},
		{"infrastructure, after its time", run.ClassInfrastructure, 1, 100, 0, 15 * time.Minute, "fail", run.ClassExhausted},
		{"infrastructure says when", run.ClassInfrastructure, 1, 1, time.Minute, 0, "retry", run.ClassInfrastructure},
		{"gate failed, one attempt", run.ClassGateFailed, 1, 1, 0, 0, "fail", run.ClassGateFailed},
		{"gate failed, first of three", run.ClassGateFailed, 1, 3, 0, 0, "retry", run.ClassGateFailed},
		{"gate failed, last of three", run.ClassGateFailed, 3, 3, 0, 0, "fail", run.ClassGateFailed},
		{"gate in error, first of three", run.ClassGateError, 1, 3, 0, 0, "retry", run.ClassGateError},
		{"gate in error, last of three", run.ClassGateError, 3, 3, 0, 0, "fail", run.ClassGateError},
		{"invalid", run.ClassInvalid, 1, 3, 0, 0, "fail", run.ClassInvalid},
		{"policy", run.ClassPolicy, 1, 3, 0, 0, "fail", run.ClassPolicy},
		{"workspace conflict", run.ClassWorkspaceConflict, 1, 3, 0, 0, "fail", run.ClassWorkspaceConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := &postgres.Claim{Attempt: tt.attempt, MaxAttempts: tt.maxAttempts, Spec: run.Spec{Retry: run.Retry{InitialS: 1}}}
			if tt.failing > 0 {
				c.ClaimedAt = time.Now()
				c.FailingSince = new(c.ClaimedAt.Add(-tt.failing))
			}
			a := &attempt{parts: parts{budget: 15 * time.Minute}, claim: c}
			f := a.retry(tt.class, "why", tt.retryAfter)
			if f.Outcome != tt.outcome || f.FailureClass != tt.wantClass {
				t.Errorf("retry(%s, attempt %d of %d) = %s %s, want %s %s", tt.class, tt.attempt, tt.maxAttempts, f.Outcome, f.FailureClass, tt.outcome, tt.wantClass)
			}
			if f.Delay < tt.retryAfter || f.Delay > max(tt.retryAfter, maxBackoff) {
				t.Errorf("retry(%s).Delay = %s, want at least %s and at most five minutes", tt.class, f.Delay, tt.retryAfter)
			}
		})
	}
}

func TestBackoffIsBounded(t *testing.T) {
	t.Parallel()
	for attempt := 1; attempt < 200; attempt++ {
		ceiling := min(time.Duration(1<<min(attempt-1, 20))*2*time.Second, maxBackoff)
		if d := backoff(2, attempt); d < 0 || d > ceiling {
			t.Fatalf("backoff(2, %d) = %s, want within 0 and %s", attempt, d, ceiling)
		}
	}
}

// The pauses after failures of the infrastructure grow with the time that it has
// failed, and the last one ends with the budget.
func TestPauseAfterIsBounded(t *testing.T) {
	t.Parallel()
	for failing := time.Duration(0); failing < time.Hour; failing += time.Minute / 2 {
		if d := pauseAfter(2, failing); d < 0 || d > min(failing+2*time.Second, maxBackoff) {
			t.Fatalf("pauseAfter(2, %s) = %s, want within 0 and %s", failing, d, min(failing+2*time.Second, maxBackoff))
		}
	}
	a := &attempt{parts: parts{budget: time.Minute}, claim: &postgres.Claim{}}
	if f := a.retry(run.ClassInfrastructure, "why", time.Hour); f.Outcome != "retry" || f.Delay > time.Minute {
		t.Errorf("retry(after an hour, budget of a minute) = %s in %s, want retry within the minute", f.Outcome, f.Delay)
	}
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]run.FailureClass{
		fault.Invalid:           run.ClassInvalid,
		fault.Gone:              run.ClassInvalid,
		fault.Forbidden:         run.ClassPolicy,
		fault.Unavailable:       run.ClassInfrastructure,
		errors.New("disk full"): run.ClassInfrastructure,
	} {
		if got := classOf(err); got != want {
			t.Errorf("classOf(%v) = %s, want %s", err, got, want)
		}
	}
}

// Conflicts over long paths fit what a step may put out.
func TestConflictsFit(t *testing.T) {
	t.Parallel()
	list := make([]merge.Conflict, 200)
	for i := range list {
		list[i].Path = strings.Repeat("long/", 200)
	}
	f, err := (&attempt{}).conflict(list)
	if err != nil || len(f.Outputs) > run.MaxOutputBytes || !strings.Contains(string(f.Outputs), `"total":200`) {
		t.Errorf("conflict() = outputs of %d bytes, %v, want at most %d and the total", len(f.Outputs), err, run.MaxOutputBytes)
	}
}
