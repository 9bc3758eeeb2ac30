package httpapi

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
)

// streamPaths are the operations whose streams tickets open, by their paths.
var streamPaths = map[string]*regexp.Regexp{
	"listEvents":    regexp.MustCompile(`^/api/events$`),
	"listRunEvents": regexp.MustCompile(`^/api/runs/run_[0-9a-f]{32}/events$`),
	"getStepLogs":   regexp.MustCompile(`^/api/steps/step_[0-9a-f]{32}/logs$`),
}

// createStreamTicket answers a URL that opens one stream of the caller, for EventSource in
// browsers, which cannot send a header.
func (s *Server) createStreamTicket(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.StreamTicketRequest](c)
	if err != nil {
		return err
	}
	target, err := url.ParseRequestURI(in.Path)
	if err != nil || target.IsAbs() || target.Host != "" || target.RawPath != "" || len(in.Path) > maxURL/2 {
		return fieldFault("invalid-field", "/path", "must be the path and query of a stream")
	}
	query, err := url.ParseQuery(target.RawQuery)
	if err != nil || query.Has(identity.TicketParameter) {
		return fieldFault("invalid-field", "/path", "has a query that cannot be read, or a ticket")
	}
	operations := s.operations()
	at := slices.IndexFunc(operations, func(op operation) bool {
		shape := streamPaths[op.id]
		return shape != nil && shape.MatchString(target.Path)
	})
	if at < 0 || operations[at].id == "getStepLogs" && query.Get("follow") != "1" {
		return fieldFault("invalid-field", "/path", "must be /api/events, /api/runs/RUN/events or /api/steps/STEP/logs?follow=1, and may have a query")
	}
	if err := operations[at].rule.allow(p); err != nil {
		return err
	}
	ticket, expires, err := s.Identity.NewTicket(c.Request().Context(), p, target)
	if err != nil {
		return err
	}
	query.Set(identity.TicketParameter, ticket)
	return answer(c, http.StatusCreated, api.StreamTicket{URL: target.Path + "?" + query.Encode(), ExpiresAt: expires.UTC()})
}

// withoutTicket returns a request without the ticket that it was identified by, which is
// nobody else's business.
func withoutTicket(r *http.Request) *http.Request {
	query := r.URL.Query()
	query.Del(identity.TicketParameter)
	u := *r.URL
	u.RawQuery = query.Encode()
	clean := *r
	clean.URL = &u
	return &clean
}
