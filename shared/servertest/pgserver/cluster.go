package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/servertest/child"
	"nofx.dev/shared/servertest/datadir"
)

// administrator is the role initdb makes.
const administrator = "postgres"

// cluster is a data directory and the programs that serve it.
type cluster struct {
	dir      *datadir.Dir
	data     string // within dir
	password string
	bin      string
	account  *syscall.SysProcAttr
	log      *tail
}

// major returns the version of Postgres that wrote the data, "" when there is none.
func (c *cluster) major() string {
	b, _ := os.ReadFile(filepath.Join(c.data, "PG_VERSION"))
	return strings.TrimSpace(string(b))
}

// init makes the data directory unless it is there. It is made beside its place
// and renamed, so that a start killed half-way leaves nothing that looks ready.
func (c *cluster) init(ctx context.Context, progress func(string)) error {
	if c.major() != "" {
		return c.own()
	}
	progress("making a Postgres data directory")
	fresh := c.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := c.own(); err != nil {
		return err
	}
	args := []string{
		"-D", fresh, "-U", administrator, "--pwfile=" + filepath.Join(c.dir.Path, "password"), "--auth=scram-sha-256",
		"--encoding=UTF8", "--no-locale", "--no-instructions",
	}
	if c.dir.Temporary {
		args = append(args, "--no-sync")
	}
	cmd := command(c.account, filepath.Join(c.bin, "initdb"), args...)
	out := &tail{next: io.Discard}
	cmd.Stdout, cmd.Stderr = out, out
	if err := child.Run(ctx, cmd); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return os.Rename(fresh, c.data)
}

// own gives the directory to the account that runs the server. One that another account
// owned, because the machine allowed namespaces then and not now or the
// other way round, changes hands with it.
func (c *cluster) own() error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid := 0, 0
	if c.account != nil && c.account.Credential != nil {
		uid, gid = int(c.account.Credential.Uid), int(c.account.Credential.Gid)
	}
	return filepath.WalkDir(c.dir.Path, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// run starts the server on a free port and waits until it answers. Between
// finding a port and using it another process may take it, hence the tries.
func (c *cluster) run(ctx context.Context) (*child.Process, string, error) {
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return nil, "", err
		}
		// Left by a server that was killed. We hold its lock, so it is dead,
		// though its pid may by now be another process's.
		if err := os.Remove(filepath.Join(c.data, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, "", err
		}
		admin := (&url.URL{
			Scheme: "postgres", User: url.UserPassword(administrator, c.password),
			Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/postgres", RawQuery: "sslmode=disable",
		}).String()
		p, err := c.serve(port)
		if err != nil {
			return nil, "", err
		}
		if err = answering(ctx, p, admin); err == nil {
			return p, admin, nil
		}
		p.Stop(syscall.SIGQUIT, 5*time.Second)
		if try < 5 && strings.Contains(c.log.String(), "could not bind") {
			c.log.reset()
			continue
		}
		return nil, "", fmt.Errorf("start Postgres: %w: %s", err, c.log)
	}
}

func (c *cluster) serve(port int) (*child.Process, error) {
	settings := []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(port), "unix_socket_directories=",
		"timezone=UTC", "log_timezone=UTC", "logging_collector=off", "max_connections=200",
		"synchronous_commit=on",
		// A new database has no statistics, and until its first analyze plans that
		// sessions keep are poor ones; the default looks once a minute.
		"autovacuum_naptime=5s",
	}
	onDeath := syscall.SIGINT
	if c.dir.Temporary {
		onDeath = syscall.SIGQUIT
		settings = append(settings, "max_connections=300",
			"fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	args := []string{"-D", c.data}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	cmd := command(c.account, filepath.Join(c.bin, "postgres"), args...)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.ExtraFiles = []*os.File{c.dir.Lock}
	return child.Start(cmd, onDeath)
}

// answering waits until the server takes a query.
func answering(ctx context.Context, p *child.Process, dsn string) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, dsn)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w", ctx.Err(), err)
		case <-p.Done():
			return fmt.Errorf("it ended by itself: %w", p.Err())
		case <-tick.C:
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// tail passes on what is written and keeps the end of it for error messages.
type tail struct {
	next io.Writer
	mu   sync.Mutex
	end  []byte
}

const tailBytes = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if n := len(t.end) - tailBytes; n > 0 {
		t.end = append(t.end[:0], t.end[n:]...)
	}
	return t.next.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.end))
}

func (t *tail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = nil
}
