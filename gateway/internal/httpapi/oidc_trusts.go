package httpapi

import (
	"fmt"
	"math"
	"net/http"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// listOIDCTrusts answers the repositories whose workflows are trusted, newest first.
func (s *Server) listOIDCTrusts(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterID("oidc-trusts")
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.OIDCTrusts(c.Request().Context(), p.Tenant, after, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "oidc-trusts", list, limit, func(t postgres.OIDCTrust) string { return t.ID.String() })
	return answer(c, http.StatusOK, api.OIDCTrustPage{Items: convert(list, apiTrust), NextCursor: next})
}

// createOIDCTrust lets the workflows of a repository start and read its reviews.
func (s *Server) createOIDCTrust(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.OIDCTrustRequest](c)
	if err != nil {
		return err
	}
	t, err := newTrust(in)
	if err != nil {
		return err
	}
	t.CreatedBy = p.Subject
	made, err := s.Store.CreateOIDCTrust(c.Request().Context(), p.Tenant, t)
	if err != nil {
		return err
	}
	s.Identity.ForgetTrusts()
	return answer(c, http.StatusCreated, api.OIDCTrustAnswer{Trust: apiTrust(made)})
}

// newTrust returns the trust that in asks for, or all that is wrong with it.
func newTrust(in api.OIDCTrustRequest) (postgres.OIDCTrust, error) {
	t := postgres.OIDCTrust{Repository: in.Repository, RepositoryID: in.RepositoryID, RepositoryOwnerID: in.RepositoryOwnerID}
	var fields []fault.Field
	bad := func(at, detail string) { fields = append(fields, fault.Field{Pointer: at, Detail: detail}) }
	if !repositoryShape.MatchString(in.Repository) {
		bad("/repository", "must be "+repositoryShape.words)
	}
	for at, n := range map[string]int64{"/repository_id": in.RepositoryID, "/repository_owner_id": in.RepositoryOwnerID} {
		if n < 1 || n > math.MaxInt64/10 {
			bad(at, "must be the number that GitHub has given it")
		}
	}
	condition := func(at string, given *string, into *string, longest int) {
		if given == nil {
			return
		}
		*into = *given
		if n := utf8.RuneCountInString(*given); n == 0 || n > longest || run.BadText(*given) != "" {
			bad(at, fmt.Sprintf("must have 1 to %d characters", longest))
		}
	}
	condition("/ref", in.Ref, &t.Ref, 255)
	condition("/job_workflow_ref", in.JobWorkflowRef, &t.JobWorkflowRef, 512)
	condition("/event_name", in.EventName, &t.EventName, 64)
	if len(fields) > 0 {
		return t, fault.OfFields("invalid-field", fields...)
	}
	return t, nil
}

// deleteOIDCTrust takes a trust back: its tokens are refused at once in this process, within 5 s in others.
func (s *Server) deleteOIDCTrust(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.TrustID, "trust_id")
	if err != nil {
		return err
	}
	if err := s.Store.DeleteOIDCTrust(c.Request().Context(), p.Tenant, id); err != nil {
		return err
	}
	s.Identity.ForgetTrusts()
	return c.NoContent(http.StatusNoContent)
}

func apiTrust(t postgres.OIDCTrust) api.OIDCTrust {
	return api.OIDCTrust{
		ID: run.TrustID.Format(t.ID), Repository: t.Repository, RepositoryID: t.RepositoryID, RepositoryOwnerID: t.RepositoryOwnerID,
		Ref: ptr(t.Ref), JobWorkflowRef: ptr(t.JobWorkflowRef), EventName: ptr(t.EventName), CreatedBy: t.CreatedBy, CreatedAt: t.CreatedAt.UTC(),
	}
}
