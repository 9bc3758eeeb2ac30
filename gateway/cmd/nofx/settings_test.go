package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

func someSettings() api.SettingsAnswer {
	return api.SettingsAnswer{Settings: api.Settings{RetentionDays: 90, FourEyes: true, AllowWaive: true, ModelCostUsdPerDay: ptr(12.5), ReviewsEnabled: true, NetworkHosts: []string{"modules.example.org:443", "*.example.com:8443"}},
		Set: []string{"four_eyes", "model_cost_usd_per_day", "network_hosts", "retention_days"}, Version: 3, UpdatedAt: ptr(ago(60)), UpdatedBy: ptr(alice), UpdatedByName: ptr("alice")}
}

// Values are sent as JSON has them, and default as null.
func TestSettingsSet(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"four_eyes=true retention_days=90":                   `{"four_eyes":true,"retention_days":90}`,
		"queued_runs_max=default model_cost_usd_per_day=0.5": `{"model_cost_usd_per_day":0.5,"queued_runs_max":null}`,
		"network_hosts=a.example,*.b.example:8443":           `{"network_hosts":["a.example","*.b.example:8443"]}`,
		"network_hosts=":        `{"network_hosts":[]}`,
		"network_hosts=none":    `{"network_hosts":[]}`,
		"network_hosts=default": `{"network_hosts":null}`,
		"retention_days=":       "",
		"retention_days":        "",
		"=1":                    "",
		"retention_days=null":   "",
		`retention_days="7"`:    "",
		"retention_days={}":     "",
		"four_eyes=true=false":  "",
	} {
		got := ""
		answers := script()
		next := answers["changeSettings"]
		answers["changeSettings"] = func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = string(body)
			next(w, r)
		}
		_, server := newGateway(t, answers)
		c := newCLI(t, server.URL)
		code, wantCode := execute(t.Context(), c.app, append([]string{"settings", "set"}, strings.Fields(args)...)), exitOK
		if want == "" {
			wantCode = exitUsage
		}
		if code != wantCode || got != want {
			t.Errorf("settings set %s = exit %d, request %s, %s; want exit %d, %s", args, code, got, &c.errOut, wantCode, want)
		}
	}
}
