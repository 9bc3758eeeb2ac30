package run

import "slices"

// Machine is a state machine of the database, named like its table.
type Machine string

// The machines that exist so far.
const (
	RunMachine  Machine = "run"
	StepMachine Machine = "step"
	GateMachine Machine = "gate"
)

// State is a state of some machine.
type State string

// The states, each listed under the first machine that has it.
const (
	Queued    State = "queued"
	Running   State = "running"
	Waiting   State = "waiting"
	Paused    State = "paused"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Cancelled State = "cancelled"

	Pending  State = "pending"
	Ready    State = "ready"
	Retrying State = "retrying"
	Skipped  State = "skipped"

	Passed  State = "passed"
	Waived  State = "waived"
	Expired State = "expired"
	Error   State = "error"
)

// Transition is one edge of a machine. A step's edge with NeedsLease is taken
// only by the holder of its live lease; one with NeedsReason carries a reason.
type Transition struct {
	Machine     Machine
	From        State
	Event       string
	To          State
	NeedsLease  bool
	NeedsReason bool
}

// Transitions mirrors the table nofx.transition, sorted by machine, from and
// event (EXECUTION.md, Transitions).
var Transitions = transitions()

func transitions() []Transition {
	const lease, reason = true, true
	var all []Transition
	add := func(m Machine, from []State, event string, to State, needsLease, needsReason bool) {
		for _, f := range from {
			all = append(all, Transition{m, f, event, to, needsLease, needsReason})
		}
	}
	live := []State{Queued, Running, Waiting, Paused}
	add(RunMachine, []State{Queued}, "start", Running, !lease, !reason)
	add(RunMachine, []State{Queued, Running, Waiting}, "pause", Paused, !lease, !reason)
	add(RunMachine, live, "cancel", Cancelled, !lease, reason)
	add(RunMachine, live, "fail", Failed, !lease, reason)
	add(RunMachine, []State{Running}, "wait", Waiting, !lease, !reason)
	add(RunMachine, []State{Waiting}, "wake", Running, !lease, !reason)
	add(RunMachine, []State{Running, Waiting, Paused}, "succeed", Succeeded, !lease, !reason)
	add(RunMachine, []State{Paused}, "resume", Running, !lease, !reason)
	add(RunMachine, []State{Paused}, "resume_waiting", Waiting, !lease, !reason)
	add(RunMachine, []State{Paused}, "resume_queued", Queued, !lease, !reason)
	add(RunMachine, []State{Failed, Cancelled}, "retry", Running, !lease, reason)
	add(RunMachine, []State{Failed, Cancelled}, "resume", Running, !lease, reason)

	add(StepMachine, []State{Pending}, "deps_met", Ready, !lease, !reason)
	add(StepMachine, []State{Pending}, "skip", Skipped, !lease, reason)
	add(StepMachine, []State{Pending, Ready, Running, Waiting, Retrying}, "cancel", Cancelled, !lease, reason)
	add(StepMachine, []State{Ready}, "claim", Running, !lease, !reason)
	add(StepMachine, []State{Running}, "succeed", Succeeded, lease, !reason)
	add(StepMachine, []State{Running}, "fail", Failed, lease, reason)
	add(StepMachine, []State{Running}, "wait", Waiting, lease, reason)
	add(StepMachine, []State{Running}, "retry", Retrying, lease, reason)
	add(StepMachine, []State{Running}, "interrupted", Ready, lease, reason)
	add(StepMachine, []State{Running}, "lease_expired", Ready, !lease, reason)
	add(StepMachine, []State{Running}, "poison", Failed, !lease, reason)
	add(StepMachine, []State{Waiting}, "signal", Ready, !lease, !reason)
	add(StepMachine, []State{Waiting}, "approve", Succeeded, !lease, !reason)
	add(StepMachine, []State{Waiting}, "waive", Succeeded, !lease, !reason)
	add(StepMachine, []State{Waiting}, "elapsed", Succeeded, !lease, !reason)
	add(StepMachine, []State{Waiting}, "expire", Failed, !lease, reason)
	add(StepMachine, []State{Waiting}, "reject", Failed, !lease, reason)
	add(StepMachine, []State{Retrying}, "backoff_elapsed", Ready, !lease, !reason)
	add(StepMachine, []State{Failed}, "retry", Ready, !lease, reason)
	add(StepMachine, []State{Skipped, Cancelled}, "reopen", Pending, !lease, reason)

	add(GateMachine, []State{Pending}, "pass", Passed, lease, !reason)
	add(GateMachine, []State{Pending}, "fail", Failed, lease, !reason)
	add(GateMachine, []State{Pending}, "error", Error, lease, !reason)
	add(GateMachine, []State{Pending}, "approve", Passed, !lease, !reason)
	add(GateMachine, []State{Pending}, "reject", Failed, !lease, reason)
	add(GateMachine, []State{Pending, Failed, Error, Expired}, "waive", Waived, !lease, reason)
	add(GateMachine, []State{Pending}, "expire", Expired, !lease, reason)
	add(GateMachine, []State{Pending}, "withdraw", Expired, !lease, reason)

	slices.SortFunc(all, func(a, b Transition) int {
		return slices.Compare(
			[]string{string(a.Machine), string(a.From), a.Event},
			[]string{string(b.Machine), string(b.From), b.Event})
	})
	return all
}

// States are the states of each machine in the order pages show them.
var States = map[Machine][]State{
	RunMachine:  {Queued, Running, Waiting, Paused, Succeeded, Failed, Cancelled},
	StepMachine: {Pending, Ready, Running, Waiting, Retrying, Succeeded, Failed, Skipped, Cancelled},
	GateMachine: {Pending, Passed, Failed, Waived, Expired, Error},
}

// Terminal reports whether s ends a run or a step. Only an explicit retry,
// resume or reopen leaves such a state again.
func (s State) Terminal() bool {
	switch s {
	case Succeeded, Failed, Skipped, Cancelled:
		return true
	}
	return false
}

// Next is the state that event leads to from from, and false when the machine
// has no such edge.
func Next(m Machine, from State, event string) (State, bool) {
	for _, t := range Transitions {
		if t.Machine == m && t.From == from && t.Event == event {
			return t.To, true
		}
	}
	return "", false
}

// FailureClass says why a step or run failed, for people and for the retry rule.
type FailureClass string

// The classes of EXECUTION.md.
const (
	ClassTool              FailureClass = "tool"
	ClassTimeout           FailureClass = "timeout"
	ClassInvalid           FailureClass = "invalid"
	ClassPolicy            FailureClass = "policy"
	ClassGateFailed        FailureClass = "gate_failed"
	ClassGateError         FailureClass = "gate_error"
	ClassGateRejected      FailureClass = "gate_rejected"
	ClassExpired           FailureClass = "expired"
	ClassWorkspaceConflict FailureClass = "workspace_conflict"
	ClassInfrastructure    FailureClass = "infrastructure"
	ClassCancelled         FailureClass = "cancelled"
	ClassExhausted         FailureClass = "exhausted"
	ClassPoisoned          FailureClass = "poisoned"
)
