// Package anthropic asks models by the messages of Anthropic's API.
//
// It is plain HTTP, for the reason given in package openai.
package anthropic

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"nofx.dev/worker/internal/llm"
)

// BaseURL is Anthropic's own service.
const BaseURL = "https://api.anthropic.com"

// version is the API's, which every request names.
const version = "2023-06-01"

// Config is whom to ask, and how.
type Config struct {
	Client  *http.Client
	BaseURL string // without the version, as BaseURL
	Key     string
	Model   string
}

type model struct{ cfg Config }

// New returns a model of Anthropic's.
func New(cfg Config) llm.Model {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	return model{cfg}
}

func (m model) Name() string { return m.cfg.Model }

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type outputConfig struct {
	Format outputFormat `json:"format"`
}

type outputFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"schema"`
}

type request struct {
	Model       string        `json:"model"`
	MaxTokens   int           `json:"max_tokens"`
	System      string        `json:"system,omitempty"`
	Messages    []message     `json:"messages"`
	Output      *outputConfig `json:"output_config,omitempty"`
	Temperature *float64      `json:"temperature,omitempty"`
}

type answer struct {
	Type    string `json:"type"`
	Model   string `json:"model"`
	Content []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	} `json:"content"`
	StopReason string `json:"stop_reason"`
	Usage      struct {
		Input        int64 `json:"input_tokens"` // without those of the cache
		CacheRead    int64 `json:"cache_read_input_tokens"`
		CacheCreated int64 `json:"cache_creation_input_tokens"`
		Output       int64 `json:"output_tokens"`
	} `json:"usage"`
}

var stops = map[string]llm.Stop{
	"end_turn": llm.End, "stop_sequence": llm.End, "max_tokens": llm.Length, "model_context_window_exceeded": llm.Length, "refusal": llm.Refusal,
}

// Complete makes one call; see llm.Post for its errors. The API knows no seeds.
func (m model) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	system, user := r.Prompt()
	body := request{
		Model: m.cfg.Model, MaxTokens: r.MaxTokens, System: system, Messages: []message{{"user", user}}, Temperature: r.Temperature,
	}
	if r.Schema != nil {
		body.Output = &outputConfig{outputFormat{"json_schema", r.Schema.JSON}}
	}
	header := http.Header{}
	header.Set("X-Api-Key", m.cfg.Key)
	header.Set("Anthropic-Version", version)
	var a answer
	if err := llm.Post(ctx, m.cfg.Client, m.cfg.BaseURL+"/v1/messages", header, body, &a); err != nil {
		return llm.Response{}, err
	}
	u := a.Usage
	resp := llm.Response{Stop: stops[a.StopReason], Model: a.Model, Usage: llm.Usage{
		Input: u.Input + u.CacheRead + u.CacheCreated, Output: u.Output, Cached: u.CacheRead,
	}}
	var text strings.Builder
	for _, block := range a.Content {
		if block.Type == "text" {
			text.WriteString(block.Text)
		}
	}
	resp.Text = text.String()
	switch {
	case a.Type != "message":
		return llm.Response{}, llm.Malformed("it is no message")
	case resp.Stop == "":
		return llm.Response{}, llm.Malformed("it ended for an unknown reason")
	case resp.Stop == llm.End && resp.Text == "":
		return llm.Response{}, llm.Malformed("it is empty")
	}
	return resp, nil
}
