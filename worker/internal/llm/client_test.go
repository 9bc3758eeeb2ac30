package llm_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/llm"
)

// spans are all that the tests of this package make, by their trace.
var spans = tracetest.NewSpanRecorder()

func TestMain(m *testing.M) {
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	m.Run()
}

// ours returns the spans of the test whose context it is.
func ours(ctx context.Context) (list []sdktrace.ReadOnlySpan) {
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() == trace.SpanContextFromContext(ctx).TraceID() && strings.HasPrefix(s.Name(), "chat ") {
			list = append(list, s)
		}
	}
	return list
}

func attribute(s sdktrace.ReadOnlySpan, key string) string {
	for _, a := range s.Attributes() {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

var question = llm.Request{
	System: "Answer.", Schema: edit.Schema, MaxTokens: 1000,
	Parts: []llm.Part{{Name: "a.go", Text: "package a // TELLTALE", Untrusted: true}, {Text: "change it"}},
}

// ask asks the model "first" of a server, with "second" to fall back on.
func ask(t *testing.T, s *server, budget int64) (context.Context, *prometheus.Registry, llm.Response, error) {
	t.Helper()
	registry := prometheus.NewRegistry()
	c := llm.NewClient(llm.Config{
		Provider: s.name, Models: []llm.Model{s.model(http.DefaultClient, s.url, "first")}, Fallback: s.model(http.DefaultClient, s.url, "second"),
		Prices: llm.Prices{"first": {Input: 1, Output: 10, Cached: 0.5}}, Metrics: telemetry.NewMetrics(registry, "test"),
		TryLimit: 2 * time.Second, Pause: time.Millisecond,
	})
	m, err := c.Model("", llm.NewBudget(llm.Spend{Tokens: budget}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := otel.Tracer("test").Start(t.Context(), "test")
	defer span.End()
	resp, err := m.Complete(ctx, question)
	return ctx, registry, resp, err
}

// Each way in which a model fails ends in an error or a stop, after no more tries than
// are allowed, and never in an answer.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, v := range vendors {
		good := v.answer("fine", llm.End)
		type mode struct {
			name   string
			answer http.HandlerFunc
			kind   fault.Kind
			code   string
			tries  int // 6: three of each model
		}
		modes := []mode{
			{"timeout", hang, fault.Unavailable, "timeout", 6},
			{"429", later(429, "0"), fault.RateLimited, "rate-limited", 6},
			{"500", fail(500, "api_error"), fault.Unavailable, "unavailable", 6},
			{"529", fail(529, "overloaded_error"), fault.Unavailable, "unavailable", 6},
			{"cut", cut(good), fault.Unavailable, "malformed", 6},
			{"cut JSON", say(good[:len(good)-9]), fault.Unavailable, "malformed", 6},
			{"a page", say("<html>Bad gateway</html>"), fault.Unavailable, "malformed", 6},
			{"empty", say(v.empty), fault.Unavailable, "malformed", 6},
			{"nothing", say(""), fault.Unavailable, "malformed", 6},
			{"10 MB", huge(v), fault.Unavailable, "too-large", 2},
			{"key refused", fail(401, "authentication_error"), fault.Unauthenticated, "unauthenticated", 1},
			{"forbidden", fail(403, "permission_error"), fault.Forbidden, "forbidden", 1},
			{"no such model", fail(404, "not_found_error"), fault.NotFound, "not-found", 1},
			{"request refused", fail(400, "invalid_request_error"), fault.Invalid, "invalid", 1},
			{"redirect", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) }, fault.Invalid, "invalid", 1},
			{"long wait", later(429, "3600"), fault.RateLimited, "rate-limited", 2},
			{"long wait", later(429, "1e300"), fault.RateLimited, "rate-limited", 2},
			{"long wait", later(429, "Fri, 31 Dec 9999 23:59:59 GMT"), fault.RateLimited, "rate-limited", 2},
		}
		for _, doc := range v.wrong {
			modes = append(modes, mode{"wrong JSON " + doc, say(doc), fault.Unavailable, "malformed", 6})
		}
		for _, tt := range modes {
			t.Run(v.name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				s := v.serve(t, tt.answer)
				ctx, registry, resp, err := ask(t, s, 1e6)
				e, ok := errors.AsType[*fault.Error](err)
				if !ok || e.Kind != tt.kind || e.Code != tt.code || resp.Text != "" {
					t.Fatalf("Complete() = %+v, %v, want %s %s", resp, err, tt.kind, tt.code)
				}
				if tt.name == "long wait" && e.RetryAfter != time.Hour {
					t.Errorf("RetryAfter = %v, want an hour", e.RetryAfter)
				}
				asked := s.asked()
				if len(asked) != tt.tries {
					t.Errorf("the server was asked %d times, want %d", len(asked), tt.tries)
				}
				if last := asked[len(asked)-1]["model"]; tt.tries > 1 && last != "second" || tt.tries == 1 && last != "first" {
					t.Errorf("the last try was at %v", last)
				}
				list := ours(ctx)
				if len(list) != tt.tries {
					t.Errorf("%d spans, want %d, one for each try", len(list), tt.tries)
				}
				for _, sp := range list {
					if sp.Status().Code != codes.Error || attribute(sp, "error.type") != tt.code {
						t.Errorf("span %s has status %v and error.type %s, want an error and %s", sp.Name(), sp.Status(), attribute(sp, "error.type"), tt.code)
					}
				}
				wantSilence(t, err, list)
				if n := testutil.CollectAndCount(registry, "nofx_llm_request_duration_seconds"); n == 0 {
					t.Error("no try was counted")
				}
			})
		}
	}
}

// wantSilence fails when the key or text of a request or answer is in an error, in its
// log line or on a span.
func wantSilence(t *testing.T, err error, list []sdktrace.ReadOnlySpan) {
	t.Helper()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Error("x", "error", err)
	for _, s := range list {
		for _, a := range s.Attributes() {
			log.WriteString(" " + string(a.Key) + "=" + a.Value.String())
		}
		log.WriteString(s.Name() + s.Status().Description)
		if len(s.Events()) > 0 {
			t.Errorf("span %s has events", s.Name())
		}
	}
	for _, secret := range []string{key, key[:12], "TELLTALE", "change it", "127.0.0.1"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is in what is told of the call: %s", secret, &log)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, v := range vendors {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			s := v.serve(t, later(429, "0"), fail(503, "api_error"), say(v.answer("fine", llm.End)))
			ctx, registry, resp, err := ask(t, s, 1e6)
			want := llm.Response{Text: "fine", Stop: llm.End, Model: "m-2026", Usage: llm.Usage{Input: 100, Output: 20, Cached: 40, CostUSD: (60 + 40*0.5 + 20*10) / 1e6}}
			if err != nil || resp != want {
				t.Errorf("Complete() = %+v, %v, want %+v", resp, err, want)
			}
			list := ours(ctx)
			if len(list) != 3 {
				t.Fatalf("%d spans, want 3", len(list))
			}
			last := list[2]
			for key, want := range map[string]string{
				"gen_ai.operation.name": "chat", "gen_ai.provider.name": v.name, "gen_ai.request.model": "first", "gen_ai.response.model": "m-2026",
				"gen_ai.usage.input_tokens": "100", "gen_ai.usage.output_tokens": "20", "gen_ai.response.finish_reasons": `["end"]`, "nofx.outcome": "ok",
			} {
				if got := attribute(last, key); got != want {
					t.Errorf("attribute %s = %q, want %q", key, got, want)
				}
			}
			if last.Name() != "chat first" || last.SpanKind() != trace.SpanKindClient || last.Status().Code == codes.Error {
				t.Errorf("span %q of kind %v with status %v, want a client's, chat first", last.Name(), last.SpanKind(), last.Status())
			}
			wantSilence(t, nil, list)
			err = testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP nofx_llm_tokens_total Tokens used; cached ones are input too.
# TYPE nofx_llm_tokens_total counter
nofx_llm_tokens_total{direction="cached",model="first",provider="`+v.name+`"} 40
nofx_llm_tokens_total{direction="input",model="first",provider="`+v.name+`"} 100
nofx_llm_tokens_total{direction="output",model="first",provider="`+v.name+`"} 20
`), "nofx_llm_tokens_total")
			if err != nil {
				t.Error(err)
			}
		})
		t.Run(v.name+" falls back", func(t *testing.T) {
			t.Parallel()
			s := v.serve(t, fail(500, "e"), fail(500, "e"), fail(500, "e"), say(v.answer("fine", llm.End)))
			_, _, resp, err := ask(t, s, 1e6)
			if asked := s.asked(); err != nil || resp.Text != "fine" || len(asked) != 4 || asked[3]["model"] != "second" {
				t.Errorf("Complete() = %+v, %v after %d calls, want an answer of the fallback at the fourth", resp, err, len(asked))
			}
		})
		for name, tt := range map[string]struct {
			doc  string
			stop llm.Stop
			code string
		}{
			"refuses": {v.refusal, llm.Refusal, "refused"},
			"is cut":  {v.answer("fin", llm.Length), llm.Length, "truncated"},
		} {
			t.Run(v.name+" "+name, func(t *testing.T) {
				t.Parallel()
				s := v.serve(t, say(tt.doc))
				ctx, _, resp, err := ask(t, s, 1e6)
				if err != nil || resp.Stop != tt.stop || len(s.asked()) != 1 {
					t.Errorf("Complete() = %+v, %v after %d calls, want the stop %s at once", resp, err, len(s.asked()), tt.stop)
				}
				if list := ours(ctx); len(list) != 1 || attribute(list[0], "nofx.outcome") != tt.code || list[0].Status().Code == codes.Error {
					t.Errorf("spans = %v, want one with outcome %s and no error", list, tt.code)
				}
			})
		}
	}
}

// A call that would go beyond the budget is not made; one that might is given less.
func TestS34_Budget(t *testing.T) {
	t.Parallel()
	v := vendors[0]
	s := v.serve(t, say(v.answer("fine", llm.End)))
	_, _, _, err := ask(t, s, 100)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "token-limit" || e.Kind != fault.Forbidden || len(s.asked()) != 0 {
		t.Errorf("Complete(budget 100) = %v after %d calls, want token-limit and none", err, len(s.asked()))
	}
	_, _, _, err = ask(t, s, 600)
	asked := s.asked()
	if err != nil || len(asked) != 1 {
		t.Fatalf("Complete(budget 600) = %v after %d calls, want one", err, len(asked))
	}
	if n := asked[0]["max_completion_tokens"].(float64); n < 64 || n > 600 {
		t.Errorf("max_completion_tokens = %v, want what is left of 600", n)
	}

	c := llm.NewClient(llm.Config{Provider: "openai", Models: []llm.Model{s.model(http.DefaultClient, s.url, "m")}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "t")})
	m, err := c.Model("m", llm.NewBudget(llm.Spend{Tokens: 1500}))
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for ; err == nil && calls < 100; calls++ {
		_, err = m.Complete(t.Context(), question)
	}
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "token-limit" || calls < 8 || calls > 13 { // 120 tokens each
		t.Errorf("call %d = %v, want token-limit after about ten of 120 tokens", calls, err)
	}
	if _, err := c.Model("other", llm.NewBudget(llm.Spend{Tokens: 1})); !errors.Is(err, fault.Forbidden) {
		t.Errorf("Model(other) = %v, want forbidden", err)
	}
}

func TestCancelIsNoAnswer(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]http.HandlerFunc{"in a try": hang, "between tries": later(429, "30")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lost := errors.New("lost")
			ctx, cancel := context.WithCancelCause(t.Context())
			began := make(chan struct{}, 1)
			v := vendors[1]
			s := v.serve(t, func(w http.ResponseWriter, r *http.Request) {
				first(w, r)
				began <- struct{}{}
			})
			c := llm.NewClient(llm.Config{Provider: v.name, Models: []llm.Model{v.model(http.DefaultClient, s.url, "m")}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "t")})
			m, err := c.Model("", llm.NewBudget(llm.Spend{Tokens: 1e6}))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { _, err := m.Complete(ctx, question); done <- err }()
			if name == "between tries" {
				<-began
			}
			cancel(lost)
			if err := <-done; err != lost {
				t.Errorf("Complete(cancelled) = %v, want the cause", err)
			}
		})
	}
}
