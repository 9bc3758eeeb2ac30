package httpapi

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/internal/docs"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
)

// getDocs answers the page on which people read the contract and try it with their own
// key.
func (s *Server) getDocs(c echo.Context, _ *identity.Principal) error {
	header := c.Response().Header()
	header.Set("Content-Security-Policy", docs.Policy)
	return c.Blob(http.StatusOK, "text/html; charset=utf-8", docs.Page)
}

// getDocsAsset answers a file of that page.
func (s *Server) getDocsAsset(c echo.Context, _ *identity.Principal) error {
	a := docs.Assets[c.Param("asset")]
	if a == nil {
		return fault.New(fault.NotFound, "not-found", "no such asset")
	}
	header, tag := c.Response().Header(), `"`+a.Digest()+`"`
	header.Set("Cache-Control", "no-cache") // kept, and asked for whether it still holds
	header.Set("ETag", tag)
	header.Add("Vary", "Accept-Encoding")
	if c.Request().Header.Get("If-None-Match") == tag {
		return c.NoContent(http.StatusNotModified)
	}
	media := a.Type + "; charset=utf-8"
	if !a.Gzipped || acceptsGzip(c.Request()) {
		if a.Gzipped {
			header.Set("Content-Encoding", "gzip")
		}
		return c.Blob(http.StatusOK, media, a.Stored())
	}
	header.Set("Content-Type", media)
	c.Response().WriteHeader(http.StatusOK)
	_, err := a.WriteTo(c.Response())
	return err
}

// acceptsGzip reports whether the caller takes an answer compressed.
func acceptsGzip(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(accept, ",") {
			coding, quality, _ := strings.Cut(strings.ReplaceAll(part, " ", ""), ";")
			if strings.EqualFold(coding, "gzip") && quality != "q=0" && !strings.HasPrefix(quality, "q=0.0") {
				return true
			}
		}
	}
	return false
}
