package postgres_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// TestMapError checks the fault that each SQLSTATE of ours becomes, with the facts of its
// DETAIL.
func TestMapError(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code, detail string
		want         *fault.Error // nil when it stays what it is
	}{
		{"NX001", `{"machine":"run","id":"1","from":"succeeded","event":"cancel","allowed":["resume","retry"]}`, &fault.Error{
			Kind: fault.Conflict, Code: "illegal-transition", Detail: "cancel is not possible while the run is succeeded",
			Transition: &fault.Transition{Machine: "run", From: "succeeded", Event: "cancel", Allowed: []string{"resume", "retry"}},
		}},
		{"NX001", `{"machine":"gate","id":"1","from":"passed","event":"approve","allowed":null}`, &fault.Error{
			Kind: fault.Conflict, Code: "illegal-transition", Detail: "approve is not possible while the gate is passed",
			Transition: &fault.Transition{Machine: "gate", From: "passed", Event: "approve"},
		}},
		{"NX001", `{"machine":"step","id":"1","from":"ready","event":null,"allowed":["claim"]}`, &fault.Error{
			Kind: fault.Conflict, Code: "illegal-transition", Detail: "this is not possible while the step is ready",
			Transition: &fault.Transition{Machine: "step", From: "ready", Allowed: []string{"claim"}},
		}},
		{"NX002", "", &fault.Error{Kind: fault.Invalid, Code: "reason-required", Detail: "a reason is required"}},
		{"NX003", `{"version":9007199254740993,"state":"running"}`, &fault.Error{
			Kind: fault.Conflict, Code: "stale-version", Detail: "it has changed in the meantime; its version is now 9007199254740993",
			Stale: &fault.Stale{Version: 9007199254740993},
		}},
		{"NX004", `{"fence":1,"current":2}`, &fault.Error{Kind: fault.Fenced, Code: "fenced", Detail: "the lease is lost"}},
		{"NX005", `{"noun":"gate"}`, &fault.Error{Kind: fault.NotFound, Code: "not-found", Detail: "no such gate"}},
		{"NX005", "prose", &fault.Error{Kind: fault.NotFound, Code: "not-found", Detail: "no such thing"}},
		{"NX006", "", nil},
		{"NX009", "", &fault.Error{Kind: fault.Forbidden, Code: "four-eyes", Detail: "the author of a run may not approve or waive its gates"}},
		{"NX010", "", &fault.Error{Kind: fault.Unavailable, Code: "lease-lapsed", Detail: "the lease has expired and must be renewed first"}},
		{"23514", "Failing row contains (1).", &fault.Error{Kind: fault.Invalid, Code: "invalid-field", Detail: "the database cannot store a value of this"}},
		{"42601", `{"machine":"run"}`, nil},
	} {
		err := &pgconn.PgError{Code: tt.code, Detail: tt.detail}
		got := postgres.MapError(err)
		if !errors.Is(got, err) {
			t.Errorf("MapError(%s %s) = %v, want the cause kept", tt.code, tt.detail, got)
		}
		f, _ := errors.AsType[*fault.Error](got)
		if diff := cmp.Diff(tt.want, f, cmpopts.IgnoreFields(fault.Error{}, "Err")); diff != "" {
			t.Errorf("MapError(%s %s) (-want +got):\n%s", tt.code, tt.detail, diff)
		}
	}
}
