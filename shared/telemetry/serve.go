package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readyTimeout is the maximum time of a readiness check.
const readyTimeout = 2 * time.Second

// Readiness has the error, or nil, of each thing that a process needs, by name: of things
// that it cannot serve without, and of things whose loss only limits it.
type Readiness struct {
	Needs, Wants map[string]error
}

// Answer returns the response of both processes to /readyz, with errors formatted by text.
func (r Readiness) Answer(text func(error) string) (code int, status string, checks map[string]string) {
	code, status, checks = http.StatusOK, "ready", map[string]string{}
	for name, err := range r.Wants {
		checks[name] = stateOf(err, text)
	}
	for name, err := range r.Needs {
		checks[name] = stateOf(err, text)
		if err != nil {
			code, status = http.StatusServiceUnavailable, "not_ready"
		}
	}
	return code, status, checks
}

func stateOf(err error, text func(error) string) string {
	if err == nil {
		return "ok"
	}
	return text(err)
}

// Check asks for things, all at once, so that one which does not answer takes no time
// from the others, and returns what is wrong, or nil, with each, by name.
func Check(ctx context.Context, ask map[string]func(context.Context) error) map[string]error {
	type state struct {
		name string
		err  error
	}
	states := make(chan state)
	for name, look := range ask {
		go func() { states <- state{name, look(ctx)} }()
	}
	found := make(map[string]error, len(ask))
	for range ask {
		s := <-states
		found[s.name] = s.err
	}
	return found
}

// Serve answers on ln until ctx is done, then lets requests finish for a second.
// It is a port of its own, never the API's:
//
//   - /metrics: what reg holds, as OpenMetrics with exemplars to who asks for it.
//   - /healthz: 200 while the process runs.
//   - /readyz: what ready says of each thing the process needs; 503 when it cannot
//     serve. ready is given 2 s.
func Serve(ctx context.Context, ln net.Listener, reg *prometheus.Registry, ready func(context.Context) Readiness) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, map[string]any{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		code, status, checks := ready(ctx).Answer(func(err error) string { return (*Redactor)(nil).String(err.Error()) })
		answer(w, code, map[string]any{"status": status, "checks": checks})
	})

	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close() // clients that still read are disconnected
	}
	<-failed // the error only says that the server was shut down
	return err
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the reader may have gone
}
