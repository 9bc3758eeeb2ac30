package httpapi

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// errorForm returns the answer to a failed request in some media type. Header fields that
// do not depend on the media type, such as Retry-After, are set by fail.
type errorForm func(r *http.Request, p api.Problem) postgres.Answer

const mimeProblem = "application/problem+json"

// asProblem writes an error as the API does, by RFC 9457.
func asProblem(_ *http.Request, p api.Problem) postgres.Answer {
	header := map[string]string{"Content-Type": mimeProblem}
	if p.Status == http.StatusUnauthorized {
		header["WWW-Authenticate"] = `Bearer realm="nofx"`
	}
	return postgres.Answer{Status: p.Status, Header: header, Body: encode(p)}
}

// form returns the error form of the request's route: asProblem where its row names none,
// and where there is no route.
func (s *Server) form(c echo.Context) errorForm {
	if form := s.routes[c.Path()].errors; form != nil {
		return form
	}
	return asProblem
}

// fail answers with err in the form of the route, unless nobody waits for it. It reports
// whether the answer is broken: one that has begun already must be cut off, so that the
// client does not take a part of it for the whole.
func (s *Server) fail(c echo.Context, err error) (broken bool) {
	r := c.Request()
	s.note(c, err)
	if c.Response().Committed {
		return true
	}
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		c.Response().Status = statusClientGone
		return true // or net/http would answer 200 to whoever still reads
	}
	p := s.problem(r, err)
	header := c.Response().Header()
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Disposition", "ETag"} {
		header.Del(name) // of the answer that it was to be
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && e.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	} else if p.Status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "2")
	}
	return write(c, s.form(c)(r, p)) != nil
}

// note keeps err for the log line of the request, and counts a transition that was
// refused.
func (s *Server) note(c echo.Context, err error) {
	if about := infoOf(c); about != nil {
		about.err = err
	}
	if t, ok := fault.TransitionOf(err); ok {
		s.Metrics.TransitionRejections.Inc(t.Machine, t.From, t.Event)
	}
}
