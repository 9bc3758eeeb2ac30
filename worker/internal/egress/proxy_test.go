package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const wait = 2 * time.Minute // for what has to happen on a slow machine

// proxied is a proxy on a socket, as a step has one.
type proxied struct {
	*Proxy
	socket  string
	results map[Result]*atomic.Int64
}

// newProxy makes a proxy that reaches hosts, as a name server knows them, also where the list
// of the administrator has them inside.
func newProxy(t *testing.T, n *names, hosts []string, allow []string, change func(*ProxyConfig)) *proxied {
	t.Helper()
	list, err := ParseAllow(allow)
	if err != nil {
		t.Fatal(err)
	}
	if n == nil {
		n = &names{}
	}
	n.asked = map[string]int{}
	dir, err := os.MkdirTemp("", "proxy") // short, as the path of a socket must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &proxied{socket: filepath.Join(dir, "s"), results: map[Result]*atomic.Int64{Allowed: {}, Refused: {}, Failed: {}}}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := ProxyConfig{Config: Config{Allow: list, Resolver: n.resolver()}, Hosts: hosts, Tried: func(r Result) { p.results[r].Add(1) }}
	if change != nil {
		change(&cfg)
	}
	p.Proxy = ServeProxy(l, cfg)
	t.Cleanup(func() { p.Close() })
	return p
}

func (p *proxied) dialSocket(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	return c
}

// connect asks for a tunnel and returns it, or the status and text of the refusal.
func (p *proxied) connect(t *testing.T, place string) (tunnel net.Conn, status int, said string) {
	t.Helper()
	c := p.dialSocket(t)
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", place, place)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, 0, err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(resp.Body)
		return nil, resp.StatusCode, string(raw)
	}
	return c, resp.StatusCode, ""
}

// client returns a client that uses the proxy as programs do.
func (p *proxied) client(t *testing.T, roots *x509.CertPool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy:1"}),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.socket)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: wait}
}

// A step reaches the hosts that it was given, by TLS and without, and its connections are
// counted with their bytes.
func TestProxy(t *testing.T) {
	t.Parallel()
	page := strings.Repeat("x", 10_000)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %q %s", r.Method, r.Host, len(body), r.Header.Get("Proxy-Authorization")+r.Header.Get("X-Forwarded-For"), page)
	})
	secure, plain := httptest.NewTLSServer(handler), httptest.NewServer(handler)
	t.Cleanup(secure.Close)
	t.Cleanup(plain.Close)
	_, securePort, _ := net.SplitHostPort(secure.Listener.Addr().String())
	_, plainPort, _ := net.SplitHostPort(plain.Listener.Addr().String())
	n := &names{hosts: map[string][]string{"example.com": {"127.0.0.1"}, "a.plain.example": {"127.0.0.1"}}}
	places := []string{"example.com:" + securePort, "a.plain.example:" + plainPort}
	p := newProxy(t, n, []string{places[0], "*.plain.example:" + plainPort}, places, nil)
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	c := p.client(t, roots)
	for _, address := range []string{"https://" + places[0], "http://A.Plain.Example:" + plainPort} {
		resp, err := c.Post(address+"/path?query", "text/plain", strings.NewReader("12345"))
		if err != nil {
			t.Errorf("POST %s = %v, want an answer", address, err)
			continue
		}
		got, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if _, host, _ := strings.Cut(address, "://"); string(got) != `POST `+host+` 5 "" `+page {
			t.Errorf("POST %s = %d %.100s, want the page of the host", address, resp.StatusCode, got)
		}
	}
	c.CloseIdleConnections()
	list := p.Close()
	if len(list) != 2 || list[0].Host != places[1] || list[1].Host != places[0] {
		t.Fatalf("Close() = %v, want a visit to each host", list)
	}
	for _, v := range list {
		if sent, received := v.Bytes(); v.Result != Allowed || v.Connections != 1 || sent < 5 || sent > 5000 || received < 10_000 || received > 20_000 {
			t.Errorf("visit to %s = %s, %d connections, %d bytes sent, %d received; want one allowed, with its bytes", v.Host, v.Result, v.Connections, sent, received)
		}
	}
	if got := p.results[Allowed].Load(); got != 2 {
		t.Errorf("%d connections allowed, want 2", got)
	}
}

// S27: no name, spelling, port, address or later answer of a name server leads anywhere else
// than to the hosts that were asked for, nor these inside.
func TestS27_ProxyRefuses(t *testing.T) {
	t.Parallel()
	_, port, hits := target(t, nil)
	n := &names{hosts: map[string][]string{
		"good.example": {"127.0.0.1"}, "other.example": {"127.0.0.1"}, "inside.example": {"127.0.0.1"}, "six.example": {"::1"}, "mapped.example": {"::ffff:127.0.0.1"},
		"metadata.example": {"169.254.169.254"}, "a.wild.example": {"10.0.0.1"}, "wild.example": {"127.0.0.1"},
	}}
	hosts := []string{"good.example:" + port, "inside.example:" + port, "six.example:" + port, "mapped.example:" + port, "metadata.example:80", "*.wild.example:" + port}
	p := newProxy(t, n, hosts, []string{"good.example:" + port, "other.example:" + port, "127.0.0.1:" + port, "[::1]:" + port}, nil)
	const list, address, inside = "is not in the plan's policy.network", "is an IP address", "not one of the public internet"
	for place, want := range map[string]string{
		"other.example:" + port: list, "good.example:1": list, "good.example.evil.example:" + port: list, "wild.example:" + port: list, "a.wild.example:1": list,
		"*.wild.example:" + port: list, "xgood.example:" + port: list,
		"127.0.0.1:" + port: address, "[::1]:" + port: address, "[::ffff:127.0.0.1]:" + port: address, "169.254.169.254:80": address, "0.0.0.0:" + port: address,
		"2130706433:" + port: address, "0x7f000001:" + port: address, "127.1:" + port: address, "localhost:" + port: "localhost",
		"inside.example:" + port: inside, "six.example:" + port: inside, "mapped.example:" + port: inside, "metadata.example:80": inside, "a.wild.example:" + port: inside,
	} {
		_, status, said := p.connect(t, place)
		if status != http.StatusForbidden || !strings.Contains(said, want) {
			t.Errorf("CONNECT %s = %d %q, want 403 and %q", place, status, said, want)
		}
		if strings.HasPrefix(place, "*") || strings.HasPrefix(place, "[::ffff") {
			continue // no client sends it as an address
		}
		resp, err := p.client(t, nil).Get("http://" + place + "/")
		if err != nil {
			continue // such as for localhost, where a client needs no proxy
		}
		raw, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(raw), want) {
			t.Errorf("GET http://%s = %d %q, want 403 and %q", place, resp.StatusCode, raw, want)
		}
	}
	if hits.Load() != 0 {
		t.Errorf("the server inside was reached %d times, want none", hits.Load())
	}
	n.mu.Lock()
	for _, name := range []string{"other.example", "wild.example"} {
		if n.asked[name] != 0 {
			t.Errorf("%s was looked up %d times, want none: the step may not reach it", name, n.asked[name])
		}
	}
	n.mu.Unlock()
	if tunnel, _, said := p.connect(t, "good.example:"+port); tunnel == nil {
		t.Errorf("CONNECT good.example = %q, want a tunnel", said)
	}
	for _, v := range p.Close() {
		if v.Result != Refused && v.Host != "good.example:"+port {
			t.Errorf("visit to %s = %s, want it refused", v.Host, v.Result)
		}
	}
}

// S27: the address that is checked is the one that is connected to, also of a host that was
// asked for and granted: a name that leads outside at first and then inside is refused then.
func TestS27_ProxyRebinding(t *testing.T) {
	t.Parallel()
	const place = "rebind.example:80"
	p := newProxy(t, &names{hosts: map[string][]string{"rebind.example": {"93.184.216.34", "127.0.0.1"}}}, []string{place}, nil, nil)
	var dialed []string
	p.guard.checked.Control = func(network, address string, raw syscall.RawConn) error {
		if err := refuseInside(network, address, raw); err != nil {
			return err
		}
		dialed = append(dialed, address)
		return syscall.ENETUNREACH
	}
	if _, status, said := p.connect(t, place); status != http.StatusBadGateway || fmt.Sprint(dialed) != "[93.184.216.34:80]" {
		t.Errorf("first CONNECT = %d %q after %v, want a connection to the address outside", status, said, dialed)
	}
	if _, status, said := p.connect(t, place); status != http.StatusForbidden || len(dialed) != 1 {
		t.Errorf("second CONNECT = %d %q after %v, want 403 and no connection", status, said, dialed)
	}
}

// What is no request of a proxy is refused, and the host that a request names by its address
// is the one that it is for.
func TestProxyRequests(t *testing.T) {
	t.Parallel()
	var seen atomic.Value
	_, port, _ := target(t, func(_ http.ResponseWriter, r *http.Request) { seen.Store(r.Host) })
	place := "good.example:" + port
	p := newProxy(t, &names{hosts: map[string][]string{"good.example": {"127.0.0.1"}}}, []string{place}, []string{place}, nil)
	for request, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: " + place + "\r\n\r\n":                      400,
		"GET https://" + place + "/ HTTP/1.1\r\nHost: " + place + "\r\n\r\n": 400,
		"GET ftp://" + place + "/ HTTP/1.1\r\nHost: " + place + "\r\n\r\n":   400,
		"CONNECT / HTTP/1.1\r\nHost: " + place + "\r\n\r\n":                  403,
		"\x16\x03\x01\r\n\r\n": 400,
		"GET http://" + place + "/ HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 100_000) + "\r\n\r\n":   431,
		"GET http://" + place + "/ HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding: x, chunked\r\n\r\n": 501,
		"GET http://" + place + "/ HTTP/1.1\r\nHost: other.example\r\n\r\n":                                  200,
		"GET http://gone.example/ HTTP/1.1\r\nHost: " + place + "\r\n\r\n":                                   403,
	} {
		c := p.dialSocket(t)
		go func() { _, _ = io.WriteString(c, request) }() // the proxy may end it in its midst
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != want {
			t.Errorf("%.60q = %v, %v, want status %d", request, resp, err, want)
		}
	}
	if seen.Load() != place {
		t.Errorf("the host saw the name %v, want %s: its own", seen.Load(), place)
	}
}

// A host that cannot be reached is no refusal, and the step is not told its address.
func TestProxyUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	places := []string{"down.example:" + port, "nowhere.example:" + port}
	p := newProxy(t, &names{hosts: map[string][]string{"down.example": {"127.0.0.1"}}}, places, places, nil)
	for i, want := range []string{"connection refused", "its name could not be looked up"} {
		_, status, said := p.connect(t, places[i])
		if status != http.StatusBadGateway || !strings.Contains(said, want) || strings.Contains(said, "127.0.0.1") {
			t.Errorf("CONNECT %s = %d %q, want 502, %q and no address", places[i], status, said, want)
		}
	}
	for _, v := range p.Close() {
		if v.Result != Failed || v.Connections != 1 || v.Why == "" {
			t.Errorf("visit to %s = %s (%s), want it failed", v.Host, v.Result, v.Why)
		}
	}
}

// echo is a host that counts its open connections and sends back what comes.
type echo struct {
	port       string
	open, most atomic.Int64
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	e := &echo{}
	_, e.port, _ = net.SplitHostPort(l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			now := e.open.Add(1)
			for most := e.most.Load(); now > most && !e.most.CompareAndSwap(most, now); most = e.most.Load() {
			}
			go func() {
				defer e.open.Add(-1)
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return e
}

func (e *echo) proxy(t *testing.T, change func(*ProxyConfig)) (p *proxied, place string) {
	place = "good.example:" + e.port
	return newProxy(t, &names{hosts: map[string][]string{"good.example": {"127.0.0.1"}}}, []string{place}, []string{place}, change), place
}

// A flood of connections is served some at a time: the others wait.
func TestProxyBoundsConnections(t *testing.T) {
	t.Parallel()
	e := newEcho(t)
	p, place := e.proxy(t, nil)
	const flood = 3 * proxyClients
	done := make(chan error, flood)
	begun := make(chan net.Conn, flood)
	for range flood {
		c := p.dialSocket(t)
		go func() {
			fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\n\r\n", place)
			resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
			begun <- c
			done <- err
		}()
	}
	for range flood {
		c := <-begun
		if err := <-done; err != nil {
			t.Errorf("CONNECT in a flood = %v, want a tunnel in its turn", err)
		}
		_ = c.Close()
	}
	// The host learns of an end a little later than the proxy, which then serves the next.
	if most := e.most.Load(); most > 2*proxyClients {
		t.Errorf("the host had %d connections at once, want about %d at most", most, proxyClients)
	}
}

// A tunnel without a byte is ended, and sooner when one side has ended.
func TestProxyEndsIdleTunnels(t *testing.T) {
	t.Parallel()
	e := newEcho(t)
	p, place := e.proxy(t, func(cfg *ProxyConfig) { cfg.idle = 50 * time.Millisecond })
	// Both ends open, nothing sent.
	c, _, said := p.connect(t, place)
	if c == nil {
		t.Fatalf("CONNECT = %q, want a tunnel", said)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read() of an idle tunnel = %d, %v, want its end", n, err)
	}
	// One side ended, the other silent: a host that never answers.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	place = "good.example:" + port
	p = newProxy(t, &names{hosts: map[string][]string{"good.example": {"127.0.0.1"}}}, []string{place}, []string{place}, func(cfg *ProxyConfig) { cfg.linger = 50 * time.Millisecond })
	for _, ends := range []string{"client", "host"} {
		c, _, said := p.connect(t, place)
		if c == nil {
			t.Fatalf("CONNECT = %q, want a tunnel", said)
		}
		host, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		one, other := c.(half), host.(half)
		if ends == "host" {
			one, other = other, one
		}
		if err := one.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := other.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%s ends its side: Read() of the other = %d, %v, want the end passed on", ends, n, err)
		}
		if n, err := one.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s ends its side: Read() = %d, %v, want the end of the tunnel", ends, n, err)
		}
		_ = host.Close()
	}
}

// What a half-closed tunnel still brings is passed on.
func TestProxyHalfClosed(t *testing.T) {
	t.Parallel()
	e := newEcho(t)
	p, place := e.proxy(t, nil)
	c, _, said := p.connect(t, place)
	if c == nil {
		t.Fatalf("CONNECT = %q, want a tunnel", said)
	}
	sent := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(half).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, %v, want %d", len(got), err, len(sent))
	}
}

// Beyond its bytes a step has no connection any more.
func TestProxyBoundsBytes(t *testing.T) {
	t.Parallel()
	e := newEcho(t)
	p, place := e.proxy(t, func(cfg *ProxyConfig) { cfg.Bytes = 1 << 20 })
	idle, _, _ := p.connect(t, place)
	c, _, said := p.connect(t, place)
	if c == nil || idle == nil {
		t.Fatalf("CONNECT = %q, want tunnels", said)
	}
	go func() { _, _ = io.Copy(c, io.LimitReader(endless{}, 16<<20)) }()
	n, _ := io.Copy(io.Discard, c)
	if n > 1<<20 {
		t.Errorf("%d bytes came back, want less than what may be sent and received", n)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("another connection goes on beyond the limit, want its end")
	}
	if _, status, said := p.connect(t, place); status != http.StatusForbidden || !strings.Contains(said, "NOFX_SANDBOX_EGRESS_MIB") {
		t.Errorf("CONNECT beyond the limit = %d %q, want 403 and the setting", status, said)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// A step that asks for any number of names fills neither memory nor log.
func TestProxyBoundsVisits(t *testing.T) {
	t.Parallel()
	p := newProxy(t, nil, []string{"good.example:443"}, nil, nil)
	for i := range 3 * mostVisits {
		_, _ = p.dial(t.Context(), "tcp", fmt.Sprintf("h%d.example:443", i))
	}
	list, sum := p.Close(), 0
	for _, v := range list {
		sum += v.Connections
	}
	if len(list) != mostVisits+1 || sum != 3*mostVisits || list[0].Host != "" || list[0].Connections != 2*mostVisits {
		t.Errorf("Close() = %d visits with %d connections, the first %+v; want %d with %d, and one for the rest", len(list), sum, list[0], mostVisits+1, 3*mostVisits)
	}
}

// When Close returns, nothing of a proxy runs any more, whatever its clients and hosts were
// about. It is not parallel: it looks at all goroutines.
func TestProxyCloseLeavesNothing(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	_, slow, _ := target(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	e := newEcho(t)
	n := &names{hosts: map[string][]string{"good.example": {"127.0.0.1"}}}
	asked := make(chan struct{})
	ask := sync.OnceFunc(func() { close(asked) })
	places := []string{"good.example:" + e.port, "good.example:" + slow, "dark.example:443"}
	p := newProxy(t, n, places, places, func(cfg *ProxyConfig) {
		answering := cfg.Resolver.Dial
		cfg.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if ctx.Value(darkKey{}) != nil {
				ask()
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return answering(ctx, network, address)
		}}
	})
	open := []net.Conn{p.dialSocket(t)} // without a word
	for range 3 {
		c, _, said := p.connect(t, places[0])
		if c == nil {
			t.Fatalf("CONNECT = %q, want a tunnel", said)
		}
		open = append(open, c)
	}
	_ = open[1].(half).CloseWrite()
	reading := p.dialSocket(t)
	fmt.Fprintf(reading, "GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n", places[1])
	open = append(open, reading)
	dialed := make(chan error, 1)
	go func() {
		_, err := p.dial(context.WithValue(context.Background(), darkKey{}, true), "tcp", places[2])
		dialed <- err
	}()
	<-asked // a connection is being made
	p.Close()
	if err := <-dialed; err == nil {
		t.Error("dial() across Close = nil, want an error")
	}
	for i, c := range open {
		if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
			t.Errorf("connection %d goes on after Close, want its end", i)
		}
	}
	if _, err := net.Dial("unix", p.socket); err == nil {
		t.Error("the socket takes connections after Close, want none")
	}
	if _, err := p.dial(t.Context(), "tcp", places[0]); err == nil {
		t.Error("dial() after Close = nil, want an error")
	}
	end := time.Now().Add(wait)
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !bytes.Contains(stacks, []byte("egress.(*Proxy)")) && !bytes.Contains(stacks, []byte("egress.(*slots)")) && !bytes.Contains(stacks, []byte("http.(*persistConn)")) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines of the proxy run after Close:\n%s", stacks)
		}
		runtime.Gosched()
	}
	if n := e.open.Load(); n > 3 {
		t.Errorf("%d connections to the host, want those that were made", n)
	}
}

type darkKey struct{}
