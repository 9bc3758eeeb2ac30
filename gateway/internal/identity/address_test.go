package identity

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tc := range []struct {
		peer, want string
		forwarded  []string
	}{
		{"203.0.113.1:5", "203.0.113.1", nil},
		{"203.0.113.1:5", "203.0.113.1", []string{"198.51.100.1"}}, // no proxy of ours
		{"10.0.0.1:5", "10.0.0.1", nil},
		{"10.0.0.1:5", "203.0.113.1", []string{"203.0.113.1"}},
		{"10.0.0.1:5", "203.0.113.1", []string{"198.51.100.1, 203.0.113.1"}},
		{"10.0.0.1:5", "203.0.113.1", []string{"198.51.100.1", "203.0.113.1,10.1.2.3"}},
		{"10.0.0.1:5", "10.0.0.3", []string{"10.0.0.3, 10.0.0.2"}}, // all trusted: the farthest
		{"10.0.0.1:5", "10.0.0.1", []string{"203.0.113.1, unknown"}},
		{"[::ffff:10.0.0.1]:5", "203.0.113.1", []string{"::ffff:203.0.113.1"}},
		{"[fd00::1]:5", "2001:db8::1", []string{"2001:db8::1"}},
		{"@", "@", []string{"203.0.113.1"}},
	} {
		r := &http.Request{RemoteAddr: tc.peer, Header: http.Header{"X-Forwarded-For": tc.forwarded}}
		if got := address(r, proxies); got != tc.want {
			t.Errorf("address(%s, %q) = %s, want %s", tc.peer, tc.forwarded, got, tc.want)
		}
	}
}
