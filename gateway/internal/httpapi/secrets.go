package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// listSecrets answers the secrets of the tenant, by name, without what they are.
func (s *Server) listSecrets(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit := q.limit(200)
	after, _ := q.place("secrets")
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Secrets(c.Request().Context(), p.Tenant, after, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "secrets", list, limit, func(x postgres.Secret) string { return x.Name })
	return answer(c, http.StatusOK, api.SecretPage{Items: convert(list, apiSecret), NextCursor: next})
}

// secretName returns the name in the path of a request.
func secretName(c echo.Context) (string, error) {
	if err := noQuery(c); err != nil {
		return "", err
	}
	name := c.Param("secret_name")
	if run.BadSecretName(name) != "" {
		return "", fault.New(fault.NotFound, "not-found", "no such secret")
	}
	return name, nil
}

// getSecret answers a secret, without what it is.
func (s *Server) getSecret(c echo.Context, p *identity.Principal) error {
	name, err := secretName(c)
	if err != nil {
		return err
	}
	x, err := s.Store.Secret(c.Request().Context(), p.Tenant, name)
	if err != nil {
		return err
	}
	setETag(c, x.Version)
	return answer(c, http.StatusOK, api.SecretAnswer{Secret: apiSecret(x)})
}

// setSecret seals a secret and stores it. Nothing is written while the key is missing, or is
// another one than secrets are sealed with.
func (s *Server) setSecret(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	name := c.Param("secret_name")
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in, _, err := readJSON[api.SecretRequest](c)
	if err != nil {
		return err
	}
	if detail := run.BadSecretName(name); detail != "" {
		return fieldFault("invalid-field", "", "the name "+detail)
	}
	if detail := run.BadSecretValue(in.Value); detail != "" {
		return fieldFault("invalid-field", "/value", detail)
	}
	ctx := c.Request().Context()
	if err := s.Store.CheckKey(ctx, s.Keys); err != nil {
		return err
	}
	x, err := s.Store.SetSecret(ctx, p.Tenant, name, version, func(next postgres.SealedSecret) ([]byte, error) {
		return s.Keys.Seal([]byte(in.Value), next.Bound()...)
	})
	if err != nil {
		return err
	}
	setETag(c, x.Version)
	return answer(c, http.StatusOK, api.SecretAnswer{Secret: apiSecret(x)})
}

// deleteSecret deletes a secret. It needs no key.
func (s *Server) deleteSecret(c echo.Context, p *identity.Principal) error {
	name, err := secretName(c)
	if err != nil {
		return err
	}
	if err := s.Store.DeleteSecret(c.Request().Context(), p.Tenant, name); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func apiSecret(x postgres.Secret) api.Secret {
	return api.Secret{Name: x.Name, Version: x.Version, CreatedBy: x.CreatedBy, CreatedAt: x.CreatedAt.UTC(), UpdatedBy: x.UpdatedBy, UpdatedAt: x.UpdatedAt.UTC()}
}
