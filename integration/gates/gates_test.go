// Package gates_test holds the repository's gates to what they promise.
package gates_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakes returns a folder with tools that end with a code, whatever they are asked.
func fakes(t *testing.T, codes map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, code := range codes {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+code+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// gate returns how `gate NAME…` ends when its tools are those of a folder.
func gate(t *testing.T, tools string, name ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{"./gate"}, name...)...)
	cmd.Env = []string{"GOBIN=" + tools, "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// A tool that found something fails its gate; one that could not do its work, or
// is not there, is neither a pass nor a failure.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("accepted")
	if err != nil {
		t.Fatal(err)
	}
	accepted, why, _ := strings.Cut(string(list), " ")
	if !strings.HasPrefix(accepted, "GO-") || why == "" {
		t.Fatalf("accepted begins with %q, want a report and why it is none of ours", list)
	}
	for _, c := range []struct {
		gate, tool string
		code       string
		want       int
	}{
		{"lint", "golangci-lint", "exit 0", 0},
		{"lint", "golangci-lint", "exit 1", 1},
		{"lint", "golangci-lint", "exit 3", 126},
		{"sast", "gosec", "exit 1", 1},
		{"sast", "gosec", "exit 2", 126},
		{"secrets", "gitleaks", "exit 0", 0},
		{"secrets", "gitleaks", "exit 9", 1},
		{"secrets", "gitleaks", "exit 1", 126},
		{"audit", "govulncheck", "exit 0", 0},
		{"audit", "govulncheck", "exit 3", 1},
		{"audit", "govulncheck", `[ "$2" = gateway ] || exit 0; exit 3`, 1}, // one module of all
		{"audit", "govulncheck", `echo "Vulnerability #1: ` + accepted + `"; exit 3`, 0},
		{"audit", "govulncheck", `echo "Vulnerability #1: ` + accepted + `"; echo "Vulnerability #2: ` + accepted + `9"; exit 3`, 1},
		{"audit", "govulncheck", `echo "Vulnerability #1: ` + accepted + `"; exit 1`, 126},
		{"audit", "govulncheck", "exit 1", 126},
		{"typecheck", "go", "exit 1", 1},
		{"unit", "go", "exit 1", 1},
		{"unit", "go", "exit 0", 0},
		{"nothing", "go", "exit 0", 126},
	} {
		if got, out := gate(t, fakes(t, map[string]string{c.tool: c.code}), c.gate); got != c.want {
			t.Errorf("gate %s whose %s does `%s` = exit %d, want %d: %s", c.gate, c.tool, c.code, got, c.want, out)
		}
	}
	for _, name := range []string{"lint", "sast", "secrets", "audit"} {
		if got, out := gate(t, t.TempDir(), name); got != 127 {
			t.Errorf("gate %s without its tool = exit %d, want 127: %s", name, got, out)
		}
	}
}

// Tools that cannot be had do not keep the others away.
func TestTools(t *testing.T) {
	t.Parallel()
	dir := fakes(t, map[string]string{"go": `echo "$2" >>"$0.log"; exit 1`})
	if got, out := gate(t, dir, "tools"); got != 0 {
		t.Errorf("gate tools when none can be had = exit %d, want 0: %s", got, out)
	}
	asked, err := os.ReadFile(filepath.Join(dir, "go.log"))
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := os.ReadFile("tools")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(pinned), string(asked)); diff != "" {
		t.Errorf("what gate tools installs (-pinned +asked for):\n%s", diff)
	}
	for name, want := range map[string]string{"lint": "/golangci-lint@", "sast": "/gosec@", "secrets": "/gitleaks/", "audit": "/govulncheck@"} {
		dir := fakes(t, map[string]string{"go": `echo "$2" >>"$0.log"`})
		got, out := gate(t, dir, "tools", name)
		asked, err := os.ReadFile(filepath.Join(dir, "go.log"))
		if got != 0 || err != nil || strings.Count(string(asked), "\n") != 1 || !strings.Contains(string(asked), want) {
			t.Errorf("gate tools %s = exit %d, %s, asked for %q (%v), want that with %s alone", name, got, out, asked, err, want)
		}
	}
	if got, out := gate(t, dir, "tools", "unit"); got != 126 {
		t.Errorf("gate tools unit = exit %d, %s, want 126: it has none", got, out)
	}
}

// The plan runs every gate by the script, side by side: one that fails ends
// those that have not begun.
func TestPlan(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("plan.json")
	if err != nil {
		t.Fatal(err)
	}
	var plan struct {
		Steps []struct {
			Name, Tool string
			DependsOn  []string `json:"depends_on"`
			Inputs     struct{ Command, Script, URL string }
		}
	}
	if err := json.Unmarshal(raw, &plan); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range plan.Steps[2:] {
		names = append(names, s.Name)
		if s.Tool != "gate:"+s.Name || s.Inputs.Command != "integration/gates/gate "+s.Name || !slices.Equal(s.DependsOn, []string{"tools"}) {
			t.Errorf("step %s is %+v, want the gate of its name, after the tools alone", s.Name, s)
		}
	}
	if want := []string{"typecheck", "lint", "unit", "sast", "secrets", "audit"}; !slices.Equal(names, want) {
		t.Errorf("gates of the plan = %q, want %q", names, want)
	}
	if url := plan.Steps[0].Inputs.URL; url != "." {
		t.Errorf("the checkout is of %q, want the repository that one is in", url)
	}
}
