package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"nofx.dev/migrations"
	"nofx.dev/shared/servertest/pgserver"
)

// SpendIDs uses up transaction ids, so that those of d from now on are ones that a
// new server does not reach within a test.
func (d *Database) SpendIDs(t testing.TB) {
	t.Helper()
	if _, err := d.Admin.Exec(t.Context(), "DO $$ BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"); err != nil {
		t.Fatalf("pgtest: use up transaction ids: %v", err)
	}
}

// Restore dumps d and restores the dump into a new database of a new server, whose
// transaction ids are lower than those that d has after [Database.SpendIDs]. Where
// DATABASE_URL names a server, it is a new database of that one.
func (d *Database) Restore(t testing.TB) *Database {
	t.Helper()
	dump := filepath.Join(t.TempDir(), "dump")
	run(t, "pg_dump", "--format=custom", "--file="+dump, "--dbname="+d.AdminURL)

	server, err := pgserver.Start(t.Context(), pgserver.Config{})
	if err != nil {
		t.Fatalf("pgtest: start a server to restore into: %v", err)
	}
	t.Cleanup(server.Stop)
	admin, err := pgx.Connect(t.Context(), server.URL(""))
	if err != nil {
		t.Fatalf("pgtest: connect to the server to restore into: %v", err)
	}
	defer admin.Close(t.Context())
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatalf("pgtest: %s: %v", sql, err)
		}
	}
	// A dump has no roles. The migrations make them, in whichever database.
	scratch, name := "nofx_roles_"+unique(), "nofx_restored_"+unique()
	exec("CREATE DATABASE " + scratch)
	if _, err := migrations.Up(t.Context(), server.URL(scratch)); err != nil {
		t.Fatalf("pgtest: make the roles: %v", err)
	}
	exec("DROP DATABASE " + scratch)
	if err := makeLogins(t.Context(), admin, current.password); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	exec("CREATE DATABASE " + name)
	t.Cleanup(func() {
		if os.Getenv("DATABASE_URL") != "" {
			_ = current.drop(t.Context(), name)
		}
	})
	run(t, "pg_restore", "--exit-on-error", "--dbname="+server.URL(name), dump)

	restored := at(t, server.URL(name))
	restored.Admin = pool(t, restored.AdminURL)
	return restored
}

// run runs one of the programs that come with Postgres.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	path, err := pgserver.Program(name)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("pgtest: %s: %v: %s", name, err, out)
	}
}
