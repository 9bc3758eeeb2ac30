package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/jsonpatch"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// badPlace returns why an operation may not patch a state, or "".
func badPlace(op jsonpatch.Operation) string {
	for _, p := range []string{op.Path, op.From} {
		if p != "" && stepOf(p) == "" && p != "/vars" && !strings.HasPrefix(p, "/vars/") || p == "" && op.Path == "" {
			return fmt.Sprintf("%q is not in /vars, nor in /steps/<name>/outputs: only these can be edited", p)
		}
	}
	return ""
}

// stepOf returns the step whose outputs a pointer into a state leads to, or "".
func stepOf(pointer string) string {
	parts := strings.SplitN(pointer, "/", 5)
	if len(parts) < 4 || parts[1] != "steps" || parts[3] != "outputs" {
		return ""
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[2])
}

// stateEdit is what a patch makes of a state.
type stateEdit struct {
	edits   bool
	vars    json.RawMessage            // all of them; nil: as they were
	outputs map[string]json.RawMessage // of the steps whose outputs changed
	places  map[string]string          // of their operations in the request
}

// editState applies a patch to the state of the checkpoint.
func (f *fork) editState(ctx context.Context, ops []located[jsonpatch.Operation]) (e stateEdit, err error) {
	e = stateEdit{outputs: map[string]json.RawMessage{}, places: map[string]string{}}
	if len(ops) == 0 {
		return e, nil
	}
	type outputs struct {
		Outputs json.RawMessage `json:"outputs"`
	}
	var doc struct {
		Vars  json.RawMessage    `json:"vars"`
		Steps map[string]outputs `json:"steps"`
	}
	doc.Vars, doc.Steps = json.RawMessage("{}"), map[string]outputs{}
	if len(f.known.Vars) > 0 {
		doc.Vars = f.known.Vars
	}
	for _, op := range ops {
		for _, p := range []string{op.is.Path, op.is.From} {
			name := stepOf(p)
			if name == "" {
				continue
			}
			if !f.passed(name) {
				return e, fieldFault("patch-failed", op.at, fmt.Sprintf("step %q had not succeeded at the checkpoint, so it has no outputs", name))
			}
			e.places[name] = op.at
			if _, there := doc.Steps[name]; there {
				continue
			}
			out, err := f.outputs(ctx, name)
			if err != nil {
				return e, err
			}
			doc.Steps[name] = outputs{out}
		}
	}
	before := doc
	patched, err := apply(encode(doc), ops)
	if err != nil {
		return e, err
	}
	doc.Vars, doc.Steps = nil, nil
	last := ops[len(ops)-1].at
	if err := json.Unmarshal(patched, &doc); err != nil || !isObject(doc.Vars) {
		return e, fieldFault("patch-failed", last, "with the patch, /vars is no object")
	}
	if !sameValue(doc.Vars, before.Vars) {
		e.vars, e.edits = doc.Vars, true
	}
	for name := range before.Steps {
		out := doc.Steps[name].Outputs
		switch {
		case !isObject(out):
			return e, fieldFault("patch-failed", e.places[name], fmt.Sprintf("with the patch, the outputs of step %q are no object", name))
		case len(out) > run.MaxOutputBytes:
			return e, fieldFault("invalid-field", e.places[name], fmt.Sprintf("with the patch, the outputs of step %q have %d bytes; at most %d", name, len(out), run.MaxOutputBytes))
		case !sameValue(out, before.Steps[name].Outputs):
			e.outputs[name], e.edits = out, true
		}
	}
	return e, nil
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

func sameValue(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// outputs returns the outputs of a step that had succeeded at the checkpoint, an object.
func (f *fork) outputs(ctx context.Context, name string) (out json.RawMessage, err error) {
	known := f.known.Steps[name]
	switch {
	case known.OutputsRef != "":
		out, err = f.server.content(ctx, f.Run.TenantID, known.OutputsRef)
	case known.State == string(run.Waiting): // the state is older than its end
		out, err = f.server.Store.StepOutputs(ctx, f.Run.TenantID, f.Run.ID, name)
	default:
		out = known.Outputs
	}
	if err == nil && len(out) == 0 {
		out = json.RawMessage("{}")
	}
	return out, err
}

// inputsChanged returns a function that reports whether a step has other inputs after an
// edit of outputs, and the error that it met.
func (f *fork) inputsChanged(ctx context.Context, after run.Plan, e stateEdit) (changed func(string) bool, failed *error) {
	failed = new(error)
	if len(e.outputs) == 0 {
		return nil, failed
	}
	steps := make(map[string]run.PlanStep, len(after.Steps))
	for _, s := range after.Steps {
		steps[s.Name] = s
	}
	return func(name string) bool {
		s, edited := steps[name], false
		resolve := func(of func(step string) ([]byte, error)) string {
			resolved, err := run.Resolve(s.Tool, s.Inputs, of)
			if err != nil {
				return "error: " + err.Error()
			}
			return string(resolved)
		}
		before := resolve(func(step string) ([]byte, error) {
			if _, ok := e.outputs[step]; ok {
				edited = true
			}
			out, err := f.outputs(ctx, step)
			if err != nil {
				*failed = errors.Join(*failed, err)
			}
			return out, err
		})
		return edited && before != resolve(func(step string) ([]byte, error) {
			if out, ok := e.outputs[step]; ok {
				return out, nil
			}
			return f.outputs(ctx, step)
		})
	}, failed
}

// checkOutputs refuses an edit of outputs that the branch would not use, or whose step has
// done effects.
func (f *fork) checkOutputs(ctx context.Context, steps []run.BranchStep, e stateEdit) error {
	var fields []fault.Field
	for _, s := range steps {
		if _, edited := e.outputs[s.Name]; edited && !s.Restored {
			why := "runs again (" + string(s.Why) + ")"
			if s.Gate {
				why = "is a gate, and judges again"
			}
			fields = append(fields, fault.Field{Pointer: e.places[s.Name], Detail: fmt.Sprintf("step %q %s, so its outputs cannot be edited", s.Name, why)})
		}
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	if len(e.outputs) == 0 || f.force {
		return nil
	}
	past, err := f.server.Store.PastOf(ctx, f.Run.TenantID, f.Run.ID, slices.Sorted(maps.Keys(e.outputs)))
	if err != nil || len(past.Effects) == 0 {
		return err
	}
	first := past.Effects[0]
	return fault.New(fault.Conflict, "effects-done", "step %q has done a request to another service (%s), which stays done when its outputs are edited; give force and a reason to edit them all the same", first.Step, first.Name)
}

// checkFiles refuses edits of files that do not fit the workspace of the checkpoint, or
// whose content is not there.
func (f *fork) checkFiles(ctx context.Context, files []located[run.EditFile]) error {
	root, err := tree.ParseDigest(f.Checkpoint.TreeDigest)
	if err != nil {
		return err
	}
	t := f.server.trees.Tree(f.Run.TenantID, root)
	deleted := func(p string) bool {
		return slices.ContainsFunc(files, func(o located[run.EditFile]) bool {
			return o.is.Delete && (o.is.Path == p || strings.HasPrefix(p, o.is.Path+"/"))
		})
	}
	// at returns what is at a path, unless it is deleted.
	at := func(p string) (e tree.Entry, there bool, err error) {
		e, err = t.Lookup(ctx, p)
		if errors.Is(err, fault.NotFound) {
			return e, false, nil
		}
		return e, err == nil, err
	}
	var fields []fault.Field
	for _, file := range files {
		p := file.is.Path
		e, there, err := at(p)
		if err != nil {
			return err
		}
		switch {
		case file.is.Delete && !there:
			fields = append(fields, fault.Field{Pointer: file.at + "/path", Detail: fmt.Sprintf("%q is not in the workspace", p)})
			continue
		case file.is.Delete:
			continue
		case there && e.Mode == tree.Directory && !deleted(p):
			fields = append(fields, fault.Field{Pointer: file.at + "/path", Detail: fmt.Sprintf("%q is a directory", p)})
		}
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if e, there, err := at(dir); err != nil {
				return err
			} else if there && e.Mode != tree.Directory && !deleted(dir) {
				fields = append(fields, fault.Field{Pointer: file.at + "/path", Detail: fmt.Sprintf("%q is no directory", dir)})
			}
		}
		if id := file.is.ArtifactID; id != "" {
			parsed, err := run.ArtifactID.Parse(id)
			if err == nil {
				_, err = f.server.Store.Artifact(ctx, f.Run.TenantID, parsed)
			}
			if errors.Is(err, fault.NotFound) {
				fields = append(fields, fault.Field{Pointer: file.at + "/artifact_id", Detail: "no such artifact, or its upload is not complete"})
			} else if err != nil {
				return err
			}
		}
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	return nil
}

// bases returns the checkpoints that an edit is made of: that of the fork or, where steps
// run again whose work is in it, what the last of the restored steps left.
func (f *fork) bases(steps []run.BranchStep) []uuid.UUID {
	kept, followed := map[string]bool{}, map[string]bool{}
	for _, s := range steps {
		kept[s.Name] = s.Restored || s.Reopened
		if s.Restored {
			for _, name := range s.DependsOn {
				followed[name] = true
			}
		}
	}
	intact := true
	for name := range f.ran {
		intact = intact && (kept[name] || !f.passed(name))
	}
	if k := f.Checkpoint.Kind; intact || k == run.MergeCheckpoint || k == run.EditCheckpoint {
		return []uuid.UUID{f.Checkpoint.ID}
	}
	list := []uuid.UUID{}
	for _, s := range steps {
		if head := f.ran[s.Name].Head; s.Restored && !followed[s.Name] && head != nil && !slices.Contains(list, *head) {
			list = append(list, *head)
		}
	}
	if len(list) == 0 && f.Start != nil { // no step is restored
		list = append(list, *f.Start)
	}
	return list
}
