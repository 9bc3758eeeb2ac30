package httpapi

import (
	"encoding/hex"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/run"
)

// listArtifacts answers what a run produced, oldest first, without URLs.
func (s *Server) listArtifacts(c echo.Context, p *Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterID("artifacts")
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	artifacts, err := s.Store.Artifacts(c.Request().Context(), p.Tenant, id, after, limit+1)
	if err != nil {
		return err
	}
	artifacts, next := page(c, "artifacts", artifacts, limit, func(a run.Artifact) string { return a.ID.String() })
	return answer(c, http.StatusOK, api.ArtifactPage{Items: convert(artifacts, apiArtifact), NextCursor: next})
}

// getArtifact answers an artifact with a URL that serves its bytes for a while,
// or with redirect=1 sends the caller there.
func (s *Server) getArtifact(c echo.Context, p *Principal) error {
	q := readQuery(c)
	redirect := oneOf(q, "redirect", "1") != ""
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.ArtifactID, "artifact_id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	a, err := s.Store.Artifact(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	expires := time.Now().Add(blob.MaxSignedTTL).UTC().Truncate(time.Second)
	url, err := s.Blobs.SignedURL(ctx, a.Key, a.Name, blob.MaxSignedTTL)
	if err != nil {
		return err
	}
	if redirect {
		return seeOther(c, url)
	}
	out := apiArtifact(a)
	out.URL, out.ExpiresAt = &url, &expires
	return answer(c, http.StatusOK, api.ArtifactAnswer{Artifact: out})
}

// seeOther sends the caller to a signed URL, which is for them alone.
func seeOther(c echo.Context, url string) error {
	c.Response().Header().Set("Location", url)
	return c.NoContent(http.StatusSeeOther)
}

func apiArtifact(a run.Artifact) api.Artifact {
	out := api.Artifact{
		ID: run.ArtifactID.Format(a.ID), Name: a.Name, MediaType: a.MediaType, SizeBytes: a.Size,
		Sha256: hex.EncodeToString(a.SHA256), CreatedAt: a.CreatedAt.UTC(),
	}
	if a.RunID != nil {
		out.RunID = ptr(run.RunID.Format(*a.RunID))
	}
	if a.StepID != nil {
		out.StepID = ptr(run.StepID.Format(*a.StepID))
	}
	return out
}
