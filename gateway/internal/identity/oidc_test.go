package identity

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// newWorkflows returns an authenticator that takes the OIDC tokens of an issuer.
func newWorkflows(t *testing.T, keys ...signer) *people {
	t.Helper()
	p := newPeople(t, nil, keys...)
	p.Authenticator = New(Config{Store: p.db, DevKeys: true, OIDC: OIDC{Issuer: p.issuer.URL, Audience: "nofx"}, Now: p.clock.now})
	return p
}

// workflow returns claims as GitHub writes them.
func (p *people) workflow() object {
	now := p.clock.now()
	return object{
		"iss": p.issuer.URL, "aud": "nofx", "sub": "repo:acme/shop:pull_request", "iat": now.Unix(), "nbf": now.Unix() - 5, "exp": now.Add(5 * time.Minute).Unix(),
		"repository": "acme/shop", "repository_id": "74", "repository_owner": "acme", "repository_owner_id": "65",
		"ref": "refs/pull/7/merge", "event_name": "pull_request", "job_workflow_ref": "acme/ci/.github/workflows/review.yml@refs/heads/main",
	}
}

func (p *people) trust(tenant uuid.UUID, change func(*postgres.OIDCTrust)) postgres.OIDCTrust {
	p.Helper()
	t := postgres.OIDCTrust{Repository: "acme/shop", RepositoryID: 74, RepositoryOwnerID: 65, CreatedBy: "key:x"}
	if change != nil {
		change(&t)
	}
	made, err := p.db.CreateOIDCTrust(p.Context(), tenant, t)
	if err != nil {
		p.Fatal(err)
	}
	return made
}

func TestWorkflowTokens(t *testing.T) {
	key := rsaKey("gh", 0)
	p := newWorkflows(t, key)
	made := p.trust(p.tenant, nil)
	token := key.token(key.header().with(object{"x5t": "thumbprint"}), p.workflow())
	who, err := p.try(token)
	if err != nil || who.Tenant != p.tenant || who.Subject != "oidc:"+strings.ReplaceAll(made.ID.String(), "-", "") || who.Role != api.RoleService ||
		!slices.Equal(who.Scopes, []string{"reviews:read", "reviews:write"}) || who.Repository != "acme/shop" || who.Name != "acme/shop" {
		t.Fatalf("Identify(a workflow) = %+v, %v, want the service of acme/shop", who, err)
	}
	if _, err := p.try(key.token(key.header(), p.workflow().with(object{"aud": "nofx/" + p.slug}))); err != nil {
		t.Errorf("Identify(audience with the tenant) = %v, want nil", err)
	}
	ec := ecKey(t, "e")
	p.issuer.serve(key, ec)
	p.clock.advance(fetchPause)
	for name, tc := range map[string]struct {
		token string
		want  fault.Kind
	}{
		"ES256":             {ec.token(ec.header(), p.workflow()), fault.Unauthenticated},
		"another audience":  {key.token(key.header(), p.workflow().with(object{"aud": "https://github.com/acme"})), fault.Unauthenticated},
		"longer audience":   {key.token(key.header(), p.workflow().with(object{"aud": "nofxx"})), fault.Unauthenticated},
		"audience of dots":  {key.token(key.header(), p.workflow().with(object{"aud": "nofx/.."})), fault.Unauthenticated},
		"unknown tenant":    {key.token(key.header(), p.workflow().with(object{"aud": "nofx/nobody"})), fault.Forbidden},
		"another issuer":    {key.token(key.header(), p.workflow().with(object{"iss": "https://token.actions.githubusercontent.com"})), fault.Unauthenticated},
		"another number":    {key.token(key.header(), p.workflow().with(object{"repository_id": "75"})), fault.Forbidden},
		"another owner":     {key.token(key.header(), p.workflow().with(object{"repository_owner_id": "66"})), fault.Forbidden},
		"another name":      {key.token(key.header(), p.workflow().with(object{"repository": "acme/other"})), fault.Forbidden},
		"no number":         {key.token(key.header(), p.workflow().with(object{"repository_id": nil})), fault.Forbidden},
		"a number as such":  {key.token(key.header(), p.workflow().with(object{"repository_id": 74})), fault.Forbidden},
		"a number with a 0": {key.token(key.header(), p.workflow().with(object{"repository_id": "074"})), fault.Forbidden},
		"a huge number":     {key.token(key.header(), p.workflow().with(object{"repository_id": strings.Repeat("9", 30)})), fault.Forbidden},
		"a ref with NUL":    {key.token(key.header(), p.workflow().with(object{"ref": "a\x00b"})), fault.Forbidden},
		"no sub":            {key.token(key.header(), p.workflow().with(object{"sub": nil})), fault.Unauthenticated},
		"expired":           {key.token(key.header(), p.workflow().with(object{"iat": 1, "exp": p.clock.now().Add(-time.Minute).Unix()})), fault.Unauthenticated},
	} {
		if got, err := p.try(tc.token); got != nil || fault.KindOf(err) != tc.want {
			t.Errorf("Identify(%s) = %+v, %v, want %s", name, got, err, tc.want)
		}
	}
	// Another tenant's trust makes the plain audience ambiguous, and that of a tenant not.
	elsewhere := p.trust(p.pg.Tenant(t), nil)
	p.clock.advance(memoTTL)
	if got, err := p.try(key.token(key.header(), p.workflow())); !errors.Is(err, fault.Forbidden) || !strings.Contains(err.Error(), "nofx/TENANT") {
		t.Errorf("Identify(a repository of two tenants) = %+v, %v, want fault.Forbidden", got, err)
	}
	if got, err := p.try(key.token(key.header(), p.workflow().with(object{"aud": "nofx/" + p.slug}))); err != nil || got.Tenant != p.tenant {
		t.Errorf("Identify(audience with the tenant) = %+v, %v, want the tenant", got, err)
	}
	if err := p.db.DeleteOIDCTrust(t.Context(), p.tenant, elsewhere.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("DeleteOIDCTrust(of another tenant) = %v, want fault.NotFound", err)
	}
	if err := p.db.DeleteOIDCTrust(t.Context(), p.tenant, made.ID); err != nil {
		t.Fatal(err)
	}
	p.clock.advance(memoTTL)
	if _, err := p.Current(t.Context(), who); err == nil {
		t.Error("Current() without the trust = nil, want an error")
	}
	if got, err := p.try(key.token(key.header(), p.workflow().with(object{"aud": "nofx/" + p.slug}))); !errors.Is(err, fault.Forbidden) {
		t.Errorf("Identify(a trust that was taken back) = %+v, %v, want fault.Forbidden", got, err)
	}
}

// TestTrustConditions checks that each condition of a trust is one.
func TestTrustConditions(t *testing.T) {
	key := rsaKey("gh", 0)
	p := newWorkflows(t, key)
	for name, condition := range map[string]struct {
		set    func(t *postgres.OIDCTrust, v string)
		met    string
		others []string
	}{
		"ref":              {func(t *postgres.OIDCTrust, v string) { t.Ref = v }, "refs/heads/main", []string{"refs/heads/main2", "refs/heads/Main", ""}},
		"event_name":       {func(t *postgres.OIDCTrust, v string) { t.EventName = v }, "push", []string{"pull_request_target", ""}},
		"job_workflow_ref": {func(t *postgres.OIDCTrust, v string) { t.JobWorkflowRef = v }, "acme/ci/.github/workflows/review.yml@refs/heads/main", []string{"acme/ci/.github/workflows/review.yml@refs/heads/x", "acme/shop/.github/workflows/review.yml@refs/heads/main"}},
	} {
		tenant := p.pg.Tenant(t)
		p.trust(tenant, func(t *postgres.OIDCTrust) { condition.set(t, condition.met) })
		var slug string
		if err := p.pg.Admin.QueryRow(t.Context(), "SELECT slug FROM nofx.tenant WHERE tenant_id = $1", tenant).Scan(&slug); err != nil {
			t.Fatal(err)
		}
		try := func(value any) error {
			_, err := p.try(key.token(key.header(), p.workflow().with(object{"aud": "nofx/" + slug, name: value})))
			return err
		}
		if err := try(condition.met); err != nil {
			t.Errorf("Identify(%s %s) = %v, want nil", name, condition.met, err)
		}
		for _, other := range condition.others {
			if err := try(other); !errors.Is(err, fault.Forbidden) {
				t.Errorf("Identify(%s %q) = %v, want fault.Forbidden", name, other, err)
			}
		}
		if err := try(nil); !errors.Is(err, fault.Forbidden) {
			t.Errorf("Identify(no %s) = %v, want fault.Forbidden", name, err)
		}
	}
}
