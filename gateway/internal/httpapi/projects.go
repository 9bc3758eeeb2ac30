package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// listProjects answers the projects of the tenant, by name.
func (s *Server) listProjects(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit := q.limit(200)
	after, _ := q.place("projects")
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Projects(c.Request().Context(), p.Tenant, after, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "projects", list, limit, func(p postgres.Project) string { return p.Slug })
	return answer(c, http.StatusOK, api.ProjectPage{Items: convert(list, apiProject), NextCursor: next})
}

// createProject makes a project, which X-Project-Id can name from then on.
func (s *Server) createProject(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.ProjectRequest](c)
	if err != nil {
		return err
	}
	if fields := badSlug("/slug", in.Slug); len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	made, err := s.Store.CreateProject(c.Request().Context(), p.Tenant, in.Slug)
	if err != nil {
		return err
	}
	return answer(c, http.StatusCreated, api.ProjectAnswer{Project: apiProject(made)})
}

// deleteProject deletes a project that nothing belongs to.
func (s *Server) deleteProject(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	slug := c.Param("project_slug")
	if !slugShape.MatchString(slug) {
		return fault.New(fault.NotFound, "not-found", "no such project")
	}
	if err := s.Store.DeleteProject(c.Request().Context(), p.Tenant, slug); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func apiProject(p postgres.Project) api.Project {
	return api.Project{Slug: p.Slug, CreatedAt: p.CreatedAt.UTC()}
}
