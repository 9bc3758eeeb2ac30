package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/servertest/child"
)

// peerPrefix begins the name of the peer's database.
const peerPrefix = "bench_dbos_"

// peer is DBOS's Go library, what somebody would take who wants durable steps in
// Postgres and writes none of it: a program of its own (integration/peers/dbos)
// on a database of its own, on the same server. Its runs are accepted by a call
// and not over HTTP, and it has no tenants, leases or checkpoints of files.
type peer struct {
	url     string // of its database
	version string // known after the first measurement
	drop    func()
	proc    *child.Process
	in      io.WriteCloser
	printed *os.File
	out     *bufio.Scanner // of printed
	problem *bytes.Buffer  // to be read when proc has ended
}

// peerResult is what the program prints.
type peerResult struct {
	Version     string  `json:"version"`
	Runs        int     `json:"runs"`
	CPUMS       float64 `json:"cpu_ms"`
	RunsPerS    float64 `json:"runs_per_s"`
	EnqueuePerS float64 `json:"enqueue_per_s"`
}

// newPeer builds the program, which takes modules that may have to be downloaded,
// and starts it on a new database of the server that url is for.
func newPeer(ctx context.Context, url func(database string) string, dir string, progress func(string)) (*peer, error) {
	progress("building DBOS's driver")
	program := filepath.Join(dir, "dbos")
	if err := buildPeer(ctx, program); err != nil {
		return nil, err
	}
	database := peerPrefix + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := execute(ctx, url(""), "CREATE DATABASE "+database); err != nil {
		return nil, fmt.Errorf("make its database: %w", err)
	}
	drop := func() {
		// Also when the caller's context has ended: that is when one stops.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		execute(ctx, url(""), "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)") //nolint:errcheck // the server is stopped next
	}
	p, err := startPeer(program, url(database))
	if err != nil {
		drop()
		return nil, err
	}
	p.drop = drop
	return p, nil
}

// buildPeer compiles the program outside the workspace, whose modules are not
// its own.
func buildPeer(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("its modules do not arrive"))
	defer cancel()
	workspace, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return fmt.Errorf("find its source: %w", err)
	}
	source := filepath.Join(filepath.Dir(strings.TrimSpace(string(workspace))), "integration", "peers", "dbos")
	cmd := exec.Command("go", "-C", source, "build", "-buildvcs=false", "-o", program, ".")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var problem bytes.Buffer
	cmd.Stderr = &problem
	if err := child.Run(ctx, cmd); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("go build: %w: %.500s", err, bytes.TrimSpace(problem.Bytes()))
	}
	return nil
}

func startPeer(program, url string) (*peer, error) {
	p := &peer{url: url, drop: func() {}, problem: &bytes.Buffer{}}
	cmd := exec.Command(program)
	cmd.Env = []string{"DATABASE_URL=" + url, "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	cmd.Stderr = p.problem
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// Not StdoutPipe: whoever waits for the program would close it under the reader.
	out, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	cmd.Stdout = write
	p.printed, p.out = out, bufio.NewScanner(out)
	if p.proc, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		out.Close()
		return nil, err
	}
	return p, nil
}

// name returns what reports call it; there need not be one.
func (p *peer) name() string {
	if p == nil {
		return ""
	}
	return "DBOS " + p.version
}

// So many runs a second of a window are asked for: about what the peer can do on
// two cores, so that a round takes about as long as everybody's.
const (
	peerRuns    = 300
	peerEnqueue = 1500
)

// measure asks for "runs" or "enqueue", so many a second of window, and waits for
// the answer.
func (p *peer) measure(ctx context.Context, what string, perSecond int, window time.Duration) (r peerResult, err error) {
	n := max(200, int(window.Seconds()*float64(perSecond)))
	stop := context.AfterFunc(ctx, func() { p.proc.Stop(syscall.SIGTERM, time.Second) })
	defer stop()
	if _, err := fmt.Fprintf(p.in, "%s %d\n", what, n); err != nil {
		return r, p.failure(ctx, err)
	}
	if !p.out.Scan() {
		return r, p.failure(ctx, p.out.Err())
	}
	if err := json.Unmarshal(p.out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("DBOS's driver printed %.200q: %w", p.out.Bytes(), err)
	}
	if r.Runs != n {
		return r, fmt.Errorf("DBOS's driver did %d runs, want %d", r.Runs, n)
	}
	p.version = r.Version
	return r, nil
}

// failure returns why the program has ended.
func (p *peer) failure(ctx context.Context, err error) error {
	p.proc.Stop(syscall.SIGTERM, time.Second)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err = errors.Join(p.proc.Err(), err); err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("DBOS's driver has ended: %w: %.500s", err, bytes.TrimSpace(p.problem.Bytes()))
}

// close ends the program and drops its database.
func (p *peer) close() {
	p.in.Close()
	select { // it ends by itself at the end of its input
	case <-p.proc.Done():
	case <-time.After(15 * time.Second):
	}
	p.proc.Stop(syscall.SIGTERM, time.Second)
	p.printed.Close()
	p.drop()
}

// sessions returns the pids of its database's sessions.
func (p *peer) sessions(ctx context.Context) ([]int, error) {
	conn, err := pgx.Connect(ctx, p.url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return sessions(ctx, conn, "pid <> pg_backend_pid()")
}

// peerTurn gives the peer one more round of load.
func (b *bench) peerTurn(ctx context.Context, t *turn) error {
	var r peerResult
	load := func() (err error) {
		r, err = b.peer.measure(ctx, "runs", peerRuns, b.round())
		return err
	}
	if b.meter == nil {
		err := load()
		t.rates = append(t.rates, r.RunsPerS)
		return err
	}
	used, err := b.meter.around(ctx, b.peer.sessions, load)
	if err != nil {
		return err
	}
	t.rates = append(t.rates, r.RunsPerS)
	t.costs = append(t.costs, usage{postgres: used[postgres] / float64(r.Runs), "load": r.CPUMS})
	return nil
}
