package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gowebpki/jcs"

	"nofx.dev/shared/tree"
)

// Manifest is what a checkpoint is: its address is the digest of its canonical
// form, and everything it names it names by digest. Ids are in their public form.
type Manifest struct {
	Kind     string        `json:"kind"`
	Tenant   string        `json:"tenant"`
	Run      string        `json:"run"`
	Step     string        `json:"step,omitempty"`
	Fence    int64         `json:"fence,omitempty"`
	Seq      int64         `json:"seq,omitempty"`
	Parents  []tree.Digest `json:"parents"` // manifests
	State    StateRef      `json:"state"`
	Tree     tree.Digest   `json:"tree"`
	Excludes []string      `json:"excludes"`
	Sessions []SessionRef  `json:"sessions"`
	Gate     *GateRef      `json:"gate,omitempty"`
	Code     Code          `json:"code"`
	Trace    Trace         `json:"trace"`
	Created  time.Time     `json:"created"`
}

// StateRef names a state document. Enc is full.
type StateRef struct {
	Enc    string      `json:"enc"`
	Digest tree.Digest `json:"digest"`
	Size   int64       `json:"size"`
}

// SessionRef names the memory of a session up to a message, never its content.
type SessionRef struct {
	ID      string `json:"id"`
	UptoSeq int64  `json:"upto_seq"`
}

// GateRef is the gate whose verdict a checkpoint belongs to.
type GateRef struct {
	ID      string `json:"id"`
	Verdict string `json:"verdict"`
}

// Code is what ran: the worker's version, its image and the plan.
type Code struct {
	Worker string `json:"worker"`
	Image  string `json:"image,omitempty"`
	Plan   string `json:"plan"`
}

// Trace is the span that wrote the checkpoint.
type Trace struct {
	TraceID string `json:"trace_id"`
	SpanID  string `json:"span_id"`
}

// Encode is m in canonical JSON (RFC 8785), version 1, and its digest. More than
// 256 KiB are fault.Invalid.
func (m Manifest) Encode() ([]byte, tree.Digest, error) {
	if m.Parents == nil {
		m.Parents = []tree.Digest{}
	}
	if m.Excludes == nil {
		m.Excludes = []string{}
	}
	if m.Sessions == nil {
		m.Sessions = []SessionRef{}
	}
	m.Created = m.Created.UTC().Round(0)
	type body Manifest // without this method
	b, err := json.Marshal(struct {
		V int `json:"v"`
		body
	}{1, body(m)})
	if err != nil {
		return nil, tree.Digest{}, fmt.Errorf("encode manifest: %w", err)
	}
	if b, err = jcs.Transform(b); err != nil {
		return nil, tree.Digest{}, fmt.Errorf("encode manifest: %w", err)
	}
	if len(b) > manifestLimit {
		return nil, tree.Digest{}, beyond("the manifest is larger than %d bytes", manifestLimit)
	}
	return b, tree.Sum(b), nil
}

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

// Sizes in bytes up to which documents stay where they are named.
const (
	outputsInline = 4 << 10
	stateInline   = 64 << 10
)

// Document is a state in bytes.
type Document struct {
	Ref      StateRef
	Inline   []byte   // for the row; nil when the document is one of Contents
	Contents [][]byte // for Save: what the row does not hold
}

// Encode is the document of s: keys sorted, numbers with the digits they came
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
		return Document{}, beyond("the state is larger than %d bytes", stateLimit)
	}
	doc.Ref = StateRef{Enc: "full", Digest: tree.Sum(b), Size: int64(len(b))}
	if len(b) <= stateInline {
		doc.Inline = b
	} else {
		doc.Contents = append(doc.Contents, b)
	}
	return doc, nil
}

// normal is raw with sorted keys, no spaces and its numbers as they were.
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

// marshal is json.Marshal without its escapes for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
