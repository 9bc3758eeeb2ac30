package alert

import (
	"testing"
	"time"

	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

func TestNext(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int]time.Duration{1: 5 * time.Second, 2: 30 * time.Second, 3: 2 * time.Minute, 4: 15 * time.Minute, 5: time.Hour, 6: 6 * time.Hour, 7: 24 * time.Hour} {
		for range 100 {
			if got := next(attempt, 0); got == nil || *got < 0.8*want.Seconds() || *got > 1.2*want.Seconds() {
				t.Fatalf("next(%d) = %v, want about %s", attempt, got, want)
			}
		}
	}
	if got := next(1, time.Hour); got == nil || *got != 3600 {
		t.Errorf("next(1, 1h) = %v, want an hour", got)
	}
	for _, attempt := range []int{8, 9} {
		if got := next(attempt, time.Hour); got != nil {
			t.Errorf("next(%d) = %v, want none", attempt, *got)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "1.5": 0, "soon": 0, "86401": maxAfter, "4294967295": maxAfter, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:03:05 GMT": 0, "Fri, 02 Jan 2099 03:03:05 GMT": maxAfter,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", value, got, want)
		}
	}
}

// The metric knows every event.
func TestEventsAreCounted(t *testing.T) {
	t.Parallel()
	for _, m := range telemetry.Catalogue {
		if m.Name != "webhook_deliveries_total" {
			continue
		}
		for i, event := range run.AlertEvents {
			if m.Labels[0].Values[i] != event {
				t.Errorf("values of the label event = %v, want %v", m.Labels[0].Values, run.AlertEvents)
			}
		}
		return
	}
	t.Error("there is no metric webhook_deliveries_total")
}
