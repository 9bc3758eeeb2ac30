package httpapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
)

// caller is the outcome of identifying the caller of a request: a principal, nobody, or an
// error.
type caller struct {
	principal *identity.Principal
	err       error
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	who, _ := ctx.Value(callerKey{}).(caller)
	return who
}

// identify identifies the caller of a request before anything else is done. Whether the
// caller may do what it asks for is decided later, where errors are answered.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var who caller
		if strings.HasPrefix(r.URL.Path, "/api/") {
			who.principal, who.err = s.Identity.Identify(r)
			if who.principal != nil && who.principal.Ticket {
				r = withoutTicket(r)
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
	})
}

// allow returns nil when p may, fault.Unauthenticated for nobody, else fault.Forbidden.
func (r rule) allow(p *identity.Principal) error {
	switch {
	case p == nil:
		return fault.New(fault.Unauthenticated, "unauthenticated", "an API key is required, as a Bearer token in the Authorization header")
	case r.anyKey:
		return nil
	}
	return p.Allow(r.role, r.scope)
}

// still returns the check that open streams make: whether p would still be let in to the
// operation of the request.
func (s *Server) still(c echo.Context, p *identity.Principal) func(context.Context) error {
	rule := infoOf(c).operation.rule
	return func(ctx context.Context) error {
		now, err := s.Identity.Current(ctx, p)
		if err != nil {
			return err
		}
		return rule.allow(now)
	}
}

// whoami answers the principal of the caller, as this gateway identified it.
func (s *Server) whoami(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	scopes := p.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	return answer(c, http.StatusOK, api.Whoami{Principal: api.Principal{
		TenantID: p.TenantID(), Tenant: p.Slug, Subject: p.Subject, Name: p.Name, Role: p.Role, Scopes: scopes, Repository: ptr(p.Repository), ExpiresAt: utc(p.Expires),
	}})
}
