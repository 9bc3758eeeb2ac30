package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/shared/blob/blobtest"
	"nofx.dev/shared/postgres/pgtest"
)

var storage *blobtest.Server

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx := context.Background()
	stop, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres for tests:", err)
		return 1
	}
	defer stop()
	if storage, err = blobtest.Start(ctx, blobtest.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, "start S3 for tests:", err)
		return 1
	}
	defer storage.Stop()
	if err := storage.MakeBucket(ctx, "nofx"); err != nil {
		fmt.Fprintln(os.Stderr, "make bucket:", err)
		return 1
	}
	return m.Run()
}

func createTenant(t *testing.T, pg *pgtest.Database, args ...string) (key string, err error) {
	t.Helper()
	var out, problems strings.Builder
	err = command(t.Context(), t.Context(), append([]string{"tenant", "create"}, args...),
		[]string{"DATABASE_URL=" + pg.AdminURL, "NOFX_ENV=development"}, &out, &problems)
	if lines := strings.Count(out.String(), "\n"); err == nil && lines != 1 {
		t.Errorf("tenant create %v printed %q, want one line", args, out.String())
	}
	return strings.TrimSpace(out.String()), err
}

func TestTenantCreate(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	first, err := createTenant(t, pg, "acme")
	if err != nil || !strings.HasPrefix(first, "nofx_dev_") {
		t.Fatalf("tenant create acme = %q, %v, want a key", first, err)
	}
	if again, err := createTenant(t, pg, "acme"); err == nil || again != "" || !strings.Contains(err.Error(), "--key") {
		t.Errorf("tenant create acme again = %q, %v, want an error that names --key", again, err)
	}
	further, err := createTenant(t, pg, "acme", "--key", "--name", "second")
	if err != nil || further == first {
		t.Errorf("tenant create acme --key = %q, %v, want another key", further, err)
	}
	for range 2 { // for who lost theirs, without a name
		if third, err := createTenant(t, pg, "acme", "--key"); err != nil || third == "" {
			t.Errorf("tenant create acme --key = %q, %v, want another key", third, err)
		}
	}
	if taken, err := createTenant(t, pg, "acme", "--key", "--name", "second"); err == nil || !strings.Contains(err.Error(), `"second"`) {
		t.Errorf("tenant create acme --key --name second again = %q, %v, want an error that names it", taken, err)
	}
	var tenants, keys int
	if err := pg.Admin.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM nofx.tenant), (SELECT count(*) FROM nofx.api_key WHERE role = 'admin')").Scan(&tenants, &keys); err != nil || tenants != 1 || keys != 4 {
		t.Errorf("%d tenants with %d keys (%v), want 1 with 4", tenants, keys, err)
	}
	for _, args := range [][]string{{"Acme"}, {""}, {"-x"}, {"a b"}, {"acme", "x"}, {"acme", "--bogus"}} {
		if key, err := createTenant(t, pg, args...); err == nil || key != "" {
			t.Errorf("tenant create %v = %q, %v, want an error", args, key, err)
		}
	}
}

// output collects what a gateway logs, and finds lines in it.
type output struct {
	mu    sync.Mutex
	lines []string
	grown chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, strings.TrimSpace(string(p)))
	select {
	case o.grown <- struct{}{}:
	default:
	}
	return len(p), nil
}

// line waits for the line with a message.
func (o *output) line(t *testing.T, message string) (line map[string]any) {
	t.Helper()
	for {
		o.mu.Lock()
		for _, l := range o.lines {
			if json.Unmarshal([]byte(l), &line) == nil && line["msg"] == message {
				o.mu.Unlock()
				return line
			}
		}
		o.mu.Unlock()
		select {
		case <-o.grown:
		case <-time.After(2 * time.Minute):
			t.Fatalf("no log line %q within two minutes: %q", message, o.lines)
		}
	}
}

// TestServe starts a gateway as the process does, uses it, and ends it as SIGTERM
// does while a stream is open.
func TestServe(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	key, err := createTenant(t, pg, "acme")
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"DATABASE_URL=" + pg.AppURL, "NOFX_ENV=development", "NOFX_HTTP_ADDR=127.0.0.1:0", "NOFX_METRICS_ADDR=127.0.0.1:0", "NOFX_DRAIN_DELAY=10ms",
		"NOFX_S3_ENDPOINT=" + storage.Endpoint, "NOFX_S3_ACCESS_KEY=" + storage.AccessKey, "NOFX_S3_SECRET_KEY=" + storage.SecretKey, "NOFX_MISSPELT=value-of-it",
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log := &output{grown: make(chan struct{}, 1)}
	served := make(chan error, 1)
	go func() { served <- command(ctx, context.Background(), nil, environ, io.Discard, log) }()
	line := log.line(t, "serving")
	api, metrics := "http://"+line["addr"].(string), "http://"+line["metrics_addr"].(string)
	if unknown := log.line(t, "variables that nothing reads"); fmt.Sprint(unknown["names"]) != "[NOFX_MISSPELT]" {
		t.Errorf("unknown variables = %v, want the misspelt one", unknown["names"])
	}

	get := func(url string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	for _, url := range []string{api + "/readyz", api + "/api/whoami", metrics + "/readyz"} {
		if got := get(url).StatusCode; got != http.StatusOK {
			t.Errorf("GET %s = %d, want 200", url, got)
		}
	}
	events := bufio.NewReader(get(api + "/api/events").Body)
	until := func(part string) {
		t.Helper()
		for {
			line, err := events.ReadString('\n')
			if err != nil {
				t.Fatalf("the stream ended before %q: %v", part, err)
			}
			if strings.Contains(line, part) {
				return
			}
		}
	}
	until("event: stream.ready")
	body, err := io.ReadAll(get(metrics + "/metrics").Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`nofx_http_request_duration_seconds_count{code="200",method="GET",route="/api/whoami"} 1`, "nofx_queue_stats_up 1",
		`nofx_queue_depth{queue="step",state="available"} 0`, `nofx_runs{status="running"} 0`, `nofx_sse_connections{stream="feed"} 1`,
		`nofx_db_pool_connections{pool="requests",state="max"} 16`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("metrics lack %s", want)
		}
	}

	stop()
	until("event: stream.end")
	until(`"reason":"shutdown"`)
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("serve = %v, want nil", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the gateway did not end within two minutes")
	}
	for _, l := range log.lines {
		if strings.Contains(l, key) || strings.Contains(l, storage.SecretKey) || strings.Contains(l, "value-of-it") {
			t.Errorf("the log shows a secret: %s", l)
		}
	}
}

// start returns what a gateway says that does not start.
func start(t *testing.T, environ ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := command(ctx, ctx, nil, append([]string{
		"NOFX_HTTP_ADDR=127.0.0.1:0", "NOFX_METRICS_ADDR=127.0.0.1:0", "NOFX_DRAIN_DELAY=0s",
		"NOFX_S3_ENDPOINT=" + storage.Endpoint, "NOFX_S3_ACCESS_KEY=" + storage.AccessKey, "NOFX_S3_SECRET_KEY=" + storage.SecretKey,
	}, environ...), io.Discard, io.Discard)
	if err == nil {
		t.Fatalf("serve with %q = nil, want it not to start", environ)
	}
	return err.Error()
}

// TestRefusesPower checks that a gateway which logs in with the power to pass row
// level security by does not start.
func TestRefusesPower(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	if got := start(t, "DATABASE_URL="+pg.AdminURL); !strings.Contains(got, "row level security") {
		t.Errorf("serve as an administrator = %s, want a refusal", got)
	}
}

// A gateway behind a transaction pooler that it was not told of does not take runs.
func TestRefusesPoolerUntold(t *testing.T) {
	t.Parallel()
	if got := start(t, "DATABASE_URL="+pgtest.New(t).Pooled(t).AppURL); !strings.Contains(got, "NOFX_DATABASE_POOLED=true") {
		t.Errorf("serve behind a pooler = %s, want the setting that is missing", got)
	}
}
