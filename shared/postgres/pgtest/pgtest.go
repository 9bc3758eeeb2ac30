// Package pgtest gives each test a database of its own, as the migrations make
// it, on a real Postgres.
//
// A package's TestMain calls [Main], or [Start] when it has more to start. That
// finds or starts a server through nofx.dev/shared/servertest/pgserver, and migrates
// one template database. A machine without Postgres fails the test binary with
// what to install; nothing is skipped. [New] clones the template, so that tests
// may run in parallel and a test sees only what it did.
package pgtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"nofx.dev/migrations"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/servertest/pgserver"
)

// cluster is the server of this test binary.
type cluster struct {
	server   *pgserver.Server
	admin    *pgxpool.Pool // on no test's database
	template string
	password string // of all logins
}

var current *cluster

// Main runs the tests of a package with a server and exits with their result.
func Main(m *testing.M) {
	stop, err := Start(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres for tests:", err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

// Start finds or starts the server and prepares its template. It is called
// once, before any test; stop ends what it began.
func Start(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c := &cluster{template: "nofx_template_" + unique()}
	if c.server, err = pgserver.Start(ctx, pgserver.Config{}); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx); err != nil {
		c.stop()
		return nil, err
	}
	current = c
	return c.stop, nil
}

// bothRole may do what gateways and workers may, for tests that do both.
const bothRole = "pgtest_both"

// makeLogins makes bothRole, with the settings of the logins, and gives all of them one
// password. Roles belong to the server.
func makeLogins(ctx context.Context, conn *pgx.Conn, password string) error {
	_, err := conn.Exec(ctx, `DO $$
		DECLARE
			setting text;
		BEGIN
			IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgtest_both') THEN
				CREATE ROLE pgtest_both LOGIN NOSUPERUSER NOBYPASSRLS;
				GRANT nofx_gateway, nofx_worker TO pgtest_both;
			END IF;
			FOR setting IN SELECT unnest(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = 'nofx_worker'::regrole AND s.setdatabase = 0 LOOP
				EXECUTE format('ALTER ROLE pgtest_both SET %I = %L', split_part(setting, '=', 1), split_part(setting, '=', 2));
			END LOOP;
		END $$`)
	for _, role := range []string{bothRole, postgres.GatewayRole, postgres.WorkerRole} {
		if err == nil {
			_, err = conn.Exec(ctx, "ALTER ROLE "+role+" PASSWORD '"+password+"'")
		}
	}
	if err != nil {
		return fmt.Errorf("logins of tests: %w", err)
	}
	return nil
}

// prepare migrates the template and makes the logins. Another test binary may be using the
// same server: all of them derive the same password from its address, and take turns.
func (c *cluster) prepare(ctx context.Context) (err error) {
	sum := sha256.Sum256([]byte("logins of " + c.server.URL("")))
	c.password = hex.EncodeToString(sum[:])
	if c.admin, err = pgxpool.New(ctx, c.server.URL("")); err != nil {
		return err
	}
	return c.admin.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		const lock = "SELECT pg_advisory_lock(hashtextextended('nofx/pgtest', 0))"
		if _, err := conn.Exec(ctx, lock); err != nil {
			return fmt.Errorf("wait for other tests: %w", err)
		}
		defer conn.Exec(ctx, "SELECT pg_advisory_unlock_all()") //nolint:errcheck // closing the connection frees it too
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+c.template); err != nil {
			return fmt.Errorf("template database: %w", err)
		}
		if _, err := migrations.Up(ctx, c.server.URL(c.template)); err != nil {
			return err
		}
		return makeLogins(ctx, conn.Conn(), c.password)
	})
}

func (c *cluster) stop() {
	if c.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = c.drop(ctx, c.template) // the server's end takes it too
		c.admin.Close()
	}
	c.server.Stop()
}

func (c *cluster) drop(ctx context.Context, name string) error {
	_, err := c.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
	return err
}

func unique() string { return strings.ToLower(rand.Text()) }

// Database is one test's database.
type Database struct {
	AppURL     string        // as a role that may do what gateways and workers may
	GatewayURL string        // as gateways log in
	WorkerURL  string        // as workers do
	AdminURL   string        // as administrator
	Admin      *pgxpool.Pool // for set-up and assertions: passes row level security by
}

// at returns the database at an administrator's address, without Admin.
func at(t testing.TB, admin string) *Database {
	t.Helper()
	as := func(role string) string { return As(t, admin, role, current.password) }
	return &Database{AdminURL: admin, AppURL: as(bothRole), GatewayURL: as(postgres.GatewayRole), WorkerURL: as(postgres.WorkerRole)}
}

// New makes a database with every migration applied and nothing in it, and
// drops it when the test ends.
func New(t testing.TB) *Database {
	t.Helper()
	name := Create(t, true)
	d := at(t, current.server.URL(name))
	d.Admin = pool(t, d.AdminURL)
	return d
}

// Create makes a database, migrated or empty, that is dropped when the test
// ends, and returns its name.
func Create(t testing.TB, migrated bool) string {
	t.Helper()
	if current == nil {
		t.Fatal("pgtest: TestMain calls neither pgtest.Main nor pgtest.Start")
	}
	c, name := current, "nofx_test_"+unique()
	create := "CREATE DATABASE " + name
	if migrated {
		create += " TEMPLATE " + c.template
	}
	if _, err := c.admin.Exec(t.Context(), create); err != nil {
		t.Fatalf("pgtest: create database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := c.drop(ctx, name); err != nil {
			t.Errorf("pgtest: drop database %s: %v", name, err)
		}
	})
	return name
}

// URL returns an administrator's address of a database of the server.
func URL(database string) string { return current.server.URL(database) }

// As returns the address dsn with another role's name and password.
func As(t testing.TB, dsn, role, password string) string {
	t.Helper()
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		u.User = url.UserPassword(role, password)
		return u.String()
	}
	return dsn + " user=" + role + " password=" + password // the keyword form, where the last one wins
}

// Open returns the store on d as gateway and worker open it; c says how. An empty
// c.URL is that of c.Role, and without one d.AppURL. It is closed when the test ends.
func (d *Database) Open(t testing.TB, c postgres.Config) *postgres.DB {
	t.Helper()
	if c.URL == "" {
		c.URL = map[string]string{"": d.AppURL, postgres.GatewayRole: d.GatewayURL, postgres.WorkerRole: d.WorkerURL}[c.Role]
	}
	c.AcquireWait = cmp.Or(c.AcquireWait, time.Minute) // the machine may be slow
	db, err := postgres.Open(t.Context(), c)
	if err != nil {
		t.Fatalf("pgtest: open store: %v", err)
	}
	closeAtEnd(t, db.Close)
	return db
}

// Tenant makes a tenant with its project default.
func (d *Database) Tenant(t testing.TB) uuid.UUID {
	t.Helper()
	tenant := uuid.New()
	err := pgx.BeginFunc(t.Context(), d.Admin, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "SELECT set_config('nofx.tenant_id', $1, true)", tenant.String())
		_, err1 := tx.Exec(t.Context(), "INSERT INTO nofx.tenant (tenant_id, slug) VALUES ($1, $2)", tenant, "t-"+tenant.String())
		_, err2 := tx.Exec(t.Context(), "INSERT INTO nofx.project (tenant_id, id, slug) VALUES ($1, $2, 'default')", tenant, uuid.New())
		return errors.Join(err, err1, err2)
	})
	if err != nil {
		t.Fatalf("pgtest: make tenant: %v", err)
	}
	return tenant
}

func pool(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatalf("pgtest: administrator's pool: %v", err)
	}
	closeAtEnd(t, p.Close)
	return p
}

// closeAtEnd closes a pool when the test ends. That waits for the connections in
// use: a test that leaves a transaction open fails instead of hanging.
func closeAtEnd(t testing.TB, wait func()) {
	t.Cleanup(func() {
		closed := make(chan struct{}, 1)
		go func() {
			wait()
			closed <- struct{}{}
		}()
		select {
		case <-closed:
		case <-time.After(15 * time.Second):
			t.Error("pgtest: the test has left a transaction or rows open")
		}
	})
}
