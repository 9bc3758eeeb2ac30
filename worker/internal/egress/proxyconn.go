package egress

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// slots is a listener that accepts so many clients at once. Others wait in the kernel's queue.
type slots struct {
	*net.UnixListener
	proxy *Proxy
	taken chan struct{}
}

// Accept waits for a slot and then for a client.
func (s *slots) Accept() (net.Conn, error) {
	select {
	case s.taken <- struct{}{}:
	case <-s.proxy.life.Done():
		return nil, net.ErrClosed
	}
	conn, err := s.AcceptUnix()
	if err == nil && !s.proxy.begin() {
		_ = conn.Close()
		err = net.ErrClosed
	}
	if err != nil {
		<-s.taken
		return nil, err
	}
	c := &slot{UnixConn: conn}
	c.end = sync.OnceFunc(func() {
		s.proxy.forget(c)
		<-s.taken
		s.proxy.busy.Done()
	})
	s.proxy.track(c)
	return c, nil
}

// slot is a connection of the step.
type slot struct {
	*net.UnixConn
	end func()
}

// Close closes c and gives its slot back.
func (c *slot) Close() error {
	err := c.UnixConn.Close()
	c.end()
	return err
}

// counted is a connection to a host.
type counted struct {
	net.Conn // with none of the methods that copy without Read and Write
	proxy    *Proxy
	visit    *Visit
}

// Read reads and counts.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.visit.received.Add(int64(n))
	c.proxy.spend(n)
	return n, err
}

// Write writes and counts.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.visit.sent.Add(int64(n))
	c.proxy.spend(n)
	return n, err
}

// Close closes c.
func (c *counted) Close() error {
	c.proxy.forget(c)
	return c.Conn.Close()
}

// CloseWrite ends the direction to the host, and returns the error of that.
func (c *counted) CloseWrite() error {
	if h, ok := c.Conn.(half); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

// half is a connection of which one direction can be ended.
type half interface {
	net.Conn
	CloseWrite() error
}

// pipe passes bytes between a client and a host on, until both directions have ended or no
// byte came for too long. What the client sent is read from from, which may have buffered some
// of it; both connections are closed by the caller, or by pipe after too long.
func (p *Proxy) pipe(to net.Conn, from io.Reader, host net.Conn) {
	var limit atomic.Int64
	limit.Store(int64(p.cfg.idle))
	idle := time.AfterFunc(p.cfg.idle, func() {
		_ = to.Close()
		_ = host.Close()
	})
	defer idle.Stop()
	alive := func() { idle.Reset(time.Duration(limit.Load())) }
	pass := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(struct{ io.Writer }{to}, watched{from, alive})
		if h, ok := to.(half); ok {
			_ = h.CloseWrite()
		}
		limit.Store(int64(p.cfg.linger))
		alive()
	}
	var wg sync.WaitGroup
	wg.Go(func() { pass(host, from) })
	pass(to, host)
	wg.Wait()
}

// watched is a reader that says when something came.
type watched struct {
	io.Reader
	alive func()
}

func (w watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	w.alive()
	return n, err
}
