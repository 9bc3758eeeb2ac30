package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/postgres"
)

// listQueues answers how much work of the tenant is in each queue, and whether the queue is
// paused.
func (s *Server) listQueues(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	queues, err := s.Store.TenantQueues(c.Request().Context(), p.Tenant)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.QueuePage{Items: convert(queues, apiQueue)})
}

// pauseQueue keeps workers from taking steps of the tenant from a queue, for example
// before a migration of what the steps work on.
func (s *Server) pauseQueue(c echo.Context, p *identity.Principal) error {
	return s.changeQueue(c, p, "queue paused", s.Store.PauseQueue)
}

// resumeQueue ends that.
func (s *Server) resumeQueue(c echo.Context, p *identity.Principal) error {
	return s.changeQueue(c, p, "queue resumed", s.Store.ResumeQueue)
}

func (s *Server) changeQueue(c echo.Context, p *identity.Principal, done string, change func(ctx context.Context, tenant uuid.UUID, name, reason string) error) error {
	if err := noQuery(c); err != nil {
		return err
	}
	reason, err := s.readReason(c)
	if err != nil {
		return err
	}
	ctx, name := c.Request().Context(), c.Param("queue_name")
	if err := change(ctx, p.Tenant, name, reason); err != nil {
		return err
	}
	s.Log.InfoContext(ctx, done, "queue", name, "by", p.Subject, "reason", reason)
	queues, err := s.Store.TenantQueues(ctx, p.Tenant)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(queues, func(q postgres.TenantQueue) bool { return q.Name == name })
	return answer(c, http.StatusOK, api.QueueAnswer{Queue: apiQueue(queues[i])})
}

func apiQueue(q postgres.TenantQueue) api.Queue {
	return api.Queue{
		Name: q.Name, Paused: q.PausedAt != nil, PausedAt: utc(q.PausedAt), PausedBy: ptr(q.PausedBy), PausedByName: ptr(q.PausedByName),
		Reason: ptr(q.Reason), PausedForAll: q.PausedForAll, OldestAgeMs: q.OldestAge.Milliseconds(), Workers: q.Workers, WorkersWaiting: q.Waiting,
		Depth: api.QueueDepth{Ready: q.Ready, Running: q.Running, Retrying: q.Retrying, More: q.More},
	}
}

// listWorkers answers how many workers there are of each sort, so that a tenant sees
// whether any takes its steps.
func (s *Server) listWorkers(c echo.Context, _ *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	workers, err := s.Store.Workers(c.Request().Context())
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.WorkerPage{Items: alike(workers)})
}

// alike counts workers of the same sort, in the order of the oldest of each.
func alike(workers []postgres.WorkerInfo) []api.Workers {
	list, place := []api.Workers{}, map[string]int{}
	for _, w := range workers {
		one := api.Workers{Version: w.Version, Status: statusOf(w), WaitsFor: ptr(w.WaitsFor), Queues: slices.Sorted(slices.Values(w.Queues)), SandboxTier: w.SandboxTier}
		sort := fmt.Sprint(one.Version, one.Status, w.WaitsFor, one.Queues, one.SandboxTier)
		at, known := place[sort]
		if !known {
			at = len(list)
			place[sort], list = at, append(list, one)
		}
		list[at].Workers++
		list[at].SlotsMax += w.SlotsMax
	}
	return list
}

func statusOf(w postgres.WorkerInfo) api.WorkerStatus {
	switch {
	case w.Silent():
		return api.WorkerStatusSilent
	case w.Draining:
		return api.WorkerStatusDraining
	}
	return api.WorkerStatusServing
}
