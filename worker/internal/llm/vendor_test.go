package llm_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/anthropic"
	"nofx.dev/worker/internal/llm/openai"
)

const key = "sk-test-c4n4ry6789abcdefghij"

// vendor is a provider's API as a strict server of it sees the world: it refuses what
// the real one refuses, before it answers as it was told.
type vendor struct {
	name    string
	model   func(client *http.Client, url, name string) llm.Model
	path    string
	members []string                                          // of a request; any other is refused
	refuse  func(r *http.Request, body map[string]any) string // why the request is wrong, or ""
	answer  func(text string, stop llm.Stop) string
	refusal string // an answer that refuses
	empty   string // an answer without text
	wrong   []string
}

var vendors = []vendor{{
	name: "openai",
	model: func(c *http.Client, url, name string) llm.Model {
		return openai.New(openai.Config{Client: c, BaseURL: url + "/v1/", Key: key, Model: name})
	},
	path:    "/v1/chat/completions",
	members: []string{"model", "messages", "max_completion_tokens", "response_format", "temperature", "seed"},
	refuse: func(r *http.Request, body map[string]any) string {
		if r.Header.Get("Authorization") != "Bearer "+key {
			return "401 invalid_request_error"
		}
		messages, _ := body["messages"].([]any)
		if len(messages) == 0 {
			return "400 messages"
		}
		for _, m := range messages {
			m, _ := m.(map[string]any)
			content, ok := m["content"].(string)
			if !slices.Contains([]any{"system", "user", "assistant", "developer"}, m["role"]) || !ok || content == "" || len(m) != 2 {
				return "400 role"
			}
		}
		if f, ok := body["response_format"].(map[string]any); ok {
			s, _ := f["json_schema"].(map[string]any)
			if f["type"] != "json_schema" || s["name"] == "" || s["strict"] != true {
				return "400 response_format"
			}
			return strictSchema(s["schema"], "")
		}
		return ""
	},
	answer: func(text string, stop llm.Stop) string {
		return doc(`{"id":"c1","object":"chat.completion","created":1,"model":"m-2026","choices":[{"index":0,"message":{"role":"assistant","content":%s,"refusal":null},"logprobs":null,"finish_reason":%s}],
			"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":40}},"system_fingerprint":"x"}`,
			text, map[llm.Stop]string{llm.End: "stop", llm.Length: "length"}[stop])
	},
	refusal: `{"model":"m","choices":[{"message":{"role":"assistant","content":null,"refusal":"I can't help with that."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}`,
	empty:   `{"model":"m","choices":[{"message":{"role":"assistant","content":""},"finish_reason":"stop"}]}`,
	wrong: []string{`{"model":"m","choices":[]}`, `{"model":"m","choices":[{"message":{"content":["a"]},"finish_reason":"stop"}]}`,
		`{"model":"m","choices":[{"message":{"content":"a"},"finish_reason":"tool_calls"}]}`, `{}`},
}, {
	name: "anthropic",
	model: func(c *http.Client, url, name string) llm.Model {
		return anthropic.New(anthropic.Config{Client: c, BaseURL: url, Key: key, Model: name})
	},
	path:    "/v1/messages",
	members: []string{"model", "max_tokens", "system", "messages", "output_config"},
	refuse: func(r *http.Request, body map[string]any) string {
		switch {
		case r.Header.Get("Authorization") != "Bearer "+key:
			return "401 authentication_error"
		case r.Header.Get("Anthropic-Version") != "2026-10-21":
			return "400 anthropic-version: header is required"
		}
		if n, _ := body["max_tokens"].(float64); n < 1 {
			return "400 max_tokens"
		}
		messages, _ := body["messages"].([]any)
		if len(messages) == 0 {
			return "400 messages: at least one message is required"
		}
		for i, m := range messages {
			m, _ := m.(map[string]any)
			if m["role"] != []any{"user", "assistant"}[i%2] || !textBlocks(m["content"]) || len(m) != 2 {
				return "400 messages: roles"
			}
		}
		if s, ok := body["system"]; ok && !textBlocks(s) {
			return "400 system"
		}
		if o, ok := body["output_config"].(map[string]any); ok {
			f, _ := o["format"].(map[string]any)
			if f["type"] != "json_schema" || len(f) != 2 {
				return "400 output_config.format"
			}
			return strictSchema(f["schema"], "")
		}
		return ""
	},
	answer: func(text string, stop llm.Stop) string {
		return doc(`{"id":"msg_1","type":"message","role":"assistant","model":"m-2026","content":[{"type":"thinking","thinking":"hm","signature":"x"},{"type":"text","text":%s}],"stop_reason":%s,"stop_sequence":null,
			"usage":{"input_tokens":50,"cache_creation_input_tokens":10,"cache_read_input_tokens":40,"output_tokens":20}}`,
			text, map[llm.Stop]string{llm.End: "end_turn", llm.Length: "max_tokens"}[stop])
	},
	refusal: `{"type":"message","role":"assistant","model":"m","content":[],"stop_reason":"refusal","usage":{"input_tokens":9,"output_tokens":3}}`,
	empty:   `{"type":"message","role":"assistant","model":"m","content":[],"stop_reason":"end_turn","usage":{}}`,
	wrong: []string{`{"type":"error"}`, `{"type":"message","content":"text","stop_reason":"end_turn"}`,
		`{"type":"message","content":[{"type":"text","text":["a"]}],"stop_reason":"end_turn"}`,
		`{"type":"message","content":[{"type":"tool_use"}],"stop_reason":"tool_use"}`, `{}`},
}}

// textBlocks reports whether v is a list of blocks of text, none of them empty.
func textBlocks(v any) bool {
	list, _ := v.([]any)
	for _, b := range list {
		b, _ := b.(map[string]any)
		if text, _ := b["text"].(string); b["type"] != "text" || text == "" || len(b) != 2 {
			return false
		}
	}
	return len(list) > 0
}

func doc(format, text, stop string) string {
	quoted, _ := json.Marshal(text)
	return fmt.Sprintf(format, quoted, `"`+stop+`"`)
}

// strictSchema returns what both vendors refuse in a schema: objects whose properties are
// not all required or that allow others, and keywords beyond their part of JSON Schema.
func strictSchema(v any, at string) string {
	s, ok := v.(map[string]any)
	if !ok {
		return "400 schema" + at
	}
	for k := range s {
		if !slices.Contains([]string{"type", "additionalProperties", "required", "properties", "items", "enum", "description"}, k) {
			return "400 schema" + at + ": " + k
		}
	}
	if props, ok := s["properties"].(map[string]any); ok {
		var required []string
		list, _ := s["required"].([]any)
		for _, r := range list {
			required = append(required, fmt.Sprint(r))
		}
		slices.Sort(required)
		if s["additionalProperties"] != false || !slices.Equal(required, slices.Sorted(maps.Keys(props))) {
			return "400 schema" + at + ": required, additionalProperties"
		}
		for name, p := range props {
			if wrong := strictSchema(p, at+"/"+name); wrong != "" {
				return wrong
			}
		}
	}
	if items, ok := s["items"]; ok {
		return strictSchema(items, at+"/items")
	}
	return ""
}

// server is a vendor that answers with what a test says, one after the other, the last
// for ever.
type server struct {
	vendor
	url string

	mu       sync.Mutex
	answers  []http.HandlerFunc
	requests []map[string]any
}

func (v vendor) serve(t *testing.T, answers ...http.HandlerFunc) *server {
	t.Helper()
	s := &server{vendor: v, answers: answers}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var body map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &body)
	}
	wrong := ""
	switch {
	case r.Method != http.MethodPost || r.URL.Path != s.path:
		wrong = "404 not_found_error"
	case err != nil || r.Header.Get("Content-Type") != "application/json":
		wrong = "400 body"
	case body["model"] == "" || body["model"] == nil:
		wrong = "400 model"
	default:
		wrong = s.refuse(r, body)
	}
	for name := range body {
		if !slices.Contains(s.members, name) && wrong == "" {
			wrong = "400 unknown " + name
		}
	}
	if wrong != "" {
		status := 0
		fmt.Sscan(wrong, &status)
		fail(status, wrong[4:])(w, r)
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, body)
	answer := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	s.mu.Unlock()
	answer(w, r)
}

func (s *server) asked() []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// say answers 200 with a document.
func say(doc string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, doc)
	}
}

// fail answers as both vendors tell of an error; the message quotes what it should not.
func fail(status int, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"type":"error","error":{"type":%q,"code":null,"message":"Incorrect API key provided: %s. Prompt: TELLTALE"}}`, kind, key)
	}
}

// later does what fail does, with a time to wait.
func later(status int, after string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", after)
		fail(status, "rate_limit_error")(w, r)
	}
}

// hang never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// cut breaks the connection in the middle of an answer.
func cut(doc string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(doc)))
		io.WriteString(w, doc[:len(doc)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// huge returns an answer of 10 MB.
func huge(v vendor) http.HandlerFunc { return say(v.answer(strings.Repeat("x", 10<<20), llm.End)) }
