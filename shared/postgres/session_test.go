package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
)

// A process that is not told of the transaction pooler before its database learns of
// it when it starts, and which setting it lacks.
func TestKeepsSessions(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	pooled := d.Pooled(t)
	for name, tt := range map[string]struct {
		config postgres.Config
		ok     bool
	}{
		"direct":               {postgres.Config{URL: d.AppURL}, true},
		"direct, as if pooled": {postgres.Config{URL: d.AppURL, Pooled: true}, true},
		"pooled":               {postgres.Config{URL: pooled.AppURL, Pooled: true}, true},
		"pooled, as if direct": {postgres.Config{URL: pooled.AppURL}, false},
	} {
		err := d.Open(t, tt.config).KeepsSessions(t.Context())
		if tt.ok && err != nil {
			t.Errorf("%s: KeepsSessions() = %v, want nil", name, err)
		}
		if !tt.ok && (!errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "NOFX_DATABASE_POOLED")) {
			t.Errorf("%s: KeepsSessions() = %v, want the setting that is missing", name, err)
		}
	}
	if err := d.Open(t, postgres.Config{URL: pooled.AppURL, Pooled: true}).Listens(t.Context()); err == nil || !strings.Contains(err.Error(), "NOFX_DATABASE_LISTEN_URL") {
		t.Errorf("Listens() through a pooler = %v, want the setting that is missing", err)
	}
}

// Whatever statement meets what another session prepared on its server, or does not
// find what it prepared itself, the error is in words.
func TestStatementOfAnotherSession(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	pooled := d.Pooled(t)
	for range 3 { // each prepares the same statement on the one server that there is
		err := d.Open(t, postgres.Config{URL: pooled.AppURL}).Ready(t.Context())
		if err == nil {
			continue
		}
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "NOFX_DATABASE_POOLED") || strings.Contains(err.(*fault.Error).Detail, "42P05") {
			t.Errorf("Ready() = %v, want the setting that is missing", err)
		}
		return
	}
	t.Error("Ready() = nil thrice, want it to meet the statement of another session")
}
