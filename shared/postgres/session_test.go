package postgres_test

import (
	"errors"
	"net/url"
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

// Strangers are told what is wrong with the database, and not where it is; whoever names
// it is told by which setting.
func TestReadySaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	app, err := url.Parse(d.AppURL)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, nowhere, guessed := *app, *app, *app
	elsewhere.Path, nowhere.Host, guessed.User = "/elsewhere", "127.0.0.1:1", url.UserPassword("nobody", "guessed")
	for name, tt := range map[string]struct{ url, role, want, explained string }{
		"no database":  {elsewhere.String(), "", "the database is not available: there is no such database; see DATABASE_URL", "DATABASE_URL: there is no database elsewhere at "},
		"no server":    {nowhere.String(), "", "the database is not available: nothing answers there; see DATABASE_URL", "DATABASE_URL: nothing answers at 127.0.0.1:1"},
		"no such role": {guessed.String(), "", "the database is not available: it refuses the role or its password; see DATABASE_URL", "DATABASE_URL: the server at "},
		"too mighty":   {d.AdminURL, postgres.WorkerRole, "role postgres bypasses row level security; log in as nofx_worker", "DATABASE_URL: role postgres bypasses row level security; log in as nofx_worker"},
		"the other":    {d.GatewayURL, postgres.WorkerRole, "role nofx_gateway has not the rights of nofx_worker, or has more; log in as nofx_worker", "DATABASE_URL: role nofx_gateway has not"},
		"the one":      {d.WorkerURL, postgres.GatewayRole, "role nofx_worker has not the rights of nofx_gateway, or has more; log in as nofx_gateway", "DATABASE_URL: role nofx_worker has not"},
		"both":         {d.AppURL, postgres.GatewayRole, "role pgtest_both has not the rights of nofx_gateway, or has more; log in as nofx_gateway", "DATABASE_URL: role pgtest_both has not"},
	} {
		err := d.Open(t, postgres.Config{URL: tt.url, Role: tt.role}).Ready(t.Context())
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Kind != fault.Unavailable || e.Detail != tt.want {
			t.Errorf("%s: Ready() = %v, want the detail %q", name, err, tt.want)
		}
		if got := (postgres.Address{Setting: "DATABASE_URL", URL: tt.url}).Explain(err); !strings.HasPrefix(got.Error(), tt.explained) {
			t.Errorf("%s: Explain() = %v, want %q at its beginning", name, got, tt.explained)
		}
	}
}
