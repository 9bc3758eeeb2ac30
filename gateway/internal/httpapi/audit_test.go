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
	"nofx.dev/gateway/audit"
	"nofx.dev/shared/blob"
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

// logOf returns the whole log as the API answers it, the newest first.
func (g *gateway) logOf(headers ...header) (tenant string, rows []api.AuditRow) {
	g.Helper()
	for path := "/api/audit?limit=3"; path != ""; {
		r := g.get(path, headers...)
		g.want(r, http.StatusOK, "")
		page := decodeAs[api.AuditPage](g, r)
		tenant, rows, path = page.TenantID, append(rows, page.Items...), ""
		if page.NextCursor != nil {
			path = "/api/audit?limit=3&cursor=" + *page.NextCursor
		}
	}
	return tenant, rows
}

// verifyLog returns what the chain of the log says, as the CLI verifies it.
func (g *gateway) verifyLog() (int64, error) {
	g.Helper()
	anchors := decodeAs[api.AuditAnchorList](g, g.get("/api/audit/anchors")).Items
	tenant, rows := g.logOf()
	chain := audit.NewChain(tenant, anchors)
	for _, r := range rows {
		chain.Add(r)
	}
	return chain.End()
}

// What the API answers has the hashes that the database computed, whatever is in the rows,
// and any field that is changed, any row that is missing, is found, and the first of them is
// named; rows that are missing at the end by the head that is kept in object storage.
func TestS24_TamperingIsFound(t *testing.T) {
	g := newGateway(t)
	for _, reason := range []string{`a "quoted" \\ reason <&>`, "zwölf\u2028grüne\u0001\t Bären 😀", ""} {
		body, _ := json.Marshal(map[string]string{"reason": reason})
		g.want(g.do(http.MethodPost, "/api/queues/step/pause", string(body)), http.StatusOK, "")
		g.want(g.do(http.MethodPost, "/api/queues/step/resume", string(body)), http.StatusOK, "")
	}
	g.want(g.do(http.MethodPost, "/api/api-keys", `{"name":"ci <&> \"x\"","scopes":["runs:read","runs:write"],"expires_at":"2100-01-01T00:00:00Z"}`), http.StatusCreated, "")
	if _, err := g.pg.Admin.Exec(t.Context(), `BEGIN; SET LOCAL search_path = nofx; SELECT set_config('nofx.tenant_id', $q$`+g.tenant.String()+`$q$, true);
		SELECT nofx.audit('test.numbers', 'x', NULL, '{"a": 1.50, "bb": 1e3, "c": -0.0, "b": [true, null, "\u001f"]}', '{"é": "ü", "zz": {}, "y": []}'); COMMIT`); err != nil {
		t.Fatal(err)
	}
	n, err := g.verifyLog()
	if err != nil || n != 9 {
		t.Fatalf("verifyLog() = %d rows, %v, want 9, sound", n, err)
	}
	if _, err := g.pg.Admin.Exec(t.Context(), "ALTER TABLE nofx.audit DISABLE TRIGGER ALL; CREATE TABLE public.kept AS SELECT * FROM nofx.audit"); err != nil {
		t.Fatal(err)
	}
	_, rows := g.logOf()
	day := "2026-03-01"
	if _, err := g.blobs.PutAnchor(t.Context(), g.tenant, blob.Anchor{Day: day, Seq: 9, Hash: rows[0].Hash, At: rows[0].At}); err != nil {
		t.Fatal(err)
	}
	set := func(change string) string { return "UPDATE nofx.audit SET " + change + " WHERE seq = 4" }
	for sql, want := range map[string]string{
		set("actor = 'x'"): "row 4: it was changed", set("via = 'x'"): "row 4: it was changed", set("act = 'x'"): "row 4: it was changed",
		set("object = 'x'"): "row 4: it was changed", set("reason = NULL"): "row 4: it was changed", set("at = at + interval '1 microsecond'"): "row 4: it was changed",
		set("before = '{}'"): "row 4: it was changed", set("after = '{\"a\": 1}'"): "row 4: it was changed", set("trace_id = NULL"): "row 4: it was changed",
		set("prev_hash = sha256('x')"): "row 4: it does not follow the row before it", set("hash = sha256('x')"): "row 4: it was changed",
		"UPDATE nofx.audit a SET reason = 'x' WHERE seq = 4; UPDATE nofx.audit a SET hash = nofx.audit_hash(a) WHERE seq = 4": "row 5: it does not follow the row before it",
		"DELETE FROM nofx.audit WHERE seq = 4": "row 4: it is missing", "DELETE FROM nofx.audit WHERE seq = 1": "row 1: it is missing",
		"DELETE FROM nofx.audit WHERE seq >= 8": "row 8: it is missing; on 2026-03-01 the log had 9 rows", "DELETE FROM nofx.audit": "row 1: it is missing; on 2026-03-01 the log had 9 rows",
		"UPDATE nofx.audit a SET reason = 'x' WHERE seq = 9; UPDATE nofx.audit a SET hash = nofx.audit_hash(a) WHERE seq = 9": "row 9: it is not the row whose hash was stored on 2026-03-01",
	} {
		if _, err := g.pg.Admin.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if _, err := g.verifyLog(); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("verifyLog() after %s = %v, want %s", sql, err, want)
		}
		if _, err := g.pg.Admin.Exec(t.Context(), "DELETE FROM nofx.audit; INSERT INTO nofx.audit SELECT * FROM public.kept"); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := g.verifyLog(); err != nil || n != 9 {
		t.Errorf("verifyLog() at the end = %d rows, %v, want 9, sound", n, err)
	}
}

// The log is for administrators, by what they ask for, and each tenant has its own.
func TestS24_ListAudit(t *testing.T) {
	g := newGateway(t)
	g.want(g.get("/api/audit", header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleSupervisor)}), http.StatusForbidden, "forbidden")
	other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}
	if _, rows := g.logOf(other); len(rows) != 1 {
		t.Errorf("rows of another tenant = %d, want that of its key", len(rows))
	}
	for query, want := range map[string]int{"": 2, "?act=key.create": 2, "?act=key.revoke": 0, "?actor=nobody": 0, "?since=2100-01-01T00:00:00Z": 0, "?until=2100-01-01T00:00:00Z": 2} {
		if rows := decodeAs[api.AuditPage](t, g.get("/api/audit"+query)).Items; len(rows) != want {
			t.Errorf("GET /api/audit%s = %d rows, want %d", query, len(rows), want)
		}
	}
	for _, query := range []string{"?act=A", "?actor=" + strings.Repeat("x", 513), "?since=x", "?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "?limit=0", "?x=1"} {
		g.want(g.get("/api/audit"+query), http.StatusBadRequest, "bad-parameter")
	}
	g.want(g.get("/api/audit?cursor=x"), http.StatusBadRequest, "bad-cursor")
}
