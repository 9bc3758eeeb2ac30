package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
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

// answers sends bytes, and returns the statuses of all that comes back until the gateway
// closes.
func answers(t *testing.T, address, request string) (statuses []int) {
	t.Helper()
	said := bufio.NewReader(strings.NewReader(spoken(t, address, request)))
	for {
		resp, err := http.ReadResponse(said, nil)
		if err != nil {
			return statuses
		}
		statuses = append(statuses, resp.StatusCode)
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

// TestS11_Smuggling sends requests whose end two servers could see at different places. Each
// is answered by an error, and the request hidden in it never: the connection is closed
// before, or, behind another name of the coding, it is the body for all.
func TestS11_Smuggling(t *testing.T) {
	g := newGateway(t)
	address := g.http.Listener.Addr().String()
	hidden := "GET /api/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + g.key + "\r\nConnection: close\r\n\r\n"
	post := func(headers, body string) string {
		return "POST /api/runs/preview HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + g.key + "\r\nContent-Type: application/json\r\n" + headers + "\r\n" + body
	}
	length := func(s string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(s)) }
	const chunks = "Transfer-Encoding: chunked\r\n"
	chunked := "0\r\n\r\n" + hidden                                     // behind the last chunk
	inside := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden) // in a chunk
	sizeLine := length(inside[:strings.Index(inside, "\n")+1])
	last := "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for name, tc := range map[string]struct {
		request string
		want    []int
	}{
		"two lengths":                 {post("Content-Length: 0\r\n"+length(hidden), hidden), []int{400}},
		"a list of lengths":           {post("Content-Length: 0, "+fmt.Sprint(len(hidden))+"\r\n", hidden), []int{400}},
		"a length with a sign":        {post("Content-Length: +0\r\n", hidden), []int{400}},
		"a negative length":           {post("Content-Length: -1\r\n", hidden), []int{400}},
		"a length in hexadecimal":     {post("Content-Length: 0x0\r\n", hidden), []int{400}},
		"a length with a space":       {post("Content-Length : 0\r\n", hidden), []int{400}},
		"a length, then chunks":       {post(length(chunked)+chunks, chunked), []int{400}},
		"chunks, then a length":       {post(chunks+length(chunked), chunked), []int{400}},
		"no length, then chunks":      {post("Content-Length: 0\r\n"+chunks, chunked), []int{400}},
		"the length of a chunk size":  {post(sizeLine+chunks, inside), []int{400}},
		"chunks over the length":      {post(chunks+sizeLine, inside), []int{400}},
		"chunks alone":                {post(chunks, chunked), []int{400}},
		"two lengths and chunks":      {post("Content-Length: 0\r\n"+length(chunked)+chunks, chunked), []int{400}},
		"a wrong length and chunks":   {post("Content-Length: x\r\n"+chunks, chunked), []int{400}},
		"chunks in capitals":          {post(length(chunked)+"TRANSFER-ENCODING: CHUNKED\r\n", chunked), []int{400}},
		"chunks after a tab":          {post(length(chunked)+"Transfer-Encoding:\tchunked\r\n", chunked), []int{400}},
		"chunks before a tab":         {post(length(chunked)+"Transfer-Encoding: chunked\t\r\n", chunked), []int{400}},
		"an unknown coding":           {post("Transfer-Encoding: xchunked\r\n", chunked), []int{501}},
		"a length, an unknown coding": {post(length(chunked)+"Transfer-Encoding: xchunked\r\n", chunked), []int{501}},
		"an empty coding":             {post(length(chunked)+"Transfer-Encoding:\r\n", chunked), []int{501}},
		"identity":                    {post(length(chunked)+"Transfer-Encoding: identity\r\n", chunked), []int{501}},
		"a quoted coding":             {post(length(chunked)+"Transfer-Encoding: \"chunked\"\r\n", chunked), []int{501}},
		"a coding with a parameter":   {post(length(chunked)+"Transfer-Encoding: chunked;q=1\r\n", chunked), []int{501}},
		"chunks twice":                {post(length(chunked)+chunks+chunks, chunked), []int{501}},
		"two codings":                 {post(chunks+"Transfer-Encoding: identity\r\n", chunked), []int{501}},
		"two codings, a length":       {post(length(chunked)+"Transfer-Encoding: identity\r\n"+chunks, chunked), []int{501}},
		"a list of codings":           {post("Transfer-Encoding: chunked, identity\r\n", chunked), []int{501}},
		"a list that ends in chunks":  {post(length(chunked)+"Transfer-Encoding: gzip, chunked\r\n", chunked), []int{501}},
		"a vertical tab":              {post("Transfer-Encoding:\x0bchunked\r\n", chunked), []int{400}},
		"a coding with a space":       {post("Transfer-Encoding : chunked\r\n", chunked), []int{400}},
		"a coding with a tab":         {post(length(chunked)+"Transfer-Encoding\t: chunked\r\n", chunked), []int{400}},
		"a space before the coding":   {post(length(chunked)+" Transfer-Encoding: chunked\r\n", chunked), []int{400}},
		"a coding behind a newline":   {post(length(chunked)+"X: y\nTransfer-Encoding: chunked\r\n", chunked), []int{400}},
		"a coding behind a return":    {post(length(chunked)+"X: y\rTransfer-Encoding: chunked\r\n", chunked), []int{400}},
		"a NUL in the coding":         {post(length(chunked)+"Transfer-Encoding: chunked\x00\r\n", chunked), []int{400}},
		"a folded coding":             {post(length(chunked)+"Transfer-Encoding:\r\n chunked\r\n", chunked), []int{400}},
		"another name of the coding":  {post(length(chunked)+"Transfer_Encoding: chunked\r\n", chunked) + last, []int{400, 200}},
		"chunks of HTTP/1.0":          {strings.Replace(post("Connection: keep-alive\r\nContent-Length: 0\r\n"+chunks, chunked), "HTTP/1.1", "HTTP/1.0", 1), []int{400, 400}},
		"a folded header":             {post("X: y\r\n Content-Length: 0\r\n\tz: 1\r\n"+chunks+" Transfer-Encoding: identity\r\n", chunked), []int{501}},
		"a chunk size with a sign":    {post(chunks, "-1\r\n"+hidden), []int{400}},
		"a chunk size with a prefix":  {post(chunks, "0x0\r\n\r\n"+hidden), []int{400}},
		"a chunk size and a newline":  {post(chunks, "0\n\n"+hidden), []int{400}},
		"a huge chunk":                {post(chunks, "fffffffffffffffff\r\n"+hidden), []int{400}},
		"a length in a trailer":       {post("Trailer: Content-Length\r\n"+chunks, "0\r\n"+length(hidden)+"\r\n"+hidden), []int{400}},
		"a carriage return in a name": {post("X\rContent-Length: 0\r\n", hidden), []int{400}},
		"a NUL in a value":            {post("X: a\x00b\r\nContent-Length: 0\r\n", hidden), []int{400}},
		"no host":                     {"POST /api/runs/preview HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + hidden, []int{400}},
		"two hosts":                   {post("Host: y\r\nContent-Length: 0\r\n", hidden), []int{400}},
		"another version":             {"POST /api/runs/preview HTTP/3.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + hidden, []int{505}},
		"a space in the path":         {"GET /api/runs /x HTTP/1.1\r\nHost: x\r\n\r\n" + hidden, []int{400}},
		// The control: behind a request with an end that all see, it is answered.
		"nothing odd": {post("Content-Length: 2\r\n", "{}") + hidden, []int{422, 200}},
	} {
		if got := answers(t, address, tc.request); !slices.Equal(got, tc.want) {
			t.Errorf("%s = %d, want %d", name, got, tc.want)
		}
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
