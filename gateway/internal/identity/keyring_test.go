package identity

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// bench is an authenticator on a database of its own, with a tenant.
type bench struct {
	*testing.T
	*Authenticator
	pg     *pgtest.Database
	db     *postgres.DB
	tenant uuid.UUID
}

func newBench(t *testing.T, devKeys bool) *bench {
	t.Helper()
	t.Parallel()
	pg := pgtest.New(t)
	db := pg.Open(t, postgres.Config{MaxConns: 2, Role: postgres.GatewayRole})
	return &bench{T: t, Authenticator: New(Config{Store: db, DevKeys: devKeys}), pg: pg, db: db, tenant: pg.Tenant(t)}
}

// key stores a new key of role service with one scope.
func (b *bench) key(env KeyEnv) Token {
	b.Helper()
	token := NewToken(env)
	err := b.db.CreateAPIKey(b.Context(), b.tenant, postgres.APIKey{
		ID: token.ID, Name: token.ID.String(), Prefix: token.Prefix, Role: string(api.RoleService), Scopes: []string{"runs:read"}, CreatedBy: "test",
	}, token.SHA256[:])
	if err != nil {
		b.Fatal(err)
	}
	return token
}

// as identifies a request with the Authorization headers.
func (b *bench) as(authorization ...string) (*Principal, error) {
	r := &http.Request{URL: &url.URL{Path: "/"}, Header: http.Header{}, RemoteAddr: "192.0.2.1:1"}
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	return b.Identify(r.WithContext(b.Context()))
}

// age makes a key look as if it was asked for so long ago.
func (b *bench) age(id uuid.UUID, by time.Duration) {
	m := b.keys.known
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.of[id]
	known.at = known.at.Add(-by)
	m.of[id] = known
}

func TestIdentify(t *testing.T) {
	b := newBench(t, true)
	token := b.key(DevKey)
	want := &Principal{
		Tenant: b.tenant, Subject: "key:" + token.Prefix[len("nofx_dev_"):], Name: token.ID.String(),
		Role: api.RoleService, Scopes: []string{"runs:read"},
	}
	for _, authorization := range []string{"Bearer " + token.Text, "bearer " + token.Text} {
		got, err := b.as(authorization)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Principal{}), cmpopts.IgnoreFields(Principal{}, "Slug")); diff != "" || err != nil {
			t.Errorf("Identify(%.10s…) = %v (-want +got):\n%s", authorization, err, diff)
		}
	}
	if got, err := b.as(); got != nil || err != nil {
		t.Errorf("Identify() without credentials = %+v, %v, want nobody and no error", got, err)
	}
	swapped := strings.Replace(token.Text, "nofx_dev_", "nofx_live_", 1)
	swapped = swapped[:len(swapped)-sumDigits]
	swapped += checksum(swapped)
	for name, given := range map[string][]string{
		"no scheme": {token.Text}, "basic": {"Basic " + token.Text}, "empty": {""}, "two": {"Bearer " + token.Text, "Bearer " + token.Text},
		"typo": {"Bearer " + token.Text[:len(token.Text)-1] + "_"}, "unknown": {"Bearer " + NewToken(DevKey).Text},
		"other environment": {"Bearer " + swapped},
	} {
		if got, err := b.as(given...); got != nil || !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("Identify(%s) = %+v, %v, want fault.Unauthenticated", name, got, err)
		}
	}
}

// TestS04_DevKeys checks that keys of a developer's machine open nothing elsewhere.
func TestS04_DevKeys(t *testing.T) {
	b := newBench(t, false)
	if got, err := b.as("Bearer " + b.key(DevKey).Text); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("Identify(a key of env dev) = %+v, %v, want fault.Unauthenticated", got, err)
	}
	if _, err := b.as("Bearer " + b.key(LiveKey).Text); err != nil {
		t.Errorf("Identify(a key of env live) = %v, want it let in", err)
	}
}

// TestS04_ChangedElsewhere checks that a key which another process revoked, or whose time
// has come, is refused as soon as the cache asks again, and so is what outlives a request.
func TestS04_ChangedElsewhere(t *testing.T) {
	b := newBench(t, true)
	for name, change := range map[string]string{"revoked": "revoked_at", "expired": "expires_at"} {
		token := b.key(DevKey)
		p, err := b.as("Bearer " + token.Text)
		if err != nil {
			t.Fatal(err)
		}
		if now, err := b.Current(t.Context(), p); err != nil || !slices.Equal(now.Scopes, p.Scopes) {
			t.Errorf("Current() = %+v, %v, want %+v", now, err, p)
		}
		if _, err := b.pg.Admin.Exec(t.Context(), "UPDATE nofx.api_key SET "+change+" = clock_timestamp() WHERE id = $1", token.ID); err != nil {
			t.Fatal(err)
		}
		b.age(token.ID, memoTTL)
		if _, err := b.as("Bearer " + token.Text); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("Identify(a key that is %s) = %v, want fault.Unauthenticated", name, err)
		}
		if _, err := b.Current(t.Context(), p); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("Current() of a key that is %s = %v, want fault.Unauthenticated", name, err)
		}
	}
	if memoTTL >= 5*time.Second {
		t.Errorf("keys are known for %s, want less than 5 s", memoTTL)
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	person := func(role api.Role) *Principal { return &Principal{Role: role} }
	service := func(scopes ...string) *Principal { return &Principal{Role: api.RoleService, Scopes: scopes} }
	for _, tt := range []struct {
		who   *Principal
		least api.Role
		scope string
		want  string // of the error
	}{
		{person(api.RoleOperator), api.RoleOperator, "runs:write", ""},
		{person(api.RoleAdmin), api.RoleOperator, "", ""},
		{person(api.RoleViewer), api.RoleOperator, "runs:write", "role operator is required; your role is viewer"},
		{person(api.RoleAdmin), "", "", "role  is required; your role is admin"},
		{person(""), api.RoleViewer, "", "role viewer is required; your role is "},
		{service("runs:write"), api.RoleOperator, "runs:write", ""},
		{service("runs:read"), api.RoleOperator, "runs:write", "scope runs:write is required; your key does not have it"},
		{service("runs:read", ""), api.RoleViewer, "", "a person's key is required; keys with scopes cannot do this"},
	} {
		got := ""
		err := tt.who.Allow(tt.least, tt.scope)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want || (err != nil && !errors.Is(err, fault.Forbidden)) {
			t.Errorf("%s %v: Allow(%q, %q) = %v, want %q, fault.Forbidden", tt.who.Role, tt.who.Scopes, tt.least, tt.scope, err, tt.want)
		}
	}
}
