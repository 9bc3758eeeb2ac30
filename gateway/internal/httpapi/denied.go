package httpapi

import (
	"context"
	"net/http"
	"strings"
	"unicode"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/postgres"
)

// privileged reports whether an operation does what only supervisors or administrators may.
func (op operation) privileged() bool {
	return op.method != http.MethodGet && (op.rule.role == api.RoleSupervisor || op.rule.role == api.RoleAdmin)
}

// actingAs returns ctx with the caller as the actor of what is done under it.
func actingAs(ctx context.Context, p *identity.Principal) context.Context {
	return postgres.WithVia(postgres.WithActor(ctx, p.Subject), p.Via())
}

// denied returns refusal, a caller's lack of a right to op, once the audit log has it. It
// counts against the caller's rate, so that a flood of refusals costs the database as little
// as one of requests.
func (s *Server) denied(c echo.Context, p *identity.Principal, op operation, refusal error) error {
	if err := s.throttle(p); err != nil {
		return err
	}
	if err := s.auditDenied(c, p, op); err != nil {
		return err
	}
	return refusal
}

func (s *Server) auditDenied(c echo.Context, p *identity.Principal, op operation) error {
	return s.Store.AuditDenied(actingAs(c.Request().Context(), p), p.Tenant, op.id, s.subjectOf(c, op))
}

// subjectOf returns what a request is about, for the audit log: the last id in its path, or
// the path. Callers may have written anything there.
func (s *Server) subjectOf(c echo.Context, op operation) string {
	const longest = 200
	values := c.ParamValues()
	if len(values) == 0 {
		return op.path
	}
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(values[len(values)-1], "\uFFFD"))
	if runes := []rune(clean); len(runes) > longest {
		clean = string(runes[:longest])
	}
	if clean == "" {
		return op.path
	}
	return s.Redactor.String(clean)
}
