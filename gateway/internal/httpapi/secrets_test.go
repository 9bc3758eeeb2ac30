package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// TestTypedSecretsAreMasked has people paste a token and a value that the process
// knows wherever a request takes words of theirs, and searches what the API shows
// afterwards and the whole database.
func TestTypedSecretsAreMasked(t *testing.T) {
	const token, known = "ghp_0123456789abcdefghijABCDEFGHIJ012345", "correct horse battery"
	g := newGateway(t, func(c *Config) { c.Redactor = telemetry.NewRedactor(known) })
	words := `it said ` + token + ` and ` + known
	body := `{"reason":"` + words + `"}`
	wantMasked := func(where, got string) {
		t.Helper()
		if got != "it said [redacted] and [redacted]" {
			t.Errorf("%s = %q, want the words with two masks", where, got)
		}
	}
	post := func(status int, path, body string) reply {
		t.Helper()
		r := g.do(http.MethodPost, path, body)
		g.want(r, status, "")
		return r
	}

	created := g.do(http.MethodPost, "/api/runs", `{"plan":{"goal":"`+words+`","steps":[`+two+`]}}`)
	g.want(created, http.StatusCreated, "")
	wantMasked("goal", decodeAs[api.CreatedRun](t, created).Run.Goal)

	made := g.runIn(api.RunStatusRunning)
	for _, verb := range []string{"pause", "resume", "cancel", "retry"} {
		r := post(http.StatusOK, "/api/runs/"+made.Run.ID+"/"+verb, body)
		wantMasked(verb, value(decodeAs[api.RunAnswer](t, r).Run.Reason))
	}
	for _, verb := range []string{"approve", "reject", "waive"} {
		waiting := g.runIn(api.RunStatusWaiting)
		gate := decodeAs[api.RunDetail](t, g.get("/api/runs/"+waiting.Run.ID)).Gates[0]
		r := post(http.StatusOK, "/api/gates/"+gate.ID+"/"+verb, body)
		wantMasked(verb, value(decodeAs[api.GateAnswer](t, r).Gate.Reason))
	}
	for _, verb := range []string{"/api/steps/%s/retry", "/api/dead-letters/%s/requeue"} {
		post(http.StatusOK, fmt.Sprintf(verb, g.runIn(api.RunStatusFailed).Steps[0].ID), body)
	}
	g.runIn(api.RunStatusFailed)
	post(http.StatusOK, "/api/dead-letters/requeue", body)
	post(http.StatusOK, "/api/queues/"+run.StepQueue+"/pause", body)
	for _, q := range decodeAs[api.QueuePage](t, g.get("/api/queues")).Items {
		if q.Name == run.StepQueue {
			wantMasked("pause of a queue", value(q.Reason))
		}
	}

	tables := g.texts(`SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('nofx', 'river')`)
	if !slices.Contains(tables, "nofx.event") {
		t.Fatalf("tables = %v, want nofx.event among them", tables)
	}
	for _, table := range tables {
		for _, row := range g.texts("SELECT to_jsonb(t)::text FROM " + table + " t") {
			if strings.Contains(row, token) || strings.Contains(row, known) {
				t.Errorf("a row of %s shows a secret: %s", table, row)
			}
		}
	}
}

// texts returns the rows of a query of one text each.
func (g *gateway) texts(query string) []string {
	g.Helper()
	rows, _ := g.pg.Admin.Query(g.Context(), query)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		g.Fatal(err)
	}
	return found
}

// TestRefusalsAreMasked has a token wherever a refusal quotes the request, with and
// without an Idempotency-Key, and searches the answer, the kept one, and the log.
func TestRefusalsAreMasked(t *testing.T) {
	const token, known = "ghp_0123456789abcdefghijABCDEFGHIJ012345", "correct-horse-battery"
	var log strings.Builder
	g := newGateway(t, func(c *Config) {
		c.Redactor = telemetry.NewRedactor(known)
		c.Log = telemetry.NewLogger(&log, slog.LevelDebug, c.Redactor)
	})
	step := func(members string) string { return `{"plan":{"goal":"g","steps":[{` + members + `}]}}` }
	shows := func(text string) bool { return strings.Contains(text, token) || strings.Contains(text, known) }
	for _, secret := range []string{token, known} {
		for name, body := range map[string]string{
			"tool":       step(`"name":"a","tool":"` + secret + `"`),
			"input":      step(`"name":"a","tool":"bash","inputs":{"script":"true","` + secret + `":1}`),
			"header":     step(`"name":"a","tool":"http","inputs":{"url":"https://example.org/","headers":{"` + secret + `:":"x"}}`),
			"variable":   step(`"name":"a","tool":"bash","inputs":{"script":"true","env":{"` + secret + `":1}}`),
			"step":       step(`"name":"` + secret + `","tool":"bash","inputs":{}`),
			"twice":      step(`"name":"` + secret + `","tool":"bash","inputs":{"script":"true"}},{"name":"` + secret + `","tool":"bash","inputs":{"script":"true"}`),
			"depends_on": step(`"name":"a","tool":"bash","inputs":{"script":"true"},"depends_on":["` + secret + `"]`),
			"template":   step(`"name":"a","tool":"http","inputs":{"url":"https://example.org/${{ ` + secret + ` }}"}`),
			"of a step":  step(`"name":"a","tool":"http","inputs":{"url":"https://example.org/${{ steps.` + secret + `.outputs.x }}"}`),
			"member":     step(`"name":"a","tool":"bash","` + secret + `":1,"inputs":{"script":"true"}`),
			"kind":       step(`"name":"a","tool":"bash","kind":"` + secret + `","inputs":{"script":"true"}`),
			"no JSON":    `{"plan":` + secret,
		} {
			for _, key := range []string{"", fmt.Sprint(name, len(secret))} {
				if w := g.record(http.MethodPost, "/api/runs", body, key); w.Code < 400 || w.Code > 422 || shows(w.Body.String()) {
					t.Errorf("%s with key %q: %d %s, want a refusal without the secret", name, key, w.Code, w.Body)
				}
			}
		}
		for _, path := range []string{"/api/runs/" + secret, "/api/runs?" + secret + "=1", "/api/runs?status=" + secret, "/" + secret} {
			if w := g.record(http.MethodGet, path, "", ""); w.Code < 400 || w.Code > 422 || shows(w.Body.String()) {
				t.Errorf("GET %s: %d %s, want a refusal without the secret", path, w.Code, w.Body)
			}
		}
	}
	kept := g.texts("SELECT convert_from(body, 'UTF8') FROM nofx.idempotency_key")
	if len(kept) == 0 {
		t.Error("no refusal is kept, want some")
	}
	for _, text := range append(kept, log.String()) {
		if shows(text) {
			t.Errorf("what is kept shows a secret: %s", text)
		}
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
