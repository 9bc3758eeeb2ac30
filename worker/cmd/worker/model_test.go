package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/config"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/tool"
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

// With a folder of tokens a forge is set up by its server alone, and without a token of the
// worker a repository must name one.
func TestForgesOfTokens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		vars  []string
		hosts int
		ok    bool
	}{
		{nil, 0, true},
		{[]string{"NOFX_FORGE_TOKENS_DIR=/run/tokens"}, 0, true},
		{[]string{"NOFX_FORGE_TOKENS_DIR=/run/tokens", "NOFX_GITHUB_MCP_COMMAND=github-mcp-server", "NOFX_BITBUCKET_MCP_COMMAND=bitbucket-mcp"}, 2, true},
		{[]string{"NOFX_FORGE_TOKENS_DIR=/run/tokens", "NOFX_GITHUB_MCP_COMMAND=x", "NOFX_GITHUB_MCP_URL=https://x"}, 1, false},
		{[]string{"NOFX_GITHUB_TOKEN=t"}, 1, false},
		{[]string{"NOFX_GITHUB_MCP_COMMAND=github-mcp-server"}, 0, true},
	} {
		hosts, err := load(t, tt.vars...).Forge.hosts()
		if len(hosts) != tt.hosts || (err == nil) != tt.ok {
			t.Errorf("hosts(%q) = %d, %v, want %d, fine: %v", tt.vars, len(hosts), err, tt.hosts, tt.ok)
		}
		for p, open := range hosts {
			_, _, err := open(t.Context(), reviewstep.Target{Repository: "acme/shop", Number: 7})
			if f, ok := errors.AsType[*tool.Failure](err); tt.ok && (!ok || f.Class != run.ClassPolicy || !strings.Contains(f.Reason, "names no credential")) {
				t.Errorf("open(%s, no token) = %v, want a refusal by policy", p, err)
			}
		}
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
		{[]string{"NOFX_FORGE_TOKENS_DIR=/run/tokens"}, false},
		{[]string{"NOFX_FORGE_TOKENS_DIR=/run/tokens", "NOFX_WORKER_QUEUES=review"}, true},
		{[]string{"NOFX_WORKER_QUEUES=step,reviews"}, false},
	} {
		if err := load(t, tt.vars...).apart(config.Lookup(tt.vars)); (err == nil) != tt.ok {
			t.Errorf("apart(%q) = %v, want it fine: %v", tt.vars, err, tt.ok)
		}
	}
}
