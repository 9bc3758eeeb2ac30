// Package anthropic asks models by the messages of Anthropic's API, version 2026-10-21.
//
// The vendor's library makes the calls, through llm.Guard and without retries of its own.
// Its service is made directly and not by its NewClient, which would read ANTHROPIC_* from
// the environment and look for credentials in files. Its spans are off: they would be
// second ones of each call, and a variable of the environment puts prompts on them.
package anthropic

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/anthropics/anthropic-sdk-go/v2/packages/param"

	"nofx.dev/worker/internal/llm"
)

// BaseURL is Anthropic's own service.
const BaseURL = "https://api.anthropic.com"

// callLimit is far beyond the time that the context of a call has. Without a limit the
// library would refuse to wait for long answers.
const callLimit = time.Hour

// Config is whom to ask, and how.
type Config struct {
	Client  *http.Client
	BaseURL string // without the version, as BaseURL
	Key     string
	Model   string
}

type model struct {
	name  string
	calls anthropic.MessageService
}

// New returns a model of Anthropic's.
func New(cfg Config) llm.Model {
	return model{cfg.Model, anthropic.NewMessageService(
		option.WithHTTPClient(llm.Guard(cfg.Client)), option.WithBaseURL(cfg.BaseURL), option.WithAPIKey(cfg.Key),
		option.WithMaxRetries(0), option.WithRequestTimeout(callLimit), option.WithoutOpenTelemetry(),
	)}
}

func (m model) Name() string { return m.name }

var stops = map[anthropic.StopReason]llm.Stop{
	anthropic.StopReasonEndTurn: llm.End, anthropic.StopReasonStopSequence: llm.End,
	anthropic.StopReasonMaxTokens: llm.Length, anthropic.StopReasonModelContextWindowExceeded: llm.Length,
	anthropic.StopReasonRefusal: llm.Refusal,
}

// Complete makes one call; see llm.Guarded for its errors. The API knows neither
// temperature nor seed.
func (m model) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	system, user := r.Prompt()
	body := anthropic.MessageNewParams{
		Model:     m.name,
		MaxTokens: int64(r.MaxTokens),
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(user))},
	}
	if system != "" {
		body.System = []anthropic.TextBlockParam{{Text: system}}
	}
	if r.Schema != nil { // as it is, since models answer in the order of its properties
		body.OutputConfig.Format = param.Override[anthropic.JSONOutputFormatParam](struct {
			Type   string `json:"type"`
			Schema any    `json:"schema"`
		}{"json_schema", r.Schema.JSON})
	}
	a, err := m.calls.New(ctx, body)
	if err != nil {
		return llm.Response{}, llm.Failure(err)
	}
	u := a.Usage
	resp := llm.Response{Stop: stops[a.StopReason], Model: a.Model, Usage: llm.Usage{
		Input: u.InputTokens + u.CacheReadInputTokens + u.CacheCreationInputTokens, Output: u.OutputTokens, Cached: u.CacheReadInputTokens,
	}}
	var text strings.Builder
	for _, block := range a.Content {
		if block.Type != "text" {
			continue
		}
		if raw := block.JSON.Text.Raw(); raw == "" || raw[0] != '"' { // the library makes text of any JSON
			return llm.Response{}, llm.Malformed("its content is no text")
		}
		text.WriteString(block.Text)
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
