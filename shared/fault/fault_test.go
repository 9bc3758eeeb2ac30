package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"nofx.dev/shared/fault"
)

func TestKinds(t *testing.T) {
	t.Parallel()
	e := fault.New(fault.NotFound, "not-found", "no such %s", "run").Because(io.ErrUnexpectedEOF).With("id", 7)
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
	if got, want := wrapped.Error(), "get run: no such run: unexpected EOF"; got != want || e.Meta["id"] != 7 {
		t.Errorf("Error() = %q with %v, want %q with id 7", got, e.Meta, want)
	}
}
