package httpapi

import (
	"net/http"
	"slices"
	"strings"
)

// apiPolicy is the content security policy of answers that are no pages.
const apiPolicy = "default-src 'none'; frame-ancestors 'none'"

// What scripts of other origins may send and read beyond what browsers allow anyway.
var (
	sentHeaders = strings.Join([]string{"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Last-Event-ID", "Range", "X-Project-Id", "X-Correlation-Id", "traceparent", "tracestate"}, ", ")
	readHeaders = strings.Join([]string{"ETag", "Link", "Location", "Retry-After", "Idempotent-Replayed", "X-Trace-Id", "X-Correlation-Id"}, ", ")
	sentMethods = strings.Join([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, ", ")
)

// guardBrowsers sets the headers that tell a browser what pages may do with an answer. Scripts
// of the origins in Config.Origins may read it; credentials of the browser, such as cookies,
// are never asked for.
func (s *Server) guardBrowsers(h http.Header, r *http.Request) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", apiPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	if s.HTTPS {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	if len(s.Origins) == 0 {
		return
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(s.Origins, origin) {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
		h.Set("Access-Control-Allow-Methods", sentMethods)
		h.Set("Access-Control-Allow-Headers", sentHeaders)
		h.Set("Access-Control-Max-Age", "600")
		return
	}
	h.Set("Access-Control-Expose-Headers", readHeaders)
}
