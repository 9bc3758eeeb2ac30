package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Proxy is a TCP proxy on loopback. A test puts it before a server so that the
// network between the two fails as the test says: see [Proxy.Refuse],
// [Proxy.Silence], [Proxy.SilenceMarked], [Proxy.Strand] and [Proxy.Delay]. Its
// methods may be called from any goroutine.
type Proxy struct {
	// Addr is where the proxy listens. It stays the same.
	Addr   string
	target string
	wg     sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil: connections are refused
	links    map[*link]struct{}
	silent   bool
	mark     []byte // a link on which a client sent this is marked; nil: none
	marked   bool   // marked links are silent
	delay    time.Duration
	changed  chan struct{} // closed and replaced when silence may have ended
	closed   bool
}

// link is one connection to the target. Its flags are guarded by the proxy's mutex.
type link struct {
	client, server net.Conn
	done           chan struct{}
	once           sync.Once
	stranded       bool // silent until it is closed
	marked         bool // the client sent the text of Mark
}

// NewProxy starts a proxy before target, a host and a port.
func NewProxy(target string) (*Proxy, error) {
	addr, _, err := freeAddresses()
	if err != nil {
		return nil, err
	}
	p := &Proxy{Addr: addr, target: target, links: map[*link]struct{}{}, changed: make(chan struct{})}
	return p, p.Pass()
}

// Pass ends every fault but that of stranded connections. What was held back
// during a silence is delivered.
func (p *Proxy) Pass() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent, p.marked, p.delay = false, false, 0
	p.tell()
	if p.listener != nil || p.closed {
		return nil
	}
	l, err := net.Listen("tcp", p.Addr)
	if err != nil {
		return fmt.Errorf("proxy before %s: %w", p.target, err)
	}
	p.listener = l
	p.wg.Go(func() { p.accept(l) })
	return nil
}

// Refuse resets every connection and refuses new ones.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse()
}

func (p *Proxy) refuse() {
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for l := range p.links {
		l.close()
	}
}

// Silence passes nothing on, in either direction. Connections stay open, and new
// ones are accepted.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
}

// Mark marks the connections on which a client sends text from now on. A client
// that prepares its statements sends their text once only, so a test marks before
// the client connects.
func (p *Proxy) Mark(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark = []byte(text)
}

// SilenceMarked silences the marked connections, and those that will be.
func (p *Proxy) SilenceMarked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marked = true
}

// Strand silences the connections that are open now until they are closed; new
// ones pass. So a failover looks from outside: the server that answers is another.
func (p *Proxy) Strand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.stranded = true
	}
}

// Delay holds back each piece of data for d, in both directions.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Close ends the proxy and its connections and waits for its goroutines.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.refuse()
	p.mu.Unlock()
	p.wg.Wait()
}

// tell wakes the links that wait for the end of a silence; p.mu is held.
func (p *Proxy) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	server, err := net.DialTimeout("tcp", p.target, 10*time.Second)
	if err != nil {
		client.Close()
		return
	}
	l := &link{client: client, server: server, done: make(chan struct{})}
	p.mu.Lock()
	p.links[l] = struct{}{}
	if p.listener == nil { // refused meanwhile
		l.close()
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(l, client, server) })
	wg.Go(func() { p.pump(l, server, client) })
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// close resets both connections.
func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		for _, c := range []net.Conn{l.client, l.server} {
			if tcp, ok := c.(*net.TCPConn); ok {
				tcp.SetLinger(0) //nolint:errcheck // then it is closed in good order
			}
			c.Close()
		}
	})
}

// pump passes on what from sends. The end of either direction ends the link.
func (p *Proxy) pump(l *link, from, to net.Conn) {
	defer l.close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.gate(l, from == l.client, buf[:n]) != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

var errLinkClosed = errors.New("the link is closed")

// gate returns when data may be passed on.
func (p *Proxy) gate(l *link, sent bool, data []byte) error {
	for {
		p.mu.Lock()
		if sent && p.mark != nil && bytes.Contains(data, p.mark) {
			l.marked = true
		}
		silent := p.silent || l.stranded || l.marked && p.marked
		delay, changed := p.delay, p.changed
		p.mu.Unlock()
		switch {
		case silent:
			select {
			case <-changed:
				continue
			case <-l.done:
				return errLinkClosed
			}
		case delay > 0:
			t := time.NewTimer(delay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-l.done:
				return errLinkClosed
			}
		}
		return nil
	}
}
