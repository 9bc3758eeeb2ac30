package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestLoggerAddsTheIDsOfTheContext(t *testing.T) {
	t.Parallel()
	ctx, ok := WithTraceparent(t.Context(), parent)
	if !ok {
		t.Fatalf("WithTraceparent(%q) = false", parent)
	}
	ctx = WithScope(ctx, Scope{TenantID: "ten_1"})
	ctx = WithScope(ctx, Scope{RunID: "run_1"})
	ctx = WithScope(ctx, Scope{StepID: "step_1", Attempt: 2})
	var out bytes.Buffer
	NewLogger(&out, slog.LevelInfo, nil).With("service", "nofx-worker").InfoContext(ctx, "step ended", "took_ms", 12)
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("line %q: %v", out.String(), err)
	}
	if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["time"])); err != nil {
		t.Error(err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "step ended", "service": "nofx-worker", "took_ms": 12.0,
		"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331",
		"tenant_id": "ten_1", "run_id": "run_1", "step_id": "step_1", "attempt": 2.0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}

	out.Reset()
	NewLogger(&out, slog.LevelInfo, nil).Info("no context")
	for _, key := range []string{"trace_id", "run_id", "attempt"} {
		if strings.Contains(out.String(), key) {
			t.Errorf("line %q has %s", out.String(), key)
		}
	}
}

type credentials struct{ User, Password string }

func TestS25_LoggerLeaksNoCanary(t *testing.T) {
	t.Parallel()
	const registered = `canary "registered"`
	var out bytes.Buffer
	log := NewLogger(&out, slog.LevelDebug, NewRedactor(registered))
	for _, c := range append(canaries, struct{ text, secret string }{registered, "canary"}) {
		for name, write := range map[string]func(){
			"message": func() { log.Info(c.text) },
			"string":  func() { log.Info("m", "detail", c.text) },
			"error":   func() { log.Error("m", "error", fmt.Errorf("do it: %w", errors.New(c.text))) },
			"with":    func() { log.With("detail", c.text).Warn("m") },
			"group":   func() { log.Info("m", slog.Group("g", slog.Group("h", "detail", c.text))) },
			"grouped": func() { log.WithGroup("g").Info("m", "detail", c.text) },
			"value":   func() { log.Info("m", "detail", valuer(c.text)) },
			"slice":   func() { log.Info("m", "detail", []string{"x", c.text}) },
			"map":     func() { log.Info("m", "detail", map[string]any{"a": c.text, c.text: 1}) },
			"struct":  func() { log.Info("m", "detail", struct{ A []any }{[]any{1, c.text}}) },
		} {
			out.Reset()
			write()
			var line map[string]any
			if err := json.Unmarshal(out.Bytes(), &line); err != nil {
				t.Errorf("%s %q: %q is not a line of JSON: %v", name, c.text, out.String(), err)
			}
			if text := fmt.Sprint(line); strings.Contains(text, c.secret) {
				t.Errorf("%s %q: logged %s", name, c.text, text)
			}
		}
	}
	out.Reset()
	const number = 333_333_333_333_333 // which is in no time of day
	log.Info("m", "password", "x1", "Set-Cookie", "x2", "dsn", number, "api-key", []string{"x4"}, "login", credentials{"u", "x5"}, "bad", func() {})
	for _, secret := range []string{"x1", "x2", fmt.Sprint(number), "x4", "x5"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("logged %s: %s", secret, out.String())
		}
	}
}

type valuer string

func (v valuer) LogValue() slog.Value { return slog.StringValue(string(v)) }

func TestTraceparentRoundTrip(t *testing.T) {
	t.Parallel()
	ctx, ok := WithTraceparent(t.Context(), parent)
	if got := Inject(ctx); !ok || got != parent {
		t.Errorf("Inject(WithTraceparent(%q)) = %q, %v", parent, got, ok)
	}
	if traceID, spanID := IDs(ctx); traceID != parent[3:35] || spanID != parent[36:52] {
		t.Errorf("IDs = %q, %q", traceID, spanID)
	}
	for _, bad := range []string{
		"", "junk", parent[:54], "00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", "ff" + parent[2:], strings.ToUpper(parent), parent + "-x",
	} {
		got, ok := WithTraceparent(ctx, bad)
		if ok || got != ctx {
			t.Errorf("WithTraceparent(%q) = true or another context", bad)
		}
	}
	if traceID, spanID := IDs(context.Background()); traceID+spanID+Inject(context.Background()) != "" {
		t.Errorf("without a span: IDs = %q, %q", traceID, spanID)
	}
}
