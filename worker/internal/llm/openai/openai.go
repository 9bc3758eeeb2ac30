// Package openai asks models by the chat completions of OpenAI's API, which many
// servers speak, those one hosts oneself among them.
//
// It is plain HTTP: of OpenAI's library one call of hundreds would be used, for two
// minutes of compiling and some 20 MB in the binary.
package openai

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"nofx.dev/worker/internal/llm"
)

// BaseURL is OpenAI's own service.
const BaseURL = "https://api.openai.com/v1"

// Config is whom to ask, and how.
type Config struct {
	Client  *http.Client
	BaseURL string // with the version, as BaseURL
	Key     string // "" sends none
	Model   string
}

type model struct{ cfg Config }

// New returns a model of an OpenAI-compatible server.
func New(cfg Config) llm.Model {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	return model{cfg}
}

func (m model) Name() string { return m.cfg.Model }

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type responseFormat struct {
	Type   string     `json:"type"`
	Schema jsonSchema `json:"json_schema"`
}

type jsonSchema struct {
	Name   string          `json:"name"`
	Strict bool            `json:"strict"`
	Schema json.RawMessage `json:"schema"`
}

type request struct {
	Model       string          `json:"model"`
	Messages    []message       `json:"messages"`
	MaxTokens   int             `json:"max_completion_tokens"`
	Format      *responseFormat `json:"response_format,omitempty"`
	Temperature *float64        `json:"temperature,omitempty"`
	Seed        *int64          `json:"seed,omitempty"`
}

type completion struct {
	Model   string `json:"model"`
	Choices []struct {
		Message struct {
			Content *string `json:"content"`
			Refusal *string `json:"refusal"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
		Details    struct {
			Cached int64 `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
}

var stops = map[string]llm.Stop{"stop": llm.End, "length": llm.Length, "content_filter": llm.Refusal}

// Complete makes one call; see llm.Post for its errors.
func (m model) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	system, user := r.Prompt()
	body := request{
		Model: m.cfg.Model, Messages: []message{{"system", system}, {"user", user}}, MaxTokens: r.MaxTokens,
		Temperature: r.Temperature, Seed: r.Seed,
	}
	if r.Schema != nil {
		body.Format = &responseFormat{"json_schema", jsonSchema{r.Schema.Name, true, r.Schema.JSON}}
	}
	header := http.Header{}
	if m.cfg.Key != "" {
		header.Set("Authorization", "Bearer "+m.cfg.Key)
	}
	var c completion
	if err := llm.Post(ctx, m.cfg.Client, m.cfg.BaseURL+"/chat/completions", header, body, &c); err != nil {
		return llm.Response{}, err
	}
	if len(c.Choices) == 0 {
		return llm.Response{}, llm.Malformed("it has no choices")
	}
	choice := c.Choices[0]
	resp := llm.Response{Stop: stops[choice.FinishReason], Model: c.Model, Usage: llm.Usage{
		Input: c.Usage.Prompt, Output: c.Usage.Completion, Cached: c.Usage.Details.Cached,
	}}
	if choice.Message.Refusal != nil && *choice.Message.Refusal != "" {
		resp.Stop = llm.Refusal
	}
	if choice.Message.Content != nil {
		resp.Text = *choice.Message.Content
	}
	switch {
	case resp.Stop == "":
		return llm.Response{}, llm.Malformed("it ended for an unknown reason")
	case resp.Stop == llm.End && resp.Text == "":
		return llm.Response{}, llm.Malformed("it is empty")
	}
	return resp, nil
}
