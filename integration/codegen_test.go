package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// module returns the steps before and after code is generated: a Go module whose gate is
// its own, and that gate.
func module(t *testing.T, instruction string) []step {
	t.Helper()
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := func(path, content string) map[string]any { return map[string]any{"path": path, "content": content} }
	return []step{
		{Name: "start", Tool: "workspace:write", Inputs: map[string]any{"files": []any{
			file("go.mod", "module example.com/sum\n\ngo 1.26\n"),
			file("sum.go", "package sum\n"),
			file("sum_test.go", "package sum\n\nimport \"testing\"\n\nfunc TestSum(t *testing.T) {\n\tif got := Sum(2, 3); got != 5 {\n\t\tt.Errorf(\"Sum(2, 3) = %d, want 5\", got)\n\t}\n}\n"),
			file("nofx.json", `{"gates": {"unit": {"command": "go test -json ./... > unit.json", "report": {"format": "gotest", "path": "unit.json"}}}}`),
		}}},
		{Name: "write", Tool: "codegen", Inputs: map[string]any{"instruction": instruction, "paths": []string{"**/*.go"}}},
		{Name: "unit", Tool: "gate:unit", Inputs: map[string]any{"env": map[string]string{"GOCACHE": strings.TrimSpace(string(cache)), "GOFLAGS": "-buildvcs=false"}}},
	}
}

func sum(operator string) string {
	return "Add the sum.\n\n```go path=sum.go\npackage sum\n\n// Sum adds.\nfunc Sum(a, b int) int { return a " + operator + " b }\n```\n"
}

// TestCodegen has code written and judged: by a worker that asks a model and runs no
// code, and by one that runs code and has no model.
func TestCodegen(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 1, WorkerEnv: map[string]string{"NOFX_WORKER_QUEUES": "step"}})
	if _, err := s.AddWorker(t.Context(), map[string]string{"NOFX_WORKER_QUEUES": "review", "NOFX_LLM_PROVIDER": "rules"}); err != nil {
		t.Fatal(err)
	}
	report := func(t *testing.T, d api.RunDetail) map[string]any {
		evidence := members(t, gateOf(t, d, named(t, d, "unit").ID).Evidence)
		if evidence["source"] != "nofx.json" {
			t.Errorf("the gate's command is from %v, want the workspace's nofx.json", evidence["source"])
		}
		doc, _ := evidence["report"].(map[string]any)
		return doc
	}
	t.Run("good", func(t *testing.T) {
		t.Parallel()
		d := s.await(t, s.create(t, module(t, sum("+"))...).Run.ID, api.RunStatusSucceeded)
		write := named(t, d, "write")
		if got := members(t, write.Outputs); fmt.Sprint(got["files"]) != "[sum.go]" || got["model"] != "rules" || got["tokens"] != 0.0 {
			t.Errorf("outputs of codegen = %v, want sum.go by rules for no tokens", got)
		}
		if log := s.log(t, write.ID); !strings.Contains(log, "wrote sum.go") {
			t.Errorf("log of codegen = %q, want what it wrote", log)
		}
		if got := report(t, d); got["tests"] != 1.0 || got["failures"] != 0.0 {
			t.Errorf("report = %v, want one test and no failure", got)
		}
		// Each was run by a worker of its queue.
		if a, b := s.attempts(t, write.ID)[0].WorkerID, s.attempts(t, named(t, d, "unit").ID)[0].WorkerID; a == b {
			t.Errorf("codegen and the gate were run by the same worker %s", a)
		}
	})
	t.Run("wrong", func(t *testing.T) {
		t.Parallel()
		d := s.await(t, s.create(t, module(t, sum("-"))...).Run.ID, api.RunStatusFailed)
		unit := named(t, d, "unit")
		items, _ := report(t, d)["items"].([]any)
		if len(items) != 1 || deref(unit.FailureClass) != api.FailureClassGateFailed || deref(unit.Reason) != "1 of 1 test failed" {
			t.Fatalf("gate of wrong code = %s (%s) with %v, want gate_failed for one test", deref(unit.FailureClass), deref(unit.Reason), items)
		}
		got, _ := items[0].(map[string]any)
		if got["name"] != "example.com/sum.TestSum" || got["file"] != "sum_test.go" || got["line"] != 7.0 || got["message"] != "Sum(2, 3) = -1, want 5" {
			t.Errorf("failure = %v, want the test, its place and what it said", got)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		d := s.await(t, s.create(t, module(t, "please add numbers")...).Run.ID, api.RunStatusFailed)
		if f := named(t, d, "write"); deref(f.FailureClass) != api.FailureClassTool || !strings.Contains(deref(f.Reason), "refused") {
			t.Errorf("codegen without a block = %s (%s), want it refused", deref(f.FailureClass), deref(f.Reason))
		}
	})
}

// TestCodegenByModel asks a server that speaks a provider's API: what it used is on the
// attempt, its key is nowhere, and a worker without a provider says so.
func TestCodegenByModel(t *testing.T) {
	t.Parallel()
	const key = "sk-black-box-0123456789abcdef"
	answer, err := json.Marshal(map[string]any{"summary": "done", "files": []any{map[string]any{"path": "sum.go", "action": "edit", "content": nil,
		"edits": []any{map[string]any{"search": "package sum\n", "replace": "package sum\n\nfunc Sum(a, b int) int { return a + b }\n"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer "+key || !strings.Contains(string(body), "package sum") {
			http.Error(w, `{"error":{"type":"invalid_request_error"}}`, http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{
			"model": "small-1", "choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": string(answer)}, "finish_reason": "stop"}},
			"usage": map[string]any{"prompt_tokens": 900, "completion_tokens": 100},
		})
	}))
	t.Cleanup(server.Close)
	traces := newReceiver(t)
	s := up(t, harness.Config{Workers: 1, WorkerEnv: map[string]string{
		"NOFX_LLM_PROVIDER": "openai", "NOFX_LLM_MODEL": "small", "NOFX_LLM_BASE_URL": server.URL + "/v1", "NOFX_LLM_API_KEY": key,
		"NOFX_LLM_PRICES": "small=1/10", "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
	}})
	d := s.await(t, s.create(t, module(t, "add Sum")...).Run.ID, api.RunStatusSucceeded)
	write := named(t, d, "write")
	if got := members(t, write.Outputs); got["model"] != "small-1" || got["tokens"] != 1000.0 {
		t.Errorf("outputs = %v, want 1,000 tokens of small-1", got)
	}
	u := s.attempts(t, write.ID)[0].Usage
	if deref(u.InputTokens) != 900 || deref(u.OutputTokens) != 100 || deref(u.CostUsd) != 0.0019 {
		t.Errorf("usage = %+v, want 900 and 100 tokens for 0.0019 USD", u)
	}
	until(t, "the span of the call is there", 3*time.Minute, func() bool {
		for _, sp := range traces.all() {
			if sp.name == "chat small" && sp.trace == d.Run.TraceID {
				return sp.attributes["gen_ai.usage.input_tokens"] == "900"
			}
		}
		return false
	})
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "logs", "*.log"))
	for _, path := range logs {
		if content, err := os.ReadFile(path); err != nil || strings.Contains(string(content), key) {
			t.Errorf("%s shows the key of the model (%v)", path, err)
		}
	}
	if strings.Contains(s.log(t, write.ID), key) {
		t.Error("the step's log shows the key of the model")
	}

	bare := up(t, harness.Config{Workers: 1})
	d = bare.await(t, bare.create(t, module(t, "add Sum")...).Run.ID, api.RunStatusFailed)
	if f := named(t, d, "write"); deref(f.FailureClass) != api.FailureClassPolicy || !strings.Contains(deref(f.Reason), "NOFX_LLM_PROVIDER") {
		t.Errorf("codegen without a provider = %s (%s), want policy, and what is missing", deref(f.FailureClass), deref(f.Reason))
	}
}
