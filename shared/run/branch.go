package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"path"
	"slices"
	"strconv"

	"github.com/gowebpki/jcs"

	"nofx.dev/shared/fault"
)

// Limits of branches.
const (
	MaxBranches    = 100 // of a run
	MaxBranchDepth = 50
	MaxVariants    = 16 // in one request
	MaxName        = 255
	MaxEditFiles   = 200
)

// BranchEdit is what a branch changes of the checkpoint at which it begins. Who made the
// edits, why, and the patch as it was given are kept with their result.
type BranchEdit struct {
	By         string                     `json:"by"`
	Reason     string                     `json:"reason,omitempty"`
	StatePatch json.RawMessage            `json:"state_patch,omitempty"`
	Vars       json.RawMessage            `json:"vars,omitempty"`    // all of them, as patched
	Outputs    map[string]json.RawMessage `json:"outputs,omitempty"` // of steps, as patched
	Files      []EditFile                 `json:"files,omitempty"`
}

// EditFile is a file of a workspace to write, or a path to delete with all below it.
type EditFile struct {
	Path          string   `json:"path"`
	Content       *string  `json:"content,omitempty"`
	ContentBase64 *string  `json:"content_base64,omitempty"`
	ArtifactID    string   `json:"artifact_id,omitempty"`
	Mode          FileMode `json:"mode,omitempty"`
	Delete        bool     `json:"delete,omitempty"`
}

// Write returns f as a file to write.
func (f EditFile) Write() WriteFile {
	return WriteFile{Path: f.Path, Content: f.Content, ContentBase64: f.ContentBase64, ArtifactID: f.ArtifactID, Mode: f.Mode}
}

// CheckEdits returns the errors in files to edit, whose list is at a pointer.
func CheckEdits(at string, files []EditFile) []fault.Field {
	var c checker
	if len(files) > MaxEditFiles {
		c.add(at, fmt.Sprintf("%d files; at most %d", len(files), MaxEditFiles))
		return c.fields
	}
	seen := make(map[string]int, len(files))
	for i, f := range files {
		of := at + "/" + strconv.Itoa(i)
		if !f.Delete {
			c.file(of, f.Write())
		} else if detail := BadPath(f.Path); detail != "" {
			c.add(of+"/path", detail)
		} else if f.Content != nil || f.ContentBase64 != nil || f.ArtifactID != "" || f.Mode != "" {
			c.add(of, "has content and is to be deleted")
		}
		if j, twice := seen[f.Path]; twice {
			c.add(of+"/path", fmt.Sprintf("is also that of file %d", j))
		}
		seen[f.Path] = i
	}
	for i, f := range files {
		for dir := path.Dir(f.Path); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if j, ok := seen[dir]; ok && !f.Delete && !files[j].Delete {
				c.add(at+"/"+strconv.Itoa(i)+"/path", fmt.Sprintf("is below file %d", j))
			}
		}
	}
	return c.fields
}

// Rerun is the reason why a step of a branch runs although it is not a gate.
type Rerun string

// The reasons for which steps run again.
const (
	NotReached        Rerun = "not_reached"        // it had not succeeded at the checkpoint
	NewStep           Rerun = "new"                // the parent has no such step
	DefinitionChanged Rerun = "definition_changed" // its tool, inputs or dependencies
	InputsChanged     Rerun = "inputs_changed"     // outputs that its inputs name were edited
	DependencyReruns  Rerun = "dependency_reruns"  // a step that it depends on runs again
)

// BranchStep is a step of a branch: it is restored, or a gate that opens again, or it runs
// for the reason Why.
type BranchStep struct {
	PlanStep
	Restored bool
	Gate     bool
	Reopened bool // the gate had passed at the checkpoint, or before it in an earlier run
	Why      Rerun
	Because  string   // DependencyReruns: the step that runs again
	Needs    []string // the steps that it waits for, and starts from
}

// Fork is the point of a run at which a branch begins.
type Fork struct {
	Before Plan // of the parent, expanded
	After  Plan // of the branch, expanded
	// Passed reports whether a step of the parent had succeeded at the checkpoint.
	Passed func(step string) bool
	// Changed reports whether a step that is the same in both plans has other inputs in the
	// branch, since outputs that they name were edited. Nil: none has.
	Changed func(step string) bool
}

// Steps returns the steps of the branch in the order of its plan.
//
// A step is restored if it had succeeded at the checkpoint, its definition and inputs are
// the same, and that holds for all that it depends on. Gates are never restored: a gate
// that had passed opens again and judges what the restored steps after it left, and steps
// that run wait for each such gate before them. The same holds for a gate of a parent that
// is itself a branch, if it was opened again there and a step after it restored. So restored steps depend on no gate, and
// the steps of a branch have other dependencies than those of its plan.
func (f Fork) Steps() []BranchStep {
	after := f.After.Steps
	index := make(map[string]int, len(after))
	for i, s := range after {
		index[s.Name] = i
	}
	before := make(map[string]int, len(f.Before.Steps))
	for i, s := range f.Before.Steps {
		before[s.Name] = i
	}
	steps := make([]BranchStep, len(after))
	kept := f.keep(steps, index, before)
	above := ancestors(after, index)

	// The restored steps that no other one comes after.
	last := new(big.Int)
	for i := range steps {
		if steps[i].Restored {
			last.SetBit(last, i, 1)
		}
	}
	for i := range steps {
		if steps[i].Restored {
			last.AndNot(last, above[i])
		}
	}
	gates := reopened(steps, index, kept, above)
	for i := range steps {
		s := &steps[i]
		var needs []int
		for _, name := range after[i].DependsOn {
			d := index[name]
			if !s.Restored || steps[d].Restored {
				needs = append(needs, d)
			}
			if !s.Restored && steps[d].Restored {
				needs = append(needs, gates[d]...)
			}
		}
		if s.Reopened {
			for r := range steps {
				if last.Bit(r) == 1 && above[r].Bit(i) == 1 {
					needs = append(needs, r)
				}
			}
		}
		slices.Sort(needs)
		s.Needs = []string{}
		for _, d := range slices.Compact(needs) {
			s.Needs = append(s.Needs, after[d].Name)
		}
	}
	return steps
}

// keep decides for each step whether it is restored, and returns which are as they were in
// the parent: those, and gates that had passed.
func (f Fork) keep(steps []BranchStep, index, before map[string]int) []bool {
	kept, seen := make([]bool, len(steps)), make([]bool, len(steps))
	opened := f.opened(before)
	var visit func(i int) bool
	visit = func(i int) bool {
		if seen[i] {
			return kept[i]
		}
		seen[i] = true
		s := &steps[i]
		s.PlanStep = f.After.Steps[i]
		t, _ := ToolOf(s.Tool)
		s.Gate = t.Gate != ""
		for _, name := range s.DependsOn {
			if !visit(index[name]) && s.Because == "" {
				s.Because = name
			}
		}
		b, known := before[s.Name]
		switch {
		case !known:
			s.Why = NewStep
		case !f.Passed(s.Name) && !opened[s.Name]:
			s.Why = NotReached
		case !f.After.sameDefinition(i, f.Before, b):
			s.Why = DefinitionChanged
		case s.Because != "":
			s.Why = DependencyReruns
		case f.Changed != nil && f.Changed(s.Name):
			s.Why = InputsChanged
		}
		kept[i] = s.Why == ""
		s.Restored, s.Reopened = kept[i] && !s.Gate, kept[i] && s.Gate
		if s.Why != DependencyReruns {
			s.Because = ""
		}
		return kept[i]
	}
	for i := range steps {
		visit(i)
	}
	return kept
}

// opened returns the gates of the parent that a step after them had passed: a step that
// succeeded in an earlier run and was restored, while the gate was to pass again.
func (f Fork) opened(index map[string]int) map[string]bool {
	gates := map[string]bool{}
	var visit func(s PlanStep)
	visit = func(s PlanStep) {
		for _, name := range s.DependsOn {
			d := f.Before.Steps[index[name]]
			if t, _ := ToolOf(d.Tool); t.Gate != "" && !gates[name] {
				gates[name] = true
				visit(d)
			}
		}
	}
	for _, s := range f.Before.Steps {
		if f.Passed(s.Name) {
			visit(s)
		}
	}
	return gates
}

// reopened returns for each restored step the gates that it had passed and that have to pass
// again before the steps after it run. Of gates that come one after the other only the last
// ones are returned, since these wait for the others.
func reopened(steps []BranchStep, index map[string]int, kept []bool, above []*big.Int) [][]int {
	gates, seen := make([][]int, len(steps)), make([]bool, len(steps))
	var visit func(i int) []int
	visit = func(i int) []int {
		if seen[i] {
			return gates[i]
		}
		seen[i] = true
		var found []int
		for _, name := range steps[i].DependsOn {
			if d := index[name]; steps[d].Gate {
				found = append(found, d)
			} else {
				found = append(found, visit(d)...)
			}
		}
		slices.Sort(found)
		found = slices.Compact(found)
		gates[i] = slices.DeleteFunc(slices.Clone(found), func(g int) bool {
			return slices.ContainsFunc(found, func(later int) bool { return above[later].Bit(g) == 1 })
		})
		return gates[i]
	}
	for i := range steps {
		if kept[i] && !steps[i].Gate {
			visit(i)
		}
	}
	return gates
}

// sameDefinition reports whether step b of before and step i of p are the same in all that
// their results depend on. How long a step may take and how often it is tried do not change
// a result that is there.
func (p Plan) sameDefinition(i int, before Plan, b int) bool {
	s, o := p.Steps[i], before.Steps[b]
	x, y := p.Spec(i), before.Spec(b)
	sorted := func(names []string) []string { return slices.Sorted(slices.Values(names)) }
	return s.Tool == o.Tool && sameJSON(s.Inputs, o.Inputs) && slices.Equal(sorted(s.DependsOn), sorted(o.DependsOn)) &&
		slices.Equal(x.EnvAllowed, y.EnvAllowed) && slices.Equal(x.Excludes, y.Excludes)
}

func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := jcs.Transform(a)
	y, errY := jcs.Transform(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
