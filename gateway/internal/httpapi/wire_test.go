package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// spoken sends bytes, and returns all that comes back until the gateway closes.
func spoken(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "" // closed before all was read
	}
	said, _ := io.ReadAll(conn) // a reset ends it, too
	return string(said)
}

// TestS11_Smuggling sends requests whose end two servers could see at different places. None
// may be answered but by an error, or the request hidden in it be answered at all.
func TestS11_Smuggling(t *testing.T) {
	g := newGateway(t)
	address := g.http.Listener.Addr().String()
	hidden := "GET /api/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + g.key + "\r\nConnection: close\r\n\r\n"
	post := func(headers, body string) string {
		return "POST /api/runs/preview HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + headers + "\r\n" + body
	}
	chunked := "0\r\n\r\n" + hidden
	for name, request := range map[string]string{
		"two lengths":                 post("Content-Length: 0\r\nContent-Length: "+fmt.Sprint(len(hidden))+"\r\n", hidden),
		"a list of lengths":           post("Content-Length: 0, "+fmt.Sprint(len(hidden))+"\r\n", hidden),
		"a length with a sign":        post("Content-Length: +0\r\n", hidden),
		"a negative length":           post("Content-Length: -1\r\n", hidden),
		"a length in hexadecimal":     post("Content-Length: 0x0\r\n", hidden),
		"a length with a space":       post("Content-Length : 0\r\n", hidden),
		"an unknown coding":           post("Transfer-Encoding: xchunked\r\n", chunked),
		"two codings":                 post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked),
		"a list of codings":           post("Transfer-Encoding: chunked, identity\r\n", chunked),
		"a coding after a tab":        post("Transfer-Encoding:\x0bchunked\r\n", chunked),
		"a coding with a space":       post("Transfer-Encoding : chunked\r\n", chunked),
		"a folded header":             post("X: y\r\n Content-Length: 0\r\n\tz: 1\r\nTransfer-Encoding: chunked\r\n Transfer-Encoding: identity\r\n", chunked),
		"a chunk size with a sign":    post("Transfer-Encoding: chunked\r\n", "-1\r\n"+hidden),
		"a chunk size with a prefix":  post("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n"+hidden),
		"a huge chunk":                post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"+hidden),
		"a carriage return in a name": post("X\rContent-Length: 0\r\n", hidden),
		"a NUL in a value":            post("X: a\x00b\r\nContent-Length: 0\r\n", hidden),
		"no host":                     "POST /api/runs/preview HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + hidden,
		"two hosts":                   post("Host: y\r\nContent-Length: 0\r\n", hidden),
		"another version":             "POST /api/runs/preview HTTP/3.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + hidden,
		"a space in the path":         "GET /api/runs /x HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
	} {
		said := spoken(t, address, request)
		if strings.Contains(said, `"principal"`) || strings.HasPrefix(said, "HTTP/1.1 2") {
			t.Errorf("%s = %.400q, want an error and nothing more", name, said)
		}
	}
	// The control: what is hidden would be answered.
	if said := spoken(t, address, hidden); !strings.Contains(said, `"principal"`) {
		t.Errorf("the request that is hidden, alone = %.200q, want it answered", said)
	}
}

// TestS14_SlowClients checks that a client which never ends its headers or body is let go,
// while others are answered.
func TestS14_SlowClients(t *testing.T) {
	g := newGateway(t)
	srv := g.server.HTTP()
	if srv.ReadHeaderTimeout != 5*time.Second || srv.ReadTimeout != 30*time.Second || srv.IdleTimeout != 120*time.Second || srv.WriteTimeout > 60*time.Second || srv.MaxHeaderBytes > 24<<10 {
		t.Errorf("timeouts = header %s, body %s, idle %s, answer %s, headers of %d bytes; want 5 s, 30 s, 120 s, at most a minute and 24 KiB",
			srv.ReadHeaderTimeout, srv.ReadTimeout, srv.IdleTimeout, srv.WriteTimeout, srv.MaxHeaderBytes)
	}
	quick := httptest.NewUnstartedServer(nil)
	quick.Config = g.server.HTTP()
	quick.Config.ReadHeaderTimeout, quick.Config.ReadTimeout = 200*time.Millisecond, 400*time.Millisecond
	quick.Start()
	defer quick.Close()
	address := quick.Listener.Addr().String()
	authorized := "Host: x\r\nAuthorization: Bearer " + g.key + "\r\n"
	for name, request := range map[string]string{
		"half a request line": "GET /api/wh", "headers without an end": "GET /api/whoami HTTP/1.1\r\n" + authorized + "X-Slow: ",
		"half a body":             "POST /api/runs/preview HTTP/1.1\r\n" + authorized + "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"plan\":",
		"chunks without an end":   "POST /api/runs/preview HTTP/1.1\r\n" + authorized + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pla",
		"a body that never comes": "POST /api/webhooks/github HTTP/1.1\r\n" + authorized + "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n",
	} {
		// spoken returns once the gateway has closed.
		if said := spoken(t, address, request); strings.HasPrefix(said, "HTTP/1.1 2") {
			t.Errorf("%s = %.200q, want no success", name, said)
		}
	}
	g.want(g.get("/api/whoami"), http.StatusOK, "")
}
