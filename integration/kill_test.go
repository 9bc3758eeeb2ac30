package integration_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/integration/harness"
)

// killsPerWindow is how many workers die in each window, all of them at once.
const killsPerWindow = 6

// recoveryGoal is the 99th percentile allowed from a kill to the next claim of
// the step (RELIABILITY.md, P4).
const recoveryGoal = 10 * time.Second

// windows are the failpoints W2 to W7 with the script whose step runs into them.
var windows = []struct {
	failpoint, script string
}{
	{failpoint: "after_claim", script: small},
	{failpoint: "mid_exec", script: small},
	{failpoint: "after_effect", script: small},
	{failpoint: "mid_upload", script: large},
	{failpoint: "after_put", script: small},
	{failpoint: "after_commit", script: small}, // the step's end is recorded, and with it perhaps a claim of the next step
}

const (
	small = `echo $NOFX_STEP_ID > id; head -c 100000 /dev/urandom > noise; sleep 0.3`
	large = `echo $NOFX_STEP_ID > id; head -c 17000000 /dev/urandom > noise` // in two parts
)

// death is one worker's death by the database's clock.
type death struct {
	pid int
	at  time.Time
}

// TestKill lets workers kill themselves in every window between two durable
// steps. Whatever they held is done by the others, once. It measures how long that
// takes, so it does not run beside others.
func TestKill(t *testing.T) {
	s := up(t, harness.Config{
		Workers: 2, Env: map[string]string{"NOFX_TEST": "1"}, WorkerEnv: map[string]string{"NOFX_WORKER_CONCURRENCY": "1"},
	})
	doomed := s.doomed(t, killsPerWindow)
	var recoveries []time.Duration
	total := 0
	for _, w := range windows {
		s.arm(t, doomed, w.failpoint)
		deaths := s.deaths(t, doomed)
		// More runs than workers, so that each of the doomed gets a step.
		for range killsPerWindow + 4 {
			s.create(t, bash("first", w.script), bash("second", "test $(wc -c < id) = 38 && sha256sum noise"))
		}
		kills := deaths()
		until(t, "all runs have ended after the kills in "+w.failpoint, 3*time.Minute, func() bool {
			return one[int](t, s, "SELECT count(*)::int FROM nofx.run WHERE state NOT IN ('succeeded', 'failed', 'cancelled')") == 0
		})
		took := s.recoveries(t, kills, w.failpoint == "after_commit")
		t.Logf("%-12s %d kills; from kill to the next claim: %v", w.failpoint, len(kills), took)
		recoveries, total = append(recoveries, took...), total+len(kills)
	}

	if hits := s.hits(t, doomed); total < 30 || !maps.Equal(hits, wanted()) {
		t.Errorf("kills = %d by failpoints %v, want 30 and more: %v", total, hits, wanted())
	}
	for _, state := range []struct{ query, what string }{
		{"SELECT id::text FROM nofx.run WHERE state <> 'succeeded'", "runs that did not succeed"},
		{"SELECT id::text FROM nofx.step WHERE lost_leases > 1", "steps that were hit twice, which makes recovery times meaningless"},
		{`SELECT step_id::text FROM nofx.attempt GROUP BY step_id HAVING count(*) FILTER (WHERE accepted) <> 1`, "steps without one accepted attempt"},
		{`SELECT step_id::text FROM nofx.attempt WHERE NOT accepted AND outcome <> 'lease_expired'`, "attempts that ended otherwise"},
		{`SELECT c.id::text FROM nofx.checkpoint c JOIN nofx.attempt a ON (a.tenant_id, a.step_id, a.fence) = (c.tenant_id, c.step_id, c.fence)
			WHERE NOT a.accepted AND c.kind <> 'pre'`, "checkpoints of attempts that were not accepted"},
	} {
		if bad := list[string](t, s, state.query); len(bad) > 0 {
			t.Errorf("%s: %v", state.what, bad)
		}
	}
	s.holdObjects(t)
	slices.Sort(recoveries)
	p50, p99, longest := percentile(recoveries, 0.5), percentile(recoveries, 0.99), recoveries[len(recoveries)-1]
	t.Logf("%d kills, %d recoveries: p50 %v, p99 %v, max %v", total, len(recoveries), p50, p99, longest)
	if p99 > recoveryGoal {
		t.Errorf("p99 from a kill to the next claim = %v, want at most %v", p99, recoveryGoal)
	}
}

// doomed adds n workers that are to die. They stay dead until they are armed
// again.
func (s *system) doomed(t *testing.T, n int) []*harness.Process {
	t.Helper()
	all := make([]*harness.Process, n)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			var err error
			if all[i], err = s.AddWorker(t.Context(), nil); err != nil {
				t.Errorf("AddWorker() = %v", err)
				return
			}
			all[i].AutoRestart(false)
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// arm starts the workers again, each to kill itself where it passes its failpoint,
// of several in turn.
func (s *system) arm(t *testing.T, doomed []*harness.Process, failpoints ...string) {
	t.Helper()
	var wg sync.WaitGroup
	for i, p := range doomed {
		p.SetEnv(map[string]string{"NOFX_FAILPOINTS": failpoints[i%len(failpoints)] + "=kill"})
		wg.Go(func() {
			if err := p.Restart(t.Context()); err != nil {
				t.Errorf("Restart(%s) = %v", p.Name(), err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// deaths watches the workers, which run, and returns what waits until all of them
// have died and tells when.
func (s *system) deaths(t *testing.T, doomed []*harness.Process) (await func() []death) {
	t.Helper()
	kills := make([]death, len(doomed))
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for i, p := range doomed {
		start := p.Starts()
		kills[i].pid = p.PID()
		wg.Go(func() {
			err := p.Ended(t.Context(), start)
			if err == nil {
				err = s.db.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&kills[i].at)
			}
			if err != nil {
				t.Errorf("wait for the end of %s: %v", p.Name(), err)
			}
		})
	}
	go func() {
		wg.Wait()
		close(ended)
	}()
	return func() []death {
		select {
		case <-ended:
		case <-time.After(time.Minute):
			for _, p := range doomed {
				if p.PID() != 0 {
					t.Errorf("%s lives on", p.Name())
				}
			}
			t.FailNow()
		}
		return kills
	}
}

// recoveries returns the times from each kill to the next claim of what the worker
// held: one step, by another worker. A worker that died between two steps holds none
// where others waited for its slot, which a job leaves to them after a while.
func (s *system) recoveries(t *testing.T, kills []death, between bool) (took []time.Duration) {
	t.Helper()
	for _, k := range kills {
		next := list[time.Time](t, s, `
			SELECT n.started_at FROM nofx.attempt a JOIN nofx.attempt n ON (n.tenant_id, n.step_id, n.accepted) = (a.tenant_id, a.step_id, true) AND n.owner <> a.owner
			WHERE a.owner_pid = $1 AND a.outcome = 'lease_expired' AND a.started_at BETWEEN $2::timestamptz - interval '1 minute' AND $2`, k.pid, k.at)
		if between && len(next) == 0 {
			continue
		}
		if len(next) != 1 {
			t.Errorf("worker %d, killed at %v, left %d steps that others did, want 1", k.pid, k.at, len(next))
			continue
		}
		took = append(took, next[0].Sub(k.at).Round(time.Millisecond))
	}
	return took
}

// hits counts the failpoints that the workers logged.
func (s *system) hits(t *testing.T, workers []*harness.Process) map[string]int {
	t.Helper()
	hits := map[string]int{}
	for _, p := range workers {
		f, err := os.Open(s.Log(p.Name()))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var line struct{ Msg, Name string }
			if strings.Contains(lines.Text(), "failpoint hit") && json.Unmarshal(lines.Bytes(), &line) == nil {
				hits[line.Name]++
			}
		}
	}
	return hits
}

func wanted() map[string]int {
	all := map[string]int{}
	for _, w := range windows {
		all[w.failpoint] = killsPerWindow
	}
	return all
}

// percentile returns the nearest rank of sorted values.
func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[int(math.Ceil(p*float64(len(sorted))))-1]
}
