package integration_test

import (
	"bufio"
	"context"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// zombie is a worker that is stopped in a window with a step in its hands.
type zombie struct {
	*harness.Process
	window string
}

// TestZombie stops workers at the worst moments until their steps have been done
// elsewhere, and continues them. They notice, and write nothing.
func TestZombie(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Env: map[string]string{"NOFX_TEST": "1"}, WorkerEnv: map[string]string{"NOFX_WORKER_CONCURRENCY": "1"}})
	zombies := s.zombies(t, "after_claim", "mid_exec", "after_effect", "after_put", "the script runs")
	mark := uuid.NewString()
	runs := make([]string, len(zombies))
	for i := range runs {
		// One for each; who gets which is up to the queue. HOLD is what the last
		// zombie offers, so that only its script goes on while it is stopped.
		work := bash("work", `echo begun; touch file; test -z "$HOLD" || sleep "$HOLD"; echo done`)
		work.Inputs["env"] = map[string]string{"MARK": mark}
		body := plan(work, bash("after", "ls"))
		body["plan"].(map[string]any)["policy"] = map[string]any{"env_allowed": []string{"HOLD"}}
		runs[i] = decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", body)).Run.ID
	}
	for _, z := range zombies {
		if z.window == "the script runs" {
			until(t, "its script runs", 3*time.Minute, func() bool { return scriptOf(t, z.PID(), mark) })
			if err := z.Kill(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the worker stops in "+z.window, 3*time.Minute, func() bool { return stopped(t, z.PID()) })
	}

	if _, err := s.AddWorker(t.Context(), map[string]string{"NOFX_WORKER_CONCURRENCY": "4"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range runs {
		s.await(t, id, api.RunStatusSucceeded)
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM nofx.attempt WHERE outcome = 'lease_expired' AND NOT accepted"); n != len(zombies) {
		t.Errorf("attempts whose lease expired = %d, want %d", n, len(zombies))
	}
	rows, objects := s.contents(t), slices.Sorted(maps.Keys(s.storage.keys(t)))
	for _, z := range zombies {
		if err := z.Kill(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, mark, deadWithin)
	for _, z := range zombies {
		until(t, "the worker that was stopped in "+z.window+" counts its refused write", 3*time.Minute, func() bool {
			return metric(t, z.MetricsURL(), "nofx_fenced_writes_total") == 1
		})
	}
	after := s.contents(t)
	delete(rows, "river.river_job") // where a zombie may say that its wake-up has been heard
	delete(after, "river.river_job")
	if diff := cmp.Diff(rows, after); diff != "" {
		t.Errorf("the zombies changed rows (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(objects, slices.Sorted(maps.Keys(s.storage.keys(t)))); diff != "" {
		t.Errorf("the zombies changed objects (-before +after):\n%s", diff)
	}
	s.holdObjects(t)
}

// zombies adds a worker for each window, armed to stop itself there if it is a
// failpoint.
func (s *system) zombies(t *testing.T, windows ...string) []zombie {
	t.Helper()
	all := make([]zombie, len(windows))
	var wg sync.WaitGroup
	for i, window := range windows {
		env := map[string]string{"NOFX_FAILPOINTS": window + "=stop"}
		if strings.Contains(window, " ") {
			env = map[string]string{"NOFX_STEP_ENV": "HOLD=300"}
		}
		wg.Go(func() {
			w, err := s.AddWorker(t.Context(), env)
			if err != nil {
				t.Errorf("AddWorker(%v) = %v", env, err)
				return
			}
			w.AutoRestart(false)
			all[i] = zombie{w, window}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// stopped reports whether a process is stopped by a signal.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	fields, _ := statOf(pid)
	return len(fields) > 0 && fields[0] == "T"
}

// statOf returns what /proc says of a process, from its state on.
func statOf(pid int) ([]string, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:])), nil
}

// scriptOf reports whether some marked process descends from pid.
func scriptOf(t *testing.T, pid int, mark string) bool {
	t.Helper()
	for _, p := range marked(t, mark) {
		for up, _ := strconv.Atoi(p); up > 1; {
			if up == pid {
				return true
			}
			fields, err := statOf(up)
			if err != nil {
				break
			}
			up, _ = strconv.Atoi(fields[1])
		}
	}
	return false
}

// metric reads the value of a metric; name has its labels, if any.
func metric(t *testing.T, url, name string) float64 {
	t.Helper()
	v, ok := metricIfAny(t, url, name)
	if !ok {
		t.Fatalf("%s has no metric %s", url, name)
	}
	return v
}

// metricIfAny returns what metric does, or 0 for one that is not there before its first event.
func metricIfAny(t *testing.T, url, name string) (v float64, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("GET %s = %v", url, err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("%s of %s = %q", name, url, value)
			}
			return v, true
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("GET %s breaks off: %v", url, err)
	}
	return 0, false
}
