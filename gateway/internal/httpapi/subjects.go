package httpapi

import (
	"net/http"
	"regexp"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// subjectShape is that of the contract's TokenSubject.
var subjectShape = regexp.MustCompile(`^(user|oidc):[A-Za-z0-9._:@|=+-]{1,128}$`)

// listSubjects answers the people and workflows of other issuers that were seen or revoked.
func (s *Server) listSubjects(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit := q.limit(200)
	after, given := q.place("subjects")
	if given && !subjectShape.MatchString(after) {
		q.cursor = badCursor()
	}
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Subjects(c.Request().Context(), p.Tenant, after, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "subjects", list, limit, func(s postgres.Subject) string { return s.Subject })
	return answer(c, http.StatusOK, api.TokenSubjectPage{Items: convert(list, tokenSubject), NextCursor: next})
}

// revokeSubject refuses the tokens of a subject that were issued until now: at once in this
// process, within 5 s in others. Its streams end when they are checked next.
func (s *Server) revokeSubject(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	subject := c.Param("subject")
	if !subjectShape.MatchString(subject) {
		return fault.New(fault.NotFound, "not-found", "no such subject")
	}
	reason, err := s.readReason(c)
	if err != nil {
		return err
	}
	revoked, err := s.Store.RevokeSubject(c.Request().Context(), p.Tenant, subject, p.Subject, reason)
	if err != nil {
		return err
	}
	s.Identity.ForgetSubject(p.Tenant, subject)
	return answer(c, http.StatusOK, api.TokenSubjectAnswer{Subject: tokenSubject(revoked)})
}

func tokenSubject(s postgres.Subject) api.TokenSubject {
	return api.TokenSubject{
		Subject: s.Subject, Name: ptr(s.Name), SeenAt: utc(s.SeenAt), RevokedBefore: utc(s.RevokedBefore),
		RevokedBy: ptr(s.RevokedBy), RevokedByName: ptr(s.RevokedByName), Reason: ptr(s.Reason),
	}
}
