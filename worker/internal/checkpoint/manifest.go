package checkpoint

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/gowebpki/jcs"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// manifestLimit is the size in bytes of the largest manifest.
const manifestLimit = 256 << 10

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
	Edit     *EditRef      `json:"edit,omitempty"`
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

// EditRef is who edited what a branch began from, why, and what: the patch of the state,
// unless it is longer than 16 KiB, and the files that were written or deleted.
type EditRef struct {
	By          string          `json:"by"`
	Reason      string          `json:"reason,omitempty"`
	StatePatch  json.RawMessage `json:"state_patch,omitempty"`
	PatchDigest *tree.Digest    `json:"patch_digest,omitempty"`
	Files       []EditedFile    `json:"files,omitempty"`
}

// EditedFile is a path with what is there now, or nothing where it was deleted.
type EditedFile struct {
	Path   string       `json:"path"`
	Digest *tree.Digest `json:"digest,omitempty"`
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

// Encode returns m in canonical JSON (RFC 8785), version 1, and its digest. More than
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
		return nil, tree.Digest{}, beyond("manifest", manifestLimit)
	}
	return b, tree.Sum(b), nil
}

// beyond returns the error of a document over its limit: fault.Invalid with code
// workspace-limit, and the limit's name and number in Meta.
func beyond(name string, limit int64) error {
	return fault.New(fault.Invalid, "workspace-limit", "the %s is larger than %d bytes", name, limit)
}
