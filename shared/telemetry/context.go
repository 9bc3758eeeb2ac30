package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Scope has the ids of the tenant, run and step that a context belongs to. Log lines, spans
// and queued jobs carry them.
type Scope struct {
	TenantID string
	RunID    string
	StepID   string
	Attempt  int // 1 for the first; 0 is unknown
}

type scopeKey struct{}

// WithScope sets the fields of s that are not zero and keeps the others of ctx,
// so that each layer adds what it learns: the tenant, then the run, then the step.
func WithScope(ctx context.Context, s Scope) context.Context {
	old := scopeOf(ctx)
	if s.TenantID == "" {
		s.TenantID = old.TenantID
	}
	if s.RunID == "" {
		s.RunID = old.RunID
	}
	if s.StepID == "" {
		s.StepID = old.StepID
	}
	if s.Attempt == 0 {
		s.Attempt = old.Attempt
	}
	return context.WithValue(ctx, scopeKey{}, s)
}

// scopeOf returns the scope of ctx, with the fields set so far.
func scopeOf(ctx context.Context) Scope {
	s, _ := ctx.Value(scopeKey{}).(Scope)
	return s
}

// IDs returns the trace and span id of ctx in lower-case hex, as rows store them, or
// "" when ctx has none.
func IDs(ctx context.Context) (traceID, spanID string) {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return "", ""
	}
	return sc.TraceID().String(), sc.SpanID().String()
}

// w3c is the only propagator: no baggage crosses a border.
var w3c propagation.TraceContext

// Inject returns the traceparent of ctx, flags included, or "" when it has none.
func Inject(ctx context.Context) (traceparent string) {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// WithTraceparent makes the span that traceparent names the remote parent of spans started
// in the returned context. If traceparent cannot be parsed, it returns ctx unchanged, and
// false.
func WithTraceparent(ctx context.Context, traceparent string) (context.Context, bool) {
	return extract(ctx, traceparent, "")
}

func extract(ctx context.Context, traceparent, tracestate string) (context.Context, bool) {
	carrier := propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate}
	sc := trace.SpanContextFromContext(w3c.Extract(context.Background(), carrier))
	if !sc.IsValid() {
		return ctx, false
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc), true
}
