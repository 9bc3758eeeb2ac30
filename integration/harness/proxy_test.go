package harness

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// proxied returns a proxy before a server that echoes.
func proxied(t *testing.T) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c) //nolint:errcheck // until the other side ends
			}()
		}
	}()
	p, err := NewProxy(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dialed(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echo sends text and reads it back within d.
func echo(c net.Conn, text string, d time.Duration) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	return hear(c, text, d)
}

func hear(c net.Conn, text string, d time.Duration) error {
	c.SetReadDeadline(time.Now().Add(d)) //nolint:errcheck // of an open connection
	_, err := io.ReadFull(c, make([]byte, len(text)))
	return err
}

const (
	answered = 20 * time.Second       // how long an answer may take on a busy machine
	unheard  = 100 * time.Millisecond // how long nothing may come
)

func TestProxySilence(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	c := dialed(t, p)
	if err := echo(c, "one", answered); err != nil {
		t.Fatalf("echo through the proxy = %v, want nil", err)
	}
	p.Silence()
	late := dialed(t, p)
	for name, c := range map[string]net.Conn{"open": c, "new": late} {
		if err := echo(c, "two", unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("echo on a silent %s connection = %v, want a timeout", name, err)
		}
	}
	if err := p.Pass(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]net.Conn{"open": c, "new": late} {
		if err := hear(c, "two", answered); err != nil {
			t.Errorf("%s connection after the silence = %v, want what was held back", name, err)
		}
	}
}

func TestProxyRefuse(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	c := dialed(t, p)
	if err := echo(c, "one", answered); err != nil {
		t.Fatal(err)
	}
	p.Refuse()
	if err := hear(c, "x", answered); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read of a connection while the proxy refuses = %v, want reset", err)
	}
	if _, err := net.Dial("tcp", p.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial() while the proxy refuses = %v, want refused", err)
	}
	if err := p.Pass(); err != nil {
		t.Fatal(err)
	}
	if err := echo(dialed(t, p), "two", answered); err != nil {
		t.Errorf("echo after the refusal = %v, want nil", err)
	}
}

func TestProxyStrand(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	old := dialed(t, p)
	if err := echo(old, "one", answered); err != nil {
		t.Fatal(err)
	}
	p.Strand()
	if err := echo(dialed(t, p), "two", answered); err != nil {
		t.Errorf("echo on a connection made after Strand() = %v, want nil", err)
	}
	if err := p.Pass(); err != nil {
		t.Fatal(err)
	}
	if err := echo(old, "two", unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("echo on a stranded connection = %v, want a timeout", err)
	}
}

func TestProxySilenceMarked(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	p.Mark("beat")
	beats, works := dialed(t, p), dialed(t, p)
	if err := echo(beats, "a beat", answered); err != nil {
		t.Errorf("echo of the text before the silence = %v, want nil", err)
	}
	p.SilenceMarked()
	late := dialed(t, p)
	if err := echo(works, "work", answered); err != nil {
		t.Errorf("echo of other text = %v, want nil", err)
	}
	for c, text := range map[net.Conn]string{beats: "work", late: "beat"} {
		if err := echo(c, text, unheard); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("echo of %q on a connection that sends the text = %v, want a timeout", text, err)
		}
	}
	if err := p.Pass(); err != nil {
		t.Fatal(err)
	}
	if err := hear(beats, "work", answered); err != nil {
		t.Errorf("connection after the silence = %v, want what was held back", err)
	}
}

func TestProxyDelay(t *testing.T) {
	t.Parallel()
	p := proxied(t)
	c := dialed(t, p)
	p.Delay(50 * time.Millisecond)
	began := time.Now()
	if err := echo(c, "one", answered); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("echo with 50ms each way took %v, want at least 100ms", took)
	}
}
