package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

// retryStep runs a failed step again.
func (s *Server) retryStep(c echo.Context, p *identity.Principal) error {
	in, err := readOptionalJSON[api.StepRetry](c)
	if err != nil {
		return err
	}
	return s.retry(c, p, in)
}

// requeueDeadLetter runs a step again as retryStep does, for those who work through the
// dead letters.
func (s *Server) requeueDeadLetter(c echo.Context, p *identity.Principal) error {
	in, err := readOptionalJSON[api.Reason](c)
	if err != nil {
		return err
	}
	return s.retry(c, p, api.StepRetry{Reason: in.Reason})
}

func (s *Server) retry(c echo.Context, p *identity.Principal, in api.StepRetry) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.StepID, "step_id")
	if err != nil {
		return err
	}
	var reason string
	a, err := s.once(c, p, request{
		body: encode(in),
		check: func() (err error) {
			reason, err = s.cleanReason(in.Reason)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			a, err := s.retryOne(ctx, p, id, in.Cascade == nil || *in.Cascade, reason)
			if err != nil {
				return postgres.Answer{}, err
			}
			return postgres.Answer{Status: http.StatusOK, Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON}, Body: encode(a)}, nil
		},
	})
	if err != nil {
		return s.insteadOfRetry(c.Request().Context(), p.Tenant, id, err)
	}
	return s.send(c, a)
}

// insteadOfRetry returns err, with the reason and the way out added where it refuses to
// retry a step that ended with its run.
func (s *Server) insteadOfRetry(ctx context.Context, tenant, id uuid.UUID, err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Code != string(api.ProblemCodeIllegalTransition) {
		return err
	}
	step, _, readErr := s.Store.Step(ctx, tenant, id)
	if readErr != nil || step.State != run.Cancelled && step.State != run.Skipped {
		return err
	}
	r, readErr := s.Store.Run(ctx, tenant, step.RunID)
	if readErr != nil || r.State != run.Failed && r.State != run.Cancelled {
		return err
	}
	why := fmt.Sprintf("the run is %s", r.State)
	if r.State == run.Failed && r.Deadline != nil && r.FinishedAt != nil && !r.FinishedAt.Before(*r.Deadline) {
		why = "the run's deadline has passed"
	}
	e.Detail += ": " + why + "; retry the run, which then gets its whole deadline_s again"
	return e
}

func (s *Server) retryOne(ctx context.Context, p *identity.Principal, id uuid.UUID, cascade bool, reason string) (api.StepAnswer, error) {
	if err := s.weighRun(ctx, p, id); err != nil {
		return api.StepAnswer{}, err
	}
	step, r, err := s.Store.RetryStep(ctx, p.Tenant, id, cascade, reasonOr(p, reason))
	if err != nil {
		return api.StepAnswer{}, err
	}
	linkToRun(trace.SpanFromContext(ctx), r)
	return api.StepAnswer{Step: apiStep(step), Run: apiRun(r)}, nil
}

// deadLetterClasses are the failure classes of steps that are not retried automatically.
var deadLetterClasses = []run.FailureClass{run.ClassExhausted, run.ClassPoisoned}

// maxTool is the length in characters that the filter by tool may have.
const maxTool = 80

// listDeadLetters answers the steps that failed and are not retried any more.
func (s *Server) listDeadLetters(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit := q.limit(200)
	tool, _ := q.text("tool")
	if utf8.RuneCountInString(tool) > maxTool {
		q.bad("tool", fmt.Sprintf("has more than %d characters", maxTool))
	}
	f := postgres.DeadLetterFilter{
		Tool: tool, Class: oneOf(q, "failure_class", deadLetterClasses...), Project: q.slug("project"),
		Before: q.afterID("dead-letters"), Limit: limit + 1,
	}
	if err := q.err(); err != nil {
		return err
	}
	letters, err := s.Store.DeadLetters(c.Request().Context(), p.Tenant, f)
	if err != nil {
		return err
	}
	letters, next := page(c, "dead-letters", letters, limit, func(l postgres.DeadLetter) string { return l.Step.ID.String() })
	return answer(c, http.StatusOK, api.DeadLetterPage{Items: convert(letters, apiDeadLetter), NextCursor: next})
}

// requeueDeadLetters retries a batch of dead letters, the newest first. To empty the list,
// a client repeats the request until the answer is empty.
func (s *Server) requeueDeadLetters(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.Requeue](c)
	if err != nil {
		return err
	}
	f, err := requeueFilter(in)
	if err != nil {
		return err
	}
	reason, err := s.cleanReason(in.Reason)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	letters, err := s.Store.DeadLetters(ctx, p.Tenant, f)
	if err != nil {
		return err
	}
	out := api.Requeued{Requeued: []api.StepAnswer{}}
	for _, l := range letters {
		a, err := s.retryOne(ctx, p, l.Step.ID, true, reason)
		if errors.Is(err, fault.Conflict) || errors.Is(err, fault.NotFound) {
			continue // it was retried meanwhile
		}
		if errors.Is(err, fault.RateLimited) && len(out.Requeued) > 0 {
			break // the next request gets the error
		}
		if err != nil {
			return err
		}
		out.Requeued = append(out.Requeued, a)
	}
	return answer(c, http.StatusOK, out)
}

func requeueFilter(in api.Requeue) (f postgres.DeadLetterFilter, err error) {
	f.Limit = 50
	if in.Limit != nil {
		f.Limit = *in.Limit
	}
	if f.Limit < 1 || f.Limit > 200 {
		return f, fieldFault("invalid-field", "/limit", "must be a number from 1 to 200")
	}
	if in.FailureClass != nil {
		f.Class = run.FailureClass(*in.FailureClass)
		if f.Class != run.ClassExhausted && f.Class != run.ClassPoisoned {
			return f, fieldFault("invalid-field", "/failure_class", fmt.Sprintf("must be one of %v", deadLetterClasses))
		}
	}
	if in.Project != nil {
		if f.Project = *in.Project; !slugShape.MatchString(f.Project) {
			return f, fieldFault("invalid-field", "/project", "is "+slugShape.words)
		}
	}
	if in.Tool != nil {
		if f.Tool = *in.Tool; utf8.RuneCountInString(f.Tool) > maxTool {
			return f, fieldFault("invalid-field", "/tool", fmt.Sprintf("has more than %d characters", maxTool))
		}
	}
	return f, nil
}

func apiDeadLetter(l postgres.DeadLetter) api.StepAnswer {
	return api.StepAnswer{Step: apiStep(l.Step), Run: apiRun(l.Run)}
}
