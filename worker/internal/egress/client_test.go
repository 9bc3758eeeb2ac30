package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"nofx.dev/shared/fault"
)

func TestS27_Addresses(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"1.1.1.1", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "169.253.1.1", "223.255.255.255",
		"2606:4700::1111", "2a00:1450::1", "2003::1"} {
		if !public(netip.MustParseAddr(a)) {
			t.Errorf("public(%s) = false, want true", a)
		}
	}
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "168.63.129.16",
		"169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
		"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
		"2002:7f00:1::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
	} {
		if public(netip.MustParseAddr(a)) {
			t.Errorf("public(%s) = true, want false", a)
		}
	}
	if public(netip.Addr{}) {
		t.Errorf("public(no address) = true, want false")
	}
}

func TestParseAllow(t *testing.T) {
	t.Parallel()
	allow, err := ParseAllow([]string{"Ledger.internal.:8080", " 127.0.0.1:9", "[0:0::1]:443"})
	if err != nil {
		t.Fatalf("ParseAllow() = %v, want nil", err)
	}
	for _, p := range []string{place("ledger.INTERNAL", "8080"), place("127.0.0.1", "9"), place("::1", "443")} {
		if !allow[p] {
			t.Errorf("ParseAllow() = %v, want %s in it", allow, p)
		}
	}
	for _, entry := range []string{"", "host", "host:", ":80", "host:0", "host:65536", "host:http", "::1:80", "http://host:80"} {
		if _, err := ParseAllow([]string{entry}); err == nil {
			t.Errorf("ParseAllow(%q) = nil, want an error", entry)
		}
	}
}

// names is a name server: each question for a name takes its next answer, and the
// last for ever after.
type names struct {
	mu    sync.Mutex
	hosts map[string][]string
	asked map[string]int
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go n.serve(server) // ends when the resolver closes its end
		return client, nil
	}}
}

// serve answers as name servers do over TCP: each message after its length.
func (n *names) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, raw); err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(raw); err != nil {
			return
		}
		m.Response = true
		m.Additionals = nil
		q := m.Questions[0]
		if a, ok := n.answer(strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")), q.Type); ok {
			header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
			if a.Is4() {
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: a.As4()}}}
			} else {
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}}
			}
		}
		out, err := m.AppendPack(make([]byte, 2))
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(out, uint16(len(out)-2))
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

func (n *names) answer(host string, kind dnsmessage.Type) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.hosts[host]
	if len(list) == 0 {
		return netip.Addr{}, false
	}
	a := netip.MustParseAddr(list[0])
	if a.Is4() != (kind == dnsmessage.TypeA) {
		return netip.Addr{}, false
	}
	n.asked[host]++
	if len(list) > 1 {
		n.hosts[host] = list[1:]
	}
	return a, true
}

// target returns a server on loopback that counts who reaches it.
func target(t *testing.T, handler http.HandlerFunc) (host, port string, hits *atomic.Int64) {
	t.Helper()
	hits = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		if handler != nil {
			handler(w, r)
		}
	}))
	t.Cleanup(s.Close)
	host, port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return host, port, hits
}

func client(t *testing.T, n *names, allow ...string) *http.Client {
	t.Helper()
	list, err := ParseAllow(allow)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Allow: list}
	if n != nil {
		n.asked = map[string]int{}
		cfg.Resolver = n.resolver()
	}
	c := NewClient(cfg)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func get(t *testing.T, c *http.Client, address string) (*http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	return resp, err
}

// However the inside is spelt, it is not reached.
func TestS27_Refused(t *testing.T) {
	t.Parallel()
	_, port, hits := target(t, nil)
	n := &names{hosts: map[string][]string{
		"inside.example": {"127.0.0.1"}, "mapped.example": {"::ffff:127.0.0.1"}, "six.example": {"::1"}, "nat64.example": {"64:ff9b::7f00:1"},
		"metadata.example": {"169.254.169.254"}, "private.example": {"10.0.0.1"}, "unique.example": {"fd00::1"}, "any.example": {"0.0.0.0"},
		"0x7f.1": {"127.0.0.1"}, // which some resolvers read as a number
	}}
	c := client(t, n, "inside.example:1", "elsewhere.example:"+port, "127.0.0.1:1")
	for _, host := range []string{
		"127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1%25lo]",
		"0x7f.1", "169.254.169.254", "inside.example", "INSIDE.example.", "mapped.example", "six.example", "nat64.example",
		"metadata.example", "private.example", "unique.example", "any.example", "localhost",
	} {
		resp, err := get(t, c, "http://"+host+":"+port+"/")
		if !errors.Is(err, fault.Forbidden) {
			t.Errorf("GET %s = %v, %v, want forbidden", host, resp, err)
		}
	}
	// Numbers are an address to some systems' resolvers and to others no name.
	for _, host := range []string{"2130706433", "0x7f000001", "0177.0.0.1", "127.1", "017700000001"} {
		for _, c := range []*http.Client{c, client(t, nil)} {
			if resp, err := get(t, c, "http://"+host+":"+port+"/"); err == nil {
				t.Errorf("GET %s = %d, want an error", host, resp.StatusCode)
			}
		}
	}
	if hits.Load() != 0 {
		t.Errorf("the server inside was reached %d times", hits.Load())
	}
}

// What the administrator allows is reached, by that host and port alone.
func TestS27_Allowed(t *testing.T) {
	t.Parallel()
	host, port, hits := target(t, nil)
	n := &names{hosts: map[string][]string{"ledger.example": {"127.0.0.1"}, "other.example": {"127.0.0.1"}}}
	c := client(t, n, "ledger.example:"+port)
	for _, name := range []string{"ledger.example", "Ledger.EXAMPLE"} {
		if resp, err := get(t, c, "http://"+name+":"+port); err != nil || resp.StatusCode != 200 {
			t.Errorf("GET %s = %v, want it allowed", name, err)
		}
	}
	reached := hits.Load()
	for _, other := range []string{"other.example:" + port, host + ":" + port, "ledger.example:1"} {
		if _, err := get(t, c, "http://"+other); !errors.Is(err, fault.Forbidden) {
			t.Errorf("GET %s = %v, want forbidden", other, err)
		}
	}
	if hits.Load() != reached {
		t.Errorf("hits = %d, want %d", hits.Load(), reached)
	}
}

// The address that is checked is the one that is connected to: a name that first
// leads outside and then inside passes once and is refused then.
func TestS27_Rebinding(t *testing.T) {
	t.Parallel()
	n := &names{hosts: map[string][]string{"rebind.example": {"93.184.216.34", "127.0.0.1"}}}
	c := client(t, n)
	wouldDial := errors.New("would connect")
	var dialed []string
	g := guard{checked: net.Dialer{Resolver: n.resolver(), Control: func(network, address string, raw syscall.RawConn) error {
		if err := refuseInside(network, address, raw); err != nil {
			return err
		}
		dialed = append(dialed, address)
		return wouldDial
	}}}
	c.Transport.(settled).DialContext = g.dial
	if _, err := get(t, c, "http://rebind.example:80/"); !errors.Is(err, wouldDial) || len(dialed) != 1 || dialed[0] != "93.184.216.34:80" {
		t.Errorf("first GET = %v after %v, want a connection to the address outside", err, dialed)
	}
	if _, err := get(t, c, "http://rebind.example:80/"); !errors.Is(err, fault.Forbidden) || len(dialed) != 1 {
		t.Errorf("second GET = %v after %v, want forbidden", err, dialed)
	}
	if n.asked["rebind.example"] != 2 {
		t.Errorf("the name was looked up %d times, want once for each connection", n.asked["rebind.example"])
	}
}

// A redirect is followed within its scheme, host and port, with every header of the
// request and none besides, and never by a GET in place of an effect.
func TestS27_Redirects(t *testing.T) {
	t.Parallel()
	otherHost, otherPort, stolen := target(t, nil)
	type request struct {
		method, body string
		header       http.Header
	}
	var seen []request
	var host, port string
	host, port, _ = target(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, request{r.Method, string(body), r.Header})
		status, name, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
		to, ok := map[string]string{
			"same": "/end", "absolute": "http://" + host + ":" + port + "/end", "case": "HTTP://" + host + ":" + port + "/end", "loop": r.URL.Path,
			"port": "http://" + otherHost + ":" + otherPort + "/?token=secret", "name": "http://ledger.example:" + port + "/",
			"user": "http://me:secret@" + host + ":" + port + "/end", "file": "file:///etc/passwd", "scheme": "https://" + host + ":" + port + "/end",
			"metadata": "http://169.254.169.254/", "relative": "//" + otherHost + ":" + otherPort + "/", "nowhere": "",
		}[name]
		if !ok {
			return
		}
		if to != "" {
			w.Header().Set("Location", to)
		}
		code, _ := strconv.Atoi(status)
		w.WriteHeader(code)
	})
	// All are allowed, and still a redirect does not lead from one to the other.
	c := client(t, &names{hosts: map[string][]string{"ledger.example": {"127.0.0.1"}}}, host+":"+port, otherHost+":"+otherPort, "ledger.example:"+port)
	const other = "scheme, host and port must stay the same"
	for _, tt := range []struct {
		method, path string
		then         string // by which method it is followed; else why not
		why          string
	}{
		{"GET", "/301/same", "GET", ""}, {"GET", "/302/absolute", "GET", ""}, {"GET", "/303/case", "GET", ""}, {"GET", "/307/same", "GET", ""}, {"HEAD", "/308/same", "HEAD", ""},
		{"HEAD", "/302/same", "HEAD", ""}, {"POST", "/303/same", "GET", ""}, {"DELETE", "/303/same", "GET", ""},
		{"POST", "/307/same", "POST", ""}, {"PUT", "/308/absolute", "PUT", ""}, {"PATCH", "/307/case", "PATCH", ""},
		{"POST", "/301/same", "", "after POST only 303, 307 and 308 are"}, {"PUT", "/302/same", "", "after PUT only"}, {"DELETE", "/301/port", "", "after DELETE only"},
		{"POST", "/307/loop", "", "no more than 5"}, {"GET", "/302/loop", "", "no more than 5"}, {"GET", "/301/nowhere", "", "where to"}, {"POST", "/307/nowhere", "", "where to"},
		{"POST", "/307/port", "", other + ", and it leads to http://" + otherHost + ":" + otherPort}, {"GET", "/301/port", "", other}, {"GET", "/302/name", "", other},
		{"GET", "/302/scheme", "", other}, {"POST", "/308/metadata", "", other}, {"GET", "/302/relative", "", other}, {"GET", "/302/file", "", other}, {"GET", "/302/user", "", "user or password"},
	} {
		what := tt.method + " " + tt.path
		seen = nil
		var content io.Reader
		if tt.method != "GET" && tt.method != "HEAD" {
			content = strings.NewReader("body")
		}
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+host+":"+port+tt.path+"?token=secret", content)
		if err != nil {
			t.Fatal(err)
		}
		sent := []string{"Authorization", "Cookie", "X-Api-Version", "Idempotency-Key", "Accept"}
		for _, name := range sent {
			req.Header.Set(name, "value of "+name)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Errorf("%s = %v, want an answer", what, err)
			continue
		}
		resp.Body.Close()
		why := Unfollowed(resp)
		if tt.why != "" {
			if resp.StatusCode/100 != 3 || !strings.Contains(why, tt.why) || strings.Contains(why, "secret") {
				t.Errorf("%s = %d, not followed as %q, want the redirect and %q", what, resp.StatusCode, why, tt.why)
			}
		} else if last := seen[len(seen)-1]; resp.StatusCode != 200 || why != "" || len(Followed(resp)) != 1 || last.method != tt.then || (last.body != "") != (tt.then != "GET" && tt.then != "HEAD") {
			t.Errorf("%s = %d after %d redirects, last %s with body %q, %q, want 200 after one by %s", what, resp.StatusCode, len(Followed(resp)), last.method, last.body, why, tt.then)
		}
		for _, r := range seen {
			for _, name := range sent {
				if got := r.header.Get(name); got != "value of "+name {
					t.Errorf("%s sent %s %q, want it with each request", what, name, got)
				}
			}
			if r.header.Get("Referer") != "" {
				t.Errorf("%s sent Referer %q, want none", what, r.header.Get("Referer"))
			}
		}
	}
	if stolen.Load() != 0 {
		t.Errorf("another host was reached %d times", stolen.Load())
	}
}

func TestSameOrigin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{"http://a.example/", "http://a.example:80/x", true},
		{"https://a.example:443/", "https://a.example/x", true},
		{"http://a.example/", "http://A.EXAMPLE./x", true},
		{"http://a.example/", "https://a.example/x", false},
		{"https://a.example/", "http://a.example/x", false},
		{"https://a.example/", "https://a.example:8443/", false},
		{"http://a.example:8080/", "https://a.example/", false},
		{"http://a.example/", "http://b.a.example/", false},
		{"http://a.example/", "ftp://a.example/", false},
	} {
		from, _ := url.Parse(tt.from)
		to, _ := url.Parse(tt.to)
		if got := sameOrigin(from, to); got != tt.want {
			t.Errorf("sameOrigin(%s, %s) = %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

// Not parallel: the environment is the whole process's.
func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	proxyHost, proxyPort, proxied := target(t, nil)
	host, port, hits := target(t, nil)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://"+proxyHost+":"+proxyPort)
	}
	c := client(t, &names{hosts: map[string][]string{"ledger.example": {host}}}, "ledger.example:"+port)
	if _, err := get(t, c, "http://ledger.example:"+port+"/"); err != nil || hits.Load() != 1 || proxied.Load() != 0 {
		t.Errorf("GET = %v with %d requests by a proxy, want it straight", err, proxied.Load())
	}
}

// TLS is not only spoken but checked.
func TestS29_UnknownAuthority(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	c := client(t, nil, s.Listener.Addr().String())
	if _, err := get(t, c, s.URL); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("GET of a server nobody vouches for = %v, want its certificate refused", err)
	}
}
