package step

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/snapshot"
)

// foldStates is the union of what several checkpoints know. A step that two of
// them know is the same in both, since neither runs again below the other.
func foldStates(docs [][]byte) (snapshot.State, error) {
	all := snapshot.State{Steps: map[string]snapshot.StepState{}, Vars: map[string]json.RawMessage{}}
	for _, doc := range docs {
		var one snapshot.State
		dec := json.NewDecoder(bytes.NewReader(doc))
		dec.UseNumber()
		if err := dec.Decode(&one); err != nil {
			return snapshot.State{}, fmt.Errorf("state document: %w", err)
		}
		maps.Copy(all.Steps, one.Steps)
		maps.Copy(all.Vars, one.Vars)
	}
	return all, nil
}

// stateWith is the state that the attempt started from, with its own step added.
func (a *attempt) stateWith(s run.State, outputs json.RawMessage) snapshot.State {
	steps := maps.Clone(a.start.state.Steps)
	steps[a.claim.Name] = snapshot.StepState{State: string(s), Outputs: outputs, Attempt: a.claim.Attempt}
	return snapshot.State{Steps: steps, Vars: a.start.state.Vars}
}
