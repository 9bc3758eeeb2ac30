// Package fault gives every error that crosses a package border a kind that a
// machine can act on, a stable code and a detail for people.
//
// A [Kind] is itself an error, so that a caller asks errors.Is(err,
// fault.NotFound) and nothing else. The kinds say what happened, never how a
// process answers it: the gateway maps them to HTTP in one file, the worker to
// retry, snooze or drop in another.
package fault

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Kind is the class of an error; see the table in the package's users.
type Kind string

// The kinds. Anything that carries none is an internal error, whose text is
// never shown to a client.
const (
	Invalid         Kind = "invalid"         // the request or plan is wrong; repeating it cannot help
	Unauthenticated Kind = "unauthenticated" // nobody known is asking
	Forbidden       Kind = "forbidden"       // somebody known may not
	NotFound        Kind = "not_found"       // no such thing in this tenant
	Conflict        Kind = "conflict"        // the state or version does not allow it now
	Gone            Kind = "gone"            // it was there and has expired
	RateLimited     Kind = "rate_limited"    // later, see RetryAfter
	Unavailable     Kind = "unavailable"     // something we depend on is down; retry with jitter
	Fenced          Kind = "fenced"          // the lease is lost: drop everything, write nothing
)

func (k Kind) Error() string { return string(k) }

// Field is one fault of an input, addressed by JSON pointer.
type Field struct {
	Pointer string `json:"pointer"`
	Step    string `json:"step,omitempty"` // name of the plan's step that it is of
	Detail  string `json:"detail"`
}

// fieldsMost is the number of faults that an error names at the most.
const fieldsMost = 100

// OfFields returns the error of faults of an input, of which there is one at least: its
// detail is the first, and how many more there are.
func OfFields(code string, fields ...Field) *Error {
	at := fields[0].Pointer
	if fields[0].Step != "" {
		at += " (step " + fields[0].Step + ")"
	}
	if at != "" { // and not the whole input
		at += ": "
	}
	e := New(Invalid, code, "%s%s", at, fields[0].Detail)
	if n := len(fields) - 1; n > 0 {
		e.Detail += fmt.Sprintf(" (and %d more)", n)
	}
	e.Fields = fields[:min(len(fields), fieldsMost)]
	return e
}

// Error is an error with its kind. Code is one of the stable codes of the API's contract,
// Detail one sentence for people. Err, the cause, is for logs only.
type Error struct {
	Kind       Kind
	Code       string
	Detail     string
	Fields     []Field       // for Invalid: what is wrong, and where
	Transition *Transition   // for Conflict: the transition that was refused; see TransitionOf
	Stale      *Stale        // for Conflict: the version that was missed; see StaleOf
	RetryAfter time.Duration // for RateLimited and Unavailable
	Err        error
}

// New returns an error of a kind with a stable code and a formatted detail.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Because sets the cause and returns e.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Detail + ": " + e.Err.Error()
	}
	return e.Detail
}

// Is reports whether target is e's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of err, or "" when it carries none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	return ""
}

// Count returns a number with its noun, in the plural unless n is 1, for messages.
func Count[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.FormatInt(int64(n), 10) + " " + noun + "s"
}
