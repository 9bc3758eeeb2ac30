package identity

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// address returns the client's address: the peer's or, as long as that is a trusted
// proxy's, the one that the proxy says it was called from (X-Forwarded-For, from the
// right). No other part of the header is trusted.
func address(r *http.Request, proxies []netip.Prefix) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	at := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(at.WithZone("")) }) {
			break
		}
		from, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = from.Unmap()
	}
	return at.String()
}
