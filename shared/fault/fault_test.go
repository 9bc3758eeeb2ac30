package fault_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"nofx.dev/shared/fault"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	e := fault.New(fault.NotFound, "not-found", "no such %s", "run").Because(io.ErrUnexpectedEOF)
	wrapped := fmt.Errorf("get run: %w", e)
	for _, tt := range []struct {
		err    error
		target error
		want   bool
	}{
		{wrapped, fault.NotFound, true},
		{wrapped, fault.Conflict, false},
		{wrapped, io.ErrUnexpectedEOF, true},
		{fault.Fenced, fault.Fenced, true},
		{fmt.Errorf("finish: %w", fault.Fenced), fault.Fenced, true},
		{io.EOF, fault.NotFound, false},
	} {
		if got := errors.Is(tt.err, tt.target); got != tt.want {
			t.Errorf("errors.Is(%v, %v) = %t, want %t", tt.err, tt.target, got, tt.want)
		}
	}
	for err, want := range map[error]fault.Kind{wrapped: fault.NotFound, fault.Gone: fault.Gone, io.EOF: "", nil: ""} {
		if got := fault.KindOf(err); got != want {
			t.Errorf("KindOf(%v) = %q, want %q", err, got, want)
		}
	}
	if got, want := wrapped.Error(), "get run: no such run: unexpected EOF"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

// TestFacts checks that the typed facts of a conflict are found through whatever wraps it,
// and in no other error.
func TestFacts(t *testing.T) {
	t.Parallel()
	transition := fault.Transition{Machine: "run", From: "succeeded", Event: "cancel", Allowed: []string{"resume", "retry"}}
	stale := fault.Stale{Version: 7}
	refused, changed := fault.OfTransition(transition), fault.OfStale(stale)
	for _, tt := range []struct {
		err              error
		detail           string
		refused, changed bool
	}{
		{refused, "cancel is not possible while the run is succeeded", true, false},
		{fmt.Errorf("cancel run: %w", fault.OfTransition(transition).Because(io.EOF)), "cancel run: cancel is not possible while the run is succeeded: EOF", true, false},
		{fault.OfTransition(fault.Transition{Machine: "step", From: "ready"}), "this is not possible while the step is ready", true, false},
		{fmt.Errorf("cancel run: %w", changed), "cancel run: it has changed in the meantime; its version is now 7", false, true},
		{fault.New(fault.Conflict, "illegal-transition", "no"), "no", false, false},
		{fault.Conflict, "conflict", false, false},
		{io.EOF, "EOF", false, false},
	} {
		if got := tt.err.Error(); got != tt.detail {
			t.Errorf("Error() = %q, want %q", got, tt.detail)
		}
		if got, ok := fault.TransitionOf(tt.err); ok != tt.refused || ok && got.Event != "" && !reflect.DeepEqual(got, transition) {
			t.Errorf("TransitionOf(%v) = %+v, %t, want %+v, %t", tt.err, got, ok, transition, tt.refused)
		}
		if got, ok := fault.StaleOf(tt.err); ok != tt.changed || ok && got != stale {
			t.Errorf("StaleOf(%v) = %+v, %t, want %+v, %t", tt.err, got, ok, stale, tt.changed)
		}
		if (tt.refused || tt.changed) && !errors.Is(tt.err, fault.Conflict) {
			t.Errorf("%v is not a fault.Conflict", tt.err)
		}
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 files", 1: "1 file", 2: "2 files", -1: "-1 files", 1 << 40: "1099511627776 files"} {
		if got := fault.Count(n, "file"); got != want {
			t.Errorf("Count(%d, file) = %q, want %q", n, got, want)
		}
	}
}
