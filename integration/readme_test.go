package integration_test

import (
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite what is generated instead of comparing it")

// TestReadmeSettings keeps the README's configuration table what the processes
// say of themselves.
func TestReadmeSettings(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../README.md", "<!-- settings: kept current by integration/readme_test.go -->\n", "<!-- end of settings -->"
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks of the settings", path)
	}
	want := before + begin + settingsTable(t) + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(readme) != want {
		t.Errorf("the configuration table of the README is stale; run: go test ./integration -run %s -update", t.Name())
	}
}

// settingsTable returns one table of both processes' settings: what both have first.
func settingsTable(t *testing.T) string {
	gateway, worker := settingRows(t, programs.Gateway), settingRows(t, programs.Worker)
	var b strings.Builder
	b.WriteString("| setting | default | meaning | of |\n|---|---|---|---|\n")
	for _, row := range gateway {
		if slices.Contains(worker, row) {
			b.WriteString(row + " both |\n")
		}
	}
	for _, p := range []struct {
		name         string
		rows, others []string
	}{{"gateway", gateway, worker}, {"worker", worker, gateway}} {
		for _, row := range p.rows {
			if !slices.Contains(p.others, row) {
				b.WriteString(row + " " + p.name + " |\n")
			}
		}
	}
	return b.String()
}

func settingRows(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "config").Output()
	if err != nil {
		t.Fatalf("%s config = %v", program, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
