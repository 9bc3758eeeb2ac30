package httpapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
)

// ticketFor makes a ticket for a stream and returns its URL.
func (g *gateway) ticketFor(path string, headers ...header) string {
	g.Helper()
	body, _ := json.Marshal(map[string]string{"path": path})
	r := g.do(http.MethodPost, "/api/stream-tickets", string(body), headers...)
	g.want(r, http.StatusCreated, "")
	return decodeAs[api.StreamTicket](g, r).URL
}

// eventSource asks as EventSource of a browser does, and reads a stream to its end.
func (g *gateway) eventSource(path string, headers ...header) (status int, body string) {
	g.Helper()
	req, err := http.NewRequestWithContext(g.Context(), http.MethodGet, g.http.URL+path, nil)
	if err != nil {
		g.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for _, h := range headers {
		for name, value := range h {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		g.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// TestS30_Tickets checks that a ticket opens one stream of whoever got it, once, soon, with
// its filter, and nothing else.
func TestS30_Tickets(t *testing.T) {
	g, p := newPeople(t)
	id := g.runIn(api.RunStatusSucceeded).Run.ID
	path := "/api/runs/" + id + "/events?until=final&types=run.*"
	for name, who := range map[string]header{"a key": {"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleViewer)}, "a person": p.token(t, "ann", api.RoleViewer)} {
		url := g.ticketFor(path, who)
		if status, body := g.eventSource(url); status != http.StatusOK || !strings.Contains(body, "event: run.succeeded") || strings.Contains(body, "event: step.") {
			t.Errorf("stream of %s by a ticket = %d %.300s, want the events run.*", name, status, body)
		}
		if status, body := g.eventSource(url); status != http.StatusUnauthorized {
			t.Errorf("stream of %s by the ticket again = %d %.100s, want 401", name, status, body)
		}
	}
	ticket := func(url string) string {
		_, t, _ := strings.Cut(url, "ticket=")
		t, _, _ = strings.Cut(t, "&")
		return t
	}
	url := g.ticketFor(path)
	if strings.Contains(url, g.key) || len(ticket(url)) < 43 {
		t.Errorf("URL = %s, want a ticket of 256 bits and no key", url)
	}
	other := g.runIn(api.RunStatusSucceeded).Run.ID
	for name, wrong := range map[string]string{
		"another filter": strings.Replace(url, "types=run", "types=step", 1), "another run": strings.Replace(url, id, other, 1), "no filter": "/api/runs/" + id + "/events?ticket=" + ticket(url),
		"another operation": "/api/runs?ticket=" + ticket(url), "a changed ticket": strings.Replace(url, ticket(url), strings.Repeat("A", 43), 1),
	} {
		if status, body := g.eventSource(wrong); status != http.StatusUnauthorized {
			t.Errorf("ticket with %s = %d %.100s, want 401", name, status, body)
		}
	}
	if status, body := g.eventSource(url); status != http.StatusOK {
		t.Errorf("the ticket after these = %d %.200s, want it good still", status, body)
	}
	page := g.get(g.ticketFor(path), header{"Authorization": ""})
	g.want(page, http.StatusUnauthorized, "unauthenticated")
	if !strings.Contains(decodeAs[api.Problem](t, page).Detail, "text/event-stream") {
		t.Errorf("a page by a ticket = %s, want it told that tickets open streams", page.body)
	}

	late := g.ticketFor(path)
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.stream_ticket SET expires_at = clock_timestamp()"); err != nil {
		t.Fatal(err)
	}
	if status, _ := g.eventSource(late); status != http.StatusUnauthorized {
		t.Errorf("a ticket that has expired = %d, want 401", status)
	}
	if identity.TicketLife > time.Minute {
		t.Errorf("tickets live %s, want at most a minute", identity.TicketLife)
	}
	g.ticketFor(path) // which deletes those that have expired
	var stored int
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.stream_ticket s WHERE s::text LIKE '%' || $1 || '%' OR expires_at <= clock_timestamp()", ticket(late)).Scan(&stored); err != nil || stored != 0 {
		t.Errorf("%d rows hold a ticket or have expired (%v), want none", stored, err)
	}
	for path, code := range map[string]string{
		"/api/runs": "invalid-field", "https://evil.example/api/events": "invalid-field", "//evil.example/api/events": "invalid-field", "/api/events?ticket=x": "invalid-field", "/api/events%2F..": "invalid-field",
		"/api/steps/step_" + strings.Repeat("0", 32) + "/logs": "invalid-field", "": "invalid-field", "/api/events?%zz": "invalid-field", "/api/runs/x/events": "invalid-field",
	} {
		body, _ := json.Marshal(map[string]string{"path": path})
		g.want(g.do(http.MethodPost, "/api/stream-tickets", string(body)), http.StatusUnprocessableEntity, code)
	}
	logs := `{"path":"/api/steps/step_` + strings.Repeat("0", 32) + `/logs?follow=1"}`
	g.want(g.do(http.MethodPost, "/api/stream-tickets", logs, header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleService, "events:read")}), http.StatusForbidden, "forbidden")
	g.want(g.do(http.MethodPost, "/api/stream-tickets", logs), http.StatusCreated, "")
}

// TestS06_TicketOfAnotherTenant checks that a ticket opens nothing when its owner is not of the
// tenant that it was made in, as when a person's claims have come to name another.
func TestS06_TicketOfAnotherTenant(t *testing.T) {
	g := newGateway(t)
	url := g.ticketFor("/api/runs/" + g.runIn(api.RunStatusSucceeded).Run.ID + "/events?until=final")
	if _, err := g.pg.Admin.Exec(t.Context(), "UPDATE nofx.stream_ticket SET tenant_id = $1", g.pg.Tenant(t)); err != nil {
		t.Fatal(err)
	}
	if status, body := g.eventSource(url); status != http.StatusUnauthorized {
		t.Errorf("ticket of another tenant = %d %.100s, want 401", status, body)
	}
}

// TestS42_Tickets checks that a ticket gives no more than its owner has when it is used, and
// that its stream ends with the owner's credentials.
func TestS42_Tickets(t *testing.T) {
	g, p := newPeople(t)
	id := g.runIn(api.RunStatusSucceeded).Run.ID
	path := "/api/runs/" + id + "/events?until=final"
	made, asKey := g.createKey("browser", `"role":"viewer"`)
	ann := p.token(t, "ann", api.RoleViewer)
	byKey, byPerson := g.ticketFor(path, asKey), g.ticketFor(path, ann)
	open := g.ticketFor("/api/events", ann)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, open, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.7:1"
	who, err := g.server.Identity.Identify(r)
	if err != nil || who.Subject != "user:ann" || !who.Ticket {
		t.Fatalf("Identify(a ticket) = %+v, %v, want ann", who, err)
	}
	check := g.server.still(g.during("listEvents"), who)
	if err := check(t.Context()); err != nil {
		t.Errorf("check of a good ticket's stream = %v, want nil", err)
	}
	g.revoke(made)
	g.want(g.do(http.MethodPost, "/api/subjects/user:ann/revoke", ""), http.StatusOK, "")
	if err := check(t.Context()); err == nil {
		t.Error("check after the owner was revoked = nil, want an error")
	}
	for name, url := range map[string]string{"a revoked key": byKey, "a revoked person": byPerson} {
		if status, body := g.eventSource(url); status != http.StatusUnauthorized {
			t.Errorf("ticket of %s = %d %.100s, want 401", name, status, body)
		}
	}
}
