package tool

import (
	"strings"
	"testing"
	"unicode/utf8"

	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

func TestGate(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		command string
		verdict run.State
		code    int
		missing string
		output  string // part of the evidence
	}{
		"passes":              {"echo fine", run.Passed, 0, "", "fine\n"},
		"fails":               {"echo 2 tests failed; exit 1", run.Failed, 1, "", "2 tests failed\n"},
		"fails early":         {"false; echo late", run.Failed, 1, "", ""},
		"fails in a pipe":     {"(echo bad; exit 2) | cat", run.Failed, 2, "", "bad\n"},
		"missing":             {"no-such-linter --all", run.Error, 127, "no-such-linter", "command not found"},
		"missing in a pipe":   {"no-such-linter | cat", run.Error, 127, "no-such-linter", "command not found"},
		"missing file":        {"./no/such/tool", run.Error, 127, "./no/such/tool", "No such file"},
		"not executable":      {"printf x > tool; ./tool", run.Error, 126, "./tool", "Permission denied"},
		"missing, but silent": {"exec 2>/dev/null; no-such-linter", run.Error, 127, "", ""},
		"signal":              {"kill -SEGV $$", run.Error, 139, "", ""},
		"environment":         {`[ "$LEVEL" = 3 ] && [ -d "$NOFX_WORKSPACE" ] && pwd -P`, run.Passed, 0, "", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, log := newCall(t, "gate:unit", run.GateInputs{Command: tt.command, Env: map[string]string{"LEVEL": "3"}})
			r, err := developer(Config{}).Run(t.Context(), c)
			if err != nil || r.Verdict != tt.verdict || r.Outputs["verdict"] != string(tt.verdict) {
				t.Fatalf("Run = %+v, %v, want verdict %s", r, err, tt.verdict)
			}
			e := r.Evidence
			missing, _ := e["missing"].(string)
			if e["exit_code"] != tt.code || *r.ExitCode != tt.code || missing != tt.missing || e["command"] != tt.command {
				t.Errorf("evidence = %v, want exit code %d, missing %q", e, tt.code, tt.missing)
			}
			if output := e["output"].(string); !strings.Contains(output, tt.output) || output != log.String() {
				t.Errorf("evidence = %v, want output with %q, as in the log %q", e, tt.output, log)
			}
			if reason, ok := e["reason"].(string); ok == (tt.verdict == run.Passed) || !strings.Contains(reason, tt.missing) {
				t.Errorf("reason of a gate that %s = %v", tt.verdict, reason)
			}
		})
	}
}

func TestGateOutOfTimeIsAnError(t *testing.T) {
	t.Parallel()
	c, _ := newCall(t, "gate:unit", run.GateInputs{Command: "echo started; sleep 1000"})
	c.Spec.TimeoutS = 1
	r, err := developer(Config{}).Run(t.Context(), c)
	if reason, _ := r.Evidence["reason"].(string); err != nil || r.Verdict != run.Error || r.Evidence["output"] != "started\n" || !strings.Contains(reason, "time limit") {
		t.Errorf("Run = %+v, %v, want the verdict error with its reason", r, err)
	}
}

func TestEvidenceIsShortCleanAndRedacted(t *testing.T) {
	t.Parallel()
	c, _ := newCall(t, "gate:unit", run.GateInputs{Command: `
		for i in $(seq 5000); do printf 'line %d \377\000 hunter2\n' $i; done; exit 1
		` + strings.Repeat("# ü\n", 4000)})
	r, err := developer(Config{Redactor: telemetry.NewRedactor("hunter2")}).Run(t.Context(), c)
	if err != nil || r.Verdict != run.Failed {
		t.Fatalf("Run = %+v, %v", r, err)
	}
	output, command := r.Evidence["output"].(string), r.Evidence["command"].(string)
	if len(output) > maxOutput || len(output) < maxOutput-4 || run.BadText(output) != "" || !strings.HasSuffix(output, "line 5000 �� ***\n") || strings.Contains(output, "hunter") {
		t.Errorf("output has %d bytes and ends in %q", len(output), output[max(0, len(output)-40):])
	}
	if len(command) > maxCommand || !utf8.ValidString(command) {
		t.Errorf("command has %d bytes, want at most %d", len(command), maxCommand)
	}
}
