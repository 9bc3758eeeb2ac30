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

// errorForm returns the answer to a request that failed, from what went wrong. Header
// fields that do not depend on the form, such as Retry-After, are fail's.
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

// form returns how errors of the request's route are written: asProblem where its row
// does not say, and where there is no route.
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

// note keeps what the request came to for its log line, and counts a transition
// that was refused.
func (s *Server) note(c echo.Context, err error) {
	if about := infoOf(c); about != nil {
		about.err = err
	}
	if t, ok := fault.TransitionOf(err); ok {
		s.Metrics.TransitionRejections.Inc(t.Machine, t.From, t.Event)
	}
}
