package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	testKey   = "nofx_test_0198c0de7a2b_secret"
	testTrace = "0af7651916cd43dd8448eb211c80319c"
)

// contractGateway answers by the contract: it refuses what the contract
// refuses, and fails the test when a scripted answer is not one of the
// contract's.
type contractGateway struct {
	t       *testing.T
	router  routers.Router
	answers map[string]http.HandlerFunc // by operation id

	mu   sync.Mutex
	seen []*http.Request
}

var contractRouter = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

func newGateway(t *testing.T, answers map[string]http.HandlerFunc) (*contractGateway, *httptest.Server) {
	t.Helper()
	router, err := contractRouter()
	if err != nil {
		t.Fatal(err)
	}
	g := &contractGateway{t: t, router: router, answers: answers}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	return g, server
}

func (g *contractGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.seen = append(g.seen, r)
	g.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+testKey {
		problem(w, r, http.StatusUnauthorized, api.Problem{Code: api.ProblemCodeUnauthenticated, Detail: "no key, or not a good one"})
		return
	}
	route, path, err := g.router.FindRoute(r)
	if err != nil {
		problem(w, r, http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Detail: "no such route"})
		return
	}
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: path, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true},
	}
	if refused(w, r, input) {
		return
	}
	answer, ok := g.answers[route.Operation.OperationID]
	if !ok {
		g.t.Errorf("%s %s: the test has no answer for %s", r.Method, r.URL, route.Operation.OperationID)
		problem(w, r, http.StatusInternalServerError, api.Problem{Code: api.ProblemCodeInternal})
		return
	}
	if r.Header.Get("Accept") == api.EventStream {
		answer(w, r)
		return
	}
	rec := httptest.NewRecorder()
	answer(rec, r)
	result := rec.Result()
	err = openapi3filter.ValidateResponse(r.Context(), (&openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: rec.Code, Header: result.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}).SetBodyBytes(rec.Body.Bytes()))
	if err != nil {
		g.t.Errorf("%s %s: the test's answer is not the contract's: %v", r.Method, r.URL, err)
	}
	for name, values := range result.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// refused answers what the contract does not allow.
func refused(w http.ResponseWriter, r *http.Request, input *openapi3filter.RequestValidationInput) bool {
	known := map[string]bool{}
	for _, p := range slices.Concat(input.Route.Operation.Parameters, input.Route.PathItem.Parameters) {
		known[p.Value.In+" "+p.Value.Name] = true
	}
	for name := range r.URL.Query() {
		if !known["query "+name] {
			problem(w, r, http.StatusBadRequest, api.Problem{Code: api.ProblemCodeBadParameter, Detail: "unknown parameter " + name})
			return true
		}
	}
	err := openapi3filter.ValidateRequest(r.Context(), input)
	if err == nil {
		return false
	}
	var request *openapi3filter.RequestError
	switch errors.As(err, &request); {
	case request != nil && request.Parameter != nil && request.Parameter.In == "path":
		problem(w, r, http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Detail: "not found"})
	case request != nil && request.Parameter != nil:
		problem(w, r, http.StatusBadRequest, api.Problem{Code: api.ProblemCodeBadParameter, Detail: request.Parameter.Name + " is wrong",
			Errors: []api.FieldError{{Pointer: "/" + request.Parameter.Name, Detail: "not what the contract allows"}}})
	default:
		problem(w, r, http.StatusUnprocessableEntity, api.Problem{Code: api.ProblemCodeInvalidField, Detail: err.Error()})
	}
	return true
}

func problem(w http.ResponseWriter, r *http.Request, status int, p api.Problem) {
	p.Type, p.Title, p.Status, p.Instance, p.TraceID = "about:blank", http.StatusText(status), status, r.URL.Path, testTrace
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Trace-Id", testTrace)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p)
}

// answer returns a handler that answers v as JSON.
func answer(status int, v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Trace-Id", testTrace)
		if v == nil {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
}

// requests returns the requests that reached the gateway, as "METHOD path?query".
func (g *contractGateway) requests() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for _, r := range g.seen {
		all = append(all, r.Method+" "+r.URL.RequestURI())
	}
	return all
}

// cli is one command line with surroundings of a test's own.
type cli struct {
	*app
	out, errOut bytes.Buffer
	dir         string
	pauses      []time.Duration
}

func newCLI(t *testing.T, url string) *cli {
	t.Helper()
	c := &cli{dir: t.TempDir()}
	env := map[string]string{"NOFX_URL": url, "NOFX_API_KEY": testKey}
	c.app = &app{
		in: strings.NewReader(""), out: &c.out, errOut: &c.errOut,
		getenv:    func(name string) string { return env[name] },
		configDir: func() (string, error) { return c.dir, nil },
		now:       func() time.Time { return now },
		stall:     time.Minute,
		pause: func(ctx context.Context, d time.Duration) error {
			c.pauses = append(c.pauses, d)
			return ctx.Err()
		},
	}
	return c
}

func (c *cli) setenv(pairs ...string) {
	env := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	c.getenv = func(name string) string { return env[name] }
}

// transcript returns what a person sees of one command.
func (c *cli) transcript(ctx context.Context, args ...string) string {
	code := execute(ctx, c.app, args)
	return fmt.Sprintf("$ nofx %s\n%s-- stderr --\n%s-- exit %d --\n", strings.Join(args, " "), &c.out, &c.errOut, code)
}

// golden compares got with a file, or rewrites it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
