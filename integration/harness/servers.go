package harness

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/servertest/pgserver"
	"nofx.dev/shared/servertest/s3server"
)

// The roles that gateways and workers log in as.
const (
	gatewayRole = "nofx_gateway"
	workerRole  = "nofx_worker"
)

// ServersConfig says where data is and who is told of progress.
type ServersConfig struct {
	// Dir keeps the data and holds the logs of the servers. When it is empty
	// the data is temporary and nothing is logged.
	Dir string
	// Progress is told what takes long; it may be nil.
	Progress func(string)
}

// Servers are a Postgres and an S3 server, for any number of stacks.
type Servers struct {
	pg        *pgserver.Server
	s3        *s3server.Server
	passwords map[string]string // by role
	dir       string            // as in ServersConfig
	logs      []io.Closer
	mu        sync.Mutex // roles are the whole server's: one migration at a time
}

// StartServers starts both servers and returns when they answer. Whoever starts
// servers stops them, after the stacks on them.
func StartServers(ctx context.Context, cfg ServersConfig) (_ *Servers, err error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	s := &Servers{dir: cfg.Dir}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	pg, s3 := pgserver.Config{Progress: cfg.Progress}, s3server.Config{Progress: cfg.Progress}
	if cfg.Dir != "" {
		pg.Dir, s3.Dir = filepath.Join(cfg.Dir, "postgres"), filepath.Join(cfg.Dir, "s3")
		if pg.Log, err = s.log("postgres"); err != nil {
			return nil, err
		}
		if s3.Log, err = s.log("s3"); err != nil {
			return nil, err
		}
	}
	cfg.Progress("starting Postgres")
	if s.pg, err = pgserver.Start(ctx, pg); err != nil {
		return nil, err
	}
	if s.passwords, err = passwords(s.pg.URL("")); err != nil {
		return nil, err
	}
	cfg.Progress("starting the S3 server")
	s.s3, err = s3server.Start(ctx, s3)
	return s, err
}

func (s *Servers) logPath(name string) string { return filepath.Join(s.dir, "logs", name+".log") }

func (s *Servers) log(name string) (io.Writer, error) {
	f, err := openLog(s.logPath(name))
	if err == nil {
		s.logs = append(s.logs, f)
	}
	return f, err
}

// URL returns an administrator's connection string for a database of the server, for
// whoever wants one that is no stack's.
func (s *Servers) URL(database string) string { return s.pg.URL(database) }

// Wait returns nil when ctx ends and an error when a server has ended before.
func (s *Servers) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.pg.Done():
		return s.ended("Postgres", "postgres")
	case <-s.s3.Done():
		return s.ended("S3", "s3")
	}
}

// ended returns the error of a server that has ended, with the path of its log.
func (s *Servers) ended(title, name string) error {
	if s.dir == "" {
		return fmt.Errorf("the %s server has ended", title)
	}
	return fmt.Errorf("the %s server has ended; its log says why: %s", title, s.logPath(name))
}

// Stop ends both servers and waits for them.
func (s *Servers) Stop() {
	if s.s3 != nil {
		s.s3.Stop()
	}
	if s.pg != nil {
		s.pg.Stop()
	}
	for _, l := range s.logs {
		l.Close()
	}
}

// addresses are those of one database, as an administrator, a gateway and a worker log in.
type addresses struct{ admin, gateway, worker string }

// database makes the database name, unless it is there, migrates it and lets
// gateways and workers log in; of a server that is not ours it takes the database of
// DATABASE_URL when keep is set. It returns the addresses of the database.
func (s *Servers) database(ctx context.Context, name string, keep bool, migrate func(admin string) error) (addresses, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	admin := s.pg.URL(name)
	if keep && s.pg.Done() == nil {
		admin = s.pg.URL("")
	} else if err := s.exec(ctx, s.pg.URL(""), "CREATE DATABASE "+pgx.Identifier{name}.Sanitize(), "42P04"); err != nil {
		return addresses{}, fmt.Errorf("make database %s: %w", name, err)
	}
	if err := migrate(admin); err != nil {
		return addresses{}, fmt.Errorf("migrate database %s: %w", name, err)
	}
	for role, password := range s.passwords { // hexadecimal, so they need no quoting
		if err := s.exec(ctx, admin, "ALTER ROLE "+role+" LOGIN PASSWORD '"+password+"'", ""); err != nil {
			return addresses{}, fmt.Errorf("set the password of %s: %w", role, err)
		}
	}
	return addresses{admin, as(admin, gatewayRole, s.passwords[gatewayRole]), as(admin, workerRole, s.passwords[workerRole])}, nil
}

// drop removes a database and ends its sessions. One that stays behind on a
// server of somebody else's is no reason to fail.
func (s *Servers) drop(ctx context.Context, name string) {
	s.exec(ctx, s.pg.URL(""), "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)", "") //nolint:errcheck // see above
}

// exec runs one statement. The error whose SQLSTATE is harmless is none. Two
// processes that alter one role at a time get an error that repeating cures.
func (s *Servers) exec(ctx context.Context, dsn, sql, harmless string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for try := 1; ; try++ {
		_, err := conn.Exec(ctx, sql)
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil || ok && pgErr.Code == harmless:
			return nil
		case !ok || try == 10 || !strings.Contains(pgErr.Message, "concurrently updated"):
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// passwords derives those of the roles from the administrator's, so that every process
// that uses one server sets the same. Without one they are random.
func passwords(admin string) (map[string]string, error) {
	cfg, err := pgx.ParseConfig(admin)
	if err != nil {
		return nil, fmt.Errorf("read the database address: %w", err)
	}
	secret := cfg.Password
	if secret == "" {
		secret = rand.Text()
	}
	all := map[string]string{}
	for _, role := range []string{gatewayRole, workerRole} {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(role))
		all[role] = fmt.Sprintf("%x", mac.Sum(nil))
	}
	return all, nil
}

// as returns dsn for another role.
func as(dsn, role, password string) string {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" { // the keyword form, where the last one wins
		return dsn + " user=" + role + " password=" + password
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

// openLog opens a log for appending; what an earlier start wrote is kept beside
// it as .old.
func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}
