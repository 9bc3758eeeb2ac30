package httpapi

import (
	"net/http"
	"strings"
	"testing"
)

// TestS30_Origins checks that scripts of listed origins alone may read answers, errors
// included, and that no answer asks a browser for its credentials.
func TestS30_Origins(t *testing.T) {
	const app = "https://app.example.com"
	g := newGateway(t, func(c *Config) { c.Origins = []string{app} })
	closed := newGatewayAlone(t)
	preflight := header{"Authorization": "", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
	for _, tc := range []struct {
		at       *gateway
		origin   string
		expected bool
	}{
		{g, app, true}, {g, "", false}, {g, "null", false}, {g, "https://app.example.com.evil.example", false}, {g, "https://evil.example", false},
		{g, "http://app.example.com", false}, {g, "https://app.example.com:8443", false}, {g, "https://APP.example.com", false}, {g, app + "/", false},
		{closed, app, false}, {closed, "*", false},
	} {
		from := header{"Origin": tc.origin}
		for what, r := range map[string]reply{
			"an answer": tc.at.get("/api/runs", from), "a refusal": tc.at.get("/api/runs", from, header{"Authorization": ""}), "a preflight": tc.at.do(http.MethodOptions, "/api/runs", "", from, preflight),
		} {
			allowed, want := r.header.Get("Access-Control-Allow-Origin"), ""
			if tc.expected {
				want = tc.origin
			}
			if allowed != want || r.header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s for %q: allowed origin = %q, credentials %q, want %q and none", what, tc.origin, allowed, r.header.Get("Access-Control-Allow-Credentials"), want)
			}
			if tc.at == g && !strings.Contains(strings.Join(r.header.Values("Vary"), ","), "Origin") {
				t.Errorf("%s for %q: Vary = %q, want Origin in it", what, tc.origin, r.header.Values("Vary"))
			}
			methods := r.header.Get("Access-Control-Allow-Methods")
			if has := strings.Contains(methods, "POST") && strings.Contains(r.header.Get("Access-Control-Allow-Headers"), "Authorization"); has != (tc.expected && what == "a preflight") {
				t.Errorf("%s for %q: allowed methods = %q, want %v", what, tc.origin, methods, tc.expected && what == "a preflight")
			}
		}
	}
}

// TestS30_Headers checks that no answer can be framed, sniffed, or tell where it was read.
func TestS30_Headers(t *testing.T) {
	plain := newGateway(t)
	secure := newGatewayAlone(t, func(c *Config) { c.HTTPS = true })
	for _, g := range []*gateway{plain, secure} {
		for _, path := range []string{"/healthz", "/api/runs", "/api/nothing", "/api/docs", "/api/docs/page.css", "/api/openapi.yaml", "/api/runs?x=1"} {
			r := g.get(path)
			csp := r.header.Get("Content-Security-Policy")
			if !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe-eval") || strings.Contains(csp, "script-src 'unsafe-inline'") {
				t.Errorf("%s: Content-Security-Policy = %q, want nothing by default, no frames and no inline scripts", path, csp)
			}
			for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
				if got := r.header.Get(name); got != want {
					t.Errorf("%s: %s = %q, want %q", path, name, got, want)
				}
			}
			if got := r.header.Get("Strict-Transport-Security"); (got != "") != (g == secure) {
				t.Errorf("%s: Strict-Transport-Security = %q, want one where clients use https alone", path, got)
			}
		}
	}
}
