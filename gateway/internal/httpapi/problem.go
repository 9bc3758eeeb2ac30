package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// kinds has the status of each kind of error, and the code of an error that carries none of
// the contract's codes. A kind that is not here, and an error without a kind, is 500, and
// its text is not shown.
var kinds = map[fault.Kind]struct {
	status int
	code   api.ProblemCode
}{
	fault.Invalid:         {http.StatusUnprocessableEntity, api.ProblemCodeInvalidField},
	fault.Unauthenticated: {http.StatusUnauthorized, api.ProblemCodeUnauthenticated},
	fault.Forbidden:       {http.StatusForbidden, api.ProblemCodeForbidden},
	fault.NotFound:        {http.StatusNotFound, api.ProblemCodeNotFound},
	fault.Conflict:        {http.StatusConflict, api.ProblemCodeIllegalTransition},
	fault.Gone:            {http.StatusGone, api.ProblemCodeObjectGone},
	fault.RateLimited:     {http.StatusTooManyRequests, api.ProblemCodeRateLimited},
	fault.Unavailable:     {http.StatusServiceUnavailable, api.ProblemCodeUnavailable},
}

// unlike are the codes whose status is not their kind's.
var unlike = map[api.ProblemCode]int{
	api.ProblemCodeMalformedJSON:        http.StatusBadRequest,
	api.ProblemCodeUnknownField:         http.StatusBadRequest,
	api.ProblemCodeDuplicateKey:         http.StatusBadRequest,
	api.ProblemCodeTooDeep:              http.StatusBadRequest,
	api.ProblemCodeBadParameter:         http.StatusBadRequest,
	api.ProblemCodeBadCursor:            http.StatusBadRequest,
	api.ProblemCodeMethodNotAllowed:     http.StatusMethodNotAllowed,
	api.ProblemCodeTooLarge:             http.StatusRequestEntityTooLarge,
	api.ProblemCodeUnsupportedMediaType: http.StatusUnsupportedMediaType,
	api.ProblemCodeRangeNotSatisfiable:  http.StatusRequestedRangeNotSatisfiable,
}

// statusClientGone is for the log: nobody reads the answer.
const statusClientGone = 499

// tooLarge is the error of a request line or header beyond its limit. Its status is not the
// one that its code has for bodies.
type tooLarge struct {
	status int
	detail string
}

func (e tooLarge) Error() string { return e.detail }

func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

// problem returns err as a client sees it, and as it is kept under an Idempotency-Key. The
// secrets that it quotes from the request are masked.
func (s *Server) problem(r *http.Request, err error) api.Problem {
	p := api.Problem{Status: http.StatusInternalServerError, Code: api.ProblemCodeInternal,
		Detail: "an internal error occurred; the trace id finds it in the logs", Instance: r.URL.EscapedPath()}
	p.TraceID, _ = telemetry.IDs(r.Context())
	var route *echo.HTTPError
	if e, ok := errors.AsType[*fault.Error](err); ok {
		describe(&p, e, r.Header.Get("If-Match") != "")
		s.addFacts(&p, err)
	} else if large, ok := errors.AsType[tooLarge](err); ok {
		p.Status, p.Code, p.Detail = large.status, api.ProblemCodeTooLarge, large.detail
	} else if errors.As(err, &route) {
		switch route.Code {
		case http.StatusNotFound:
			p.Status, p.Code, p.Detail = route.Code, api.ProblemCodeNotFound, "this path does not exist"
		case http.StatusMethodNotAllowed:
			p.Status, p.Code, p.Detail = route.Code, api.ProblemCodeMethodNotAllowed, r.Method+" is not supported at this path"
		}
	} else if errors.Is(err, context.DeadlineExceeded) {
		p.Status, p.Code, p.Detail = http.StatusServiceUnavailable, api.ProblemCodeUnavailable, "the request took too long"
	}
	p.Title = http.StatusText(p.Status)
	p.Type = "urn:nofx:problem:" + string(p.Code)
	s.mask(&p, r.URL.Path)
	return p
}

// mask masks the secrets in the texts of p and in its path.
func (s *Server) mask(p *api.Problem, path string) {
	p.Detail = s.Redactor.String(p.Detail)
	for i, f := range p.Errors {
		p.Errors[i].Pointer, p.Errors[i].Detail = s.Redactor.String(f.Pointer), s.Redactor.String(f.Detail)
		if f.Step != nil {
			p.Errors[i].Step = ptr(s.Redactor.String(*f.Step))
		}
	}
	if clean := s.Redactor.String(path); clean != path {
		p.Instance = (&url.URL{Path: clean}).EscapedPath()
	}
}

func describe(p *api.Problem, e *fault.Error, conditional bool) {
	k, ok := kinds[e.Kind]
	if !ok {
		return
	}
	p.Status, p.Code, p.Detail = k.status, k.code, e.Detail
	if code := api.ProblemCode(e.Code); code.Valid() {
		p.Code = code
	}
	if status, ok := unlike[p.Code]; ok {
		p.Status = status
	}
	if p.Code == api.ProblemCodeStaleVersion && conditional {
		p.Status = http.StatusPreconditionFailed
	}
	for _, f := range e.Fields {
		p.Errors = append(p.Errors, api.FieldError{Pointer: f.Pointer, Step: ptr(f.Step), Detail: f.Detail})
	}
}

// addFacts adds the typed facts of err: the transition that was refused, the current version,
// the gate that somebody else decided, the cursor to go on from.
func (s *Server) addFacts(p *api.Problem, err error) {
	if p.Code == api.ProblemCodeIllegalTransition {
		p.Allowed = []string{} // said even when there is none
	}
	if t, ok := fault.TransitionOf(err); ok {
		p.From, p.Event = ptr(t.From), ptr(cmp.Or(s.asked[t.Machine+"."+t.Event], t.Event))
		for _, event := range t.Allowed {
			if name := s.asked[t.Machine+"."+event]; name != "" { // the others are the system's own
				p.Allowed = append(p.Allowed, name)
			}
		}
	}
	if stale, ok := fault.StaleOf(err); ok {
		p.Version = ptr(stale.Version)
	}
	if d, ok := errors.AsType[decided](err); ok {
		gate := apiGate(d.gate)
		p.Gate = &gate
	}
	if ambiguous, ok := errors.AsType[*postgres.AmbiguousBase](err); ok {
		p.Bases = convert(ambiguous.Bases, run.CheckpointID.Format)
	}
	if lost, ok := errors.AsType[lostEvents](err); ok {
		p.Oldest = &lost.oldest
	}
}
