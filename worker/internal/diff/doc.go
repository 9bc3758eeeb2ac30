// Package diff computes what lies between two checkpoints: of their states as operations of
// RFC 6902, of their trees file by file with hunks of lines.
//
// [Compute] makes a [Document], one page of the whole. [Document.Patch] writes the same
// for people and for `git apply`. The package reads directories and files through a
// [Source] and writes nothing. Secrets are masked in all text that leaves it.
//
// Start reading at Compute (diff.go). Trees are compared in tree.go, files in file.go,
// lines in lines.go and states in state.go.
package diff

import (
	"context"

	"nofx.dev/shared/jsonpatch"
	"nofx.dev/shared/tree"
)

// The limits of a document and of the files whose lines are compared. Further changes are
// in the next document.
const (
	maxFiles    = 5_000
	maxDocument = 32 << 20 // bytes
	maxText     = 1 << 20  // bytes of a file
	maxLines    = 20_000   // of a file
)

// Source reads what trees are made of.
type Source struct {
	// Nodes returns the entries of each of the directories.
	Nodes func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error)
	// Files returns the contents of files and links, each of at most a mebibyte. One that
	// was purged is missing in what it returns.
	Files func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error)
}

// Checkpoint is one side of a diff. The zero Checkpoint stands for the time before a run's
// first one.
type Checkpoint struct {
	ID     string // in its public form
	Digest string
	State  []byte // nil: empty
	Tree   tree.Digest
}

// Redactor masks secrets.
type Redactor interface {
	String(s string) string
	Members(m map[string]any) map[string]any
}

// Options are what a diff is asked for.
type Options struct {
	Path string // only files of this path and below it; "": all
	From int    // the index of the first change of the page

	Gates    map[string]string // names of gates, by the names of their steps
	Redactor Redactor          // nil: nothing is masked

	document int // bytes of the largest document; 0: maxDocument
}

// Document is a page of what lies between two checkpoints. State, steps, gates and sessions
// are on the first page; the lines and bytes of the summary are those of the page.
type Document struct {
	V         int                   `json:"v"`
	From      Side                  `json:"from"`
	To        Side                  `json:"to"`
	Summary   Summary               `json:"summary"`
	State     []jsonpatch.Operation `json:"state"`
	Steps     []Step                `json:"steps"`
	Files     []File                `json:"files"`
	Sessions  []Session             `json:"sessions"`
	Gates     []Gate                `json:"gates"`
	Truncated bool                  `json:"truncated"`
	Next      *string               `json:"next"` // cursor of the next page

	Replaced bool `json:"-"` // the state's operations did not apply, and are one that replaces it
}

// Side names a checkpoint. It is empty for the time before a run's first one.
type Side struct {
	Checkpoint string `json:"checkpoint,omitempty"`
	Digest     string `json:"digest,omitempty"`
}

// Summary counts what has changed. Directories are not counted, and what has changed in
// one way only is counted once.
type Summary struct {
	Files    Counts `json:"files"`
	Lines    Lines  `json:"lines"`
	Bytes    int64  `json:"bytes"` // of the files as they are now
	StateOps int    `json:"state_ops"`
	Text     string `json:"text"`
}

// Counts are numbers of files by their status.
type Counts struct {
	Added    int `json:"added"`
	Modified int `json:"modified"`
	Deleted  int `json:"deleted"`
	Renamed  int `json:"renamed"`
	Mode     int `json:"mode"`
	Type     int `json:"type"`
}

// Lines are numbers of lines.
type Lines struct {
	Added   int `json:"added"`
	Deleted int `json:"deleted"`
}

// Step is a step whose state has changed. From is empty for one that was not known.
type Step struct {
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Gate is a gate that has decided since.
type Gate struct {
	Name    string `json:"name"`
	Step    string `json:"step"`
	Verdict string `json:"verdict"`
}

// Session is a session that has gone on since.
type Session struct {
	ID      string `json:"id"`
	FromSeq int64  `json:"from_seq"`
	ToSeq   int64  `json:"to_seq"`
}

// Status says what has become of a path.
type Status string

// The states of paths.
const (
	Added    Status = "added"
	Modified Status = "modified"
	Deleted  Status = "deleted"
	Renamed  Status = "renamed" // the same bytes at another path; perhaps with another mode
	Mode     Status = "mode"    // the same bytes with another mode
	Type     Status = "type"    // a file, a link or an empty directory in the place of another of them
)

// Kind says what a path holds, and so what is shown of it.
type Kind string

// The kinds. A directory is one without entries: others are where their files are.
const (
	Text      Kind = "text"
	Binary    Kind = "binary"  // a zero byte is among the first 8,000
	Large     Kind = "large"   // over a mebibyte, and not looked into
	Link      Kind = "symlink" // its lines are the link's text
	Directory Kind = "directory"
	Redacted  Kind = "redacted" // its bytes were purged
)

// File is a path that has changed.
type File struct {
	Path      string   `json:"path"`
	Status    Status   `json:"status"`
	From      *Content `json:"from,omitempty"`
	To        *Content `json:"to,omitempty"`
	Kind      Kind     `json:"kind"`
	Lines     *Lines   `json:"lines,omitempty"` // of text and links
	Unified   string   `json:"unified,omitempty"`
	Truncated bool     `json:"truncated"`        // its lines are not shown
	Reason    string   `json:"reason,omitempty"` // why they are not
	Masked    bool     `json:"masked,omitempty"` // secrets are masked in it: it cannot be applied

	hunks            string // Unified, also of bytes that are not UTF-8
	removed, created string // the same of what took another's place: all lines of the one, all of the other
}

// Content is what is, or was, at a path.
type Content struct {
	Path   string `json:"path,omitempty"` // of what was renamed
	Sha256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Mode   string `json:"mode"`
}

// Encode returns d in JSON, without escapes for HTML.
func (d *Document) Encode() ([]byte, error) { return marshal(d) }
