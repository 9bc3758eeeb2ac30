package run

import (
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

// EventType is a row of the event catalogue: a type that events have, and the members
// that their data may have. Any may also have request_trace_id, where a request of
// another trace caused it.
//
// A change of state has the type <machine>.<new state>; which transition it was is its
// event. All others are named here.
type EventType struct {
	Name string
	Data []string // sorted
}

// eventTypes is the event catalogue.
var eventTypes = catalogue(
	EventType{"run.created", []string{"goal", "kind", "parent_checkpoint_id", "parent_run_id", "plan_digest", "restored", "steps"}},
	EventType{"step.log", []string{"bytes", "fence", "lines", "n", "offset", "step"}},
	EventType{"checkpoint.created", []string{"bytes_new", "checkpoint_id", "digest", "kind"}},
	EventType{"bisect.probed", []string{"checkpoint_id", "duration_ms", "exit_code", "left", "outcome"}},
	EventType{"checkpoint.marked", []string{"checkpoint_id", "hold", "label", "reason"}},
	EventType{"checkpoint.corrupt", []string{"ancestor_id", "checkpoint_id", "code"}},
	EventType{"artifact.created", []string{"artifact_id", "bytes", "name", "sha256"}},
	EventType{"approval.decided", []string{"by", "by_name", "decision", "gate_id", "given", "wanted"}},
	EventType{"gate.pending", gateData},
	EventType{"merge.open", mergeData},
	EventType{"review.posted", []string{"expected", "posted", "review_id", "route"}},
)

// stateData are the members of data in events of state, by machine.
var stateData = map[string][]string{
	RunMachine.String():  {"failure_class"},
	StepMachine.String(): {"at", "attempt", "failure_class", "wait_ms"},
	GateMachine.String(): gateData,

	MergeMachine.String(): mergeData,

	review.Machine.String():        reviewData,
	review.FindingMachine.String(): findingData,
}

var gateData = []string{"expires_at", "gate", "gate_id", "kind", "message", "round"}

var mergeData = []string{"checkpoint_id", "conflicts", "merge_id", "outcome", "source_run_id"}

var reviewData = []string{"counts", "dry_run", "head_sha", "provider", "pull_request", "repository", "review_id", "superseded_by", "verdict"}

var findingData = []string{"finding_id", "path", "review_id", "scope", "severity"}

// catalogue adds to types those of the states that some transition leads to.
func catalogue(types ...EventType) []EventType {
	for _, m := range Machines {
		for _, t := range m.Transitions() {
			name := m.String() + "." + string(t.To)
			if !slices.ContainsFunc(types, func(e EventType) bool { return e.Name == name }) {
				types = append(types, EventType{name, stateData[m.String()]})
			}
		}
	}
	slices.SortFunc(types, func(a, b EventType) int { return strings.Compare(a.Name, b.Name) })
	return types
}

// EventTypes returns the event catalogue, by name.
func EventTypes() []EventType { return slices.Clone(eventTypes) }

// EventNouns returns the nouns of events: the first parts of their types.
func EventNouns() (nouns []string) {
	for _, t := range eventTypes {
		if noun, _, _ := strings.Cut(t.Name, "."); !slices.Contains(nouns, noun) {
			nouns = append(nouns, noun)
		}
	}
	return nouns
}
