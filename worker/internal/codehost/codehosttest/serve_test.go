package codehosttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

func TestMain(m *testing.M) {
	ServeDouble()
	os.Exit(m.Run())
}

// served is what a test of the whole system is told about the forges of this process.
type served struct {
	GitHubAPI        string `json:"github_api"`
	GitHubCommand    string `json:"github_command"` // of an MCP server
	BitbucketAPI     string `json:"bitbucket_api"`
	BitbucketCommand string `json:"bitbucket_command"`
	Token            string `json:"token"`
	Account          string `json:"account"` // of Bitbucket
	Repository       string `json:"repository"`
	Number           int    `json:"number"`
	Head             string `json:"head"`
	Next             string `json:"next"`
}

// TestServe serves a forge to tests of the whole system, which cannot import this package,
// until its stdin is closed. What the forge takes for a fault fails it. Without
// NOFX_TEST_FORGE nobody listens: then it checks what they would be told.
func TestServe(t *testing.T) {
	if os.Getenv("NOFX_TEST_FORGE") != "" {
		serve(t, os.Stdin, os.Stdout)
		return
	}
	var out bytes.Buffer
	serve(t, strings.NewReader(""), &out)
	var told map[string]any
	if err := json.Unmarshal(out.Bytes(), &told); err != nil {
		t.Fatalf("serve() tells %q: %v, want one JSON document", &out, err)
	}
	for _, name := range []string{"github_api", "github_command", "bitbucket_api", "bitbucket_command", "token", "account", "repository", "number", "head", "next", "control"} {
		if v := told[name]; v == nil || v == "" {
			t.Errorf("serve() tells no %s: %s", name, &out)
		}
	}
}

// serve serves a forge until in ends. It writes where the forge is to out, in one line; below
// /test/ of control it is told what to do.
func serve(t *testing.T, in io.Reader, out io.Writer) {
	var now atomic.Pointer[http.Handler]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*now.Load()).ServeHTTP(w, r) }))
	var f *Forge
	renew := func() {
		if f != nil {
			f.end()
		}
		f = NewForge(t)
		h := f.controlled(s.URL)
		now.Store(&h)
	}
	renew()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /test/new", func(http.ResponseWriter, *http.Request) { renew() })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { (*now.Load()).ServeHTTP(w, r) })
	control := httptest.NewServer(mux)

	is := served{
		GitHubAPI: s.URL + "/api/v3", GitHubCommand: script(t, "github", s.URL+"/github", GitHub20),
		BitbucketAPI: s.URL + "/2.0", BitbucketCommand: script(t, "bitbucket", s.URL+"/bitbucket", Bitbucket506),
		Token: Token, Account: UUID(Me), Repository: Repository, Number: Number, Head: f.Head(), Next: f.Next(),
	}
	if bin, err := realGitHub(); err == nil {
		is.GitHubCommand = bin
	} else {
		fmt.Fprintln(os.Stderr, "NOT RUN with the real github-mcp-server, the double stands alone:", err)
	}
	if err := json.NewEncoder(out).Encode(struct {
		served
		Control string `json:"control"`
	}{is, control.URL + "/test"}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, in) // until the test that started this has ended
	f.end()
	for _, s := range []*httptest.Server{s, control} {
		s.CloseClientConnections()
		s.Close()
	}
}

// script makes a command of a double.
func script(t *testing.T, name, at string, p Profile) string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, fmt.Appendf(nil, "#!/bin/sh\n%s='%s' %s='%s' exec '%s' \"$@\"\n", doubleAt, at, doubleProfile, p, self), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// controlled returns the forge as GitHub and as Bitbucket, with doubles of their servers.
func (f *Forge) controlled(url string) http.Handler {
	b := NewBitbucket(f)
	mux := http.NewServeMux()
	mux.Handle("/api/", f.handler())
	mux.Handle("/2.0/", b.handler())
	mux.Handle("/github/", http.StripPrefix("/github", (&Double{Forge: f, Profile: GitHub20}).handler()))
	mux.Handle("/bitbucket/", http.StripPrefix("/bitbucket", b.Double(url+"/2.0").handler()))

	reached := make(chan string, 1)
	mux.HandleFunc("POST /test/stop", func(_ http.ResponseWriter, r *http.Request) {
		at, _ := strconv.Atoi(r.FormValue("at"))
		n := len(f.Ops())
		f.Fail(func(op string) *Refusal {
			if n++; n != at {
				return nil
			}
			reached <- op
			return &Refusal{Silent: true, Done: r.FormValue("done") == "true"}
		})
	})
	mux.HandleFunc("GET /test/stopped", func(w http.ResponseWriter, r *http.Request) {
		select {
		case op := <-reached:
			writeJSON(w, http.StatusOK, op)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /test/move", func(http.ResponseWriter, *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.MoveHead()
	})
	mux.HandleFunc("GET /test/state", func(w http.ResponseWriter, _ *http.Request) {
		threads, reviews, status := f.State()
		comments, _ := b.State()
		writeJSON(w, http.StatusOK, object{"threads": append(threads, comments...), "reviews": reviews, "status": status, "ops": f.Ops()})
	})
	return mux
}
