package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/shared/servertest/filelock"
)

func TestParse(t *testing.T) {
	t.Parallel()
	standard, err := stateDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, tt := range []struct {
		args []string
		want options
		err  string
	}{
		{[]string{"up"}, options{workers: 2, data: standard, login: true}, ""},
		{[]string{"up", "--workers", "5", "--demo", "--env-file", dir + "/env", "--data", dir},
			options{workers: 5, demo: true, envFile: dir + "/env", data: dir}, ""},
		{[]string{"up", "--data", standard}, options{workers: 2, data: standard, login: true}, ""},
		{[]string{"up", "--workers", "65"}, options{}, "want 0 to 64"},
		{[]string{"up", "down"}, options{}, `unexpected argument "down"`},
		{[]string{"down"}, options{}, `unknown command "down"`},
		{[]string{"run", "--workers", "1", "plan.json"}, options{plan: "plan.json", workers: 1, data: standard, login: true}, ""},
		{[]string{"run"}, options{}, "name the plan"},
		{[]string{"run", "--data", dir, "plan.json"}, options{}, "its stack is there for the plan alone"},
		{[]string{"run", "plan.json", "other.json"}, options{}, `unexpected argument "other.json"`},
		{nil, options{}, flag.ErrHelp.Error()},
		{[]string{"--help"}, options{}, flag.ErrHelp.Error()},
	} {
		got, err := parse(tt.args, io.Discard)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("parse(%q) = %v, want %q", tt.args, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("parse(%q) = %+v, %v, want %+v", tt.args, got, err, tt.want)
		}
	}
}

func TestSecondStackOnOneFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := filelock.Try(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	err = run(context.Background(), []string{"up", "--data", dir}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "runs on "+dir+" already") {
		t.Errorf("run(up on a folder in use) = %v, want an error that says so", err)
	}
}

func TestKeepLogin(t *testing.T) { // not parallel: it moves the configuration folder
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("HOME", dir)
	config, err := os.UserConfigDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(config, "nofx", "config.json")
	const mine = `{"url": "http://127.0.0.1:2", "api_key": "nofx_dev_new"}`
	for _, tt := range []struct {
		name, before string
		kept         bool
	}{
		{"none", "", false},
		{"of an earlier stack", `{"url": "http://127.0.0.1:1", "api_key": "nofx_dev_old"}`, false},
		{"of localhost", `{"url": "http://localhost:1", "api_key": "nofx_dev_old"}`, false},
		{"of a deployment", `{"url": "https://nofx.example", "api_key": "nofx_live_k"}`, true},
		{"of a deployment's tunnel", `{"url": "http://127.0.0.1:1", "api_key": "nofx_live_k"}`, true},
		{"of a shared stack", `{"url": "http://10.0.0.1:1", "api_key": "nofx_dev_k"}`, true},
		{"not readable", `{`, true},
	} {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		if tt.before != "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := keepLogin("http://127.0.0.1:2", "nofx_dev_new")
		wantPath, want := path, mine
		if tt.kept {
			wantPath, want = "", tt.before
		}
		if err != nil || got != wantPath {
			t.Errorf("%s: keepLogin() = %q, %v, want %q", tt.name, got, err, wantPath)
		}
		after, err := os.ReadFile(path)
		if err != nil || !same(string(after), want) {
			t.Errorf("%s: login is %s, %v, want %s", tt.name, after, err, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode = %v, %v, want 0600", tt.name, info, err)
		}
	}
}

// same compares JSON where it is JSON.
func same(a, b string) bool {
	var x, y bytes.Buffer
	if json.Compact(&x, []byte(a)) != nil || json.Compact(&y, []byte(b)) != nil {
		return a == b
	}
	return x.String() == y.String()
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		`{"time":"2026-01-01T00:00:00Z","level":"WARN","msg":"lease lost","step":"step_1","n":2}`: "lease lost n=2 step=step_1",
		`{"level":"ERROR","msg":"x","err":"two words"}`:                                           `x err="two words"`,
		"panic: boom\x1b[31m": "panic: boom·[31m",
	} {
		if who, got := plain("worker-1", line); got != want || who != "worker-1" {
			t.Errorf("plain(%s) = %q of %s, want %q of worker-1", line, got, who, want)
		}
	}
}

func TestLineOfARun(t *testing.T) {
	t.Parallel()
	const line = `{"level":"WARN","msg":"step attempt","error":"storage is away","trace_id":"t","span_id":"s","tenant_id":"ten_1","run_id":"run_1","step_id":"step_1","attempt":2}`
	if who, got := plain("worker-1", line); who != "run_1" || got != `step attempt attempt=2 error="storage is away" step_id=step_1` {
		t.Errorf("plain(%s) = %q of %s, want what it says, of run_1", line, got, who)
	}
}

func TestPlanIsPlainJSON(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(plan("/a folder/repo", map[string]string{"GOCACHE": "/c"}))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"file:///a%20folder/repo"`) {
		t.Errorf("plan = %s, want the repository as a file URL", raw)
	}
	if strings.Contains(string(raw), "${{") {
		t.Errorf("plan = %s, want no template inside a script", raw)
	}
}

func TestGoEnvironment(t *testing.T) {
	t.Parallel()
	env, err := goEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"GOMODCACHE", "GOCACHE", "GOPROXY"} {
		if env[name] == "" {
			t.Errorf("goEnvironment()[%s] is empty, want the user's", name)
		}
	}
	if !strings.Contains(env["GOFLAGS"], "-buildvcs=") {
		t.Errorf("GOFLAGS = %q, want no version stamp", env["GOFLAGS"])
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	term := newTerminal(&out)
	term.progress("building")
	term.warn("worker-1", `{"level":"WARN","msg":"m"}`)
	if got := out.String(); strings.Contains(got, "\x1b") || !strings.HasSuffix(got, "building\nworker-1: m\n") {
		t.Errorf("a file shows %q, want plain lines", got)
	}
}
