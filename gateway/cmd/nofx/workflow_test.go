package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

// github gives OIDC tokens to jobs as GitHub does: for the secret of the job, each for the
// audience that is asked for. As a gateway in front of another it takes each of them once.
type github struct {
	secret  string
	trouble []int // its first answers, if they are none with a token
	gateway http.Handler

	mu        sync.Mutex
	audiences []string
	unused    map[string]bool
	given     int
}

func (g *github) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if r.URL.Path != "/token" {
		if g.unused[bearer] {
			r.Header.Set("Authorization", "Bearer "+testKey)
		}
		delete(g.unused, bearer)
		g.gateway.ServeHTTP(w, r)
		return
	}
	query := r.URL.Query()
	if r.Method != http.MethodGet || bearer != g.secret || query.Get("api-version") != "2.0" || len(query["audience"]) != 1 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if len(g.trouble) > 0 {
		status := g.trouble[0]
		g.trouble = g.trouble[1:]
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		fmt.Fprint(w, `{"value": "not.a token"}`)
		return
	}
	g.audiences = append(g.audiences, query.Get("audience"))
	g.given++
	token := fmt.Sprintf("head.token-%d.signature_", g.given)
	g.unused[token] = true
	_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": token})
}

// TestWorkflowToken checks that each request of a command in a job has a token of its own,
// and what a job is told that gets none.
func TestWorkflowToken(t *testing.T) {
	t.Parallel()
	const secret = "secret-of-the-job"
	passed := failedReview()
	passed.Verdict = ptr(api.ReviewVerdictPassed)
	for name, tt := range map[string]struct {
		secret, audience string
		trouble          []int
		want             int
		says             string
		audiences        []string
	}{
		"each request":                {secret: secret, want: exitOK, audiences: []string{"nofx", "nofx", "nofx"}},
		"an audience of a tenant":     {secret: secret, audience: "nofx/acme", want: exitOK, audiences: []string{"nofx/acme", "nofx/acme", "nofx/acme"}},
		"GitHub is away for a moment": {secret: secret, trouble: []int{503, 502}, want: exitOK, audiences: []string{"nofx", "nofx", "nofx"}},
		"GitHub is away":              {secret: secret, trouble: []int{503, 503, 503}, want: exitFailed, says: "get an OIDC token: GitHub answered 503"},
		"another secret":              {secret: "other", want: exitFailed, says: "get an OIDC token: GitHub answered 401"},
		"a redirect":                  {secret: secret, trouble: []int{302}, want: exitFailed, says: "get an OIDC token: GitHub answered 302"},
		"an answer without a token":   {secret: secret, trouble: []int{200}, want: exitFailed, says: "get an OIDC token: GitHub's answer has none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			looks := 0
			contract, _ := newGateway(t, map[string]http.HandlerFunc{
				"getReview": func(w http.ResponseWriter, r *http.Request) {
					if looks++; looks == 1 {
						answer(http.StatusOK, api.ReviewAnswer{Review: queuedReview()})(w, r)
						return
					}
					answer(http.StatusOK, api.ReviewAnswer{Review: passed})(w, r)
				},
				"listReviewFindings": answer(http.StatusOK, api.FindingPage{Items: []api.Finding{openFinding()}}),
			})
			g := &github{secret: secret, trouble: tt.trouble, gateway: contract, unused: map[string]bool{}}
			server := httptest.NewServer(g)
			t.Cleanup(server.Close)
			c := newCLI(t, "")
			c.setenv("NOFX_URL", server.URL, "NOFX_OIDC_AUDIENCE", tt.audience,
				"ACTIONS_ID_TOKEN_REQUEST_URL", server.URL+"/token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", tt.secret)
			if got := execute(t.Context(), c.app, []string{"review", "wait", id("rev", 1)}); got != tt.want || !strings.Contains(c.errOut.String(), tt.says) {
				t.Errorf("review wait = exit %d, %q, want %d, %q", got, &c.errOut, tt.want, tt.says)
			}
			if diff := cmp.Diff(tt.audiences, g.audiences); diff != "" {
				t.Errorf("audiences of the tokens (-want +got):\n%s", diff)
			}
			for _, hidden := range []string{secret, "head.token"} {
				if all := c.out.String() + c.errOut.String(); strings.Contains(all, hidden) {
					t.Errorf("review wait printed %q: %s", hidden, all)
				}
			}
		})
	}

	t.Run("nobody is there", func(t *testing.T) {
		t.Parallel()
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		c := newCLI(t, "")
		c.setenv("NOFX_URL", "http://gateway.example", "ACTIONS_ID_TOKEN_REQUEST_URL", server.URL+"/token/of-the-job", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", secret)
		at, _ := url.Parse(server.URL)
		want := "get an OIDC token: no response from GitHub at http://" + at.Host + ": "
		if got := execute(t.Context(), c.app, []string{"whoami"}); got != exitFailed || !strings.Contains(c.errOut.String(), want) || strings.Contains(c.errOut.String(), "of-the-job") {
			t.Errorf("whoami = exit %d, %q, want %d, %q", got, &c.errOut, exitFailed, want)
		}
	})
}
