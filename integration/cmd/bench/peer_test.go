package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scripted returns a peer whose program is a shell script.
func scripted(t *testing.T, script string) *peer {
	t.Helper()
	program := filepath.Join(t.TempDir(), "peer")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := startPeer(program, "postgres://nowhere")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func TestPeerMeasure(t *testing.T) {
	t.Parallel()
	p := scripted(t, `while read what n; do
		[ "$DATABASE_URL" = postgres://nowhere ] || exit 1
		case $what in
		runs) echo '{"version": "v1.2.3", "runs": '$n', "runs_per_s": 400, "cpu_ms": 2.5}';;
		enqueue) echo '{"version": "v1.2.3", "runs": '$n', "enqueue_per_s": 3000}';;
		esac
	done`)
	got, err := p.measure(t.Context(), "runs", peerRuns, 4*time.Second)
	if want := (peerResult{Version: "v1.2.3", Runs: 1200, RunsPerS: 400, CPUMS: 2.5}); err != nil || got != want {
		t.Errorf("measure(runs) = %+v, %v, want %+v", got, err, want)
	}
	got, err = p.measure(t.Context(), "enqueue", peerEnqueue, time.Millisecond)
	if want := (peerResult{Version: "v1.2.3", Runs: 200, EnqueuePerS: 3000}); err != nil || got != want {
		t.Errorf("measure(enqueue) = %+v, %v, want %+v", got, err, want)
	}
	if got, want := p.name(), "DBOS v1.2.3"; got != want {
		t.Errorf("name = %q, want %q", got, want)
	}
}

func TestPeerFails(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct{ script, want string }{
		"it fails":       {"read line; echo 'no such table' >&2; exit 3", "exit status 3"},
		"it says why":    {"read line; echo 'no such table' >&2; exit 3", "no such table"},
		"it just ends":   {"read line", "unexpected EOF"},
		"it babbles":     {"read line; echo hello; read line", `printed "hello"`},
		"it does others": {`read line; echo '{"runs": 7}'; read line`, "did 7 runs, want 300"},
	} {
		if got, err := scripted(t, c.script).measure(t.Context(), "runs", peerRuns, time.Second); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: measure = %+v, %v, want an error with %q", what, got, err, c.want)
		}
	}
	broken := errors.New("broken")
	ctx, cancel := context.WithCancelCause(t.Context())
	p := scripted(t, "read line; echo >&2; exec sleep 1000")
	time.AfterFunc(50*time.Millisecond, func() { cancel(broken) })
	if got, err := p.measure(ctx, "runs", peerRuns, time.Second); !errors.Is(err, broken) {
		t.Errorf("measure, cancelled = %+v, %v, want the cause", got, err)
	}
}

// Modules that cannot be had are told of, and nothing is left behind.
func TestNewPeerWithoutModules(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOMODCACHE", t.TempDir())
	p, err := newPeer(t.Context(), server.URL, t.TempDir(), func(string) {})
	if err == nil {
		p.close()
		t.Fatal("newPeer without modules = nil, want an error")
	}
	if !strings.Contains(err.Error(), "module lookup disabled by GOPROXY=off") {
		t.Errorf("newPeer without modules = %v, want what the go command says", err)
	}
	var left int
	b := (*peer)(nil)
	if err := newTestChain(t).pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_database WHERE starts_with(datname, $1)`, peerPrefix).Scan(&left); err != nil || left != 0 {
		t.Errorf("databases left = %d, %v, want 0", left, err)
	}
	if got := b.name(); got != "" {
		t.Errorf("name of no peer = %q, want none", got)
	}
}
