package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

func TestSpansArriveWithTheirParents(t *testing.T) {
	t.Parallel()
	grpcReceiver := newReceiver()
	grpcServer := grpc.NewServer()
	collector.RegisterTraceServiceServer(grpcServer, grpcReceiver)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = grpcServer.Serve(ln) }()
	t.Cleanup(grpcServer.Stop)
	httpReceiver := newReceiver()
	httpServer := httptest.NewServer(httpReceiver)
	t.Cleanup(httpServer.Close)

	for _, tt := range []struct {
		name string
		to   *receiver
		env  []string
	}{
		{"http", httpReceiver, []string{"OTEL_EXPORTER_OTLP_ENDPOINT", httpServer.URL + "/"}},
		{"http traces", httpReceiver, []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", httpServer.URL + "/v1/traces", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"}},
		{"grpc", grpcReceiver, []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://" + ln.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := newTestMetrics()
			env := append(tt.env, "NOFX_ENV", "test", "OTEL_SERVICE_NAME", "renamed", "OTEL_RESOURCE_ATTRIBUTES", "team=core,service.name=beaten, zone = a%2Cb")
			provider, err := newProvider(t.Context(), testConfig(m, env...))
			if err != nil {
				t.Fatal(err)
			}
			ctx := WithScope(t.Context(), Scope{TenantID: "ten_1", RunID: "run_1"})
			ctx, root := provider.Tracer("test").Start(ctx, "root")
			ctx = WithScope(ctx, Scope{StepID: "step_1"})
			_, child := provider.Tracer("test").Start(ctx, "child with password=c4n4ry-name")
			child.SetAttributes(attribute.String("detail", "Bearer c4n4ry-value"), attribute.StringSlice("all", []string{"x", "c4n4ry-value"}))
			child.AddEvent("saw c4n4ry-value", trace.WithAttributes(attribute.String("a", "c4n4ry-value")))
			child.RecordError(errors.New("postgres://u:c4n4ry@h/db"))
			child.SetStatus(codes.Error, "token=c4n4ry")
			child.AddLink(trace.Link{SpanContext: root.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("a", "c4n4ry-value")}})
			child.End()
			root.End()
			if err := provider.Shutdown(t.Context()); err != nil {
				t.Fatalf("Shutdown = %v", err)
			}

			traceID, rootID := IDs(ctx)
			spans := tt.to.await(t, traceID, 2)
			got := spans["child with password="+masked]
			if got == nil {
				t.Fatalf("spans are %v", spans)
			}
			if want, _ := trace.SpanIDFromHex(rootID); !bytes.Equal(got.ParentSpanId, want[:]) || len(spans["root"].ParentSpanId) != 0 {
				t.Errorf("parent of the child is %x, want %s; of the root %x, want none", got.ParentSpanId, rootID, spans["root"].ParentSpanId)
			}
			if text := got.String(); strings.Contains(text, "c4n4ry") {
				t.Errorf("the span has a canary: %s", text)
			}
			if diff := cmp.Diff(map[string]string{"nofx.tenant.id": "ten_1", "nofx.run.id": "run_1"}, attributes(spans["root"])); diff != "" {
				t.Errorf("attributes of the root (-want +got):\n%s", diff)
			}
			if attributes(got)["nofx.step.id"] != "step_1" {
				t.Errorf("attributes of the child = %v, want its step", attributes(got))
			}
			for key, want := range map[string]string{
				"service.name": "renamed", "service.version": "1.2.3", "service.instance.id": "w1",
				"deployment.environment.name": "test", "team": "core", "zone": "a,b",
			} {
				if tt.to.from[key] != want {
					t.Errorf("resource %s = %q, want %q", key, tt.to.from[key], want)
				}
			}
		})
	}
}

func TestSpansHaveIDsWithoutAnExporter(t *testing.T) {
	t.Parallel()
	for _, env := range [][]string{
		{},
		{"OTEL_TRACES_EXPORTER", "none", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"},
		{"OTEL_SDK_DISABLED", "true", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"},
	} {
		m, _ := newTestMetrics()
		provider, err := newProvider(t.Context(), testConfig(m, env...))
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := provider.Tracer("test").Start(t.Context(), "root", trace.WithAttributes(attribute.Int("n", 1)))
		if traceID, spanID := IDs(ctx); len(traceID) != 32 || len(spanID) != 16 || !span.SpanContext().IsSampled() {
			t.Errorf("%v: IDs = %q, %q, sampled %v", env, traceID, spanID, span.SpanContext().IsSampled())
		}
		if ro := span.(sdktrace.ReadOnlySpan); len(ro.Attributes()) != 0 {
			t.Errorf("%v: kept %v for nobody", env, ro.Attributes())
		}
		span.End()
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	unsampled, _ := WithTraceparent(t.Context(), parent[:53]+"00")
	sampled, _ := WithTraceparent(t.Context(), parent)
	for _, tt := range []struct {
		name, arg               string
		root, ofOn, ofOff, fail bool
	}{
		{"", "", true, true, false, false},
		{"parentbased_traceidratio", "0", false, true, false, false},
		{"traceidratio", "1", true, true, true, false},
		{"always_on", "", true, true, true, false},
		{"always_off", "", false, false, false, false},
		{"parentbased_always_on", "", true, true, false, false},
		{"parentbased_always_off", "", false, true, false, false},
		{"jaeger_remote", "", false, false, false, true},
		{"traceidratio", "1.5", false, false, false, true},
		{"traceidratio", "NaN", false, false, false, true},
	} {
		m, _ := newTestMetrics()
		provider, err := newProvider(t.Context(), testConfig(m, "OTEL_TRACES_SAMPLER", tt.name, "OTEL_TRACES_SAMPLER_ARG", tt.arg))
		if (err != nil) != tt.fail {
			t.Errorf("sampler %q %q: %v, want failure %v", tt.name, tt.arg, err, tt.fail)
		}
		if err != nil {
			continue
		}
		for what, c := range map[string]struct {
			ctx  context.Context
			want bool
		}{"root": {t.Context(), tt.root}, "sampled parent": {sampled, tt.ofOn}, "unsampled parent": {unsampled, tt.ofOff}} {
			_, span := provider.Tracer("test").Start(c.ctx, "x")
			if got := span.SpanContext().IsSampled(); got != c.want || !span.SpanContext().IsValid() {
				t.Errorf("sampler %q %q: %s sampled = %v, want %v", tt.name, tt.arg, what, got, c.want)
			}
		}
	}
}

func TestSetupRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, tt := range [][]string{
		{"OTEL_TRACES_EXPORTER", "zipkin"},
		{"OTEL_TRACES_EXPORTER", "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:c4n4ry@ bad"},
		{"OTEL_RESOURCE_ATTRIBUTES", "team"},
		{"OTEL_RESOURCE_ATTRIBUTES", "team=%zz"},
	} {
		m, _ := newTestMetrics()
		_, err := newProvider(t.Context(), testConfig(m, tt...))
		if err == nil || !strings.Contains(err.Error(), tt[len(tt)-2]) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("newProvider(%v) = %v, want an error that names the variable and not the secret", tt, err)
		}
	}
}

func TestExportTarget(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		env  []string
		want exportTarget
	}{
		{nil, exportTarget{}},
		{[]string{"OTEL_TRACES_EXPORTER", "otlp"}, exportTarget{"http/protobuf", "http://localhost:4318/v1/traces"}},
		{[]string{"OTEL_TRACES_EXPORTER", "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, exportTarget{"grpc", "http://localhost:4317"}},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "https://o.example/otlp"}, exportTarget{"http/protobuf", "https://o.example/otlp/v1/traces"}},
		{[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://o.example/in"}, exportTarget{"http/protobuf", "https://o.example/in"}},
		{[]string{"OTEL_EXPORTER_OTLP_ENDPOINT", "https://o.example:4317", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"}, exportTarget{"grpc", "https://o.example:4317"}},
	} {
		if got, err := exportTargetFrom(vars(tt.env...)); err != nil || got != tt.want {
			t.Errorf("exportTargetFrom(%v) = %v, %v, want %v", tt.env, got, err, tt.want)
		}
	}
}

// stuck holds every export until it is released, then answers with err.
type stuck struct {
	entered chan struct{}
	release chan struct{}
	err     error
	got     int
}

func (s *stuck) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.release
	if s.err == nil {
		s.got += len(spans)
	}
	return s.err
}
func (s *stuck) Shutdown(context.Context) error { return nil }

func TestASlowReceiverDropsAndCounts(t *testing.T) {
	t.Parallel()
	m, _ := newTestMetrics()
	slow := &stuck{entered: make(chan struct{}, 1), release: make(chan struct{})}
	q := newQueue(slow, testConfig(m))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q))
	tracer := provider.Tracer("test")
	const extra = 1000
	for range maxQueuedSpans + extra {
		_, span := tracer.Start(t.Context(), "x")
		span.End() // never waits for the receiver
	}
	if got := testutil.ToFloat64(m.SpansDropped.vec.WithLabelValues("queue_full")); got != extra {
		t.Errorf("dropped %v spans, want %d", got, extra)
	}
	_, late := tracer.Start(t.Context(), "late")
	close(slow.release)
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if slow.got != maxQueuedSpans {
		t.Errorf("the receiver got %d spans, want %d", slow.got, maxQueuedSpans)
	}
	q.OnEnd(late.(sdktrace.ReadOnlySpan))
	if got := testutil.ToFloat64(m.SpansDropped.vec.WithLabelValues("shutdown")); got != 1 {
		t.Errorf("dropped %v spans after the end, want 1", got)
	}
}

func TestAFailingReceiverIsCountedAndLoggedOnce(t *testing.T) {
	t.Parallel()
	m, _ := newTestMetrics()
	var logs safeBuffer
	cfg := testConfig(m)
	cfg.Log = slog.New(slog.NewTextHandler(&logs, nil))
	broken := &stuck{release: make(chan struct{}), err: errors.New("no")}
	close(broken.release)
	q := newQueue(broken, cfg)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(q))
	send := func() {
		_, span := provider.Tracer("test").Start(t.Context(), "x")
		span.End()
		if err := q.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	send()
	send()
	broken.err = nil
	send()
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := testutil.ToFloat64(m.ExportErrors.vec.WithLabelValues()); got != 2 {
		t.Errorf("export errors = %v, want 2", got)
	}
	if got := testutil.ToFloat64(m.SpansDropped.vec.WithLabelValues("export_failed")); got != 2 {
		t.Errorf("dropped %v spans, want 2", got)
	}
	if text := logs.String(); strings.Count(text, "export of traces fails") != 1 || strings.Count(text, "works again") != 1 {
		t.Errorf("logs:\n%s", text)
	}
}

func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-hang }))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(hang) })
	m, _ := newTestMetrics()
	provider, err := newProvider(t.Context(), testConfig(m, "OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	_, span := provider.Tracer("test").Start(t.Context(), "x")
	span.End()
	if err := shutdown(t.Context(), provider); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown with a hanging receiver = %v, want a deadline", err)
	}
}

func TestSetupInstallsW3COnly(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]string{"traceparent", "tracestate"}, otel.GetTextMapPropagator().Fields()); diff != "" {
		t.Errorf("propagated fields (-want +got):\n%s", diff)
	}
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func BenchmarkSpanWithoutExporter(b *testing.B) {
	m, _ := newTestMetrics()
	provider, err := newProvider(b.Context(), testConfig(m))
	if err != nil {
		b.Fatal(err)
	}
	tracer := provider.Tracer("bench")
	for b.Loop() {
		_, span := tracer.Start(b.Context(), "x", trace.WithAttributes(ToolKey.String("bash")))
		span.End()
	}
}
