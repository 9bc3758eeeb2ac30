package codehost_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/codehost"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/reviewer"
)

// TestChildEnvironment checks what a server that runs as a child gets, and that it ends.
func TestChildEnvironment(t *testing.T) {
	t.Setenv("NOFX_MODEL_KEY", "canary")
	f := codehosttest.NewForge(t)
	file := filepath.Join(t.TempDir(), "env")
	d := &codehosttest.Double{Forge: f, Profile: codehosttest.GitHub20}
	command, env := d.Stdio(file)
	g, err := codehost.OpenGitHub(t.Context(), codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token, Account: codehosttest.Me,
		API: f.API(), HTTP: egress.NewListedClient(nil), Server: codehost.Server{Command: command, Env: env},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	pid := 0
	for _, line := range strings.Split(string(text), "\n") {
		name, value, _ := strings.Cut(line, "=")
		names = append(names, name)
		if name == "PID" {
			pid, _ = strconv.Atoi(value)
		}
	}
	slices.Sort(names)
	want := []string{"GITHUB_HOST", "GITHUB_PERSONAL_ACCESS_TOKEN", "HOME", "NOFX_TEST_DOUBLE", "NOFX_TEST_DOUBLE_ENV", "NOFX_TEST_DOUBLE_PROFILE", "PID"}
	if !slices.Equal(names, want) {
		t.Errorf("the child has %v, want %v", names, want)
	}
	g.Close()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("child %d is alive after Close", pid)
	}
}

// TestBoundedStdout has a server that never ends its first line.
func TestBoundedStdout(t *testing.T) {
	t.Parallel()
	f := codehosttest.NewForge(t)
	_, err := codehost.OpenGitHub(t.Context(), codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token, API: f.API(), HTTP: egress.NewListedClient(nil),
		Server: codehost.Server{Command: []string{"/bin/sh", "-c", `head -c 40000000 /dev/zero | tr '\0' 1; cat`}},
	})
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("OpenGitHub() = %v, want Unavailable", err)
	}
}

// TestPinnedTools changes what a server announces.
func TestPinnedTools(t *testing.T) {
	t.Parallel()
	var changed atomic.Bool
	f := codehosttest.NewForge(t)
	d := &codehosttest.Double{Forge: f, Profile: codehosttest.GitHub20, Tools: func(tool *mcp.Tool) {
		if changed.Load() {
			tool.InputSchema.(map[string]any)["properties"].(map[string]any)["labels"] = &jsonschema.Schema{Type: "string"}
		}
	}}
	c := codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token, Account: codehosttest.Me, Pace: -1,
		API: f.API(), HTTP: egress.NewListedClient(nil), Server: codehost.Server{URL: d.URL() + "/mcp"},
	}
	pinned := map[string]map[string]string{}
	c.Pinned = func(_ context.Context, server, session string, tools map[string]string) (map[string]string, error) {
		if _, there := pinned[server+" "+session]; !there {
			pinned[server+" "+session] = tools
		}
		return pinned[server+" "+session], nil
	}
	g, err := codehost.OpenGitHub(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Begin(t.Context(), f.Head()); err != nil {
		t.Fatal(err)
	}
	if len(pinned) != 2 {
		t.Errorf("pinned are %v, want a list for reading and one for writing", pinned)
	}
	if again, err := codehost.OpenGitHub(t.Context(), c); err != nil {
		t.Errorf("OpenGitHub(pinned) = %v, want nil", err)
	} else {
		again.Close()
	}
	changed.Store(true)
	if _, err := codehost.OpenGitHub(t.Context(), c); fault.KindOf(err) != fault.Forbidden || !strings.Contains(err.Error(), "takes or returns something else") {
		t.Errorf("OpenGitHub(pinned, changed) = %v, want Forbidden", err)
	}
	_, err = reviewer.Post(t.Context(), g, plan(f), posting())
	if fault.KindOf(err) != fault.Forbidden {
		t.Errorf("Post() after a change = %v, want Forbidden", err)
	}
	if _, reviews, _ := f.State(); len(reviews) != 0 { // the draft was ours, and discarded
		t.Errorf("forge has reviews %v, want none", reviews)
	}
}

// TestUnknownServer has a server without a tool that is needed.
func TestUnknownServer(t *testing.T) {
	t.Parallel()
	f := codehosttest.NewForge(t)
	d := &codehosttest.Double{Forge: f, Profile: codehosttest.GitHub20, Tools: func(tool *mcp.Tool) {
		if tool.Name == "pull_request_read" {
			tool.Name = "get_pull_request"
		}
	}}
	_, err := codehost.OpenGitHub(t.Context(), codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token,
		API: f.API(), HTTP: egress.NewListedClient(nil), Server: codehost.Server{URL: d.URL() + "/mcp"},
	})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "github-mcp-server 2.0.2") {
		t.Errorf("OpenGitHub() = %v, want Invalid that names the server", err)
	}
}

// TestRemoteServerRefuses has a proxy before a remote server that answers in its stead.
func TestRemoteServerRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		header http.Header
		kind   fault.Kind
		wait   time.Duration
	}{
		{http.StatusTooManyRequests, http.Header{"Retry-After": {"17"}}, fault.RateLimited, 17 * time.Second},
		{http.StatusForbidden, http.Header{"Retry-After": {"3"}}, fault.RateLimited, 3 * time.Second},
		{http.StatusForbidden, nil, fault.Forbidden, 0},
		{http.StatusUnauthorized, nil, fault.Unauthenticated, 0},
		{http.StatusBadGateway, nil, fault.Unavailable, 0},
	} {
		var refuses atomic.Bool
		f := codehosttest.NewForge(t)
		d := &codehosttest.Double{Forge: f, Profile: codehosttest.GitHub110}
		to, err := url.Parse(d.URL())
		if err != nil {
			t.Fatal(err)
		}
		behind := httputil.NewSingleHostReverseProxy(to)
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !refuses.Load() {
				behind.ServeHTTP(w, r)
				return
			}
			maps.Copy(w.Header(), tt.header)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, r.Header.Get("Authorization")) // shown to whoever may see it
		}))
		t.Cleanup(proxy.Close)
		g, err := codehost.OpenGitHub(t.Context(), codehost.Config{
			Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token,
			API: f.API(), HTTP: egress.NewListedClient(nil), Server: codehost.Server{URL: proxy.URL + "/mcp"},
		})
		if err != nil {
			t.Fatal(err)
		}
		refuses.Store(true)
		_, err = g.Change(t.Context())
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Kind != tt.kind || e.RetryAfter != tt.wait || strings.Contains(err.Error(), codehosttest.Token) {
			t.Errorf("Change() after status %d = %v, want %s in %s, without the token", tt.status, err, tt.kind, tt.wait)
		}
		refuses.Store(false)
		if _, err := g.Change(t.Context()); err != nil {
			t.Errorf("Change() after status %d was over = %v, want nil", tt.status, err)
		}
		g.Close()
	}
}
