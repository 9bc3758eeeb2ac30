package httpapi

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

const alertBody = `{"url":"https://hooks.example.com/nofx","events":["run.failed","approval.requested"]}`

// tellAlert queues a delivery for an endpoint and returns its id.
func (g *gateway) tellAlert(endpoint string) string {
	g.Helper()
	id := run.NewID()
	if _, err := g.pg.Admin.Exec(g.Context(), `INSERT INTO nofx.alert_delivery (tenant_id, endpoint_id, id, event, data) VALUES ($1, $2::uuid, $3, 'run.failed', '{"run_id": "run_1"}')`,
		g.tenant, strings.TrimPrefix(endpoint, "alert_"), id); err != nil {
		g.Fatal(err)
	}
	return run.MessageID.Format(id)
}

func TestAlertEndpoints(t *testing.T) {
	g := newGateway(t)
	r := g.do(http.MethodPost, "/api/alert-endpoints", alertBody)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.AlertEndpointAnswer](t, r)
	e := made.Endpoint
	if e.Status != api.AlertEndpointStatusEnabled || e.Version != 1 || e.SecretVersion != 1 || e.URL != "https://hooks.example.com/nofx" || len(e.Events) != 2 || r.header.Get("ETag") != `"v1"` {
		t.Errorf("created = %s, ETag %s, want it enabled, version 1", r.body, r.header.Get("ETag"))
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(value(made.Secret), "whsec_")); err != nil || len(key) != 32 || !strings.HasPrefix(value(made.Secret), "whsec_") {
		t.Errorf("secret = %s, want whsec_ and 32 bytes in base64", value(made.Secret))
	}
	path := "/api/alert-endpoints/" + e.ID
	for _, shown := range []string{"/api/alert-endpoints", path} {
		if r := g.get(shown); r.status != http.StatusOK || strings.Contains(string(r.body), "whsec_") || !strings.Contains(string(r.body), e.ID) {
			t.Errorf("GET %s = %d %s, want the endpoint without its secret", shown, r.status, r.body)
		}
	}

	r = g.do(http.MethodPatch, path, `{"enabled":false,"events":["gate.failed"]}`, header{"If-Match": `"v1"`})
	g.want(r, http.StatusOK, "")
	changed := decodeAs[api.AlertEndpointAnswer](t, r)
	if c := changed.Endpoint; c.Status != api.AlertEndpointStatusDisabled || c.DisabledReason == nil || *c.DisabledReason != "request" || len(c.Events) != 1 || c.URL != e.URL || c.Version != 2 || changed.Secret != nil {
		t.Errorf("changed = %s, want it disabled by request, for one event", r.body)
	}
	g.want(g.do(http.MethodPatch, path, `{"enabled":true}`, header{"If-Match": `"v1"`}), http.StatusPreconditionFailed, "stale-version")
	g.want(g.do(http.MethodPatch, path, `{"url":"https://other.example.com/"}`), http.StatusOK, "")
	id := g.tellAlert(e.ID)
	g.want(g.do(http.MethodPost, path+"/deliveries/"+id+"/redeliver", ""), http.StatusConflict, "alert-endpoint-disabled")
	g.want(g.do(http.MethodPatch, path, `{"enabled":true}`), http.StatusOK, "")

	r = g.do(http.MethodPost, path+"/rotate-secret", "")
	g.want(r, http.StatusOK, "")
	if rotated := decodeAs[api.AlertEndpointAnswer](t, r); value(rotated.Secret) == value(made.Secret) || rotated.Secret == nil || rotated.Endpoint.SecretVersion != 2 || rotated.Endpoint.PastSecretUntil == nil {
		t.Errorf("rotated = %s, want another secret beside the one before", r.body)
	}
	g.want(g.do(http.MethodDelete, path, ""), http.StatusNoContent, "")
	g.want(g.get(path), http.StatusNotFound, "not-found")
}

func TestAlertDeliveries(t *testing.T) {
	g := newGateway(t)
	made := func() string {
		r := g.do(http.MethodPost, "/api/alert-endpoints", alertBody)
		g.want(r, http.StatusCreated, "")
		return "/api/alert-endpoints/" + decodeAs[api.AlertEndpointAnswer](t, r).Endpoint.ID
	}
	path, other := made(), made()
	var ids []string
	for range 3 {
		ids = append(ids, g.tellAlert(strings.TrimPrefix(path, "/api/alert-endpoints/")))
	}
	if _, err := g.pg.Admin.Exec(t.Context(), `UPDATE nofx.alert_delivery SET state = 'failed', due_at = NULL, attempt = 8, tried_at = clock_timestamp(), duration_ms = 7, response_code = 500, response_excerpt = 'no', error = NULL
		WHERE id = $1::uuid`, strings.TrimPrefix(ids[2], "msg_")); err != nil {
		t.Fatal(err)
	}
	first := decodeAs[api.AlertDeliveryPage](t, g.get(path+"/deliveries?limit=2"))
	if len(first.Items) != 2 || first.NextCursor == nil || first.Items[0].ID != ids[2] || first.Items[1].ID != ids[1] {
		t.Fatalf("first page = %+v, want the two newest", first)
	}
	if d := first.Items[0]; d.Status != "failed" || d.Attempt != 8 || *d.ResponseCode != 500 || value(d.ResponseExcerpt) != "no" || *d.DurationMs != 7 || d.NextAttemptAt != nil || d.Data["run_id"] != "run_1" {
		t.Errorf("delivery = %+v, want its last attempt", d)
	}
	if second := decodeAs[api.AlertDeliveryPage](t, g.get(path+"/deliveries?limit=2&cursor="+*first.NextCursor)); len(second.Items) != 1 || second.Items[0].ID != ids[0] || second.NextCursor != nil {
		t.Errorf("second page = %+v, want the oldest", second)
	}
	g.want(g.get(other+"/deliveries?cursor="+*first.NextCursor), http.StatusBadRequest, "bad-cursor")

	r := g.do(http.MethodPost, path+"/deliveries/"+ids[2]+"/redeliver", "")
	g.want(r, http.StatusAccepted, "")
	if d := decodeAs[api.AlertDeliveryAnswer](t, r).Delivery; d.ID != ids[2] || d.Status != "pending" || d.NextAttemptAt == nil {
		t.Errorf("redelivered = %s, want it pending under its id", r.body)
	}
	g.want(g.do(http.MethodPost, other+"/deliveries/"+ids[2]+"/redeliver", ""), http.StatusNotFound, "not-found")
}

func TestBadAlertRequests(t *testing.T) {
	g := newGateway(t)
	r := g.do(http.MethodPost, "/api/alert-endpoints", alertBody)
	g.want(r, http.StatusCreated, "")
	path := "/api/alert-endpoints/" + decodeAs[api.AlertEndpointAnswer](t, r).Endpoint.ID
	for _, tt := range []struct {
		method, body  string
		status        int
		code, pointer string
	}{
		{http.MethodPost, `{}`, 422, "invalid-field", "/url"},
		{http.MethodPost, `{"url":"https://x.example/"}`, 422, "invalid-field", "/events"},
		{http.MethodPost, `{"url":"https://x.example/","events":[]}`, 422, "invalid-field", "/events"},
		{http.MethodPost, `{"url":"https://x.example/","events":["run.failed","run.won"]}`, 422, "invalid-field", "/events/1"},
		{http.MethodPost, `{"url":"https://x.example/","events":["run.failed","run.failed"]}`, 422, "invalid-field", "/events/1"},
		{http.MethodPost, `{"url":"http://x.example/","events":["run.failed"]}`, 422, "invalid-field", "/url"},
		{http.MethodPost, `{"url":"http://127.0.0.1/","events":["run.failed"]}`, 422, "invalid-field", "/url"},
		{http.MethodPost, `{"url":"https://u:p@x.example/","events":["run.failed"]}`, 422, "invalid-field", "/url"},
		{http.MethodPost, `{"url":"https://x.example/","events":["run.failed"],"secret":"whsec_x"}`, 400, "unknown-field", "/secret"},
		{http.MethodPatch, `{}`, 422, "invalid-field", ""},
		{http.MethodPatch, `{"events":[]}`, 422, "invalid-field", "/events"},
		{http.MethodPatch, `{"url":""}`, 422, "invalid-field", "/url"},
		{http.MethodPatch, `{"enabled":"no"}`, 400, "malformed-json", "/enabled"},
	} {
		at := map[string]string{http.MethodPost: "/api/alert-endpoints", http.MethodPatch: path}[tt.method]
		r := g.do(tt.method, at, tt.body)
		g.want(r, tt.status, tt.code)
		if p := decodeAs[api.Problem](t, r); tt.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != tt.pointer) {
			t.Errorf("%s %s = %s, want a fault at %s", tt.method, tt.body, r.body, tt.pointer)
		}
	}
	if page := decodeAs[api.AlertEndpointPage](t, g.get("/api/alert-endpoints")); len(page.Items) != 1 || page.Items[0].Version != 1 {
		t.Errorf("endpoints = %+v, want the first one as it was: what is refused changes nothing", page.Items)
	}

	for range 19 {
		g.want(g.do(http.MethodPost, "/api/alert-endpoints", alertBody), http.StatusCreated, "")
	}
	g.want(g.do(http.MethodPost, "/api/alert-endpoints", alertBody), http.StatusConflict, "alert-endpoint-limit")

	local := newGatewayAlone(t, func(c *Config) { c.LocalAlerts = true })
	local.want(local.do(http.MethodPost, "/api/alert-endpoints", `{"url":"http://127.0.0.1:9/","events":["run.failed"]}`), http.StatusCreated, "")
	keyless := newGatewayAlone(t, func(c *Config) { c.Keys = nil })
	keyless.want(keyless.do(http.MethodPost, "/api/alert-endpoints", alertBody), http.StatusServiceUnavailable, "unavailable")
	if n := keyless.texts("SELECT id::text FROM nofx.alert_endpoint"); len(n) != 0 {
		t.Errorf("endpoints made without a key = %v, want none", n)
	}
}

// S23: the secrets of an endpoint are in one response each, and in no row, nor in the log.
func TestS23_AlertSecrets(t *testing.T) {
	var log strings.Builder
	g := newGateway(t, func(c *Config) { c.Log = telemetry.NewLogger(&log, slog.LevelDebug, c.Redactor) })
	r := g.do(http.MethodPost, "/api/alert-endpoints", alertBody)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.AlertEndpointAnswer](t, r)
	rotated := decodeAs[api.AlertEndpointAnswer](t, g.do(http.MethodPost, "/api/alert-endpoints/"+made.Endpoint.ID+"/rotate-secret", ""))
	var forms []string
	for _, secret := range []string{value(made.Secret), value(rotated.Secret)} {
		text := strings.TrimPrefix(secret, "whsec_")
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != 32 {
			t.Fatalf("secret = %s, want one", secret)
		}
		forms = append(forms, text, hex.EncodeToString([]byte(text)), hex.EncodeToString(key))
	}
	shows := func(where, text string) {
		t.Helper()
		for _, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("%s shows a secret: %.300s", where, text)
			}
		}
	}
	for _, table := range g.texts(`SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('nofx', 'river')`) {
		for _, row := range g.texts("SELECT to_jsonb(t)::text FROM " + table + " t") {
			shows("a row of "+table, row)
		}
	}
	for _, path := range []string{"/api/alert-endpoints", "/api/alert-endpoints/" + made.Endpoint.ID, "/api/audit"} {
		shows(path, fmt.Sprintf("%s", g.get(path).body))
	}
	shows("the log", log.String())
}
