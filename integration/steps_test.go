package integration_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestSteps runs what single steps promise: joins, retries, time limits, their
// environment, their log, and whose repositories they may read.
func TestSteps(t *testing.T) {
	t.Parallel()
	allowed, outside := repository(t), repository(t)
	s := up(t, harness.Config{Workers: 2, WorkerEnv: map[string]string{
		"NOFX_STEP_ENV":  "CI=yes\nHIDDEN=not for this plan",
		"NOFX_GIT_ALLOW": "file:" + allowed.dir,
	}})
	for _, tt := range []struct {
		name string
		test func(*testing.T, *system)
	}{
		{"join", join},
		{"conflict", conflict},
		{"retry", retry},
		{"exhausted", exhausted},
		{"timeout", timeout},
		{"cancel kills", cancelKills},
		{"environment", environment},
		{"secret of the tenant", tenantSecret},
		{"follow a log", followLog},
		{"sleep", sleep},
		{"templates", templates},
		{"git", func(t *testing.T, s *system) { checkout(t, s, allowed, outside) }},
		{"workspace from git", func(t *testing.T, s *system) { workspaceGit(t, s, allowed, outside) }},
		{"workspace from an upload", workspaceUpload},
		{"artifact as a file", artifactFile},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, s)
		})
	}
}

// A secret of the tenant reaches the step that asks for it, and neither its log, read or
// streamed, nor what a later step makes of it.
func tenantSecret(t *testing.T, s *system) {
	canary := rand.Text()
	s.do(t, http.StatusOK, http.MethodPut, "/api/secrets/REGISTRY_TOKEN", map[string]any{"value": canary})
	body := map[string]any{"plan": map[string]any{"goal": "push", "policy": map[string]any{"secrets": []string{"REGISTRY_TOKEN"}}, "steps": []step{
		{Name: "push", Tool: "bash", Inputs: map[string]any{"script": `echo "$REGISTRY_TOKEN" | tee token; printf %s "$REGISTRY_TOKEN" | sha256sum`, "secrets": []string{"REGISTRY_TOKEN"}}},
		bash("later", `echo "${REGISTRY_TOKEN-none}"; cat token; echo "token=$(cat token)" >> $NOFX_OUTPUT`),
	}}}
	d := s.await(t, decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", body)).Run.ID, api.RunStatusSucceeded)
	push, later := named(t, d, "push"), named(t, d, "later")
	if got, want := s.log(t, push.ID), fmt.Sprintf("[redacted]\n%x  -\n", sha256.Sum256([]byte(canary))); got != want {
		t.Errorf("log = %q, want %q: the step has the secret", got, want)
	}
	if got, want := s.log(t, later.ID), "none\n[redacted]\n"; got != want {
		t.Errorf("log of the later step = %q, want %q", got, want)
	}
	if !strings.Contains(string(later.Outputs), "[redacted]") || strings.Contains(string(later.Outputs), canary) {
		t.Errorf("outputs of the later step = %s, want the secret masked", later.Outputs)
	}
	s.follow(t, "/api/steps/"+push.ID+"/logs?follow=1", "", func(f api.Frame) bool {
		if strings.Contains(string(f.Data), canary) {
			t.Errorf("the stream of the log has %q, want no secret", f.Data)
		}
		return f.Event != "end"
	})
	if list := string(s.do(t, http.StatusOK, http.MethodGet, "/api/secrets", nil).body); strings.Contains(list, canary) || !strings.Contains(list, "REGISTRY_TOKEN") {
		t.Errorf("secrets = %s, want the name and no value", list)
	}
}

// Two branches with files of their own meet, with all files of both.
func join(t *testing.T, s *system) {
	id := s.create(t, bash("base", "mkdir d; echo base > d/base; echo old > shared"),
		bash("left", "echo left > d/left; echo new > shared", "base"),
		bash("right", "echo right > d/right; rm d/base", "base"),
		bash("both", "ls d; cat d/* shared", "left", "right")).Run.ID
	d := s.await(t, id, api.RunStatusSucceeded)
	both := named(t, d, "both")
	if got := s.log(t, both.ID); got != "left\nright\nleft\nright\nnew\n" {
		t.Errorf("log of the join = %q, want the files of both branches", got)
	}
	pre := checkpointOf(t, s, id, both.ID, api.CheckpointKindPre)
	want := []string{checkpointOf(t, s, id, named(t, d, "left").ID, api.CheckpointKindPost).ID, checkpointOf(t, s, id, named(t, d, "right").ID, api.CheckpointKindPost).ID}
	if !slices.Equal(pre.Parents, want) {
		t.Errorf("parents of the join = %v, want both posts %v", pre.Parents, want)
	}
}

// Both changed the same thing: nobody's work is dropped, the step fails and says
// where.
func conflict(t *testing.T, s *system) {
	id := s.create(t, bash("left", "echo left > same"), step{Name: "right", Tool: "bash", Inputs: map[string]any{"script": "echo right > same"}, DependsOn: []string{}},
		bash("both", "true", "left", "right")).Run.ID
	d := s.await(t, id, api.RunStatusFailed)
	both := named(t, d, "both")
	var outputs struct {
		Total     int
		Conflicts []struct{ Path string }
	}
	if err := json.Unmarshal(both.Outputs, &outputs); err != nil || deref(both.FailureClass) != api.FailureClassWorkspaceConflict ||
		outputs.Total != 1 || outputs.Conflicts[0].Path != "same" {
		t.Errorf("join of two files of one name = %s with %s, %v; want workspace_conflict at same", deref(both.FailureClass), both.Outputs, err)
	}
}

// A failing step is tried again after a pause, from where it began and not from
// what the failure left behind.
func retry(t *testing.T, s *system) {
	tries := t.TempDir() + "/tries"
	try := bash("flaky", `test ! -e dirt; touch dirt; echo x >> `+tries+`; test "$(wc -l < `+tries+`)" = 3`)
	try.Retry = map[string]any{"max_attempts": 4, "initial_s": 0.4}
	d := s.await(t, s.create(t, try).Run.ID, api.RunStatusSucceeded)
	attempts := s.attempts(t, d.Steps[0].ID)
	if len(attempts) != 3 || d.Steps[0].Attempt != 3 || !attempts[2].Accepted {
		t.Fatalf("attempts = %d, counted %d, want 3 with the last accepted", len(attempts), d.Steps[0].Attempt)
	}
	events := s.events(t, d.Run.ID, "50")
	pauses := ofType(events, "step.retrying")
	if len(pauses) != 2 {
		t.Fatalf("step.retrying = %d times, want 2", len(pauses))
	}
	for i, e := range pauses {
		due, err := time.Parse(time.RFC3339Nano, fmt.Sprint(members(t, e.Data)["at"]))
		longest := 400 * time.Millisecond << i
		if err != nil || due.Sub(e.At) > longest || attempts[i+1].StartedAt.Before(due) || deref(attempts[i].ExitCode) != 1 {
			t.Errorf("retry %d: due %v after %v (%v), claimed %v, exit code %v; want within %v and not before it is due",
				i+1, due, e.At, err, attempts[i+1].StartedAt, attempts[i].ExitCode, longest)
		}
	}
}

func exhausted(t *testing.T, s *system) {
	st := bash("hopeless", "exit 7")
	st.Retry = map[string]any{"max_attempts": 2, "initial_s": 0.01}
	d := s.await(t, s.create(t, st).Run.ID, api.RunStatusFailed)
	if f := d.Steps[0]; deref(f.FailureClass) != api.FailureClassExhausted || !strings.HasPrefix(deref(f.Reason), "tool: ") || len(s.attempts(t, f.ID)) != 2 {
		t.Errorf("hopeless step = %s %q after %d attempts, want exhausted, for tool, after 2", deref(f.FailureClass), deref(f.Reason), len(s.attempts(t, f.ID)))
	}
}

// A step is told what an earlier one found out, as text and not as code.
func templates(t *testing.T, s *system) {
	last := bash("last", `echo "$FOUND"`)
	last.Inputs["env"] = map[string]string{"FOUND": "v${{ steps.first.outputs.version }} ${{steps.first.outputs.exit_code}}"}
	d := s.await(t, s.create(t, bash("first", `echo 'version=1.2 $(id); "' >> $NOFX_OUTPUT`), bash("between", "true"), last).Run.ID, api.RunStatusSucceeded)
	if got, want := s.log(t, named(t, d, "last").ID), "v1.2 $(id); \" 0\n"; got != want {
		t.Errorf("log of the step = %q, want %q", got, want)
	}
	last.Inputs["env"] = map[string]string{"FOUND": "${{ steps.first.outputs.nothing }}"}
	d = s.await(t, s.create(t, bash("first", "true"), last).Run.ID, api.RunStatusFailed)
	if f := named(t, d, "last"); deref(f.FailureClass) != api.FailureClassInvalid || deref(f.Reason) != `inputs/env/FOUND: step first has no output "nothing"` {
		t.Errorf("step without its output = %s %q, want invalid, and which", deref(f.FailureClass), deref(f.Reason))
	}
}

// stubborn returns a tree that will not go: it ignores TERM, has sessions of its own
// and orphans. mark is in the environment of all of it.
func stubborn(mark string) step {
	st := bash("stubborn", `
		trap '' TERM INT HUP
		setsid bash -c 'trap "" TERM; while :; do sleep 300; done' &
		( ( trap '' TERM; setsid bash -c 'trap "" TERM; while :; do sleep 300; done' & ) & )
		while :; do sleep 300; done`)
	st.Inputs["env"] = map[string]string{"MARK": mark}
	return st
}

// marked returns the living processes with mark in their environment.
func marked(t *testing.T, mark string) (pids []string) {
	t.Helper()
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(environs) == 0 {
		t.Fatalf("read /proc = %d, %v", len(environs), err)
	}
	for _, path := range environs {
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), mark) {
			pids = append(pids, strings.Split(path, "/")[2])
		}
	}
	return pids
}

// gone waits until nothing of a tree is left.
func gone(t *testing.T, mark string, within time.Duration) {
	t.Helper()
	began := time.Now()
	until(t, "all processes of the tree are dead", within, func() bool { return len(marked(t, mark)) == 0 })
	t.Logf("the tree was dead after %v of %v", time.Since(began).Round(time.Millisecond), within)
}

const deadWithin = 5 * time.Second // after a timeout, a cancel or a lost lease

func timeout(t *testing.T, s *system) {
	mark := uuid.NewString()
	st := stubborn(mark)
	st.TimeoutS = 2
	id := s.create(t, st).Run.ID
	until(t, "the tree stands", 3*time.Minute, func() bool { return len(marked(t, mark)) >= 6 })
	gone(t, mark, 2*time.Second+deadWithin)
	d := s.await(t, id, api.RunStatusFailed)
	if f := d.Steps[0]; deref(f.FailureClass) != api.FailureClassTimeout || len(s.attempts(t, f.ID)) != 1 {
		t.Errorf("step beyond its time = %s after %d attempts, want timeout after 1", deref(f.FailureClass), len(s.attempts(t, f.ID)))
	}
}

func cancelKills(t *testing.T, s *system) {
	mark := uuid.NewString()
	id := s.create(t, stubborn(mark)).Run.ID
	until(t, "the tree stands", 3*time.Minute, func() bool { return len(marked(t, mark)) >= 6 })
	s.do(t, http.StatusOK, http.MethodPost, "/api/runs/"+id+"/cancel", map[string]string{"reason": "enough"})
	gone(t, mark, deadWithin)
	if d := s.run(t, id); d.Run.Status != api.RunStatusCancelled || d.Steps[0].Status != api.StepStatusCancelled {
		t.Errorf("cancelled run = %s, its step %s", d.Run.Status, d.Steps[0].Status)
	}
}

// What a step sees is listed; of the worker's own it sees nothing.
func environment(t *testing.T, s *system) {
	st := bash("env", `env -0 | tr '\n\0' ' \n'; echo; pwd; tr '\0' '\n' < /proc/$PPID/environ`)
	st.Inputs["env"] = map[string]string{"OWN": "mine"}
	body := plan(st)
	body["plan"].(map[string]any)["policy"] = map[string]any{"env_allowed": []string{"CI", "DATABASE_URL", "NOFX_S3_SECRET_KEY"}}
	id := decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", body)).Run.ID
	d := s.await(t, id, api.RunStatusSucceeded)
	out := s.log(t, d.Steps[0].ID)
	own, rest, _ := strings.Cut(out, "\n\n")
	dir, _, _ := strings.Cut(rest, "\n")
	vars := map[string]string{}
	for line := range strings.Lines(own) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[name] = value
	}
	want := []string{"CI", "HOME", "LANG", "NOFX_OUTPUT", "NOFX_RUN_ID", "NOFX_STEP_ID", "NOFX_STEP_NAME", "NOFX_WORKSPACE", "OWN", "PATH",
		"PWD", "SHLVL", "TMPDIR", "TRACEPARENT", "_"} // PWD, SHLVL and _ are bash's own
	if got := slices.Sorted(maps.Keys(vars)); !slices.Equal(got, want) {
		t.Errorf("environment = %v, want %v", got, want)
	}
	if vars["CI"] != "yes" || vars["OWN"] != "mine" || vars["NOFX_RUN_ID"] != id || vars["NOFX_STEP_NAME"] != "env" ||
		!strings.HasPrefix(vars["TRACEPARENT"], "00-"+d.Run.TraceID+"-") || dir != vars["NOFX_WORKSPACE"] || strings.HasPrefix(vars["HOME"], dir) {
		t.Errorf("environment = %v, want what the plan and the deployment said", vars)
	}
	for _, secret := range []string{s.S3.SecretKey, s.WorkerDB, "not for this plan"} {
		if strings.Contains(out, secret) {
			t.Errorf("a step sees a secret of its worker: %s", out)
		}
	}
}

// A log can be read while it grows, in part, and as a whole, and is the same.
func followLog(t *testing.T, s *system) {
	goOn := t.TempDir() + "/go"
	id := s.create(t, bash("talk", "echo first é; until test -e "+goOn+"; do sleep 0.05; done; printf 'last '; echo line >&2")).Run.ID
	st := s.awaitStep(t, id, "talk", api.StepStatusRunning)
	path := "/api/steps/" + st.ID + "/logs"
	var text strings.Builder
	var end api.Frame
	s.follow(t, path+"?follow=1", "", func(f api.Frame) bool {
		if f.Event == "log" {
			if frame := logFrame(t, f); frame.Offset != int64(text.Len()) {
				t.Errorf("log frame at %d, want %d", frame.Offset, text.Len())
			}
			text.WriteString(logFrame(t, f).Text)
			if err := os.WriteFile(goOn, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		end = f
		return true
	})
	const want = "first é\nlast line\n"
	if text.String() != want || end.Event != "end" || end.Data != fmt.Sprintf(`{"fence":1,"offset":%d}`, len(want)) {
		t.Errorf("followed log = %q ended by %+v, want %q and end", text.String(), end, want)
	}
	for _, tt := range []struct {
		given, want, content string
		status               int
	}{
		{"", want, "", 200},
		{"bytes=2-4", want[2:5], fmt.Sprintf("bytes 2-4/%d", len(want)), 206},
		{"bytes=9-", want[9:], fmt.Sprintf("bytes 9-%d/%d", len(want)-1, len(want)), 206},
		{"bytes=-5", want[len(want)-5:], fmt.Sprintf("bytes %d-%d/%d", len(want)-5, len(want)-1, len(want)), 206},
	} {
		a := s.do(t, tt.status, http.MethodGet, path, nil, "Range", tt.given)
		if string(a.body) != tt.want || a.header.Get("Content-Range") != tt.content {
			t.Errorf("Range %q = %q of %q, want %q of %q", tt.given, a.body, a.header.Get("Content-Range"), tt.want, tt.content)
		}
	}
	beyond := s.do(t, http.StatusRequestedRangeNotSatisfiable, http.MethodGet, path, nil, "Range", "bytes=999-")
	if decode[api.Problem](t, beyond).Code != api.ProblemCodeRangeNotSatisfiable {
		t.Errorf("Range beyond the end = %s", beyond.body)
	}
	rest := s.stream(t, path+"?follow=1", "9") // 9 bytes are "first é\n"
	if got := logFrame(t, rest[0]).Text; got != want[9:] {
		t.Errorf("log after 9 bytes = %q, want %q", got, want[9:])
	}
}

// A sleeping step holds nobody and ends when its time has come.
func sleep(t *testing.T, s *system) {
	id := s.create(t, step{Name: "nap", Tool: "sleep", Inputs: map[string]any{"duration_s": 1.5}}, bash("after", "true")).Run.ID
	nap := s.awaitStep(t, id, "nap", api.StepStatusWaiting)
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.step_lease WHERE step_id = $1", uuidOf(nap.ID)); n != 0 || nap.WaitUntil == nil {
		t.Errorf("a sleeping step has %d leases and waits until %v, want none and a time", n, nap.WaitUntil)
	}
	d := s.await(t, id, api.RunStatusSucceeded)
	nap = named(t, d, "nap")
	if took := nap.FinishedAt.Sub(*nap.StartedAt); took < 1500*time.Millisecond {
		t.Errorf("a nap of 1.5 s took %v", took)
	}
}

// repo is a git repository with one commit.
type repo struct{ dir, commit string }

func repository(t *testing.T) repo {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "--allow-empty", "-m", "empty"},
	} {
		git(t, dir, args...)
	}
	if err := os.WriteFile(dir+"/greeting", []byte("hello from "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", "greeting")
	git(t, dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "-m", "greet")
	return repo{dir, strings.TrimSpace(git(t, dir, "rev-parse", "HEAD"))}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v = %v: %s", args, err, out)
	}
	return string(out)
}

func checkout(t *testing.T, s *system, allowed, outside repo) {
	clone := func(url string) step {
		return step{Name: "clone", Tool: "git:checkout", Inputs: map[string]any{"url": url, "ref": "main"}}
	}
	d := s.await(t, s.create(t, clone("file://"+allowed.dir), bash("read", "cat greeting; git rev-parse HEAD; git status --porcelain")).Run.ID, api.RunStatusSucceeded)
	if got := members(t, d.Steps[0].Outputs)["commit"]; got != allowed.commit {
		t.Errorf("commit = %v, want %s", got, allowed.commit)
	}
	if got, want := s.log(t, d.Steps[1].ID), "hello from "+allowed.dir+"\n"+allowed.commit+"\n"; got != want {
		t.Errorf("the checkout shows %q, want %q", got, want)
	}
	if err := os.Symlink(outside.dir, allowed.dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		"file://" + outside.dir, "file://" + allowed.dir + "/../" + filepath.Base(outside.dir), "file://" + allowed.dir + "-not",
		"file://" + allowed.dir + "/link", "https://127.0.0.1:1/repo.git",
	} {
		d := s.await(t, s.create(t, clone(url)).Run.ID, api.RunStatusFailed)
		if f := d.Steps[0]; deref(f.FailureClass) != api.FailureClassPolicy || strings.Contains(s.log(t, f.ID), outside.commit) {
			t.Errorf("checkout of %s = %s (%s), want it refused by policy", url, deref(f.FailureClass), deref(f.Reason))
		}
	}
}
