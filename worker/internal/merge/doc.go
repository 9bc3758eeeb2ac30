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
// A step with several dependencies starts from the merge of their checkpoints.
package merge

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
}

// At returns the path or pointer.
func (c Conflict) At() string { return c.Path + c.Pointer }

// Limits of a merge: how many conflicts it reports, and how large a file may be whose lines
// are merged.
const (
	mostConflicts = 10_000
	mostText      = 1 << 20
)
