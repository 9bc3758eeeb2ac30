package httpapi

import (
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
)

// listQueues answers what waits in each queue of the deployment: is work waiting,
// and why?
func (s *Server) listQueues(c echo.Context, _ *Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	queues, err := s.Store.Queues(c.Request().Context())
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.QueuePage{Items: convert(queues, apiQueue)})
}

// pauseQueue has workers take nothing more from a queue: before a migration of what
// its steps work on, or to let a fleet run dry.
func (s *Server) pauseQueue(c echo.Context, p *Principal) error { return s.setPaused(c, p, true) }

// resumeQueue ends that.
func (s *Server) resumeQueue(c echo.Context, p *Principal) error { return s.setPaused(c, p, false) }

func (s *Server) setPaused(c echo.Context, p *Principal, paused bool) error {
	if err := noQuery(c); err != nil {
		return err
	}
	reason, err := readReason(c)
	if err != nil {
		return err
	}
	ctx, name := c.Request().Context(), c.Param("queue_name")
	if err := s.Store.PauseQueue(ctx, p.Tenant, name, paused); err != nil {
		return err
	}
	s.Log.InfoContext(ctx, "queue", "queue", name, "paused", paused, "by", p.Subject, "reason", reason)
	queues, err := s.Store.Queues(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(queues, func(q postgres.Queue) bool { return q.Name == name })
	return answer(c, http.StatusOK, api.QueueAnswer{Queue: apiQueue(queues[i])})
}

func apiQueue(q postgres.Queue) api.Queue {
	return api.Queue{
		Name: q.Name, Paused: q.PausedAt != nil, PausedAt: utc(q.PausedAt), OldestAgeMs: q.OldestAge.Milliseconds(), Workers: q.Workers,
		Depth: api.QueueDepth{Available: q.Depth["available"], Running: q.Depth["running"], Retryable: q.Depth["retryable"],
			Scheduled: q.Depth["scheduled"], Pending: q.Depth["pending"]},
	}
}

// listWorkers answers the worker processes of the deployment: are they there, and
// have they room?
func (s *Server) listWorkers(c echo.Context, _ *Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	workers, err := s.Store.Workers(c.Request().Context())
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.WorkerPage{Items: convert(workers, apiWorker)})
}

func apiWorker(w postgres.WorkerInfo) api.Worker {
	out := api.Worker{
		ID: w.ID, Pid: w.PID, Host: w.Host, Version: w.Version, Status: api.WorkerStatusServing, Queues: w.Queues,
		SlotsMax: w.SlotsMax, SlotsUsed: w.SlotsUsed, SandboxTier: w.SandboxTier, StartedAt: w.StartedAt.UTC(), SeenAt: w.SeenAt.UTC(),
	}
	switch {
	case w.Silence >= postgres.SilentAfter:
		out.Status = api.WorkerStatusSilent
	case w.Draining:
		out.Status = api.WorkerStatusDraining
	}
	return out
}
