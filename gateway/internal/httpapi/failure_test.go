package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// asLine writes an error as a line of text.
func asLine(_ *http.Request, p api.Problem) postgres.Answer {
	return postgres.Answer{
		Status: p.Status, Header: map[string]string{"Content-Type": "text/plain", "X-Form": "line"},
		Body: fmt.Appendf(nil, "%s: %s", p.Code, p.Detail),
	}
}

// TestErrorForm checks that the row of a route says how its errors are written, wherever
// they come from, and that those of other paths are written as problems.
func TestErrorForm(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		c.Log = slog.New(slog.DiscardHandler) // of errors on purpose
	})
	outcomes := map[string]func() error{
		"fine":    func() error { return nil },
		"missing": func() error { return fault.New(fault.NotFound, "not-found", "no such shelf") },
		"held": func() error {
			return fault.OfFields("invalid-field", fault.Field{Pointer: "/books", Detail: "are too many"})
		},
		"broken": func() error { return errors.New("the shelf fell down") },
		"panics": func() error { panic("the shelf fell down") },
		"slow":   func() error { return context.DeadlineExceeded },
	}
	handle := func(c echo.Context, _ *identity.Principal) error {
		if err := outcomes[c.Param("shelf")](); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}
	viewer := rule{role: api.RoleViewer, scope: "runs:read"}
	for _, op := range []operation{
		{id: "getShelf", method: http.MethodGet, path: "/api/library/shelves/{shelf}", rule: viewer, handle: handle, errors: asLine},
		{id: "noShelf", method: http.MethodGet, path: "/api/library/*", rule: rule{public: true}, errors: asLine,
			handle: func(echo.Context, *identity.Principal) error { return echo.ErrNotFound }},
		{id: "getDesk", method: http.MethodGet, path: "/api/office/shelves/{shelf}", rule: viewer, handle: handle},
	} {
		if err := g.server.serve(op); err != nil {
			t.Fatal(err)
		}
	}
	busy := g.newKey(g.tenant, api.RoleViewer)
	viewerKey, stranger := g.newKey(g.tenant, api.RoleViewer), g.newKey(g.tenant, api.RoleService, "none:read")
	for _, tt := range []struct {
		name, method, path, key string
		header                  map[string]string
		status                  int
		code, detail            string
	}{
		{name: "found by no handler", path: "/shelves/missing", key: viewerKey, status: 404, code: "not-found", detail: "no such shelf"},
		{name: "found by no route", path: "/nothing", key: viewerKey, status: 404, code: "not-found", detail: "this path does not exist"},
		{name: "method", method: "PATCH", path: "/shelves/fine", key: viewerKey, status: 405, code: "method-not-allowed", detail: "PATCH is not supported at this path"},
		{name: "nobody", path: "/shelves/fine", status: 401, code: "unauthenticated", detail: "an API key is required, as a Bearer token in the Authorization header"},
		{name: "wrong key", path: "/shelves/fine", key: "x", status: 401, code: "unauthenticated", detail: "the API key is not valid"},
		{name: "stranger", path: "/shelves/fine", key: stranger, status: 403, code: "forbidden", detail: "scope runs:read is required; your key does not have it"},
		{name: "busy", path: "/shelves/fine", key: busy, status: 429, code: "rate-limited", detail: "too many requests at once"},
		{name: "invalid", path: "/shelves/held", key: viewerKey, status: 422, code: "invalid-field", detail: "/books: are too many"},
		{name: "error", path: "/shelves/broken", key: viewerKey, status: 500, code: "internal", detail: "an internal error occurred; the trace id finds it in the logs"},
		{name: "panic", path: "/shelves/panics", key: viewerKey, status: 500, code: "internal", detail: "an internal error occurred; the trace id finds it in the logs"},
		{name: "deadline", path: "/shelves/slow", key: viewerKey, status: 503, code: "unavailable", detail: "the request took too long"},
		{name: "URL", path: "/shelves/fine?" + strings.Repeat("x", maxURL), key: viewerKey, status: 414, code: "too-large", detail: fmt.Sprintf("the URL is longer than %d bytes", maxURL)},
		{name: "headers", path: "/shelves/fine", key: viewerKey, header: map[string]string{"X-Large": strings.Repeat("x", maxHeader)},
			status: 431, code: "too-large", detail: fmt.Sprintf("the headers are longer than %d bytes", maxHeader)},
		{name: "correlation", path: "/shelves/fine", key: viewerKey, header: map[string]string{"X-Correlation-Id": "a b"}, status: 400, code: "bad-parameter"},
	} {
		ask := func(under string) *http.Response {
			t.Helper()
			g.server.rate = limit.NewRates(0, 0)
			if tt.key == busy {
				g.server.rate = limit.NewRates(0.001, 1)
				g.server.rate.Take(nameOf(principalOf(g, busy)))
			}
			r := httptest.NewRequestWithContext(t.Context(), cmp.Or(tt.method, http.MethodGet), under+tt.path, nil)
			if tt.key != "" {
				r.Header.Set("Authorization", "Bearer "+tt.key)
			}
			for name, value := range tt.header {
				r.Header.Set(name, value)
			}
			w := httptest.NewRecorder()
			g.server.ServeHTTP(w, r)
			return w.Result()
		}
		line, problem := ask("/api/library"), ask("/api/office")
		got := bodyOf(t, line)
		if want := tt.code + ": " + tt.detail; line.StatusCode != tt.status || line.Header.Get("Content-Type") != "text/plain" ||
			line.Header.Get("X-Form") != "line" || !strings.HasPrefix(got, want) {
			t.Errorf("%s, row with a form: %d %s %q, want %d text/plain %q", tt.name, line.StatusCode, line.Header.Get("Content-Type"), got, tt.status, want)
		}
		if problem.StatusCode != tt.status || problem.Header.Get("Content-Type") != mimeProblem || !strings.Contains(bodyOf(t, problem), `"code":"`+tt.code+`"`) {
			t.Errorf("%s, row without a form: %d %s, want %d application/problem+json with code %s",
				tt.name, problem.StatusCode, problem.Header.Get("Content-Type"), tt.status, tt.code)
		}
		for _, name := range []string{"Retry-After", "Allow", "X-Content-Type-Options", "Cache-Control"} {
			if l, p := line.Header.Get(name), problem.Header.Get(name); l != p {
				t.Errorf("%s: %s = %q in the row's form, %q as a problem, want it alike", tt.name, name, l, p)
			}
		}
	}
}

// TestKeptRefusalForm checks that a refusal is kept under an Idempotency-Key in the form of
// its route.
func TestKeptRefusalForm(t *testing.T) {
	g := newGateway(t)
	err := g.server.serve(operation{
		id: "addShelf", method: http.MethodPost, path: "/api/library/shelves", rule: rule{anyKey: true}, errors: asLine, once: true,
		handle: func(c echo.Context, p *identity.Principal) error {
			return g.server.answerOnce(c, p, request{
				body:  []byte("{}"),
				check: func() error { return fault.New(fault.Invalid, "invalid-field", "a shelf has a name") },
				do: func(context.Context) (postgres.Answer, error) {
					return postgres.Answer{}, errors.New("done in spite of the check")
				},
			})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, replayed := range []string{"", "true"} {
		w := g.record(http.MethodPost, "/api/library/shelves", "", "k-1")
		if got, want := w.Body.String(), "invalid-field: a shelf has a name"; w.Code != http.StatusUnprocessableEntity || got != want ||
			w.Header().Get("X-Form") != "line" || w.Header().Get("Idempotent-Replayed") != replayed {
			t.Errorf("answer %d = %d %q, X-Form %q, Idempotent-Replayed %q, want 422 %q, line, %q",
				i+1, w.Code, got, w.Header().Get("X-Form"), w.Header().Get("Idempotent-Replayed"), want, replayed)
		}
	}
}

func principalOf(g *gateway, key string) *identity.Principal {
	g.Helper()
	p, err := g.server.Identity.Identify(&http.Request{Header: http.Header{"Authorization": {"Bearer " + key}}})
	if err != nil {
		g.Fatal(err)
	}
	return p
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
