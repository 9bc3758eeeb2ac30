package httpapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
)

// people are users of a Supabase project, and workflows of an issuer, of the test, on a clock
// of its own.
type people struct {
	url   string
	slug  string
	es    jose.Signer // of people
	rs    jose.Signer // of workflows
	mu    sync.Mutex
	ahead time.Duration // of the clock
}

func (p *people) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Add(p.ahead)
}

func (p *people) advance(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead += d
}

// newPeople returns a gateway that accepts their tokens, and them.
func newPeople(t *testing.T) (*gateway, *people) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &people{}
	signer := func(algorithm jose.SignatureAlgorithm, key any) jose.Signer {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, (&jose.SignerOptions{}).WithType("JWT"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	p.es, p.rs = signer(jose.ES256, key), signer(jose.RS256, rsaKey)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Use: "sig"}, {Key: &rsaKey.PublicKey, KeyID: "k", Use: "sig"}}})
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	g := newGateway(t, func(c *Config) {
		c.Identity = identity.New(identity.Config{Store: c.Store, DevKeys: true, Now: p.now, Supabase: identity.Supabase{
			URL: server.URL, Audience: "authenticated", TenantClaim: "app_metadata.tenant", RoleClaim: "app_metadata.role",
		}, OIDC: identity.OIDC{Issuer: server.URL, Audience: "nofx"}})
	})
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT slug FROM nofx.tenant WHERE tenant_id = $1", g.tenant).Scan(&p.slug); err != nil {
		t.Fatal(err)
	}
	return g, p
}

// token returns the headers of a person with a role, whose claims are changed.
func (p *people) token(t testing.TB, sub string, role api.Role, changes ...map[string]any) header {
	t.Helper()
	claims := map[string]any{
		"iss": p.url + "/auth/v1", "aud": "authenticated", "sub": sub, "email": sub + "@example.com",
		"iat": p.now().Unix(), "exp": p.now().Add(10 * time.Minute).Unix(), "app_metadata": map[string]any{"tenant": p.slug, "role": role},
	}
	for _, c := range changes {
		maps.Copy(claims, c)
	}
	return bearing(t, p.es, claims)
}

// workflow returns the headers of a workflow of a repository.
func (p *people) workflow(t testing.TB, repository, id string) header {
	t.Helper()
	return bearing(t, p.rs, map[string]any{
		"iss": p.url, "aud": "nofx", "sub": "repo:" + repository + ":pull_request", "iat": p.now().Unix(), "exp": p.now().Add(5 * time.Minute).Unix(),
		"repository": repository, "repository_id": id, "repository_owner_id": "65", "ref": "refs/pull/7/merge", "event_name": "pull_request",
	})
}

// bearing returns the headers with a token of the claims.
func bearing(t testing.TB, by jose.Signer, claims map[string]any) header {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := by.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return header{"Authorization": "Bearer " + token}
}

// TestS02_People checks that a user of the project acts as itself: by its subject in what is
// kept, and by its address for people; and that a token without rights is told so.
func TestS02_People(t *testing.T) {
	g, p := newPeople(t)
	ann, bob := p.token(t, "ann", api.RoleSupervisor), p.token(t, "bob", api.RoleSupervisor)
	if _, err := g.pg.Admin.Exec(t.Context(), `UPDATE nofx.tenant SET settings = '{"four_eyes": true}' WHERE tenant_id = $1`, g.tenant); err != nil {
		t.Fatal(err)
	}
	me := decodeAs[api.Whoami](t, g.get("/api/whoami", ann)).Principal
	if me.Subject != "user:ann" || me.Name != "ann@example.com" || me.Role != api.RoleSupervisor || me.ExpiresAt == nil {
		t.Errorf("whoami = %+v, want ann, supervisor, until its token expires", me)
	}
	made := g.do(http.MethodPost, "/api/runs", plan(manual), ann)
	g.want(made, http.StatusCreated, "")
	created := decodeAs[api.CreatedRun](t, made)
	if r := created.Run; r.CreatedBy != "user:ann" || r.CreatedByName == nil || *r.CreatedByName != "ann@example.com" {
		t.Errorf("run is by %s (%v), want user:ann (ann@example.com)", r.CreatedBy, r.CreatedByName)
	}
	g.gate(g.claim(created.Steps[0]))
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", ann), http.StatusForbidden, "four-eyes")
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", p.token(t, "eve", api.RoleOperator)), http.StatusForbidden, "forbidden")
	approved := g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", bob)
	g.want(approved, http.StatusOK, "")
	if by := decodeAs[api.GateAnswer](t, approved).Gate.DecidedByName; by == nil || *by != "bob@example.com" {
		t.Errorf("gate is decided by %v, want bob@example.com", by)
	}
	for name, changes := range map[string]map[string]any{
		"no tenant": {"app_metadata": map[string]any{"role": "admin"}}, "tenant in user_metadata": {"app_metadata": nil, "user_metadata": map[string]any{"tenant": p.slug, "role": "admin"}},
	} {
		r := g.get("/api/whoami", p.token(t, "ann", api.RoleAdmin, changes))
		g.want(r, http.StatusForbidden, "forbidden")
		if !strings.Contains(decodeAs[api.Problem](t, r).Detail, "app_metadata.tenant") {
			t.Errorf("%s: answer = %s, want the claim named", name, r.body)
		}
	}
	expired := g.get("/api/whoami", p.token(t, "ann", api.RoleAdmin, map[string]any{"iat": 1, "exp": 2}))
	g.want(expired, http.StatusUnauthorized, "unauthenticated")
	g.want(g.get("/healthz", p.token(t, "ann", api.RoleAdmin, map[string]any{"exp": 2})), http.StatusOK, "")
}

// TestS42_Expiry checks that a stream of a person ends when the token expires.
func TestS42_Expiry(t *testing.T) {
	g, p := newPeople(t)
	who := principalOf(g, strings.TrimPrefix(p.token(t, "ann", api.RoleViewer)["Authorization"], "Bearer "))
	check := g.server.still(g.during("listEvents"), who)
	if err := check(t.Context()); err != nil {
		t.Errorf("check of a good token = %v, want nil", err)
	}
	p.advance(10*time.Minute + time.Second)
	if err := check(t.Context()); err == nil {
		t.Error("check of an expired token = nil, want an error")
	}
}

// TestS42_Revocation checks that an admin ends the tokens of a person: requests at once,
// and streams at their next check.
func TestS42_Revocation(t *testing.T) {
	g, p := newPeople(t)
	ann := p.token(t, "ann", api.RoleViewer)
	g.want(g.get("/api/runs", ann), http.StatusOK, "")
	who := principalOf(g, strings.TrimPrefix(ann["Authorization"], "Bearer "))
	check := g.server.still(g.during("listEvents"), who)
	r := g.do(http.MethodPost, "/api/subjects/user:ann/revoke", `{"reason":"laptop stolen"}`)
	g.want(r, http.StatusOK, "")
	if s := decodeAs[api.TokenSubjectAnswer](t, r).Subject; s.RevokedBefore == nil || s.Reason == nil || *s.Reason != "laptop stolen" || s.Name == nil || s.RevokedByName == nil {
		t.Errorf("revoked = %s, want ann with the reason, and by whom", r.body)
	}
	g.want(g.get("/api/runs", ann), http.StatusUnauthorized, "unauthenticated")
	if err := check(t.Context()); err == nil {
		t.Error("check of a revoked token = nil, want an error")
	}
	p.advance(2 * time.Second)
	g.want(g.get("/api/runs", p.token(t, "ann", api.RoleViewer)), http.StatusOK, "")
	g.want(g.do(http.MethodPost, "/api/subjects/user:bob/revoke", ""), http.StatusOK, "")
	first := g.get("/api/subjects?limit=1")
	g.want(first, http.StatusOK, "")
	page := decodeAs[api.TokenSubjectPage](t, first)
	if len(page.Items) != 1 || page.Items[0].Subject != "user:ann" || page.NextCursor == nil {
		t.Fatalf("first page = %s, want ann and a cursor", first.body)
	}
	second := decodeAs[api.TokenSubjectPage](t, g.get("/api/subjects?cursor="+*page.NextCursor))
	if len(second.Items) != 1 || second.Items[0].Subject != "user:bob" || second.Items[0].SeenAt != nil || second.NextCursor != nil {
		t.Errorf("second page = %+v, want bob, who was not seen", second)
	}
	other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
	if list := decodeAs[api.TokenSubjectPage](t, g.get("/api/subjects", other)); len(list.Items) != 0 {
		t.Errorf("subjects of another tenant = %+v, want none", list.Items)
	}
	for _, subject := range []string{"key:" + strings.Repeat("0", 32), "user:", "ann", "user:a%20b", "user:" + strings.Repeat("x", 129)} {
		g.want(g.do(http.MethodPost, "/api/subjects/"+subject+"/revoke", ""), http.StatusNotFound, "not-found")
	}
	g.want(g.do(http.MethodPost, "/api/subjects/user:ann/revoke", `{"reason":"`+strings.Repeat("x", 2049)+`"}`), http.StatusUnprocessableEntity, "invalid-field")
}
