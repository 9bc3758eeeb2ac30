package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"nofx.dev/gateway/api"
)

// audited returns the rows of the audit log of an act, the oldest first, as "object after".
func (g *gateway) audited(act string) []string {
	g.Helper()
	rows, err := g.pg.Admin.Query(g.Context(), "SELECT object || ' ' || coalesce(after::text, '') FROM nofx.audit WHERE tenant_id = $1 AND act = $2 ORDER BY seq", g.tenant, act)
	if err != nil {
		g.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		g.Fatal(err)
	}
	return list
}

// failAudit makes every insert into the audit log fail until the test ends.
func (g *gateway) failAudit() {
	g.Helper()
	if _, err := g.pg.Admin.Exec(g.Context(), `CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER fails BEFORE INSERT ON nofx.audit FOR EACH ROW EXECUTE FUNCTION public.fails()`); err != nil {
		g.Fatal(err)
	}
}

// Refusals of acts of supervisors and administrators are in the audit log, whoever tried
// and whatever the path says; those of other operations are not.
func TestS24_DenialsAreAudited(t *testing.T) {
	g := newGateway(t)
	as := func(role api.Role, scopes ...string) header {
		return header{"Authorization": "Bearer " + g.newKey(g.tenant, role, scopes...)}
	}
	viewer, operator, service := as(api.RoleViewer), as(api.RoleOperator), as(api.RoleService, "runs:read")
	hostile := "%0A%1B%5B31m%00" + strings.Repeat("x", 300)
	want := []string{}
	for _, tt := range []struct {
		method, path, body string
		as                 header
		row                string // "": none
	}{
		{http.MethodPost, "/api/gates/gate_1/approve", "", operator, "gate_1 approveGate"},
		{http.MethodPost, "/api/gates/gate_1/waive", `{"reason":"x"}`, service, "gate_1 waiveGate"},
		{http.MethodPost, "/api/api-keys", `{"name":"x","role":"admin"}`, viewer, "/api/api-keys createAPIKey"},
		{http.MethodPost, "/api/queues/" + hostile + "/pause", "", viewer, "\uFFFD\uFFFD[31m\uFFFD" + strings.Repeat("x", 193) + " pauseQueue"},
		{http.MethodPatch, "/api/runs/run_1/checkpoints/ckpt_1", `{"hold":true,"reason":"x"}`, operator, "ckpt_1 markCheckpoint"}, // refused by its handler
		{http.MethodPost, "/api/runs", "{}", viewer, ""},
		{http.MethodGet, "/api/api-keys", "", viewer, ""},
	} {
		g.want(g.do(tt.method, tt.path, tt.body, tt.as), http.StatusForbidden, "forbidden")
		if tt.row != "" {
			want = append(want, tt.row)
		}
	}
	got := g.audited("denied")
	if len(got) != len(want) {
		t.Fatalf("rows of refusals = %q, want %q", got, want)
	}
	for i, row := range got {
		object, operation, _ := strings.Cut(want[i], " ")
		if !strings.HasPrefix(row, object+" ") || !strings.Contains(row, `"operation": "`+operation+`"`) {
			t.Errorf("row %d = %q, want %s of %s", i, row, operation, object)
		}
	}
	g.want(g.do(http.MethodPost, "/api/gates/gate_1/approve", "", header{"Authorization": ""}), http.StatusUnauthorized, "unauthenticated")
	if n := len(g.audited("denied")); n != len(want) {
		t.Errorf("rows after a refusal of nobody = %d, want %d", n, len(want))
	}
	g.failAudit()
	g.want(g.do(http.MethodPost, "/api/gates/gate_1/approve", "", operator), http.StatusServiceUnavailable, "unavailable")
}

// Refusals count against the caller's rate, so that a flood costs little.
func TestS24_FloodOfDenials(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Rate = 0.001; c.TenantRate = 0.001 })
	viewer := header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleViewer)}
	limited := 0
	for range 10 {
		if r := g.do(http.MethodPost, "/api/gates/gate_1/approve", "", viewer); r.status == http.StatusTooManyRequests {
			limited++
		}
	}
	if rows := g.audited("denied"); limited != 9 || len(rows) != 1 {
		t.Errorf("of 10 refusals at once %d were too many, %d have rows, want 9 and 1", limited, len(rows))
	}
}

// Every signed URL has a row, with its digest and without itself, and none is handed out
// without.
func TestS17_SignedURLsAreAudited(t *testing.T) {
	g := newGateway(t)
	created := g.announce("hello")
	rows := g.audited("url.sign")
	wantRow := func(what, id, method, url string, rows []string, n int) {
		t.Helper()
		sum := sha256.Sum256([]byte(url))
		if len(rows) != n || !strings.HasPrefix(rows[n-1], id+" ") || !strings.Contains(rows[n-1], fmt.Sprintf(`"method": %q`, method)) || !strings.Contains(rows[n-1], hex.EncodeToString(sum[:])) {
			t.Errorf("rows of %s = %q, want the %d. to be of %s %s", what, rows, n, method, id)
		}
		if all := strings.Join(rows, " "); strings.Contains(all, "X-Amz") || strings.Contains(all, "Signature") {
			t.Errorf("rows of %s hold a URL: %s", what, all)
		}
	}
	wantRow("an upload", created.Artifact.ID, http.MethodPut, created.Upload.URL, rows, 1)
	if status := g.putSigned(created.Upload, "hello"); status != http.StatusOK {
		t.Fatalf("PUT = %d, want 200", status)
	}
	g.verified(created.Artifact.ID)
	r := g.get("/api/artifacts/" + created.Artifact.ID)
	g.want(r, http.StatusOK, "")
	wantRow("an artifact", created.Artifact.ID, http.MethodGet, *decodeAs[api.ArtifactAnswer](t, r).Artifact.URL, g.audited("url.sign"), 2)

	g.failAudit()
	for _, r := range []reply{g.get("/api/artifacts/" + created.Artifact.ID), g.do(http.MethodPost, "/api/artifacts", announcement("b.txt", "b"))} {
		g.want(r, http.StatusServiceUnavailable, "unavailable")
		if strings.Contains(string(r.body), "X-Amz") {
			t.Errorf("answer without an audit row = %s, want no URL in it", r.body)
		}
	}
}

// What cannot be audited is not done and answers 503, whoever asks.
func TestS24_NoAuditNoAnswer(t *testing.T) {
	g := newGateway(t)
	body, _ := json.Marshal(map[string]string{"name": "x", "role": "viewer"})
	g.failAudit()
	g.want(g.do(http.MethodPost, "/api/api-keys", string(body)), http.StatusServiceUnavailable, "unavailable")
	g.want(g.do(http.MethodPost, "/api/queues/step/pause", `{"reason":"x"}`), http.StatusServiceUnavailable, "unavailable")
	if keys := decodeAs[api.APIKeyPage](t, g.get("/api/api-keys")).Items; len(keys) != 1 {
		t.Errorf("keys = %d, want the one that asked", len(keys))
	}
}
