package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/servertest/filelock"
)

// TestMain lets the test binary stand in for a process that starts a server and
// is then killed. A server of DATABASE_URL would leave nothing here to test.
func TestMain(m *testing.M) {
	os.Unsetenv("DATABASE_URL")
	dir := os.Getenv("PGSERVER_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.URL(""))
	<-s.Done()
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Start(%+v) = %v, want a server", cfg, err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("Connect() = %v, want nil", err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, dsn, sql string, args ...any) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("Exec(%s) = %v, want nil", sql, err)
	}
}

func TestTemporaryServer(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	conn := connect(t, s.URL(""))
	got := map[string]string{}
	want := map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
		"synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300",
		"password_encryption": "scram-sha-256", "server_encoding": "UTF8",
	}
	for name := range want {
		var v string
		if err := conn.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&v); err != nil {
			t.Fatal(err)
		}
		got[name] = v
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	exec1(t, s.URL(""), `CREATE DATABASE "o'ther"`)
	var name string
	if err := connect(t, s.URL("o'ther")).QueryRow(t.Context(), `SELECT current_database()`).Scan(&name); err != nil || name != "o'ther" {
		t.Errorf("current_database() = %q, %v, want o'ther", name, err)
	}
	u, err := url.Parse(s.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "wrong")
	if _, err := pgx.Connect(t.Context(), u.String()); err == nil {
		t.Error("Connect(wrong password) = nil, want an error")
	}
	s.Stop()
	if _, err := os.Stat(s.dir.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat(data after Stop) = %v, want not exist", err)
	}
	if err := syscall.Kill(s.proc.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("Kill(server after Stop, 0) = %v, want ESRCH", err)
	}
}

func TestDataIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	exec1(t, s.URL(""), `CREATE TABLE kept AS SELECT 1 AS n`)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Config{Dir: dir}); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("Start(directory in use) = %v, want ErrHeld", err)
	}

	// A killed server leaves its pid file; another process may wear its pid.
	s.proc.Signal(syscall.SIGKILL)
	<-s.Done()
	s.Stop()
	stale := fmt.Sprintf("%d\n%s\n1\n1\n\n127.0.0.1\n\n", os.Getppid(), filepath.Join(dir, "data"))
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, Config{Dir: dir})
	exec1(t, s.URL(""), `INSERT INTO kept VALUES (2)`)
	s.Stop()
	s = start(t, Config{Dir: dir})
	var sum int
	if err := connect(t, s.URL("")).QueryRow(t.Context(), `SELECT sum(n) FROM kept`).Scan(&sum); err != nil || sum != 3 {
		t.Errorf("sum(n) = %d, %v after a crash and a stop, want 3", sum, err)
	}
}

func TestKilledParentTakesTheServerAlong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "PGSERVER_TEST_DIR="+dir)
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var dsn string
	if _, err := fmt.Fscan(out, &dsn); err != nil {
		t.Fatal(err)
	}
	exec1(t, dsn, `CREATE TABLE kept ()`)
	open := connect(t, dsn) // a session that would keep a smart shutdown waiting
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	// Every process of the server has inherited the lock.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	lock, err := filelock.Wait(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatalf("Wait(lock of the server) = %v after its parent was killed, want nil", err)
	}
	lock.Close()
	if err := open.Ping(t.Context()); err == nil {
		t.Error("Ping() = nil on a session of the killed parent's server, want an error")
	}
	s := start(t, Config{Dir: dir})
	exec1(t, s.URL(""), `SELECT FROM kept`)
}

func TestAdministrator(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	exec1(t, s.URL(""), `CREATE ROLE nofx_worker LOGIN SUPERUSER PASSWORD 'x'`)
	exec1(t, s.URL(""), `CREATE ROLE maker LOGIN CREATEROLE CREATEDB PASSWORD 'x'`)
	exec1(t, s.URL(""), `CREATE ROLE half LOGIN CREATEDB PASSWORD 'x'`)
	u, err := url.Parse(s.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]string{
		"maker": "", "nofx_worker": "role nofx_worker", "half": "no administrator", "nobody": "connect to the server of DATABASE_URL",
	} {
		u.User = url.UserPassword(role, "x")
		err := checkAdministrator(t.Context(), u.String())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("checkAdministrator(%s) = %v, want %q", role, err, want)
		}
	}
}

func TestURLOfAKeywordString(t *testing.T) {
	t.Parallel()
	s := &Server{admin: "host=db port=5433 user=admin dbname=old"}
	for database, want := range map[string]string{"": "old", "new": "new", `o'd\d`: `o'd\d`} {
		cfg, err := pgx.ParseConfig(s.URL(database))
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Database != want || cfg.Host != "db" || cfg.Port != 5433 {
			t.Errorf("URL(%q) means %s at %s:%d, want %s at db:5433", database, cfg.Database, cfg.Host, cfg.Port, want)
		}
	}
}
