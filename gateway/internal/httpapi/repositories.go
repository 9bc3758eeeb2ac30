package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// webhookSecret returns the secret that a repository's webhook signs its requests with.
// It is derived: the database has nothing that could sign one.
func (s *Server) webhookSecret(r postgres.Repository) string {
	h := hmac.New(sha256.New, s.WebhookKey)
	h.Write([]byte("nofx webhook 1\x00"))
	h.Write(r.ID[:])
	_ = binary.Write(h, binary.BigEndian, int64(r.SecretVersion)) // a hash takes all
	return "nofx_whs_" + hex.EncodeToString(h.Sum(nil))
}

func (s *Server) webhookOf(r postgres.Repository) *api.RepositoryWebhook {
	return &api.RepositoryWebhook{Path: "/api/webhooks/" + string(r.Provider) + "?repository=" + run.RepositoryID.Format(r.ID), Secret: s.webhookSecret(r)}
}

// webhooksOff returns the refusal of a gateway that cannot derive secrets.
func (s *Server) webhooksOff() error {
	if len(s.WebhookKey) > 0 {
		return nil
	}
	return fault.New(fault.Conflict, "webhooks-off", "the gateway has no key for the secrets of webhooks (NOFX_WEBHOOK_KEY)")
}

// listRepositories answers the repositories whose webhooks start reviews, newest first.
func (s *Server) listRepositories(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, before := q.limit(200), q.afterID("repositories")
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Repositories(c.Request().Context(), p.Tenant, before, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "repositories", list, limit, func(r postgres.Repository) string { return r.ID.String() })
	return answer(c, http.StatusOK, api.RepositoryPage{Items: convert(list, apiRepository), NextCursor: next})
}

// getRepository answers a repository with its policy.
func (s *Server) getRepository(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RepositoryID, "repository_id")
	if err != nil {
		return err
	}
	r, err := s.Store.Repository(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	setETag(c, r.Version)
	return answer(c, http.StatusOK, api.RepositoryAnswer{Repository: apiRepository(r)})
}

// createRepository lets the webhook of a repository start reviews, and answers its secret.
func (s *Server) createRepository(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.RepositoryRequest](c)
	if err != nil {
		return err
	}
	r := postgres.Repository{Provider: review.Provider(in.Provider), Name: in.Name, Project: defaultProject, Enabled: in.Enabled == nil || *in.Enabled, CreatedBy: p.Subject}
	var fields []fault.Field
	if !in.Provider.Valid() {
		fields = append(fields, fault.Field{Pointer: "/provider", Detail: "must be github or bitbucket"})
	}
	if !repositoryShape.MatchString(in.Name) {
		fields = append(fields, fault.Field{Pointer: "/name", Detail: "must be " + repositoryShape.words})
	}
	if in.Project != nil {
		r.Project = *in.Project
		fields = append(fields, badSlug("/project", r.Project)...)
	}
	if in.Policy != nil {
		r.Policy = *in.Policy
		fields = append(fields, badPolicy(r.Policy)...)
	}
	if in.Credential != nil {
		r.Credential = *in.Credential
		fields = append(fields, badSlug("/credential", r.Credential)...)
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	if err := s.webhooksOff(); err != nil {
		return err
	}
	if r, err = s.Store.CreateRepository(c.Request().Context(), p.Tenant, r); err != nil {
		return err
	}
	setETag(c, r.Version)
	return answer(c, http.StatusCreated, api.RepositoryAnswer{Repository: apiRepository(r), Webhook: s.webhookOf(r)})
}

func badSlug(at, slug string) []fault.Field {
	if slugShape.MatchString(slug) {
		return nil
	}
	return []fault.Field{{Pointer: at, Detail: "must be " + slugShape.words}}
}

// badPolicy returns all that is wrong with the text of a policy.
func badPolicy(text string) (fields []fault.Field) {
	_, err := review.ParsePolicy(text, review.DefaultPolicy())
	if e, ok := errors.AsType[*fault.Error](err); ok {
		for _, f := range e.Fields[:min(len(e.Fields), 100)] {
			fields = append(fields, fault.Field{Pointer: "/policy", Detail: strings.TrimSpace(f.Pointer + " " + f.Detail)})
		}
	}
	return fields
}

// textOrNull returns the text of a member of a change: "" for null, which removes what there
// is, and nil for a member that is not there.
func textOrNull(at string, raw json.RawMessage) (text *string, err error) {
	switch {
	case len(raw) == 0:
		return nil, nil
	case string(raw) == "null":
		return new(""), nil
	case json.Unmarshal(raw, &text) != nil:
		return nil, malformed(at, "must be text or null")
	}
	return text, nil
}

// changeRepository switches a webhook on or off, or gives a repository another policy, project
// or secret.
func (s *Server) changeRepository(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RepositoryID, "repository_id")
	if err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in, _, err := readJSON[api.RepositoryChange](c)
	if err != nil {
		return err
	}
	change := postgres.RepositoryChange{Enabled: in.Enabled, Project: in.Project, Rotate: in.RotateSecret != nil && *in.RotateSecret}
	if change.Policy, err = textOrNull("/policy", in.Policy); err != nil {
		return err
	}
	if change.Credential, err = textOrNull("/credential", in.Credential); err != nil {
		return err
	}
	var fields []fault.Field
	if change.Policy != nil && string(in.Policy) != "null" {
		fields = badPolicy(*change.Policy)
	}
	if change.Credential != nil && string(in.Credential) != "null" {
		fields = append(fields, badSlug("/credential", *change.Credential)...)
	}
	if in.Project != nil {
		fields = append(fields, badSlug("/project", *in.Project)...)
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	if change == (postgres.RepositoryChange{}) {
		return fieldFault("invalid-field", "", "nothing to change: give enabled, project, policy, credential or rotate_secret")
	}
	if change.Rotate {
		if err := s.webhooksOff(); err != nil {
			return err
		}
	}
	r, err := s.Store.ChangeRepository(c.Request().Context(), p.Tenant, id, change, version)
	if err != nil {
		return err
	}
	out := api.RepositoryAnswer{Repository: apiRepository(r)}
	if change.Rotate {
		out.Webhook = s.webhookOf(r)
	}
	setETag(c, r.Version)
	return answer(c, http.StatusOK, out)
}

// deleteRepository forgets a repository.
func (s *Server) deleteRepository(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RepositoryID, "repository_id")
	if err != nil {
		return err
	}
	if err := s.Store.DeleteRepository(c.Request().Context(), p.Tenant, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// acceptTools has what the MCP servers of a forge announce next take the place of what they
// announced before.
func (s *Server) acceptTools(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	forge := review.Provider(c.Param("provider"))
	if forge != review.GitHub && forge != review.Bitbucket {
		return fault.New(fault.NotFound, "not-found", "no such forge")
	}
	if err := s.Store.ForgetTools(c.Request().Context(), p.Tenant, forge); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func apiRepository(r postgres.Repository) api.Repository {
	return api.Repository{
		ID: run.RepositoryID.Format(r.ID), Provider: api.RepositoryProvider(r.Provider), Name: r.Name, Project: r.Project, Enabled: r.Enabled, Policy: ptr(r.Policy), Credential: ptr(r.Credential), Version: r.Version,
		CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.UTC(), UpdatedAt: r.UpdatedAt.UTC(), LastDeliveryAt: utc(r.LastDeliveryAt), LastResult: ptr(api.WebhookResult(r.LastResult)),
	}
}
