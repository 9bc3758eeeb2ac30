package httpapi

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
)

func (g *gateway) setSecret(name, value string, headers ...header) reply {
	g.Helper()
	return g.do(http.MethodPut, "/api/secrets/"+name, `{"value":"`+value+`"}`, headers...)
}

func TestSecrets(t *testing.T) {
	g := newGateway(t)
	r := g.setSecret("TOKEN", "canary-value-1", header{"If-Match": `"v0"`})
	g.want(r, http.StatusOK, "")
	if x := decodeAs[api.SecretAnswer](t, r).Secret; x.Name != "TOKEN" || x.Version != 1 || r.header.Get("ETag") != `"v1"` {
		t.Errorf("set = %s, want version 1", r.body)
	}
	g.want(g.setSecret("TOKEN", "canary-value-2", header{"If-Match": `"v0"`}), http.StatusPreconditionFailed, "stale-version")
	g.want(g.setSecret("TOKEN", "canary-value-2", header{"If-Match": `"v1"`}), http.StatusOK, "")
	g.want(g.setSecret("ALSO", "canary-value-3"), http.StatusOK, "")
	for _, path := range []string{"/api/secrets", "/api/secrets/TOKEN"} {
		r := g.get(path)
		g.want(r, http.StatusOK, "")
		if strings.Contains(string(r.body), "canary") || !strings.Contains(string(r.body), `"version":2`) {
			t.Errorf("GET %s = %s, want version 2 and no value", path, r.body)
		}
	}
	if list := decodeAs[api.SecretPage](t, g.get("/api/secrets")).Items; len(list) != 2 || list[0].Name != "ALSO" || list[1].Name != "TOKEN" {
		t.Errorf("secrets = %+v, want ALSO and TOKEN", list)
	}
	var shown int
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.secret s WHERE s::text LIKE '%canary%' OR position('canary'::bytea IN s.sealed) > 0").Scan(&shown); err != nil || shown != 0 {
		t.Errorf("%d rows show a secret (%v), want none", shown, err)
	}

	for body, want := range map[string][2]string{
		`{}`: {"invalid-field", "/value"}, `{"value":"short"}`: {"invalid-field", "/value"}, `{"value":"       short       "}`: {"invalid-field", "/value"},
		`{"value":"` + strings.Repeat("x", run.MaxSecretBytes+1) + `"}`: {"invalid-field", "/value"}, `{"value":"canary\u0000value"}`: {"invalid-field", "/value"},
	} {
		r := g.do(http.MethodPut, "/api/secrets/TOKEN", body)
		g.want(r, http.StatusUnprocessableEntity, want[0])
		if p := decodeAs[api.Problem](t, r); len(p.Errors) != 1 || p.Errors[0].Pointer != want[1] || strings.Contains(string(r.body), "canary") {
			t.Errorf("PUT of %.40s = %s, want a fault at %s that shows nothing", body, r.body, want[1])
		}
	}
	g.want(g.do(http.MethodPut, "/api/secrets/TOKEN", `{"value":7}`), http.StatusBadRequest, "malformed-json")
	g.want(g.do(http.MethodPut, "/api/secrets/TOKEN", `{"value":"canary-value","version":7}`), http.StatusBadRequest, "unknown-field")
	for _, name := range []string{"NOFX_TOKEN", "PATH", "LD_PRELOAD", "A-B", "1A", strings.Repeat("A", 129)} {
		g.want(g.setSecret(name, "canary-value"), http.StatusUnprocessableEntity, "invalid-field")
		g.want(g.get("/api/secrets/"+name), http.StatusNotFound, "not-found")
	}

	// Deleted, and set again under a version that there was not yet.
	g.want(g.do(http.MethodDelete, "/api/secrets/TOKEN", ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodDelete, "/api/secrets/TOKEN", ""), http.StatusNotFound, "not-found")
	g.want(g.get("/api/secrets/TOKEN"), http.StatusNotFound, "not-found")
	if n := len(decodeAs[api.SecretPage](t, g.get("/api/secrets")).Items); n != 1 {
		t.Errorf("%d secrets after a deletion, want 1", n)
	}
	r = g.setSecret("TOKEN", "canary-value-4")
	g.want(r, http.StatusOK, "")
	if x := decodeAs[api.SecretAnswer](t, r).Secret; x.Version != 3 {
		t.Errorf("version of a secret that is set again = %d, want 3", x.Version)
	}
}

// S18: a row that is moved, swapped or put back does not open.
func TestS18_SecretRows(t *testing.T) {
	g := newGateway(t)
	other := g.pg.Tenant(t)
	foreign := header{"Authorization": "Bearer " + g.newKey(other, api.RoleAdmin)}
	g.want(g.setSecret("A", "canary-value-1"), http.StatusOK, "")
	var old []byte
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT sealed FROM nofx.secret WHERE name = 'A'").Scan(&old); err != nil {
		t.Fatal(err)
	}
	g.want(g.setSecret("A", "canary-value-2"), http.StatusOK, "")
	g.want(g.setSecret("B", "canary-value-3"), http.StatusOK, "")
	g.want(g.setSecret("A", "canary-value-4", foreign), http.StatusOK, "")
	open := func() (text string, err error) {
		list, err := g.db.SealedSecrets(t.Context(), g.tenant, []string{"A"})
		if err != nil || len(list) != 2 {
			t.Fatalf("SealedSecrets() = %d, %v, want what A was and is", len(list), err)
		}
		raw, err := g.cfg.Keys.Open(list[1].Sealed, list[1].Bound()...)
		return string(raw), err
	}
	if got, err := open(); err != nil || got != "canary-value-2" {
		t.Fatalf("Open() = %q, %v, want canary-value-2", got, err)
	}
	for what, from := range map[string]string{
		"moved from another name":   "SELECT x.sealed FROM nofx.secret x WHERE x.tenant_id = $1 AND x.name = 'B'",
		"moved from another tenant": "SELECT x.sealed FROM nofx.secret x WHERE x.tenant_id <> $1 AND x.name = 'A'",
		"put back":                  "SELECT $2::bytea",
	} {
		if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.secret SET sealed = ("+from+") WHERE tenant_id = $1 AND name = 'A' AND $2::bytea IS NOT NULL", g.tenant, old); err != nil {
			t.Fatal(err)
		}
		if got, err := open(); !errors.Is(err, seal.ErrSealed) {
			t.Errorf("a row %s opens as %q, %v, want ErrSealed", what, got, err)
		}
	}
}

// Without its key, or with another one than secrets are sealed with, the gateway writes none
// and says so; deleting needs none.
func TestS37_MissingKey(t *testing.T) {
	g := newGateway(t)
	g.want(g.setSecret("A", "canary-value-1"), http.StatusOK, "")
	wrong := newKEK(t)
	missing, err := seal.New("file:"+t.TempDir()+"/kek", true)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		key    *seal.Key
		ready  int
		reason string
	}{
		"none":    {nil, http.StatusOK, "NOFX_KEK is not set"},
		"missing": {missing, http.StatusServiceUnavailable, "does not exist"},
		"wrong":   {wrong, http.StatusServiceUnavailable, "another key"},
	} {
		g.server.Keys = tt.key
		g.server.health = healthCache{}
		r := g.get("/readyz")
		g.want(r, tt.ready, "")
		if got := decodeAs[api.Readiness](t, r).Checks["keys"]; !strings.Contains(got, tt.reason) {
			t.Errorf("%s: readyz says %q of keys, want %q", name, got, tt.reason)
		}
		g.want(g.setSecret("A", "canary-value-2"), http.StatusServiceUnavailable, "unavailable")
		g.want(g.setSecret("B", "canary-value-2"), http.StatusServiceUnavailable, "unavailable")
	}
	if list := decodeAs[api.SecretPage](t, g.get("/api/secrets")).Items; len(list) != 1 || list[0].Version != 1 {
		t.Errorf("secrets = %+v, want what was there", list)
	}
	g.want(g.do(http.MethodDelete, "/api/secrets/A", ""), http.StatusNoContent, "")
	g.server.health = healthCache{}
	g.want(g.get("/readyz"), http.StatusOK, "") // nothing is sealed with another one
}

// A plan that names a secret which there is not, or a step that asks for one which the plan
// does not name, is refused, wherever a plan comes from.
func TestPlansNameSecrets(t *testing.T) {
	g := newGateway(t)
	g.want(g.setSecret("TOKEN", "canary-value-1"), http.StatusOK, "")
	with := func(policy, inputs string) string {
		return `{"plan":{"goal":"g","policy":{"secrets":` + policy + `},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"` + inputs + `}}]}}`
	}
	for body, pointer := range map[string]string{
		with(`["TOKEN"]`, `,"secrets":["TOKEN"]`):                     "",
		with(`["TOKEN"]`, ``):                                         "",
		with(`["TOKEN","OTHER"]`, ``):                                 "/plan/policy/secrets/1",
		with(`["a-b"]`, ``):                                           "/plan/policy/secrets/0",
		with(`[]`, `,"secrets":["TOKEN"]`):                            "/plan/steps/0/inputs/secrets/0",
		with(`["TOKEN"]`, `,"secrets":["TOKEN"],"env":{"TOKEN":"x"}`): "/plan/steps/0/inputs/secrets/0",
		with(`["TOKEN"]`, `,"secrets":["${{ steps.a.outputs.x }}"]`):  "/plan/steps/0/inputs/secrets/0",
		strings.Replace(with(`["TOKEN"]`, ``), `"bash","inputs":{"script":"true"`, `"sleep","inputs":{"duration_s":1,"secrets":["TOKEN"]`, 1): "/plan/steps/0/inputs/secrets",
	} {
		for _, path := range []string{"/api/runs", "/api/runs/preview"} {
			r := g.do(http.MethodPost, path, body)
			if pointer == "" {
				if r.status >= 300 {
					t.Errorf("POST %s of %s = %d %s, want success", path, body, r.status, r.body)
				}
				continue
			}
			p := decodeAs[api.Problem](t, r)
			if r.status != http.StatusUnprocessableEntity && r.status != http.StatusBadRequest || len(p.Errors) == 0 || p.Errors[0].Pointer != pointer {
				t.Errorf("POST %s of %s = %d %s, want a fault at %s", path, body, r.status, r.body, pointer)
			}
		}
	}
	made := g.do(http.MethodPost, "/api/runs", with(`["TOKEN"]`, ``))
	g.want(made, http.StatusCreated, "")
	id := decodeAs[api.CreatedRun](t, made).Run.ID
	g.want(g.do(http.MethodPost, "/api/runs/"+id+"/cancel", ""), http.StatusOK, "")
	g.want(g.do(http.MethodDelete, "/api/secrets/TOKEN", ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodPost, "/api/runs/"+id+"/rerun", ""), http.StatusUnprocessableEntity, "invalid-plan")
}
