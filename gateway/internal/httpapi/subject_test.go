package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
)

func (g *gateway) createKey(name, wish string) (api.CreatedAPIKey, header) {
	g.Helper()
	r := g.do(http.MethodPost, "/api/api-keys", `{"name":"`+name+`",`+wish+`}`)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.CreatedAPIKey](g, r)
	return made, header{"Authorization": "Bearer " + made.Secret}
}

func (g *gateway) revoke(k api.CreatedAPIKey) {
	g.Helper()
	g.want(g.do(http.MethodDelete, "/api/api-keys/"+k.Key.ID, ""), http.StatusNoContent, "")
}

// Who decides is a key, not its name: two keys that had one name one after the other
// are two approvers, and their name is shown beside each.
func TestApproversOfOneName(t *testing.T) {
	g := newGateway(t)
	created := g.create(plan(manual))
	g.gateWith(g.claim(created.Steps[0]), nil, 2)
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	approve := func(as header) api.Gate {
		t.Helper()
		r := g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", as)
		g.want(r, http.StatusOK, "")
		return decodeAs[api.GateAnswer](t, r).Gate
	}
	first, asFirst := g.createKey("ann", `"role":"supervisor"`)
	approve(asFirst)
	if got := approve(asFirst); got.Status != api.GateStatusPending || len(got.Approvals) != 1 {
		t.Fatalf("gate after the approval of one key, twice = %s with %d approvals, want pending with 1", got.Status, len(got.Approvals))
	}
	g.revoke(first)
	second, asSecond := g.createKey("ann", `"role":"supervisor"`)
	got := approve(asSecond)
	if got.Status != api.GateStatusPassed || len(got.Approvals) != 2 {
		t.Fatalf("gate after the approvals of two keys of one name = %s with %d approvals, want passed with 2", got.Status, len(got.Approvals))
	}
	for i, k := range []api.CreatedAPIKey{first, second} {
		if by, name := got.Approvals[i].By, got.Approvals[i].ByName; by != subjectOf(k) || name == nil || *name != "ann" {
			t.Errorf("approval %d is by %s (%v), want %s (ann)", i+1, by, name, subjectOf(k))
		}
	}
	if got.DecidedBy == nil || *got.DecidedBy != subjectOf(second) || got.DecidedByName == nil || *got.DecidedByName != "ann" {
		t.Errorf("gate is decided by %v (%v), want %s (ann)", got.DecidedBy, got.DecidedByName, subjectOf(second))
	}
	step := decodeAs[api.StepDetail](t, g.get("/api/steps/"+created.Steps[0].ID)).Step
	for _, want := range []string{`"by":"` + subjectOf(second) + `"`, `"by_name":"ann"`} {
		if !strings.Contains(string(step.Outputs), want) {
			t.Errorf("outputs of the step = %s, want %s in it", step.Outputs, want)
		}
	}
	decided := decodeAs[api.EventPage](t, g.get("/api/runs/"+created.Run.ID+"/events?types=approval.decided")).Items
	if len(decided) != 2 || decided[0].Actor != subjectOf(first) || decided[0].ActorName == nil || *decided[0].ActorName != "ann" {
		t.Errorf("events of the approvals = %+v, want two, the first by %s (ann)", decided, subjectOf(first))
	}
}

func subjectOf(k api.CreatedAPIKey) string { return "key:" + strings.TrimPrefix(k.Key.ID, "key_") }

// An author is the key that made the run. Whoever has its name later is somebody
// else.
func TestFourEyesOfOneName(t *testing.T) {
	g := newGateway(t)
	if _, err := g.pg.Admin.Exec(t.Context(), `UPDATE nofx.tenant SET settings = '{"four_eyes": true}' WHERE tenant_id = $1`, g.tenant); err != nil {
		t.Fatal(err)
	}
	author, asAuthor := g.createKey("ann", `"role":"supervisor"`)
	made := g.do(http.MethodPost, "/api/runs", plan(manual), asAuthor)
	g.want(made, http.StatusCreated, "")
	created := decodeAs[api.CreatedRun](t, made)
	if r := created.Run; r.CreatedBy != subjectOf(author) || r.CreatedByName == nil || *r.CreatedByName != "ann" {
		t.Errorf("run is by %s (%v), want %s (ann)", r.CreatedBy, r.CreatedByName, subjectOf(author))
	}
	me := decodeAs[api.Whoami](t, g.get("/api/whoami", asAuthor)).Principal
	if me.Subject != subjectOf(author) || me.Name != "ann" {
		t.Errorf("whoami = %s (%s), want %s (ann)", me.Subject, me.Name, subjectOf(author))
	}
	g.gate(g.claim(created.Steps[0]))
	gate := decodeAs[api.GatePage](t, g.get("/api/gates")).Items[0]
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", asAuthor), http.StatusForbidden, "four-eyes")
	g.revoke(author)
	_, other := g.createKey("ann", `"role":"supervisor"`)
	g.want(g.do(http.MethodPost, "/api/gates/"+gate.ID+"/approve", "", other), http.StatusOK, "")
}

// No two live keys of a tenant have one name; that of a revoked or an expired key is
// free.
func TestKeyNames(t *testing.T) {
	g := newGateway(t)
	taken := func() {
		t.Helper()
		r := g.do(http.MethodPost, "/api/api-keys", `{"name":"ci","role":"viewer"}`)
		g.want(r, http.StatusConflict, "name-taken")
		if p := decodeAs[api.Problem](t, r); !strings.Contains(p.Detail, `"ci"`) {
			t.Errorf("detail = %q, want the name in it", p.Detail)
		}
	}
	first, _ := g.createKey("ci", `"role":"viewer"`)
	taken()
	for _, name := range []string{"CI", " ci", "ci ", "ci\u00a0", "key:ci", "Key:01a2", "\tci", "c\u200bi"} {
		body, _ := json.Marshal(map[string]string{"name": name, "role": "viewer"})
		if r := g.do(http.MethodPost, "/api/api-keys", string(body)); r.status != http.StatusConflict && r.status != http.StatusUnprocessableEntity {
			t.Errorf("a key named %q beside ci = %d %s, want it refused", name, r.status, r.body)
		}
	}
	g.createKey("c i", `"role":"viewer"`)
	g.createKey("monkey:1", `"role":"viewer"`)
	g.revoke(first)
	second, _ := g.createKey("ci", `"role":"viewer","expires_at":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"`)
	taken()
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.api_key SET expires_at = clock_timestamp() WHERE id = $1", uuidOf(g, "key", second.Key.ID)); err != nil {
		t.Fatal(err)
	}
	third, _ := g.createKey("ci", `"role":"viewer"`)
	taken()
	for _, k := range decodeAs[api.APIKeyPage](t, g.get("/api/api-keys")).Items {
		if k.Name == "ci" && (k.RevokedAt == nil) != (k.ID == third.Key.ID) {
			t.Errorf("key %s is revoked at %v, want all but the last one of the name revoked", k.ID, k.RevokedAt)
		}
	}
	// Another tenant has names of its own.
	g.want(g.do(http.MethodPost, "/api/api-keys", `{"name":"ci","role":"viewer"}`, header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleAdmin)}), http.StatusCreated, "")
}
