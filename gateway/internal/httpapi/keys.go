package httpapi

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// listAPIKeys answers the keys of the tenant without their secrets.
func (s *Server) listAPIKeys(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterID("api-keys")
	if err := q.err(); err != nil {
		return err
	}
	keys, err := s.Store.APIKeys(c.Request().Context(), p.Tenant, after, limit+1)
	if err != nil {
		return err
	}
	keys, next := page(c, "api-keys", keys, limit, func(k postgres.APIKey) string { return k.ID.String() })
	return answer(c, http.StatusOK, api.APIKeyPage{Items: convert(keys, apiKey), NextCursor: next})
}

// createAPIKey creates a key and answers its secret, the only time that it is shown.
func (s *Server) createAPIKey(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.APIKeyRequest](c)
	if err != nil {
		return err
	}
	if err := checkKey(in, s.scopes); err != nil {
		return err
	}
	role := api.RoleService
	if in.Role != nil {
		role = api.Role(*in.Role)
	}
	token := identity.NewToken(s.KeyEnv)
	k := postgres.APIKey{
		ID: token.ID, Name: in.Name, Prefix: token.Prefix, Role: string(role), Scopes: in.Scopes,
		CreatedBy: p.Subject, CreatedAt: time.Now(), ExpiresAt: in.ExpiresAt,
	}
	if err := s.Store.CreateAPIKey(c.Request().Context(), p.Tenant, k, token.SHA256[:]); err != nil {
		return err
	}
	return answer(c, http.StatusCreated, api.CreatedAPIKey{Key: apiKey(k), Secret: token.Text})
}

// checkKey returns all that is wrong with a request for a key, of which scopes are the
// possible ones.
func checkKey(in api.APIKeyRequest, scopes []string) error {
	var fields []fault.Field
	bad := func(at, detail string) { fields = append(fields, fault.Field{Pointer: at, Detail: detail}) }
	if detail := badName(in.Name, 128); detail != "" {
		bad("/name", detail)
	}
	if in.Name != strings.TrimSpace(in.Name) {
		bad("/name", "must not begin or end with white space")
	}
	if strings.HasPrefix(strings.ToLower(in.Name), "key:") {
		bad("/name", "must not begin with key:, which is reserved")
	}
	switch {
	case (in.Role == nil) == (in.Scopes == nil):
		bad("/role", "give exactly one of role and scopes")
	case in.Role != nil && !in.Role.Valid():
		bad("/role", "must be viewer, operator, supervisor or admin")
	case in.Scopes != nil && (len(in.Scopes) == 0 || len(in.Scopes) > 32):
		bad("/scopes", "must have 1 to 32 scopes")
	}
	for i, scope := range in.Scopes {
		if !slices.Contains(scopes, scope) {
			bad("/scopes/"+strconv.Itoa(i), "must be one of "+strings.Join(scopes, ", "))
		} else if slices.Contains(in.Scopes[:i], scope) {
			bad("/scopes/"+strconv.Itoa(i), "is given twice")
		}
	}
	if in.ExpiresAt != nil && !in.ExpiresAt.After(time.Now()) {
		bad("/expires_at", "is in the past")
	}
	if len(fields) == 0 {
		return nil
	}
	return fault.OfFields("invalid-field", fields...)
}

// badName returns why a name for people is refused, or "". Zero-width joiners and
// non-joiners are allowed: Persian, scripts of India and emoji are written with them.
func badName(name string, longest int) string {
	const nonJoiner, joiner = '\u200c', '\u200d'
	joins := func(r rune) bool { return r == nonJoiner || r == joiner }
	seen := false
	for _, r := range name {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) && !joins(r) {
			return "contains invisible characters, or characters that change how others are displayed"
		}
		seen = seen || !unicode.IsSpace(r) && !joins(r)
	}
	switch n := utf8.RuneCountInString(name); {
	case n == 0:
		return "is empty"
	case !seen:
		return "has no visible character"
	case n > longest:
		return fmt.Sprintf("%d characters; at most %d", n, longest)
	}
	return ""
}

// revokeAPIKey revokes a key: at once in this process, within 5 s in others.
func (s *Server) revokeAPIKey(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.KeyID, "key_id")
	if err != nil {
		return err
	}
	if err := s.Store.RevokeAPIKey(c.Request().Context(), p.Tenant, id); err != nil {
		return err
	}
	s.Identity.Forget(id)
	return c.NoContent(http.StatusNoContent)
}

func apiKey(k postgres.APIKey) api.APIKey {
	out := api.APIKey{
		ID: run.KeyID.Format(k.ID), Name: k.Name, Prefix: k.Prefix, Role: api.Role(k.Role), Scopes: k.Scopes,
		CreatedAt: k.CreatedAt.UTC(), ExpiresAt: utc(k.ExpiresAt), RevokedAt: utc(k.RevokedAt), LastUsedAt: utc(k.LastUsedAt),
	}
	if out.Scopes == nil {
		out.Scopes = []string{}
	}
	return out
}
