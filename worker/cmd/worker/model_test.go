package main

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/config"
	"nofx.dev/shared/telemetry"
)

// load reads settings as serve does, beside those that it cannot do without.
func load(t *testing.T, vars ...string) settings {
	t.Helper()
	cfg, _, err := config.Load[settings](append(vars, "DATABASE_URL=x", "NOFX_S3_ENDPOINT=http://x", "NOFX_S3_ACCESS_KEY=x", "NOFX_S3_SECRET_KEY=x"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestModelSettings(t *testing.T) {
	t.Parallel()
	const given = "NOFX_LLM_API_KEY=sk-c4n4ry"
	for want, vars := range map[string][]string{
		"":                             {"NOFX_LLM_PROVIDER=rules"},
		"NOFX_LLM_PROVIDER is none of": {"NOFX_LLM_PROVIDER=parrot"},
		"NOFX_LLM_MODEL: the provider needs the name": {"NOFX_LLM_PROVIDER=openai", given},
		"NOFX_LLM_API_KEY: provider openai needs":     {"NOFX_LLM_PROVIDER=openai", "NOFX_LLM_MODEL=m"},
		"NOFX_LLM_API_KEY: provider anthropic needs":  {"NOFX_LLM_PROVIDER=anthropic", "NOFX_LLM_MODEL=m", "NOFX_LLM_BASE_URL=http://proxy:1"},
		"provider replay needs a folder":              {"NOFX_LLM_PROVIDER=replay", "NOFX_LLM_MODEL=m"},
		"is no http or https address":                 {"NOFX_LLM_PROVIDER=openai", "NOFX_LLM_MODEL=m", "NOFX_LLM_BASE_URL=http://u:hunter2@host"},
		"NOFX_LLM_PRICES":                             {"NOFX_LLM_PROVIDER=openai", "NOFX_LLM_MODEL=m", given, "NOFX_LLM_PRICES=m=cheap"},
	} {
		c, err := load(t, vars...).Model.client(telemetry.NewMetrics(prometheus.NewRegistry(), "t"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("client(%q) = %v, want %q", vars, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "sk-c4n4ry")) {
			t.Errorf("client(%q) = %v, which shows a secret", vars, err)
		}
		if want == "" && c == nil {
			t.Errorf("client(%q) = nil, want one", vars)
		}
	}
	for _, vars := range [][]string{
		{"NOFX_LLM_PROVIDER=openai", "NOFX_LLM_MODEL=a,b", "NOFX_LLM_FALLBACK=c", given, "NOFX_LLM_PRICES=a=1/2,b=1/2/0.1"},
		{"NOFX_LLM_PROVIDER=openai", "NOFX_LLM_MODEL=a", "NOFX_LLM_BASE_URL=http://127.0.0.1:11434/v1"},
		{"NOFX_LLM_PROVIDER=anthropic", "NOFX_LLM_MODEL=a", given},
		{"NOFX_LLM_PROVIDER=replay", "NOFX_LLM_MODEL=a", "NOFX_LLM_BASE_URL=/recordings"},
	} {
		c, err := load(t, vars...).Model.client(telemetry.NewMetrics(prometheus.NewRegistry(), "t"))
		if err != nil {
			t.Errorf("client(%q) = %v, want nil", vars, err)
			continue
		}
		if m, err := c.Model("", nil); err != nil || m.Name() != "a" {
			t.Errorf("client(%q): the default model = %v, %v, want a", vars, m, err)
		}
	}
	if c, err := load(t).Model.client(nil); c != nil || err != nil {
		t.Errorf("client(no settings) = %v, %v, want none", c, err)
	}
}

// The process that runs code of plans holds no key of a model.
func TestS32_KeyAndCodeApart(t *testing.T) {
	t.Parallel()
	const given = "NOFX_LLM_API_KEY=sk-c4n4ry"
	for _, tt := range []struct {
		vars []string
		ok   bool
	}{
		{nil, true},
		{[]string{given}, false},
		{[]string{given, "NOFX_WORKER_QUEUES=step"}, false},
		{[]string{given, "NOFX_WORKER_QUEUES=review"}, true},
		{[]string{given, "NOFX_ENV=development"}, true},
		{[]string{given, "NOFX_TEST=1"}, true},
		{[]string{"NOFX_LLM_PROVIDER=rules"}, true},
		{[]string{"NOFX_WORKER_QUEUES=step,reviews"}, false},
	} {
		if err := load(t, tt.vars...).apart(config.Lookup(tt.vars)); (err == nil) != tt.ok {
			t.Errorf("apart(%q) = %v, want it fine: %v", tt.vars, err, tt.ok)
		}
	}
}
