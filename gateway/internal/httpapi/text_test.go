package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// TestLengths checks that whatever the contract limits by characters is taken to the
// last of them, however many bytes that is, and no further.
func TestLengths(t *testing.T) {
	g := newGateway(t)
	of := func(n int) string { return strings.Repeat("目", n) }
	artifact := func(name string) string {
		return `{"name":"` + name + `","size_bytes":1,"sha256":"` + strings.Repeat("0", 64) + `"}`
	}
	reason := func(text string) string { return `{"reason":"` + text + `"}` }
	live := g.create(oneStep).Run.ID
	pending := func() string {
		return "/api/gates/" + decodeAs[api.RunDetail](t, g.get("/api/runs/"+g.runIn(api.RunStatusWaiting).Run.ID)).Gates[0].ID
	}
	failed := g.create(oneStep)
	g.finish(postgres.Finish{Claim: g.claim(failed.Steps[0]), Outcome: "fail", Reason: "no", FailureClass: run.ClassExhausted})
	for _, tt := range []struct {
		name, path string
		most       int
		body       func(text string) string
		status     int
	}{
		{"goal", "/api/runs/preview", 4096, func(s string) string { return `{"plan":{"goal":"` + s + `","steps":[` + two + `]}}` }, 200},
		{"goal of a run", "/api/runs", 4096, func(s string) string { return `{"plan":{"goal":"` + s + `","steps":[` + two + `]}}` }, 201},
		{"label", "/api/runs", 255, func(s string) string { return `{"plan":{"goal":"g","labels":{"a":"` + s + `"},"steps":[` + two + `]}}` }, 201},
		{"signal", "/api/signals", 255, func(s string) string { return `{"key":"` + s + `"}` }, 201},
		{"artifact", "/api/artifacts", 255, artifact, 201},
		{"API key", "/api/api-keys", 128, func(s string) string { return `{"name":"` + s + `","role":"viewer"}` }, 201},
		{"reason of a pause", "/api/runs/" + live + "/pause", 2048, reason, 200},
		{"reason of a resume", "/api/runs/" + live + "/resume", 2048, reason, 200},
		{"reason of a retry", "/api/steps/" + failed.Steps[0].ID + "/retry", 2048, reason, 200},
		{"reason of a cancel", "/api/runs/" + live + "/cancel", 2048, reason, 200},
		{"reason of an approval", pending() + "/approve", 2048, reason, 200},
		{"reason of a rejection", pending() + "/reject", 2048, reason, 200},
		{"reason of a waiver", pending() + "/waive", 2048, reason, 200},
		{"reason of a queue's pause", "/api/queues/step/pause", 2048, reason, 200},
		{"tool of dead letters", "/api/dead-letters/requeue", 80, func(s string) string { return `{"tool":"` + s + `"}` }, 200},
	} {
		r := g.do(http.MethodPost, tt.path, tt.body(of(tt.most+1)))
		if r.status != http.StatusUnprocessableEntity || !strings.Contains(string(r.body), fmt.Sprintf("%d", tt.most)) {
			t.Errorf("%s of %d characters = %d %.200s, want 422 with the limit", tt.name, tt.most+1, r.status, r.body)
		}
		if r := g.do(http.MethodPost, tt.path, tt.body(of(tt.most))); r.status != tt.status {
			t.Errorf("%s of %d characters = %d %.200s, want %d", tt.name, tt.most, r.status, r.body, tt.status)
		}
	}
	for _, tt := range []struct {
		path string
		most int
	}{
		{"/api/runs?q=", 200}, {"/api/runs?signature=", 128}, {"/api/runs?label=a:", 255}, {"/api/dead-letters?tool=", 80},
	} {
		g.want(g.get(tt.path+url.QueryEscape(of(tt.most))), http.StatusOK, "")
		g.want(g.get(tt.path+url.QueryEscape(of(tt.most+1))), http.StatusBadRequest, "bad-parameter")
	}
}

// TestNames checks which names of files and keys are taken: those that people write,
// also where a script joins its letters by characters without width.
func TestNames(t *testing.T) {
	g := newGateway(t)
	for name, taken := range map[string]bool{
		"می\u200cخواهم.pdf": true, "क्\u200dष": true, "👩\u200d🚀.png": true, "größe \\\"1\\\".txt": true,
		"": false, "  ": false, "\u200c\u200d": false, "a\u202eb": false, "a\u200bb": false, "a\u2066b": false, "\ufeffa": false, "a\tb": false, "a\u00adb": false,
	} {
		status, code := http.StatusCreated, ""
		if !taken {
			status, code = http.StatusUnprocessableEntity, "invalid-field"
		}
		name = strings.ReplaceAll(name, "\t", "\\t")
		g.want(g.do(http.MethodPost, "/api/artifacts", `{"name":"`+name+`","size_bytes":1,"sha256":"`+strings.Repeat("0", 64)+`"}`), status, code)
		g.want(g.do(http.MethodPost, "/api/api-keys", `{"name":"`+name+`","role":"viewer"}`), status, code)
	}
}
