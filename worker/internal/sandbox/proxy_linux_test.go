package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
)

// echoProxy listens in the place of a proxy: it sends back what comes, after its name.
type echoProxy struct {
	path        string
	open, most  atomic.Int64
	connections atomic.Int64
	ended       chan struct{} // gets a value for each connection that ended
}

func newEchoProxy(t *testing.T) *echoProxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "proxy") // short, as the path of a socket must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &echoProxy{path: filepath.Join(dir, "socket"), ended: make(chan struct{}, 1000)}
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.connections.Add(1)
			now := p.open.Add(1)
			for most := p.most.Load(); now > most && !p.most.CompareAndSwap(most, now); most = p.most.Load() {
			}
			go func() {
				defer func() { p.open.Add(-1); p.ended <- struct{}{} }()
				defer c.Close()
				_, _ = fmt.Fprintln(c, "proxy", p.path)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return p
}

// A command reaches its proxy by TCP, in both directions, and neither that of another one nor
// anything else; without a proxy there is none.
func TestS31_Proxy(t *testing.T) {
	t.Parallel()
	s := sandboxtest.Open(t, sandbox.Config{MaxTier: 2})
	own, other := newEchoProxy(t), newEchoProxy(t)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	script := `
		exec 3<>/dev/tcp/127.0.0.1/3128 && read -r line <&3 && echo "$line"
		echo hello >&3 && read -r line <&3 && echo "$line"
		(: </dev/tcp/` + strings.ReplaceAll(server.Addr().String(), ":", "/") + `) 2>/dev/null && echo direct
		(: </dev/udp/192.0.2.1/53) 2>/dev/null && echo routed
		for f in ` + own.path + ` ` + other.path + `; do [ -e $f ] && echo there $f; done
		ls /run`
	for name, tt := range map[string]struct {
		proxy string
		want  string
	}{
		"with a proxy": {own.path, "proxy " + own.path + "\nhello\nnofx-proxy\nnofx-sandbox\n"},
		"without":      {"", "nofx-sandbox\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := bash(script)
			var out bytes.Buffer
			c.Proxy, c.Stdout, c.Stderr = tt.proxy, &out, nil
			if exit, err := s.Exec(t.Context(), c); err != nil || out.String() != tt.want {
				t.Errorf("Exec() = %+v, %v, prints %q, want %q", exit, err, &out, tt.want)
			}
		})
	}
}

// Below tier 2 there are no sockets, and so no proxy; nor beside the machine's network.
func TestProxyNeedsTier2(t *testing.T) {
	t.Parallel()
	p := newEchoProxy(t)
	for tier := range 3 {
		c, out := bash("echo started")
		c.Proxy, c.Network = p.path, tier == 2
		want := "a network needs a sandbox of tier 2; this one is of tier " + strconv.Itoa(tier)
		if tier == 2 {
			want = "not both"
		}
		exit, err := sandboxtest.Open(t, sandbox.Config{MaxTier: tier}).Exec(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) || exit.Code != -1 || out.Len() > 0 {
			t.Errorf("Exec() with a proxy in tier %d = %+v, %v, prints %q, want it refused with %q", tier, exit, err, out, want)
		}
	}
}

// A proxy that is not there is no reason not to start; who connects is told by an end.
func TestProxyGone(t *testing.T) {
	t.Parallel()
	s := sandboxtest.Open(t, sandbox.Config{MaxTier: 2})
	path := filepath.Join(t.TempDir(), "stale")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, out := bash(`exec 3<>/dev/tcp/127.0.0.1/3128; read -r line <&3 || echo ended`)
	c.Proxy = path
	if exit, err := s.Exec(t.Context(), c); err != nil || out.String() != "ended\n" {
		t.Errorf("Exec() = %+v, %v, prints %q, want the end of the connection", exit, err, out)
	}
}

// What a command has open ends with it, whatever is left of it: also half a connection.
func TestS31_ProxyEndsWithItsCommand(t *testing.T) {
	t.Parallel()
	s := sandboxtest.Open(t, sandbox.Config{MaxTier: 2})
	for name, script := range map[string]string{
		"exit":     `exec 3<>/dev/tcp/127.0.0.1/3128; read -r line <&3; echo $line`,
		"survivor": `exec 3<>/dev/tcp/127.0.0.1/3128; read -r line <&3; echo $line; setsid bash -c 'trap "" TERM HUP; sleep 1000' <&3 >&3 & disown`,
		"half":     `cat </dev/tcp/127.0.0.1/3128 & exec 3<>/dev/tcp/127.0.0.1/3128; read -r line <&3; echo $line`,
		"cancel":   `trap '' TERM; exec 3<>/dev/tcp/127.0.0.1/3128; read -r line <&3; echo $line; echo up; sleep 1000; sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, mark := newEchoProxy(t), token()
			c, _ := bash(script, "TOKEN="+mark)
			c.Proxy = p.path
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &untilUp{up: cancel}
			c.Stdout = out
			exit, err := s.Exec(ctx, c)
			if !strings.HasPrefix(out.String(), "proxy ") {
				t.Errorf("Exec() = %+v, %v, prints %q, want a connection", exit, err, out)
			}
			for range p.connections.Load() {
				<-p.ended
			}
			if pids := marked(mark); len(pids) > 0 {
				t.Errorf("processes %v are left, want none", pids)
			}
		})
	}
}

// untilUp collects output, and calls up when that says so.
type untilUp struct {
	text bytes.Buffer
	up   func()
}

func (u *untilUp) String() string { return u.text.String() }

func (u *untilUp) Write(b []byte) (int, error) {
	n, err := u.text.Write(b)
	if bytes.Contains(u.text.Bytes(), []byte("up\n")) {
		u.up()
	}
	return n, err
}

// A flood of connections comes through some at a time.
func TestProxyFlood(t *testing.T) {
	t.Parallel()
	s := sandboxtest.Open(t, sandbox.Config{MaxTier: 2})
	p := newEchoProxy(t)
	// Descriptors 10 to 209 hold 200 connections open; the last are served as the first end.
	c, out := bash(`
		for ((i = 10; i < 210; i++)); do eval "exec $i<>/dev/tcp/127.0.0.1/3128"; done
		for ((i = 10; i < 210; i++)); do read -r line <&$i && n=$((n + 1)); eval "exec $i>&-"; done
		echo $n`)
	c.Proxy = p.path
	if exit, err := s.Exec(t.Context(), c); err != nil || out.String() != "200\n" {
		t.Errorf("Exec() = %+v, %v, prints %q, want 200 connections served", exit, err, out)
	}
	if most := p.most.Load(); most > 64+8 { // an end shows here a little later than there
		t.Errorf("%d connections came at once, want about 64 at most", most)
	}
}
