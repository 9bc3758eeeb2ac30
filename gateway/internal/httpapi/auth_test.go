package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/shared/run"
)

func TestBadKeys(t *testing.T) {
	g := newGateway(t)
	other := identity.NewToken(identity.DevKey)
	for name, authorization := range map[string]string{
		"no key": "", "no scheme": g.key, "basic": "Basic " + g.key, "typo": "Bearer " + g.key[:len(g.key)-1] + "_", "empty": "Bearer ",
		"unknown": "Bearer " + other.Text, "jwt": "Bearer eyJhbGciOiJub25lIn0.e30.", "NUL": "Bearer x\x01",
	} {
		if strings.ContainsRune(authorization, 1) {
			continue // net/http refuses it by itself
		}
		r := g.get("/api/whoami", header{"Authorization": authorization})
		g.want(r, http.StatusUnauthorized, "unauthenticated")
		if r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
	if r := g.get("/api/whoami", header{"Authorization": "bearer " + g.key}); r.status != http.StatusOK {
		t.Errorf("a scheme in lower case = %d, want 200", r.status)
	}
	me := decodeAs[api.Whoami](t, g.get("/api/whoami")).Principal
	if me.TenantID != run.TenantID.Format(g.tenant) || me.Role != api.RoleAdmin || !strings.HasPrefix(me.Subject, "key:") || !strings.HasPrefix(me.Name, "admin-") {
		t.Errorf("whoami = %+v, want the admin of the tenant", me)
	}
}

func TestS04_KeyLife(t *testing.T) {
	g := newGateway(t)
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	r := g.do(http.MethodPost, "/api/api-keys", `{"name":"ci","scopes":["runs:read","runs:write"],"expires_at":"`+soon+`"}`)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.CreatedAPIKey](t, r)
	if !strings.HasPrefix(made.Secret, made.Key.Prefix+"_") || made.Key.Role != api.RoleService {
		t.Errorf("created = %s, want a service key and its secret", r.body)
	}
	asKey := header{"Authorization": "Bearer " + made.Secret}
	g.want(g.get("/api/runs", asKey), http.StatusOK, "")
	listed := g.get("/api/api-keys?limit=1")
	g.want(listed, http.StatusOK, "")
	if strings.Contains(string(listed.body), made.Secret) || decodeAs[api.APIKeyPage](t, listed).NextCursor == nil {
		t.Errorf("keys = %s, want a first page without secrets", listed.body)
	}
	g.want(g.do(http.MethodDelete, "/api/api-keys/"+made.Key.ID, ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodDelete, "/api/api-keys/"+made.Key.ID, ""), http.StatusNoContent, "")
	g.want(g.get("/api/runs", asKey), http.StatusUnauthorized, "unauthenticated")

	var stored int
	err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.api_key k WHERE k::text LIKE '%' || $1 || '%'", made.Secret[len(made.Key.Prefix)+1:]).Scan(&stored)
	if err != nil || stored != 0 {
		t.Errorf("%d rows hold the secret (%v), want none", stored, err)
	}
	for body, pointer := range map[string]string{
		`{"name":"x"}`: "/role", `{"name":"x","role":"admin","scopes":["runs:read"]}`: "/role", `{"name":"","role":"admin"}`: "/name",
		`{"name":"x","role":"root"}`: "/role", `{"name":"x","role":"service"}`: "/role", `{"name":"x","scopes":[]}`: "/scopes",
		`{"name":"x","scopes":["runs:*"]}`: "/scopes/0", `{"name":"a\u202eb","role":"admin"}`: "/name", `{"name":"a\u200bb","role":"admin"}`: "/name",
		`{"name":"x","role":"admin","expires_at":"2020-01-01T00:00:00Z"}`: "/expires_at", `{"name":"` + strings.Repeat("x", 129) + `","role":"admin"}`: "/name",
		`{"name":"x\ty","role":"admin"}`: "/name",
	} {
		r := g.do(http.MethodPost, "/api/api-keys", body)
		g.want(r, http.StatusUnprocessableEntity, "invalid-field")
		if p := decodeAs[api.Problem](t, r); len(p.Errors) == 0 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: errors = %+v, want %s", body, p.Errors, pointer)
		}
	}
	g.want(g.do(http.MethodPost, "/api/api-keys", `{"name":"x","role":"admin","expires_at":"tomorrow"}`), http.StatusBadRequest, "malformed-json")
}

// TestS13_ManyFailures checks that an address that keeps guessing is told to wait and
// stops costing queries, while keys that are known go on to work from there.
func TestS13_ManyFailures(t *testing.T) {
	g := newGateway(t)
	g.want(g.get("/api/whoami"), http.StatusOK, "")
	wrong := func() reply {
		return g.get("/api/whoami", header{"Authorization": "Bearer " + identity.NewToken(identity.DevKey).Text})
	}
	for range 10 {
		g.want(wrong(), http.StatusUnauthorized, "unauthenticated")
	}
	r := wrong()
	g.want(r, http.StatusTooManyRequests, "rate-limited")
	if r.header.Get("Retry-After") == "" || r.header.Get("Retry-After") == "0" {
		t.Errorf("Retry-After = %q, want seconds", r.header.Get("Retry-After"))
	}
	g.want(g.get("/api/whoami"), http.StatusOK, "")
	g.want(g.get("/api/whoami", header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleAdmin)}), http.StatusTooManyRequests, "rate-limited")
}

// TestS04_GarbageKeys checks that what can be no key is refused without locking the
// others out who come from the same address.
func TestS04_GarbageKeys(t *testing.T) {
	g := newGateway(t)
	for range 30 {
		g.want(g.get("/api/whoami", header{"Authorization": "Bearer x"}), http.StatusUnauthorized, "unauthenticated")
	}
	g.want(g.get("/api/whoami"), http.StatusOK, "")
}

// TestBehindProxy checks that wrong keys of one client of a trusted proxy do not
// lock out another, and that a client which names others does not get round its
// own limit.
func TestBehindProxy(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		c.Identity = identity.New(identity.Config{Store: c.Store, DevKeys: true, Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	})
	wrong := func(from string) reply {
		return g.get("/api/whoami", header{"Authorization": "Bearer " + identity.NewToken(identity.DevKey).Text, "X-Forwarded-For": from})
	}
	for i := range 10 {
		g.want(wrong(fmt.Sprintf("198.51.100.%d, 203.0.113.1", i)), http.StatusUnauthorized, "unauthenticated")
	}
	g.want(wrong("198.51.100.99, 203.0.113.1"), http.StatusTooManyRequests, "rate-limited")
	g.want(g.get("/api/whoami", header{"X-Forwarded-For": "203.0.113.2"}), http.StatusOK, "")
}

func TestS13_Rates(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Rate = 0.001; c.TenantRate = 1000 })
	g.server.rate = limit.NewRates(0.001, 3)
	for range 3 {
		g.want(g.get("/api/whoami"), http.StatusOK, "")
	}
	g.want(g.get("/api/whoami"), http.StatusTooManyRequests, "rate-limited")
	g.want(g.get("/healthz"), http.StatusOK, "")
	g.want(g.get("/api/whoami", header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleViewer)}), http.StatusOK, "")
}

// TestS13_Weights checks that requests weigh by the steps that they touch.
func TestS13_Weights(t *testing.T) {
	t.Parallel()
	g := newGatewayAlone(t, func(c *Config) { c.Rate, c.TenantRate = 0.01, 0 }) // a token in 100 s, a burst of one
	steps := make([]string, 3*stepsPerToken)
	for i := range steps {
		steps[i] = fmt.Sprintf(`{"name": "s%d", "tool": "sleep", "inputs": {"duration_s": 0}}`, i)
	}
	id := ""
	for _, tc := range []struct {
		verb, body string
		heavy      bool
	}{
		{"", `{"plan": {"goal": "g", "steps": [` + strings.Join(steps, ",") + `]}}`, true},
		{"/pause", "", false},
		{"/cancel", "", true},
		{"/resume", "", true},
	} {
		key := header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleAdmin)}
		path := "/api/runs" + id + tc.verb
		r := g.do("POST", path, tc.body, key)
		if r.status >= 300 {
			t.Fatalf("POST %s = %d %s, want success: a request that has its token may owe the others", path, r.status, r.body)
		}
		if id == "" {
			id = "/" + decodeAs[api.CreatedRun](t, r).Run.ID
		}
		next := g.get("/api/whoami", key)
		g.want(next, http.StatusTooManyRequests, "rate-limited")
		if wait, err := strconv.Atoi(next.header.Get("Retry-After")); err != nil || (wait > 100) != tc.heavy {
			t.Errorf("after POST %s, Retry-After = %d s, %v; want more than 100: %v", path, wait, err, tc.heavy)
		}
	}
}

// TestScopes checks that a key has no scope that no operation knows.
func TestScopes(t *testing.T) {
	g := newGateway(t)
	for _, scope := range g.server.scopes {
		g.want(g.do(http.MethodPost, "/api/api-keys", `{"name":"`+scope+`","scopes":["`+scope+`"]}`), http.StatusCreated, "")
	}
	for _, scope := range []string{"", "runs", "run:write", "runs:admin", "keys:write", "gates:write", "RUNS:read", "runs:read ", "*:read"} {
		r := g.do(http.MethodPost, "/api/api-keys", `{"name":"k","scopes":["steps:read","`+scope+`"]}`)
		g.want(r, http.StatusUnprocessableEntity, "invalid-field")
		if p := decodeAs[api.Problem](t, r); len(p.Errors) != 1 || p.Errors[0].Pointer != "/scopes/1" || !strings.Contains(p.Errors[0].Detail, "runs:write") {
			t.Errorf("scope %q = %+v, want what there is, at /scopes/1", scope, p.Errors)
		}
	}
}
