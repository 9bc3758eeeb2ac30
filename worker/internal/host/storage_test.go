package host_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// outage is the real storage behind a proxy that can refuse to answer, or never do.
type outage struct {
	blobs *blob.Store

	mu      sync.Mutex
	refuses func(*http.Request) bool // nil: nothing
	refused int
	hangs   bool                  // it lets refused requests wait instead
	waiting map[int]chan struct{} // closed at so many refused requests
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	target, err := url.Parse(hosttest.StorageEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // the signature covers it
	}}
	o := &outage{waiting: map[int]chan struct{}{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.refuse(r) {
			if o.hangs {
				_, _ = io.Copy(io.Discard, r.Body) // before that the server does not see that the client is gone
				<-r.Context().Done()
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	o.blobs = hosttest.OpenBlobs(t, srv.URL)
	return o
}

func (o *outage) refuse(r *http.Request) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refuses == nil || !o.refuses(r) {
		return false
	}
	o.refused++
	if c := o.waiting[o.refused]; c != nil {
		close(c)
	}
	return true
}

// begin has the storage refuse what refuses says, and returns a channel that is
// closed at the n-th refused request.
func (o *outage) begin(n int, refuses func(*http.Request) bool) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refuses, o.refused = refuses, 0
	c := make(chan struct{})
	o.waiting = map[int]chan struct{}{n: c}
	return c
}

func (o *outage) end() { o.begin(0, nil) }

func everything(*http.Request) bool { return true }

func uploads(r *http.Request) bool { return r.Method == http.MethodPut }

func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s: not within two minutes", what)
	}
}

// counting returns a step that notes each execution in a file outside its workspace.
func counting(t *testing.T, name, text string, needs ...string) (run.PlanStep, func() int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	return hosttest.Script(name, "echo ran >> "+path+"\n"+text, needs...), func() int {
		b, _ := os.ReadFile(path)
		return strings.Count(string(b), "\n")
	}
}

// A tool that has returned is not run again because its result cannot be stored:
// the save is repeated until storage is back. The first ten refusals are two
// rounds of requests, so the save was repeated at least once.
func TestF18_SaveIsRepeatedWhileStorageIsAway(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		refuses func(*http.Request) bool
		step    func(*testing.T) (run.PlanStep, func() int)
	}{
		"away": {everything, func(t *testing.T) (run.PlanStep, func() int) {
			return counting(t, "build", "echo content > out.txt")
		}},
		"takes no uploads": {uploads, func(t *testing.T) (run.PlanStep, func() int) {
			return counting(t, "build", "echo content > out.txt")
		}},
		"away at a gate's evidence": {everything, func(t *testing.T) (run.PlanStep, func() int) {
			s, n := counting(t, "unit", "")
			var in run.BashInputs
			if err := json.Unmarshal(s.Inputs, &in); err != nil {
				t.Fatal(err)
			}
			return hosttest.Step("unit", "gate:unit", map[string]any{"command": in.Script}), n
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, o := setup(t), newOutage(t)
			seen := o.begin(11, tt.refuses)
			b.Worker(t, func(c *host.Config) { c.Blobs = o.blobs })
			s, executions := tt.step(t)
			r := b.Create(t, s)
			wait(t, "eleven refused requests", seen)
			o.end()
			d := b.Until(t, r.ID, run.Succeeded)
			if n := executions(); n != 1 || d.Steps[0].Attempt != 1 {
				t.Errorf("executions = %d in %d attempts, want 1 in 1", n, d.Steps[0].Attempt)
			}
		})
	}
}

// A worker that drains does not wait for storage: the step is given back.
func TestDrainGivesBackWhatStorageDoesNotTake(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	seen := o.begin(6, everything)
	_, stop := b.Worker(t, func(c *host.Config) { c.Blobs = o.blobs })
	s, _ := counting(t, "build", "echo content > out.txt")
	r := b.Create(t, s)
	wait(t, "six refused requests", seen)
	stop()
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s := d.Steps[0]; s.State != run.Ready || s.Attempt != 0 {
		t.Errorf("after a drain the step is %s with %d attempts (%s), want ready with 0", s.State, s.Attempt, s.Reason)
	}
}

// A save is given up when the run is cancelled, and its slot is free again.
func TestCancelEndsARepeatedSave(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	seen := o.begin(6, everything)
	w, stop := b.Worker(t, func(c *host.Config) { c.Blobs = o.blobs })
	s, _ := counting(t, "build", "echo content > out.txt")
	r := b.Create(t, s)
	wait(t, "six refused requests", seen)
	if _, err := b.DB.CancelRun(b.Ctx, b.TenantID, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
		t.Fatalf("CancelRun() = %v", err)
	}
	b.Until(t, r.ID, run.Cancelled)
	eventually(t, "no lease is held", func() bool { return w.Leases().Count() == 0 })
	stop()
}

// While storage is away a worker begins no step that needs it, but steps that
// need none; a worker whose storage answers takes the others.
func TestNoStepBeginsWhileStorageIsAway(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	seen := o.begin(6, everything)
	w, _ := b.Worker(t, func(c *host.Config) { c.Blobs, c.ID = o.blobs, "cut-off" })
	first, firstRan := counting(t, "first", "echo content > out.txt")
	held := b.Create(t, first)
	wait(t, "six refused requests", seen)
	eventually(t, "the worker sees that storage is away", func() bool { return w.Storage().Away() != nil })

	second, secondRan := counting(t, "second", "echo other > out.txt")
	other := b.Create(t, second)
	nap := b.Create(t, run.PlanStep{Name: "nap", Tool: run.ToolSleep, Inputs: json.RawMessage(`{"duration_s":3600}`)})
	b.Until(t, nap.ID, run.Waiting)
	b.Worker(t, func(c *host.Config) { c.ID = "connected" })
	d := b.Until(t, other.ID, run.Succeeded)
	_, attempts, err := b.DB.Step(b.Ctx, b.TenantID, d.Steps[0].ID)
	if err != nil || len(attempts) != 1 || attempts[0].Owner != "connected" {
		t.Errorf("attempts = %+v, %v, want one by the worker whose storage answers", attempts, err)
	}
	o.end()
	b.Until(t, held.ID, run.Succeeded)
	if firstRan() != 1 || secondRan() != 1 {
		t.Errorf("executions = %d and %d, want 1 and 1", firstRan(), secondRan())
	}
}

// When nobody can reach storage, what became ready meanwhile begins when it is back.
func TestStepsBeginWhenStorageIsBack(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	seen := o.begin(6, everything)
	w, _ := b.Worker(t, func(c *host.Config) { c.Blobs = o.blobs })
	held := b.Create(t, hosttest.Script("first", "echo content > out.txt"))
	wait(t, "six refused requests", seen)
	eventually(t, "the worker sees that storage is away", func() bool { return w.Storage().Away() != nil })
	var later []run.Run
	for range 6 { // more than the worker has slots
		later = append(later, b.Create(t, hosttest.Script("one", "echo 1 > 1"), hosttest.Script("two", "cat 1 > 2")))
	}
	probed := o.begin(3, everything)
	wait(t, "three refused probes", probed)
	for _, r := range later {
		if d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID); err != nil || d.Steps[0].State != run.Ready {
			t.Errorf("step of a run created meanwhile = %s, %v, want ready", d.Steps[0].State, err)
		}
	}
	o.end()
	for _, r := range append(later, held) {
		b.Until(t, r.ID, run.Succeeded)
	}
}

// The log of a tool that failed while storage was away says why it did.
func TestLogOutlastsAnOutage(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	seen := o.begin(45, everything) // for longer than a log may hold up a step
	b.Worker(t, func(c *host.Config) { c.Blobs = o.blobs })
	r := b.Create(t, hosttest.Script("build", "echo the reason; exit 3"))
	wait(t, "forty-five refused requests", seen)
	o.end()
	d := b.Until(t, r.ID, run.Failed)
	log, err := b.DB.Log(b.Ctx, b.TenantID, d.Steps[0].ID, nil, 0, 10)
	if err != nil || log.Size != int64(len("the reason\n")) || d.Steps[0].FailureClass != run.ClassTool {
		t.Errorf("Log() = %+v, %v of a step %s, want its line, of one whose tool failed", log, err, d.Steps[0].FailureClass)
	}
}

// A log that storage does not take says itself how much of it is missing.
func TestLostLogIsMarked(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	o.begin(0, func(r *http.Request) bool { return uploads(r) && strings.Contains(r.URL.Path, "/log") })
	b.Worker(t, func(c *host.Config) { c.Blobs, c.Budget = o.blobs, time.Second })
	r := b.Create(t, hosttest.Script("build", "echo the reason; exit 3"))
	d := b.Until(t, r.ID, run.Failed)
	log, err := b.DB.Log(b.Ctx, b.TenantID, d.Steps[0].ID, nil, 0, 10)
	const want = "\n[nofx] the last 11 bytes of output are missing here: storage did not take them\n"
	if err != nil || len(log.Chunks) != 1 || log.Chunks[0].Mark != want || log.Size != int64(len(want)) {
		t.Errorf("Log() = %+v, %v, want the mark %q alone", log, err, want)
	}
}

// The time for failures of the infrastructure is limited.
func TestInfrastructureBudgetEnds(t *testing.T) {
	t.Parallel()
	b, o := setup(t), newOutage(t)
	o.begin(0, everything)
	b.Worker(t, func(c *host.Config) { c.Blobs, c.Budget = o.blobs, time.Second })
	s, executions := counting(t, "build", "echo content > out.txt")
	d := b.Until(t, b.Create(t, s).ID, run.Failed)
	if s := d.Steps[0]; s.FailureClass != run.ClassExhausted || !strings.Contains(s.Reason, "storage") || executions() != 1 {
		t.Errorf("step = %s (%s) after %d executions, want exhausted after 1", s.FailureClass, s.Reason, executions())
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within two minutes", what)
		}
	}
}
