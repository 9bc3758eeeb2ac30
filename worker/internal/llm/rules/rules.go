// Package rules is a model that is none: it does what a request spells out, the same
// each time, without network and without tokens. It is for demonstrations, for CI and
// for plans that are written before there is a key.
//
// Asked for file edits, it takes the fenced blocks of what we say, and of nothing that
// we show, whose line of opening names a file:
//
//	```go path=greet.go
//	the whole file
//	```
//
// A block with SEARCH and REPLACE marks edits a file that is there, and one that is
// opened with the word delete, with or without lines in it, deletes it:
//
//	```path=greet.go
//	<<<<<<< SEARCH
//	old
//	=======
//	new
//	>>>>>>> REPLACE
//	```
//	```delete path=old.go
//	```
//
// A longer fence holds shorter ones. A request without such a block is refused, since
// nothing here understands one.
//
// Asked for the findings of a review, it reads the numbered lines that it is shown and
// reports known mistakes in added lines of Go, TypeScript and JavaScript, Python and SQL.
// Each rule is about one mistake and looks at tokens, of Go also at syntax trees, and
// never at the inside of comments. A hunk is a piece of a file: what a rule would have to
// see of the rest, it does not guess. testdata/corpus says how often that is right.
package rules

import (
	"context"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/reviewer"
)

// Name is what the model is called.
const Name = "rules"

type model struct{}

// New returns the model.
func New() llm.Model { return model{} }

func (model) Name() string { return Name }

// Complete answers requests for edit.Schema and reviewer.Schema. Any other is
// fault.Invalid, as is a part of a diff that is not in numbered lines.
func (model) Complete(_ context.Context, r llm.Request) (llm.Response, error) {
	switch {
	case r.Schema != nil && r.Schema.Name == edit.Schema.Name:
		return edits(r)
	case r.Schema != nil && r.Schema.Name == reviewer.Schema.Name:
		return findings(r)
	}
	return llm.Response{}, fault.New(fault.Invalid, "invalid", "the rules have no answer of this kind")
}
