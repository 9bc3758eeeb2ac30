package httpapi

import (
	"strings"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// confined are the operations that look themselves at the repository of their caller.
var confined = map[string]bool{"createReview": true, "listReviews": true, "whoami": true}

// confine returns nil when an operation keeps to the repository that its caller is limited
// to. A review or finding of another one is fault.NotFound, as if it were not there. An
// operation that is not known to keep to a repository is fault.Forbidden.
func (s *Server) confine(c echo.Context, op operation, p *identity.Principal) error {
	if p.Repository == "" || confined[op.id] {
		return nil
	}
	ctx := c.Request().Context()
	switch {
	case strings.Contains(op.path, "{review_id}"):
		id, err := pathID(c, run.ReviewID, "review_id")
		if err != nil {
			return err
		}
		v, err := s.Store.Review(ctx, p.Tenant, id)
		if err != nil {
			return err
		}
		return within(p, v.Provider, v.Repository, run.ReviewID)
	case strings.Contains(op.path, "{finding_id}"):
		id, err := pathID(c, run.FindingID, "finding_id")
		if err != nil {
			return err
		}
		f, err := s.Store.Finding(ctx, p.Tenant, id)
		if err != nil {
			return err
		}
		return within(p, f.Provider, f.Repository, run.FindingID)
	}
	return fault.New(fault.Forbidden, "forbidden", "it is not limited to repository %s, as you are", p.Repository)
}

// within returns nil for a thing of the repository that p is limited to, else
// fault.NotFound.
func within(p *identity.Principal, provider review.Provider, repository string, noun run.Prefix) error {
	if owns(p, provider, repository) {
		return nil
	}
	_, err := noun.Parse("")
	return err
}

// owns reports whether p may see and do what is of a repository.
func owns(p *identity.Principal, provider review.Provider, repository string) bool {
	return p.Repository == "" || provider == review.GitHub && strings.EqualFold(repository, p.Repository)
}
