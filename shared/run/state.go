package run

import (
	"nofx.dev/shared/machine"
	"nofx.dev/shared/review"
)

// State is a state of a run, a step, a gate or a merge.
type State = machine.State

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

	Open       State = "open"
	Conflicted State = "conflicted"
	Committed  State = "committed"
	Abandoned  State = "abandoned"
)

// The machines of EXECUTION.md, Transitions. A test compares them with the rows of the
// database.

// RunMachine is the state machine of a run. Queued, running, waiting and paused runs are
// live.
var RunMachine = machine.New("run",
	[]State{Queued, Running, Waiting, Paused, Succeeded, Failed, Cancelled},
	[]State{Succeeded, Failed, Cancelled},
	machine.Edges{From: []State{Queued}, Event: "start", To: Running},
	machine.Edges{From: []State{Queued, Running, Waiting}, Event: "pause", To: Paused},
	machine.Edges{From: liveRun, Event: "cancel", To: Cancelled, NeedsReason: true},
	machine.Edges{From: liveRun, Event: "fail", To: Failed, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "wait", To: Waiting},
	machine.Edges{From: []State{Waiting}, Event: "wake", To: Running},
	machine.Edges{From: []State{Running, Waiting, Paused}, Event: "succeed", To: Succeeded},
	machine.Edges{From: []State{Paused}, Event: "resume", To: Running},
	machine.Edges{From: []State{Paused}, Event: "resume_waiting", To: Waiting},
	machine.Edges{From: []State{Paused}, Event: "resume_queued", To: Queued},
	machine.Edges{From: []State{Failed, Cancelled}, Event: "retry", To: Running, NeedsReason: true},
	machine.Edges{From: []State{Failed, Cancelled}, Event: "resume", To: Running, NeedsReason: true},
)

// StepMachine is the state machine of a step.
var StepMachine = machine.New("step",
	[]State{Pending, Ready, Running, Waiting, Retrying, Succeeded, Failed, Skipped, Cancelled},
	[]State{Succeeded, Failed, Skipped, Cancelled},
	machine.Edges{From: []State{Pending}, Event: "deps_met", To: Ready},
	machine.Edges{From: []State{Pending}, Event: "skip", To: Skipped, NeedsReason: true},
	machine.Edges{From: []State{Pending, Ready, Running, Waiting, Retrying}, Event: "cancel", To: Cancelled, NeedsReason: true},
	machine.Edges{From: []State{Ready}, Event: "claim", To: Running},
	machine.Edges{From: []State{Running}, Event: "succeed", To: Succeeded, NeedsLease: true},
	machine.Edges{From: []State{Running}, Event: "fail", To: Failed, NeedsLease: true, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "wait", To: Waiting, NeedsLease: true, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "retry", To: Retrying, NeedsLease: true, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "interrupted", To: Ready, NeedsLease: true, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "lease_expired", To: Ready, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "poison", To: Failed, NeedsReason: true},
	machine.Edges{From: []State{Waiting}, Event: "signal", To: Ready},
	machine.Edges{From: []State{Waiting}, Event: "approve", To: Succeeded},
	machine.Edges{From: []State{Waiting}, Event: "waive", To: Succeeded},
	machine.Edges{From: []State{Waiting}, Event: "elapsed", To: Succeeded},
	machine.Edges{From: []State{Waiting}, Event: "expire", To: Failed, NeedsReason: true},
	machine.Edges{From: []State{Waiting}, Event: "reject", To: Failed, NeedsReason: true},
	machine.Edges{From: []State{Retrying}, Event: "backoff_elapsed", To: Ready},
	machine.Edges{From: []State{Failed}, Event: "retry", To: Ready, NeedsReason: true},
	machine.Edges{From: []State{Skipped, Cancelled}, Event: "reopen", To: Pending, NeedsReason: true},
)

// GateMachine is the state machine of a gate. A waiver may still follow a verdict.
var GateMachine = machine.New("gate",
	[]State{Pending, Passed, Failed, Waived, Expired, Error},
	[]State{Passed, Failed, Waived, Expired, Error},
	machine.Edges{From: []State{Pending}, Event: "pass", To: Passed, NeedsLease: true},
	machine.Edges{From: []State{Pending}, Event: "fail", To: Failed, NeedsLease: true},
	machine.Edges{From: []State{Pending}, Event: "error", To: Error, NeedsLease: true},
	machine.Edges{From: []State{Pending}, Event: "approve", To: Passed},
	machine.Edges{From: []State{Pending}, Event: "reject", To: Failed, NeedsReason: true},
	machine.Edges{From: []State{Pending, Failed, Error, Expired}, Event: "waive", To: Waived, NeedsReason: true},
	machine.Edges{From: []State{Pending}, Event: "expire", To: Expired, NeedsReason: true},
	machine.Edges{From: []State{Pending}, Event: "withdraw", To: Expired, NeedsReason: true},
)

// MergeMachine is the state machine of a merge. One that is ready can be committed.
var MergeMachine = machine.New("merge",
	[]State{Open, Conflicted, Ready, Committed, Abandoned},
	[]State{Committed, Abandoned},
	machine.Edges{From: []State{Open}, Event: "compute_clean", To: Ready},
	machine.Edges{From: []State{Open}, Event: "compute_conflicts", To: Conflicted},
	machine.Edges{From: []State{Conflicted}, Event: "resolve_all", To: Ready},
	machine.Edges{From: []State{Ready}, Event: "unresolve", To: Conflicted},
	machine.Edges{From: []State{Conflicted, Ready}, Event: "target_moved", To: Open},
	machine.Edges{From: []State{Ready}, Event: "commit", To: Committed},
	machine.Edges{From: []State{Open, Conflicted, Ready}, Event: "abandon", To: Abandoned, NeedsReason: true},
)

var liveRun = []State{Queued, Running, Waiting, Paused}

// Machines are all machines, by name.
var Machines = []*machine.Machine{review.FindingMachine, GateMachine, MergeMachine, review.Machine, RunMachine, StepMachine}

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
