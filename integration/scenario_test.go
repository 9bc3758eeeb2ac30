package integration_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/integration/harness"
)

var allScenarios = flag.Bool("scenarios", false, "TestScenarios runs those that take long, too")

// scenario is one fault at a chosen moment, under steps that run longer than it
// (long), end within it (short), or end together when it begins (batch).
type scenario struct {
	name    string
	brief   bool // runs without -scenarios
	workers int
	env     map[string]string // of the workers
	fault   time.Duration     // how long it is meant to take
	lost    int               // leases that one step may lose
	local   bool              // it needs the database's processes
	do      func(ctx context.Context, t *testing.T, x *scene)
}

// scene is a scenario that is being played.
type scene struct {
	*stress
	f    *faults
	pipe string // steps of the batch read a line of it and end
}

// scenarios are what a lease, a batch or an outage can meet. The design has no step
// lost to an outage of up to 25 s, and recovery within 10 s of its end.
var scenarios = []scenario{
	{name: "the database goes away when steps finish together", brief: true, workers: 2, fault: 4 * time.Second,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.release(t)
			x.unreachable(ctx, t, 4*time.Second)
		}},
	{name: "wake-ups are deleted under load", brief: true, workers: 2, fault: 5 * time.Second,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.release(t)
			for range 10 {
				x.submit(ctx, uuid.NewString(), plan(x.script("a", "true"), x.script("b", "true")))
				x.f.admin(t, "DELETE FROM river.river_job WHERE state IN ('available', 'scheduled', 'retryable', 'running')")
				hold(ctx, 500*time.Millisecond)
			}
		}},
	{name: "a run is locked for 3 s while its step finishes", brief: true, workers: 1, fault: 3 * time.Second,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			tx, err := x.s.db.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it only held a lock
			if _, err := tx.Exec(ctx, "SELECT FROM nofx.run WHERE goal = 'batch' ORDER BY id LIMIT 1 FOR UPDATE"); err != nil {
				t.Fatal(err)
			}
			x.release(t)
			hold(ctx, 3*time.Second)
		}},
	{name: "connections are refused for 7.5 s, two workers", workers: 2, fault: 7500 * time.Millisecond, local: true,
		do: func(ctx context.Context, t *testing.T, x *scene) { x.f.refuse(ctx, t, 7500*time.Millisecond) }},
	{name: "connections are refused for 7.5 s, one worker", workers: 1, fault: 7500 * time.Millisecond, local: true,
		do: func(ctx context.Context, t *testing.T, x *scene) { x.f.refuse(ctx, t, 7500*time.Millisecond) }},
	{name: "connections are refused for 25 s, one worker", workers: 1, fault: 25 * time.Second, local: true,
		do: func(ctx context.Context, t *testing.T, x *scene) { x.f.refuse(ctx, t, 25*time.Second) }},
	{name: "the network drops everything for 12 s", workers: 2, fault: 12 * time.Second,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.f.db.Silence()
			hold(ctx, 12*time.Second)
			x.pass(t)
		}},
	{name: "failover after 8 s of silence to a server that was up already", workers: 2, fault: 8 * time.Second,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.f.db.Silence()
			hold(ctx, 8*time.Second)
			x.f.db.Strand()
			x.pass(t)
		}},
	{name: "the database is frozen for 9 s and one of two workers with it", workers: 2, fault: 11 * time.Second, lost: 1, local: true,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			w := x.s.Workers()[0]
			x.signal(t, w, syscall.SIGSTOP)
			x.f.freeze(ctx, t, 9*time.Second)
			hold(ctx, 2*time.Second) // it is the last to come back
			x.signal(t, w, syscall.SIGCONT)
		}},
	{name: "only renewals of leases are not answered for 8 s", workers: 2, fault: 8 * time.Second, lost: 1,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.f.db.SilenceMarked()
			hold(ctx, 8*time.Second)
			x.pass(t)
		}},
	{name: "every answer takes 500 ms for 12 s", workers: 2, fault: 12 * time.Second,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.f.db.Delay(250 * time.Millisecond)
			x.release(t)
			hold(ctx, 12*time.Second)
			x.pass(t)
		}},
	{name: "the database crashes while steps finish together", workers: 2, fault: 3 * time.Second, local: true,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			x.release(t)
			pid := one[int](t, x.s, "SELECT pid FROM pg_stat_activity WHERE usename = 'nofx_worker' AND datname = current_database() LIMIT 1")
			signalAll(syscall.SIGKILL, pid) // the others are ended then, and it recovers, as the same server
			hold(ctx, 3*time.Second)
		}},
	{name: "a worker is stopped for 6 s, five times", workers: 2, fault: 38 * time.Second, lost: 2,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			for range 5 {
				x.signal(t, x.s.Workers()[0], syscall.SIGSTOP)
				hold(ctx, 6*time.Second)
				x.signal(t, x.s.Workers()[0], syscall.SIGCONT)
				hold(ctx, 1500*time.Millisecond)
			}
		}},
	{name: "all workers are killed, and one is there 20 s later", workers: 2, fault: 20 * time.Second, lost: 1,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			for _, w := range x.s.Workers() {
				w.AutoRestart(false)
				x.signal(t, w, syscall.SIGKILL)
			}
			hold(ctx, 20*time.Second)
			x.s.Workers()[0].AutoRestart(true)
		}},
	{name: "a worker is killed between its claim and its first renewal", workers: 1, fault: 12 * time.Second, lost: 1,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			w, err := x.s.AddWorker(ctx, with(x.f.env(), map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": "after_claim=kill"}))
			if err != nil {
				t.Fatal(err)
			}
			w.AutoRestart(false)
			x.untilDead(ctx, t, w)
		}},
	{name: "a sweeper is killed while it takes a lease away", workers: 2, fault: 12 * time.Second, lost: 1,
		do: func(ctx context.Context, t *testing.T, x *scene) {
			w, err := x.s.AddWorker(ctx, with(x.f.env(), map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": "in_sweep=kill"}))
			if err != nil {
				t.Fatal(err)
			}
			w.AutoRestart(false)
			dead, stopped := x.s.Workers()[0], x.s.Workers()[1]
			dead.AutoRestart(false)
			x.signal(t, stopped, syscall.SIGSTOP) // so that w alone sweeps
			x.signal(t, dead, syscall.SIGKILL)
			x.untilDead(ctx, t, w)
			x.signal(t, stopped, syscall.SIGCONT)
		}},
}

// TestScenarios plays each scenario on a stack of its own. Every run succeeds, no
// step loses more leases or has more attempts than the scenario says, and nothing
// is left. How long it takes to recover is printed.
func TestScenarios(t *testing.T) {
	for _, sc := range scenarios {
		if !sc.brief && !*allScenarios || sc.local && os.Getenv("DATABASE_URL") != "" {
			continue
		}
		t.Run(strings.ReplaceAll(sc.name, " ", "_"), func(t *testing.T) { sc.play(t) })
	}
}

const (
	longSteps  = 5
	batchSteps = 4
)

func (sc scenario) play(t *testing.T) {
	s, f := fragile(t, sc.workers, harness.Config{WorkerEnv: with(map[string]string{"NOFX_WORKER_CONCURRENCY": "16"}, sc.env)})
	x := &scene{stress: newStress(t, s, 100), f: f, pipe: filepath.Join(t.TempDir(), "pipe")}
	if err := syscall.Mkfifo(x.pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	x.warm(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	begun := t.TempDir()
	sleeping := func(goal string, d time.Duration) map[string]any {
		body := plan(x.script("work", fmt.Sprintf("touch %s/$NOFX_STEP_ID; exec sleep %.1f", begun, d.Seconds())), x.script("next", "true"))
		body["plan"].(map[string]any)["goal"] = goal
		return body
	}
	after := 12 * time.Second // leases that were lost have run out, and steps run elsewhere
	if sc.brief {
		after = 4 * time.Second
	}
	for range longSteps {
		x.submit(ctx, uuid.NewString(), sleeping("long", sc.fault+after))
	}
	x.submit(ctx, uuid.NewString(), sleeping("short", 2*time.Second+sc.fault/2))
	x.submit(ctx, uuid.NewString(), sleeping("short", 2*time.Second+sc.fault))
	for range batchSteps {
		body := plan(x.script("work", fmt.Sprintf("touch %s/$NOFX_STEP_ID; read -t 60 <> %s", begun, x.pipe)), x.script("next", "true"))
		body["plan"].(map[string]any)["goal"] = "batch"
		x.submit(ctx, uuid.NewString(), body)
	}
	// Their tools, not only their leases: a claim whose answer the fault swallowed runs nothing.
	until(t, "every first step has begun", 3*time.Minute, func() bool {
		files, err := os.ReadDir(begun)
		return err == nil && len(files) == longSteps+2+batchSteps
	})

	sc.do(ctx, t, x)

	ended := time.Now()
	twice := x.recover(ctx, t)
	recovered := time.Since(ended).Round(100 * time.Millisecond)
	x.release(t)
	x.until(t, "every run has ended", 3*time.Minute+2*sc.fault, func(t *testing.T) string {
		for step, n := range x.processes(t) {
			twice[step] = max(twice[step], n)
		}
		if n := one[int](t, s, liveRuns); n > 0 {
			return fmt.Sprint(n, " live runs")
		}
		return ""
	})
	for step, n := range twice {
		if n > 1 && sc.lost == 0 {
			t.Errorf("step %s has had %d live processes at once, want 1", step, n)
		}
	}
	s.hold(t, []invariant{
		{"every run succeeds", `SELECT r.id::text || ' ' || r.goal || ' ' || r.state || ' ' || coalesce(r.reason, '') FROM nofx.run r WHERE r.state <> 'succeeded'`},
		{fmt.Sprintf("no step loses more than %d leases", sc.lost), fmt.Sprintf(`
			SELECT s.id::text || ' ' || r.goal || '/' || s.name || ': ' || string_agg(coalesce(a.outcome, 'open'), ' ' ORDER BY a.fence)
			FROM nofx.step s JOIN nofx.run r ON r.id = s.run_id JOIN nofx.attempt a ON a.step_id = s.id
			GROUP BY s.tenant_id, s.id, r.goal HAVING count(*) > %d`, 1+sc.lost)},
	})
	t.Logf("%s: recovered %v after its end (design: within 10s); %s", sc.name, recovered, one[string](t, s, `
		SELECT count(DISTINCT step_id) || ' steps in ' || count(*) || ' attempts, ' || count(*) FILTER (WHERE outcome IN ('lease_expired', 'poison')) || ' lost, at most '
			|| (SELECT max(lost_leases) FROM nofx.step) || ' counted of one step' FROM nofx.attempt`))
	for _, w := range s.Workers() { // those that the scenario left dead show nothing
		w.AutoRestart(true)
		w.SetEnv(map[string]string{"NOFX_FAILPOINTS": ""})
		if err := w.Ready(ctx); err != nil {
			t.Errorf("Ready(%s) = %v", w.Name(), err)
		}
	}
	x.nothingLeft(t)
}

// recover waits until a new run has succeeded, and reports how many processes at
// most each step had at once meanwhile.
func (x *scene) recover(ctx context.Context, t *testing.T) map[string]int {
	t.Helper()
	twice := map[string]int{}
	probe := uuid.NewString()
	x.until(t, "a new run succeeds", 3*time.Minute, func(t *testing.T) string {
		for step, n := range x.processes(t) {
			twice[step] = max(twice[step], n)
		}
		x.mu.Lock()
		id := x.acked[probe]
		x.mu.Unlock()
		if id == "" {
			x.submit(ctx, probe, plan(x.script("a", "true")))
			return "it is not created"
		}
		if state := one[string](t, x.s, "SELECT state FROM nofx.run WHERE id = $1", uuidOf(id)); state != "succeeded" {
			return state
		}
		return ""
	})
	return twice
}

// processes counts the living processes of each step that sleeps.
func (x *scene) processes(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, pid := range marked(t, x.mark) {
		cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		environ, err := os.ReadFile("/proc/" + pid + "/environ")
		if err != nil || !strings.HasPrefix(string(cmdline), "sleep\x00") {
			continue
		}
		for _, kv := range strings.Split(string(environ), "\x00") {
			if id, ok := strings.CutPrefix(kv, "NOFX_STEP_ID="); ok {
				all[id]++
			}
		}
	}
	return all
}

// release ends the steps of the batch, and those that read the pipe anew.
func (x *scene) release(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(x.pipe, os.O_RDWR, 0)
	if err != nil {
		t.Errorf("open pipe = %v", err)
		return
	}
	t.Cleanup(func() { f.Close() })         // what a pipe holds is gone with the last that has it open
	f.WriteString(strings.Repeat("\n", 32)) //nolint:errcheck // without it the steps end by themselves
}

func (x *scene) signal(t *testing.T, w *harness.Process, sig syscall.Signal) {
	t.Helper()
	if err := w.Kill(sig); err != nil {
		t.Errorf("%v to %s = %v", sig, w.Name(), err)
	}
}

func (x *scene) pass(t *testing.T) {
	t.Helper()
	if err := x.f.db.Pass(); err != nil {
		t.Errorf("Pass() = %v", err)
	}
}

// unreachable has the database's address refuse connections for d.
func (x *scene) unreachable(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	x.f.db.Refuse()
	hold(ctx, d)
	x.pass(t)
}

// untilDead keeps runs coming until w has died of its failpoint.
func (x *scene) untilDead(ctx context.Context, t *testing.T, w *harness.Process) {
	t.Helper()
	for range 60 {
		if w.PID() == 0 {
			return
		}
		x.submit(ctx, uuid.NewString(), plan(x.script("a", "true")))
		hold(ctx, 500*time.Millisecond)
	}
	t.Errorf("%s has not died of its failpoint", w.Name())
}
