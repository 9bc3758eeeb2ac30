package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

func TestProjects(t *testing.T) {
	g := newGateway(t)
	slugs := func(path string) string {
		r := g.get(path)
		g.want(r, http.StatusOK, "")
		var all []string
		for _, p := range decodeAs[api.ProjectPage](t, r).Items {
			all = append(all, p.Slug)
		}
		return strings.Join(all, " ")
	}
	for _, slug := range []string{"web", "api"} {
		r := g.do(http.MethodPost, "/api/projects", `{"slug":"`+slug+`"}`)
		g.want(r, http.StatusCreated, "")
		if made := decodeAs[api.ProjectAnswer](t, r).Project; made.Slug != slug || made.CreatedAt.IsZero() {
			t.Errorf("created = %s, want %s", r.body, slug)
		}
	}
	if got := slugs("/api/projects"); got != "api default web" {
		t.Errorf("projects = %s, want api default web", got)
	}
	first := decodeAs[api.ProjectPage](t, g.get("/api/projects?limit=2"))
	if got := slugs("/api/projects?limit=2&cursor=" + *first.NextCursor); len(first.Items) != 2 || got != "web" {
		t.Errorf("second page of projects = %s, want web", got)
	}
	g.want(g.do(http.MethodPost, "/api/projects", `{"slug":"web"}`), http.StatusConflict, "name-taken")
	for body, code := range map[string]string{`{}`: "invalid-field", `{"slug":"Web"}`: "invalid-field", `{"slug":"` + strings.Repeat("x", 64) + `"}`: "invalid-field"} {
		g.want(g.do(http.MethodPost, "/api/projects", body), http.StatusUnprocessableEntity, code)
	}
	g.want(g.do(http.MethodPost, "/api/projects", `{"slug":"x","id":"y"}`), http.StatusBadRequest, "unknown-field")

	// A project that something belongs to stays.
	g.want(g.do(http.MethodPost, "/api/runs", oneStep, header{"X-Project-Id": "web"}), http.StatusCreated, "")
	g.want(g.do(http.MethodDelete, "/api/projects/web", ""), http.StatusConflict, "project-in-use")
	bound := g.do(http.MethodPost, "/api/repositories", `{"provider":"github","name":"acme/shop","project":"api"}`)
	g.want(bound, http.StatusCreated, "")
	g.want(g.do(http.MethodDelete, "/api/projects/api", ""), http.StatusConflict, "project-in-use")
	g.want(g.do(http.MethodDelete, "/api/projects/default", ""), http.StatusConflict, "project-in-use")
	g.want(g.do(http.MethodDelete, "/api/repositories/"+decodeAs[api.RepositoryAnswer](t, bound).Repository.ID, ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodDelete, "/api/projects/api", ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodDelete, "/api/projects/api", ""), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodDelete, "/api/projects/No", ""), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPost, "/api/runs", oneStep, header{"X-Project-Id": "api"}), http.StatusNotFound, "not-found")
	if got := slugs("/api/projects"); got != "default web" {
		t.Errorf("projects = %s, want default web", got)
	}
	g.sound()
}
