package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

func gate(name, command string) step {
	return step{Name: name, Tool: "gate:" + name, Inputs: map[string]any{"command": command}}
}

func manual(name string, expiresS int) step {
	return step{Name: name, Tool: "manual:" + name, Inputs: map[string]any{"message": "Go on?", "expires_s": expiresS}}
}

// TestGates decides gates in every way there is.
func TestGates(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 1})
	for _, tt := range []struct {
		name string
		test func(*testing.T, *system)
	}{
		{"failed then waived", failedThenWaived},
		{"missing tool", missingTool},
		{"tried again", triedAgain},
		{"rejected", rejected},
		{"expired then waived", expiredThenWaived},
		{"waived while pending", waivedWhilePending},
		{"two decisions at once", twoDecisions},
		{"cancelled", cancelled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, s)
		})
	}
}

// A failing gate keeps what it judged, and the evidence. Waived, the run goes on
// without running the gate's command again.
func failedThenWaived(t *testing.T, s *system) {
	ran := t.TempDir() + "/ran"
	id := s.create(t, bash("build", "echo broken > code.txt"),
		gate("unit", "echo ran >> "+ran+"; echo 1 test failed >&2; cat code.txt; exit 3"), bash("after", "cat code.txt; wc -l < "+ran)).Run.ID
	d := s.await(t, id, api.RunStatusFailed)
	unit, after := named(t, d, "unit"), named(t, d, "after")
	g := gateOf(t, d, unit.ID)
	if deref(d.Run.FailureClass) != api.FailureClassGateFailed || deref(unit.FailureClass) != api.FailureClassGateFailed || after.Status != api.StepStatusSkipped {
		t.Errorf("run failed by %s, step by %s, the next is %s; want gate_failed twice and skipped",
			deref(d.Run.FailureClass), deref(unit.FailureClass), after.Status)
	}
	evidence := members(t, g.Evidence)
	if g.Status != api.GateStatusFailed || g.Kind != api.GateKindCommand || evidence["exit_code"] != 3.0 || evidence["output"] != "1 test failed\nbroken\n" {
		t.Errorf("gate = %s with evidence %v, want failed with exit code 3 and the output", g.Status, evidence)
	}
	ck := checkpointOf(t, s, id, unit.ID, api.CheckpointKindGateFailed)
	manifest := get[struct {
		Manifest struct {
			Gate struct{ ID, Verdict string }
		}
	}](t, s.client, "/api/runs/"+id+"/checkpoints/"+ck.ID).Manifest
	if manifest.Gate.ID != g.ID || manifest.Gate.Verdict != "failed" || deref(g.ShownCheckpointID) != ck.ID || deref(g.ShownDigest) != ck.Digest {
		t.Errorf("gate_failed checkpoint %s names gate %+v; gate %s shows %s", ck.ID, manifest.Gate, g.ID, deref(g.ShownCheckpointID))
	}
	judged := s.do(t, http.StatusOK, http.MethodGet, "/api/runs/"+id+"/checkpoints/"+ck.ID+"/file?path=code.txt", nil)
	if string(judged.body) != "broken\n" {
		t.Errorf("what the gate judged = %q, want broken", judged.body)
	}
	artifacts := items[api.Artifact](t, s.client, "/api/runs/"+id+"/artifacts", "50")
	if len(artifacts) != 1 {
		t.Fatalf("artifacts = %d, want the evidence", len(artifacts))
	}
	var kept struct {
		Gate, Verdict, Judged string
		Evidence              map[string]any
	}
	if err := json.Unmarshal(checkArtifact(t, s, artifacts[0].ID), &kept); err != nil || kept.Gate != g.ID || kept.Verdict != "failed" ||
		kept.Judged != ck.Digest || kept.Evidence["exit_code"] != 3.0 {
		t.Errorf("evidence artifact = %+v, %v, want the gate, its verdict, what it judged (%s) and why", kept, err, ck.Digest)
	}

	waived := decode[api.GateAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+g.ID+"/waive", map[string]string{"reason": "known flake"}))
	if waived.Gate.Status != api.GateStatusWaived {
		t.Errorf("gate = %s, want waived", waived.Gate.Status)
	}
	d = s.await(t, id, api.RunStatusSucceeded)
	if got := s.log(t, named(t, d, "after").ID); got != "broken\n1\n" {
		t.Errorf("log of the step after = %q, want the code, and that the gate ran once", got)
	}
	if unit := named(t, d, "unit"); members(t, unit.Outputs)["verdict"] != "waived" {
		t.Errorf("outputs of the gate = %s, want verdict waived", unit.Outputs)
	}
}

// checkpointOf returns the one checkpoint of a kind that a step wrote.
func checkpointOf(t *testing.T, s *system, run, step string, kind api.CheckpointKind) api.Checkpoint {
	t.Helper()
	for _, ck := range items[api.Checkpoint](t, s.client, "/api/runs/"+run+"/checkpoints", "50") {
		if ck.Kind == kind && deref(ck.StepID) == step {
			return ck
		}
	}
	t.Fatalf("step %s has no %s checkpoint", step, kind)
	return api.Checkpoint{}
}

func missingTool(t *testing.T, s *system) {
	d := s.await(t, s.create(t, gate("lint", "no-such-linter ./...")).Run.ID, api.RunStatusFailed)
	g := gateOf(t, d, d.Steps[0].ID)
	if g.Status != api.GateStatusError || deref(d.Steps[0].FailureClass) != api.FailureClassGateError || members(t, g.Evidence)["missing"] != "no-such-linter" {
		t.Errorf("gate without its tool = %s, %s, %s; want error, gate_error and the tool's name", g.Status, deref(d.Steps[0].FailureClass), g.Evidence)
	}
	checkpointOf(t, s, d.Run.ID, d.Steps[0].ID, api.CheckpointKindGateFailed)
}

// A gate that may be tried again opens a round each time, and goes on once it passes.
func triedAgain(t *testing.T, s *system) {
	tries := t.TempDir() + "/tries"
	flaky := gate("unit", `echo x >> `+tries+`; echo "try $(wc -l < `+tries+`)"; test "$(wc -l < `+tries+`)" = 2`)
	flaky.Retry = map[string]any{"max_attempts": 3, "initial_s": 0.01}
	d := s.await(t, s.create(t, flaky, bash("after", "true")).Run.ID, api.RunStatusSucceeded)
	if len(d.Gates) != 2 {
		t.Fatalf("gates = %d, want a round for each attempt", len(d.Gates))
	}
	for i, status := range []api.GateStatus{api.GateStatusFailed, api.GateStatusPassed} {
		if g := d.Gates[i]; g.Status != status || g.Round != i+1 || members(t, g.Evidence)["output"] != fmt.Sprintf("try %d\n", i+1) {
			t.Errorf("gate %d = %s in round %d with evidence %s, want %s with its own", i, g.Status, g.Round, g.Evidence, status)
		}
	}
}

func rejected(t *testing.T, s *system) {
	id := s.create(t, manual("ship", 600), bash("after", "true")).Run.ID
	d := s.await(t, id, api.RunStatusWaiting)
	g := gateOf(t, d, d.Steps[0].ID)
	s.do(t, http.StatusUnprocessableEntity, http.MethodPost, "/api/gates/"+g.ID+"/reject", map[string]string{"reason": " "})
	s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+g.ID+"/reject", map[string]string{"reason": "not on a Friday"})
	d = s.await(t, id, api.RunStatusFailed)
	if f := d.Steps[0]; deref(f.FailureClass) != api.FailureClassGateRejected || deref(f.Reason) != "not on a Friday" || d.Steps[1].Status != api.StepStatusSkipped {
		t.Errorf("rejected step = %s %q, the next %s; want gate_rejected with the reason, skipped", deref(f.FailureClass), deref(f.Reason), d.Steps[1].Status)
	}
}

func expiredThenWaived(t *testing.T, s *system) {
	id := s.create(t, manual("ship", 1), bash("after", "true")).Run.ID
	d := s.await(t, id, api.RunStatusFailed)
	g := gateOf(t, d, d.Steps[0].ID)
	if g.Status != api.GateStatusExpired || deref(d.Steps[0].FailureClass) != api.FailureClassExpired {
		t.Errorf("gate nobody decided = %s, its step %s; want expired", g.Status, deref(d.Steps[0].FailureClass))
	}
	refused := decode[api.Problem](t, s.do(t, http.StatusConflict, http.MethodPost, "/api/gates/"+g.ID+"/approve", nil))
	if refused.Code != api.ProblemCodeIllegalTransition || deref(refused.From) != "expired" || fmt.Sprint(refused.Allowed) != "[waive]" {
		t.Errorf("approval after expiry = %s from %s, allowed %v; want illegal-transition from expired, allowed waive", refused.Code, deref(refused.From), refused.Allowed)
	}
	s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+g.ID+"/waive", map[string]string{"reason": "asked by phone"})
	s.await(t, id, api.RunStatusSucceeded)
}

func waivedWhilePending(t *testing.T, s *system) {
	id := s.create(t, manual("ship", 600), bash("after", "true")).Run.ID
	d := s.await(t, id, api.RunStatusWaiting)
	s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+d.Gates[0].ID+"/waive", map[string]string{"reason": "nobody is in"})
	d = s.await(t, id, api.RunStatusSucceeded)
	if d.Gates[0].Status != api.GateStatusWaived || deref(d.Gates[0].Reason) != "nobody is in" {
		t.Errorf("gate = %s because %q, want waived with the reason", d.Gates[0].Status, deref(d.Gates[0].Reason))
	}
}

// Of two decisions at once one wins; the other learns who.
func twoDecisions(t *testing.T, s *system) {
	for range 5 {
		id := s.create(t, manual("ship", 600)).Run.ID
		d := s.await(t, id, api.RunStatusWaiting)
		path := "/api/gates/" + d.Gates[0].ID
		var answers [2]answer
		var wg sync.WaitGroup
		for i, verb := range []string{"/approve", "/reject"} {
			wg.Go(func() {
				a, err := s.ask(t.Context(), http.MethodPost, path+verb, map[string]string{"reason": "quick"}, nil)
				if err != nil {
					t.Errorf("POST %s = %v", verb, err)
				}
				answers[i] = a
			})
		}
		wg.Wait()
		won, lost := answers[0], answers[1]
		if lost.status == http.StatusOK {
			won, lost = lost, won
		}
		if won.status != http.StatusOK || lost.status != http.StatusConflict {
			t.Fatalf("two decisions at once = %d %d, want 200 and 409", won.status, lost.status)
		}
		winner, p := decode[api.GateAnswer](t, won).Gate, decode[api.Problem](t, lost)
		if p.Gate == nil || p.Gate.Status != winner.Status || p.Code != api.ProblemCodeIllegalTransition {
			t.Errorf("the loser was told %s with gate %+v, want the winner %s", p.Code, p.Gate, winner.Status)
		}
		if n := len(ofType(s.events(t, id, "50"), "gate.passed")) + len(ofType(s.events(t, id, "50"), "gate.failed")); n != 1 {
			t.Errorf("decisions in the events = %d, want 1", n)
		}
	}
}

// Cancelling ends a run with all of it; a second time there is nothing to cancel.
func cancelled(t *testing.T, s *system) {
	id := s.create(t, manual("ship", 600), bash("after", "true")).Run.ID
	d := s.await(t, id, api.RunStatusWaiting)
	path := "/api/runs/" + id + "/cancel"
	stale := decode[api.Problem](t, s.do(t, http.StatusPreconditionFailed, http.MethodPost, path, nil, "If-Match", `"v1"`))
	if stale.Code != api.ProblemCodeStaleVersion || deref(stale.Version) != d.Run.Version {
		t.Errorf("cancel of an old version = %s, version %d; want stale-version, %d", stale.Code, deref(stale.Version), d.Run.Version)
	}
	s.do(t, http.StatusOK, http.MethodPost, path, nil, "If-Match", fmt.Sprintf(`"v%d"`, d.Run.Version))
	d = s.run(t, id)
	if d.Run.Status != api.RunStatusCancelled || d.Steps[0].Status != api.StepStatusCancelled || d.Steps[1].Status != api.StepStatusCancelled ||
		d.Gates[0].Status != api.GateStatusExpired {
		t.Errorf("cancelled run = %s, steps %s %s, gate %s; want all ended", d.Run.Status, d.Steps[0].Status, d.Steps[1].Status, d.Gates[0].Status)
	}
	again := decode[api.Problem](t, s.do(t, http.StatusConflict, http.MethodPost, path, nil))
	if deref(again.From) != "cancelled" || deref(again.Event) != "cancel" || fmt.Sprint(again.Allowed) != "[resume retry]" {
		t.Errorf("second cancel = %+v, want from cancelled, event cancel, allowed resume and retry", again)
	}
}
