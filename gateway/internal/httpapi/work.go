package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// work is a task for a system run.
type work struct {
	tool    string
	key     string // of what is computed: one tool's work with one key is done once
	goal    string // for people
	inputs  any    // of the tool
	subject *uuid.UUID
	again   bool // it is done again once it has ended
}

// startWork returns the system run that does w, which may be one that was started before.
func (s *Server) startWork(ctx context.Context, req *http.Request, p *identity.Principal, w work) (run.Run, error) {
	plan, err := run.SystemPlan(w.tool, w.goal, w.inputs)
	if err != nil {
		return run.Run{}, err
	}
	return s.startPlan(ctx, req, p, plan, w)
}

// startPlan does what startWork does, with a plan that was made for w.
func (s *Server) startPlan(ctx context.Context, req *http.Request, p *identity.Principal, plan run.Plan, w work) (run.Run, error) {
	ctx, span := s.tracer.Start(ctx, "run.create")
	defer span.End()
	r, err := s.Store.StartWork(ctx, p.Tenant, postgres.Work{
		Key: w.tool + "/" + w.key, Project: defaultProject, Plan: plan, SubjectRunID: w.subject, Again: w.again,
		CorrelationID: req.Header.Get("X-Correlation-Id"), CreatedBy: p.Subject,
	})
	span.SetAttributes(telemetry.RunIDKey.String(run.RunID.Format(r.ID)))
	return r, err
}

// How long a request waits for a system run, in seconds, and how often it looks, a pause
// that doubles.
const (
	maxWait     = 25
	defaultWait = 20
	lookFirst   = 20 * time.Millisecond
	lookLast    = time.Second
)

// waitFor returns the parameter wait_s, how long the caller waits for a system run.
func waitFor(q *query) time.Duration {
	return time.Duration(q.number("wait_s", 0, maxWait, defaultWait)) * time.Second
}

// ended returns r as it is when it has ended, or as it was last after wait.
func (s *Server) ended(ctx context.Context, r run.Run, wait time.Duration) (run.Run, error) {
	if run.RunMachine.Terminal(r.State) {
		return r, nil
	}
	err := look(ctx, wait, func() (over bool, err error) {
		r, err = s.Store.Run(ctx, r.TenantID, r.ID)
		return run.RunMachine.Terminal(r.State), err
	})
	return r, err
}

// look calls read, with pauses, until it reports that something is over, at least once and
// for at most wait.
func look(ctx context.Context, wait time.Duration, read func() (over bool, err error)) error {
	end := time.NewTimer(wait)
	defer end.Stop()
	for pause := lookFirst; ; pause = min(2*pause, lookLast) {
		if over, err := read(); over || err != nil {
			return err
		}
		next := time.NewTimer(pause)
		select {
		case <-next.C:
		case <-end.C:
			next.Stop()
			return nil
		case <-ctx.Done():
			next.Stop()
			return ctx.Err()
		}
	}
}

// started returns the answer 202 with body, which names r, for a request with an
// Idempotency-Key: what becomes of r is looked up for each answer.
func started(r run.Run, body any) postgres.Answer {
	return postgres.Answer{
		Status: http.StatusAccepted,
		Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "Location": "/api/runs/" + run.RunID.Format(r.ID), "Retry-After": "1"},
		Body:   encode(body),
	}
}

// awaited waits for the system run that a stored answer names by id, once its body was
// decoded into out. over reports that the run has ended; before that, awaited sends the
// answer as it was stored, and so it does with a refusal.
func (s *Server) awaited(c echo.Context, p *identity.Principal, a postgres.Answer, wait time.Duration, out any, id func() string) (r run.Run, over bool, err error) {
	if a.Status != http.StatusAccepted {
		return r, false, s.send(c, a)
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		return r, false, fmt.Errorf("stored answer: %w", err)
	}
	parsed, err := run.RunID.Parse(id())
	if err != nil {
		return r, false, err
	}
	ctx := c.Request().Context()
	if r, err = s.Store.Run(ctx, p.Tenant, parsed); err != nil {
		return r, false, err
	}
	if r, err = s.ended(ctx, r, wait); err != nil {
		return r, false, err
	}
	if !run.RunMachine.Terminal(r.State) {
		return r, false, s.send(c, a)
	}
	return r, true, failpoint.Hit(failpoint.BeforeResponse)
}

// accepted answers 202 with body: r has not ended yet.
func accepted(c echo.Context, r run.Run, body any) error {
	c.Response().Header().Set("Location", "/api/runs/"+run.RunID.Format(r.ID))
	c.Response().Header().Set("Retry-After", "1")
	return answer(c, http.StatusAccepted, body)
}

// workFailed returns the refusal for a system run that ended without its result.
func workFailed(r run.Run) error {
	id := run.RunID.Format(r.ID)
	if r.FailureClass == run.ClassInvalid || r.FailureClass == run.ClassWorkspaceConflict {
		return fault.New(fault.Conflict, "system-run-failed", "%s (run %s)", r.Reason, id)
	}
	return fault.New(fault.Conflict, "system-run-failed", "run %s, which does the work, is %s: %s; repeat the request to start another", id, r.State, r.Reason)
}
