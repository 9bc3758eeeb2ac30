package httpapi

import (
	"fmt"
	"math"
	"net/http"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// formats has the stage whose artifact is the result of a review in each format.
var formats = map[api.ReviewFormat]string{
	api.ReviewFormatJSON: "review.json", api.ReviewFormatSarif: "review.sarif", api.ReviewFormatRdjson: "review.rdjson", api.ReviewFormatMarkdown: "summary.md",
}

// getReviewArtifact answers the result of a review in one format, with a URL that serves
// its bytes for a while, or with redirect=1 sends the caller there.
func (s *Server) getReviewArtifact(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	format := oneOf(q, "format", api.ReviewFormatJSON, api.ReviewFormatSarif, api.ReviewFormatRdjson, api.ReviewFormatMarkdown)
	redirect := oneOf(q, "redirect", "1") != ""
	if err := q.err(); err != nil {
		return err
	}
	if format == "" {
		format = api.ReviewFormatJSON
	}
	id, err := pathID(c, run.ReviewID, "review_id")
	if err != nil {
		return err
	}
	list, err := s.Store.ReviewArtifacts(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	for _, a := range list {
		if a.Stage == formats[format] && a.Ordinal == 0 {
			return s.answerArtifact(c, p, a.Artifact, redirect)
		}
	}
	return fault.New(fault.NotFound, "not-found", "the review has written no %s", formats[format])
}

// listReviewArtifacts answers what the stages of a review stored. Content that was purged is
// listed without a URL.
func (s *Server) listReviewArtifacts(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterNumber("review-artifacts", 0)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.ReviewID, "review_id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	list, err := s.Store.ReviewArtifacts(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	list = list[min(int(min(after, math.MaxInt32)), len(list)):]
	var next *string
	if len(list) > limit {
		list, next = list[:limit], ptr(formatCursor("review-artifacts", fmt.Sprint(after+int64(limit))))
		linkNext(c, "cursor", *next)
	}
	out := api.ReviewArtifactPage{Items: []api.ReviewArtifact{}, NextCursor: next}
	for _, a := range list {
		signed, err := s.signedArtifact(ctx, p, a.Artifact)
		if err != nil && !blob.IsPurged(err) {
			return err
		}
		out.Items = append(out.Items, api.ReviewArtifact{Stage: a.Stage, Ordinal: a.Ordinal, Artifact: signed})
	}
	return answer(c, http.StatusOK, out)
}
