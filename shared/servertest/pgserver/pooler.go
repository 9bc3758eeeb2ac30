package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/servertest/child"
	"nofx.dev/shared/servertest/datadir"
)

// ErrNoPooler is the error of [StartPooler] on a machine without PgBouncer.
var ErrNoPooler = errors.New("no pgbouncer to start: install it (Debian, Ubuntu: apt-get install -y pgbouncer; Fedora: dnf install -y pgbouncer; macOS: brew install pgbouncer)")

// Pooler is a PgBouncer in transaction mode before a server, for tests.
type Pooler struct {
	port int
	dir  *datadir.Dir
	proc *child.Process
	once sync.Once
}

// poolSize is how many connections a pooler has for one role in one database.
const poolSize = 20

// StartPooler starts a PgBouncer before the server that all dsns name, for their
// roles, and returns when it answers. Whoever starts it stops it, before the server.
func StartPooler(ctx context.Context, dsns ...string) (*Pooler, error) {
	return StartPoolerOf(ctx, poolSize, dsns...)
}

// StartPoolerOf is StartPooler with so many connections for one role in one database.
func StartPoolerOf(ctx context.Context, size int, dsns ...string) (_ *Pooler, err error) {
	program, err := findPooler()
	if err != nil {
		return nil, err
	}
	var users bytes.Buffer
	var server pgx.ConnConfig
	for _, dsn := range dsns {
		cfg, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, fmt.Errorf("address of a server to pool: %w", err)
		}
		server = *cfg
		fmt.Fprintf(&users, "%q %q\n", cfg.User, cfg.Password)
	}
	p := &Pooler{}
	if p.dir, err = datadir.Open(ctx, "", "pgbouncer"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	if p.port, err = freePort(); err != nil {
		return nil, err
	}
	c := &cluster{dir: p.dir, log: &tail{next: io.Discard}}
	if c.account, err = unprivileged(program); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf(`[databases]
* = host=%s port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = transaction
max_client_conn = 1000
default_pool_size = %d
`, server.Host, server.Port, p.port, filepath.Join(p.dir.Path, "users"), size)
	ini := filepath.Join(p.dir.Path, "pgbouncer.ini")
	if err := errors.Join(os.WriteFile(filepath.Join(p.dir.Path, "users"), users.Bytes(), 0o600), os.WriteFile(ini, []byte(settings), 0o600), c.own()); err != nil {
		return nil, err
	}
	cmd := command(c.account, program, "--quiet", ini)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.ExtraFiles = []*os.File{p.dir.Lock}
	if p.proc, err = child.Start(cmd, syscall.SIGTERM); err != nil {
		return nil, err
	}
	if err := answering(ctx, p.proc, p.URL(dsns[0])); err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w: %s", err, c.log)
	}
	return p, nil
}

// URL returns dsn with the pooler's host and port in place of the server's.
func (p *Pooler) URL(dsn string) string {
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(p.port))
		return u.String()
	}
	return dsn + " host=127.0.0.1 port=" + strconv.Itoa(p.port) // the keyword form, where the last one wins
}

// Stop ends the pooler and waits for it.
func (p *Pooler) Stop() {
	p.once.Do(func() {
		if p.proc != nil {
			p.proc.Stop(syscall.SIGTERM, 5*time.Second) // at once, whoever is connected
		}
		p.dir.Close()
	})
}

// findPooler returns the path of PgBouncer. Debian has it in a folder that is on the path
// of administrators alone.
func findPooler() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoPooler
}
