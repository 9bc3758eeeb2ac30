package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// info is the state of one request that its layers share.
type info struct {
	start  time.Time
	stream bool  // it is, or was to be, answered by a stream
	err    error // of the handler, for the log

	operation operation // of the handler; zero until it is known that there is one
}

const infoKey = "nofx.info"

func infoOf(c echo.Context) *info {
	i, _ := c.Get(infoKey).(*info)
	return i
}

// observe handles every request, with or without a route: it sets the headers that every
// answer has, answers errors, writes one log line and counts.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		about := &info{start: time.Now()}
		c.Set(infoKey, about)
		header := c.Response().Header()
		s.guardBrowsers(header, r)
		header.Set("Cache-Control", "no-store")
		if id, _ := telemetry.IDs(r.Context()); id != "" {
			header.Set("X-Trace-Id", id)
			header.Set("Server-Timing", fmt.Sprintf("traceparent;desc=%q", telemetry.Inject(r.Context())))
		}
		broken := false
		if err := s.within(c, next); err != nil {
			broken = s.fail(c, err)
		}
		s.finish(c, r, about)
		if broken {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
}

// within calls next unless the request is too large or its correlation id is not valid, and
// returns a panic as an error.
func (s *Server) within(c echo.Context, next echo.HandlerFunc) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // the value that net/http compares too
			panic(p)
		}
		err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}()
	r := c.Request()
	switch {
	case len(r.RequestURI) > maxURL:
		return tooLarge{http.StatusRequestURITooLong, fmt.Sprintf("the URL is longer than %d bytes", maxURL)}
	case headerBytes(r.Header) > maxHeader:
		return tooLarge{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the headers are longer than %d bytes", maxHeader)}
	}
	if id := r.Header.Get("X-Correlation-Id"); id != "" {
		if !correlation(id) {
			return badParameter("X-Correlation-Id", "1 to 128 visible ASCII characters")
		}
		c.Response().Header().Set("X-Correlation-Id", id)
	}
	return next(c)
}

func headerBytes(h http.Header) (n int) {
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

func correlation(id string) bool {
	for _, b := range []byte(id) {
		if b < 0x21 || b > 0x7e {
			return false
		}
	}
	return len(id) <= 128
}

// finish records the outcome in the span, the metrics and the log. r is the request that
// otelhttp reads the pattern from: Echo never sets it, and handlers get a copy.
func (s *Server) finish(c echo.Context, r *http.Request, about *info) {
	of := s.routes[c.Path()]
	route, status, took := of.path, c.Response().Status, time.Since(about.start)
	if route != "" {
		r.Pattern = r.Method + " " + route
	}
	ctx := c.Request().Context() // knows the tenant
	if !about.stream {
		s.Metrics.HTTPDuration.Observe(ctx, took.Seconds(), r.Method, route, strconv.Itoa(status))
	}
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("route", route), slog.Int("status", status),
		slog.Int64("duration_ms", took.Milliseconds()), slog.Int64("bytes", c.Response().Size),
	}
	if route == "" && utf8.ValidString(r.URL.Path) {
		attrs = append(attrs, slog.String("path", r.URL.Path[:min(len(r.URL.Path), 200)]))
	}
	if err := about.err; err != nil {
		attrs = append(attrs, slog.String("kind", string(fault.KindOf(err))))
		switch {
		case status == http.StatusServiceUnavailable:
			level = slog.LevelWarn
		case status >= 500:
			level = slog.LevelError
		}
		if status >= 500 || status == statusClientGone {
			attrs = append(attrs, slog.String("error", err.Error()))
		} else {
			attrs = append(attrs, slog.String("code", codeOf(err)))
		}
	}
	if of.probe {
		level -= 4 // they come every few seconds
	}
	s.Log.LogAttrs(ctx, level, "request", attrs...)
}

// linkToRun links the span of a later request to the run that it changes: the request keeps
// its own trace, and each can be found from the other.
func linkToRun(span trace.Span, r run.Run) {
	if ctx, ok := telemetry.WithTraceparent(context.Background(), r.Traceparent); ok {
		span.AddLink(trace.LinkFromContext(ctx))
	}
}
