package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"nofx.dev/shared/fault"
)

// Limits of a request, beside the time that its context gives it.
const (
	connectLimit   = 10 * time.Second // for each address, and for TLS
	maxHeaderBytes = 256 << 10        // of an answer
	maxRedirects   = 5
)

// Config is what a client may do beyond the public internet.
type Config struct {
	Allow    Allow
	Resolver *net.Resolver // nil: the system's
}

// Allow is the places inside that may be reached: hosts, each with its port. A
// host is a name or an address as it stands in a URL; where a name leads is then
// the administrator's business.
type Allow map[string]bool

// ParseAllow reads entries host:port.
func ParseAllow(entries []string) (Allow, error) {
	allow := Allow{}
	for _, entry := range entries {
		host, port, err := net.SplitHostPort(strings.TrimSpace(entry))
		if n, e := strconv.ParseUint(port, 10, 16); err != nil || host == "" || e != nil || n == 0 {
			return nil, fmt.Errorf("%q is not host:port", entry)
		}
		allow[place(host, port)] = true
	}
	return allow, nil
}

// place is host and port in the one spelling that places are compared in.
func place(host, port string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	}
	return net.JoinHostPort(host, port)
}

// NewClient makes a client. It may be shared; connections are kept for whoever
// comes next. An address that is refused is fault.Forbidden. A redirect that is
// not followed is no error: the answer is the redirect.
func NewClient(cfg Config) *http.Client {
	g := guard{allow: cfg.Allow}
	g.free = net.Dialer{Timeout: connectLimit, Resolver: cfg.Resolver}
	g.checked = g.free
	g.checked.Control = refuseInside
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            g.dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectLimit,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: maxHeaderBytes,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        90 * time.Second,
		},
		CheckRedirect: redirect,
	}
}

// guard makes connections.
type guard struct {
	allow         Allow
	free, checked net.Dialer
}

func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	// The net package takes a mapped address for the IPv4 address in it. Nobody
	// honest writes one.
	if a, err := netip.ParseAddr(host); err == nil && (a.Is4In6() || a.Zone() != "") {
		return nil, refused()
	}
	if g.allow[place(host, port)] {
		return g.free.DialContext(ctx, network, addr)
	}
	return g.checked.DialContext(ctx, network, addr)
}

// refuseInside is called with the very address that a connection is about to be
// made to, when nothing can change it any more.
func refuseInside(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !public(to.Addr()) {
		return refused()
	}
	return nil
}

// refused does not say which address it was: that would map the inside.
func refused() error {
	return fault.New(fault.Forbidden, "forbidden", "its address is not one of the public internet, and host and port are not allowed here (NOFX_EGRESS_ALLOW)")
}

// kept are the headers that go along with a redirect. Any other may hold a
// credential, Referer too, which shows the first address whole.
var kept = []string{"Accept", "Accept-Language", "Content-Type", "Idempotency-Key", "Traceparent", "User-Agent"}

// redirect follows to the same host alone, at most from http to https.
func redirect(next *http.Request, before []*http.Request) error {
	if len(before) > maxRedirects || !sameHost(before[0].URL, next.URL) || next.URL.User != nil {
		return http.ErrUseLastResponse
	}
	for name := range next.Header {
		if !slices.Contains(kept, name) {
			next.Header.Del(name)
		}
	}
	return nil
}

func sameHost(from, to *url.URL) bool {
	if to.Scheme == from.Scheme {
		return place(to.Hostname(), portOf(to)) == place(from.Hostname(), portOf(from))
	}
	return from.Scheme == "http" && to.Scheme == "https" && portOf(from) == "80" && portOf(to) == "443" &&
		place(to.Hostname(), "") == place(from.Hostname(), "")
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}
