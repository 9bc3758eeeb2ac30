package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// Supabase says whose tokens people authenticate with. Without a URL there are none.
type Supabase struct {
	URL         string // of the project
	JWKS        string // where its keys are; "": where a project has them
	Secret      []byte // of tokens by HS256; none: such tokens are refused
	Audience    string
	TenantClaim string // names of objects and the last of a claim, with dots between
	RoleClaim   string
}

// Check returns what is wrong with the settings, in their names. local reports whether
// keys may be fetched without TLS from any host, not from loopback alone.
func (s Supabase) Check(local bool) error {
	var errs []error
	if s.URL == "" {
		if s.JWKS != "" || len(s.Secret) > 0 {
			errs = append(errs, errors.New("NOFX_SUPABASE_URL is not set, and with it not whose tokens are accepted; for example https://PROJECT.supabase.co"))
		}
		return errors.Join(errs...)
	}
	if n := len(s.Secret); n > 0 && n < 32 {
		errs = append(errs, errors.New("NOFX_SUPABASE_JWT_SECRET must have at least 32 characters"))
	}
	if s.Audience == "" {
		errs = append(errs, errors.New("NOFX_SUPABASE_JWT_AUDIENCE is empty; for example authenticated"))
	}
	for name, address := range map[string]string{"NOFX_SUPABASE_URL": s.URL, "NOFX_SUPABASE_JWKS_URL": s.JWKS} {
		errs = append(errs, checkKeysURL(name, address, local))
	}
	for name, path := range map[string]string{"NOFX_SUPABASE_TENANT_CLAIM": s.TenantClaim, "NOFX_SUPABASE_ROLE_CLAIM": s.RoleClaim} {
		errs = append(errs, checkClaim(name, path))
	}
	return errors.Join(errs...)
}

// checkKeysURL returns an error for an address from which keys would come unprotected.
func checkKeysURL(name, address string, local bool) error {
	u, err := url.Parse(address)
	if err != nil || address == "" || local || u.Scheme == "https" {
		return nil // that it is a URL is checked with its setting
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s must begin with https://, except for loopback addresses or with NOFX_ENV=development", name)
}

// checkClaim returns an error for a path that people could change themselves.
func checkClaim(name, path string) error {
	parts := strings.Split(path, ".")
	switch {
	case slices.Contains(parts, ""):
		return fmt.Errorf("%s is not the path of a claim; for example app_metadata.tenant", name)
	case strings.Contains(strings.ToLower(path), "user_meta"):
		return fmt.Errorf("%s must not be below user_metadata, which users edit themselves; for example app_metadata.tenant", name)
	}
	return nil
}

// issuer returns the issuer of a project's tokens.
func (s Supabase) issuer(of *subjects, now func() time.Time) *issuer {
	name := strings.TrimRight(s.URL, "/") + "/auth/v1"
	keys := s.JWKS
	if keys == "" {
		keys = name + "/.well-known/jwks.json"
	}
	i := &issuer{
		name: name, audience: func(aud string) bool { return aud == s.Audience },
		algorithms: []jose.SignatureAlgorithm{jose.ES256, jose.RS256}, keys: newKeySet(keys, now), now: now,
	}
	if len(s.Secret) > 0 {
		i.secret, i.algorithms = s.Secret, append(i.algorithms, jose.HS256)
	}
	i.principal = func(ctx context.Context, c claims) (*Principal, error) { return s.principal(ctx, c, of) }
	return i
}

// subjectShape is that of a person's claim sub, which becomes part of a subject.
var subjectShape = regexp.MustCompile(`^[A-Za-z0-9._:@|=+-]{1,128}$`)

// principal returns the person of a verified token. It returns fault.Forbidden for a token
// without a tenant or role that there is, and errRevoked.
func (s Supabase) principal(ctx context.Context, c claims, of *subjects) (*Principal, error) {
	if !subjectShape.MatchString(c.subject) {
		return nil, errToken
	}
	tenant, _ := c.text(strings.Split(s.TenantClaim, ".")...)
	if tenant == "" {
		return nil, forbidden("the token has no tenant, in %s", s.TenantClaim)
	}
	role, _ := c.text(strings.Split(s.RoleClaim, ".")...)
	if !slices.Contains(roles, api.Role(role)) {
		return nil, forbidden("the token has no role viewer, operator, supervisor or admin, in %s", s.RoleClaim)
	}
	name, ok := tenantName(tenant)
	if !ok {
		return nil, forbidden("the token's tenant is unknown")
	}
	return of.principal(ctx, name, c, Principal{Subject: "user:" + c.subject, Name: personName(c), Role: api.Role(role)})
}

// personName returns what people know the subject of a token by.
func personName(c claims) string {
	name, _ := c.text("email")
	if n := utf8.RuneCountInString(name); n == 0 || n > 255 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return c.subject
	}
	return name
}

var slugShape = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// tenantName returns the tenant that a claim names, by its id in one of the two forms or
// by its slug.
func tenantName(claim string) (name postgres.TenantName, ok bool) {
	if id, err := run.TenantID.Parse(claim); err == nil {
		return postgres.TenantName{ID: id}, true
	}
	if id, err := uuid.Parse(claim); err == nil && id.String() == claim {
		return postgres.TenantName{ID: id}, true
	}
	return postgres.TenantName{Slug: claim}, slugShape.MatchString(claim)
}
