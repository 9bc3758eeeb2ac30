package run

import (
	"time"

	"github.com/google/uuid"
)

// MaxCompared is the number of runs that can be compared at once.
const MaxCompared = 16

// Comparison is what several runs of one plan or one line came to, side by side.
type Comparison struct {
	Common *uuid.UUID // the newest checkpoint that all of them come from; nil: there is none
	Runs   []Compared // as they were asked for
}

// Compared is one of the runs.
type Compared struct {
	Run      Run
	Active   *time.Duration // without waits and pauses; nil: it has not started, or its events were deleted
	Attempts int            // its own, not those of restored steps
	Usage    Usage          // of these
	Diff     *DiffSize      // of its newest checkpoint against the common one; nil: it was not computed
	Steps    []ComparedStep // in plan order
	Gates    []ComparedGate
}

// DiffSize is how much a diff is.
type DiffSize struct{ Files, LinesAdded, LinesDeleted int }

// ComparedStep is a step of a run with digests of what it left.
type ComparedStep struct {
	Name     string
	State    State
	Restored bool
	Outputs  string // digest; "" without outputs
	Tree     string // digest of the files that it left; ""
}

// ComparedGate is the newest round of a gate.
type ComparedGate struct {
	Step  string
	Name  string
	State State
	Round int
}

// Difference is the first thing in which a step is not the same in all runs.
type Difference string

// The differences, in the order in which they are looked for.
const (
	Missing         Difference = "missing" // some runs have no such step
	OtherDefinition Difference = "definition"
	OtherStatus     Difference = "status"
	OtherOutputs    Difference = "outputs"
	OtherFiles      Difference = "files"
)

// StepDifference is a step of compared runs and in what it differs, or "".
type StepDifference struct {
	Name  string
	First Difference
	Steps []*ComparedStep // by run; nil: it has no such step
}

// Differences returns all steps of the runs, whose expanded plans are given, in the order
// in which they come first, each with its first difference.
func (c Comparison) Differences(plans []Plan) (list []StepDifference) {
	at := map[string]int{}
	index := make([]map[string]int, len(plans))
	for i, p := range plans {
		index[i] = make(map[string]int, len(p.Steps))
		for j, s := range p.Steps {
			index[i][s.Name] = j
		}
		for j := range c.Runs[i].Steps {
			s := &c.Runs[i].Steps[j]
			if _, known := at[s.Name]; !known {
				at[s.Name] = len(list)
				list = append(list, StepDifference{Name: s.Name, Steps: make([]*ComparedStep, len(plans))})
			}
			list[at[s.Name]].Steps[i] = s
		}
	}
	for k := range list {
		d := &list[k]
		d.First = d.first(func(i int) bool {
			return plans[i].sameDefinition(index[i][d.Name], plans[0], index[0][d.Name])
		})
	}
	return list
}

// first returns the first difference. sameDefinition compares run i with the first run.
func (d *StepDifference) first(sameDefinition func(i int) bool) Difference {
	is := func(different func(a, b *ComparedStep) bool) bool {
		for _, s := range d.Steps[1:] {
			if different(d.Steps[0], s) {
				return true
			}
		}
		return false
	}
	for _, s := range d.Steps {
		if s == nil {
			return Missing
		}
	}
	for i := range d.Steps {
		if !sameDefinition(i) {
			return OtherDefinition
		}
	}
	switch {
	case is(func(a, b *ComparedStep) bool { return a.State != b.State }):
		return OtherStatus
	case is(func(a, b *ComparedStep) bool { return a.Outputs != b.Outputs }):
		return OtherOutputs
	case is(func(a, b *ComparedStep) bool { return a.Tree != b.Tree }):
		return OtherFiles
	}
	return ""
}

// Lineage is a run with all runs of its line: the first one, its branches and theirs.
type Lineage struct {
	Root      uuid.UUID
	Runs      []LineRun // oldest first
	Merges    []LineMerge
	Truncated bool // there are more
}

// LineMerge is a merge that was committed into a run of a line.
type LineMerge struct {
	SourceRunID  uuid.UUID
	TargetRunID  uuid.UUID
	CheckpointID uuid.UUID // that it made in the target
}

// LineRun is a run of a line.
type LineRun struct {
	ID                 uuid.UUID
	Name               string
	Goal               string
	State              State
	ParentRunID        *uuid.UUID
	ParentCheckpointID *uuid.UUID
	CreatedBy          string
	CreatedAt          time.Time
	FinishedAt         *time.Time
}
