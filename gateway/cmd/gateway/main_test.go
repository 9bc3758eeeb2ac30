package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/servertest/s3server"
)

var storage *s3server.Server

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx := context.Background()
	stop, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres for tests:", err)
		return 1
	}
	defer stop()
	if storage, err = s3server.Start(ctx, s3server.Config{}); err != nil {
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

func newTenant(t *testing.T, pg *pgtest.Database, args ...string) (key string, err error) {
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
	first, err := newTenant(t, pg, "acme")
	if err != nil || !strings.HasPrefix(first, "nofx_dev_") {
		t.Fatalf("tenant create acme = %q, %v, want a key", first, err)
	}
	if again, err := newTenant(t, pg, "acme"); err == nil || again != "" || !strings.Contains(err.Error(), "--key") {
		t.Errorf("tenant create acme again = %q, %v, want an error that names --key", again, err)
	}
	further, err := newTenant(t, pg, "acme", "--key", "--name", "second")
	if err != nil || further == first {
		t.Errorf("tenant create acme --key = %q, %v, want another key", further, err)
	}
	for range 2 { // for who lost theirs, without a name
		if third, err := newTenant(t, pg, "acme", "--key"); err != nil || third == "" {
			t.Errorf("tenant create acme --key = %q, %v, want another key", third, err)
		}
	}
	if taken, err := newTenant(t, pg, "acme", "--key", "--name", "second"); err == nil || !strings.Contains(err.Error(), `"second"`) || strings.Contains(err.Error(), "SQLSTATE") {
		t.Errorf("tenant create acme --key --name second again = %q, %v, want an error that names it", taken, err)
	}
	var tenants, keys int
	if err := pg.Admin.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM nofx.tenant), (SELECT count(*) FROM nofx.api_key WHERE role = 'admin')").Scan(&tenants, &keys); err != nil || tenants != 1 || keys != 4 {
		t.Errorf("%d tenants with %d keys (%v), want 1 with 4", tenants, keys, err)
	}
	for _, args := range [][]string{{"Acme"}, {""}, {"-x"}, {"a b"}, {"acme", "x"}, {"acme", "--bogus"}, {"new", "--name", strings.Repeat("x", 201)}} {
		if key, err := newTenant(t, pg, args...); err == nil || key != "" {
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
	key, err := newTenant(t, pg, "acme")
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"DATABASE_URL=" + pg.GatewayURL, "NOFX_ENV=development", "NOFX_HTTP_ADDR=127.0.0.1:0", "NOFX_METRICS_ADDR=127.0.0.1:0", "NOFX_DRAIN_DELAY=10ms",
		"NOFX_S3_ENDPOINT=" + storage.Endpoint, "NOFX_S3_ACCESS_KEY=" + storage.AccessKey, "NOFX_S3_SECRET_KEY=" + storage.SecretKey, "NOFX_MISSPELT=value-of-it",
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log := &output{grown: make(chan struct{}, 1)}
	served := make(chan error, 1)
	go func() { served <- command(ctx, context.Background(), nil, environ, io.Discard, log) }()
	line := log.line(t, "serving")
	base, metrics := "http://"+line["addr"].(string), "http://"+line["metrics_addr"].(string)
	if unknown := log.line(t, "unknown variables are ignored"); fmt.Sprint(unknown["names"]) != "[NOFX_MISSPELT]" {
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
	for _, url := range []string{base + "/readyz", base + "/api/whoami", metrics + "/readyz"} {
		if got := get(url).StatusCode; got != http.StatusOK {
			t.Errorf("GET %s = %d, want 200", url, got)
		}
	}
	events := api.NewFrameReader(get(base + "/api/events").Body)
	until := func(event string) api.Frame {
		t.Helper()
		for {
			f, err := events.Next()
			if err != nil {
				t.Fatalf("the stream ended before %q: %v", event, err)
			}
			if f.Event == event {
				return f
			}
		}
	}
	until("stream.ready")
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
	if end := until("stream.end"); !strings.Contains(end.Data, `"reason":"shutdown"`) {
		t.Errorf("stream.end = %s, want the reason shutdown", end.Data)
	}
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

// What is set up wrongly is said in words, with the setting that is to be changed.
func TestRefusesInWords(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	empty := pgtest.URL(pgtest.Create(t, false))
	app, err := pgconn.ParseConfig(pg.GatewayURL)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, environ := range map[string][]string{
		"DATABASE_URL: the database nofx_test_":                                                                  {"DATABASE_URL=" + pgtest.As(t, empty, postgres.GatewayRole, app.Password)},
		"DATABASE_URL: there is no database absent at":                                                           {"DATABASE_URL=" + pgtest.As(t, pgtest.URL("absent"), postgres.GatewayRole, app.Password)},
		"refuses role nofx_gateway with this password; set its password":                                         {"DATABASE_URL=" + pgtest.As(t, pg.GatewayURL, postgres.GatewayRole, "guessed")},
		"refuses role somebody with this password; check both":                                                   {"DATABASE_URL=" + pgtest.As(t, pg.GatewayURL, "somebody", "guessed")},
		"DATABASE_URL: nothing answers at 127.0.0.1:1;":                                                          {"DATABASE_URL=postgres://nofx_gateway:guessed@127.0.0.1:1/nofx"},
		"DATABASE_URL is not the address of a database, for example":                                             {"DATABASE_URL=guessed"},
		"DATABASE_URL: role nofx_worker has not the rights of nofx_gateway, or has more; log in as nofx_gateway": {"DATABASE_URL=" + pg.WorkerURL},
		"NOFX_METRICS_ADDR is not an address to listen on":                                                       {"DATABASE_URL=" + pg.GatewayURL, "NOFX_METRICS_ADDR=9464"},
		"NOFX_HTTP_ADDR: another process listens on 127.0.0.1:":                                                  {"DATABASE_URL=" + pg.GatewayURL, "NOFX_HTTP_ADDR=" + taken.Addr().String()},
		"NOFX_HTTP_ADDR and NOFX_METRICS_ADDR use the same port":                                                 {"DATABASE_URL=" + pg.GatewayURL, "NOFX_HTTP_ADDR=:9464", "NOFX_METRICS_ADDR=127.0.0.1:9464"},
	} {
		got := start(t, environ...)
		if !strings.Contains(got, want) || strings.Contains(got, "SQLSTATE") || strings.Contains(got, "guessed") || strings.Contains(got, "\n") {
			t.Errorf("serve with %q = %s, want one line with %q", environ, got, want)
		}
	}
}

// Administrators' commands say in words what is wrong, too.
func TestAdminRefusesInWords(t *testing.T) {
	t.Parallel()
	pg := pgtest.New(t)
	empty := pgtest.URL(pgtest.Create(t, false))
	for _, tt := range []struct{ url, command, want string }{
		{pg.GatewayURL, "tenant create beta", "DATABASE_URL: role nofx_gateway may not do this; name an administrator"},
		{pg.GatewayURL, "tenant list", "DATABASE_URL: role nofx_gateway may not do this; name an administrator"},
		{pg.GatewayURL, "queue pause step", "DATABASE_URL: role nofx_gateway may not do this; name an administrator"},
		{pg.GatewayURL, "queue list", "DATABASE_URL: role nofx_gateway may not do this; name an administrator"},
		{empty, "tenant create beta", "is not migrated"},
		{empty, "tenant list", "is not migrated"},
		{empty, "queue list", "is not migrated"},
		{"postgres://postgres:guessed@127.0.0.1:1/nofx", "tenant list", "DATABASE_URL: nothing answers at 127.0.0.1:1;"},
		{"", "tenant list", "DATABASE_URL is empty; for example postgres://ADMINISTRATOR:"},
		{pg.AdminURL, "queue pause none", "there is no queue \"none\"; there are step, review"},
	} {
		err := command(t.Context(), t.Context(), strings.Fields(tt.command), []string{"DATABASE_URL=" + tt.url}, io.Discard, io.Discard)
		if got := fmt.Sprint(err); !strings.Contains(got, tt.want) || strings.Contains(got, "SQLSTATE") || strings.Contains(got, "guessed") || strings.Contains(got, "\n") {
			t.Errorf("gateway %s = %s, want one line with %q", tt.command, got, tt.want)
		}
	}
	if queues, err := pg.Open(t, postgres.Config{}).Queues(t.Context()); err != nil || slices.ContainsFunc(queues, func(q postgres.Queue) bool { return q.PausedAt != nil }) {
		t.Errorf("Queues() = %+v, %v, want none that a refused command has paused", queues, err)
	}
}

// Who asks for help gets it, as the answer and not as an error.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"--help", "-h", "help", "tenant --help", "tenant create --help", "tenant create acme --help", "queue -h", "queue pause step --help", "config --help"} {
		var out, problems strings.Builder
		if err := command(t.Context(), t.Context(), strings.Fields(line), nil, &out, &problems); err != nil || problems.Len() > 0 || !strings.Contains(out.String(), "usage:") {
			t.Errorf("gateway %s = %v, %q and %q, want the usage as its answer", line, err, out.String(), problems.String())
		}
	}
	var out, problems strings.Builder
	if err := command(t.Context(), t.Context(), []string{"bogus"}, nil, &out, &problems); !errors.Is(err, errUsage) || out.Len() > 0 || !strings.Contains(problems.String(), "usage:") {
		t.Errorf("gateway bogus = %v, %q and %q, want the usage as an error", err, out.String(), problems.String())
	}
}

// A gateway behind a transaction pooler that it was not told of does not take runs.
func TestRefusesPoolerUntold(t *testing.T) {
	t.Parallel()
	if got := start(t, "DATABASE_URL="+pgtest.New(t).Pooled(t).GatewayURL); !strings.Contains(got, "NOFX_DATABASE_POOLED=true") {
		t.Errorf("serve behind a pooler = %s, want the setting that is missing", got)
	}
}
