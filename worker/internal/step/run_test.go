package step_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

func TestStepsRunInOrderAndSeeFiles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	r := b.Create(t,
		hosttest.Script("one", "echo hello > a.txt; echo version=1.2 >> $NOFX_OUTPUT"),
		hosttest.Script("two", "cat a.txt > b.txt; echo more >> b.txt"))
	d := b.Until(t, r.ID, run.Succeeded)
	if got := b.File(t, d, "b.txt"); got != "hello\nmore\n" {
		t.Errorf("b.txt = %q, want %q", got, "hello\nmore\n")
	}
	if !strings.Contains(string(d.Steps[0].Outputs), `"version": "1.2"`) {
		t.Errorf("outputs of one = %s, want version 1.2", d.Steps[0].Outputs)
	}
	log, err := b.DB.Log(b.Ctx, b.TenantID, d.Steps[1].ID, nil, 0, 0)
	if err != nil || !log.Ended {
		t.Errorf("Log() = %+v, %v, want an ended log", log, err)
	}
}

// Within a step a file keeps any mode and any name; the logs of that step and of the
// next one say what is not kept.
func TestLogsTellWhatIsNotKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	r := b.Create(t, hosttest.Script("one", "umask 077; echo k > id; stat -c %a id; echo x > shared; chmod 664 shared; echo y > gone; mkdir d; chmod 755 d; touch $'caf\\xe9'"),
		hosttest.Script("two", "rm gone; stat -c %a id"), hosttest.Script("three", "true"))
	d := b.Until(t, r.ID, run.Succeeded)
	const kept = "[nofx] modes other than 644 and 755 are not kept; "
	for i, want := range []string{
		"600\n" + `[nofx] not kept for later steps: "caf\xe9" (its name is not UTF-8)` + "\n" + kept + `later steps see "gone" 644 (was 600), "id" 644 (was 600)` + "\n",
		kept + `this step sees "gone" 644 (was 600), "id" 644 (was 600)` + "\n644\n",
		"",
	} {
		if got := b.Log(t, d.Steps[i].ID); got != want {
			t.Errorf("log of step %s = %q, want %q", d.Steps[i].Name, got, want)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	tests := []struct {
		name  string
		right string
		want  run.State
	}{
		{"different files", "echo r > right.txt", run.Succeeded},
		{"the same file", "echo r > left.txt", run.Failed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := b.Create(t, hosttest.Script("base", "echo b > base.txt"),
				hosttest.Script("left", "echo l > left.txt", "base"), hosttest.Script("right", tt.right, "base"),
				hosttest.Script("both", "cat base.txt left.txt right.txt > all.txt", "left", "right"))
			d := b.Until(t, r.ID, tt.want)
			if tt.want == run.Succeeded {
				if got := b.File(t, d, "all.txt"); got != "b\nl\nr\n" {
					t.Errorf("all.txt = %q, want %q", got, "b\nl\nr\n")
				}
				return
			}
			if s := d.Steps[3]; s.FailureClass != run.ClassWorkspaceConflict || !strings.Contains(string(s.Outputs), "left.txt") {
				t.Errorf("step both = %s, outputs %s, want workspace_conflict over left.txt", s.FailureClass, s.Outputs)
			}
		})
	}
}

// Lines that several steps changed in one text file come together, and those that meet are
// a conflict that names the first of them.
func TestJoinOfLines(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	for name, tt := range map[string]struct {
		right string
		want  string // "": a conflict
	}{
		"apart":    {"sed -i 's/5/five/' list", "one\n2\n3\n4\nfive\n6\n7\n8\nnine\n"},
		"adjacent": {"sed -i 's/2/two/' list", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := b.Create(t, hosttest.Script("base", "seq 9 > list"), hosttest.Script("left", "sed -i 's/1/one/' list", "base"),
				hosttest.Script("right", tt.right, "base"), hosttest.Script("third", "sed -i 's/9/nine/' list", "base"),
				hosttest.Script("all", "cp list copy", "left", "right", "third"))
			if tt.want != "" {
				if got := b.File(t, b.Until(t, r.ID, run.Succeeded), "copy"); got != tt.want {
					t.Errorf("copy = %q, want %q", got, tt.want)
				}
				return
			}
			d := b.Until(t, r.ID, run.Failed)
			if s := d.Steps[4]; s.FailureClass != run.ClassWorkspaceConflict || !strings.Contains(string(s.Outputs), `"line": 1`) {
				t.Errorf("step all = %s, outputs %s, want workspace_conflict at line 1", s.FailureClass, s.Outputs)
			}
		})
	}
}

// What several steps left may come together more than once: a step that changes it
// afterwards is the only one that did.
func TestJoinOfJoins(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	for name, last := range map[string]string{"of the same depth": "two", "of different depth": "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := b.Create(t, hosttest.Script("one", "echo 1 > one"), hosttest.Script("two", "echo 2 > two"), hosttest.Script("three", "true", "two"),
				hosttest.Script("left", "echo l >> one; echo l >> two", "one", last), hosttest.Script("right", "echo r > right", "one", last),
				hosttest.Script("again", "true", "left", "right"), hosttest.Script("beside", "true", "left", "right"),
				hosttest.Script("both", "cat one two right > all", "again", "beside"))
			d := b.Until(t, r.ID, run.Succeeded)
			if got, want := b.File(t, d, "all"), "1\nl\n2\nl\nr\n"; got != want {
				t.Errorf("all = %q, want %q", got, want)
			}
		})
	}
}

// A step may name what it depends on through others, too: what those made of it since is
// no other change.
func TestJoinWithWhatItCameOf(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	for name, needs := range map[string][]string{
		"two":                {"old", "new"},
		"three in a line":    {"base", "old", "new"},
		"the newest first":   {"new", "old", "base"},
		"with one beside it": {"old", "beside", "new"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := b.Create(t, hosttest.Script("base", "echo base > f"), hosttest.Script("beside", "echo > g", "base"), hosttest.Script("old", "echo old > f", "base"),
				hosttest.Script("new", "echo new > f", "old"), hosttest.Script("all", "cp f all", needs...))
			d := b.Until(t, r.ID, run.Succeeded)
			if got, want := b.File(t, d, "all"), "new\n"; got != want {
				t.Errorf("all = %q, want %q", got, want)
			}
		})
	}
}

// Each dependency is compared with what it shares with any of the others, and not with what
// all of them share: beside one that is far from the rest, a change that two of the rest
// began from is no change of both.
func TestJoinBesideOneFarAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	r := b.Create(t, hosttest.Script("base", "echo base > f"), hosttest.Script("x", "echo x > f", "base"), hosttest.Script("same", "true", "x"),
		hosttest.Script("new", "echo new > f", "x"), hosttest.Script("far", "echo > g", "base"),
		hosttest.Script("all", "cp f all", "same", "new", "far"))
	if got, want := b.File(t, b.Until(t, r.ID, run.Succeeded), "all"), "new\n"; got != want {
		t.Errorf("all = %q, want %q", got, want)
	}
}

// Where layers of steps all depend on all of the layer before, the same bases come up
// again and again.
func TestJoinOfAMesh(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	const layers, width = 7, 3
	var steps []run.PlanStep
	var before []string
	for l := range layers {
		var layer []string
		for w := range width {
			name := fmt.Sprintf("s%d-%d", l, w)
			layer = append(layer, name)
			steps = append(steps, hosttest.Script(name, fmt.Sprintf("echo %d >> f%d", l, w), before...))
		}
		before = layer
	}
	r := b.Create(t, append(steps, hosttest.Script("all", "cat f0 f1 f2 > all", before...))...)
	want := strings.Repeat("0\n1\n2\n3\n4\n5\n6\n", width)
	if got := b.File(t, b.Until(t, r.ID, run.Succeeded), "all"); got != want {
		t.Errorf("all = %q, want %q", got, want)
	}
}

// State is joined as files are: of a key that two steps changed differently neither value
// is taken.
func TestJoinOfStates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	for name, tt := range map[string]struct {
		base, left, right string // variables
		files             bool   // the steps change files, too
		want              string // variables, or the pointer of the conflict
		state             run.State
	}{
		"different keys":               {`"k":1`, `"k":1,"l":1`, `"k":1,"r":1`, false, `{"k":1,"l":1,"r":1}`, run.Succeeded},
		"the same change":              {`"k":1`, `"k":2`, `"k":2`, false, `{"k":2}`, run.Succeeded},
		"one side's change":            {`"k":1`, `"k":2`, `"k":1`, false, `{"k":2}`, run.Succeeded},
		"the other side's change":      {`"k":1`, `"k":1`, `"k":2`, false, `{"k":2}`, run.Succeeded},
		"the other side's deletion":    {`"k":1`, `"k":1`, ``, false, `{}`, run.Succeeded},
		"one side's change, and files": {`"k":1`, `"k":2`, `"k":1`, true, `{"k":2}`, run.Succeeded},
		"different changes":            {`"k":1`, `"k":2`, `"k":3`, false, `/vars/k`, run.Failed},
		"different changes, and files": {`"k":1`, `"k":2`, `"k":3`, true, `/vars/k`, run.Failed},
		"a change and a deletion":      {`"k":1`, `"k":2`, ``, false, `/vars/k`, run.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := func(file string) string {
				if tt.files {
					return "echo x > " + file
				}
				return "true"
			}
			r := b.Create(t, hosttest.Script("base", "true"), hosttest.Script("left", text("l"), "base"), hosttest.Script("right", text("r"), "base"),
				hosttest.Step("go", run.ToolSignal, map[string]any{"key": name}, "left"), hosttest.Script("both", "true", "go", "right"))
			b.Until(t, r.ID, run.Waiting)
			for of, vars := range map[string]string{"base": tt.base, "left": tt.left, "right": tt.right} {
				b.setVars(t, r.ID, of, vars)
			}
			if _, _, err := b.DB.SendSignal(b.Ctx, b.TenantID, name, json.RawMessage(`{}`)); err != nil {
				t.Fatalf("SendSignal() = %v", err)
			}
			d := b.Until(t, r.ID, tt.state)
			if tt.state == run.Succeeded {
				if got := b.vars(t, *d.Run.HeadCheckpointID); got != tt.want {
					t.Errorf("variables = %s, want %s", got, tt.want)
				}
				return
			}
			if s := d.Steps[4]; s.FailureClass != run.ClassWorkspaceConflict || !strings.Contains(string(s.Outputs), `"`+tt.want+`"`) || !strings.Contains(s.Reason, tt.want) {
				t.Errorf("step both = %s (%s), outputs %s, want workspace_conflict over %s", s.FailureClass, s.Reason, s.Outputs, tt.want)
			}
		})
	}
}

// setVars gives the state that a step left the variables. No step sets any so far.
func (b *bundle) setVars(t *testing.T, runID uuid.UUID, step, vars string) {
	t.Helper()
	tag, err := b.Admin.Exec(b.Ctx, `UPDATE nofx.checkpoint c
		SET state_inline = convert_to(replace(convert_from(state_inline, 'UTF8'), '"vars":{}', '"vars":{' || $3 || '}'), 'UTF8')
		FROM nofx.step s WHERE s.tenant_id = c.tenant_id AND s.id = c.step_id AND s.run_id = $1 AND s.name = $2 AND c.kind = 'post'`, runID, step, vars)
	if err != nil || tag.RowsAffected() != 1 {
		t.Fatalf("set the variables of %s: %s, %v, want one checkpoint changed", step, tag, err)
	}
}

// vars returns the variables of a checkpoint's state.
func (b *bundle) vars(t *testing.T, checkpoint uuid.UUID) string {
	t.Helper()
	var raw []byte
	if err := b.Admin.QueryRow(b.Ctx, "SELECT state_inline FROM nofx.checkpoint WHERE id = $1", checkpoint).Scan(&raw); err != nil {
		t.Fatal(err)
	}
	var state struct{ Vars json.RawMessage }
	if err := json.Unmarshal(raw, &state); err != nil {
		t.Fatalf("state %s: %v", raw, err)
	}
	return string(state.Vars)
}

func TestGateApprovalAndWaiver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	gate := run.PlanStep{Name: "unit", Tool: "gate:unit", Inputs: json.RawMessage(`{"command":"test -e marker"}`)}
	ship := run.PlanStep{Name: "ship", Tool: "manual:ship", Inputs: json.RawMessage(`{"message":"go?"}`)}
	last := hosttest.Script("last", "echo done > done.txt")

	r := b.Create(t, gate, ship, last)
	d := b.Until(t, r.ID, run.Failed)
	g := d.Gates[0]
	if g.State != run.Failed || g.ShownCheckpointID == nil || len(g.Evidence) == 0 {
		t.Fatalf("gate = %s, shown %v, evidence %s, want a failed gate with its checkpoint and evidence", g.State, g.ShownCheckpointID, g.Evidence)
	}
	artifacts, err := b.DB.Artifacts(b.Ctx, b.TenantID, r.ID, nil, 10)
	if err != nil || len(artifacts) != 1 {
		t.Fatalf("Artifacts() = %v, %v, want the evidence", artifacts, err)
	}
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, g.ID, postgres.Decision{Event: "waive", Reason: "known"}); err != nil {
		t.Fatalf("DecideGate(waive) = %v", err)
	}
	d = b.Until(t, r.ID, run.Waiting)
	if len(d.Gates) != 2 || d.Gates[1].Kind != run.ManualGate {
		t.Fatalf("gates = %+v, want a second, manual one", d.Gates)
	}
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[1].ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatalf("DecideGate(approve) = %v", err)
	}
	b.Until(t, r.ID, run.Succeeded)
}

// A gate that is waived after its end has the outputs of its family all the same, for
// those who read them.
func TestOutputsOfLateWaivers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	echo := func(reads string) run.PlanStep {
		inputs, err := json.Marshal(map[string]any{"script": `printf %s "$READ" > read.txt`, "env": map[string]string{"READ": reads}})
		if err != nil {
			t.Fatal(err)
		}
		return run.PlanStep{Name: "reader", Tool: run.ToolBash, Inputs: inputs}
	}
	for name, tt := range map[string]struct {
		gate  run.PlanStep
		state run.State // of the gate before the waiver
		reads string
		want  string
	}{
		"manual, expired": {run.PlanStep{Name: "gate", Tool: "manual:ship", Inputs: json.RawMessage(`{"message":"go?","expires_s":1}`)}, run.Expired,
			"${{ steps.gate.outputs.decision }} by ${{ steps.gate.outputs.by }}, ${{ steps.gate.outputs.by_name }}: ${{ steps.gate.outputs.reason }}", "waive by tester, tester: known"},
		"manual, rejected": {run.PlanStep{Name: "gate", Tool: "manual:ship", Inputs: json.RawMessage(`{"message":"go?"}`)}, run.Failed,
			"${{ steps.gate.outputs.decision }} by ${{ steps.gate.outputs.by }}, ${{ steps.gate.outputs.by_name }}: ${{ steps.gate.outputs.reason }}", "waive by tester, tester: known"},
		"command, failed": {run.PlanStep{Name: "gate", Tool: "gate:unit", Inputs: json.RawMessage(`{"command":"exit 3"}`)}, run.Failed,
			"${{ steps.gate.outputs.verdict }}", "waived"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := b.Create(t, tt.gate, echo(tt.reads))
			if name == "manual, rejected" {
				d := b.Until(t, r.ID, run.Waiting)
				if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[0].ID, postgres.Decision{Event: "reject", Reason: "no"}); err != nil {
					t.Fatalf("DecideGate(reject) = %v", err)
				}
			}
			d := b.Until(t, r.ID, run.Failed)
			if d.Gates[0].State != tt.state {
				t.Fatalf("gate = %s, want %s", d.Gates[0].State, tt.state)
			}
			if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[0].ID, postgres.Decision{Event: "waive", Reason: "known"}); err != nil {
				t.Fatalf("DecideGate(waive) = %v", err)
			}
			d = b.Until(t, r.ID, run.Succeeded)
			if got := b.File(t, d, "read.txt"); got != tt.want {
				t.Errorf("outputs of the gate, read by a template = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTimeoutAndRetry(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	slow := hosttest.Script("slow", "echo x >> tries.txt; exec tail -f /dev/null")
	slow.TimeoutS = new(1)
	slow.Retry = &run.PlanRetry{MaxAttempts: new(2), InitialS: new(0.01)}
	d := b.Until(t, b.Create(t, slow).ID, run.Failed)
	if s := d.Steps[0]; s.FailureClass != run.ClassExhausted || s.Attempt != 2 {
		t.Errorf("step = %s after %d attempts (%s), want exhausted after 2", s.FailureClass, s.Attempt, s.Reason)
	}
}

func TestSleepHoldsNoWorker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, stop := b.Worker(t, nil)
	r := b.Create(t, run.PlanStep{Name: "nap", Tool: run.ToolSleep, Inputs: json.RawMessage(`{"duration_s":0.5}`)}, hosttest.Script("after", "true"))
	b.Until(t, r.ID, run.Waiting)
	stop()
	b.Worker(t, nil)
	b.Until(t, r.ID, run.Succeeded)
}

func TestDrainGivesBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, stop := b.Worker(t, nil)
	r := b.Create(t, hosttest.Script("long", `if [ -e go ]; then exit 0; fi; echo half > half.txt; until [ -e `+t.TempDir()+`/never ]; do read -t 0.1 <> <(:) || true; done`))
	b.Until(t, r.ID, run.Running)
	stop()
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s := d.Steps[0]; s.State != run.Ready || s.Attempt != 0 {
		t.Errorf("after a drain the step is %s with %d attempts, want ready with 0", s.State, s.Attempt)
	}
}

// An outcome that the database refuses for good fails its step, with the reason, and
// spoils nothing for the steps that finish with it.
func TestRefusedFinish(t *testing.T) {
	t.Parallel()
	b := setup(t)
	refuse := func(name, what string) {
		t.Helper()
		if _, err := b.Admin.Exec(b.Ctx, `CREATE FUNCTION public.refuse_`+name+`() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'`+what); err != nil {
			t.Fatal(err)
		}
	}
	refuse("post", ` USING ERRCODE = 'check_violation'; END $$; CREATE TRIGGER refuse BEFORE INSERT ON nofx.checkpoint
		FOR EACH ROW WHEN (NEW.kind = 'post' AND convert_from(NEW.state_inline, 'UTF8') LIKE '%limit%') EXECUTE FUNCTION public.refuse_post()`)
	refuse("unknown", `; END $$; CREATE TRIGGER refuse_unknown BEFORE INSERT ON nofx.checkpoint
		FOR EACH ROW WHEN (NEW.kind = 'post' AND convert_from(NEW.state_inline, 'UTF8') LIKE '%bug%') EXECUTE FUNCTION public.refuse_unknown()`)
	b.Worker(t, nil)
	for step, want := range map[string]string{
		"limit": "what it came to cannot be recorded: the database cannot store a value of this",
		"bug":   "what it came to cannot be recorded: the database refused it",
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			fine := b.Create(t, hosttest.Script("fine", "true"))
			d := b.Until(t, b.Create(t, hosttest.Script(step, "echo hello > a.txt")).ID, run.Failed)
			if s := d.Steps[0]; s.FailureClass != run.ClassInvalid || s.Reason != want || s.Attempt != 1 {
				t.Errorf("step = %s (%s) after %d attempts, want invalid (%s) after 1", s.FailureClass, s.Reason, s.Attempt, want)
			}
			b.Until(t, fine.ID, run.Succeeded)
			if n := b.one(t, "SELECT sum(lost_leases) FROM nofx.step"); n != 0 {
				t.Errorf("lost leases = %d, want 0", n)
			}
		})
	}
}

// one returns the number that a query of the administrator gives.
func (b *bundle) one(t *testing.T, query string) (n int) {
	t.Helper()
	if err := b.Admin.QueryRow(b.Ctx, query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// A step that has ended takes no room beside its workspace.
func TestScratchEndsWithItsStep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dir := t.TempDir()
	b.Worker(t, func(c *host.Config) { c.WorkspaceDir = dir })
	b.Until(t, b.Create(t, hosttest.Script("fill", `echo x > "$HOME/x"; echo y > "$TMPDIR/y"`)).ID, run.Succeeded)
	spaces, err := filepath.Glob(filepath.Join(dir, "worker-*", "*", "scratch"))
	if err != nil || len(spaces) != 1 {
		t.Fatalf("the worker has scratch directories %v (%v), want one", spaces, err)
	}
	if left, err := os.ReadDir(spaces[0]); err != nil || len(left) != 0 {
		t.Errorf("after the step its scratch directory has %v, %v, want nothing", left, err)
	}
}

// A wake-up for a run that another transaction holds gives its slot to others: on a
// worker of one slot another tenant's run ends meanwhile. It stays good, and costs
// none of its attempts; when the run is free again, its steps run.
func TestHeldRunLeavesItsSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	held := b.Create(t, hosttest.Script("a", "true"), hosttest.Script("b", "true"))
	tx, err := b.Admin.Begin(b.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.Ctx) //nolint:errcheck // over, unless the test failed
	if _, err := tx.Exec(b.Ctx, "SELECT FROM nofx.run WHERE id = $1 FOR UPDATE", held.ID); err != nil {
		t.Fatal(err)
	}
	b.Worker(t, func(c *host.Config) { c.Concurrency = 1 })
	other := *b
	other.TenantID = b.Tenant(t)
	for range 3 {
		other.Until(t, other.Create(t, hosttest.Script("a", "true")).ID, run.Succeeded)
	}
	b.Wait(t, "the wake-up was put off more than once, and is no failure", `SELECT EXISTS (SELECT FROM river.river_job
		WHERE args->>'tenant_id' = '`+b.TenantID.String()+`' AND (metadata->>'snoozes')::int > 1 AND attempt <= 1 AND errors IS NULL)`)
	if err := tx.Rollback(b.Ctx); err != nil {
		t.Fatal(err)
	}
	b.Until(t, held.ID, run.Succeeded)
}
