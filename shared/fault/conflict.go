package fault

import (
	"cmp"
	"errors"
)

// Transition is an event that a machine refuses in the state that it is in.
type Transition struct {
	Machine string   // run, step, gate, …
	From    string   // the state that it is in
	Event   string   // what was asked for; "" when a change of state named none
	Allowed []string // the events that are possible in From
}

// OfTransition returns the Conflict of a transition that was refused.
func OfTransition(t Transition) *Error {
	e := New(Conflict, "illegal-transition", "%s is not possible while the %s is %s", cmp.Or(t.Event, "this"), t.Machine, t.From)
	e.Transition = &t
	return e
}

// TransitionOf returns the transition that err refuses, and false for any other error.
func TransitionOf(err error) (Transition, bool) {
	if e, ok := errors.AsType[*Error](err); ok && e.Transition != nil {
		return *e.Transition, true
	}
	return Transition{}, false
}

// Stale is the conflict of a change to a version that is not the current one.
type Stale struct {
	Version int64 // the current one
}

// OfStale returns the Conflict of a change to a stale version.
func OfStale(s Stale) *Error {
	e := New(Conflict, "stale-version", "it has changed in the meantime; its version is now %d", s.Version)
	e.Stale = &s
	return e
}

// StaleOf returns what was current when err refused a change, and false for any other
// error.
func StaleOf(err error) (Stale, bool) {
	if e, ok := errors.AsType[*Error](err); ok && e.Stale != nil {
		return *e.Stale, true
	}
	return Stale{}, false
}
