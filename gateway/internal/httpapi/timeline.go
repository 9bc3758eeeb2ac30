package httpapi

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/run"
)

// getTimeline answers when each step of a run waited and ran, for charts.
func (s *Server) getTimeline(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	t, err := s.Store.Timeline(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.Timeline{
		Run: apiRun(t.Run), At: t.At.UTC(), Items: convert(t.Rows, func(r run.TimelineRow) api.TimelineItem { return apiTimelineItem(r, t.At) }),
	})
}

func apiTimelineItem(r run.TimelineRow, now time.Time) api.TimelineItem {
	return api.TimelineItem{
		Step: apiStep(r.Step), WaitMs: r.Waited(now).Milliseconds(), RunMs: r.Ran(now).Milliseconds(),
		Attempts: convert(r.Attempts, func(a run.TimedAttempt) api.TimelineAttempt {
			return api.TimelineAttempt{Attempt: apiAttempt(a.Attempt), WaitMs: a.Wait.Milliseconds(), RunMs: a.Took(now).Milliseconds()}
		}),
		Spans: convert(r.Spans, func(s run.Span) api.TimelineSpan {
			return api.TimelineSpan{Status: api.StepStatus(s.State), StartedAt: s.Start.UTC(), EndedAt: utc(s.End)}
		}),
	}
}
