package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// hold locks a run until release is called.
func (s *store) hold(t testing.TB, id uuid.UUID) (release func()) {
	t.Helper()
	tx, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(s.ctx)) }) //nolint:errcheck // over, unless the test failed
	if _, err := tx.Exec(s.ctx, "SELECT FROM nofx.run WHERE id = $1 FOR UPDATE", id); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// However many transactions of a tenant wait for a lock, a connection is left for
// the others.
func TestShareOfConnections(t *testing.T) {
	t.Parallel()
	const conns = 4
	s := setupWith(t, postgres.Config{MaxConns: conns})
	other := s.Tenant(t)
	r, _ := s.create(t, "a:")
	release := s.hold(t, r.ID)
	done := make(chan error, 3*conns)
	for range cap(done) {
		go func() {
			_, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "r"})
			done <- err
		}()
	}
	s.until(t, "all but one connection wait", fmt.Sprintf(
		"SELECT count(*) >= %d FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'", conns-1))
	if got := postgres.PoolOf(s.DB).Stat().AcquiredConns(); got != conns-1 {
		t.Errorf("connections of one tenant = %d, want %d of %d", got, conns-1, conns)
	}
	if _, err := s.Run(s.ctx, other, uuid.New()); !errors.Is(err, fault.NotFound) {
		t.Errorf("Run() of another tenant = %v, want the answer that there is none", err)
	}
	release()
	for range cap(done) {
		<-done
	}
}
