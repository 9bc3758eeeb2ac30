package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What does not answer is not what the others are said to be.
func TestCheckAsksAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	asked := map[string]chan struct{}{"database": make(chan struct{}), "storage": make(chan struct{})}
	after := func(name, other string, err error) func(context.Context) error {
		return func(ctx context.Context) error {
			close(asked[name])
			select {
			case <-asked[other]:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	silent := errors.New("it does not answer")
	got := Check(ctx, map[string]func(context.Context) error{
		"database": after("database", "storage", silent),
		"storage":  after("storage", "database", nil),
	})
	if len(got) != 2 || got["database"] != silent || got["storage"] != nil {
		t.Errorf("Check() = %v, want the database silent and storage well", got)
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	m, reg := newTestMetrics()
	sampled, _ := WithTraceparent(t.Context(), parent)
	m.StepDuration.Observe(sampled, 0.3, "bash", "succeeded")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	var lame atomic.Bool
	ready := func(ctx context.Context) Readiness {
		checks := map[string]error{"postgres": nil, "storage": nil}
		wants := map[string]error{"mail": nil}
		if lame.Load() {
			wants["mail"] = errors.New("no post today")
		}
		if _, ok := ctx.Deadline(); !ok {
			checks["postgres"] = errors.New("asked without a deadline")
		}
		if broken.Load() {
			checks["storage"] = errors.New("dial https://key:c4n4ry@s3: refused")
		}
		return Readiness{Needs: checks, Wants: wants}
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, reg, ready) }()
	get := func(path, accept string) (int, string, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
	}

	code, kind, body := get("/metrics", "application/openmetrics-text; version=1.0.0")
	if code != http.StatusOK || !strings.HasPrefix(kind, "application/openmetrics-text") || !strings.HasSuffix(body, "# EOF\n") {
		t.Errorf("/metrics = %d, %s", code, kind)
	}
	want := `nofx_step_duration_seconds_bucket{outcome="succeeded",tool="bash",le="0.5"} 1 # {`
	if i := strings.Index(body, want); i < 0 || !strings.Contains(body[i:i+300], `trace_id="`+parent[3:35]+`"`) {
		t.Errorf("/metrics has no exemplar of the trace")
	}
	if code, kind, body := get("/metrics", "text/plain"); code != http.StatusOK || !strings.HasPrefix(kind, "text/plain") || !strings.Contains(body, "nofx_build_info{") {
		t.Errorf("/metrics as text = %d, %s", code, kind)
	}
	if code, _, body := get("/healthz", ""); code != http.StatusOK || body != "{\"status\":\"ok\"}\n" {
		t.Errorf("/healthz = %d, %s", code, body)
	}
	for _, tt := range []struct {
		broken, lame bool
		code         int
		want         map[string]any
	}{
		{false, false, 200, map[string]any{"status": "ready", "checks": map[string]any{"postgres": "ok", "storage": "ok", "mail": "ok"}}},
		{false, true, 200, map[string]any{"status": "ready", "checks": map[string]any{"postgres": "ok", "storage": "ok", "mail": "no post today"}}},
		{true, false, 503, map[string]any{"status": "not_ready", "checks": map[string]any{"postgres": "ok", "storage": "dial https://" + masked + "@s3: refused", "mail": "ok"}}},
	} {
		broken.Store(tt.broken)
		lame.Store(tt.lame)
		code, _, body := get("/readyz", "")
		var got map[string]any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || code != tt.code {
			t.Errorf("/readyz = %d, want %d (-want +got):\n%s", code, tt.code, diff)
		}
	}
	if code, _, _ := get("/api/runs", ""); code != http.StatusNotFound {
		t.Errorf("/api/runs on the metrics port = %d, want 404", code)
	}

	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v after its end, want nil", err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}
