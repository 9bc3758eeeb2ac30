package step

import (
	"encoding/json"
	"fmt"
	"maps"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/snapshot"
)

// decodeState returns the state of a document.
func decodeState(doc []byte) (snapshot.State, error) {
	st := snapshot.State{Steps: map[string]snapshot.StepState{}, Vars: map[string]json.RawMessage{}}
	if err := json.Unmarshal(doc, &st); err != nil {
		return snapshot.State{}, fmt.Errorf("state document: %w", err)
	}
	return st, nil
}

// stateWith is the state that the attempt started from, with its own step added.
func (a *attempt) stateWith(s run.State, outputs json.RawMessage) snapshot.State {
	steps := maps.Clone(a.start.state.Steps)
	steps[a.claim.Name] = snapshot.StepState{State: string(s), Outputs: outputs, Attempt: a.claim.Attempt}
	return snapshot.State{Steps: steps, Vars: a.start.state.Vars}
}
