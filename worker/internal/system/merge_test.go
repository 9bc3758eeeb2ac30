package system_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// fork creates a run whose steps start from a checkpoint of another run, as a branch does.
func fork(t *testing.T, b *hosttest.Bundle, checkpoint uuid.UUID, steps ...run.PlanStep) run.Run {
	t.Helper()
	if err := b.DB.PauseQueue(b.Ctx, b.TenantID, run.StepQueue, "fork"); err != nil {
		t.Fatal(err)
	}
	r := b.Create(t, steps...)
	if _, err := b.Admin.Exec(b.Ctx, "UPDATE nofx.run SET start_checkpoint_id = $1 WHERE id = $2", checkpoint, r.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.DB.ResumeQueue(b.Ctx, b.TenantID, run.StepQueue, ""); err != nil {
		t.Fatal(err)
	}
	return r
}

// branch makes a branch of a run at a checkpoint, at which the steps in passed had succeeded.
func branch(t *testing.T, b *hosttest.Bundle, r run.Run, checkpoint uuid.UUID, passed ...string) run.Run {
	t.Helper()
	var p run.Plan
	if err := json.Unmarshal(r.Plan, &p); err != nil {
		t.Fatal(err)
	}
	steps := run.Fork{Before: p.Expanded(), After: p.Expanded(), Passed: func(name string) bool { return slices.Contains(passed, name) }}.Steps()
	list, err := b.DB.CreateBranches(b.Ctx, b.TenantID, []postgres.NewBranch{{
		Span: trace.SpanContextFromContext(b.Ctx), Parent: r, Checkpoint: checkpoint, Plan: p, Steps: steps, CreatedBy: "tester"}})
	if err != nil {
		t.Fatalf("CreateBranches() = %v", err)
	}
	return list[0]
}

// startMerge starts a merge and waits until it is computed.
func startMerge(t *testing.T, b *hosttest.Bundle, n postgres.NewMerge) run.Merge {
	t.Helper()
	n.CreatedBy = "tester"
	if n.Strategy == "" {
		n.Strategy = run.ManualStrategy
	}
	if n.Mode == "" {
		n.Mode = run.NormalMode
	}
	m, _, err := b.DB.StartMerge(b.Ctx, b.TenantID, n)
	if err != nil {
		t.Fatalf("StartMerge() = %v", err)
	}
	return computed(t, b, m.ID)
}

// computed waits until nothing of a merge is being computed, and returns it.
func computed(t *testing.T, b *hosttest.Bundle, id uuid.UUID) run.Merge {
	t.Helper()
	b.Wait(t, "the merge is computed", fmt.Sprintf(`SELECT m.state NOT IN ('open', 'ready') OR m.prepared IS NOT NULL OR EXISTS (SELECT FROM nofx.step s WHERE s.run_id = m.work_run_id AND s.reason <> '')
		FROM nofx.merge m WHERE m.id = '%s'`, id))
	m, err := b.DB.Merge(b.Ctx, b.TenantID, id)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := b.DB.RunDetail(b.Ctx, b.TenantID, *m.WorkRunID); err != nil || d.Steps[0].Reason != "" {
		t.Fatalf("the merge was not computed: %s, %v", d.Steps[0].Reason, err)
	}
	return m
}

// commit commits a merge that is prepared.
func commit(t *testing.T, b *hosttest.Bundle, m run.Merge, resume bool) (run.Merge, int) {
	t.Helper()
	m, answer, requeued, err := b.DB.CommitMerge(b.Ctx, b.TenantID, m.ID, resume, postgres.Verb{Version: &m.Version, Reason: "tested"}, "tester")
	if err != nil || answer != postgres.MergeCommitted {
		t.Fatalf("CommitMerge() = %s, %v, want it committed", answer, err)
	}
	return m, requeued
}

func states(d postgres.RunDetail) string {
	var list []string
	for _, s := range d.Steps {
		list = append(list, s.Name+":"+string(s.State))
	}
	return strings.Join(list, " ")
}

// checkpointOf returns the newest checkpoint of a run that its head is.
func headOf(t *testing.T, d postgres.RunDetail) uuid.UUID {
	t.Helper()
	if d.Run.HeadCheckpointID == nil {
		t.Fatalf("run %s has no head", d.Run.ID)
	}
	return *d.Run.HeadCheckpointID
}

// sound fails the test unless all invariants of the database hold.
func sound(t *testing.T, b *hosttest.Bundle) {
	t.Helper()
	rows, err := b.Admin.Query(b.Ctx, "SELECT invariant || ': ' || offender FROM nofx.unsound()")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		t.Error(text)
	}
}

// TestMergeIntoAFailedRun fixes a failed run by what a fork of it did: after the commit the
// gates that had passed pass again, the failed step starts from the merged tree, and what
// nobody touched stays.
func TestMergeIntoAFailedRun(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	target := b.Create(t,
		hosttest.Script("a", "printf 'one\\ntwo\\nthree\\n' > text; echo a > a"),
		hosttest.Step("lint", "gate:lint", run.GateInputs{Command: "test -f text"}, "a"),
		hosttest.Step("unit", "gate:unit", run.GateInputs{Command: "grep -q ONE text || test -f text"}, "lint"),
		hosttest.Script("b", "test -f fixed && cat text", "unit"),
		hosttest.Script("c", "echo c > c && cat a fixed", "b"),
	)
	before := b.Until(t, target.ID, run.Failed)
	source := fork(t, b, headOf(t, before), hosttest.Script("fix", "echo yes > fixed; sed -i s/one/ONE/ text"), hosttest.Script("c", "true", "fix"))
	b.Until(t, source.ID, run.Succeeded)

	m := startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID})
	want := run.MergePreview{Added: 1, Modified: 1, State: true, Files: []run.MergeChange{{Path: "fixed", Status: "added"}, {Path: "text", Status: "modified"}}}
	if d := cmp.Diff(want, m.Preview); m.State != run.Ready || m.Outcome != run.FastForward || d != "" {
		t.Fatalf("merge = %s, %s, preview (-want +got):\n%s", m.State, m.Outcome, d)
	}
	again, created, err := b.DB.StartMerge(b.Ctx, b.TenantID, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID, Strategy: run.ManualStrategy, Mode: run.NormalMode})
	if err != nil || created || again.ID != m.ID {
		t.Errorf("StartMerge(again) = %s, %v, %v, want the same merge", again.ID, created, err)
	}
	m, requeued := commit(t, b, m, true)
	after := b.Until(t, target.ID, run.Succeeded)
	if got, want := states(after), "a:succeeded lint:succeeded unit:succeeded b:succeeded c:succeeded lint~1:succeeded unit~1:succeeded"; got != want || requeued != 4 {
		t.Errorf("steps = %s, %d requeued, want %s and 4", got, requeued, want)
	}
	steps := map[string]run.Step{}
	for _, s := range after.Steps {
		steps[s.Name] = s
	}
	if !slices.Equal(steps["unit~1"].DependsOn, []string{"lint", "lint~1"}) || !slices.Equal(steps["c"].DependsOn, []string{"b", "lint~1", "unit~1"}) {
		t.Errorf("unit~1 depends on %v, c on %v, want the gate before it, and fresh gates", steps["unit~1"].DependsOn, steps["c"].DependsOn)
	}
	if !steps["b"].StartedAt.After(*before.Run.FinishedAt) && b.Log(t, steps["b"].ID) != "ONE\ntwo\nthree\n" {
		t.Errorf("b printed %q, want the merged text", b.Log(t, steps["b"].ID))
	}
	if got := b.File(t, after, "c") + b.File(t, after, "fixed"); got != "c\nyes\n" {
		t.Errorf("files = %q, want those of both runs", got)
	}
	// What only the source had done by then is still to be done in the target.
	var state string
	if err := b.Admin.QueryRow(b.Ctx, "SELECT string_agg(s, ' ' ORDER BY s) FROM nofx.checkpoint, jsonb_object_keys(convert_from(state_inline, 'UTF8')::jsonb->'steps') AS s WHERE id = $1", m.CommittedID).Scan(&state); err != nil || state != "a lint unit" {
		t.Errorf("the merged state knows steps %q, %v, want those of the target up to the merge", state, err)
	}
	// A branch has what was merged before it, from whichever checkpoint after the merge.
	var later uuid.UUID
	if err := b.Admin.QueryRow(b.Ctx, "SELECT head_checkpoint_id FROM nofx.step WHERE id = $1", steps["b"].ID).Scan(&later); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]run.Run{
		"the merge":    branch(t, b, target, *m.CommittedID, "a", "lint", "unit"),
		"a step after": branch(t, b, target, later, "a", "lint", "unit", "b"),
	} {
		d := b.Until(t, other.ID, run.Succeeded)
		if got := b.File(t, d, "c") + b.File(t, d, "fixed") + b.File(t, d, "text"); got != "c\nyes\nONE\ntwo\nthree\n" {
			t.Errorf("files of a branch from %s = %q, want those of both runs", name, got)
		}
	}
	ck, err := b.DB.Checkpoint(b.Ctx, b.TenantID, target.ID, *m.CommittedID)
	if want := []uuid.UUID{m.TargetHead, m.SourceHead}; err != nil || ck.Kind != run.MergeCheckpoint || !slices.Equal(ck.Parents, want) {
		t.Errorf("checkpoint = %s with parents %v, %v, want a merge of %v", ck.Kind, ck.Parents, err, want)
	}
	if up := startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID}); up.Outcome != run.UpToDate || up.State != run.Ready {
		t.Errorf("merged again: %s, %s, want up_to_date", up.State, up.Outcome)
	} else if up, requeued := commit(t, b, up, true); *up.CommittedID != headOf(t, after) || requeued != 0 {
		t.Errorf("committed %s with %d requeued, want the head and 0: nothing changed", up.CommittedID, requeued)
	}
	sound(t, b)
}

// Conflicts are resolved one by one, of files and of the state, and the result is what was
// decided.
func TestMergeWithConflicts(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	first := b.Create(t, hosttest.Script("a", "printf 'one\\ntwo\\nthree\\n' | tee t1 t2 t3 t4 t5 > t6; echo a > gone"))
	base := headOf(t, b.Until(t, first.ID, run.Succeeded))
	edit := func(word, more string) run.Run {
		r := fork(t, b, base, hosttest.Script("edit", fmt.Sprintf("sed -i s/two/%s/ t?; echo %s > new-%s; %s; echo word=%s >> $NOFX_OUTPUT", word, word, word, more, word)),
			hosttest.Script("last", "true", "edit"))
		b.Until(t, r.ID, run.Succeeded)
		return r
	}
	ours, theirs := edit("OURS", "rm gone; sed -i s/three/3/ t1"), edit("THEIRS", "echo b >> gone")
	m := startMerge(t, b, postgres.NewMerge{TargetRunID: ours.ID, SourceRunID: theirs.ID})
	if m.State != run.Conflicted || m.Outcome != run.InConflict || m.Conflicts != 8 || m.Unresolved != 8 || m.Prepared() || m.BaseID != base {
		t.Fatalf("merge = %+v, want eight conflicts over %s", m, base)
	}
	list, err := b.DB.MergeConflicts(b.Ctx, b.TenantID, m.ID, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, c := range list {
		places = append(places, fmt.Sprint(c.At, " ", c.Kind))
	}
	if want := []string{"gone deleted", "t1 content", "t2 content", "t3 content", "t4 content", "t5 content", "t6 content", "/steps/edit/outputs/outputs/word added"}; !slices.Equal(places, want) {
		t.Errorf("conflicts = %q, want %q", places, want)
	}
	if c := list[1]; *c.Line != 2 || c.Base.Excerpt != "two\nthree\n" || c.Ours.Excerpt != "OURS\n3\n" || c.Theirs.Excerpt != "THEIRS\nthree\n" || !slices.Contains(c.Takes, run.TakeBoth) {
		t.Errorf("conflict of t1 = line %d, %q, %q, %q, want the lines of all sides", *c.Line, c.Base.Excerpt, c.Ours.Excerpt, c.Theirs.Excerpt)
	}
	if c := list[7]; string(c.Ours.Value) != `"OURS"` || c.Base != nil || slices.Contains(c.Takes, run.TakeArtifact) {
		t.Errorf("conflict of the state = %+v, want its values", c)
	}

	take := func(at string, how run.Take, value ...string) run.MergeResolution {
		r := run.MergeResolution{Unit: run.PathUnit, At: at, Take: &how}
		if strings.HasPrefix(at, "/") {
			r.Unit = run.PointerUnit
		}
		if len(value) > 0 {
			r.Value = &value[0]
		}
		return r
	}
	resolve := func(list ...run.MergeResolution) run.Merge {
		t.Helper()
		m, err := b.DB.ResolveMerge(b.Ctx, b.TenantID, m.ID, list, nil, "tester")
		if err != nil {
			t.Fatalf("ResolveMerge() = %v", err)
		}
		return m
	}
	for name, bad := range map[string][]run.MergeResolution{
		"/resolutions/1/path":    {take("t1", run.TakeOurs), take("new-OURS", run.TakeOurs)},
		"/resolutions/0/pointer": {take("/vars/x", run.TakeOurs)},
		"/resolutions/0/take":    {take("gone", run.TakeBoth)},
	} {
		_, err := b.DB.ResolveMerge(b.Ctx, b.TenantID, m.ID, bad, nil, "tester")
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Fields[0].Pointer != name {
			t.Errorf("ResolveMerge(%s) = %v, want invalid there", name, err)
		}
	}
	if got := resolve(take("gone", run.TakeTheirs), take("t1", run.TakeOurs), take("t2", run.TakeTheirs), take("t3", run.TakeBase)); got.Unresolved != 4 || got.State != run.Conflicted {
		t.Errorf("merge = %s with %d open, want 4 open: of bad lists nothing was written", got.State, got.Unresolved)
	}
	m = resolve(take("t4", run.TakeBoth), take("t5", run.TakeValue, "mine\n"), take("t6", run.TakeOurs), take("/steps/edit/outputs/outputs/word", run.TakeValue, `{"n":1.50}`))
	if m.State != run.Ready || m.Unresolved != 0 {
		t.Errorf("merge = %s with %d open, want it ready", m.State, m.Unresolved)
	}
	if m = resolve(run.MergeResolution{Unit: run.PathUnit, At: "t6"}); m.State != run.Conflicted || m.Prepared() {
		t.Errorf("merge = %s after a resolution was taken back, want conflicted", m.State)
	}
	m = resolve(take("t6", run.TakeTheirs))
	m = computed(t, b, m.ID)
	if m.State != run.Ready || !m.Prepared() {
		t.Fatalf("merge = %s, want it ready with a result", m.State)
	}
	m, requeued := commit(t, b, m, true)
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, ours.ID)
	if err != nil || d.Run.State != run.Succeeded || requeued != 0 || headOf(t, d) != *m.CommittedID {
		t.Errorf("target = %s, %d requeued, want it succeeded still, with the merge as head", d.Run.State, requeued)
	}
	for path, want := range map[string]string{
		"gone": "a\nb\n", "t1": "one\nOURS\n3\n", "t2": "one\nTHEIRS\nthree\n", "t3": "one\ntwo\nthree\n", "t4": "one\nOURS\nTHEIRS\nthree\n",
		"t5": "mine\n", "t6": "one\nTHEIRS\nthree\n", "new-OURS": "OURS\n", "new-THEIRS": "THEIRS\n",
	} {
		if got := b.File(t, d, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	var doc struct {
		Steps map[string]struct{ Outputs json.RawMessage }
	}
	var raw []byte
	if err := b.Admin.QueryRow(b.Ctx, "SELECT state_inline FROM nofx.checkpoint WHERE id = $1", m.CommittedID).Scan(&raw); err != nil || json.Unmarshal(raw, &doc) != nil {
		t.Fatalf("state = %s, %v", raw, err)
	}
	if got := string(doc.Steps["edit"].Outputs); !strings.Contains(got, `"word":{"n":1.50}`) {
		t.Errorf("outputs of edit = %s, want the value", got)
	}
	sound(t, b)
}

// A strategy decides all conflicts at once; a target that gets another head meanwhile is
// merged anew, with the decisions that still apply.
func TestMergeOfATargetThatMoves(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	first := b.Create(t, hosttest.Script("a", "echo 1 | tee x > y"))
	base := headOf(t, b.Until(t, first.ID, run.Succeeded))
	target := fork(t, b, base, hosttest.Script("one", "echo 2 > x"), hosttest.Step("ask", "manual:ask", run.ManualInputs{Message: "go?"}, "one"), hosttest.Script("two", "echo 2 > y", "ask"))
	source := fork(t, b, base, hosttest.Script("other", "echo 3 > x"))
	b.Until(t, source.ID, run.Succeeded)
	waiting := b.Until(t, target.ID, run.Waiting)
	m := startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID, Strategy: run.TheirsStrategy})
	if m.State != run.Ready || m.Conflicts != 1 || m.Unresolved != 0 || m.Outcome != run.InConflict || !m.Prepared() {
		t.Fatalf("merge = %+v, want one conflict that the strategy decided", m)
	}
	// Somebody approves, and the run goes on to its end.
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, waiting.Gates[0].ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatal(err)
	}
	b.Until(t, target.ID, run.Succeeded)
	old := m.Version
	m, answer, _, err := b.DB.CommitMerge(b.Ctx, b.TenantID, m.ID, false, postgres.Verb{Version: &old}, "tester")
	if err != nil || answer != postgres.MergeMoved || m.State != run.Open || m.TargetMoved {
		t.Fatalf("CommitMerge() = %s, %s, %v, want it open again", answer, m.State, err)
	}
	m = computed(t, b, m.ID)
	commit(t, b, m, false)
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, target.ID)
	if got := b.File(t, d, "x") + b.File(t, d, "y"); err != nil || got != "3\n2\n" {
		t.Errorf("files = %q, %v, want theirs of x and the later y", got, err)
	}
	sound(t, b)
}

// While a target waits for a person, a merge makes the question anew: what was approved
// before was about another tree.
func TestMergeIntoAWaitingRun(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	first := b.Create(t, hosttest.Script("a", "echo 1 > x"))
	base := headOf(t, b.Until(t, first.ID, run.Succeeded))
	target := fork(t, b, base, hosttest.Script("one", "true"), hosttest.Step("unit", "gate:unit", run.GateInputs{Command: "true"}, "one"),
		hosttest.Step("ask", "manual:ask", run.ManualInputs{Message: "go?"}, "unit"), hosttest.Script("two", "cat x", "ask"))
	source := fork(t, b, base, hosttest.Script("other", "echo 3 > x"))
	b.Until(t, source.ID, run.Succeeded)
	b.Until(t, target.ID, run.Waiting)
	m := startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID})
	commit(t, b, m, false)
	b.Wait(t, "the question is asked anew", fmt.Sprintf("SELECT count(*) = 2 FROM nofx.gate WHERE run_id = '%s' AND kind = 'manual'", target.ID))
	d := b.Until(t, target.ID, run.Waiting)
	if got, want := states(d), "one:succeeded unit:succeeded ask:waiting two:pending unit~1:succeeded"; got != want {
		t.Errorf("steps = %s, want %s", got, want)
	}
	for _, g := range d.Gates {
		_, err := b.DB.DecideGate(b.Ctx, b.TenantID, g.ID, postgres.Decision{Event: "approve"})
		if g.Kind == run.ManualGate && g.State == run.Expired && !errors.Is(err, fault.Conflict) {
			t.Errorf("DecideGate(the old question) = %v, want a conflict", err)
		}
	}
	d = b.Until(t, target.ID, run.Succeeded)
	for _, s := range d.Steps {
		if s.Name == "two" && b.Log(t, s.ID) != "3\n" {
			t.Errorf("two printed %q, want what was merged", b.Log(t, s.ID))
		}
	}
	sound(t, b)
}

// Several leaves of a run are joined first, so that the merge has two parents.
func TestMergeOfLeaves(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	first := b.Create(t, hosttest.Script("a", "echo 1 > x"))
	base := headOf(t, b.Until(t, first.ID, run.Succeeded))
	sides := func(name string) run.Run {
		r := fork(t, b, base, hosttest.Script("one", "echo 1 > "+name+"1"), run.PlanStep{Name: "two", Tool: run.ToolBash, Inputs: json.RawMessage(`{"script":"echo 2 > ` + name + `2"}`), DependsOn: []string{}})
		b.Until(t, r.ID, run.Succeeded)
		return r
	}
	target, source := sides("t"), sides("s")
	m := startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID})
	m, _ = commit(t, b, m, false)
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, target.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.File(t, d, "t1") + b.File(t, d, "t2") + b.File(t, d, "s1") + b.File(t, d, "s2"); got != "1\n2\n1\n2\n" {
		t.Errorf("files = %q, want those of all leaves", got)
	}
	ck, err := b.DB.Checkpoint(b.Ctx, b.TenantID, target.ID, *m.CommittedID)
	if err != nil || len(ck.Parents) != 2 {
		t.Fatalf("parents = %v, %v, want two", ck.Parents, err)
	}
	for _, p := range ck.Parents {
		join, err := b.DB.Checkpoint(b.Ctx, b.TenantID, target.ID, p)
		if err != nil || join.Kind != run.ManualCheckpoint || len(join.Parents) != 2 {
			t.Errorf("parent = %s of %v, %v, want a manual checkpoint of two leaves", join.Kind, join.Parents, err)
		}
	}
	sound(t, b)
}

// A worker that was killed between the record and the step's end costs another attempt,
// which finds the work done; the dead one writes nothing any more.
func TestMergeAfterAKilledWorker(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, func(c *host.Config) { c.Queues = []string{run.StepQueue} })
	first := b.Create(t, hosttest.Script("a", "echo 1 > x"))
	base := headOf(t, b.Until(t, first.ID, run.Succeeded))
	target, source := fork(t, b, base, hosttest.Script("one", "echo 2 > x")), fork(t, b, base, hosttest.Script("two", "echo 3 > y"))
	b.Until(t, target.ID, run.Succeeded)
	b.Until(t, source.ID, run.Succeeded)
	m, _, err := b.DB.StartMerge(b.Ctx, b.TenantID, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID, Strategy: run.ManualStrategy, Mode: run.NormalMode, CreatedBy: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, *m.WorkRunID)
	if err != nil {
		t.Fatal(err)
	}
	dead := claimAs(t, b, d.Steps[0], "worker-dead")
	record := func() error {
		return b.DB.RecordMerge(b.Ctx, dead, m.ID, m.Version, postgres.MergeResult{Failure: fault.New(fault.Conflict, "too-many-conflicts", "more than 10000 paths conflict")})
	}
	if err := record(); err != nil {
		t.Fatalf("RecordMerge() = %v", err)
	}
	if _, err := b.Admin.Exec(b.Ctx, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 second'"); err != nil {
		t.Fatal(err)
	}
	b.Worker(t, serveMaintenance)
	if s := b.Until(t, *m.WorkRunID, run.Succeeded).Steps[0]; s.Attempts != 2 {
		t.Errorf("attempts = %d, want two", s.Attempts)
	}
	if err := record(); !errors.Is(err, fault.Fenced) {
		t.Errorf("RecordMerge(of the dead worker) = %v, want fenced", err)
	}
	n := postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID, Strategy: run.ManualStrategy, Mode: run.NormalMode, CreatedBy: "tester"}
	for name, err := range map[string]error{
		"StartMerge":  second(b.DB.StartMerge(b.Ctx, b.TenantID, n)),
		"CommitMerge": third(b.DB.CommitMerge(b.Ctx, b.TenantID, m.ID, false, postgres.Verb{}, "tester")),
	} {
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "too-many-conflicts" {
			t.Errorf("%s of a merge that cannot be computed = %v, want too-many-conflicts", name, err)
		}
	}
	sound(t, b)
}

func second(_ run.Merge, _ bool, err error) error { return err }

func third(_ run.Merge, _ postgres.MergeAnswer, _ int, err error) error { return err }
