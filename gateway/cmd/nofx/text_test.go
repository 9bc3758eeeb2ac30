package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestTextIsUTF8 refuses bytes that JSON cannot hold, wherever they stand in a command line,
// before anything is asked of the gateway.
func TestTextIsUTF8(t *testing.T) {
	t.Parallel()
	run, ckpt := id("run", 1), id("ckpt", 1)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "cancel", run, "--reason", "caf\xe9"}, `error: --reason is not UTF-8: "caf\xe9"`},
		{[]string{"run", "cancel", run, "--reason=\xff"}, `error: --reason is not UTF-8: "\xff"`},
		{[]string{"checkpoint", "create", run, "--label", "\xed\xa0\x80"}, `error: --label is not UTF-8: "\xed\xa0\x80"`},
		{[]string{"checkpoint", "label", run, ckpt, "caf\xe9"}, `error: an argument is not UTF-8: "caf\xe9"`},
		{[]string{"run", "list", "--label", "a:b", "--label", "a:\xe9"}, `error: --label is not UTF-8: "a:\xe9"`},
		{[]string{"run", "list", "-q", "\xe9"}, `error: --search is not UTF-8: "\xe9"`},
		{[]string{"run", "list", "--status", "failed,\xe9"}, `error: --status is not UTF-8: "\xe9"`},
		{[]string{"checkpoint", "bisect", run, "--command", "true", "--env", "A=\xe9"}, `error: --env is not UTF-8: "A=\xe9"`},
		{[]string{"branch", "create", run, ckpt, "--set", "/vars/x=\"\xe9\""}, `error: --set is not UTF-8: "/vars/x=\"\xe9\""`},
		{[]string{"checkpoint", "cat", run, ckpt, "caf\xe9"}, `error: an argument is not UTF-8: "caf\xe9"`},
		{[]string{"merge", "resolve", id("mrg", 1), "a\xe9", "--take", "ours"}, `error: an argument is not UTF-8: "a\xe9"`},
		{[]string{"whoami", "--url", "http://h\xe9"}, `error: --url is not UTF-8: "http://h\xe9"`},
	} {
		g, server := newGateway(t, script())
		c := newCLI(t, server.URL)
		got := execute(t.Context(), c.app, tt.args)
		first, _, _ := strings.Cut(c.errOut.String(), "\n")
		if got != exitUsage || first != tt.want || len(g.requests()) != 0 {
			t.Errorf("nofx %q = exit %d, %q after %d requests, want %d, %q after none", tt.args, got, first, len(g.requests()), exitUsage, tt.want)
		}
	}
}

// TestFilesOfAnyName reads local files whose names are not UTF-8; only an artifact cannot
// have such a name.
func TestFilesOfAnyName(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "darwin" {
		t.Skip("file systems of macOS refuse such names")
	}
	_, server := newGateway(t, script())
	for _, tt := range []struct {
		args string
		want int
		says string
	}{
		{"run create --preview -f FILE", exitOK, ""},
		{"merge resolve " + id("mrg", 1) + " a.go --file FILE", exitOK, ""},
		{"artifact upload FILE", exitUsage, `error: "caf\xe9.json" is not UTF-8, so that it cannot name an artifact`},
	} {
		c := newCLI(t, server.URL)
		file := filepath.Join(c.dir, "caf\xe9.json")
		if err := os.WriteFile(file, []byte(plan), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := execute(t.Context(), c.app, strings.Fields(strings.ReplaceAll(tt.args, "FILE", file))); got != tt.want || !strings.Contains(c.errOut.String(), tt.says) {
			t.Errorf("%s = exit %d, %q, want %d, %q", tt.args, got, &c.errOut, tt.want, tt.says)
		}
	}
}
