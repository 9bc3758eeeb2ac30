package integration_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/integration/harness"
)

var (
	stressFor  = flag.Duration("stress", time.Minute, "how long TestStress keeps clients and faults at it, but one fault of each kind at least")
	stressSeed = flag.Uint64("stress-seed", 0, "of TestStress: the same plans and the same order of faults; 0 takes a new one")
)

// Settings of the load; a machine that is slow only has a longer backlog to heal.
const (
	stressWorkers = 3
	stressSlots   = 8
	createEvery   = 400 * time.Millisecond
	batchEvery    = 8 * time.Second
	meddleEvery   = 150 * time.Millisecond
)

// TestStress lets clients create and steer random runs while workers, database and
// storage fail in turn, then heals the system and looks at what is left: every
// invariant holds, and no wake-up, slot, goroutine or process is lost.
func TestStress(t *testing.T) {
	seed := *stressSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -run 'TestStress$' -stress %v -stress-seed %d", *stressFor, seed)
	s, f := fragile(t, stressWorkers, harness.Config{WorkerEnv: map[string]string{"NOFX_WORKER_CONCURRENCY": fmt.Sprint(stressSlots)}})
	l := newStress(t, s, 20+int(stressFor.Seconds()*4))
	before := l.warm(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dice := func(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, actor)) }
	var wg sync.WaitGroup
	wg.Go(func() { l.creator(ctx, dice(1), createEvery) })
	wg.Go(func() { l.batches(ctx, t, dice(2), batchEvery) })
	wg.Go(func() { l.meddler(ctx, dice(3), meddleEvery) })
	wg.Go(func() { l.meddler(ctx, dice(4), meddleEvery) })
	done := f.schedule(ctx, t, dice(5), *stressFor)
	cancel()
	wg.Wait()

	healed := l.heal(t, f, dice(6))
	l.check(t, before)
	t.Logf("stress of %v: %s", *stressFor, l.summary(t, done, healed))
}

// footprint is what a worker takes when it does nothing.
type footprint struct{ goroutines, children float64 }

func (l *stress) footprints(t *testing.T) []footprint {
	t.Helper()
	var all []footprint
	for _, w := range l.s.Workers() {
		all = append(all, footprint{metric(t, w.MetricsURL(), "go_goroutines"), float64(len(children(w.PID())))})
	}
	return all
}

// warm has every worker do some steps, so that it has what it keeps.
func (l *stress) warm(t *testing.T) []footprint {
	t.Helper()
	for range 2 * stressWorkers {
		l.submit(t.Context(), uuid.NewString(), plan(l.script("a", "sleep 0.5"), l.script("b", "echo b > b")))
	}
	l.rest(t, time.Minute)
	l.until(t, "no slot is in use", time.Minute, l.slotsInUse)
	return l.footprints(t)
}

// until waits until left reports nothing; what is left in the end fails the test,
// which goes on.
func (l *stress) until(t *testing.T, what string, within time.Duration, left func(*testing.T) string) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		is := left(t)
		if is == "" {
			return
		}
		select {
		case <-again.C:
		case <-deadline.C:
			t.Errorf("not within %v: %s; but: %s", within, what, is)
			return
		}
	}
}

const liveRuns = "SELECT count(*)::int FROM nofx.run WHERE state IN ('queued', 'running', 'waiting')"

// rest waits until no run is live.
func (l *stress) rest(t *testing.T, within time.Duration) {
	t.Helper()
	l.until(t, "no run is live", within, func(t *testing.T) string {
		if n := one[int](t, l.s, liveRuns); n > 0 {
			return fmt.Sprint(n, " live runs")
		}
		return ""
	})
}

// heal ends the faults and gives every run what it waits for, and reports how long
// that took. Half of the paused runs stay paused.
func (l *stress) heal(t *testing.T, f *faults, rnd *rand.Rand) time.Duration {
	t.Helper()
	began := time.Now()
	f.mend(t)
	ctx := t.Context()
	for _, w := range l.s.Workers() {
		if err := w.Ready(ctx); err != nil {
			t.Errorf("Ready(%s) = %v", w.Name(), err)
		}
	}
	l.until(t, "every create is answered", 3*time.Minute, func(*testing.T) string {
		if left := l.again(ctx); left > 0 {
			return fmt.Sprint(left, " creates without an answer")
		}
		return ""
	})
	for _, id := range list[string](t, l.s, "SELECT 'run_' || id FROM nofx.run WHERE state = 'paused' ORDER BY id") {
		if rnd.Float64() < .5 {
			l.ask(ctx, http.MethodPost, "/api/runs/"+strings.ReplaceAll(id, "-", "")+"/resume", map[string]any{})
		}
	}
	last := time.Now()
	l.until(t, "the system has healed: no run is live", 4*time.Minute+*stressFor/10, func(t *testing.T) string {
		if time.Since(last) > time.Second {
			for _, key := range list[string](t, l.s, `SELECT w.correlation FROM nofx.wait w JOIN nofx.step s ON (s.tenant_id, s.id) = (w.tenant_id, w.step_id)
				WHERE s.state = 'waiting' AND w.correlation IS NOT NULL LIMIT 100`) {
				l.ask(ctx, http.MethodPost, "/api/signals", map[string]any{"key": key, "payload": 1})
			}
			l.decide(ctx, "pending", 200, func() string { return "approve" })
			last = time.Now()
		}
		if n := one[int](t, l.s, liveRuns); n > 0 {
			return fmt.Sprint(n, " live runs")
		}
		return ""
	})
	return time.Since(began).Round(100 * time.Millisecond)
}

// settle is how long what a worker keeps may take to go after the last run.
const settle = 90 * time.Second

// check holds what is left against what must be.
func (l *stress) check(t *testing.T, before []footprint) {
	t.Helper()
	l.mu.Lock()
	bad, acked := slices.Clone(l.bad), slices.Sorted(maps.Values(l.acked))
	l.mu.Unlock()
	if len(bad) > 0 {
		t.Errorf("%d answers that nobody may get:\n%s", len(bad), strings.Join(bad[:min(len(bad), 5)], "\n"))
	}
	// I1, I2: what was acknowledged is there, and nothing else.
	runs := list[string](t, l.s, "SELECT 'run_' || replace(id::text, '-', '') FROM nofx.run ORDER BY 1")
	for i, id := range acked {
		acked[i] = strings.ReplaceAll(id, "-", "")
	}
	slices.Sort(acked)
	if !slices.Equal(runs, acked) {
		t.Errorf("runs = %d, want the %d that were acknowledged, each once", len(runs), len(acked))
	}

	l.nothingLeft(t)
	l.until(t, "workers take no more than they did before", settle, func(t *testing.T) string { return grown(before, l.footprints(t)) })
	l.s.hold(t, []invariant{
		{"no sound step is poisoned", `
			SELECT id::text || ' ' || tool || ' ' || reason FROM nofx.step WHERE failure_class = 'poisoned'
			OFFSET (SELECT count(*) / 500 FROM nofx.run)`}, // one of 500 plans may fail so
		{"a step fails only as its plan says", `
			SELECT id::text || ' ' || tool || ' ' || failure_class || ' ' || coalesce(reason, '') FROM nofx.step
			WHERE state = 'failed' AND failure_class NOT IN ('tool', 'gate_failed', 'gate_rejected', 'expired', 'poisoned')
				AND NOT (failure_class = 'exhausted' AND reason LIKE 'tool: %')`},
		{"no checkpoint is corrupt", "SELECT run_id::text || '.' || seq FROM nofx.event WHERE type = 'checkpoint.corrupt'"},
	})
	l.s.holdObjects(t)
	for line, n := range unexplainedErrors(t, l.s.Dir) {
		t.Errorf("%d errors in logs: %s", n, line)
	}
}

// nothingLeft fails the test for slots, wake-ups and processes that nobody ended,
// once no run is live.
func (l *stress) nothingLeft(t *testing.T) {
	t.Helper()
	l.until(t, "no slot is in use", settle, l.slotsInUse)
	l.until(t, "no wake-up is with a worker", settle, func(t *testing.T) string {
		if n := one[int](t, l.s, "SELECT count(*)::int FROM river.river_job WHERE state = 'running'"); n > 0 {
			return fmt.Sprint(n, " jobs are running though no step is")
		}
		return ""
	})
	l.until(t, "no process of a step is left", settle, func(t *testing.T) string {
		if pids := marked(t, l.mark); len(pids) > 0 {
			return fmt.Sprint("processes ", pids)
		}
		return ""
	})
	l.s.hold(t, invariantsAtRest)
}

// slotsInUse returns the workers that say that they run steps.
func (l *stress) slotsInUse(t *testing.T) string {
	t.Helper()
	var busy []string
	for _, w := range l.s.Workers() {
		if used, _ := metricIfAny(t, w.MetricsURL(), `nofx_worker_slots{queue="step",state="used"}`); used != 0 {
			busy = append(busy, fmt.Sprintf("%s uses %v slots", w.Name(), used))
		}
	}
	return strings.Join(busy, ", ")
}

// grown reports which worker takes more than before, by more than connections that
// are kept for a while explain.
func grown(before, after []footprint) string {
	var all []string
	for i, b := range before {
		if a := after[i]; a.goroutines > b.goroutines+30 || a.children > b.children+2 {
			all = append(all, fmt.Sprintf("worker-%d has %v goroutines and %v children, before %v and %v", i+1, a.goroutines, a.children, b.goroutines, b.children))
		}
	}
	return strings.Join(all, ", ")
}

// River says in these parts of its messages that the database was not there, for
// one of the reasons below. That is what was done to it.
var (
	riverParts = []string{"notifier.Notifier: ", "producer: ", "jobcompleter.BatchCompleter: ", "leadership.Elector: ", "maintenance.", "Client: "}
	outages    = []string{"failed to connect to", "(SQLSTATE 57P0", "connection reset by peer", "timeout", "deadline exceeded", "unexpected EOF", "broken pipe", "conn closed"}
)

// explained reports whether an outage of the database is why River logged an error.
func explained(msg, cause string) bool {
	begins := func(part string) bool { return strings.HasPrefix(msg, part) }
	contains := func(part string) bool { return strings.Contains(cause, part) }
	return slices.ContainsFunc(riverParts, begins) && (slices.ContainsFunc(outages, contains) || strings.HasSuffix(msg, ": Too many errors; giving up"))
}

var digits = regexp.MustCompile(`[0-9]+|[0-9a-f]{8}-[0-9a-f-]{27}`)

// unexplainedErrors counts the other lines of level ERROR.
func unexplainedErrors(t *testing.T, dir string) map[string]int {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			var said struct{ Level, Msg, Err, Error, Route string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Level == "ERROR" && !explained(said.Msg, said.Err+said.Error) {
				process, _, _ := strings.Cut(filepath.Base(path), "-")
				all[fmt.Sprintf("%s: %s %s", process, said.Msg, digits.ReplaceAllString(said.Err+said.Error, "N"))]++
			}
		}
	}
	return all
}

func (l *stress) summary(t *testing.T, done map[string]int, healed time.Duration) string {
	t.Helper()
	parts := list[string](t, l.s, "SELECT count(*) || ' ' || state FROM nofx.run GROUP BY state ORDER BY state")
	var did []string
	for _, name := range slices.Sorted(maps.Keys(done)) {
		did = append(did, fmt.Sprintf("%d %s", done[name], name))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%d runs (%s), healed in %v; faults: %s; %d attempts, %d lost, %d poisoned; answers %v, the longest after %v",
		len(l.acked), strings.Join(parts, ", "), healed, strings.Join(did, ", "),
		one[int](t, l.s, "SELECT count(*)::int FROM nofx.attempt"),
		one[int](t, l.s, "SELECT count(*)::int FROM nofx.attempt WHERE outcome IN ('lease_expired', 'poison')"),
		one[int](t, l.s, "SELECT count(*)::int FROM nofx.step WHERE failure_class = 'poisoned'"), l.statuses, l.longest.Round(time.Millisecond))
}
