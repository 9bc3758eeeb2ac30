package run_test

import (
	"testing"

	"nofx.dev/shared/run"
)

func TestToolOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"bash": "bash", "git:checkout": "git:checkout", "gate:unit": "gate:", "gate:a.b-c_d": "gate:", "manual:ship": "manual:", "workspace:unpack": "workspace:unpack",
		"": "", "bas": "", "bash:x": "", "gate:": "", "gate:A": "", "gate:llm_review": "gate:llm_review", "manual:": "", "gate": "", "sys:diff": "sys:diff", "sys:other": "",
	} {
		if got, ok := run.ToolOf(name); got.Name != want || ok != (want != "") {
			t.Errorf("ToolOf(%q) = %q, %v, want %q", name, got.Name, ok, want)
		}
	}
	if run.KnownTool("workspace:unpack") || !run.KnownTool("bash") {
		t.Error("KnownTool() is not that of tools which plans may name")
	}
}

// Rows of the tool table make sense: what waits has no files and no code, and a queue
// for models runs no code of a plan.
func TestToolTable(t *testing.T) {
	t.Parallel()
	for _, row := range run.Tools() {
		if row.Waits && (row.Files != run.NoFiles || row.Code) {
			t.Errorf("%s waits, and uses files or runs code", row.Name)
		}
		if row.Queue == "" || row.Queue == run.ReviewQueue && row.Code {
			t.Errorf("%s is on queue %q and runs code: %v", row.Name, row.Queue, row.Code)
		}
	}
}
