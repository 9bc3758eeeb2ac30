package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"nofx.dev/shared/job"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/anthropic"
	"nofx.dev/worker/internal/llm/openai"
	"nofx.dev/worker/internal/llm/replay"
	"nofx.dev/worker/internal/llm/rules"
)

// modelSettings are the language models of codegen.
type modelSettings struct {
	Provider  string   `env:"NOFX_LLM_PROVIDER" doc:"who answers codegen and reviews: openai (any server that speaks its API), anthropic, rules (no model: applies what the instruction spells out) or replay; without it codegen is refused and reviews use rules"`
	Models    []string `env:"NOFX_LLM_MODEL" doc:"models that plans may ask for, separated by commas; the first is the default"`
	BaseURL   string   `env:"NOFX_LLM_BASE_URL" doc:"address of the provider, its own by default; may be inside your network; replay: folder of recordings"`
	Key       string   `env:"NOFX_LLM_API_KEY" secret:"true" doc:"key of the provider"`
	Fallback  string   `env:"NOFX_LLM_FALLBACK" doc:"model of the provider that is asked when another does not answer"`
	Prices    []string `env:"NOFX_LLM_PRICES" doc:"MODEL=INPUT/OUTPUT[/CACHED], US dollars per million tokens, separated by commas; what has no price has no cost"`
	MaxTokens int64    `env:"NOFX_LLM_MAX_TOKENS" envDefault:"200000" want:">=1" doc:"tokens that one attempt at a step may use, input and output"`
	Record    string   `env:"NOFX_LLM_RECORD" doc:"folder where answers are recorded for replay"`
}

// client returns the client that the settings ask for, or nil.
func (s modelSettings) client(m *telemetry.Metrics) (*llm.Client, error) {
	if s.Provider == "" {
		return nil, nil
	}
	if s.Provider == "rules" {
		s.Models = []string{rules.Name}
	}
	build, err := s.vendor()
	if len(s.Models) == 0 {
		err = errors.Join(err, errors.New("NOFX_LLM_MODEL: the provider needs the name of a model"))
	}
	prices, priceErr := llm.ParsePrices(s.Prices)
	if priceErr != nil {
		err = errors.Join(err, fmt.Errorf("NOFX_LLM_PRICES: %w", priceErr))
	}
	if err != nil {
		return nil, err
	}
	cfg := llm.Config{Provider: s.Provider, Free: s.Provider == rules.Name, Metrics: m, Prices: prices}
	for _, name := range s.Models {
		cfg.Models = append(cfg.Models, build(name))
	}
	if s.Fallback != "" {
		cfg.Fallback = build(s.Fallback)
	}
	return llm.NewClient(cfg), nil
}

// vendor makes models of the provider.
func (s modelSettings) vendor() (build func(name string) llm.Model, err error) {
	switch s.Provider {
	case "rules":
		return func(string) llm.Model { return rules.New() }, nil
	case "replay":
		if s.BaseURL == "" {
			return nil, errors.New("NOFX_LLM_BASE_URL: provider replay needs a folder of recordings")
		}
		return func(name string) llm.Model { return replay.New(s.BaseURL, name) }, nil
	case "openai", "anthropic":
	default:
		return nil, errors.New("NOFX_LLM_PROVIDER is none of openai, anthropic, rules and replay")
	}
	if s.Key == "" && (s.BaseURL == "" || s.Provider == "anthropic") {
		return nil, fmt.Errorf("NOFX_LLM_API_KEY: provider %s needs a key", s.Provider)
	}
	base := cmp.Or(s.BaseURL, map[string]string{"openai": openai.BaseURL, "anthropic": anthropic.BaseURL}[s.Provider])
	client, err := clientFor(base)
	if err != nil {
		return nil, fmt.Errorf("NOFX_LLM_BASE_URL: %w", err)
	}
	return func(name string) (m llm.Model) {
		if s.Provider == "openai" {
			m = openai.New(openai.Config{Client: client, BaseURL: base, Key: s.Key, Model: name})
		} else {
			m = anthropic.New(anthropic.Config{Client: client, BaseURL: base, Key: s.Key, Model: name})
		}
		if s.Record != "" {
			m = replay.Record(m, s.Record)
		}
		return m
	}, nil
}

// clientFor makes the client of a provider or a forge. That the administrator named its
// addresses lets them be inside.
func clientFor(addresses ...string) (*http.Client, error) {
	var named []string
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("is no http or https address without credentials and parameters")
		}
		port := cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
		named = append(named, net.JoinHostPort(u.Hostname(), port))
	}
	allow, err := egress.ParseAllow(named)
	if err != nil {
		return nil, err
	}
	return egress.NewClient(egress.Config{Allow: allow}), nil
}

// apart refuses a worker that runs code of plans and holds the key of a model or the
// credential of a forge (SECURITY.md S32). On a developer's machine and in tests they may be one.
func (s settings) apart(getenv func(string) string) (err error) {
	for _, q := range s.Queues {
		if !slices.Contains(job.Queues, q) {
			err = errors.Join(err, fmt.Errorf("NOFX_WORKER_QUEUES: there is no queue %q; there are %s", q, strings.Join(job.Queues, ", ")))
		}
	}
	if !slices.Contains(s.Queues, run.StepQueue) || s.Env == "development" || getenv("NOFX_TEST") == "1" {
		return err
	}
	for _, held := range []struct{ name, value, what string }{
		{"NOFX_LLM_API_KEY", s.Model.Key, "key of a model"},
		{"NOFX_GITHUB_TOKEN", s.Forge.GitHubToken, "credential of a forge"},
		{"NOFX_BITBUCKET_TOKEN", s.Forge.BitbucketToken, "credential of a forge"},
		{"NOFX_FORGE_TOKENS_DIR", s.Forge.TokensDir, "credential of a forge"},
	} {
		if held.value != "" {
			err = errors.Join(err, fmt.Errorf("%s: a worker that runs code of plans holds no %s; give the queues step and review to different workers (NOFX_WORKER_QUEUES)", held.name, held.what))
		}
	}
	return err
}
