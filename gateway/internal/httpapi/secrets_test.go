package httpapi

import (
	"fmt"
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

	texts := func(query string) []string {
		t.Helper()
		rows, _ := g.pg.Admin.Query(g.Context(), query)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	tables := texts(`SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('nofx', 'river')`)
	if !slices.Contains(tables, "nofx.event") {
		t.Fatalf("tables = %v, want nofx.event among them", tables)
	}
	for _, table := range tables {
		for _, row := range texts("SELECT to_jsonb(t)::text FROM " + table + " t") {
			if strings.Contains(row, token) || strings.Contains(row, known) {
				t.Errorf("a row of %s shows a secret: %s", table, row)
			}
		}
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
