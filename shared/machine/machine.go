// Package machine has state machines as values. Each noun with states declares its
// machine where its other facts are, as package run does for run, step and gate; the
// database holds the same rows in nofx.machine_state and nofx.transition, enforces
// them, and a test compares the two.
package machine

import (
	"fmt"
	"slices"
)

// State is a state of some machine.
type State string

// Transition is one edge of a machine, as nofx.transition has it. One with NeedsLease
// is taken only by the holder of the step's lease, one with NeedsReason carries a
// reason.
type Transition struct {
	Machine     string
	From        State
	Event       string
	To          State
	NeedsLease  bool
	NeedsReason bool
}

// Edges are the transitions by which one event leads from several states to one.
type Edges struct {
	From        []State
	Event       string
	To          State
	NeedsLease  bool
	NeedsReason bool
}

// Machine is a state machine.
type Machine struct {
	name        string
	states      []State
	final       []State
	transitions []Transition
}

// New makes a machine of states, in the order in which they are shown. Only an
// explicit retry, resume or reopen leaves a final one. It panics where edges name
// other states or one event leads from a state twice.
func New(name string, states, final []State, edges ...Edges) *Machine {
	m := &Machine{name: name, states: states, final: final}
	for _, e := range edges {
		for _, from := range e.From {
			if _, twice := m.Next(from, e.Event); twice || !slices.Contains(states, from) || !slices.Contains(states, e.To) {
				panic(fmt.Sprintf("machine %s: %s from %s to %s", name, e.Event, from, e.To))
			}
			m.transitions = append(m.transitions, Transition{name, from, e.Event, e.To, e.NeedsLease, e.NeedsReason})
		}
	}
	slices.SortFunc(m.transitions, func(a, b Transition) int {
		return slices.Compare([]string{string(a.From), a.Event}, []string{string(b.From), b.Event})
	})
	return m
}

// String returns the machine's name, which is that of its table and of its events.
func (m *Machine) String() string { return m.name }

// States returns the machine's states in the order in which they are shown.
func (m *Machine) States() []State { return slices.Clone(m.states) }

// Transitions returns the machine's edges, sorted by state and event.
func (m *Machine) Transitions() []Transition { return slices.Clone(m.transitions) }

// Terminal reports whether s is a final state of the machine.
func (m *Machine) Terminal(s State) bool { return slices.Contains(m.final, s) }

// Next returns the state to which an event leads, and false when the machine has no
// such edge.
func (m *Machine) Next(from State, event string) (State, bool) {
	for _, t := range m.transitions {
		if t.From == from && t.Event == event {
			return t.To, true
		}
	}
	return "", false
}
