package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

// TestRepeats checks which requests go out again, and that they stay the same.
func TestRepeats(t *testing.T) {
	t.Parallel()
	unavailable := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "2")
		problem(w, r, http.StatusServiceUnavailable, api.Problem{Code: api.ProblemCodeUnavailable, Detail: "not now"})
	}
	for name, tt := range map[string]struct {
		args []string
		op   string
		want int
	}{
		"read":                        {[]string{"run", "show", id("run", 1)}, "getRun", maxTries},
		"write with Idempotency-Key":  {[]string{"run", "create", "-f", "-"}, "createRun", maxTries},
		"change of a run":             {[]string{"run", "cancel", id("run", 1)}, "cancelRun", maxTries},
		"write without":               {[]string{"queue", "pause", "shell"}, "pauseQueue", 1},
		"a key is never made twice":   {[]string{"key", "create", "ci", "--role", "viewer"}, "createAPIKey", 1},
		"a decision is never retried": {[]string{"gate", "approve", id("gate", 1)}, "approveGate", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bodies, keys []string
			_, server := newGateway(t, map[string]http.HandlerFunc{tt.op: func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				bodies, keys = append(bodies, string(body)), append(keys, r.Header.Get("Idempotency-Key"))
				unavailable(w, r)
			}})
			c := newCLI(t, server.URL)
			c.in = strings.NewReader(plan)
			if got := execute(t.Context(), c.app, tt.args); got != exitFailed {
				t.Errorf("%v = exit %d, want %d", tt.args, got, exitFailed)
			}
			if len(bodies) != tt.want {
				t.Errorf("%v was sent %d times, want %d", tt.args, len(bodies), tt.want)
			}
			if got := len(slices.Compact(bodies)) + len(slices.Compact(keys)); got != 2 {
				t.Errorf("%v was not repeated as it was: %q %q", tt.args, bodies, keys)
			}
			for _, d := range c.pauses {
				if d.Seconds() < 2 || d.Seconds() > 4 {
					t.Errorf("paused %v, want Retry-After (2s) and a little", d)
				}
			}
		})
	}
}

// A gateway that waited long before it failed, as for storage, is not asked again.
func TestSlowFailures(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, map[string]http.HandlerFunc{"getStepLogs": func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusServiceUnavailable, api.Problem{Code: api.ProblemCodeUnavailable, Detail: "object storage is not available"})
	}})
	c := newCLI(t, server.URL)
	c.stall = 0 // every answer is slow
	if got := execute(t.Context(), c.app, []string{"logs", id("step", 1)}); got != exitFailed || len(g.requests()) != 1 {
		t.Errorf("logs = exit %d after %v, want %d after one request", got, g.requests(), exitFailed)
	}
	if want := "object storage is not available"; !strings.Contains(c.errOut.String(), want) {
		t.Errorf("logs says %q, want %q in it", &c.errOut, want)
	}
}

// TestKeyStaysWithTheGateway follows a redirect to another server on the same
// host: it must not see the key.
func TestKeyStaysWithTheGateway(t *testing.T) {
	t.Parallel()
	var shown []string
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, "large")
	}))
	t.Cleanup(store.Close)
	_, server := newGateway(t, map[string]http.HandlerFunc{"getCheckpointFile": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Trace-Id", testTrace)
		w.Header().Set("Location", store.URL+"/object?signed")
		w.WriteHeader(http.StatusSeeOther)
	}})
	c := newCLI(t, server.URL)
	if got := execute(t.Context(), c.app, []string{"checkpoint", "cat", id("run", 1), id("ckpt", 1), "big.bin"}); got != exitOK {
		t.Errorf("checkpoint cat = exit %d, want 0: %s", got, &c.errOut)
	}
	if got, want := c.out.String(), "large"; got != want {
		t.Errorf("checkpoint cat printed %q, want %q", got, want)
	}
	if !slices.Equal(shown, []string{""}) {
		t.Errorf("the object store saw Authorization %q, want none", shown)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, script())
	c := newCLI(t, server.URL)
	c.setenv()
	c.in = strings.NewReader("  " + testKey + "\n")
	if got := execute(t.Context(), c.app, []string{"login", "--url", server.URL + "/"}); got != exitOK {
		t.Fatalf("login = exit %d, want 0: %s", got, &c.errOut)
	}
	path := filepath.Join(c.dir, "nofx", "config.json")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the login = %#o, want 0600", got)
	}
	c.url = ""
	if got := execute(t.Context(), c.app, []string{"whoami"}); got != exitOK {
		t.Errorf("whoami after login = exit %d, want 0: %s", got, &c.errOut)
	}

	t.Run("its key goes to its own address only", func(t *testing.T) {
		c.errOut.Reset()
		seen := len(g.requests())
		if got := execute(t.Context(), c.app, []string{"whoami", "--url", "http://127.0.0.1:1"}); got != exitUsage {
			t.Errorf("whoami elsewhere = exit %d, want %d", got, exitUsage)
		}
		if got, want := c.errOut.String(), "no key for http://127.0.0.1:1"; !strings.Contains(got, want) || len(g.requests()) != seen {
			t.Errorf("whoami elsewhere says %q, want %q in it", got, want)
		}
		c.url = ""
	})
	t.Run("others may not read it", func(t *testing.T) {
		c.errOut.Reset()
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := execute(t.Context(), c.app, []string{"whoami"}); got != exitUsage || !strings.Contains(c.errOut.String(), "chmod 600") {
			t.Errorf("whoami with an open login = exit %d, %q, want %d and how to close it", got, &c.errOut, exitUsage)
		}
	})
}

func TestLoginRefused(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, nil)
	c := newCLI(t, server.URL)
	c.prompt = func(string) (string, error) { return "nofx_test_wrong", nil }
	if got := execute(t.Context(), c.app, []string{"login"}); got != exitRefused {
		t.Errorf("login with a bad key = exit %d, want %d", got, exitRefused)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "nofx")); err == nil {
		t.Error("login with a bad key kept it")
	}
}

// TestAddress checks the order in which address and key are looked for.
func TestAddress(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		flag             string
		env              []string
		wantURL, wantKey string
	}{
		"login":            {"", nil, "http://login", "from-login"},
		"flag wins":        {"http://flag", []string{"NOFX_URL", "http://env", "NOFX_API_KEY", "from-env"}, "http://flag", "from-env"},
		"environment":      {"", []string{"NOFX_URL", "http://env/", "NOFX_API_KEY_FILE", file}, "http://env", "from-file"},
		"key wins of file": {"", []string{"NOFX_API_KEY", "from-env", "NOFX_API_KEY_FILE", file}, "http://login", "from-env"},
		"same as login":    {"http://login/", nil, "http://login", "from-login"},
		"key in a job":     {"", []string{"NOFX_API_KEY", "from-env", "ACTIONS_ID_TOKEN_REQUEST_URL", "http://github", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"}, "http://login", "from-env"},
		"login in a job":   {"", []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "http://github", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"}, "http://login", "from-login"},
		"half a job":       {"http://flag", []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "http://github"}, "", ""},
		"no URL in a job":  {"http://flag", []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "github", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"}, "", ""},
		"other, no key":    {"http://flag", nil, "", ""},
		"no address":       {"gateway:8080", nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCLI(t, "")
			if _, err := c.writeConfig(config{URL: "http://login", APIKey: "from-login"}); err != nil {
				t.Fatal(err)
			}
			c.setenv(tt.env...)
			c.url = tt.flag
			url, source, err := c.gateway()
			key := ""
			if source != nil {
				key, _ = source(t.Context())
			}
			if url != tt.wantURL || key != tt.wantKey || (err == nil) != (tt.wantURL != "") {
				t.Errorf("gateway() = %q, %q, %v, want %q, %q", url, key, err, tt.wantURL, tt.wantKey)
			}
		})
	}
}
