package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/run"
)

// listSteps answers the steps of a run in the order of its plan.
func (s *Server) listSteps(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterNumber("steps", -1)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	steps, err := s.Store.Steps(c.Request().Context(), p.Tenant, id, int(min(after, run.MaxSteps)), limit+1)
	if err != nil {
		return err
	}
	steps, next := page(c, "steps", steps, limit, func(s run.Step) string { return strconv.Itoa(s.Index) })
	return answer(c, http.StatusOK, api.StepPage{Items: convert(steps, apiStep), NextCursor: next})
}

// getStep answers a step with its attempts, oldest first.
func (s *Server) getStep(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.StepID, "step_id")
	if err != nil {
		return err
	}
	step, attempts, err := s.Store.Step(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.StepDetail{Step: apiStep(step), Attempts: convert(attempts, apiAttempt)})
}

func apiStep(s run.Step) api.Step {
	out := api.Step{
		ID: run.StepID.Format(s.ID), RunID: run.RunID.Format(s.RunID), Idx: s.Index, Name: s.Name, Tool: s.Tool, Queue: s.Queue,
		Status: api.StepStatus(s.State), Version: s.Version, Attempt: s.Attempt, MaxAttempts: s.MaxAttempts, Attempts: s.Attempts, DependsOn: s.DependsOn,
		FailureClass: ptr(api.FailureClass(s.FailureClass)), Reason: ptr(s.Reason), Outputs: s.Outputs, OutputsOmitted: ptr(s.OutputsOmitted),
		ReadyAt: utc(s.ReadyAt), WaitUntil: utc(s.WaitUntil), SignalKey: ptr(s.SignalKey),
		WorkerSilentSince: utc(s.WorkerSilentSince), WorkerWaitsFor: ptr(s.WorkerWaitsFor), WaitsForWorker: ptr(s.WaitsForWorker), StartedAt: utc(s.StartedAt), FinishedAt: utc(s.FinishedAt),
	}
	if s.RestoredFrom != nil {
		out.RestoredFrom = ptr(run.StepID.Format(*s.RestoredFrom))
	}
	if out.DependsOn == nil {
		out.DependsOn = []string{}
	}
	return out
}

func apiAttempt(a run.Attempt) api.Attempt {
	return api.Attempt{
		Fence: a.Fence, WorkerID: a.Owner, WorkerPid: a.OwnerPID, StartedAt: a.StartedAt.UTC(), EndedAt: utc(a.EndedAt),
		Accepted: a.Accepted, Outcome: ptr(a.Outcome), ExitCode: a.ExitCode, TraceID: a.TraceID, SpanID: a.SpanID,
		Usage: api.Usage{
			CPUMs: ptr(a.Usage.CPUMillis), MaxRssBytes: ptr(a.Usage.MaxRSSBytes), ReadBytes: ptr(a.Usage.ReadBytes), WrittenBytes: ptr(a.Usage.WrittenBytes), RunMs: ptr(a.Usage.RunMillis), BytesNew: ptr(a.Usage.BytesWritten),
			InputTokens: ptr(a.Usage.InputTokens), OutputTokens: ptr(a.Usage.OutputTokens), CachedTokens: ptr(a.Usage.CachedTokens), CostUsd: ptr(a.Usage.CostUSD),
		},
	}
}

// utc returns t in UTC, as answers have it.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
