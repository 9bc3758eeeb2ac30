package httpapi

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
)

// healthz says that the process answers.
func (s *Server) healthz(c echo.Context, _ *Principal) error {
	return answer(c, http.StatusOK, api.Health{Status: api.HealthStatusOk})
}

// readyz says whether the gateway can serve: 503 without the database or while it
// drains. Object storage is named when it is down, but nobody is sent away for
// it: most of the API works without (RELIABILITY.md, Degraded modes).
func (s *Server) readyz(c echo.Context, _ *Principal) error {
	if s.draining.Load() {
		return notReady("/process", "is shutting down")
	}
	state := s.health.get(c.Request().Context(), s.look)
	if state.database != nil {
		return notReady("/database", reasonOf(state.database))
	}
	checks := []string{"database", "migrations"}
	if state.storage != nil {
		checks = append(checks, "storage: "+reasonOf(state.storage))
	} else {
		checks = append(checks, "storage")
	}
	return answer(c, http.StatusOK, api.Readiness{Status: api.ReadinessStatusReady, Checks: checks})
}

// Ready is what /readyz knows, for the port of the metrics: what is missing by
// name.
func (s *Server) Ready(ctx context.Context) map[string]error {
	state := s.health.get(ctx, s.look)
	ready := map[string]error{"database": state.database}
	if s.draining.Load() {
		ready["process"] = errors.New("shutting down")
	}
	return ready
}

func notReady(at, detail string) error {
	e := fault.New(fault.Unavailable, "unavailable", "not ready")
	e.Fields = []fault.Field{{Pointer: at, Detail: detail}}
	return e
}

// reasonOf is what strangers may know of an error.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Detail
	}
	return "it does not answer"
}

// healthCache keeps the answer for a second: who asks needs no key.
type healthCache struct {
	mu    sync.Mutex
	at    time.Time
	state health
}

type health struct{ database, storage error }

func (h *healthCache) get(ctx context.Context, look func(context.Context) health) health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > time.Second {
		h.state = look(context.WithoutCancel(ctx))
		h.at = time.Now()
	}
	return h.state
}

func (s *Server) look(ctx context.Context) (h health) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Blobs.Ping(ctx) }()
	h.database = s.Store.Ready(ctx)
	h.storage = <-done
	return h
}

// getContract answers the contract that this gateway keeps.
func (s *Server) getContract(c echo.Context, _ *Principal) error {
	return c.Blob(http.StatusOK, "application/yaml", api.Contract)
}
