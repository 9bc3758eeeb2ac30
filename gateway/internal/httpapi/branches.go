package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/jsonpatch"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
)

// branchRequest is the contract's BranchRequest as the system knows it.
type branchRequest struct {
	CheckpointID string                `json:"checkpoint_id"`
	Name         *string               `json:"name,omitempty"`
	StatePatch   []jsonpatch.Operation `json:"state_patch,omitempty"`
	Files        []run.EditFile        `json:"files,omitempty"`
	PlanPatch    []jsonpatch.Operation `json:"plan_patch,omitempty"`
	ReuseEffects bool                  `json:"reuse_effects,omitempty"`
	Force        bool                  `json:"force,omitempty"`
	Reason       *string               `json:"reason,omitempty"`
	DryRun       bool                  `json:"dry_run,omitempty"`
	Variants     []branchVariant       `json:"variants,omitzero"`
}

type branchVariant struct {
	Name       *string               `json:"name"`
	StatePatch []jsonpatch.Operation `json:"state_patch,omitempty"`
	Files      []run.EditFile        `json:"files,omitempty"`
	PlanPatch  []jsonpatch.Operation `json:"plan_patch,omitempty"`
}

// change is what makes one branch of a request another than its parent.
type change struct {
	name        string
	state, plan []located[jsonpatch.Operation]
	files       []located[run.EditFile]
}

// located is a part of a change and its place in the request.
type located[T any] struct {
	is T
	at string
}

func locate[T any](at string, list []T) (all []located[T]) {
	for i, is := range list {
		all = append(all, located[T]{is, at + "/" + strconv.Itoa(i)})
	}
	return all
}

// only returns the parts without their places.
func only[T any](list []located[T]) []T {
	return convert(list, func(l located[T]) T { return l.is })
}

// changes returns the branches that a request asks for, and what all of them have in common.
func (r branchRequest) changes() (common change, list []change) {
	common = change{state: locate("/state_patch", r.StatePatch), plan: locate("/plan_patch", r.PlanPatch), files: locate("/files", r.Files)}
	if r.Name != nil {
		common.name = *r.Name
	}
	if len(r.Variants) == 0 {
		return common, []change{common}
	}
	for i, v := range r.Variants {
		at := "/variants/" + strconv.Itoa(i)
		all := slices.DeleteFunc(slices.Clone(common.files), func(f located[run.EditFile]) bool {
			return slices.ContainsFunc(v.Files, func(own run.EditFile) bool { return own.Path == f.is.Path })
		})
		list = append(list, change{
			name: *v.Name, state: slices.Concat(common.state, locate(at+"/state_patch", v.StatePatch)),
			plan: slices.Concat(common.plan, locate(at+"/plan_patch", v.PlanPatch)), files: append(all, locate(at+"/files", v.Files)...),
		})
	}
	return common, list
}

// check returns what is wrong with the text of a request.
func (r branchRequest) check() error {
	var fields []fault.Field
	add := func(at, detail string) { fields = append(fields, fault.Field{Pointer: at, Detail: detail}) }
	name := func(at string, name *string) {
		switch {
		case name == nil:
		case *name == "":
			add(at, "is empty")
		case utf8.RuneCountInString(*name) > run.MaxName:
			add(at, fmt.Sprintf("%d characters; at most %d", utf8.RuneCountInString(*name), run.MaxName))
		}
	}
	state := func(ops []located[jsonpatch.Operation]) {
		for _, op := range ops {
			if detail := badPlace(op.is); detail != "" {
				add(op.at, detail)
			}
		}
	}
	if r.CheckpointID == "" {
		add("/checkpoint_id", "is required")
	}
	name("/name", r.Name)
	state(locate("/state_patch", r.StatePatch))
	fields = append(fields, run.CheckEdits("/files", r.Files)...)
	if n := len(r.Variants); r.Variants != nil && (n == 0 || n > run.MaxVariants) {
		add("/variants", fmt.Sprintf("%d variants; from 1 to %d", n, run.MaxVariants))
	}
	if r.Variants != nil && r.Name != nil {
		add("/name", "is for a request without variants: these have names of their own")
	}
	seen := map[string]int{}
	for i, v := range r.Variants {
		at := "/variants/" + strconv.Itoa(i)
		state(locate(at+"/state_patch", v.StatePatch))
		fields = append(fields, run.CheckEdits(at+"/files", v.Files)...)
		if n := len(v.Files) + len(r.Files); n > run.MaxEditFiles && len(v.Files) <= run.MaxEditFiles {
			add(at+"/files", fmt.Sprintf("%d files with those for all variants; at most %d", n, run.MaxEditFiles))
		}
		if v.Name == nil {
			add(at+"/name", "is required")
			continue
		}
		name(at+"/name", v.Name)
		if j, twice := seen[*v.Name]; twice {
			add(at+"/name", fmt.Sprintf("is also the name of variant %d", j))
		}
		seen[*v.Name] = i
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	if r.Force && (r.Reason == nil || strings.TrimSpace(*r.Reason) == "") {
		return fieldFault("reason-required", "/reason", "is required with force")
	}
	return nil
}

// createBranches makes branches of a run: 201 with the new runs. Operators call it to try
// another way from a point at which all was well, and their tools to try several.
func (s *Server) createBranches(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	in, body, err := readJSON[branchRequest](c)
	if err != nil {
		return err
	}
	var reason string
	return s.answerOnce(c, p, request{
		body: body,
		check: func() (err error) {
			if err := in.check(); err != nil {
				return err
			}
			reason, err = s.cleanReason(in.Reason)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			checkpoint, err := run.CheckpointID.Parse(in.CheckpointID)
			if err != nil {
				return postgres.Answer{}, err
			}
			f, err := s.fork(ctx, p, id, checkpoint)
			if err != nil {
				return postgres.Answer{}, err
			}
			f.force, f.reason, f.by = in.Force, reason, p.Subject
			if in.DryRun {
				return s.previewBranches(ctx, p, f, in)
			}
			return s.makeBranches(ctx, c.Request(), p, f, in)
		},
	})
}

func (s *Server) makeBranches(ctx context.Context, r *http.Request, p *identity.Principal, f *fork, in branchRequest) (postgres.Answer, error) {
	_, changes := in.changes()
	list := make([]postgres.NewBranch, len(changes))
	steps := 0
	for i, ch := range changes {
		b, err := f.branch(ctx, ch)
		if err != nil {
			return postgres.Answer{}, err
		}
		steps += len(b.Steps)
		span := s.branchSpan(ctx, f.Run)
		defer span.End()
		b.Span, b.Name, b.ReuseEffects = span.SpanContext(), s.Redactor.String(ch.name), in.ReuseEffects
		b.Plan.Goal = s.Redactor.String(b.Plan.Goal)
		b.CorrelationID, b.CreatedBy = r.Header.Get("X-Correlation-Id"), p.Subject
		list[i] = b
	}
	if err := s.weigh(p, steps); err != nil {
		return postgres.Answer{}, err
	}
	runs, err := s.Store.CreateBranches(ctx, p.Tenant, list)
	if err != nil {
		return postgres.Answer{}, err
	}
	s.Metrics.Branches.Add(float64(len(runs)))
	out := api.CreatedBranches{Runs: []api.Run{}}
	for _, made := range runs {
		made.CreatedByName = p.Name
		out.Runs = append(out.Runs, apiRun(made))
	}
	a := postgres.Answer{Status: http.StatusCreated, Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON}}
	if in.Variants == nil {
		out.Run = &out.Runs[0]
		a.Header["ETag"], a.Header["Location"] = etag(runs[0].Version), "/api/runs/"+out.Run.ID
	}
	a.Body = encode(out)
	return a, nil
}

// branchSpan begins the trace of a branch. It is linked to the trace of its parent and to
// the request that makes it.
func (s *Server) branchSpan(ctx context.Context, parent run.Run) trace.Span {
	_, span := s.tracer.Start(ctx, "run.branch", trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
	linkToRun(span, parent)
	span.SetAttributes(telemetry.ParentRunIDKey.String(run.RunID.Format(parent.ID)))
	return span
}

// fork is the place at which branches begin, with what is known of it.
type fork struct {
	postgres.Fork
	plan   run.Plan // of the parent, as it is stored
	before run.Plan // expanded
	known  knownState
	ran    map[string]postgres.ForkStep
	server *Server

	by, reason string // who edits, and why
	force      bool
}

// knownState is what branches need of a checkpoint's state document.
type knownState struct {
	Steps map[string]struct {
		State      string          `json:"state"`
		Outputs    json.RawMessage `json:"outputs"`
		OutputsRef string          `json:"outputs_ref"`
	} `json:"steps"`
	Vars json.RawMessage `json:"vars"`
}

// fork returns the place of a run at which branches begin, once it is known that they can.
func (s *Server) fork(ctx context.Context, p *identity.Principal, runID, checkpoint uuid.UUID) (*fork, error) {
	found, err := s.Store.Fork(ctx, p.Tenant, runID, checkpoint)
	if err != nil {
		return nil, err
	}
	f := &fork{Fork: found, ran: map[string]postgres.ForkStep{}, server: s}
	if f.Run.Kind == run.SystemRun {
		return nil, fault.New(fault.Conflict, "system-run", "a system run has no branches; repeat the request that started it")
	}
	root, err := tree.ParseDigest(f.Checkpoint.TreeDigest)
	if err != nil {
		return nil, fmt.Errorf("tree of checkpoint %s: %w", checkpoint, err)
	}
	if !f.Stored && tree.NeedsObject(root) {
		return nil, fault.New(fault.Gone, "object-gone", "the files of this checkpoint are not in storage any more; branch from an earlier one")
	}
	if f.State == nil {
		if f.State, err = s.content(ctx, p.Tenant, f.Checkpoint.StateDigest); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(f.State, &f.known); err != nil {
		return nil, fmt.Errorf("state of checkpoint %s: %w", checkpoint, err)
	}
	if err := json.Unmarshal(f.Run.Plan, &f.plan); err != nil {
		return nil, fmt.Errorf("plan of run %s: %w", f.Run.ID, err)
	}
	f.before = f.plan.Expanded()
	for _, step := range f.Steps {
		f.ran[step.Name] = step
	}
	return f, nil
}

// content returns a stored content as a whole.
func (s *Server) content(ctx context.Context, tenant uuid.UUID, digest string) ([]byte, error) {
	d, err := tree.ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	r, err := s.trees.Open(ctx, tenant, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// passed reports whether a step had succeeded at the checkpoint. The state has a step that
// waits as waiting, also after its wait: only its own checkpoint is from before that.
func (f *fork) passed(name string) bool {
	step, succeeded := f.ran[name]
	if !succeeded {
		return false
	}
	switch f.known.Steps[name].State {
	case string(run.Succeeded):
		return true
	case string(run.Waiting):
		own := f.Checkpoint.Kind == run.WaitCheckpoint && f.Checkpoint.StepID != nil && *f.Checkpoint.StepID == step.ID
		return !own
	}
	return false
}

// branch returns the branch that a change leads to.
func (f *fork) branch(ctx context.Context, ch change) (postgres.NewBranch, error) {
	b, err := f.planned(ctx, ch)
	if err != nil {
		return b, err
	}
	if !slices.ContainsFunc(b.Steps, func(s run.BranchStep) bool { return !s.Restored }) {
		return b, fault.New(fault.Conflict, "nothing-to-run", "all steps had succeeded at this checkpoint, so a branch would run none; change the plan, or branch from an earlier checkpoint")
	}
	return b, nil
}

// planned returns branch, also for a branch with nothing to run.
func (f *fork) planned(ctx context.Context, ch change) (postgres.NewBranch, error) {
	plan, err := f.patched(ch.plan)
	if err != nil {
		return postgres.NewBranch{}, err
	}
	state, err := f.editState(ctx, ch.state)
	if err != nil {
		return postgres.NewBranch{}, err
	}
	after := plan.Expanded()
	b := postgres.NewBranch{Parent: f.Run, Checkpoint: f.Checkpoint.ID, Plan: plan, Outputs: state.outputs}
	changed, failed := f.inputsChanged(ctx, after, state)
	b.Steps = run.Fork{Before: f.before, After: after, Passed: f.passed, Changed: changed}.Steps()
	if err := *failed; err != nil {
		return b, err
	}
	if !state.edits && len(ch.files) == 0 {
		return b, nil
	}
	if err := f.checkOutputs(ctx, b.Steps, state); err != nil {
		return b, err
	}
	if err := f.checkFiles(ctx, ch.files); err != nil {
		return b, err
	}
	b.Edit = &run.BranchEdit{By: f.by, Reason: f.reason, Vars: state.vars, Outputs: state.outputs, Files: only(ch.files)}
	if len(ch.state) > 0 {
		b.Edit.StatePatch = encode(only(ch.state))
	}
	b.Bases = f.bases(b.Steps)
	return b, nil
}

// patched returns the parent's plan with the operations of a patch applied.
func (f *fork) patched(ops []located[jsonpatch.Operation]) (run.Plan, error) {
	if len(ops) == 0 {
		return f.plan, nil
	}
	doc, err := apply(f.Run.Plan, ops)
	if err != nil {
		return run.Plan{}, err
	}
	var in planRequest
	err = decode(slices.Concat([]byte(`{"plan":`), doc, []byte(`}`)), &in)
	if _, ok := errors.AsType[unfit](err); ok {
		e, _ := errors.AsType[*fault.Error](err)
		err = in.Plan.Refusal(e.Code, e.Fields)
	}
	plan := in.Plan
	if err == nil {
		plan, err = plan.Normalise()
	}
	if e, ok := errors.AsType[*fault.Error](err); ok {
		// The plan is not in the request, so its pointers would lead nowhere.
		last := ops[len(ops)-1].at
		for i, field := range e.Fields {
			e.Fields[i].Pointer, e.Fields[i].Detail = last, "with the patch, "+cmp.Or(field.Pointer, "/plan")+" "+field.Detail
		}
	}
	return plan, err
}

// apply applies operations of a request, and names the one that does not apply.
func apply(doc []byte, ops []located[jsonpatch.Operation]) ([]byte, error) {
	patched, err := jsonpatch.Apply(doc, only(ops))
	if e, ok := errors.AsType[*fault.Error](err); ok && len(e.Fields) == 1 {
		if i, numErr := strconv.Atoi(e.Fields[0].Pointer[1:]); numErr == nil {
			return nil, fault.OfFields(e.Code, fault.Field{Pointer: ops[i].at, Detail: e.Fields[0].Detail})
		}
	}
	return patched, err
}

// previewBranches answers what branches would do.
func (s *Server) previewBranches(ctx context.Context, p *identity.Principal, f *fork, in branchRequest) (postgres.Answer, error) {
	common, changes := in.changes()
	preview := func(ch change, branch func(context.Context, change) (postgres.NewBranch, error)) (api.BranchPreview, error) {
		b, err := branch(ctx, ch)
		if err != nil {
			return api.BranchPreview{}, err
		}
		return s.previewBranch(ctx, p, f, b, ch.name, in.ReuseEffects)
	}
	if in.Variants == nil {
		out, err := preview(common, f.branch)
		return postgres.Answer{Status: http.StatusOK, Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON}, Body: encode(out)}, err
	}
	out, err := preview(common, f.planned)
	if err != nil {
		return postgres.Answer{}, err
	}
	var variants []api.BranchPreview
	for _, ch := range changes {
		v, err := preview(ch, f.branch)
		if err != nil {
			return postgres.Answer{}, err
		}
		variants = append(variants, v)
	}
	out.Variants = variants
	return postgres.Answer{Status: http.StatusOK, Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON}, Body: encode(out)}, nil
}

func (s *Server) previewBranch(ctx context.Context, p *identity.Principal, f *fork, b postgres.NewBranch, name string, reuse bool) (api.BranchPreview, error) {
	out := api.BranchPreview{
		Name: ptr(name), Restored: []api.RestoredStep{}, Reruns: []api.RerunStep{}, ReopenedGates: []api.ReopenedGate{}, EffectsDoneBefore: []api.EffectDone{},
	}
	var again []string
	for _, step := range b.Steps {
		switch {
		case step.Restored:
			out.Restored = append(out.Restored, api.RestoredStep{Name: step.Name, Tool: step.Tool, RestoredFrom: run.StepID.Format(f.ran[step.Name].ID)})
			continue
		case step.Reopened:
			out.ReopenedGates = append(out.ReopenedGates, api.ReopenedGate{Name: step.Name, Tool: step.Tool})
		default:
			out.Reruns = append(out.Reruns, api.RerunStep{Name: step.Name, Tool: step.Tool, Why: api.RerunReason(step.Why), Because: ptr(step.Because)})
		}
		out.Estimate.Steps++
		again = append(again, step.Name)
	}
	past, err := s.Store.PastOf(ctx, p.Tenant, f.Run.ID, again)
	if err != nil {
		return out, err
	}
	for _, e := range past.Effects {
		out.EffectsDoneBefore = append(out.EffectsDoneBefore, api.EffectDone{Step: e.Step, Name: e.Name, DoneAt: e.DoneAt.UTC(), Reused: reuse})
	}
	out.Estimate.KnownSteps, out.Estimate.RunMs = past.Steps, past.Usage.RunMillis
	out.Estimate.InputTokens, out.Estimate.OutputTokens, out.Estimate.CostUsd = past.Usage.InputTokens, past.Usage.OutputTokens, past.Usage.CostUSD
	return out, nil
}
