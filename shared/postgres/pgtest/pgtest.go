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
	password string // of nofx_app
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

// prepare migrates the template and gives nofx_app its password. Roles belong
// to the server, and another test binary may be using the same one: all of them
// derive the same password from its address, and take turns.
func (c *cluster) prepare(ctx context.Context) (err error) {
	sum := sha256.Sum256([]byte("nofx_app of " + c.server.URL("")))
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
		if _, err := conn.Exec(ctx, "ALTER ROLE nofx_app PASSWORD '"+c.password+"'"); err != nil {
			return fmt.Errorf("password of nofx_app: %w", err)
		}
		return nil
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
	AppURL   string        // as role nofx_app, as gateway and worker log in
	AdminURL string        // as administrator
	Admin    *pgxpool.Pool // for set-up and assertions: passes row level security by
}

// New makes a database with every migration applied and nothing in it, and
// drops it when the test ends.
func New(t testing.TB) *Database {
	t.Helper()
	name := Create(t, true)
	d := &Database{AdminURL: current.server.URL(name)}
	d.AppURL = As(t, d.AdminURL, "nofx_app", current.password)
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
// c.URL is d.AppURL. It is closed when the test ends.
func (d *Database) Open(t testing.TB, c postgres.Config) *postgres.DB {
	t.Helper()
	if c.URL == "" {
		c.URL = d.AppURL
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
