package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/seal"
	"nofx.dev/shared/servertest/s3server"
	"nofx.dev/shared/telemetry"
)

var storage *s3server.Server

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	for _, media := range []string{"application/yaml", "text/html", "text/javascript", "text/css"} {
		openapi3filter.RegisterBodyDecoder(media, openapi3filter.PlainBodyDecoder) // the contract says string
	}
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	// Spans need valid ids, since rows carry them.
	flush, err := telemetry.Setup(ctx, telemetry.Config{
		Service: "test", Env: func(string) string { return "" }, Log: log,
		Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test"), Redactor: telemetry.NewRedactor(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "telemetry:", err)
		return 1
	}
	defer flush(ctx) // nothing is exported
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
	return m.Run()
}

// gateway is a server of its own, with a tenant and an admin's key.
type gateway struct {
	*testing.T
	cfg    Config
	db     *postgres.DB
	pg     *pgtest.Database
	blobs  *blob.Store
	server *Server
	hub    *stream.Hub
	http   *httptest.Server
	tenant uuid.UUID
	key    string
}

func newGateway(t *testing.T, change ...func(*Config)) *gateway {
	t.Helper()
	t.Parallel()
	return newGatewayAlone(t, change...)
}

// newGatewayAlone returns newGateway for a test that is not parallel.
func newGatewayAlone(t *testing.T, change ...func(*Config)) *gateway {
	t.Helper()
	g := &gateway{T: t, pg: pgtest.New(t)}
	g.db = g.pg.Open(t, postgres.Config{MaxConns: 8}) // what workers do, too
	store := g.pg.Open(t, postgres.Config{MaxConns: 8, Role: postgres.GatewayRole})
	g.tenant = g.pg.Tenant(t)
	bucket := "b" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := storage.MakeBucket(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	var err error
	g.blobs, err = blob.Open(blob.Config{Endpoint: storage.Endpoint, Bucket: bucket, Region: storage.Region, AccessKey: storage.AccessKey, SecretKey: storage.SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	metrics, log := telemetry.NewMetrics(prometheus.NewRegistry(), "test"), slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	g.hub = stream.NewHub(stream.Config{Store: store, Metrics: metrics, Log: log})
	g.cfg = Config{Store: store, Blobs: g.blobs, Hub: g.hub, Metrics: metrics, Log: log, KeyEnv: identity.DevKey, Keys: newKEK(t), WebhookKey: []byte(strings.Repeat("k", 32))}
	for _, fn := range change {
		fn(&g.cfg)
	}
	if g.cfg.Identity == nil {
		g.cfg.Identity = identity.New(identity.Config{Store: g.cfg.Store, DevKeys: true})
	}
	if g.server, err = New(g.cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tailed := make(chan struct{})
	go func() {
		defer close(tailed)
		g.hub.Run(ctx)
	}()
	g.http = httptest.NewUnstartedServer(nil)
	g.http.Config = g.server.HTTP()
	g.http.Start()
	t.Cleanup(func() {
		g.hub.Shutdown()
		g.http.Close()
		cancel()
		<-tailed
	})
	g.key = g.newKey(g.tenant, api.RoleAdmin)
	return g
}

// newKEK makes the key of an installation.
func newKEK(t *testing.T) *seal.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	k, err := seal.New("file:"+path, true)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newKey makes a key of a role, or with scopes of role service.
func (g *gateway) newKey(tenant uuid.UUID, role api.Role, scopes ...string) string {
	g.Helper()
	token := identity.NewToken(identity.DevKey)
	err := g.db.CreateAPIKey(g.Context(), tenant, postgres.APIKey{
		ID: token.ID, Name: string(role) + "-" + token.ID.String()[30:], Prefix: token.Prefix, Role: string(role), Scopes: scopes, CreatedBy: "test",
	}, token.SHA256[:])
	if err != nil {
		g.Fatal(err)
	}
	return token.Text
}

// reply is an answer, read to its end and held against the contract.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) code() string {
	var p api.Problem
	if json.Unmarshal(r.body, &p) != nil {
		return ""
	}
	return string(p.Code)
}

func decodeAs[T any](t testing.TB, r reply) (v T) {
	t.Helper()
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("answer %d %s: %v", r.status, r.body, err)
	}
	return v
}

type header map[string]string

// do asks with the admin's key unless headers say otherwise.
func (g *gateway) do(method, path, body string, headers ...header) reply {
	g.Helper()
	req, err := http.NewRequestWithContext(g.Context(), method, g.http.URL+path, strings.NewReader(body))
	if err != nil {
		g.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		for name, value := range h {
			req.Header.Del(name)
			if value != "" {
				req.Header[http.CanonicalHeaderKey(name)] = []string{value}
			}
		}
	}
	return g.send(req)
}

// patient returns do's answer, asking again while the gateway is busy with the request or
// with others.
func (g *gateway) patient(method, path, body string, headers ...header) reply {
	g.Helper()
	for {
		r := g.do(method, path, body, headers...)
		if code := r.code(); code != "idempotency-in-flight" && code != "rate-limited" && code != "unavailable" {
			return r
		}
	}
}

func (g *gateway) get(path string, headers ...header) reply {
	g.Helper()
	return g.do(http.MethodGet, path, "", headers...)
}

func (g *gateway) send(req *http.Request) reply {
	g.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		g.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	r := reply{resp.StatusCode, resp.Header, body}
	if err := checkContract(req, r); err != nil {
		g.Errorf("%s %s: the answer %d is not the contract's: %v\n%s", req.Method, req.URL.RequestURI(), r.status, err, body)
	}
	if r.status == http.StatusInternalServerError {
		g.Errorf("%s %s = 500 %s", req.Method, req.URL.RequestURI(), body)
	}
	return r
}

func (g *gateway) want(r reply, status int, code string) {
	g.Helper()
	if r.status != status || r.code() != code {
		g.Errorf("answer = %d %s, want %d %s\n%s", r.status, r.code(), status, code, r.body)
	}
}

var contract = func() *openapi3.T {
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		panic(err)
	}
	return doc
}()

// contractPaths are the paths of the contract as patterns.
var contractPaths = func() map[string]*regexp.Regexp {
	parameter := regexp.MustCompile(`\\\{[a-z0-9_]+\\\}`) // as QuoteMeta leaves them
	paths := map[string]*regexp.Regexp{}
	for path := range contract.Paths.Map() {
		paths[path] = regexp.MustCompile("^" + parameter.ReplaceAllString(regexp.QuoteMeta(path), "[^/]+") + "$")
	}
	return paths
}()

// operationOf returns the contract's operation for a request, nil when there is none.
func operationOf(method, path string) (template string, item *openapi3.PathItem, op *openapi3.Operation) {
	if item := contract.Paths.Value(path); item != nil {
		return path, item, item.GetOperation(method)
	}
	for template, shape := range contractPaths {
		if shape.MatchString(path) && contract.Paths.Value(path) == nil {
			item := contract.Paths.Value(template)
			return template, item, item.GetOperation(method)
		}
	}
	return "", nil, nil
}

// checkContract holds an answer against the contract: status, headers, media type
// and body. What is not in the contract has to be refused with a problem.
func checkContract(req *http.Request, r reply) error {
	if r.header.Get("X-Trace-Id") == "" {
		return fmt.Errorf("no X-Trace-Id")
	}
	method := req.Method
	if method == http.MethodHead {
		if len(r.body) > 0 {
			return fmt.Errorf("HEAD was answered with a body")
		}
		return nil
	}
	template, item, op := operationOf(method, req.URL.EscapedPath())
	if op == nil {
		if method == http.MethodOptions && r.status == http.StatusNoContent {
			return nil
		}
		if r.status != http.StatusNotFound && r.status != http.StatusMethodNotAllowed && r.status < 413 {
			return fmt.Errorf("no such operation, and not refused")
		}
		op, item, template = contract.Paths.Value("/api/runs").Get, contract.Paths.Value("/api/runs"), "/api/runs" // any: problems are alike
		method = http.MethodGet
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: req,
			Route:   &routers.Route{Spec: contract, Path: template, PathItem: item, Method: method, Operation: op},
		},
		Status: r.status, Header: r.header, Body: io.NopCloser(bytes.NewReader(r.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	return openapi3filter.ValidateResponse(context.Background(), input)
}
