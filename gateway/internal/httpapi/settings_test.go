package httpapi

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

func TestSettings(t *testing.T) {
	g := newGateway(t)
	r := g.get("/api/settings")
	g.want(r, http.StatusOK, "")
	a := decodeAs[api.SettingsAnswer](t, r)
	if want := (api.Settings{RetentionDays: 30, AllowWaive: true, ReviewsEnabled: true, NetworkHosts: []string{}}); !cmp.Equal(a.Settings, want) || len(a.Set) != 0 || a.Version != 1 || r.header.Get("ETag") != `"v1"` {
		t.Errorf("settings = %s, ETag %s, want the defaults", r.body, r.header.Get("ETag"))
	}
	r = g.do(http.MethodPatch, "/api/settings", `{"four_eyes":true,"retention_days":7,"model_cost_usd_per_day":0.5}`, header{"If-Match": `"v1"`})
	g.want(r, http.StatusOK, "")
	a = decodeAs[api.SettingsAnswer](t, r)
	if !a.Settings.FourEyes || a.Settings.RetentionDays != 7 || *a.Settings.ModelCostUsdPerDay != 0.5 || len(a.Set) != 3 || a.Version != 2 || a.UpdatedBy == nil || a.UpdatedByName == nil {
		t.Errorf("changed = %s, want what was given, and who changed it", r.body)
	}
	g.want(g.do(http.MethodPatch, "/api/settings", `{"four_eyes":false}`, header{"If-Match": `"v1"`}), http.StatusPreconditionFailed, "stale-version")
	for body, want := range map[string]struct {
		status        int
		code, pointer string
	}{
		`{}`:                               {http.StatusUnprocessableEntity, "invalid-field", ""},
		`{"colour":"red"}`:                 {http.StatusBadRequest, "unknown-field", "/colour"},
		`{"four_eyes":"yes"}`:              {http.StatusBadRequest, "malformed-json", "/four_eyes"},
		`{"retention_days":1.5}`:           {http.StatusBadRequest, "malformed-json", "/retention_days"},
		`{"retention_days":0}`:             {http.StatusUnprocessableEntity, "invalid-field", "/retention_days"},
		`{"queued_runs_max":10001}`:        {http.StatusUnprocessableEntity, "invalid-field", "/queued_runs_max"},
		`{"model_cost_usd_per_day":-1}`:    {http.StatusUnprocessableEntity, "invalid-field", "/model_cost_usd_per_day"},
		`{"four_eyes":true,"four_eyes":1}`: {http.StatusBadRequest, "duplicate-key", "/four_eyes"},
		`{"network_hosts":"a.example"}`:    {http.StatusBadRequest, "malformed-json", "/network_hosts"},
		`{"network_hosts":["*"]}`:          {http.StatusUnprocessableEntity, "invalid-field", "/network_hosts/0"},
		`{"network_hosts":["a.b",null]}`:   {http.StatusUnprocessableEntity, "invalid-field", "/network_hosts/1"},
		`{"network_hosts":["a.b","A.B"]}`:  {http.StatusUnprocessableEntity, "invalid-field", "/network_hosts/1"},
		`[]`:                               {http.StatusBadRequest, "malformed-json", ""},
	} {
		r := g.do(http.MethodPatch, "/api/settings", body)
		g.want(r, want.status, want.code)
		p := decodeAs[api.Problem](t, r)
		if want.pointer != "" && (len(p.Errors) != 1 || p.Errors[0].Pointer != want.pointer) {
			t.Errorf("change %s = %s, want a fault at %s", body, r.body, want.pointer)
		}
	}
	if after := decodeAs[api.SettingsAnswer](t, g.get("/api/settings")); after.Version != 2 {
		t.Errorf("version = %d, want 2: what is refused changes nothing", after.Version)
	}
	r = g.do(http.MethodPatch, "/api/settings", `{"four_eyes":null,"retention_days":null,"allow_waive":false,"queued_runs_max":1}`)
	g.want(r, http.StatusOK, "")
	if a = decodeAs[api.SettingsAnswer](t, r); a.Settings.FourEyes || a.Settings.RetentionDays != 30 || a.Settings.AllowWaive || *a.Settings.QueuedRunsMax != 1 {
		t.Errorf("changed = %s, want defaults for null", r.body)
	}
	g.create(oneStep)
	r = g.do(http.MethodPost, "/api/runs", oneStep)
	g.want(r, http.StatusTooManyRequests, "quota-exceeded")
	if r.header.Get("Retry-After") == "" {
		t.Error("quota-exceeded without Retry-After")
	}
}

// S27: a plan asks for no more hosts than an administrator has granted; what came before a
// grant was taken back does not start again.
func TestS27_NetworkHosts(t *testing.T) {
	g := newGateway(t)
	body := func(hosts string) string {
		return `{"plan":{"goal":"g","policy":{"network":{"hosts":` + hosts + `}},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`
	}
	grant := func(hosts string) api.SettingsAnswer {
		r := g.do(http.MethodPatch, "/api/settings", `{"network_hosts":`+hosts+`}`)
		g.want(r, http.StatusOK, "")
		return decodeAs[api.SettingsAnswer](t, r)
	}
	refused := func(path, body, pointer string) {
		t.Helper()
		r := g.do(http.MethodPost, path, body)
		g.want(r, http.StatusUnprocessableEntity, "invalid-plan")
		if p := decodeAs[api.Problem](t, r); len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("POST %s of %s = %s, want a fault at %s alone", path, body, r.body, pointer)
		}
	}
	for _, path := range []string{"/api/runs", "/api/runs/preview"} {
		refused(path, body(`["modules.example.org"]`), "/plan/policy/network/hosts/0")
		refused(path, body(`["10.0.0.1"]`), "/plan/policy/network/hosts/0")
	}
	if a := grant(`["Modules.Example.ORG","*.example.com:8443"]`); fmt.Sprint(a.Settings.NetworkHosts) != "[modules.example.org:443 *.example.com:8443]" {
		t.Errorf("network_hosts = %v, want them in one form", a.Settings.NetworkHosts)
	}
	refused("/api/runs", body(`["modules.example.org","evil.example"]`), "/plan/policy/network/hosts/1")
	refused("/api/runs", body(`["modules.example.org:80"]`), "/plan/policy/network/hosts/0")
	made := g.do(http.MethodPost, "/api/runs", body(`["modules.example.org","a.example.com:8443"]`))
	g.want(made, http.StatusCreated, "")
	id := decodeAs[api.CreatedRun](t, made).Run.ID
	g.want(g.do(http.MethodPost, "/api/runs/"+id+"/cancel", ""), http.StatusOK, "")
	g.want(g.do(http.MethodPost, "/api/runs/"+id+"/rerun", ""), http.StatusCreated, "")
	grant(`["*.example.com:8443"]`)
	refused("/api/runs/"+id+"/rerun", "", "/plan/policy/network/hosts/0")
	grant("null")
	refused("/api/runs", body(`["a.example.com:8443"]`), "/plan/policy/network/hosts/0")
}
