package egress

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// Limits of a proxy, beside the bytes that its Config gives it.
const (
	proxyClients = 64               // connections of the step at once; others wait for one to end
	proxyHeader  = 64 << 10         // bytes of a request's header
	headerLimit  = 30 * time.Second // for a request's header to come
	idleLimit    = 5 * time.Minute  // without a byte in either direction
	lingerLimit  = 30 * time.Second // the same, once one side has ended
)

// ProxyConfig is what a proxy lets through.
type ProxyConfig struct {
	Config
	Hosts []string // as run.Host returns them
	Bytes int64    // sent and received together; 0: any number
	// Tried is called for each connection that is asked for, with its result; nil for none.
	Tried func(Result)
	// Passed is called with numbers of bytes that were sent or received; nil for none.
	Passed func(bytes int)

	idle, linger time.Duration // of tests; 0: idleLimit and lingerLimit
}

// Proxy is an HTTP proxy for one step: it connects to the hosts that it was given, and of
// these only to addresses that the clients of this package connect to. It takes CONNECT, and
// requests of absolute http addresses. Make it with [ServeProxy].
type Proxy struct {
	cfg     ProxyConfig
	guard   guard
	server  http.Server
	forward httputil.ReverseProxy
	served  chan struct{}   // closed when no client is accepted any more
	life    context.Context // until Close
	stop    context.CancelFunc
	visits  visits
	bytes   atomic.Int64
	over    atomic.Bool    // bytes has passed its limit
	busy    sync.WaitGroup // clients, and connections that are being made

	mu   sync.Mutex
	open map[net.Conn]bool // to clients and hosts
	shut bool
}

// ServeProxy serves those who connect to a listener of Unix sockets, until [Proxy.Close].
func ServeProxy(l *net.UnixListener, cfg ProxyConfig) *Proxy {
	cfg.idle, cfg.linger = cmp.Or(cfg.idle, idleLimit), cmp.Or(cfg.linger, lingerLimit)
	life, stop := context.WithCancel(context.Background())
	p := &Proxy{cfg: cfg, guard: newGuard(cfg.Config), served: make(chan struct{}), life: life, stop: stop, open: map[net.Conn]bool{}}
	t := transport(p.dial, nil)
	t.DisableCompression = true // what a host answers is passed on as it is
	p.forward = httputil.ReverseProxy{
		Transport: t, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), // it would show addresses
		Rewrite:      func(r *httputil.ProxyRequest) { r.Out.Host = r.In.URL.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { answerError(w, err) },
	}
	p.server = http.Server{
		Handler: p, ReadHeaderTimeout: headerLimit, IdleTimeout: cfg.idle, MaxHeaderBytes: proxyHeader, ErrorLog: p.forward.ErrorLog,
		BaseContext: func(net.Listener) context.Context { return life },
	}
	go func() {
		defer close(p.served)
		_ = p.server.Serve(&slots{UnixListener: l, proxy: p, taken: make(chan struct{}, proxyClients)})
	}()
	return p
}

// Close ends all connections, and returns what came of them when nothing of the proxy runs any
// more.
func (p *Proxy) Close() []*Visit {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	p.stop()
	_ = p.server.Close()
	<-p.served
	p.closeAll()
	p.busy.Wait()
	p.forward.Transport.(*http.Transport).CloseIdleConnections()
	return p.visits.list()
}

// begin has Close wait for something that calls busy.Done, and reports false when it must not
// begin any more.
func (p *Proxy) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.shut {
		p.busy.Add(1)
	}
	return !p.shut
}

// track has a connection closed by Close and at the limit of bytes; at once when Close came
// before.
func (p *Proxy) track(c net.Conn) {
	p.mu.Lock()
	p.open[c] = true
	late := p.shut
	p.mu.Unlock()
	if late {
		_ = c.Close()
	}
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *Proxy) closeAll() {
	p.mu.Lock()
	all := make([]net.Conn, 0, len(p.open))
	for c := range p.open {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// ServeHTTP answers a request of the step.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.tunnel(w, r)
	case r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "nofx: this is a proxy; it takes CONNECT, and requests of addresses http://…", http.StatusBadRequest)
	default:
		p.forward.ServeHTTP(w, r)
	}
}

// tunnel connects the client to the host that a CONNECT names.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	host, err := p.dial(r.Context(), "tcp", r.URL.Host)
	if err != nil {
		answerError(w, err)
		return
	}
	defer host.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	if client.SetDeadline(time.Time{}) == nil {
		if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err == nil {
			p.pipe(client, buffered.Reader, host)
		}
	}
}

// refusal is why a step does not reach a host.
type refusal struct {
	status int
	why    string
}

func (r refusal) Error() string { return r.why }

func answerError(w http.ResponseWriter, err error) {
	r, known := errors.AsType[refusal](err)
	if !known {
		r = refusal{http.StatusBadGateway, "the host ended the connection"}
	}
	http.Error(w, "nofx: "+r.why, r.status)
}

// dial connects to a host that the step may reach. The name is looked up only after that is
// known: a question to a server of names would tell its owner something, too. An error is a
// refusal.
func (p *Proxy) dial(ctx context.Context, _, place string) (net.Conn, error) {
	if !p.begin() {
		return nil, refusal{http.StatusBadGateway, "the step has ended"}
	}
	defer p.busy.Done()
	ctx, cancel := context.WithCancel(ctx) // a transport goes on connecting when its request has ended
	defer cancel()
	defer context.AfterFunc(p.life, cancel)()
	host, bad := run.Host(place)
	no := func(result Result, status int, why string) (net.Conn, error) {
		if bad != "" {
			host = ""
		}
		p.tried(host, result, why)
		return nil, refusal{status, why}
	}
	switch {
	case bad != "":
		return no(Refused, http.StatusForbidden, "what was asked for "+bad)
	case strings.HasPrefix(host, "*") || !slices.ContainsFunc(p.cfg.Hosts, func(wide string) bool { return run.CoversHost(wide, host) }):
		return no(Refused, http.StatusForbidden, host+" is not in the plan's policy.network")
	case p.over.Load():
		return no(Refused, http.StatusForbidden, "the step has sent and received as much as it may (NOFX_SANDBOX_EGRESS_MIB)")
	}
	conn, err := p.guard.dial(ctx, "tcp", host)
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind == fault.Forbidden {
		return no(Refused, http.StatusForbidden, host+": "+e.Detail)
	} else if err != nil {
		return no(Failed, http.StatusBadGateway, host+" could not be reached: "+unreached(err))
	}
	c := &counted{Conn: conn, proxy: p, visit: p.tried(host, Allowed, "")}
	if p.track(c); p.over.Load() {
		_ = c.Close()
	}
	return c, nil
}

// tried records a connection that was asked for.
func (p *Proxy) tried(host string, result Result, why string) *Visit {
	if p.cfg.Tried != nil {
		p.cfg.Tried(result)
	}
	return p.visits.add(host, result, why)
}

// spend counts bytes and ends all connections when there were too many.
func (p *Proxy) spend(n int) {
	if p.cfg.Passed != nil {
		p.cfg.Passed(n)
	}
	if p.cfg.Bytes > 0 && p.bytes.Add(int64(n)) > p.cfg.Bytes && !p.over.Swap(true) {
		p.closeAll()
	}
}

// unreached returns why a connection could not be made, without addresses.
func unreached(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return "there is no such name"
	} else if ok {
		return "its name could not be looked up"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return "it took too long"
	}
	return "the connection was given up"
}
