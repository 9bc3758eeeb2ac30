package pgtest

import (
	"errors"
	"testing"

	"nofx.dev/shared/servertest/pgserver"
)

// Pooled starts a transaction pooler before d, for its roles, and returns d as seen
// through it; Admin stays direct. A machine without PgBouncer skips the test.
func (d *Database) Pooled(t testing.TB) *Database {
	t.Helper()
	return d.PooledBy(t, 20)
}

// PooledBy returns d as Pooled does, with so many connections for one role.
func (d *Database) PooledBy(t testing.TB, size int) *Database {
	t.Helper()
	p, err := pgserver.StartPoolerOf(t.Context(), size, d.AppURL, d.GatewayURL, d.WorkerURL, d.AdminURL)
	if errors.Is(err, pgserver.ErrNoPooler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("pgtest: start a pooler: %v", err)
	}
	t.Cleanup(p.Stop)
	return &Database{AppURL: p.URL(d.AppURL), GatewayURL: p.URL(d.GatewayURL), WorkerURL: p.URL(d.WorkerURL), AdminURL: p.URL(d.AdminURL), Admin: d.Admin}
}
