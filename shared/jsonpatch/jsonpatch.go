// Package jsonpatch applies JSON patches (RFC 6902): those that users send to edit the state
// of a branch, and those that a diff of two states consists of.
//
// Numbers keep their digits, and a member that is missing is not one that is null.
package jsonpatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"

	patch "github.com/evanphx/json-patch/v5"

	"nofx.dev/shared/fault"
)

// Operation is one operation of a patch. Old is not of RFC 6902, which has readers ignore
// it: with it a patch can be inverted.
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
	Old   json.RawMessage `json:"old,omitempty"`
}

// copyLimit is how many bytes the copy operations of a patch may add to a document.
const copyLimit = 16 << 20

// Apply returns doc after the operations of a patch, in their order. An operation that is
// not one of RFC 6902, or does not apply to what those before it left, is fault.Invalid
// (patch-failed), and its field's pointer is the index of the operation, such as /3.
func Apply(doc []byte, ops []Operation) ([]byte, error) {
	for i, op := range ops {
		if err := check(op); err != nil {
			return nil, failed(i, err)
		}
	}
	if !json.Valid(doc) {
		return nil, errors.New("apply a patch: the document is not JSON")
	}
	result, err := apply(doc, ops)
	if err == nil || len(ops) == 0 {
		return result, err
	}
	// The patch does not apply from the operation on that does not.
	at := sort.Search(len(ops)-1, func(i int) bool {
		_, err := apply(doc, ops[:i+1])
		return err != nil
	})
	_, err = apply(doc, ops[:at+1])
	return nil, failed(at, err)
}

func failed(i int, err error) error {
	return fault.OfFields("patch-failed", fault.Field{Pointer: fmt.Sprintf("/%d", i), Detail: err.Error()}).Because(err)
}

// pointer matches a JSON pointer (RFC 6901).
var pointer = regexp.MustCompile(`^(?s:(/([^~/]|~[01])*)*)$`)

// check returns the error of an operation that is none. The library would read some of
// these as others.
func check(op Operation) error {
	switch op.Op {
	case "add", "replace", "test":
		if op.Value == nil {
			return fmt.Errorf("%s needs a value", op.Op)
		}
	case "move", "copy":
		if op.From == "" || !pointer.MatchString(op.From) {
			return fmt.Errorf("%q is not a JSON pointer to %s from", op.From, op.Op)
		}
	case "remove":
	default:
		return fmt.Errorf("%q is not an operation: use add, remove, replace, move, copy or test", op.Op)
	}
	if !pointer.MatchString(op.Path) {
		return fmt.Errorf("%q is not a JSON pointer", op.Path)
	}
	return nil
}

func apply(doc []byte, ops []Operation) ([]byte, error) {
	list := make([]Operation, 0, len(ops))
	for _, op := range ops {
		if op.Op == "test" && op.Path != "" && string(op.Value) == "null" {
			// To the library a missing member is null. Moved to where it is, a value stays
			// what it is, and has to be there.
			list = append(list, Operation{Op: "move", From: op.Path, Path: op.Path})
		}
		op.Old = nil
		list = append(list, op)
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	p, err := patch.DecodePatch(raw)
	if err != nil {
		return nil, err
	}
	return p.ApplyWithOptions(doc, &patch.ApplyOptions{AccumulatedCopySizeLimit: copyLimit})
}

// Pointer returns the JSON pointer to a member of what at points to.
func Pointer(at, member string) string { return at + "/" + escape.Replace(member) }

var escape = strings.NewReplacer("~", "~0", "/", "~1")
