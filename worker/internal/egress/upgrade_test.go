package egress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/fault"
)

// A host that answers with another protocol and then says nothing holds nobody up: Go hands
// such a connection over, and no context ends a read of it any more.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			closed <- err
			return
		}
		defer conn.Close()
		from := bufio.NewReader(conn)
		if _, err := http.ReadRequest(from); err != nil {
			closed <- err
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: silence\r\n\r\n"); err != nil {
			closed <- err
			return
		}
		_, err = io.Copy(io.Discard, from) // until the client closes it
		closed <- err
	}()
	c := client(t, nil, l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.Addr().String(), strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		resp.Body.Close()
		t.Errorf("Do() = %s, want an error, since a read of the body ends for no context", resp.Status)
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fault.Forbidden) {
		t.Errorf("Do() = %v, want that the host changed to another protocol", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("the connection ended with %v, want it closed", err)
	}
}
