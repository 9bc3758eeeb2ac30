package pgserver

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
)

// What a pooler in transaction mode is: no session has a server of its own.
func TestPooler(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	p, err := StartPooler(t.Context(), s.URL(""))
	if errors.Is(err, ErrNoPooler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("StartPooler() = %v, want a pooler", err)
	}
	t.Cleanup(p.Stop)
	var servers [2]uint32
	for i := range servers {
		conn := connect(t, p.URL(s.URL("")))
		if err := conn.QueryRow(t.Context(), "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&servers[i]); err != nil {
			t.Fatalf("SELECT through the pooler = %v, want nil", err)
		}
	}
	if servers[0] != servers[1] {
		t.Errorf("two sessions that do nothing have the servers %v, want one that both use", servers)
	}
}
