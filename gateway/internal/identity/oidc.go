package identity

import (
	"context"
	"encoding/hex"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
)

// OIDC says whose tokens workflows authenticate with. Without an audience there are none.
type OIDC struct {
	Issuer   string
	Audience string // of tokens; with /SLUG behind it, for the tenant of that slug
}

// Check returns what is wrong with the settings, in their names. local is that of
// [Supabase.Check].
func (o OIDC) Check(local bool) error {
	switch {
	case o.Audience == "":
		return nil
	case o.Issuer == "":
		return errors.New("NOFX_OIDC_ISSUER is empty; for example https://token.actions.githubusercontent.com")
	}
	return checkKeysURL("NOFX_OIDC_ISSUER", o.Issuer, local)
}

// workflowScopes are what a workflow may do, for its own repository.
var workflowScopes = []string{"reviews:read", "reviews:write"}

// workflows find the trusts that tokens of workflows meet.
type workflows struct {
	OIDC
	store    *postgres.DB
	subjects *subjects
	known    *memo[postgres.WorkflowClaims, []postgres.MetTrust]
}

// issuer returns the issuer of the tokens of workflows.
func (o OIDC) issuer(w *workflows, now func() time.Time) *issuer {
	return &issuer{
		name: o.Issuer, audience: func(aud string) bool { _, ok := o.tenant(aud); return ok },
		algorithms: []jose.SignatureAlgorithm{jose.RS256}, keys: newKeySet(strings.TrimRight(o.Issuer, "/")+"/.well-known/jwks", now), now: now,
		principal: w.principal,
	}
}

// tenant returns the tenant that an audience names, "" for none, and whether it is ours.
func (o OIDC) tenant(audience string) (slug string, ok bool) {
	rest, ok := strings.CutPrefix(audience, o.Audience)
	if !ok || rest == "" {
		return "", ok
	}
	slug, ok = strings.CutPrefix(rest, "/")
	return slug, ok && slugShape.MatchString(slug)
}

// principal returns the service that the workflows of a trusted repository are. It returns
// fault.Forbidden for a token that meets no trust, or those of several tenants.
func (w *workflows) principal(ctx context.Context, c claims) (*Principal, error) {
	claims, ok := w.claims(c)
	if !ok {
		return nil, forbidden("the token names no repository by number")
	}
	met, err := w.known.get(claims, func() ([]postgres.MetTrust, error) { return w.store.MetTrusts(ctx, claims) })
	switch {
	case err != nil:
		return nil, err
	case len(met) == 0:
		return nil, forbidden("no OIDC trust is met by the token of %s (repository_id %d, repository_owner_id %d)", claims.Repository, claims.RepositoryID, claims.RepositoryOwnerID)
	case len(met) > 1:
		return nil, forbidden("several tenants trust the repository: ask for a token with the audience %s/TENANT", w.Audience)
	}
	trust := met[0]
	return w.subjects.principal(ctx, postgres.TenantName{ID: trust.Tenant}, c, Principal{
		Subject: "oidc:" + hex.EncodeToString(trust.ID[:]), Name: trust.Repository, Role: api.RoleService, Scopes: workflowScopes, Repository: trust.Repository,
	})
}

// claims returns the claims by which trusts are found. ok reports whether the token has
// the numbers of its repository and of the repository's owner.
func (w *workflows) claims(c claims) (of postgres.WorkflowClaims, ok bool) {
	for _, audience := range c.audience() {
		if slug, ours := w.tenant(audience); ours {
			of.Tenant = slug
			break
		}
	}
	of.RepositoryID = c.digits("repository_id")
	of.RepositoryOwnerID = c.digits("repository_owner_id")
	of.Repository, _ = c.text("repository")
	of.Ref, _ = c.text("ref")
	of.JobWorkflowRef, _ = c.text("job_workflow_ref")
	of.EventName, _ = c.text("event_name")
	clean := !strings.Contains(of.Repository+of.Ref+of.JobWorkflowRef+of.EventName, "\x00") // which the database refuses
	return of, of.RepositoryID > 0 && of.RepositoryOwnerID > 0 && of.Repository != "" && clean
}

var numberShape = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)

// digits returns the number that a claim has as a text, or 0.
func (c claims) digits(name string) int64 {
	text, _ := c.text(name)
	if !numberShape.MatchString(text) {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
