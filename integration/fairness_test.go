package integration_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// neighbourRuns is how many runs are timed with and without load.
var neighbourRuns = flag.Int("fairness-runs", 10, "runs of another tenant that TestFairness times, without and with load")

// What one tenant does costs the others little: with its load their runs take at
// most a few times as long as without. The figures are logged.
func TestFairness(t *testing.T) {
	// Not parallel: what runs beside it would be measured too.
	const (
		six   = 6
		many  = 1000
		times = 10 // as long at most; the aim is 2 on a machine that does nothing else
	)
	for name, load := range map[string]func(context.Context, *testing.T, *system){
		"runs are locked": func(ctx context.Context, t *testing.T, s *system) {
			s.lockQueued(ctx, t, six, chain(1, "true"))
		},
		"runs of many steps are locked": func(ctx context.Context, t *testing.T, s *system) {
			s.lockQueued(ctx, t, six, parallel(100, "true"))
		},
		"runs are locked while they run": func(ctx context.Context, t *testing.T, s *system) {
			s.lock(ctx, t, s.createRunning(t, six, chain(1, "sleep 3")))
			until(t, "a step has ended and cannot be finished", 3*time.Minute, func() bool {
				log, err := os.ReadFile(s.Log("worker-1"))
				return err == nil && bytes.Contains(log, []byte("finish is tried again"))
			})
		},
		"a flood of steps is ready": func(ctx context.Context, t *testing.T, s *system) {
			s.createMany(t, 10, parallel(many, "sleep $((RANDOM % 10))"))
		},
		"chains are cancelled and resumed": func(ctx context.Context, t *testing.T, s *system) {
			s.cancelAndResume(ctx, t, s.createMany(t, six, chain(many, "true")))
		},
		"wide runs are cancelled and resumed": func(ctx context.Context, t *testing.T, s *system) {
			s.cancelAndResume(ctx, t, s.createMany(t, six, parallel(many, "true")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := up(t, harness.Config{Workers: 1})
			key, err := s.NewTenant(t.Context(), "other")
			if err != nil {
				t.Fatal(err)
			}
			other := newClient(s.URL, key)
			s.timeRuns(t, other, 5) // connections, plans of statements
			alone := s.timeRuns(t, other, *neighbourRuns)

			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			load(ctx, t, s)
			beside := s.timeRuns(t, other, *neighbourRuns)
			stop()
			for what, of := range map[string]func(timed) time.Duration{
				"create": func(r timed) time.Duration { return r.created },
				"start":  func(r timed) time.Duration { return r.started },
				"end":    func(r timed) time.Duration { return r.ended },
			} {
				for _, q := range []float64{0.5, 0.95, 1} {
					a, b := quantile(alone, q, of), quantile(beside, q, of)
					t.Logf("%s p%.0f: %v, without %v, %.1f times", what, 100*q, b, a, float64(b)/float64(a))
				}
			}
			// Locked runs cost the machine nothing, so none of the others may be late; the
			// other loads keep it busy.
			q := 0.5
			if strings.Contains(name, "locked") {
				q = 1
			}
			end := func(r timed) time.Duration { return r.ended }
			if a, b := quantile(alone, 1, end), quantile(beside, q, end); b > times*a {
				t.Errorf("p%.0f of a run = %v, want at most %d times %v, the slowest without load", 100*q, b, times, a)
			}
		})
	}
}

// parallel returns a plan of steps that do not wait for each other, but for the second.
func parallel(n int, script string) []step {
	list := chain(n, script)
	list[1].DependsOn = []string{list[0].Name}
	return list
}

func chain(n int, script string) []step {
	list := make([]step, n)
	for i := range list {
		list[i] = bash(fmt.Sprint("s", i), script)
	}
	return list
}

// timed is how long a run took until something of it, from before its request.
type timed struct{ created, started, ended time.Duration }

func quantile(list []timed, q float64, of func(timed) time.Duration) time.Duration {
	all := make([]time.Duration, len(list))
	for i, r := range list {
		all[i] = of(r)
	}
	slices.Sort(all)
	return all[int(math.Ceil(q*float64(len(all))))-1].Round(100 * time.Microsecond)
}

// timeRuns has runs of one step, one after the other.
func (s *system) timeRuns(t *testing.T, c *client, n int) []timed {
	t.Helper()
	list := make([]timed, n)
	for i := range list {
		began := time.Now()
		id := c.create(t, bash("s", "true")).Run.ID
		list[i].created = time.Since(began)
		until(t, "a run of the other tenant ends", 3*time.Minute, func() bool {
			var started, ended *time.Time
			if err := s.db.QueryRow(t.Context(), "SELECT started_at, finished_at FROM nofx.run WHERE id = $1", uuidOf(id)).Scan(&started, &ended); err != nil {
				t.Fatal(err)
			}
			if ended == nil {
				return false
			}
			list[i].started, list[i].ended = started.Sub(began), ended.Sub(began)
			return true
		})
	}
	return list
}

// createMany creates runs, as fast as it may.
func (s *system) createMany(t *testing.T, n int, plan []step) []string {
	t.Helper()
	ids := make([]string, n)
	for i := 0; i < n; {
		a, err := s.ask(t.Context(), http.MethodPost, "/api/runs", map[string]any{"plan": map[string]any{"goal": "load", "steps": plan}}, nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case a.status == http.StatusTooManyRequests:
			a.wait(t.Context())
		case a.status != http.StatusCreated:
			t.Fatalf("POST /api/runs = %d %s, want 201", a.status, a.body)
		default:
			ids[i] = decode[api.CreatedRun](t, a).Run.ID
			i++
		}
	}
	return ids
}

// wait waits for as long as an answer asks for.
func (a answer) wait(ctx context.Context) {
	seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
	again := time.NewTimer(time.Duration(max(seconds, 1)) * time.Second)
	defer again.Stop()
	select {
	case <-ctx.Done():
	case <-again.C:
	}
}

func (s *system) createRunning(t *testing.T, n int, plan []step) []string {
	t.Helper()
	ids := s.createMany(t, n, plan)
	for _, id := range ids {
		s.await(t, id, "running")
	}
	return ids
}

// lockQueued creates runs, and locks them before a worker takes anything of them.
func (s *system) lockQueued(ctx context.Context, t *testing.T, n int, plan []step) {
	t.Helper()
	s.do(t, http.StatusOK, http.MethodPost, "/api/queues/step/pause", nil)
	ids := s.createMany(t, n, plan)
	s.lock(ctx, t, ids)
	s.do(t, http.StatusOK, http.MethodPost, "/api/queues/step/resume", nil)
	until(t, "a worker takes the steps", 3*time.Minute, func() bool {
		return one[bool](t, s, `SELECT EXISTS (SELECT FROM river.river_job j JOIN nofx.step s ON s.job_id = j.id
			WHERE s.run_id = ANY ($1::uuid[]) AND j.attempted_at IS NOT NULL)`, uuidsOf(ids))
	})
}

// lock holds the rows of runs until ctx ends.
func (s *system) lock(ctx context.Context, t *testing.T, ids []string) {
	t.Helper()
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	column[string](t, tx, "SELECT id::text FROM nofx.run WHERE id = ANY ($1::uuid[]) FOR UPDATE", uuidsOf(ids))
	released := make(chan struct{})
	go func() {
		defer close(released)
		<-ctx.Done()
		tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // there is nothing to undo
	}()
	t.Cleanup(func() { <-released })
}

func uuidsOf(ids []string) []string {
	raw := make([]string, len(ids))
	for i, id := range ids {
		raw[i] = uuidOf(id)
	}
	return raw
}

// cancelAndResume cancels and resumes each of the runs in turn, as often as it may,
// until ctx ends.
func (s *system) cancelAndResume(ctx context.Context, t *testing.T, ids []string) {
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	for _, id := range ids {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; {
				a, err := s.ask(ctx, http.MethodPost, "/api/runs/"+id+"/"+[]string{"cancel", "resume"}[i%2], nil, nil)
				if err == nil && a.status == http.StatusTooManyRequests {
					a.wait(ctx)
				} else {
					i++
				}
			}
		})
	}
}
