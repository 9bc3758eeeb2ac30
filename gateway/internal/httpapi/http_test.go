package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/telemetry"
)

func TestS11_UnknownRoutes(t *testing.T) {
	g := newGateway(t)
	for _, path := range []string{
		"/", "/api", "/api/", "/api/run", "/api/runs/", "/api%2Fruns", "/api/runs%2F", "/metrics", "/metrics%2F..", "/api//runs",
		"/api/../api/runs", "/api/./runs", "/api/runs/x/y", "/%61pi/runs/x/y", "/debug/pprof", "/api/document", "/API/runs",
	} {
		// Sent as it stands: a client of Go's would tidy it.
		r := g.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + g.key + "\r\nConnection: close\r\n\r\n")
		if r.status != http.StatusNotFound || r.code() != "not-found" {
			t.Errorf("GET %s = %d %s, want 404 not-found", path, r.status, r.body)
		}
	}
}

// raw sends bytes and reads one answer.
func (g *gateway) raw(request string) reply {
	g.Helper()
	conn, err := net.Dial("tcp", g.http.Listener.Addr().String())
	if err != nil {
		g.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		g.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		g.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		g.Fatalf("%.60q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, body}
}

func TestS11_Methods(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"PUT", "/api/runs", 405, "OPTIONS, GET, HEAD, POST"},
		{"DELETE", "/api/runs/" + created.Run.ID, 405, "OPTIONS, GET, HEAD"},
		{"GET", "/api/runs/preview", 404, ""}, // as GET it is a run's id, and no run's
		{"PATCH", "/api/whoami", 405, "OPTIONS, GET, HEAD"},
		{"TRACE", "/healthz", 405, "OPTIONS, GET, HEAD"},
		{"PURGE", "/healthz", 405, "OPTIONS, GET, HEAD"},
		{"OPTIONS", "/api/runs", 204, "OPTIONS, GET, HEAD, POST"},
		{"OPTIONS", "/api/nothing", 404, ""},
		{"HEAD", "/api/runs/" + created.Run.ID, 200, ""},
		{"HEAD", "/api/runs/" + created.Run.ID + "/events", 200, ""},
		{"HEAD", "/api/steps/" + created.Steps[0].ID + "/logs", 200, ""},
		{"HEAD", "/api/nothing", 404, ""},
		{"HEAD", "/healthz", 200, ""},
		{"HEAD", "/readyz", 200, ""},
	} {
		r := g.do(tc.method, tc.path, "", header{"Accept": "text/event-stream", "X-HTTP-Method-Override": "GET"})
		if r.status != tc.status || r.header.Get("Allow") != tc.allow {
			t.Errorf("%s %s = %d, Allow %q, want %d, %q", tc.method, tc.path, r.status, r.header.Get("Allow"), tc.status, tc.allow)
		}
	}
	head, get := g.do("HEAD", "/api/runs/"+created.Run.ID, ""), g.get("/api/runs/"+created.Run.ID)
	for _, name := range []string{"ETag", "Content-Type", "Content-Length"} {
		if head.header.Get(name) != get.header.Get(name) {
			t.Errorf("%s of HEAD = %q, of GET = %q", name, head.header.Get(name), get.header.Get(name))
		}
	}
}

func TestS14_Sizes(t *testing.T) {
	g := newGateway(t)
	g.want(g.get("/api/runs?q="+strings.Repeat("x", maxURL)), http.StatusRequestURITooLong, "too-large")
	g.want(g.get("/api/runs", header{"X-Large": strings.Repeat("x", maxHeader)}), http.StatusRequestHeaderFieldsTooLarge, "too-large")
	r := g.raw("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 64<<10) + "\r\n\r\n")
	if r.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of headers = %d, want 431", r.status)
	}
	for _, id := range []string{strings.Repeat("x", 129), "a b", "é"} {
		g.want(g.get("/api/runs", header{"X-Correlation-Id": id}), http.StatusBadRequest, "bad-parameter")
	}
}

// TestCommonHeaders checks what every answer carries.
func TestCommonHeaders(t *testing.T) {
	g := newGateway(t)
	for _, path := range []string{"/healthz", "/api/runs", "/api/nothing", "/api/runs?x=1", "/api/runs/x"} {
		r := g.get(path, header{"X-Correlation-Id": "c-1"})
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Correlation-Id": "c-1"} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %s = %q, want %q", path, name, got, want)
			}
		}
		if got, want := r.header.Get("Server-Timing"), `traceparent;desc="00-`+r.header.Get("X-Trace-Id"); !strings.HasPrefix(got, want) {
			t.Errorf("%s: Server-Timing = %q, want %q…", path, got, want)
		}
	}
}

// TestS26_UnexpectedErrors checks that what nobody expects is 500 without its text,
// and once in the log with it.
func TestS26_UnexpectedErrors(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s, err := New(Config{
		Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test"), Log: telemetry.NewLogger(&log, slog.LevelInfo, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.echo.GET("/fails", func(echo.Context) error { return fmt.Errorf("SELECT * FROM plans: %s", "pq: broken") })
	s.echo.GET("/panics", func(echo.Context) error { panic("index out of range in plans") })
	for _, path := range []string{"/fails", "/panics"} {
		log.Reset()
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		var p api.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusInternalServerError || p.Code != api.ProblemCodeInternal || strings.Contains(w.Body.String(), "plans") {
			t.Errorf("GET %s = %d %s, want 500 internal without the cause", path, w.Code, w.Body)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 1 || !strings.Contains(lines[0], "plans") || !strings.Contains(lines[0], p.TraceID) || !strings.Contains(lines[0], `"level":"ERROR"`) {
			t.Errorf("log of %s = %q, want one line with cause and trace", path, lines)
		}
	}
}

// TestBrokenAnswer checks that an answer that fails half-way is cut off, so that
// nobody takes the half for the whole.
func TestBrokenAnswer(t *testing.T) {
	g := newGateway(t)
	g.server.echo.GET("/half", func(c echo.Context) error {
		c.Response().WriteHeader(http.StatusOK)
		fmt.Fprint(c.Response(), strings.Repeat("x", 10_000))
		return fmt.Errorf("the storage is gone")
	})
	resp, err := http.Get(g.http.URL + "/half")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("reading = %d bytes without an error, want a broken connection", len(body))
	}
}

// TestTrace checks whose trace a request joins: a caller's who showed a key, and
// nobody else's.
func TestTrace(t *testing.T) {
	// Not parallel: the provider is the process's.
	recorder, before := tracetest.NewSpanRecorder(), otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	g := newGatewayAlone(t)

	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	parent := header{"traceparent": "00-" + id + "-" + span + "-01"}
	created := g.do(http.MethodPost, "/api/runs", oneStep, parent)
	g.want(created, http.StatusCreated, "")
	runTrace := decodeAs[api.CreatedRun](t, created).Run.TraceID
	if got := created.header.Get("X-Trace-Id"); got != id || runTrace != id {
		t.Errorf("trace of the request = %s, of the run = %s, want the caller's %s", got, runTrace, id)
	}
	stranger := g.get("/api/runs", parent, header{"Authorization": ""})
	g.want(stranger, http.StatusUnauthorized, "unauthenticated")
	wrong := g.get("/api/runs", parent, header{"Authorization": "Bearer " + identity.NewToken(identity.DevKey).Text})
	g.want(wrong, http.StatusUnauthorized, "unauthenticated")
	unknown := g.get("/api/nothing", parent)

	type seen struct {
		Name, Parent, Link string
		Root               bool
	}
	got := map[string]seen{}
	for _, s := range recorder.Ended() {
		if s.SpanKind().String() != "server" {
			continue
		}
		one := seen{Name: s.Name(), Root: !s.Parent().IsValid()}
		if s.Parent().IsValid() {
			one.Parent = s.Parent().SpanID().String()
		}
		for _, l := range s.Links() {
			one.Link += l.SpanContext.TraceID().String()
		}
		got[s.SpanContext().TraceID().String()+s.Name()] = one
	}
	for r, want := range map[*reply]seen{
		&created:  {Name: "POST /api/runs", Parent: span},
		&stranger: {Name: "GET /api/runs", Root: true, Link: id},
		&wrong:    {Name: "GET /api/runs", Root: true, Link: id},
		&unknown:  {Name: "GET", Parent: span},
	} {
		trace := r.header.Get("X-Trace-Id")
		if diff := cmp.Diff(want, got[trace+want.Name]); diff != "" {
			t.Errorf("server span of %d (-want +got):\n%s", r.status, diff)
		}
		if want.Root && trace == id {
			t.Errorf("a stranger chose the trace %s", trace)
		}
	}
}
