package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/blob/blobtest"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/tool"
)

const bucket = "nofx-step"

var storageServer *blobtest.Server

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	ctx := context.Background()
	stop, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres:", err)
		return 1
	}
	defer stop()
	if storageServer, err = blobtest.Start(ctx, blobtest.Config{}); err == nil {
		defer storageServer.Stop()
		err = storageServer.MakeBucket(ctx, bucket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	return m.Run()
}

// bundle is one test's database, storage and tenant.
type bundle struct {
	*pgtest.Database
	db     *postgres.DB
	blobs  *blob.Store
	tenant uuid.UUID
	ctx    context.Context // in a span of a trace
}

func setup(t *testing.T) *bundle {
	t.Helper()
	d := pgtest.New(t)
	id, span := uuid.New(), uuid.New()
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(id), SpanID: trace.SpanID(span[:8]), TraceFlags: trace.FlagsSampled,
	}))
	return &bundle{Database: d, db: openDB(t, d, nil), blobs: openBlobs(t, storageServer.Endpoint), tenant: d.Tenant(t), ctx: postgres.WithActor(ctx, "tester")}
}

func openBlobs(t *testing.T, endpoint string) *blob.Store {
	t.Helper()
	s := storageServer
	blobs, err := blob.Open(blob.Config{Endpoint: endpoint, Bucket: bucket, Region: s.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey})
	if err != nil {
		t.Fatalf("blob.Open() = %v", err)
	}
	return blobs
}

func openDB(t *testing.T, d *pgtest.Database, m *telemetry.Metrics) *postgres.DB {
	c := postgres.Config{}
	if m != nil {
		c.JobMiddleware = []rivertype.Middleware{telemetry.NewCarrier(m)}
	}
	return d.Open(t, c)
}

// worker starts a worker that stops with the test, or when stop is called.
func (b *bundle) worker(t *testing.T, edit func(*Config)) (w *Worker, stop func()) {
	t.Helper()
	var out bytes.Buffer
	m := telemetry.NewMetrics(prometheus.NewRegistry(), "test")
	cfg := Config{
		ID: "worker-" + uuid.NewString()[:8], PID: os.Getpid(), Version: "test",
		Work: openDB(t, b.Database, m), River: openDB(t, b.Database, m), Heartbeat: openDB(t, b.Database, m), Blobs: b.blobs,
		Tools: tool.New(tool.Config{Development: true}), Metrics: m, Log: slog.New(slog.DiscardHandler),
		Queues: []string{"step"}, Concurrency: 4, LeaseTTL: 5 * time.Second, DrainGrace: 100 * time.Millisecond, Budget: 15 * time.Minute,
		WorkspaceDir: t.TempDir(),
	}
	if edit != nil {
		edit(&cfg)
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatalf("New() = %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, context.Background()) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil\n%s", err, out.String())
		}
	}
	t.Cleanup(stop)
	return w, stop
}

func (b *bundle) create(t *testing.T, steps ...run.PlanStep) run.Run {
	t.Helper()
	p, err := run.Plan{Goal: "test", Steps: steps}.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v", err)
	}
	r, _, err := b.db.CreateRun(b.ctx, b.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("CreateRun() = %v", err)
	}
	return r
}

func script(name, text string, needs ...string) run.PlanStep {
	inputs, _ := json.Marshal(run.BashInputs{Script: text})
	return run.PlanStep{Name: name, Tool: run.ToolBash, Inputs: inputs, DependsOn: needs, TimeoutS: new(60)}
}

// until waits for the run to reach one of the states.
func (b *bundle) until(t *testing.T, id uuid.UUID, states ...run.State) postgres.RunDetail {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := b.db.RunDetail(ctx, b.tenant, id)
		if err != nil {
			t.Fatalf("RunDetail(%s) = %v", id, err)
		}
		for _, s := range states {
			if d.Run.State == s {
				return d
			}
		}
		if run.RunMachine.Terminal(d.Run.State) {
			t.Fatalf("run is %s (%s), want %v", d.Run.State, d.Run.Reason, states)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("run is still %s, want %v; steps %+v", d.Run.State, states, d.Steps)
		}
	}
}

// log is what a step printed.
func (b *bundle) log(t *testing.T, step uuid.UUID) string {
	t.Helper()
	l, err := b.db.Log(b.ctx, b.tenant, step, nil, 0, 100)
	if err != nil {
		t.Fatalf("Log() = %v", err)
	}
	var text strings.Builder
	for _, c := range l.Chunks {
		r, err := b.blobs.Open(b.ctx, c.Key, 0, -1)
		if err != nil {
			t.Fatalf("Open(%s) = %v", c.Key, err)
		}
		_, err = io.Copy(&text, r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatalf("read %s: %v", c.Key, err)
		}
	}
	return text.String()
}

// file is the content of a file in the newest checkpoint of a run.
func (b *bundle) file(t *testing.T, d postgres.RunDetail, path string) string {
	t.Helper()
	if d.Run.HeadCheckpointID == nil {
		t.Fatalf("run %s has no head checkpoint", d.Run.ID)
	}
	ck, err := b.db.Checkpoint(b.ctx, b.tenant, d.Run.ID, *d.Run.HeadCheckpointID)
	if err != nil {
		t.Fatalf("Checkpoint() = %v", err)
	}
	root, err := tree.ParseDigest(ck.TreeDigest)
	if err != nil {
		t.Fatal(err)
	}
	source := &tree.Source{Blobs: b.blobs, Locator: checkpoint.Index{DB: b.db}}
	r, _, err := source.Tree(b.tenant, root).Open(b.ctx, path)
	if err != nil {
		t.Fatalf("Open(%s) = %v", path, err)
	}
	defer r.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(r); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return buf.String()
}

func TestStepsRunInOrderAndSeeFiles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
	r := b.create(t,
		script("one", "echo hello > a.txt; echo version=1.2 >> $NOFX_OUTPUT"),
		script("two", "cat a.txt > b.txt; echo more >> b.txt"))
	d := b.until(t, r.ID, run.Succeeded)
	if got := b.file(t, d, "b.txt"); got != "hello\nmore\n" {
		t.Errorf("b.txt = %q, want %q", got, "hello\nmore\n")
	}
	if !strings.Contains(string(d.Steps[0].Outputs), `"version": "1.2"`) {
		t.Errorf("outputs of one = %s, want version 1.2", d.Steps[0].Outputs)
	}
	log, err := b.db.Log(b.ctx, b.tenant, d.Steps[1].ID, nil, 0, 0)
	if err != nil || !log.Ended {
		t.Errorf("Log() = %+v, %v, want an ended log", log, err)
	}
}

// Within a step a file keeps any mode and any name; the logs of that step and of the
// next one say what is not kept.
func TestLogsTellWhatIsNotKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
	r := b.create(t, script("one", "umask 077; echo k > id; stat -c %a id; echo x > shared; chmod 664 shared; echo y > gone; mkdir d; chmod 755 d; touch $'caf\\xe9'"),
		script("two", "rm gone; stat -c %a id"), script("three", "true"))
	d := b.until(t, r.ID, run.Succeeded)
	const kept = "[nofx] modes other than 644 and 755 are not kept; "
	for i, want := range []string{
		"600\n" + `[nofx] not kept for later steps: "caf\xe9" (its name is not UTF-8)` + "\n" + kept + `later steps see "gone" 644 (was 600), "id" 644 (was 600)` + "\n",
		kept + `this step sees "gone" 644 (was 600), "id" 644 (was 600)` + "\n644\n",
		"",
	} {
		if got := b.log(t, d.Steps[i].ID); got != want {
			t.Errorf("log of step %s = %q, want %q", d.Steps[i].Name, got, want)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
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
			r := b.create(t, script("base", "echo b > base.txt"),
				script("left", "echo l > left.txt", "base"), script("right", tt.right, "base"),
				script("both", "cat base.txt left.txt right.txt > all.txt", "left", "right"))
			d := b.until(t, r.ID, tt.want)
			if tt.want == run.Succeeded {
				if got := b.file(t, d, "all.txt"); got != "b\nl\nr\n" {
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

// State is joined as files are: of a key that two steps changed differently neither value
// is taken.
func TestJoinOfStates(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
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
			r := b.create(t, script("base", "true"), script("left", text("l"), "base"), script("right", text("r"), "base"),
				step("go", run.ToolSignal, map[string]any{"key": name}, "left"), script("both", "true", "go", "right"))
			b.until(t, r.ID, run.Waiting)
			for of, vars := range map[string]string{"base": tt.base, "left": tt.left, "right": tt.right} {
				b.setVars(t, r.ID, of, vars)
			}
			if _, _, err := b.db.SendSignal(b.ctx, b.tenant, name, json.RawMessage(`{}`)); err != nil {
				t.Fatalf("SendSignal() = %v", err)
			}
			d := b.until(t, r.ID, tt.state)
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
	tag, err := b.Admin.Exec(b.ctx, `UPDATE nofx.checkpoint c
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
	if err := b.Admin.QueryRow(b.ctx, "SELECT state_inline FROM nofx.checkpoint WHERE id = $1", checkpoint).Scan(&raw); err != nil {
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
	b.worker(t, nil)
	gate := run.PlanStep{Name: "unit", Tool: "gate:unit", Inputs: json.RawMessage(`{"command":"test -e marker"}`)}
	ship := run.PlanStep{Name: "ship", Tool: "manual:ship", Inputs: json.RawMessage(`{"message":"go?"}`)}
	last := script("last", "echo done > done.txt")

	r := b.create(t, gate, ship, last)
	d := b.until(t, r.ID, run.Failed)
	g := d.Gates[0]
	if g.State != run.Failed || g.ShownCheckpointID == nil || len(g.Evidence) == 0 {
		t.Fatalf("gate = %s, shown %v, evidence %s, want a failed gate with its checkpoint and evidence", g.State, g.ShownCheckpointID, g.Evidence)
	}
	artifacts, err := b.db.Artifacts(b.ctx, b.tenant, r.ID, nil, 10)
	if err != nil || len(artifacts) != 1 {
		t.Fatalf("Artifacts() = %v, %v, want the evidence", artifacts, err)
	}
	if _, err := b.db.DecideGate(b.ctx, b.tenant, g.ID, postgres.Decision{Event: "waive", Reason: "known"}); err != nil {
		t.Fatalf("DecideGate(waive) = %v", err)
	}
	d = b.until(t, r.ID, run.Waiting)
	if len(d.Gates) != 2 || d.Gates[1].Kind != run.ManualGate {
		t.Fatalf("gates = %+v, want a second, manual one", d.Gates)
	}
	if _, err := b.db.DecideGate(b.ctx, b.tenant, d.Gates[1].ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatalf("DecideGate(approve) = %v", err)
	}
	b.until(t, r.ID, run.Succeeded)
}

// A gate that is waived after its end has the outputs of its family all the same, for
// those who read them.
func TestOutputsOfLateWaivers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
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
			r := b.create(t, tt.gate, echo(tt.reads))
			if name == "manual, rejected" {
				d := b.until(t, r.ID, run.Waiting)
				if _, err := b.db.DecideGate(b.ctx, b.tenant, d.Gates[0].ID, postgres.Decision{Event: "reject", Reason: "no"}); err != nil {
					t.Fatalf("DecideGate(reject) = %v", err)
				}
			}
			d := b.until(t, r.ID, run.Failed)
			if d.Gates[0].State != tt.state {
				t.Fatalf("gate = %s, want %s", d.Gates[0].State, tt.state)
			}
			if _, err := b.db.DecideGate(b.ctx, b.tenant, d.Gates[0].ID, postgres.Decision{Event: "waive", Reason: "known"}); err != nil {
				t.Fatalf("DecideGate(waive) = %v", err)
			}
			d = b.until(t, r.ID, run.Succeeded)
			if got := b.file(t, d, "read.txt"); got != tt.want {
				t.Errorf("outputs of the gate, read by a template = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTimeoutAndRetry(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.worker(t, nil)
	slow := script("slow", "echo x >> tries.txt; exec tail -f /dev/null")
	slow.TimeoutS = new(1)
	slow.Retry = &run.PlanRetry{MaxAttempts: new(2), InitialS: new(0.01)}
	d := b.until(t, b.create(t, slow).ID, run.Failed)
	if s := d.Steps[0]; s.FailureClass != run.ClassExhausted || s.Attempt != 2 {
		t.Errorf("step = %s after %d attempts (%s), want exhausted after 2", s.FailureClass, s.Attempt, s.Reason)
	}
}

func TestSleepHoldsNoWorker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, stop := b.worker(t, nil)
	r := b.create(t, run.PlanStep{Name: "nap", Tool: run.ToolSleep, Inputs: json.RawMessage(`{"duration_s":0.5}`)}, script("after", "true"))
	b.until(t, r.ID, run.Waiting)
	stop()
	b.worker(t, nil)
	b.until(t, r.ID, run.Succeeded)
}

func TestDrainGivesBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, stop := b.worker(t, nil)
	r := b.create(t, script("long", `if [ -e go ]; then exit 0; fi; echo half > half.txt; until [ -e `+t.TempDir()+`/never ]; do read -t 0.1 <> <(:) || true; done`))
	b.until(t, r.ID, run.Running)
	stop()
	d, err := b.db.RunDetail(b.ctx, b.tenant, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s := d.Steps[0]; s.State != run.Ready || s.Attempt != 0 {
		t.Errorf("after a drain the step is %s with %d attempts, want ready with 0", s.State, s.Attempt)
	}
}

// A job's context passes on that it was cancelled, and not that its time is up.
func TestWithoutDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late, cancelLate := context.WithTimeout(t.Context(), time.Second)
		defer cancelLate()
		cancelled, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		why := errors.New("stopped")
		for name, c := range map[string]struct {
			ctx  context.Context
			want error
		}{"time is up": {late, nil}, "cancelled": {cancelled, why}} {
			free, stop := withoutDeadline(c.ctx)
			defer stop()
			<-late.Done()
			cancel(why)
			synctest.Wait()
			if got := context.Cause(free); got != c.want {
				t.Errorf("%s: cause = %v, want %v", name, got, c.want)
			}
		}
	})
}

// An outcome that the database refuses for good fails its step, with the reason, and
// spoils nothing for the steps that finish with it.
func TestRefusedFinish(t *testing.T) {
	t.Parallel()
	b := setup(t)
	refuse := func(name, what string) {
		t.Helper()
		if _, err := b.Admin.Exec(b.ctx, `CREATE FUNCTION public.refuse_`+name+`() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'`+what); err != nil {
			t.Fatal(err)
		}
	}
	refuse("post", ` USING ERRCODE = 'check_violation'; END $$; CREATE TRIGGER refuse BEFORE INSERT ON nofx.checkpoint
		FOR EACH ROW WHEN (NEW.kind = 'post' AND convert_from(NEW.state_inline, 'UTF8') LIKE '%limit%') EXECUTE FUNCTION public.refuse_post()`)
	refuse("unknown", `; END $$; CREATE TRIGGER refuse_unknown BEFORE INSERT ON nofx.checkpoint
		FOR EACH ROW WHEN (NEW.kind = 'post' AND convert_from(NEW.state_inline, 'UTF8') LIKE '%bug%') EXECUTE FUNCTION public.refuse_unknown()`)
	b.worker(t, nil)
	for step, want := range map[string]string{
		"limit": "what it came to cannot be recorded: the database cannot store a value of this",
		"bug":   "what it came to cannot be recorded: the database refused it",
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			fine := b.create(t, script("fine", "true"))
			d := b.until(t, b.create(t, script(step, "echo hello > a.txt")).ID, run.Failed)
			if s := d.Steps[0]; s.FailureClass != run.ClassInvalid || s.Reason != want || s.Attempt != 1 {
				t.Errorf("step = %s (%s) after %d attempts, want invalid (%s) after 1", s.FailureClass, s.Reason, s.Attempt, want)
			}
			b.until(t, fine.ID, run.Succeeded)
			if n := b.one(t, "SELECT sum(lost_leases) FROM nofx.step"); n != 0 {
				t.Errorf("lost leases = %d, want 0", n)
			}
		})
	}
}

// one is the number that a query of the administrator gives.
func (b *bundle) one(t *testing.T, query string) (n int) {
	t.Helper()
	if err := b.Admin.QueryRow(b.ctx, query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// A step that has ended takes no room beside its workspace.
func TestScratchEndsWithItsStep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dir := t.TempDir()
	b.worker(t, func(c *Config) { c.WorkspaceDir = dir })
	b.until(t, b.create(t, script("fill", `echo x > "$HOME/x"; echo y > "$TMPDIR/y"`)).ID, run.Succeeded)
	spaces, err := filepath.Glob(filepath.Join(dir, "worker-*", "*", "scratch"))
	if err != nil || len(spaces) != 1 {
		t.Fatalf("the worker has scratch directories %v (%v), want one", spaces, err)
	}
	if left, err := os.ReadDir(spaces[0]); err != nil || len(left) != 0 {
		t.Errorf("after the step its scratch directory has %v, %v, want nothing", left, err)
	}
}
