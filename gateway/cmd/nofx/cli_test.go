package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

const plan = `{"goal": "ship the fix", "steps": [{"name": "build", "tool": "bash", "inputs": {"script": "make"}}]}`

// script is what the test gateway answers in TestCommands, but for streams.
func script() map[string]http.HandlerFunc {
	d := detail()
	decided := func(status api.GateStatus) http.HandlerFunc {
		g := shipGate()
		g.Status, g.DecidedBy, g.DecidedAt = status, ptr("bob"), ptr(ago(1))
		return answer(http.StatusOK, api.GateAnswer{Gate: g})
	}
	cancelled := d.Run
	cancelled.Status = api.RunStatusCancelled
	checkpoint := api.Checkpoint{ID: id("ckpt", 1), RunID: d.Run.ID, Seq: 1, Kind: api.CheckpointKindPost, StepID: ptr(id("step", 1)),
		Digest: digest(2), StateDigest: digest(3), TreeDigest: digest(4), Parents: []string{id("ckpt", 2)}, BytesNew: 3 << 20, CreatedAt: ago(52)}
	key := api.APIKey{ID: id("key", 1), Name: "ci", Prefix: "nofx_live_0198", Role: api.RoleService, Scopes: []string{"runs:write"}, CreatedAt: ago(3600)}
	revoked := key
	revoked.ID, revoked.Role, revoked.Scopes, revoked.RevokedAt = id("key", 2), api.RoleAdmin, []string{}, ptr(ago(60))
	return map[string]http.HandlerFunc{
		"createRun": answer(http.StatusCreated, api.CreatedRun{Run: d.Run, Steps: d.Steps}),
		"previewRun": answer(http.StatusOK, api.RunPreview{PlanDigest: digest(1),
			Plan:  api.Plan{Goal: "ship the fix", Steps: []api.PlanStep{{Name: "build", Tool: "bash"}, {Name: "unit", Tool: "gate:unit"}}},
			Graph: api.PlanGraph{Levels: [][]string{{"build"}, {"unit"}}, Edges: []api.PlanEdge{{Needs: "build", Step: "unit"}}}}),
		"listRuns":    answer(http.StatusOK, api.RunPage{Items: []api.Run{d.Run, failedDetail().Run}, NextCursor: ptr("b2xk")}),
		"getRun":      answer(http.StatusOK, d),
		"cancelRun":   answer(http.StatusOK, api.RunAnswer{Run: cancelled}),
		"listGates":   answer(http.StatusOK, api.GatePage{Items: []api.Gate{shipGate()}}),
		"getGate":     answer(http.StatusOK, api.GateAnswer{Gate: failedDetail().Gates[1]}),
		"approveGate": decided(api.GateStatusPassed),
		"waiveGate":   decided(api.GateStatusWaived),
		"rejectGate": func(w http.ResponseWriter, r *http.Request) {
			won := shipGate()
			won.Status, won.DecidedBy, won.DecidedAt = api.GateStatusPassed, ptr("carol"), ptr(ago(2))
			problem(w, r, http.StatusConflict, api.Problem{Code: api.ProblemCodeIllegalTransition, Detail: "the gate is decided",
				From: ptr("passed"), Event: ptr("reject"), Allowed: []string{"waive"}, Gate: &won})
		},
		"listCheckpoints": answer(http.StatusOK, api.CheckpointPage{Items: []api.Checkpoint{checkpoint}}),
		"getCheckpoint": answer(http.StatusOK, api.CheckpointDetail{Checkpoint: checkpoint, Manifest: json.RawMessage(`{"v":1}`),
			Objects: []api.StoredObject{{Kind: api.StoredObjectKindPack, Sha256: digest(5)[7:], SizeBytes: 2000, URL: "http://s3/pack?signed", ExpiresAt: now}}}),
		"listCheckpointFiles": answer(http.StatusOK, api.FilePage{Items: []api.File{
			{Name: "cmd", Path: "cmd", Mode: api.FileModeN040000, Digest: digest(6)},
			{Name: "go.mod", Path: "go.mod", Mode: api.FileModeN100644, Digest: digest(7), SizeBytes: ptr(int64(120))}}}),
		"listArtifacts": answer(http.StatusOK, api.ArtifactPage{Items: []api.Artifact{
			{ID: id("art", 1), RunID: &d.Run.ID, StepID: ptr(id("step", 2)), Name: "unit-evidence\x1b[2J.json", MediaType: "application/json",
				SizeBytes: 1800, Sha256: digest(8)[7:], CreatedAt: ago(40)}}, NextCursor: ptr("YXJ0")}),
		"getCheckpointFile": text("module example\n", "application/octet-stream"),
		"getStepLogs":       text("compiling\nok\n", "text/plain"),
		"getStep": answer(http.StatusOK, api.StepDetail{Step: d.Steps[0], Attempts: []api.Attempt{{Fence: 1, WorkerID: "w1", WorkerPid: 42,
			StartedAt: ago(60), EndedAt: ptr(ago(52)), Accepted: true, Outcome: ptr("succeed"), ExitCode: ptr(0), TraceID: testTrace}}}),
		"listAPIKeys":  answer(http.StatusOK, api.APIKeyPage{Items: []api.APIKey{key, revoked}}),
		"createAPIKey": answer(http.StatusCreated, api.CreatedAPIKey{Key: key, Secret: "nofx_live_0198_secret"}),
		"revokeAPIKey": answer(http.StatusNoContent, nil),
		"whoami":       answer(http.StatusOK, api.Whoami{Principal: api.Principal{TenantID: id("ten", 1), Tenant: "acme", Subject: "alice", Role: api.RoleAdmin, Scopes: []string{}}}),
	}
}

func text(body, media string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Trace-Id", testTrace)
		w.Header().Set("Content-Type", media)
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("ETag", `"`+digest(7)+`"`)
		_, _ = io.WriteString(w, body)
	}
}

// TestCommands shows what people and scripts see of every command that answers
// at once.
func TestCommands(t *testing.T) {
	t.Parallel()
	run, gate, ckpt := id("run", 1), id("gate", 1), id("ckpt", 1)
	for name, args := range map[string]string{
		"run-create":          "run create -f plan.json",
		"run-create-json":     "run create -f - --json",
		"run-create-body":     "run create -f body.json",
		"run-create-preview":  "run create -f plan.json --preview",
		"run-create-no-file":  "run create",
		"run-create-bad-json": "run create -f bad.json",
		"run-create-both":     "run create -f plan.json --preview --watch",
		"run-list":            "run list --status failed --project default --label team:core --limit 2",
		"run-list-bad-status": "run list --status asleep",
		"run-show":            "run show " + run,
		"run-show-other-noun": "run show " + gate,
		"run-cancel":          "run cancel " + run + " --reason obsolete",
		"gate-list":           "gate list",
		"gate-show":           "gate show " + id("gate", 2),
		"gate-approve":        "gate approve " + gate,
		"gate-reject-no-why":  "gate reject " + gate,
		"gate-reject-late":    "gate reject " + gate + " --reason late",
		"gate-reject-json":    "gate reject " + gate + " --reason late --json",
		"gate-waive":          "gate waive " + gate + " --reason flaky",
		"checkpoint-list":     "checkpoint list " + run,
		"checkpoint-show":     "checkpoint show " + run + " " + ckpt,
		"checkpoint-files":    "checkpoint files " + run + " " + ckpt,
		"checkpoint-cat":      "checkpoint cat " + run + " " + ckpt + " go.mod",
		"artifact-list":       "artifact list " + run,
		"artifact-no-file":    "artifact upload nowhere.txt",
		"logs":                "logs " + run + "/build",
		"logs-no-such-step":   "logs " + run + "/deploy",
		"logs-list":           "logs " + id("step", 1) + " --list",
		"key-create":          "key create ci --scope runs:write --expires 24h",
		"key-create-nothing":  "key create ci",
		"key-list":            "key list",
		"key-revoke":          "key revoke " + id("key", 1),
		"whoami":              "whoami",
		"whoami-json":         "whoami --json",
		"help":                "--help",
		"unknown-command":     "run fly",
		"unknown-flag":        "run list --colour",
		"complete-status":     "__complete gate list --status e",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, script())
			c := newCLI(t, server.URL)
			c.in = strings.NewReader(plan)
			for file, content := range map[string]string{"nowhere.txt": "", "plan.json": plan, "bad.json": "{\n  \"goal\": \"x\",\n}", "body.json": `{"plan": ` + plan + `}`} {
				path := filepath.Join(c.dir, file)
				args = strings.Replace(args, " "+file, " "+path, 1)
				if content == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := c.transcript(t.Context(), strings.Fields(args)...)
			got = strings.NewReplacer(c.dir+"/", "", server.URL, "http://gateway").Replace(got)
			golden(t, name, got)
		})
	}
}

func TestRunCreateSendsKeyAndTrace(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, script())
	var keys []string
	for range 2 {
		c := newCLI(t, server.URL)
		c.in = strings.NewReader(plan)
		c.setenv("NOFX_URL", server.URL, "NOFX_API_KEY", testKey, "TRACEPARENT", "00-"+testTrace+"-b7ad6b7169203331-01")
		if got := execute(t.Context(), c.app, []string{"run", "create", "-f", "-", "--project", "web"}); got != exitOK {
			t.Fatalf("run create = exit %d, want 0: %s", got, &c.errOut)
		}
	}
	for _, r := range g.seen {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if got, want := r.Header.Get("X-Project-Id"), "web"; got != want {
			t.Errorf("X-Project-Id = %q, want %q", got, want)
		}
		if got := r.Header.Get("Traceparent"); !strings.Contains(got, testTrace) {
			t.Errorf("traceparent = %q, want the caller's trace", got)
		}
	}
	if len(keys) != 2 || keys[0] == "" || keys[0] == keys[1] {
		t.Errorf("Idempotency-Keys = %q, want two different ones", keys)
	}
}

// TestProblems shows a refusal with its fields, and the exit code of each kind.
func TestProblems(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status  int
		problem api.Problem
		want    int
	}{
		"plan": {http.StatusUnprocessableEntity, api.Problem{Code: api.ProblemCodeInvalidPlan, Detail: "the plan is wrong in 2 places",
			Errors: []api.FieldError{{Pointer: "/plan/steps/0/tool", Detail: "unknown tool \"ba\x1bsh\""}, {Pointer: "/plan/goal", Detail: "is required"}}}, exitRefused},
		"forbidden": {http.StatusForbidden, api.Problem{Code: api.ProblemCodeForbidden, Detail: "wants an operator"}, exitRefused},
		"missing":   {http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Detail: "no such project"}, exitNotFound},
		"internal":  {http.StatusInternalServerError, api.Problem{Code: api.ProblemCodeInternal, Detail: "that is our mistake"}, exitFailed},
		"limited":   {http.StatusTooManyRequests, api.Problem{Code: api.ProblemCodeRateLimited, Detail: "too many requests"}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, map[string]http.HandlerFunc{"createRun": func(w http.ResponseWriter, r *http.Request) {
				problem(w, r, tt.status, tt.problem)
			}})
			c := newCLI(t, server.URL)
			c.in = strings.NewReader(plan)
			got := c.transcript(t.Context(), "run", "create", "-f", "-")
			if !strings.HasSuffix(got, "-- exit "+string(rune('0'+tt.want))+" --\n") {
				t.Errorf("run create = %s, want exit %d", got, tt.want)
			}
			golden(t, "problem-"+name, got)
		})
	}
}

// TestNotAGateway shows what happens at the wrong address.
func TestNotAGateway(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, nil)
	c := newCLI(t, server.URL)
	server.Close()
	if got := execute(t.Context(), c.app, []string{"whoami"}); got != exitFailed {
		t.Errorf("whoami without a gateway = exit %d, want %d", got, exitFailed)
	}
	if got, want := c.errOut.String(), "no answer from the gateway at "+server.URL; !strings.Contains(got, want) {
		t.Errorf("whoami without a gateway says %q, want %q in it", got, want)
	}
	if got, want := len(c.pauses), maxTries-1; got != want {
		t.Errorf("it paused %d times, want %d", got, want)
	}
}
