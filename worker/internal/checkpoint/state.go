package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"nofx.dev/shared/tree"
)

// State is what a run knows between steps.
type State struct {
	Steps map[string]StepState       `json:"steps"`
	Vars  map[string]json.RawMessage `json:"vars"`
}

// StepState is one step's part. Outputs that are large are kept as content of
// their own, under OutputsRef.
type StepState struct {
	State      string          `json:"state"`
	Outputs    json.RawMessage `json:"outputs,omitempty"`
	OutputsRef *tree.Digest    `json:"outputs_ref,omitempty"`
	Attempt    int             `json:"attempt"`
}

// Sizes in bytes up to which documents stay where they are named, and of the largest
// state.
const (
	outputsInline = 4 << 10
	stateInline   = 64 << 10
	stateLimit    = 16 << 20
)

// DecodeState returns the state of a document.
func DecodeState(doc []byte) (State, error) {
	s := State{Steps: map[string]StepState{}, Vars: map[string]json.RawMessage{}}
	if err := json.Unmarshal(doc, &s); err != nil {
		return State{}, fmt.Errorf("state document: %w", err)
	}
	return s, nil
}

// With returns s with what a step came to added, or in the place of what s knew of it.
func (s State) With(step string, st StepState) State {
	steps := maps.Clone(s.Steps)
	steps[step] = st
	return State{Steps: steps, Vars: s.Vars}
}

// Document is a state in bytes.
type Document struct {
	Ref      StateRef
	Inline   []byte   // for the row; nil when the document is one of Contents
	Contents [][]byte // for Save: what the row does not hold
}

// Encode returns the document of s: keys sorted, numbers with the digits they came
// with, so that equal states have equal digests. More than 16 MiB are
// fault.Invalid.
func (s State) Encode() (Document, error) {
	var doc Document
	steps := make(map[string]StepState, len(s.Steps))
	for _, name := range slices.Sorted(maps.Keys(s.Steps)) {
		st := s.Steps[name]
		outputs, err := normal(st.Outputs)
		if err != nil {
			return Document{}, fmt.Errorf("encode state: outputs of %s: %w", name, err)
		}
		if st.Outputs = outputs; len(outputs) > outputsInline {
			d := tree.Sum(outputs)
			st.Outputs, st.OutputsRef = nil, &d
			doc.Contents = append(doc.Contents, outputs)
		}
		steps[name] = st
	}
	vars := make(map[string]json.RawMessage, len(s.Vars))
	for name, v := range s.Vars {
		var err error
		if vars[name], err = normal(v); err != nil {
			return Document{}, fmt.Errorf("encode state: variable %s: %w", name, err)
		}
	}
	b, err := marshal(State{steps, vars})
	if err != nil {
		return Document{}, fmt.Errorf("encode state: %w", err)
	}
	if len(b) > stateLimit {
		return Document{}, beyond("state", stateLimit)
	}
	doc.Ref = StateRef{Enc: "full", Digest: tree.Sum(b), Size: int64(len(b))}
	if len(b) <= stateInline {
		doc.Inline = b
	} else {
		doc.Contents = append(doc.Contents, b)
	}
	return doc, nil
}

// normal returns raw with sorted keys, no spaces and its numbers as they were.
func normal(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("more than one value")
	}
	return marshal(v)
}

// marshal does what json.Marshal does, without its escapes for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
