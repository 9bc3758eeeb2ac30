package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
)

// NewLogger writes JSON lines to w, which is standard error in both processes.
// Each line has trace_id, span_id, run_id, step_id, attempt and tenant_id as far
// as the context of the call has them, and passes r before it is formatted
// (OBSERVABILITY.md §3). A nil r knows the shapes of secrets only.
func NewLogger(w io.Writer, level slog.Leveler, r *Redactor) *slog.Logger {
	return slog.New(&handler{slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level:       level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return r.attr(a) },
	})})
}

// handler adds what the context knows to each record.
type handler struct{ slog.Handler }

func (h *handler) Handle(ctx context.Context, rec slog.Record) error {
	traceID, spanID := IDs(ctx)
	s := ScopeOf(ctx)
	for _, f := range []struct{ key, value string }{
		{"trace_id", traceID}, {"span_id", spanID},
		{"tenant_id", s.TenantID}, {"run_id", s.RunID}, {"step_id", s.StepID},
	} {
		if f.value != "" {
			rec.AddAttrs(slog.String(f.key, f.value))
		}
	}
	if s.Attempt > 0 {
		rec.AddAttrs(slog.Int("attempt", s.Attempt))
	}
	return h.Handler.Handle(ctx, rec)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs)}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name)}
}

// secretKeys are attributes whose value is masked whatever it looks like.
var secretKeys = map[string]bool{
	"password": true, "passwd": true, "secret": true, "token": true, "authorization": true,
	"cookie": true, "set_cookie": true, "api_key": true, "apikey": true, "access_key": true,
	"secret_key": true, "private_key": true, "credentials": true, "dsn": true, "database_url": true,
}

func secretKey(key string) bool {
	return secretKeys[strings.ToLower(strings.ReplaceAll(key, "-", "_"))]
}

// attr masks what may be secret in one resolved attribute.
func (r *Redactor) attr(a slog.Attr) slog.Attr {
	if secretKey(a.Key) {
		return slog.String(a.Key, masked)
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(r.String(a.Value.String()))
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(r.String(v.Error()))
		case slog.Level: // the built-in attribute
		default:
			a.Value = slog.AnyValue(r.plain(v))
		}
	}
	return a
}

// plain is v as the maps, slices and texts that its JSON is made of, masked one by
// one. What has no JSON is not let through.
func (r *Redactor) plain(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		return masked
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return masked
	}
	return r.walk(tree)
}

func (r *Redactor) walk(v any) any {
	switch v := v.(type) {
	case string:
		return r.String(v)
	case []any:
		for i := range v {
			v[i] = r.walk(v[i])
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for key, value := range v {
			if secretKey(key) {
				value = masked
			}
			clean[r.String(key)] = r.walk(value)
		}
		return clean
	}
	return v
}
