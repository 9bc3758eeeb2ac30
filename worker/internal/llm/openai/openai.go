// Package openai asks models by the chat completions of OpenAI's API, which many
// servers speak, self-hosted ones among them.
//
// The vendor's library makes the calls, through llm.Guard and without retries of its own.
// Its service is made directly and not by its NewClient, which would read OPENAI_* from
// the environment.
package openai

import (
	"context"
	"net/http"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/shared"

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

type model struct {
	name  string
	calls openai.ChatCompletionService
}

// New returns a model of an OpenAI-compatible server.
func New(cfg Config) llm.Model {
	options := []option.RequestOption{
		option.WithHTTPClient(llm.Guard(cfg.Client)), option.WithBaseURL(cfg.BaseURL), option.WithMaxRetries(0),
	}
	if cfg.Key != "" {
		options = append(options, option.WithAPIKey(cfg.Key))
	}
	return model{cfg.Model, openai.NewChatCompletionService(options...)}
}

func (m model) Name() string { return m.name }

var stops = map[string]llm.Stop{"stop": llm.End, "length": llm.Length, "content_filter": llm.Refusal}

// Complete makes one call; see llm.Guarded for its errors.
func (m model) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	system, user := r.Prompt()
	body := openai.ChatCompletionNewParams{
		Model:               m.name,
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.SystemMessage(system), openai.UserMessage(user)},
		MaxCompletionTokens: openai.Int(int64(r.MaxTokens)),
		Temperature:         optional(r.Temperature),
		Seed:                optional(r.Seed),
	}
	if r.Schema != nil {
		body.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name: r.Schema.Name, Strict: openai.Bool(true), Schema: r.Schema.JSON,
		}}
	}
	c, err := m.calls.New(ctx, body)
	if err != nil {
		return llm.Response{}, llm.Failure(err)
	}
	if len(c.Choices) == 0 {
		return llm.Response{}, llm.Malformed("it has no choices")
	}
	choice := c.Choices[0]
	resp := llm.Response{Text: choice.Message.Content, Stop: stops[choice.FinishReason], Model: c.Model, Usage: llm.Usage{
		Input: c.Usage.PromptTokens, Output: c.Usage.CompletionTokens, Cached: c.Usage.PromptTokensDetails.CachedTokens,
	}}
	if choice.Message.Refusal != "" {
		resp.Stop = llm.Refusal
	}
	switch raw := choice.Message.JSON.Content.Raw(); {
	case raw != "" && raw != "null" && raw[0] != '"': // the library makes text of any JSON
		return llm.Response{}, llm.Malformed("its content is no text")
	case resp.Stop == "":
		return llm.Response{}, llm.Malformed("it ended for an unknown reason")
	case resp.Stop == llm.End && resp.Text == "":
		return llm.Response{}, llm.Malformed("it is empty")
	}
	return resp, nil
}

// optional returns what the library sends for a value that may be absent.
func optional[T comparable](v *T) param.Opt[T] {
	if v == nil {
		return param.Opt[T]{}
	}
	return param.NewOpt(*v)
}
