package telemetry

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is an OTLP receiver over HTTP and gRPC that keeps what it gets.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu      sync.Mutex
	spans   map[string][]*tracepb.Span // by trace id
	from    map[string]string          // resource attributes of the last batch
	changed chan struct{}              // closed and replaced at each batch
}

func newReceiver() *receiver {
	return &receiver{spans: map[string][]*tracepb.Span{}, changed: make(chan struct{})}
}

func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		r.from = map[string]string{}
		for _, kv := range rs.Resource.Attributes {
			r.from[kv.Key] = kv.Value.GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				id := hex.EncodeToString(s.TraceId)
				r.spans[id] = append(r.spans[id], s)
			}
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "no such route", http.StatusNotFound)
		return
	}
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(body)
	}
	raw, _ := io.ReadAll(body)
	var msg collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &msg); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = r.Export(req.Context(), &msg)
}

// await waits until the trace has n spans and returns them by name.
func (r *receiver) await(t *testing.T, traceID string, n int) map[string]*tracepb.Span {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		spans, changed := r.spans[traceID], r.changed
		r.mu.Unlock()
		if len(spans) >= n {
			byName := map[string]*tracepb.Span{}
			for _, s := range spans {
				byName[s.Name] = s
			}
			if len(spans) != n || len(byName) != n {
				t.Fatalf("trace %s has %d spans under %d names, want %d", traceID, len(spans), len(byName), n)
			}
			return byName
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("trace %s has %d spans after two minutes, want %d", traceID, len(spans), n)
		}
	}
}

func attributes(s *tracepb.Span) map[string]string {
	all := map[string]string{}
	for _, kv := range s.Attributes {
		all[kv.Key] = kv.Value.GetStringValue()
		if all[kv.Key] == "" {
			all[kv.Key] = fmt.Sprint(kv.Value.GetIntValue())
		}
	}
	return all
}

func vars(kv ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == key {
				return kv[i+1]
			}
		}
		return ""
	}
}

func testConfig(m *Metrics, kv ...string) Config {
	return Config{
		Service: "nofx-worker", Version: "1.2.3", InstanceID: "w1",
		Env: vars(kv...), Log: slog.New(slog.DiscardHandler), Metrics: m, Redactor: NewRedactor("c4n4ry-value"),
	}
}

func newTestMetrics() (*Metrics, *prometheus.Registry) {
	reg := prometheus.NewRegistry()
	return NewMetrics(reg, "1.2.3"), reg
}

// exported gets the spans of the process-wide provider.
var exported = newReceiver()

func TestMain(m *testing.M) {
	srv := httptest.NewServer(exported)
	metrics, _ := newTestMetrics()
	stop, err := Setup(context.Background(), testConfig(metrics, "OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL))
	if err != nil {
		panic(err)
	}
	code := m.Run()
	if err := stop(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "stop telemetry:", err)
		code = 1
	}
	srv.Close()
	os.Exit(code)
}
