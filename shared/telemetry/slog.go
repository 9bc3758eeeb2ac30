package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
)

// NewLogger writes JSON lines to w, which is standard error in both processes. Each line
// has trace_id, span_id, run_id, step_id, attempt and tenant_id as far as the context of
// the call has them, and passes r before it is formatted (OBSERVABILITY.md §3). A nil r
// masks only the shapes of secrets.
func NewLogger(w io.Writer, level slog.Leveler, r *Redactor) *slog.Logger {
	return slog.New(&handler{slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level:       level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return r.attr(a) },
	})})
}

// handler adds the ids of the context to each record.
type handler struct{ slog.Handler }

func (h *handler) Handle(ctx context.Context, rec slog.Record) error {
	traceID, spanID := IDs(ctx)
	s := scopeOf(ctx)
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

// secretKeys are attributes whose value is always masked.
var secretKeys = map[string]bool{
	"password": true, "passwd": true, "secret": true, "token": true, "authorization": true,
	"cookie": true, "set_cookie": true, "api_key": true, "apikey": true, "access_key": true,
	"secret_key": true, "private_key": true, "credentials": true, "dsn": true, "database_url": true,
}

func secretKey(key string) bool {
	return secretKeys[strings.ToLower(strings.ReplaceAll(key, "-", "_"))]
}

// attr masks secrets in one resolved attribute.
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

// plain returns v as the maps, slices and texts of its JSON, each masked. A value without
// JSON is left out.
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
	case []string:
		clean := make([]string, len(v))
		for i := range v {
			clean[i] = r.String(v[i])
		}
		return clean
	case []any:
		clean := make([]any, len(v))
		for i := range v {
			clean[i] = r.walk(v[i])
		}
		return clean
	case map[string]any:
		return r.Members(v)
	case nil, bool, int, int64, float64, json.Number:
	default:
		return r.plain(v)
	}
	return v
}

// Members returns the members of a JSON object with every text in them masked, at any
// depth, and with all that stands under the name of a secret.
func (r *Redactor) Members(m map[string]any) map[string]any {
	if m == nil {
		return nil
	}
	clean := make(map[string]any, len(m))
	for name, value := range m {
		text, isText := value.(string)
		switch {
		case secretKey(name):
			value = masked
		case isText:
			value = r.Named(name, text)
		default:
			value = r.walk(value)
		}
		clean[r.String(name)] = value
	}
	return clean
}

// Named returns the value of a variable, header or member, masked: as text, and as a
// whole where the name says that it is a secret.
func (r *Redactor) Named(name, value string) string {
	probe := "x"
	switch {
	case strings.HasPrefix(value, "/"):
		probe = "/" // a shell's PWD
	case result.MatchString(value) || literal.MatchString(value):
		probe = value
	}
	if value != "" && (secretKey(name) || len(secretShapes(name+"="+probe)) > 0) {
		return mask(len(value))
	}
	return r.String(value)
}
