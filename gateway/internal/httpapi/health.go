package httpapi

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
)

// healthz answers that the process is up.
func (s *Server) healthz(c echo.Context, _ *identity.Principal) error {
	return answer(c, http.StatusOK, api.Health{Status: api.HealthStatusOk})
}

// readyz answers whether the gateway can serve, for load balancers.
func (s *Server) readyz(c echo.Context, _ *identity.Principal) error {
	code, status, checks := s.Ready(c.Request().Context()).Answer(reasonOf)
	return answer(c, code, api.Readiness{Status: api.ReadinessStatus(status), Checks: checks})
}

// Ready reports whether the gateway can serve, which it cannot without the database, with a
// key of secrets that is missing or wrong, or while it drains. It can without object storage, which most of the API does not need
// (RELIABILITY.md, Degraded modes).
func (s *Server) Ready(ctx context.Context) telemetry.Readiness {
	state := s.health.get(ctx, s.look)
	var process error
	if s.draining.Load() {
		process = fault.New(fault.Unavailable, "unavailable", "it is shutting down")
	}
	r := telemetry.Readiness{
		Needs: map[string]error{"process": process, "database": state.database},
		Wants: map[string]error{"storage": state.storage},
	}
	if s.Keys == nil { // there are no secrets, and nothing that needs it
		r.Wants["keys"] = state.keys
	} else {
		r.Needs["keys"] = state.keys
	}
	return r
}

// reasonOf returns the part of an error that callers without a key may read.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Detail
	}
	return "it does not answer"
}

// healthCache keeps the answer for a second, since callers need no key.
type healthCache struct {
	mu    sync.Mutex
	at    time.Time
	state health
}

type health struct{ database, storage, keys error }

func (h *healthCache) get(ctx context.Context, look func(context.Context) health) health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > time.Second {
		h.state = look(context.WithoutCancel(ctx))
		h.at = time.Now()
	}
	return h.state
}

func (s *Server) look(ctx context.Context) health {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	found := telemetry.Check(ctx, map[string]func(context.Context) error{"database": s.Store.Ready, "storage": s.Blobs.Ping,
		"keys": func(ctx context.Context) error { return s.Store.CheckKey(ctx, s.Keys) }})
	return health{database: found["database"], storage: found["storage"], keys: found["keys"]}
}

// getContract answers the contract that this gateway keeps.
func (s *Server) getContract(c echo.Context, _ *identity.Principal) error {
	return c.Blob(http.StatusOK, "application/yaml", api.Contract)
}
