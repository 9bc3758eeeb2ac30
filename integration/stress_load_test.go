package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
)

// mostLive is how many runs the load leaves live at a time.
const mostLive = 150

// stress is what clients do to a stack under stress, and what they were told.
type stress struct {
	s      *system
	mark   string // in the environment of every script
	dir    string // for files that release steps
	most   int    // runs
	signal int    // keys of signals

	mu       sync.Mutex
	acked    map[string]string // run by idempotency key
	open     map[string]any    // what was sent and not answered, by key
	order    []string          // runs as they were acknowledged
	bad      []string          // answers that nobody may get
	statuses map[int]int
	longest  time.Duration // that an answer took
}

// newStress makes at most so many runs on s.
func newStress(t *testing.T, s *system, most int) *stress {
	return &stress{
		s: s, mark: uuid.NewString(), dir: t.TempDir(), signal: 4, most: most,
		acked: map[string]string{}, open: map[string]any{}, statuses: map[int]int{},
	}
}

// ask does one request. An answer that was lost is status 0.
func (l *stress) ask(ctx context.Context, method, path string, body any, headers ...string) answer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	began := time.Now()
	a, err := l.s.ask(ctx, method, path, body, headers)
	took := time.Since(began)
	if err != nil {
		a = answer{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.statuses[a.status]++
	l.longest = max(l.longest, took)
	if a.status >= 500 && a.status != http.StatusServiceUnavailable {
		l.bad = append(l.bad, fmt.Sprintf("%s %s = %d %.200s", method, path, a.status, a.body))
	}
	return a
}

// submit creates a run, or leaves it to be asked for again with the same key.
func (l *stress) submit(ctx context.Context, key string, body any) {
	l.mu.Lock()
	if l.acked[key] == "" {
		l.open[key] = body
	}
	l.mu.Unlock()
	a := l.ask(ctx, http.MethodPost, "/api/runs", body, "Idempotency-Key", key)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch a.status {
	case http.StatusCreated:
		var c api.CreatedRun
		if err := json.Unmarshal(a.body, &c); err != nil || l.acked[key] != "" && l.acked[key] != c.Run.ID {
			l.bad = append(l.bad, fmt.Sprintf("create with a key that made %q = %q, %v", l.acked[key], c.Run.ID, err))
			return
		}
		if l.acked[key] == "" {
			l.order = append(l.order, c.Run.ID)
		}
		l.acked[key] = c.Run.ID
		delete(l.open, key)
	case 0, http.StatusServiceUnavailable, http.StatusConflict, http.StatusTooManyRequests: // asked again with the key
	default:
		l.bad = append(l.bad, fmt.Sprintf("create = %d %.300s", a.status, a.body))
		delete(l.open, key)
	}
}

// again asks anew for each run that nobody knows whether it was created.
func (l *stress) again(ctx context.Context) (left int) {
	l.mu.Lock()
	keys := make([]string, 0, len(l.open))
	for key := range l.open {
		keys = append(keys, key)
	}
	l.mu.Unlock()
	slices.Sort(keys)
	for _, key := range keys {
		l.mu.Lock()
		body := l.open[key]
		l.mu.Unlock()
		if body != nil {
			l.submit(ctx, key, body)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// script returns a step of bash that carries the mark.
func (l *stress) script(name, text string, dependsOn ...string) step {
	st := bash(name, text, dependsOn...)
	st.Inputs["env"] = map[string]string{"MARK": l.mark}
	return st
}

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

// randomPlan returns a plan of every kind of step that needs no service outside. It is
// sound: what fails of it is what it says will fail.
func (l *stress) randomPlan(rnd *rand.Rand) map[string]any {
	steps := make([]step, 2+rnd.IntN(8))
	for i := range steps {
		var st step
		name := fmt.Sprintf("s%d", i)
		switch k := rnd.Float64(); {
		case k < .45:
			seconds, exit := rnd.Float64()*.5, 0
			if rnd.Float64() < .12 {
				seconds = 2 + 6*rnd.Float64() // so that an outage finds it running
			}
			if rnd.Float64() < .2 {
				exit = 1
			}
			st = l.script(name, fmt.Sprintf("sleep %.2f; echo x >> f%d; exit %d", seconds, i, exit))
			st.Retry = map[string]any{"max_attempts": pick(rnd, 1, 1, 2, 3), "initial_s": 0.05}
		case k < .55:
			st = step{Tool: "sleep", Inputs: map[string]any{"duration_s": pick(rnd, 0, 0.2, 1.1)}}
		case k < .68:
			st = step{Tool: "manual:ok", Inputs: map[string]any{"message": "?", "expires_s": pick(rnd, 2, 30), "approvals": 1}}
		case k < .80:
			st = step{Tool: "signal", Inputs: map[string]any{"key": l.key(rnd), "expires_s": pick(rnd, 2, 30)}}
		default:
			st = step{Tool: "gate:unit", Inputs: map[string]any{
				"command": fmt.Sprintf("exit %d", pick(rnd, 0, 0, 1)), "env": map[string]string{"MARK": l.mark}}}
		}
		st.Name = name
		for j := range i {
			if rnd.Float64() < .35 {
				st.DependsOn = append(st.DependsOn, steps[j].Name)
			}
		}
		steps[i] = st
	}
	return plan(steps...)
}

func (l *stress) key(rnd *rand.Rand) string { return fmt.Sprintf("k%d", rnd.IntN(l.signal)) }

func key(rnd *rand.Rand) string { return fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64()) }

// full reports whether as many runs were asked for as there may be, or as many live as
// a slow machine can still end when the load is over.
func (l *stress) full(ctx context.Context) bool {
	var live int
	if err := l.s.db.QueryRow(ctx, liveRuns).Scan(&live); err != nil || live >= mostLive {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)+len(l.open) >= l.most
}

// creator starts runs until ctx ends, and asks again for those whose answer got
// lost.
func (l *stress) creator(ctx context.Context, rnd *rand.Rand, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !l.full(ctx) {
			l.submit(ctx, key(rnd), l.randomPlan(rnd))
		}
		if n%20 == 0 {
			l.again(ctx)
		}
	}
}

// batches starts runs whose steps all wait for one pipe, and then writes to it: their
// finishes come at once, and so share transactions.
func (l *stress) batches(ctx context.Context, t *testing.T, rnd *rand.Rand, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; n++ {
		if !l.full(ctx) {
			l.batch(ctx, t, rnd, filepath.Join(l.dir, fmt.Sprintf("pipe%d", n)))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *stress) batch(ctx context.Context, t *testing.T, rnd *rand.Rand, pipe string) {
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Errorf("Mkfifo() = %v", err)
		return
	}
	held := func(name string, exit int) step {
		return l.script(name, fmt.Sprintf("read -t 8 <> %s; exit %d", pipe, exit))
	}
	ask := step{Name: "m", Tool: "manual:ok", Inputs: map[string]any{"message": "?", "expires_s": 60}, DependsOn: []string{"b"}}
	hear := step{Name: "m", Tool: "signal", Inputs: map[string]any{"key": l.key(rnd), "expires_s": 60}, DependsOn: []string{"b"}}
	var wg sync.WaitGroup
	for _, body := range []map[string]any{
		// One step chains a decision while the other fails for good.
		plan(held("b", 0), held("a", 1), ask), plan(held("a", 1), held("b", 0), ask),
		plan(held("b", 0), held("a", 1), hear), plan(held("a", 1), held("b", 0), hear),
		plan(held("a", 0), held("b", 0), l.script("join", "true", "a", "b")),
		plan(held("a", 1), held("b", 0), held("c", 0), l.script("join", "true", "b", "c")),
	} {
		k := key(rnd)
		wg.Go(func() { l.submit(ctx, k, body) })
	}
	wg.Wait()
	hold(ctx, 1500*time.Millisecond)
	f, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Errorf("open pipe = %v", err)
		return
	}
	defer f.Close()
	f.WriteString(strings.Repeat("\n", 64)) //nolint:errcheck // without it the steps end by themselves
	hold(ctx, time.Second)                  // until each has read its line
}

// meddler steers runs at random until ctx ends. Most of what it asks for is
// refused, since the run is elsewhere by then.
func (l *stress) meddler(ctx context.Context, rnd *rand.Rand, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		recent := l.order[max(0, len(l.order)-60):]
		l.mu.Unlock()
		if len(recent) == 0 {
			continue
		}
		run := "/api/runs/" + pick(rnd, recent...)
		switch v := rnd.Float64(); {
		case v < .15:
			l.ask(ctx, http.MethodPost, run+"/pause", map[string]any{})
		case v < .45:
			l.ask(ctx, http.MethodPost, run+"/resume", map[string]any{})
		case v < .50:
			l.ask(ctx, http.MethodPost, run+"/cancel", map[string]any{})
		case v < .60:
			l.ask(ctx, http.MethodPost, run+"/retry", map[string]any{})
		case v < .75:
			l.retryStep(ctx, rnd, run)
		case v < .85:
			l.ask(ctx, http.MethodPost, "/api/signals", map[string]any{"key": l.key(rnd), "payload": 1})
		default:
			l.decide(ctx, pick(rnd, "pending", "failed", "expired"), 5, func() string { return pick(rnd, "approve", "reject", "waive") })
		}
	}
}

func (l *stress) retryStep(ctx context.Context, rnd *rand.Rand, run string) {
	var d api.RunDetail
	if a := l.ask(ctx, http.MethodGet, run, nil); a.status != http.StatusOK || json.Unmarshal(a.body, &d) != nil {
		return
	}
	failed := slices.DeleteFunc(d.Steps, func(s api.Step) bool { return s.Status != api.StepStatusFailed })
	if len(failed) > 0 {
		l.ask(ctx, http.MethodPost, "/api/steps/"+pick(rnd, failed...).ID+"/retry", map[string]any{"cascade": rnd.Float64() < .5})
	}
}

// decide decides on the newest gates of a status, n at the most.
func (l *stress) decide(ctx context.Context, status string, n int, verb func() string) {
	var page struct{ Items []api.Gate }
	a := l.ask(ctx, http.MethodGet, "/api/gates?limit=200&status="+status, nil)
	if a.status != http.StatusOK || json.Unmarshal(a.body, &page) != nil {
		return
	}
	for _, g := range page.Items[max(0, len(page.Items)-n):] {
		l.ask(ctx, http.MethodPost, "/api/gates/"+g.ID+"/"+verb(), map[string]string{"reason": "decided"})
	}
}
