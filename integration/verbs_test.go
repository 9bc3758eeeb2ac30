package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestVerbs steers runs whose steps really run, on two workers.
func TestVerbs(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2})
	for name, test := range map[string]func(*testing.T, *system){
		"pause with running siblings": pauseWithSiblings,
		"retry of a step":             retryWithCascade,
		"retry of a cancelled run":    retryCancelled,
		"rerun":                       rerun,
		"several approvers":           severalApprovers,
		"signals":                     signals,
		"dead letters":                deadLetters,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

func (s *system) post(t *testing.T, path string, body any) {
	t.Helper()
	s.do(t, http.StatusOK, http.MethodPost, path, body)
}

// held returns a step that runs until somebody makes the file release.
func held(t *testing.T, name string) (s step, begun, release string) {
	dir := t.TempDir()
	begun, release = filepath.Join(dir, "begun"), filepath.Join(dir, "release")
	return bash(name, fmt.Sprintf("touch %s; until [ -e %s ]; do sleep 0.05; done; echo %s > %s.txt", begun, release, name, name)), begun, release
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Two steps run when the run is paused: both may end, nothing else starts, and
// the run goes on from there.
func pauseWithSiblings(t *testing.T, s *system) {
	left, leftBegun, leftRelease := held(t, "left")
	right, rightBegun, rightRelease := held(t, "right")
	id := s.create(t, left, right, bash("join", "cat left.txt right.txt", "left", "right")).Run.ID
	until(t, "both steps run", 3*time.Minute, func() bool { return exists(leftBegun) && exists(rightBegun) })
	s.post(t, "/api/runs/"+id+"/pause", map[string]string{"reason": "look first"})
	touch(t, leftRelease)
	s.awaitStep(t, id, "left", api.StepStatusSucceeded)
	if d := s.run(t, id); d.Run.Status != api.RunStatusPaused || named(t, d, "join").Status != api.StepStatusPending {
		t.Errorf("run = %s, join %s; want paused and pending", d.Run.Status, named(t, d, "join").Status)
	}
	touch(t, rightRelease)
	s.awaitStep(t, id, "join", api.StepStatusReady)
	if d := s.run(t, id); d.Run.Status != api.RunStatusPaused {
		t.Errorf("run = %s, want paused until it is resumed", d.Run.Status)
	}
	s.post(t, "/api/runs/"+id+"/resume", nil)
	d := s.await(t, id, api.RunStatusSucceeded)
	if got := s.log(t, named(t, d, "join").ID); got != "left\nright\n" {
		t.Errorf("log of join = %q, want both files", got)
	}
}

// A step that failed is retried with what fell with it, and starts from what it
// started from before, not from what its failed attempt left behind.
func retryWithCascade(t *testing.T, s *system) {
	fixed := filepath.Join(t.TempDir(), "fixed")
	id := s.create(t, bash("make", "echo 1 > made.txt"),
		bash("test", "echo half >> made.txt; test -e "+fixed), bash("ship", "cat made.txt")).Run.ID
	d := s.await(t, id, api.RunStatusFailed)
	if got := named(t, d, "ship").Status; got != api.StepStatusSkipped {
		t.Errorf("ship = %s, want skipped", got)
	}
	touch(t, fixed)
	s.post(t, "/api/steps/"+named(t, d, "test").ID+"/retry", map[string]any{"reason": "fixed"})
	d = s.await(t, id, api.RunStatusSucceeded)
	if got := s.log(t, named(t, d, "ship").ID); got != "1\nhalf\n" {
		t.Errorf("log of ship = %q, want one half: the retry starts from the checkpoint before", got)
	}
	attempts := s.attempts(t, named(t, d, "test").ID)
	if len(attempts) != 2 || attempts[0].Accepted || !attempts[1].Accepted {
		t.Errorf("attempts = %+v, want the second one accepted", attempts)
	}
}

// What a cancel cut off runs again when the run is retried.
func retryCancelled(t *testing.T, s *system) {
	step, begun, release := held(t, "held")
	id := s.create(t, bash("first", "echo first"), step, bash("last", "cat held.txt")).Run.ID
	until(t, "the step runs", 3*time.Minute, func() bool { return exists(begun) })
	s.post(t, "/api/runs/"+id+"/cancel", nil)
	touch(t, release)
	s.post(t, "/api/runs/"+id+"/retry", nil)
	d := s.await(t, id, api.RunStatusSucceeded)
	if got := s.log(t, named(t, d, "last").ID); got != "held\n" {
		t.Errorf("log of last = %q, want what the retried step wrote", got)
	}
	if got := len(s.attempts(t, named(t, d, "first").ID)); got != 1 {
		t.Errorf("attempts of the step that had succeeded = %d, want 1", got)
	}
}

func rerun(t *testing.T, s *system) {
	s.rerun(t, s.await(t, s.create(t, bash("a", "echo hello"), bash("b", "exit 1")).Run.ID, api.RunStatusFailed))
}

// rerun runs the plan of a run again, to the same end.
func (s *system) rerun(t *testing.T, first api.RunDetail) api.RunDetail {
	t.Helper()
	again := decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+first.Run.ID+"/rerun", nil))
	d := s.await(t, again.Run.ID, first.Run.Status)
	if d.Run.PlanDigest != first.Run.PlanDigest || d.Run.TraceID == first.Run.TraceID || len(d.Steps) != len(first.Steps) {
		t.Errorf("rerun = %+v, want the same plan in a trace of its own", d.Run)
	}
	for i, st := range d.Steps {
		if was := first.Steps[i]; st.Name != was.Name || st.Status != was.Status || st.Attempt != was.Attempt {
			t.Errorf("step %d of the rerun = %s %s at attempt %d, want %s %s, run from the start", i, st.Name, st.Status, st.Attempt, was.Name, was.Status)
		}
	}
	return d
}

// A gate that wants two approvals passes with the second person's.
func severalApprovers(t *testing.T, s *system) {
	ship := manual("ship", 600)
	ship.Inputs["approvals"] = 2
	d := s.await(t, s.create(t, ship).Run.ID, api.RunStatusWaiting)
	g := gateOf(t, d, d.Steps[0].ID)
	key := decode[api.CreatedAPIKey](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/api-keys", map[string]string{"name": "second", "role": "supervisor"}))
	other := newClient(s.URL, key.Secret)
	one := decode[api.GateAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+g.ID+"/approve", nil)).Gate
	if one.Status != api.GateStatusPending || len(one.Approvals) != 1 || deref(one.Quorum) != 2 {
		t.Errorf("gate after one approval = %+v, want pending with one of two", one)
	}
	two := decode[api.GateAnswer](t, other.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+g.ID+"/approve", nil)).Gate
	if two.Status != api.GateStatusPassed || len(two.Approvals) != 2 {
		t.Errorf("gate after two approvals = %+v, want passed", two)
	}
	s.await(t, d.Run.ID, api.RunStatusSucceeded)
}

// A step waits for a signal without a worker, and hands its payload on, whether
// the signal comes before or after.
func signals(t *testing.T, s *system) {
	wait := func(key string) step {
		return step{Name: "wait", Tool: "signal", Inputs: map[string]any{"key": key}}
	}
	send := func(key string, payload any) bool {
		return decode[api.SignalAnswer](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/signals",
			map[string]any{"key": key, "payload": payload})).Signal.Taken
	}
	id := s.create(t, wait("deploy/after"), bash("go", "true")).Run.ID
	s.await(t, id, api.RunStatusWaiting)
	if !send("deploy/after", map[string]string{"version": "1.2"}) {
		t.Error("signal to a step that waits was kept, want it taken")
	}
	d := s.await(t, id, api.RunStatusSucceeded)
	if got, want := fmt.Sprint(members(t, named(t, d, "wait").Outputs)), "map[payload:map[version:1.2]]"; got != want {
		t.Errorf("outputs = %s, want %s", got, want)
	}
	if send("deploy/before", 7) {
		t.Error("signal that nobody waits for was taken, want it kept")
	}
	d = s.await(t, s.create(t, wait("deploy/before")).Run.ID, api.RunStatusSucceeded)
	if got, want := fmt.Sprint(members(t, d.Steps[0].Outputs)), "map[payload:7]"; got != want {
		t.Errorf("outputs = %s, want %s", got, want)
	}
}

// A step whose attempts are used up is a dead letter until it is requeued.
func deadLetters(t *testing.T, s *system) {
	fixed := filepath.Join(t.TempDir(), "fixed")
	flaky := bash("flaky", "test -e "+fixed)
	flaky.Retry = map[string]any{"max_attempts": 2, "initial_s": 0.01}
	d := s.await(t, s.create(t, flaky, bash("next", "true")).Run.ID, api.RunStatusFailed)
	letters := items[api.StepAnswer](t, s.client, "/api/dead-letters", "10")
	if len(letters) != 1 || letters[0].Step.ID != d.Steps[0].ID || deref(letters[0].Step.FailureClass) != api.FailureClassExhausted {
		t.Fatalf("dead letters = %+v, want step flaky, exhausted", letters)
	}
	touch(t, fixed)
	done := decode[api.Requeued](t, s.do(t, http.StatusOK, http.MethodPost, "/api/dead-letters/requeue", map[string]any{"tool": "bash", "reason": "fixed"}))
	if len(done.Requeued) != 1 {
		t.Errorf("requeued = %+v, want the one", done.Requeued)
	}
	s.await(t, d.Run.ID, api.RunStatusSucceeded)
	if left := items[api.StepAnswer](t, s.client, "/api/dead-letters", "10"); len(left) != 0 {
		t.Errorf("dead letters = %+v, want none", left)
	}
}
