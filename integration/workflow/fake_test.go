package workflow_test

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"nofx.dev/gateway/api"
)

const (
	reviewID = "rev_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f"
	runID    = "run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f"
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	headSHA  = "89abcdef0123456789abcdef0123456789abcdef"

	anonKey      = "anon-key-of-the-project"
	ciEmail      = "ci@acme.example"
	ciPassword   = `pa"ss\word of $CI`
	requestToken = "request-token-of-the-job"
	apiKey       = "nofx_test_0198c0de7a2b_secret"
	signature    = "signature-of-the-plan"
	hookSecret   = "hook-prj-secret"
)

// world is all that the scripts talk to, at one address: the gateway, Supabase, GitHub's
// OIDC, storage and Vercel. It answers by the gateway's contract, and fails the test for
// a request that one of them would refuse, but for those that a case is about.
type world struct {
	t      *testing.T
	server *httptest.Server
	ca     string // file
	router routers.Router

	reviews  []api.Review     // answers of successive polls; the last is repeated
	existing bool             // the review is not new
	busy     int              // answers 503 to so many requests first
	audience string           // that a token is asked for, as in a query; none: nofx
	refusal  *api.Problem     // of the request for a review
	found    []api.Finding    // what the review reports
	noPlan   bool             // none was stored
	plan     map[string]any   // what would be posted
	hook     http.HandlerFunc // what Vercel answers, if not a job

	mu     sync.Mutex
	seen   []string        // requests
	bodies []string        // requests for reviews
	keys   []string        // their idempotency keys
	issued []string        // tokens
	unused map[string]bool // tokens
	polled int
}

var contract = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

func newWorld(t *testing.T) *world {
	t.Helper()
	router, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, router: router, unused: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /supabase/auth/v1/token", w.supabase)
	mux.HandleFunc("GET /oidc/token", w.oidc)
	mux.HandleFunc("GET /storage/plan.json", w.storage)
	mux.HandleFunc("POST /hook/"+hookSecret, w.vercel)
	mux.HandleFunc("/api/", w.gateway)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		t.Errorf("unexpected request: %s %s", r.Method, r.URL)
		rw.WriteHeader(http.StatusTeapot)
	})
	w.server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen = append(w.seen, r.Method+" "+r.URL.Path)
		mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(w.server.Close)
	w.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(w.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// token returns a new token, which the gateway takes once: each request brings its own.
func (w *world) token(issuer string) string {
	token := issuer + "." + rand.Text() + ".sig-_"
	w.issued = append(w.issued, token)
	w.unused[token] = true
	return token
}

func (w *world) supabase(rw http.ResponseWriter, r *http.Request) {
	var in map[string]string
	err := json.NewDecoder(r.Body).Decode(&in)
	if r.URL.RawQuery != "grant_type=password" || r.Header.Get("apikey") != anonKey || r.Header.Get("Content-Type") != "application/json" || err != nil || len(in) != 2 {
		w.t.Errorf("%s with apikey %q and %v (%v), want what Supabase takes", r.URL, r.Header.Get("apikey"), in, err)
	}
	if in["email"] != ciEmail || in["password"] != ciPassword {
		write(rw, http.StatusBadRequest, map[string]any{"code": 400, "error_code": "invalid_credentials", "msg": "Invalid login credentials"})
		return
	}
	write(rw, http.StatusOK, map[string]any{"access_token": w.token("supabase"), "token_type": "bearer", "expires_in": 3600, "refresh_token": "refresh-token"})
}

func (w *world) oidc(rw http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery != "api-version=2.0&audience="+cmp.Or(w.audience, "nofx") || r.Header.Get("Authorization") != "Bearer "+requestToken {
		w.t.Errorf("%s with %q, want a token for the gateway to be asked for", r.URL, r.Header.Get("Authorization"))
	}
	write(rw, http.StatusOK, map[string]any{"count": 1, "value": w.token("github")})
}

func (w *world) storage(rw http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery != "X-Amz-Signature="+signature+"&x=1" || r.Header.Get("Authorization") != "" {
		w.t.Errorf("%s with %q, want the signed URL and no token", r.URL, r.Header.Get("Authorization"))
	}
	write(rw, http.StatusOK, w.plan)
}

func (w *world) vercel(rw http.ResponseWriter, r *http.Request) {
	if body, err := io.ReadAll(r.Body); len(body) > 0 || err != nil || len(r.Header["Authorization"]) > 0 {
		w.t.Errorf("the hook got %q (%v) and a token %v, want neither", body, err, r.Header["Authorization"])
	}
	if w.hook != nil {
		w.hook(rw, r)
		return
	}
	write(rw, http.StatusCreated, map[string]any{"job": map[string]any{"id": "J0b-1_x", "state": "PENDING", "createdAt": 1}})
}

func (w *world) gateway(rw http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !w.unused[token] && token != apiKey {
		w.t.Errorf("%s %s has no token of its own", r.Method, r.URL)
	}
	delete(w.unused, token)
	if w.busy > 0 {
		w.busy--
		// The token was not looked at, so that it is as good as new.
		w.unused[token] = true
		problem(rw, r, http.StatusServiceUnavailable, api.Problem{Code: api.ProblemCodeUnavailable, Detail: "busy"})
		return
	}
	route, path, err := w.router.FindRoute(r)
	if err != nil {
		w.t.Errorf("%s %s: %v", r.Method, r.URL, err)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	input := &openapi3filter.RequestValidationInput{Request: r, PathParams: path, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true}}
	if err := openapi3filter.ValidateRequest(r.Context(), input); err != nil {
		w.t.Errorf("%s %s is not the contract's: %v", r.Method, r.URL, err)
	}
	rec := httptest.NewRecorder()
	rec.Header().Set("X-Trace-Id", traceID)
	switch route.Operation.OperationID {
	case "createReview":
		w.bodies, w.keys = append(w.bodies, string(body)), append(w.keys, r.Header.Get("Idempotency-Key"))
		w.create(rec, r)
	case "getReview":
		write(rec, http.StatusOK, api.ReviewAnswer{Review: w.reviews[min(w.polled, len(w.reviews)-1)]})
		w.polled++
	case "listReviewFindings":
		write(rec, http.StatusOK, api.FindingPage{Items: w.found})
	case "listReviewArtifacts":
		w.artifacts(rec, r)
	default:
		w.t.Errorf("unexpected request: %s %s", r.Method, r.URL)
	}
	if err := openapi3filter.ValidateResponse(r.Context(), (&openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: rec.Code, Header: rec.Header(),
		Options: &openapi3filter.Options{IncludeResponseStatus: true}}).SetBodyBytes(rec.Body.Bytes())); err != nil {
		w.t.Errorf("%s %s: the test's answer is not the contract's: %v", r.Method, r.URL, err)
	}
	for name, values := range rec.Header() {
		rw.Header()[name] = values
	}
	rw.WriteHeader(rec.Code)
	_, _ = rw.Write(rec.Body.Bytes())
}

func (w *world) create(rw http.ResponseWriter, r *http.Request) {
	if w.refusal != nil {
		problem(rw, r, w.refusal.Status, *w.refusal)
		return
	}
	status := http.StatusAccepted
	if w.existing {
		status = http.StatusOK
	}
	write(rw, status, api.CreatedReview{Review: review(api.ReviewStatusQueued, ""), Run: api.Run{
		ID: runID, Kind: api.RunKindPlan, Project: "default", Goal: "review", Status: api.RunStatusQueued, Version: 1, Labels: api.Labels{},
		PlanDigest: "sha256:" + strings.Repeat("0", 64), TraceID: traceID, RootRunID: runID, CreatedBy: subject, CreatedAt: time.Unix(1, 0).UTC(),
	}})
}

// artifacts answers with two pages, of which the second has the plan.
func (w *world) artifacts(rw http.ResponseWriter, r *http.Request) {
	item := func(stage string, at *string) api.ReviewArtifact {
		return api.ReviewArtifact{Stage: stage, Artifact: api.Artifact{ID: "art_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f", Name: stage, MediaType: "application/json",
			SizeBytes: 2, Sha256: strings.Repeat("0", 64), CreatedAt: time.Unix(1, 0).UTC(), URL: at}}
	}
	const next = "a/b+c="
	if r.URL.Query().Get("cursor") == "" {
		write(rw, http.StatusOK, api.ReviewArtifactPage{Items: []api.ReviewArtifact{item("answer", new(w.server.URL+"/storage/answer"))}, NextCursor: new(next)})
		return
	}
	if got := r.URL.Query().Get("cursor"); got != next {
		w.t.Errorf("cursor = %q, want %q", got, next)
	}
	page := api.ReviewArtifactPage{Items: []api.ReviewArtifact{}}
	if !w.noPlan {
		page.Items = append(page.Items, item("plan.json", new(w.server.URL+"/storage/plan.json?"+url.Values{"X-Amz-Signature": {signature}, "x": {"1"}}.Encode())))
	}
	write(rw, http.StatusOK, page)
}

const subject = "key:0198c0de7a2b7c3d8e4f5a6b7c8d9e0f"

// review returns a review in that status; without a verdict if it is "".
func review(status api.ReviewStatus, verdict api.ReviewVerdict) api.Review {
	v := api.Review{ID: reviewID, RunID: runID, StepID: "step_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f", Provider: api.ReviewProviderGithub, Status: status, Version: 1,
		Reasons: []api.ReviewReason{}, Warnings: []api.ReviewReason{}, Counts: map[string]int{}, TraceID: traceID, CreatedBy: subject, CreatedAt: time.Unix(1, 0).UTC()}
	if verdict != "" {
		v.Verdict = &verdict
		v.Counts = map[string]int{"posted": 2, "rejected": 1}
		v.Coverage = &api.ReviewCoverage{Reviewed: []string{"a.go", "b.go"}, Skipped: []api.ReviewSkip{{Path: "c.gen.go", Reason: "generated"}}}
	}
	return v
}

func write(rw http.ResponseWriter, status int, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(v)
}

func problem(rw http.ResponseWriter, r *http.Request, status int, p api.Problem) {
	p.Type, p.Title, p.Status, p.Instance, p.TraceID = "about:blank", http.StatusText(status), status, r.URL.Path, traceID
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(p)
}
