package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
	Resolver *net.Resolver  // nil: the system's
	Roots    *x509.CertPool // that are trusted; nil: the system's
	Stay     bool           // no redirect is followed
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
			return nil, fmt.Errorf("%q is not host:port, for example 127.0.0.1:9000", entry)
		}
		allow[place(host, port)] = true
	}
	return allow, nil
}

// place returns host and port in the one spelling that places are compared in.
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
	g := newGuard(cfg)
	follow := redirect
	if cfg.Stay {
		follow = stay
	}
	return &http.Client{Transport: settled{transport(g.dial, cfg.Roots)}, CheckRedirect: follow}
}

// NewListedClient makes a client for hosts that the administrator has listed, which may
// be inside: who uses it holds each address against that list first. It follows no
// redirect, and trusts roots; nil: those of the system.
func NewListedClient(roots *x509.CertPool) *http.Client {
	free := net.Dialer{Timeout: connectLimit}
	return &http.Client{Transport: settled{transport(free.DialContext, roots)}, CheckRedirect: stay}
}

// settled is a transport that stays with HTTP. Of a host that changes to another protocol Go
// hands the connection over, and no context ends a read of it any more: it could hold whoever
// asked for ever.
type settled struct{ *http.Transport }

// RoundTrip makes one request. An answer with the status 101 is an error.
func (s settled) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.Transport.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		return nil, errors.New("the host changed to another protocol, which nobody asked for")
	}
	return resp, err
}

// stay follows no redirect.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func transport(dial func(ctx context.Context, network, addr string) (net.Conn, error), roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    connectLimit,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        90 * time.Second,
	}
}

// guard makes connections.
type guard struct {
	allow         Allow
	free, checked net.Dialer
}

func newGuard(cfg Config) guard {
	g := guard{allow: cfg.Allow}
	g.free = net.Dialer{Timeout: connectLimit, Resolver: cfg.Resolver}
	g.checked = g.free
	g.checked.Control = refuseInside
	return g
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

// refuseInside refuses an address inside. It gets the very address that a connection is
// about to be made to, when nothing can change it any more.
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

// redirect follows where [Unfollowed] has no objection. All headers of the request go
// along, since whoever answers there has seen them already. Referer is none of them
// unless the request had one.
func redirect(next *http.Request, before []*http.Request) error {
	if Unfollowed(next.Response) != "" {
		return http.ErrUseLastResponse
	}
	if _, given := before[0].Header["Referer"]; !given {
		next.Header.Del("Referer")
	}
	return nil
}

// Unfollowed returns why a client does not follow the redirect that an answer is, or ""
// when it does and for what is no redirect. What it says shows of the other address
// no more than scheme, host and port.
//
// After 301 and 302 clients may repeat a request as a GET, which would not do what
// was asked for and yet look as if it had. So an effect is not sent on after them: only
// 307 and 308 repeat it, and 303 says that it is done and where to read more.
func Unfollowed(resp *http.Response) string {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return ""
	}
	to, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) {
		return "it does not say where to"
	} else if err != nil {
		return "its address cannot be read"
	}
	from := resp.Request
	switch effect := from.Method != http.MethodGet && from.Method != http.MethodHead; {
	case effect && (resp.StatusCode == http.StatusMovedPermanently || resp.StatusCode == http.StatusFound):
		return "after " + from.Method + " only 303, 307 and 308 are"
	case !sameOrigin(from.URL, to):
		return "scheme, host and port must stay the same, and it leads to " + to.Scheme + "://" + to.Host
	case to.User != nil:
		return "its address has a user or password"
	case len(Followed(resp)) >= maxRedirects:
		return fmt.Sprintf("no more than %d in a row are", maxRedirects)
	}
	return ""
}

// Followed returns the redirects that led to an answer, in their order.
func Followed(resp *http.Response) (all []*http.Response) {
	for r := resp.Request.Response; r != nil; r = r.Request.Response {
		all = append(all, r)
	}
	slices.Reverse(all)
	return all
}

func sameOrigin(from, to *url.URL) bool {
	return to.Scheme == from.Scheme && place(to.Hostname(), portOf(to)) == place(from.Hostname(), portOf(from))
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
