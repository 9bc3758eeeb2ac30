package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// cancelRun ends a run and all of it that has not ended.
func (s *Server) cancelRun(c echo.Context, p *identity.Principal) error {
	return s.verb(c, p, true, s.Store.CancelRun)
}

// pauseRun keeps further steps of a run from starting.
func (s *Server) pauseRun(c echo.Context, p *identity.Principal) error {
	return s.verb(c, p, false, s.Store.PauseRun)
}

// resumeRun continues a run that was paused or cancelled, or that failed.
func (s *Server) resumeRun(c echo.Context, p *identity.Principal) error {
	return s.verb(c, p, true, s.Store.ResumeRun)
}

// retryRun runs the failed steps of a run again.
func (s *Server) retryRun(c echo.Context, p *identity.Principal) error {
	return s.verb(c, p, true, s.Store.RetryRun)
}

// verb changes a run by do and answers it. heavy says that do changes the run's steps as
// well.
func (s *Server) verb(c echo.Context, p *identity.Principal, heavy bool, do func(context.Context, uuid.UUID, uuid.UUID, postgres.Verb) (run.Run, error)) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in, err := readOptionalJSON[api.Reason](c)
	if err != nil {
		return err
	}
	var reason string
	var changed run.Run
	a, err := s.once(c, p, request{
		body: encode(in),
		check: func() (err error) {
			reason, err = s.cleanReason(in.Reason)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			if heavy {
				if err := s.weighRun(ctx, p, id); err != nil {
					return postgres.Answer{}, err
				}
			}
			if changed, err = do(ctx, p.Tenant, id, postgres.Verb{Reason: reasonOr(p, reason), Version: version}); err != nil {
				return postgres.Answer{}, err
			}
			return postgres.Answer{
				Status: http.StatusOK,
				Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "ETag": etag(changed.Version)},
				Body:   encode(api.RunAnswer{Run: apiRun(changed)}),
			}, nil
		},
	})
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	if changed.Version != 0 { // and no stored answer
		linkToRun(trace.SpanFromContext(ctx), changed)
		s.countEnd(ctx, changed)
	}
	return s.send(c, a)
}

// rerunRun starts a new run of the plan of one that has ended, in the same project.
func (s *Server) rerunRun(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	if _, err := readOptionalJSON[struct{}](c); err != nil {
		return err
	}
	_, span := s.tracer.Start(c.Request().Context(), "run.create")
	defer span.End()
	return s.answerOnce(c, p, request{
		body:  []byte("{}"),
		check: func() error { return nil },
		do: func(ctx context.Context) (postgres.Answer, error) {
			before, err := s.Store.Run(ctx, p.Tenant, id)
			if err != nil {
				return postgres.Answer{}, err
			}
			if before.Kind == run.SystemRun {
				return postgres.Answer{}, fault.New(fault.Conflict, "system-run", "a system run cannot be run again; repeat the request that started it")
			}
			if !run.RunMachine.Terminal(before.State) {
				return postgres.Answer{}, notOver(before)
			}
			linkToRun(span, before)
			var plan run.Plan
			if err := json.Unmarshal(before.Plan, &plan); err != nil {
				return postgres.Answer{}, fmt.Errorf("plan of run %s: %w", before.ID, err)
			}
			// What a plan may hold can have changed since.
			if plan, err = plan.Normalise(); err != nil {
				return postgres.Answer{}, err
			}
			return s.startRun(ctx, c.Request(), p, before.Project, plan, span)
		},
	})
}

// notOver returns the refusal to rerun a run that has not ended. The machine has no such
// event, since a rerun is another run.
func notOver(r run.Run) error {
	var allowed []string
	for _, t := range run.RunMachine.Transitions() {
		if t.From == r.State {
			allowed = append(allowed, t.Event)
		}
	}
	return fault.OfTransition(fault.Transition{Machine: run.RunMachine.String(), From: string(r.State), Event: "rerun", Allowed: allowed})
}

// reasonOr returns the reason given, or one that names the caller, for transitions that
// need one.
func reasonOr(p *identity.Principal, given string) string {
	if given == "" {
		return fmt.Sprintf("requested by %s (%s)", p.Subject, p.Name)
	}
	return given
}

// countEnd counts a run that the request ended.
func (s *Server) countEnd(ctx context.Context, r run.Run) {
	if run.RunMachine.Terminal(r.State) && r.FinishedAt != nil && r.Kind == run.PlanRun {
		s.Metrics.RunsFinished.Inc(string(r.State))
		s.Metrics.RunDuration.Observe(ctx, r.FinishedAt.Sub(r.CreatedAt).Seconds(), string(r.State))
	}
}

// readReason returns the reason in an optional body.
func (s *Server) readReason(c echo.Context) (string, error) {
	in, err := readOptionalJSON[api.Reason](c)
	if err != nil {
		return "", err
	}
	return s.cleanReason(in.Reason)
}

// cleanReason returns the reason that a caller gave, with secrets masked: people paste what
// they saw, and a reason goes into events, logs and outputs of steps.
func (s *Server) cleanReason(given *string) (string, error) {
	if given == nil {
		return "", nil
	}
	reason := strings.TrimSpace(*given)
	if n := utf8.RuneCountInString(reason); n > run.MaxReason {
		return "", fieldFault("invalid-field", "/reason", fmt.Sprintf("%d characters; at most %d", n, run.MaxReason))
	}
	return s.Redactor.String(reason), nil
}
