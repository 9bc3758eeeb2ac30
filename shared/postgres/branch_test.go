package postgres_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// pass claims a step and has it succeed with a checkpoint that comes of parents.
func (s *store) pass(t testing.TB, step uuid.UUID, parents ...uuid.UUID) uuid.UUID {
	t.Helper()
	f := outcome(s.claim(t, step), "succeed")
	ck := checkpoint(run.PostCheckpoint, parents...)
	f.Checkpoints = []*postgres.Checkpoint{ck}
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatalf("FinishStep(%s) = %v", f.Claim.Name, err)
	}
	return ck.ID
}

// fork returns the arguments of a branch of r at a checkpoint, at which the steps in passed
// had succeeded.
func (s *store) fork(t testing.TB, r run.Run, checkpoint uuid.UUID, passed string) postgres.NewBranch {
	t.Helper()
	var p run.Plan
	if err := json.Unmarshal(r.Plan, &p); err != nil {
		t.Fatal(err)
	}
	steps := run.Fork{Before: p.Expanded(), After: p.Expanded(), Passed: func(name string) bool { return slices.Contains(strings.Fields(passed), name) }}.Steps()
	return postgres.NewBranch{Span: trace.SpanContextFromContext(traced(s.ctx)), Parent: r, Checkpoint: checkpoint, Plan: p, Steps: steps, CreatedBy: "author"}
}

// branch makes a branch and returns its steps by name.
func (s *store) branch(t testing.TB, b postgres.NewBranch) (run.Run, map[string]run.Step) {
	t.Helper()
	list, err := s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{b})
	if err != nil {
		t.Fatalf("CreateBranches() = %v", err)
	}
	return list[0], s.byName(t, list[0].ID)
}

func (s *store) byName(t testing.TB, id uuid.UUID) map[string]run.Step {
	t.Helper()
	d, err := s.RunDetail(s.ctx, s.tenant, id)
	if err != nil {
		t.Fatalf("RunDetail() = %v", err)
	}
	steps := map[string]run.Step{}
	for _, step := range d.Steps {
		steps[step.Name] = step
	}
	return steps
}

// rowsOf returns all that the database has of a run, as text.
func (s *store) rowsOf(t testing.TB, id uuid.UUID) string {
	t.Helper()
	return one[string](t, s, `SELECT (SELECT r::text FROM nofx.run r WHERE r.id = $1)
		|| coalesce((SELECT string_agg(s::text, E'\n' ORDER BY s.idx) FROM nofx.step s WHERE s.run_id = $1), '')
		|| coalesce((SELECT string_agg(d::text, E'\n' ORDER BY d.step_id, d.needs) FROM nofx.step_dep d WHERE d.run_id = $1), '')
		|| coalesce((SELECT string_agg(a::text, E'\n' ORDER BY a.step_id, a.fence) FROM nofx.attempt a JOIN nofx.step s ON s.id = a.step_id WHERE s.run_id = $1), '')
		|| coalesce((SELECT string_agg(e::text, E'\n' ORDER BY e.seq) FROM nofx.event e WHERE e.run_id = $1), '')
		|| coalesce((SELECT string_agg(c::text, E'\n' ORDER BY c.seq) FROM nofx.checkpoint c WHERE c.run_id = $1), '')
		|| coalesce((SELECT string_agg(p::text, E'\n' ORDER BY p.checkpoint_id, p.ord) FROM nofx.checkpoint_parent p JOIN nofx.checkpoint c ON c.id = p.checkpoint_id WHERE c.run_id = $1), '')
		|| coalesce((SELECT string_agg(x::text, E'\n' ORDER BY x.key) FROM nofx.step_effect x WHERE x.run_id = $1), '')`, id)
}

// What a branch does is never seen in its parent, whose rows stay the same byte for byte.
// Where checkpoints are chained by their thread and not by their parent, a branch replays
// what an abandoned line has written (langgraph#8443); here the lines share only the
// checkpoint at which they part.
func TestBranchNeverInItsParentsLine(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a", "c: b")
	a := s.pass(t, steps["a"].ID)
	b := s.pass(t, steps["b"].ID, a)
	s.pass(t, steps["c"].ID, b)
	before := s.rowsOf(t, r.ID)

	fork := s.fork(t, r, a, "a")
	fork.Name = "another way"
	other, mine := s.branch(t, fork)
	s.wantStates(t, other.ID, "queued a:succeeded b:ready c:pending")
	if other.RootRunID != r.ID || *other.ParentRunID != r.ID || *other.ParentCheckpointID != a || other.Name != "another way" || other.TraceID == r.TraceID {
		t.Errorf("CreateBranches() = %+v, want a run of its own trace under %s at %s", other, r.ID, a)
	}
	if got := mine["a"]; got.RestoredFrom == nil || *got.RestoredFrom != steps["a"].ID || string(got.Outputs) != `{"by": "a"}` || got.Attempts != 1 || got.Attempt != 1 {
		t.Errorf("restored step = %+v, want that of %s with its outputs", got, steps["a"].ID)
	}
	claim := s.claim(t, mine["b"].ID)
	if len(claim.Parents) != 1 || claim.Parents[0].ID != a {
		t.Fatalf("Claim(b) starts from %+v, want only %s", claim.Parents, a)
	}
	f := outcome(claim, "succeed")
	post := checkpoint(run.PostCheckpoint, a)
	f.Checkpoints = []*postgres.Checkpoint{post}
	if err := s.FinishStep(s.ctx, f); err != nil {
		t.Fatal(err)
	}
	c := s.claim(t, mine["c"].ID)
	if len(c.Parents) != 1 || c.Parents[0].ID != post.ID {
		t.Fatalf("Claim(c) starts from %+v, want only the branch's %s", c.Parents, post.ID)
	}
	s.finish(t, c, "succeed")
	s.wantStates(t, other.ID, "succeeded a:succeeded b:succeeded c:succeeded")
	if after := s.rowsOf(t, r.ID); after != before {
		t.Errorf("the parent's rows changed:\n%s\nwere\n%s", after, before)
	}
	got, attempts, err := s.Step(s.ctx, s.tenant, mine["a"].ID)
	if err != nil || len(attempts) != 1 || !attempts[0].Accepted || string(got.Outputs) != `{"by": "a"}` {
		t.Errorf("Step(restored) = %+v, %+v, %v, want the attempt of the step that ran", got, attempts, err)
	}
	if outputs, err := s.StepOutputs(s.ctx, s.tenant, other.ID, "a"); err != nil || string(outputs) != `{"by": "a"}` {
		t.Errorf("StepOutputs(restored) = %s, %v, want those of the step that ran", outputs, err)
	}
	if _, err := s.Checkpoint(s.ctx, s.tenant, other.ID, a); err != nil {
		t.Errorf("Checkpoint(where the branch began) = %v", err)
	}
	_, err = s.Checkpoint(s.ctx, s.tenant, other.ID, b)
	wantKind(t, "Checkpoint(of the parent, after the branch began)", err, fault.NotFound, "not-found")
	s.wantSound(t)
}

// A reference of a branch of a branch of a branch leads to the step that ran in one hop, and
// outputs that were edited on the way stay edited.
func TestBranchOfBranches(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a", "c: b", "d: c")
	a := s.pass(t, steps["a"].ID)
	s.pass(t, steps["b"].ID, a)
	line := r
	at, passed := a, "a"
	for i, next := range []string{"b", "c", "d"} {
		fork := s.fork(t, line, at, passed)
		if i == 1 {
			fork.Outputs = map[string]json.RawMessage{"a": json.RawMessage(`{"edited":1}`)}
		}
		var mine map[string]run.Step
		line, mine = s.branch(t, fork)
		if line.RootRunID != r.ID {
			t.Errorf("root of branch %d = %s, want %s", i, line.RootRunID, r.ID)
		}
		want := `{"by": "a"}`
		if i > 0 {
			want = `{"edited": 1}`
		}
		if got := mine["a"]; *got.RestoredFrom != steps["a"].ID || string(got.Outputs) != want {
			t.Errorf("a in branch %d is from %s with %s, want %s with %s", i, got.RestoredFrom, got.Outputs, steps["a"].ID, want)
		}
		at = s.pass(t, mine[next].ID, at)
		passed += " " + next
		if l, err := s.Log(s.ctx, s.tenant, mine["a"].ID, nil, 0, 0); err != nil || l.RunID != r.ID || !l.Ended {
			t.Errorf("Log(restored in branch %d) = %+v, %v, want that of run %s", i, l, err, r.ID)
		}
	}
	s.wantStates(t, line.ID, "succeeded a:succeeded b:succeeded c:succeeded d:succeeded")
	s.wantSound(t)
}

// Nothing after a gate runs before its fresh verdict, although the steps between are
// restored.
func TestBranchReopensGates(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "m: a", "b: m", "c: b")
	a := s.pass(t, steps["a"].ID)
	f := s.do(t, steps["m"].ID, "approval")
	if _, err := s.DecideGate(s.ctx, s.tenant, f.Gate.ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatalf("DecideGate() = %v", err)
	}
	b := s.pass(t, steps["b"].ID, a)
	other, mine := s.branch(t, s.fork(t, r, b, "a m b"))
	s.wantStates(t, other.ID, "queued a:succeeded m:ready b:succeeded c:pending")
	if got := mine["c"].DependsOn; !slices.Equal(got, []string{"m", "b"}) {
		t.Errorf("c depends on %q, want m and b", got)
	}
	claim := s.claim(t, mine["m"].ID)
	if len(claim.Parents) != 2 || claim.Parents[0].ID != a || claim.Parents[1].ID != b {
		t.Errorf("the gate starts from %+v, want what a and b left", claim.Parents)
	}
	again := s.finish(t, claim, "approval")
	s.wantStates(t, other.ID, "waiting a:succeeded m:waiting b:succeeded c:pending")
	if _, err := s.DecideGate(s.ctx, s.tenant, again.Gate.ID, postgres.Decision{Event: "reject", Reason: "no"}); err != nil {
		t.Fatalf("DecideGate() = %v", err)
	}
	s.wantStates(t, other.ID, "failed a:succeeded m:failed b:succeeded c:skipped")
	// It can be tried again as any other run.
	if _, err := s.RetryRun(s.ctx, s.tenant, other.ID, postgres.Verb{Reason: "again"}); err != nil {
		t.Fatalf("RetryRun() = %v", err)
	}
	s.wantStates(t, other.ID, "running a:succeeded m:ready b:succeeded c:pending")
	s.wantSound(t)
}

// merged gives a run a merge of its newest checkpoint to start from.
func (s *store) merged(t testing.TB, r run.Run, newest uuid.UUID) uuid.UUID {
	t.Helper()
	id := uuid.New()
	s.exec(t, fmt.Sprintf(`BEGIN;
		SET LOCAL search_path = nofx;
		SELECT nofx.append_checkpoint(c.tenant_id, '%[3]s', jsonb_build_object('id', '%[2]s', 'kind', 'merge', 'generation', c.generation + 1, 'digest', c.digest,
			'manifest', encode(c.manifest, 'base64'), 'state_digest', c.state_digest, 'state_inline', encode(c.state_inline, 'base64'),
			'tree_digest', c.tree_digest, 'bytes_new', 0, 'parents', jsonb_build_array('%[1]s'))) FROM nofx.checkpoint c WHERE c.id = '%[1]s';
		UPDATE nofx.run SET start_checkpoint_id = '%[2]s', head_checkpoint_id = '%[2]s' WHERE id = '%[3]s';
		COMMIT`, newest, id, r.ID))
	return id
}

// The newest merge up to the checkpoint of a branch stands for all that is older, also for
// restored steps of runs before; none from later on is in the branch.
func TestBranchStart(t *testing.T) {
	t.Parallel()
	s := setup(t)
	plan := []string{"a:", "b: a", "c: a", "d: b c", "e:"}
	r, steps := s.create(t, plan...)
	names := map[uuid.UUID]string{}
	told := func(ids []uuid.UUID) string {
		var list []string
		for _, id := range ids {
			list = append(list, names[id])
		}
		return strings.Join(list, " ")
	}
	// starts claims steps of a run, one after the other, and lets each succeed with a
	// checkpoint. It returns where they started from.
	starts := func(prefix string, mine map[string]run.Step, list ...string) string {
		t.Helper()
		var words []string
		for _, name := range list {
			c := s.claim(t, mine[name].ID)
			var from []uuid.UUID
			for _, p := range c.Parents {
				from = append(from, p.ID)
			}
			post := checkpoint(run.PostCheckpoint, from...)
			names[post.ID] = prefix + name
			f := outcome(c, "succeed")
			f.Checkpoints = []*postgres.Checkpoint{post}
			if err := s.FinishStep(s.ctx, f); err != nil {
				t.Fatal(err)
			}
			words = append(words, name+"("+told(from)+")")
		}
		return strings.Join(words, " ")
	}
	id := func(name string) uuid.UUID {
		for id, n := range names {
			if n == name {
				return id
			}
		}
		t.Fatalf("no checkpoint %s", name)
		return uuid.Nil
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s starts from %s, want %s", what, got, want)
		}
	}
	check("the run", starts("", steps, "a"), "a()")
	merge := s.merged(t, r, id("a"))
	names[merge] = "merge"
	check("the run after the merge", starts("", steps, "b"), "b(merge)")
	names[s.merged(t, r, id("b"))] = "later"
	check("the run after two merges", starts("", steps, "c"), "c(later)")

	for _, tt := range []struct{ from, passed, runs, want, start string }{
		{"a", "a", "b c e d", "b(a) c(a) e() d(of a:b of a:c)", ""},
		{"merge", "a", "b c e d", "b(merge) c(merge) e(merge) d(of merge:b of merge:c)", "merge"},
		{"b", "a b", "c e d", "c(merge) e(merge) d(b of b:c)", "merge"},
		{"later", "a b", "c e d", "c(later) e(later) d(later of later:c)", "later"},
		{"c", "a b c", "d e", "d(later c) e(later)", "later"},
	} {
		branch, mine := s.branch(t, s.fork(t, r, id(tt.from), tt.passed))
		check("a branch at "+tt.from, starts("of "+tt.from+":", mine, strings.Fields(tt.runs)...), tt.want)
		first, _, _ := strings.Cut(tt.runs, " ")
		_, mine = s.branch(t, s.fork(t, branch, id("of "+tt.from+":"+first), tt.passed+" "+first))
		check("a branch of the branch at "+tt.from, starts("again "+tt.from+":", mine, "e"), "e("+tt.start+")")
		_, mine = s.branch(t, s.fork(t, branch, id(tt.from), tt.passed))
		check("a branch of it, where that began at "+tt.from, starts("same "+tt.from+":", mine, "e"), "e("+tt.start+")")
	}

	// A merge into a branch stands for what the branch inherited.
	branch, mine := s.branch(t, s.fork(t, r, id("b"), "a b"))
	check("a branch", starts("x:", mine, "c"), "c(merge)")
	before := id("x:c")
	names[s.merged(t, branch, before)] = "own"
	check("a branch after a merge", starts("x:", mine, "d", "e"), "d(own) e(own)")
	_, mine = s.branch(t, s.fork(t, branch, before, "a b c"))
	check("a branch from before the merge into its parent", starts("y:", mine, "e", "d"), "e(merge) d(b x:c)")
	s.wantSound(t)
}

// Gates that passed in a branch pass once, although the branch starts from a merge of its
// parent, whose own gates had to pass again.
func TestBranchOfAMergeRetried(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "m: a", "b: m", "c: b", "x:", "y:", "z:")
	a := s.pass(t, steps["a"].ID)
	for _, other := range []string{"x", "y", "z"} { // the merge comes late in its run
		s.do(t, steps[other].ID, "succeed")
	}
	branch, mine := s.branch(t, s.fork(t, r, s.merged(t, r, a), "a x y z"))
	f := s.do(t, mine["m"].ID, "approval")
	if _, err := s.DecideGate(s.ctx, s.tenant, f.Gate.ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatalf("DecideGate() = %v", err)
	}
	s.do(t, mine["b"].ID, "fail")
	s.wantStates(t, branch.ID, "failed a:succeeded m:succeeded b:failed c:skipped x:succeeded y:succeeded z:succeeded")
	if _, err := s.RetryRun(s.ctx, s.tenant, branch.ID, postgres.Verb{Reason: "again"}); err != nil {
		t.Fatalf("RetryRun() = %v", err)
	}
	s.wantStates(t, branch.ID, "running a:succeeded m:succeeded b:ready c:pending x:succeeded y:succeeded z:succeeded")
	s.wantSound(t)
}

// A branch repeats an effect under a key of its own, unless it reuses those of its parent.
func TestBranchEffects(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a")
	a := s.pass(t, steps["a"].ID)
	claim := s.claim(t, steps["b"].ID)
	digest := "sha256:" + strings.Repeat("0", 64)
	e, err := s.BeginEffect(s.ctx, claim, "http", digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.FinishEffect(s.ctx, claim, e.Key, json.RawMessage(`{"status":201}`)); err != nil {
		t.Fatal(err)
	}
	s.finish(t, claim, "succeed")

	begin := func(b postgres.NewBranch, digest string) (run.Run, *postgres.Claim, postgres.Effect) {
		t.Helper()
		other, mine := s.branch(t, b)
		c := s.claim(t, mine["b"].ID)
		e, err := s.BeginEffect(s.ctx, c, "http", digest)
		if err != nil {
			t.Fatalf("BeginEffect() = %v", err)
		}
		return other, c, e
	}
	fork := s.fork(t, r, a, "a")
	other, _, own := begin(fork, digest)
	if want := run.RunID.Format(other.ID) + "/b"; own.Key != want || own.Result != nil {
		t.Errorf("BeginEffect(branch) = %+v, want the key %s and no result", own, want)
	}
	fork.ReuseEffects = true
	reuses, _, e := begin(fork, digest)
	if string(e.Result) != `{"status": 201}` {
		t.Errorf("BeginEffect(branch that reuses) = %+v, want the parent's result", e)
	}
	if _, _, e := begin(fork, "sha256:"+strings.Repeat("1", 64)); e.Result != nil {
		t.Errorf("BeginEffect(another request) = %+v, want no result", e)
	}
	// One that reuses what its parent reuses finds it as well, and past one that does not, nothing.
	again := s.fork(t, reuses, a, "a")
	again.ReuseEffects = true
	if _, _, e := begin(again, digest); string(e.Result) != `{"status": 201}` {
		t.Errorf("BeginEffect(branch of a branch) = %+v, want the result of the first run", e)
	}
	again = s.fork(t, other, a, "a")
	again.ReuseEffects = true
	if _, _, e := begin(again, digest); e.Result != nil {
		t.Errorf("BeginEffect(branch of one that has not done it) = %+v, want no result", e)
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.step_effect WHERE run_id = $1", r.ID); n != 1 {
		t.Errorf("the parent has %d effects, want 1", n)
	}
	s.wantSound(t)
}

// A run has at most a hundred branches, and a line of branches is at most fifty long.
func TestBranchLimits(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a")
	a := s.pass(t, steps["a"].ID)
	fork := s.fork(t, r, a, "a")
	if list, err := s.CreateBranches(s.ctx, s.tenant, slices.Repeat([]postgres.NewBranch{fork}, run.MaxBranches)); err != nil || len(list) != run.MaxBranches {
		t.Fatalf("CreateBranches(a hundred) = %d runs, %v", len(list), err)
	}
	_, err := s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{fork})
	wantKind(t, "CreateBranches(the 101st)", err, fault.Conflict, "branch-limit")
	line, _ := s.create(t, "a:", "b: a")
	first := s.pass(t, s.byName(t, line.ID)["a"].ID)
	for range run.MaxBranchDepth {
		list, err := s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{s.fork(t, line, first, "a")})
		if err != nil {
			t.Fatalf("CreateBranches() = %v", err)
		}
		line = list[0]
	}
	_, err = s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{s.fork(t, line, first, "a")})
	wantKind(t, "CreateBranches(the 51st in a row)", err, fault.Conflict, "branch-limit")

	// What else the database refuses.
	fork = s.fork(t, line, uuid.New(), "a")
	fork.Parent = run.Run{ID: uuid.New(), Project: "default"}
	_, err = s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{fork})
	wantKind(t, "CreateBranches(of no run)", err, fault.NotFound, "not-found")
	b2, _ := s.create(t, "a:", "b: a")
	_, err = s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{s.fork(t, b2, uuid.New(), "")})
	wantKind(t, "CreateBranches(at no checkpoint)", err, fault.NotFound, "not-found")
	if _, err := s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{s.fork(t, b2, first, "a")}); err == nil {
		t.Error("CreateBranches(with a step that has not succeeded) = nil, want an error")
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.run"); n != run.MaxBranches+run.MaxBranchDepth+3 {
		t.Errorf("there are %d runs, want none of what was refused", n)
	}
	s.wantSound(t)
}

// Fork returns what is read of a checkpoint, through a branch as well.
func TestForkOf(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a")
	a := s.pass(t, steps["a"].ID)
	f, err := s.Fork(s.ctx, s.tenant, r.ID, a)
	if err != nil || f.Run.ID != r.ID || f.Checkpoint.ID != a || string(f.State) != "{}" || f.Stored || len(f.Steps) != 1 || f.Steps[0].Name != "a" || *f.Steps[0].Head != a {
		t.Errorf("Fork() = %+v, %v, want the run, the checkpoint and step a", f, err)
	}
	other, _ := s.branch(t, s.fork(t, r, a, "a"))
	if f, err = s.Fork(s.ctx, s.tenant, other.ID, a); err != nil || f.Steps[0].ID != steps["a"].ID {
		t.Errorf("Fork(branch) = %+v, %v, want the step that ran", f, err)
	}
	_, err = s.Fork(s.ctx, s.tenant, r.ID, uuid.New())
	wantKind(t, "Fork(no checkpoint)", err, fault.NotFound, "not-found")
	_, err = s.Fork(s.ctx, s.Tenant(t), r.ID, a)
	wantKind(t, "Fork(of another tenant)", err, fault.NotFound, "not-found")
}

// A branch of a thousand steps costs about what the run cost.
func BenchmarkBranch(b *testing.B) {
	s := setup(b)
	text := []string{"a0:"}
	for i := 1; i < run.MaxSteps; i++ {
		text = append(text, fmt.Sprintf("a%d: a%d", i, i-1))
	}
	r, steps := s.create(b, text...)
	var passed []string
	var at uuid.UUID
	for i := range 500 {
		at = s.pass(b, steps[fmt.Sprintf("a%d", i)].ID)
		passed = append(passed, fmt.Sprintf("a%d", i))
	}
	p := plan(b, text...)
	list := strings.Join(passed, " ")
	var posts, branches time.Duration
	b.ResetTimer()
	for i := range b.N {
		began := time.Now()
		if _, _, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "author"}); err != nil {
			b.Fatal(err)
		}
		posts += time.Since(began)
		if i > 0 && i%90 == 0 { // a run has a hundred branches
			b.StopTimer()
			s.exec(b, "DELETE FROM nofx.run WHERE parent_run_id = $1", r.ID)
			b.StartTimer()
		}
		began = time.Now()
		if _, err := s.CreateBranches(s.ctx, s.tenant, []postgres.NewBranch{s.fork(b, r, at, list)}); err != nil {
			b.Fatal(err)
		}
		branches += time.Since(began)
	}
	b.ReportMetric(float64(posts.Microseconds())/float64(b.N), "µs/run")
	b.ReportMetric(float64(branches.Microseconds())/float64(b.N), "µs/branch")
	b.ReportMetric(float64(branches)/float64(posts), "branch/run")
}

// Several steps may be claimed before the edits of their branch are made: the checkpoint
// that is recorded first counts, and all of them start from it.
func TestBranchEditOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a", "c: a", "d: b c", "e:")
	a := s.pass(t, steps["a"].ID)
	fork := s.fork(t, r, a, "a")
	fork.Edit, fork.Bases = &run.BranchEdit{By: "author", Reason: "to see", Vars: json.RawMessage(`{"n":1.50}`)}, []uuid.UUID{a}
	other, mine := s.branch(t, fork)
	b, c, e := s.claim(t, mine["b"].ID), s.claim(t, mine["c"].ID), s.claim(t, mine["e"].ID)
	if !b.Edited || !c.Edited || !e.Edited {
		t.Fatalf("claims = %t, %t, %t, want that the edits come first", b.Edited, c.Edited, e.Edited)
	}
	edit, bases, err := s.BranchEdit(s.ctx, b)
	if err != nil || edit.By != "author" || edit.Reason != "to see" || string(edit.Vars) != `{"n":1.50}` || len(bases) != 1 || bases[0].ID != a {
		t.Fatalf("BranchEdit() = %+v, %+v, %v, want the edits of %s", edit, bases, err, a)
	}
	first, second := checkpoint(run.EditCheckpoint, a), checkpoint(run.EditCheckpoint, a)
	for _, claim := range []*postgres.Claim{b, c} {
		if err := s.RecordEdit(s.ctx, claim, map[string]*postgres.Checkpoint{"b": first, "c": second}[claim.Name]); err != nil {
			t.Fatalf("RecordEdit(%s) = %v", claim.Name, err)
		}
	}
	_, _, err = s.BranchEdit(s.ctx, e)
	wantKind(t, "BranchEdit(made)", err, fault.NotFound, "not-found")
	if err := s.StartAgain(s.ctx, e); err != nil {
		t.Fatalf("StartAgain() = %v", err)
	}
	for _, claim := range []*postgres.Claim{b, c, e} {
		if len(claim.Parents) != 1 || claim.Parents[0].ID != first.ID {
			t.Errorf("%s starts from %+v, want the first checkpoint of the edits, %s", claim.Name, claim.Parents, first.ID)
		}
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.checkpoint WHERE run_id = $1", other.ID); n != 1 {
		t.Errorf("the branch has %d checkpoints, want the one of its edits", n)
	}
	s.finish(t, c, "fail")
	again := s.claim(t, s.retried(t, mine["c"].ID))
	if again.Edited || len(again.Parents) != 1 || again.Parents[0].ID != first.ID {
		t.Errorf("the retried step = edits %t, parents %+v, want only the checkpoint of the edits", again.Edited, again.Parents)
	}
	// One who has lost the step records nothing.
	lost, theirs := s.branch(t, fork)
	late := s.claim(t, theirs["b"].ID)
	if _, err := s.CancelRun(s.ctx, s.tenant, lost.ID, postgres.Verb{Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "RecordEdit(cancelled)", s.RecordEdit(s.ctx, late, checkpoint(run.EditCheckpoint, a)), fault.Fenced, "fenced")
	s.wantSound(t)
}

// retried lets a failed step run again and returns it.
func (s *store) retried(t testing.TB, step uuid.UUID) uuid.UUID {
	t.Helper()
	if _, _, err := s.RetryStep(s.ctx, s.tenant, step, true, "again"); err != nil {
		t.Fatalf("RetryStep() = %v", err)
	}
	return step
}
