package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

func someSecret() api.Secret {
	return api.Secret{Name: "REGISTRY_TOKEN", Version: 2, CreatedBy: alice, CreatedAt: ago(3600), UpdatedBy: alice, UpdatedAt: ago(60)}
}

// A secret is sent as it is but for one line end, and never printed.
func TestSecretSet(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"canary-value": "canary-value", "canary-value\n": "canary-value", "canary-value\r\n": "canary-value", "canary-value\n\n": "canary-value\n",
		" canary\tvalue ": " canary\tvalue ", "canary-\xff": "",
	} {
		got := ""
		answers := script()
		next := answers["setSecret"]
		answers["setSecret"] = func(w http.ResponseWriter, r *http.Request) {
			var body api.SecretRequest
			raw, _ := io.ReadAll(r.Body)
			_ = json.Unmarshal(raw, &body)
			got = body.Value
			next(w, r)
		}
		_, server := newGateway(t, answers)
		c := newCLI(t, server.URL)
		c.in = strings.NewReader(in)
		code, wantCode := execute(t.Context(), c.app, []string{"secret", "set", "REGISTRY_TOKEN"}), exitOK
		if want == "" {
			wantCode = exitUsage
		}
		if printed := c.out.String() + c.errOut.String(); code != wantCode || got != want || strings.Contains(printed, "canary") {
			t.Errorf("secret set of %q = exit %d, %q sent, %s; want exit %d, %q", in, code, got, printed, wantCode, want)
		}
	}
}
