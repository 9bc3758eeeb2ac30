package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"crypto/rand"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/migrations"
	"nofx.dev/shared/servertest/pgserver"
)

var server *pgserver.Server

func TestMain(m *testing.M) {
	var err error
	if server, err = pgserver.Start(context.Background(), pgserver.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres for tests:", err)
		os.Exit(1)
	}
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

func exec(t *testing.T, dsn, sql string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), sql)
	return err
}

func must(t *testing.T, dsn, sql string) {
	t.Helper()
	if err := exec(t, dsn, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// database makes one that is dropped when the test ends.
func database(t *testing.T, owner string) string {
	t.Helper()
	name := "migrations_" + rand.Text()
	must(t, server.URL(""), `CREATE DATABASE "`+name+`" `+owner)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), server.URL(""))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), `DROP DATABASE "`+name+`" WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	return server.URL(name)
}

// Up reaches the newest version once, whoever calls it how often and at what
// time.
func TestUpOnce(t *testing.T) {
	dsn := database(t, "")
	var mu sync.Mutex
	var applied []string
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			names, err := migrations.Up(t.Context(), dsn)
			if err != nil {
				t.Errorf("Up() = %v, want nil", err)
			}
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, names...)
		})
	}
	wg.Wait()
	if want := migrations.Latest() + 1; !slices.IsSorted(applied) || len(applied) != want || len(slices.Compact(applied)) != want || applied[want-1] != "functions" {
		t.Errorf("6 times Up() at once applied %v, want each of %d once and in order, the functions last", applied, want)
	}
	if again, err := migrations.Up(t.Context(), dsn); err != nil || len(again) != 0 {
		t.Errorf("Up() again = %v, %v, want nothing to do", again, err)
	}
}

// A second database of the same server finds the roles made already.
func TestUpBesideAnother(t *testing.T) {
	for range 2 {
		if _, err := migrations.Up(t.Context(), database(t, "")); err != nil {
			t.Errorf("Up() = %v, want nil", err)
		}
	}
}

// An administrator as Supabase gives one, who makes roles but is no superuser,
// brings a database up and makes a tenant, while the rows of logins stay guarded.
func TestUpWithoutSuperuser(t *testing.T) {
	// Roles belong to the server, and this administrator must make them.
	fresh, err := pgserver.Start(t.Context(), pgserver.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Stop()
	if os.Getenv("DATABASE_URL") != "" {
		must(t, fresh.URL(""), `DROP ROLE IF EXISTS nofx_admin`)
	}
	must(t, fresh.URL(""), `CREATE ROLE nofx_admin LOGIN CREATEROLE CREATEDB PASSWORD 'secret'`)
	must(t, fresh.URL(""), `CREATE DATABASE hosted OWNER nofx_admin`)
	dsn := as(t, fresh.URL("hosted"), "nofx_admin", "secret")
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatalf("Up() without superuser = %v, want nil", err)
	}
	if again, err := migrations.Up(t.Context(), dsn); err != nil || len(again) != 0 {
		t.Errorf("Up() again without superuser = %v, %v, want nothing to do", again, err)
	}
	must(t, dsn, `SELECT set_config('nofx.tenant_id', '01890000-0000-7000-8000-000000000001', false);
		INSERT INTO nofx.tenant (tenant_id, slug) VALUES ('01890000-0000-7000-8000-000000000001', 'dev')`)
	must(t, dsn, `ALTER ROLE nofx_worker PASSWORD 'app'`)
	app := as(t, fresh.URL("hosted"), "nofx_worker", "app")
	if err := exec(t, app, `DO $$ BEGIN ASSERT (SELECT count(*) FROM nofx.tenant) = 0; END $$`); err != nil {
		t.Errorf("a worker sees tenants outside any: %v", err)
	}
	if err := exec(t, app, `UPDATE nofx.run SET state = 'failed'`); code(err) != "42501" {
		t.Errorf("UPDATE of a state by a worker = %v, want 42501", err)
	}
	if err := exec(t, app, `DO $$ BEGIN
		ASSERT current_setting('lock_timeout') = '2s' AND current_setting('statement_timeout') = '5s';
	END $$`); err != nil {
		t.Errorf("limits of a worker: %v", err)
	}
}

func code(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

func as(t *testing.T, dsn, role, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

// A database that another text of a file has made is refused, and named.
func TestUpAfterAnEdit(t *testing.T) {
	t.Parallel()
	for what, sql := range map[string]string{
		"another text":  "UPDATE nofx.schema_migration SET sha256 = 'x' WHERE version = 3",
		"no sum at all": "ALTER TABLE nofx.schema_migration DROP COLUMN sha256",
	} {
		dsn := database(t, "")
		if _, err := migrations.Up(t.Context(), dsn); err != nil {
			t.Fatal(err)
		}
		must(t, dsn, sql)
		if applied, err := migrations.Up(t.Context(), dsn); err == nil || len(applied) > 0 || !strings.Contains(err.Error(), "new database") {
			t.Errorf("Up, %s = %v, %v, want a refusal that says what to do", what, applied, err)
		}
	}
}
