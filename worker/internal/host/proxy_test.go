package host_test

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a worker and its database, and can take the network away.
type proxy struct {
	url string

	target   string
	listener net.Listener
	mu       sync.Mutex
	mode     func(net.Conn) // what becomes of a new connection; nil: it is passed on
	conns    map[net.Conn]struct{}
	swallows chan struct{} // closed while bytes pass
}

func newProxy(t *testing.T, address string) *proxy {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: u.Host, conns: map[net.Conn]struct{}{}, swallows: make(chan struct{})}
	close(p.swallows)
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	p.url = u.String()
	go p.accept()
	t.Cleanup(func() {
		p.listener.Close()
		p.heal()
		p.refuse()
	})
	return p
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		mode := p.mode
		p.mu.Unlock()
		if mode != nil {
			mode(c)
			continue
		}
		go p.pass(c)
	}
}

func (p *proxy) pass(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(gate{p, way[1]}, way[0])
			client.Close()
			server.Close()
		})
	}
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

// gate holds what is written back while the proxy swallows.
type gate struct {
	p *proxy
	net.Conn
}

func (g gate) Write(b []byte) (int, error) {
	g.p.mu.Lock()
	open := g.p.swallows
	g.p.mu.Unlock()
	<-open
	return g.Conn.Write(b)
}

// refuse ends all connections and every new one.
func (p *proxy) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = func(c net.Conn) { c.Close() }
	for c := range p.conns {
		c.Close()
	}
}

// swallow lets nothing through any more, without a word.
func (p *proxy) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallows = make(chan struct{})
	p.mode = func(c net.Conn) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.conns[c] = struct{}{}
	}
}

// heal has everything pass again; what was swallowed comes late or is over.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = nil
	select {
	case <-p.swallows:
	default:
		close(p.swallows)
	}
}
