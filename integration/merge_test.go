package integration_test

import (
	"net/http"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// merge merges a run into another that has ended, lets that go on, and returns the merge.
func (s *system) merge(t *testing.T, target, source string) api.Merge {
	t.Helper()
	m := decode[api.MergeAnswer](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+target+"/merges", map[string]any{"source_run_id": source})).Merge
	s.await(t, deref(m.MergeRunID), api.RunStatusSucceeded)
	return decode[api.MergeAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/merges/"+m.ID+"/commit", map[string]any{"resume": true})).Merge
}

// approve answers the question that a run waits with.
func (s *system) approve(t *testing.T, run string) {
	t.Helper()
	for _, g := range s.await(t, run, api.RunStatusWaiting).Gates {
		if g.Status == api.GateStatusPending {
			s.do(t, http.StatusOK, http.MethodPost, "/api/gates/"+g.ID+"/approve", map[string]any{"reason": "go"})
		}
	}
}

// TestEffectsAfterAMerge merges a branch into a run whose worker was killed between a request
// to another service, which is on record, and the end of its step. The step runs again from
// the merged files and takes the answer from the record; what the branch did is not done
// again either.
func TestEffectsAfterAMerge(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	s := up(t, harness.Config{Env: map[string]string{"NOFX_TEST": "1"}, WorkerEnv: l.environment()})
	doomed := s.doomed(t, 1)
	pay, _ := l.request(1)
	ship, _ := l.request(2)
	pay.DependsOn = []string{"hold"}
	ship.Name, ship.DependsOn = "ship", []string{"last"}
	hold := manual("hold", 86400)
	hold.DependsOn = []string{"a"}
	target := s.create(t, bash("a", "echo one > f"), hold, pay, bash("last", "cat f", "pay"), ship).Run.ID
	first := s.await(t, target, api.RunStatusWaiting)
	s.arm(t, doomed, "after_put") // of the log, which is stored after the effect is recorded
	died := s.deaths(t, doomed)
	s.approve(t, target)
	died()
	if got := one[string](t, s, "SELECT state FROM nofx.step_effect"); got != "done" {
		t.Fatalf("effect = %s when the worker died, want it done", got)
	}
	s.do(t, http.StatusOK, http.MethodPost, "/api/runs/"+target+"/cancel", nil)
	if _, err := s.AddWorker(t.Context(), l.environment()); err != nil {
		t.Fatal(err)
	}

	made := decode[api.CreatedBranches](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+target+"/branches", map[string]any{
		"checkpoint_id": checkpointOf(t, s, target, named(t, first, "a").ID, api.CheckpointKindPost).ID, "files": []map[string]any{{"path": "f", "content": "two\n"}}}))
	source := made.Run.ID
	s.approve(t, source)
	s.await(t, source, api.RunStatusSucceeded)

	m := s.merge(t, target, source)
	s.approve(t, target) // once more: what was approved was another tree
	d := s.await(t, target, api.RunStatusSucceeded)
	if got := s.log(t, named(t, d, "last").ID); got != "two\n" || m.Status != api.MergeStatusCommitted {
		t.Errorf("the step after the request printed %q, want what was merged", got)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range []string{target + "/pay", target + "/ship", source + "/pay", source + "/ship"} {
		if c := l.effects[key]; c == nil || c.calls != 1 {
			t.Errorf("the ledger has %+v under %s, want it asked once", c, key)
		}
	}
	if len(l.effects) != 4 || l.refused != 0 {
		t.Errorf("the ledger has %d effects and refused %d requests, want four and none", len(l.effects), l.refused)
	}
	if got, want := members(t, named(t, d, "pay").Outputs)["body"], l.effects[target+"/pay"].answer; got != want {
		t.Errorf("outputs of pay = %v, want the answer on record, %s", got, want)
	}
}
