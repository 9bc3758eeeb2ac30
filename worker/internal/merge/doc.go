// Package merge joins what several checkpoints of a run, or of runs that come from one
// another, made of the same beginning: three-way, with conflicts as data.
//
// [Trees] merge workspaces, path by path; [States] merges state documents, key by key;
// [Text] merges files, line by line. All take what is the same on all sides or was changed
// since the base on one only, and report everything else as a conflict; nothing is ever
// the last writer's. The order of the sides makes no difference to what is merged. The
// package reads and writes nothing: directories and files come through a [Source], and what is new is
// returned.
//
// A step with several dependencies starts from the merge of their checkpoints. A merge of
// runs has [Rules] besides, among them what people decided about conflicts.
package merge

import (
	"encoding/json"

	"nofx.dev/shared/tree"
)

// Kind says why a place cannot be merged by itself.
type Kind string

// The kinds of conflicts.
const (
	Content Kind = "content" // bytes, the target of a link or a value became two different ones
	Added   Kind = "added"   // two different ones were added
	Deleted Kind = "deleted" // deleted on one side and changed on the other
	Mode    Kind = "mode"    // same bytes, different modes
	Type    Kind = "type"    // file, link or directory against another of them; so for the types of JSON
	Case    Kind = "case"    // two names that some file systems take for one
)

// Conflict is one place on which two sides disagree: a path of the workspace, or a
// JSON pointer into the state document.
type Conflict struct {
	Path    string `json:"path,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Kind    Kind   `json:"kind"`
	Line    int    `json:"line,omitempty"` // of the base, from 1: the first place at which edits of a text file meet

	// Only by Rules with Values.
	Base, Ours, Theirs *Value `json:"-"` // nil: nothing is there
	Renamed            string `json:"-"` // of a deleted file: where its side has one of the same bytes that is new
	Text               bool   `json:"-"` // the lines of both sides can be taken
}

// At returns the path or pointer.
func (c Conflict) At() string { return c.Path + c.Pointer }

// Value is what one side has at a conflict: an entry of a directory, or a JSON value.
type Value struct {
	Entry   *tree.Entry
	Excerpt string // of a text file: the lines of the first place at which edits meet, up to a kibibyte
	JSON    json.RawMessage
}

// Rules say how a merge decides where the sides alone do not.
type Rules struct {
	// Strict lets each path and each pointer that both sides changed conflict, unless
	// both made the same of it.
	Strict bool
	// Arrays returns how the array at a pointer is merged if both sides changed it:
	// append, set or byKey:<member>; "" is a conflict. Nil knows no array.
	Arrays func(pointer string) string
	// Takes returns the decision about a conflict by its path or pointer. Nil has none.
	Takes func(c Conflict) (Take, bool)
	// Gates reports whether a step is a gate, for a merge of runs: what is recorded of a
	// gate, and of a step that has not succeeded in ours, is a fact of ours and no content.
	// Nil merges records as any other value.
	Gates func(step string) bool
	// Values gives conflicts what all sides have there, so that people can decide.
	Values bool
}

// Take is the decision about one conflict.
type Take struct {
	Side Side
	// Of Given: what is put there.
	Entry   *tree.Entry     // for a path: digest and size of a stored file; its mode is that of a side
	Content []byte          // for a path without Entry
	JSON    json.RawMessage // for a pointer
}

// Side is what a conflict is decided for.
type Side string

// The sides that can be taken.
const (
	Ours   Side = "ours"
	Theirs Side = "theirs"
	Base   Side = "base"
	Both   Side = "both" // of texts, where they conflict: the lines of ours, then those of theirs
	Given  Side = "given"
)

// Limits of a merge: how many conflicts it reports, and how large a file may be whose lines
// are merged.
const (
	MaxConflicts = 10_000
	mostText     = 1 << 20
	mostExcerpt  = 1 << 10
)
