package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nofx.dev/gateway/api"
)

// watchedRun returns a gateway with one run and its stream. The run is read in turn
// as reads say, from the second reading on; the last one stays.
func watchedRun(t *testing.T, stream string, reads ...api.RunDetail) (*contractGateway, *cli) {
	t.Helper()
	first := detail()
	first.Gates = []api.Gate{} // not opened yet
	first.Steps[2].Status = api.StepStatusRunning
	reads = append([]api.RunDetail{first}, reads...)
	var mu sync.Mutex
	g, server := newGateway(t, map[string]http.HandlerFunc{
		"createRun": answer(http.StatusCreated, api.CreatedRun{Run: first.Run, Steps: first.Steps}),
		"getRun": func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			answer(http.StatusOK, reads[0])(w, r)
			if len(reads) > 1 {
				reads = reads[1:]
			}
		},
		"getStepLogs": tailOf(manyLines()),
		"listQueues":  answer(http.StatusOK, api.QueuePage{Items: []api.Queue{{Name: "step", Workers: 1}}}),
		"listRunEvents": func(w http.ResponseWriter, r *http.Request) {
			if got, want := r.URL.Query().Get("until")+r.Header.Get("Last-Event-ID"), "final7"; got != want {
				t.Errorf("stream asked for %q, want %q", got, want)
			}
			w.Header().Set("Content-Type", api.EventStream)
			_, _ = io.WriteString(w, stream)
		},
	})
	return g, newCLI(t, server.URL)
}

// tailOf answers the end of a log that a range asks for.
func tailOf(log string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Trace-Id", testTrace)
		http.ServeContent(w, r, "log.txt", time.Time{}, strings.NewReader(log))
	}
}

// manyLines returns a log whose end is worth seeing, and steers a terminal.
func manyLines() string {
	var s strings.Builder
	for n := range 5000 {
		fmt.Fprintf(&s, "line %d\n", n+1)
	}
	return s.String() + "\x1b[2Jexit code 1 it is"
}

// story returns what happens in the watched run: unit fails for good.
func story() string {
	var s strings.Builder
	s.WriteString("retry: 100\n: hello\n\n" + block("", "stream.ready", `{"cursor":"7"}`))
	for _, e := range []api.Event{
		event(8, 3, "gate.pending", `{"gate":"deploy","step":"ship"}`),
		event(9, 3, "step.waiting", `{"from":"running","to":"waiting","event":"wait","reason":"waits for approval"}`),
		event(10, 2, "step.retrying", `{"from":"running","to":"retrying","event":"retry","attempt":2,"reason":"exit code 1\u001b[2J","at":"2026-03-04T05:06:15.5Z"}`),
		event(11, 2, "step.failed", `{"from":"running","to":"failed","event":"fail","attempt":3,"reason":"exit code 1","failure_class":"gate_failed"}`),
		event(12, 2, "step.log", `{"n":1}`),
		event(13, 0, "run.failed", `{"from":"running","to":"failed","event":"fail","reason":"step unit failed"}`),
	} {
		s.WriteString(eventBlock(e))
	}
	return s.String() + final
}

func TestWatchLines(t *testing.T) {
	t.Parallel()
	_, c := watchedRun(t, story(), detail(), failedDetail())
	golden(t, "watch-lines", c.transcript(t.Context(), "run", "watch", id("run", 1)))
}

func TestWatchJSON(t *testing.T) {
	t.Parallel()
	_, c := watchedRun(t, story(), detail(), failedDetail())
	if got := execute(t.Context(), c.app, []string{"run", "watch", "--json", id("run", 1)}); got != exitRun {
		t.Errorf("run watch --json = exit %d, want %d: %s", got, exitRun, &c.errOut)
	}
	if got, want := strings.Count(c.out.String(), "\n"), 6; got != want {
		t.Errorf("run watch --json printed %d lines, want %d", got, want)
	}
}

func TestCreateAndWatch(t *testing.T) {
	t.Parallel()
	last := failedDetail()
	last.Run.Status, last.Run.Reason = api.RunStatusSucceeded, nil
	g, c := watchedRun(t, eventBlock(event(8, 0, "run.succeeded", `{"to":"succeeded"}`))+final, last)
	c.in = strings.NewReader(plan)
	if got := execute(t.Context(), c.app, []string{"run", "create", "-f", "-", "--watch"}); got != exitOK {
		t.Errorf("run create --watch = exit %d, want 0: %s", got, &c.errOut)
	}
	run := "/api/runs/" + id("run", 1)
	if got, want := g.requests(), []string{"POST /api/runs", "GET " + run, "GET /api/queues", "GET " + run + "/events?until=final", "GET " + run}; !slices.Equal(got, want) {
		t.Errorf("requests = %q, want %q", got, want)
	}
}

// TestWatchUnserved watches a run whose step nobody takes.
func TestWatchUnserved(t *testing.T) {
	t.Parallel()
	first := detail()
	first.Steps[1].Status = api.StepStatusReady
	for _, tt := range []struct {
		name  string
		queue api.Queue
		want  string
	}{
		{"paused for all", api.Queue{Name: "step", PausedForAll: true, Depth: api.QueueDepth{Ready: 2}}, "queue step is paused for all tenants, by the operator of the installation: 2 of your steps wait in it\n"},
		{"no worker", api.Queue{Name: "step", Depth: api.QueueDepth{Ready: 2}}, "no worker serves queue step: 2 of your steps wait in it\n"},
		{"paused", api.Queue{Name: "step", Workers: 1, Depth: api.QueueDepth{Ready: 1}, Paused: true, PausedAt: ptr(ago(60))},
			"queue step has been paused since " + clock(ptr(ago(60))) + ": 1 of your steps waits in it; to continue: nofx queue resume step\n"},
		{"all wait", api.Queue{Name: "step", Workers: 2, WorkersWaiting: 2, Depth: api.QueueDepth{Ready: 1}}, "every worker of queue step waits for something, such as storage (nofx worker list): 1 of your steps waits in it\n"},
		{"one of two waits", api.Queue{Name: "step", Workers: 2, WorkersWaiting: 1, Depth: api.QueueDepth{Ready: 1}}, ""},
		{"another queue", api.Queue{Name: "review", PausedForAll: true, Depth: api.QueueDepth{Ready: 2}}, ""},
		{"busy", api.Queue{Name: "step", Workers: 1, Depth: api.QueueDepth{Ready: 1}}, ""},
		{"nothing waits", api.Queue{Name: "step"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, map[string]http.HandlerFunc{
				"getRun":     answer(http.StatusOK, first),
				"listQueues": answer(http.StatusOK, api.QueuePage{Items: []api.Queue{tt.queue}}),
				"listRunEvents": func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", api.EventStream)
					_, _ = io.WriteString(w, eventBlock(event(8, 0, "run.failed", `{"to":"failed"}`))+final)
				},
			})
			c := newCLI(t, server.URL)
			execute(t.Context(), c.app, []string{"run", "watch", id("run", 1)})
			if got := c.errOut.String(); got != tt.want {
				t.Errorf("run watch says %q, want %q", got, tt.want)
			}
		})
	}
}

// A gateway that does not answer for a while is named, once, and so is that it answers
// again; one that does not let the caller ask for queues is not.
func TestGatewayAwayWhileFollowing(t *testing.T) {
	t.Parallel()
	d := detail()
	for name, tt := range map[string]struct {
		status int
		code   api.ProblemCode
		want   string
	}{
		"unavailable": {http.StatusServiceUnavailable, api.ProblemCodeUnavailable,
			"the gateway is not available: the database is away (unavailable, trace " + testTrace + "); trying again\nthe gateway answers again\n"},
		"not allowed": {http.StatusForbidden, api.ProblemCodeForbidden, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			looked := make(chan struct{}, 1000)
			var looks atomic.Int64
			up := answer(http.StatusOK, api.QueuePage{Items: []api.Queue{}})
			answers := map[string]http.HandlerFunc{
				"getRun":  answer(http.StatusOK, d),
				"getStep": answer(http.StatusOK, api.StepDetail{Step: d.Steps[1], Attempts: []api.Attempt{{Fence: 2, StartedAt: ago(8), Outcome: ptr("succeed"), TraceID: testTrace}}}),
				"listQueues": func(w http.ResponseWriter, r *http.Request) {
					if n := looks.Add(1); n > 1 && n < 20 { // a look tries several times
						problem(w, r, tt.status, api.Problem{Code: tt.code, Detail: "the database is away"})
					} else {
						up(w, r)
					}
					looked <- struct{}{}
				},
			}
			_, server := newGateway(t, answers)
			quiet := func(end string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", api.EventStream)
					for looks.Load() < 25 {
						select {
						case <-looked:
						case <-r.Context().Done():
							return
						}
					}
					_, _ = io.WriteString(w, end)
				}
			}
			answers["listRunEvents"] = quiet(eventBlock(event(8, 0, "run.failed", `{"to":"failed"}`)) + final)
			answers["getStepLogs"] = quiet(block("", "end", `{"offset":0,"fence":2}`))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			for _, args := range [][]string{{"run", "watch", id("run", 1)}, {"logs", id("step", 2), "-f", "--attempt", "1"}} {
				looks.Store(0)
				c := newCLI(t, server.URL)
				c.look = time.Millisecond
				execute(ctx, c.app, args)
				if got := c.errOut.String(); got != tt.want {
					t.Errorf("%v says %q, want %q", args, got, tt.want)
				}
			}
		})
	}
}

// TestWatchNeedsASandbox watches a step that no worker's sandbox is good enough for.
func TestWatchNeedsASandbox(t *testing.T) {
	t.Parallel()
	d := detail()
	d.Steps[1].Status, d.Steps[1].WaitsForWorker = api.StepStatusReady, ptr("a worker with a sandbox of tier 2; those there have tier 1")
	got := standstill(d.Steps, []api.Queue{{Name: "step", Depth: api.QueueDepth{Ready: 1}}}, "nofx")
	want := []string{"no worker serves queue step, which needs a worker with a sandbox of tier 2; those there have tier 1: 1 of your steps waits in it"}
	if !slices.Equal(got, want) {
		t.Errorf("standstill() = %q, want %q", got, want)
	}
}

// A step whose worker is lost or waits says so wherever it is looked at, with whether
// another is there to take it over.
func TestWorkerOfAStep(t *testing.T) {
	t.Parallel()
	silent := func(s *api.Step) { s.WorkerSilentSince = ptr(ago(8)) }
	waits := func(s *api.Step) { s.WorkerWaitsFor = ptr("storage") }
	for name, tt := range map[string]struct {
		worker  func(*api.Step)
		workers int
		want    string
	}{
		"the only worker is lost": {silent, 0, "unit: its worker has been silent since " + clock(ptr(ago(8))) + "; no worker serves queue step\n"},
		"a worker is lost":        {silent, 1, "unit: its worker has been silent since " + clock(ptr(ago(8))) + "; another worker, if there is one, takes over the step\n"},
		"storage is away":         {waits, 1, "unit: its worker waits for storage\n"},
		"all is well":             {func(*api.Step) {}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := detail()
			tt.worker(&d.Steps[1])
			queues := answer(http.StatusOK, api.QueuePage{Items: []api.Queue{{Name: "step", Workers: tt.workers, WorkersWaiting: tt.workers}}})
			looked := make(chan struct{}, 1000)
			answers := map[string]http.HandlerFunc{
				"getRun":  answer(http.StatusOK, d),
				"getStep": answer(http.StatusOK, api.StepDetail{Step: d.Steps[1], Attempts: []api.Attempt{{Fence: 2, StartedAt: ago(8), Outcome: ptr("succeed"), TraceID: testTrace}}}),
				"listQueues": func(w http.ResponseWriter, r *http.Request) {
					queues(w, r)
					looked <- struct{}{}
				},
			}
			_, server := newGateway(t, answers)
			show := newCLI(t, server.URL)
			if execute(t.Context(), show.app, []string{"run", "show", id("run", 1)}); tt.want != "" && !strings.Contains(show.out.String(), tt.want) {
				t.Errorf("run show = %s, want %q in it", &show.out, tt.want)
			}
			<-looked

			// The stream says nothing until the watch has looked several times.
			answers["listRunEvents"] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", api.EventStream)
				for range 5 {
					<-looked
				}
				_, _ = io.WriteString(w, eventBlock(event(8, 0, "run.failed", `{"to":"failed"}`))+final)
			}
			answers["getStepLogs"] = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", api.EventStream)
				for range 5 {
					<-looked
				}
				_, _ = io.WriteString(w, block("", "end", `{"offset":0,"fence":2}`))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			watch := newCLI(t, server.URL)
			watch.look = time.Millisecond
			execute(ctx, watch.app, []string{"run", "watch", id("run", 1)})
			if got := watch.errOut.String(); got != tt.want {
				t.Errorf("run watch says %q, want %q, once", got, tt.want)
			}
			logs := newCLI(t, server.URL)
			logs.look = time.Millisecond
			execute(ctx, logs.app, []string{"logs", id("step", 2), "-f", "--attempt", "1"})
			if got := logs.errOut.String(); got != tt.want {
				t.Errorf("logs -f says %q, want %q, once", got, tt.want)
			}
			watch.screen = func() (int, int) { return 100, 24 }
			b := &board{a: watch.app, p: *newProgress(d)}
			if b.standstill(standstill(d.Steps, []api.Queue{{Name: "step", Workers: tt.workers}}, "nofx")); !strings.Contains(watch.out.String(), strings.TrimSuffix(tt.want, "\n")) {
				t.Errorf("the board lacks %q:\n%s", tt.want, &watch.out)
			}
		})
	}
}

// An attempt has one number, and none comes after the last that there would be.
func TestTries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		attempts, attempt, most int
		want                    string
	}{
		{0, 0, 1, "0/1"}, {1, 1, 1, "1/1"}, {2, 1, 3, "2/4"}, // one attempt did not count
		{2, 2, 1, "2/2"}, // its worker was lost
		{4, 1, 3, "4/6"}, // somebody retried it
	} {
		if got := tries(api.Step{Attempts: tt.attempts, Attempt: tt.attempt, MaxAttempts: tt.most}); got != tt.want {
			t.Errorf("tries(%d attempts, %d of %d) = %s, want %s", tt.attempts, tt.attempt, tt.most, got, tt.want)
		}
	}
}

// TestWaitsFor looks at a run that waits in every way: it is said for what, and how
// to go on.
func TestWaitsFor(t *testing.T) {
	t.Parallel()
	d := waitingDetail()
	answers := map[string]http.HandlerFunc{
		"getRun":      answer(http.StatusOK, d),
		"getTimeline": answer(http.StatusOK, timelineOf(d)),
		"listQueues": answer(http.StatusOK, api.QueuePage{Items: []api.Queue{
			{Name: "step", Workers: 1, Depth: api.QueueDepth{Ready: 1}, Paused: true, PausedForAll: true, PausedAt: ptr(ago(60)), PausedBy: ptr(alice), PausedByName: ptr("alice"), Reason: ptr("moving")},
			{Name: "review", PausedForAll: true, Depth: api.QueueDepth{Ready: 9}}}}),
		"listRunEvents": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", api.EventStream)
			_, _ = io.WriteString(w, eventBlock(event(8, 0, "run.failed", `{"to":"failed"}`))+final)
		},
		"getStepLogs": tailOf(""),
	}
	for _, verb := range []string{"show", "timeline", "watch"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, answers)
			c := newCLI(t, server.URL)
			golden(t, "waits-for-"+verb, c.transcript(t.Context(), "run", verb, id("run", 1)))
		})
	}
	c := newCLI(t, "")
	for _, width := range []int{120, 60} {
		b := &board{a: c.app, p: *newProgress(d)}
		all := strings.Join(b.lines(width, 40), "\n")
		for _, want := range []string{"nofx gate approve " + id("gate", 1), "news waits for the signal it's live", `nofx signal send 'it'\''s live'`, "nap waits until 2026-03-04 05:07:07Z", "unit will be retried at 2026-03-04 05:06:15Z: exit code 1"} {
			if !strings.Contains(all, want) {
				t.Errorf("the board of %d columns lacks %q:\n%s", width, want, all)
			}
		}
	}
}

// Who sees that dependencies left what does not fit together sees where.
func TestTroublesOfConflict(t *testing.T) {
	t.Parallel()
	s := step(1, "join", "bash", api.StepStatusFailed)
	s.FailureClass, s.Reason = ptr(api.FailureClassWorkspaceConflict), ptr("its dependencies changed 12 paths and keys of the state differently, first a\x1b[31m")
	var list []map[string]string
	for i := range 11 {
		list = append(list, map[string]string{"path": fmt.Sprintf("f%d", i), "kind": "content"})
	}
	list[0] = map[string]string{"path": "a\x1b[31m", "kind": "deleted"}
	list[1] = map[string]string{"pointer": "/vars/k", "kind": "added"}
	outputs, err := json.Marshal(map[string]any{"conflicts": list, "total": 12})
	if err != nil {
		t.Fatal(err)
	}
	s.Outputs = outputs
	d := detail()
	d.Steps = []api.Step{s}
	got := strings.Join(newProgress(d).troubles("nofx"), "\n")
	for _, want := range []string{"\n  deleted  a", "\n  added  /vars/k\n", "\n  content  f9\n", "\n  and 2 more: nofx run show --json " + id("run", 1)} {
		if !strings.Contains(got, want) {
			t.Errorf("troubles() lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "\x1b") || strings.Contains(got, "f10") {
		t.Errorf("troubles() = %q, want ten places, and no escapes", got)
	}
}

// TestWatchEndedRun needs no stream.
func TestWatchEndedRun(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, map[string]http.HandlerFunc{"getRun": answer(http.StatusOK, failedDetail()), "getStepLogs": tailOf("one\ntwo\n")})
	c := newCLI(t, server.URL)
	got := c.transcript(t.Context(), "run", "watch", id("run", 1), "--url", server.URL)
	golden(t, "watch-ended", strings.ReplaceAll(got, server.URL, "http://gateway"))
}

// A run that has ended has no event left: what it came to is shown.
func TestWatchEndedRunJSON(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, map[string]http.HandlerFunc{"getRun": answer(http.StatusOK, failedDetail())})
	c := newCLI(t, server.URL)
	got := execute(t.Context(), c.app, []string{"run", "watch", "--json", id("run", 1)})
	var d api.RunDetail
	if err := json.Unmarshal(c.out.Bytes(), &d); got != exitRun || err != nil || d.Run.Status != api.RunStatusFailed || strings.Count(c.out.String(), "\n") != 1 {
		t.Errorf("run watch --json = exit %d, %s, %v, want %d and the run in one line", got, &c.out, err, exitRun)
	}
}

// TestWatchStopped ends a watch by Ctrl-C: the run goes on, and the tool says so.
func TestWatchStopped(t *testing.T) {
	t.Parallel()
	_, c := watchedRun(t, eventBlock(event(8, 3, "step.waiting", `{"to":"waiting"}`)))
	ctx, stop := context.WithCancel(t.Context())
	c.app.out = writerFunc(func(p []byte) (int, error) {
		stop()
		return c.out.Write(p)
	})
	if got := execute(ctx, c.app, []string{"run", "watch", id("run", 1)}); got != exitStopped {
		t.Errorf("run watch, stopped = exit %d, want %d", got, exitStopped)
	}
	if got, want := c.errOut.String(), "the run continues: nofx run watch "+id("run", 1); !strings.Contains(got, want) {
		t.Errorf("run watch, stopped, says %q, want %q in it", got, want)
	}
}

// TestWatchBoard watches on a terminal: whatever was redrawn on the way, the
// screen holds the last board once, and the summary below.
func TestWatchBoard(t *testing.T) {
	t.Parallel()
	for _, width := range []int{100, 40} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			t.Parallel()
			_, c := watchedRun(t, story(), detail(), failedDetail())
			c.screen = func() (int, int) { return width, 24 }
			if got := execute(t.Context(), c.app, []string{"run", "watch", id("run", 1)}); got != exitRun {
				t.Errorf("run watch = exit %d, want %d: %s", got, exitRun, &c.errOut)
			}
			golden(t, fmt.Sprintf("watch-board-%d", width), display(t, c.out.String(), width))
		})
	}
}

// TestWatchBoardWide watches a run whose goal and steps are of characters that take
// two cells: however wide the terminal, no row of an older board stays on it.
func TestWatchBoardWide(t *testing.T) {
	t.Parallel()
	wide := func(d api.RunDetail) api.RunDetail {
		d.Run.Goal, d.Steps = strings.Repeat("目标", 60), slices.Clone(d.Steps)
		for i := range d.Steps {
			d.Steps[i].Name = strings.Repeat("构建", 5+10*i)
		}
		return d
	}
	for _, width := range []int{120, 80, 41} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			t.Parallel()
			c := newCLI(t, "")
			c.screen = func() (int, int) { return width, 24 }
			b := &board{a: c.app, p: *newProgress(wide(detail()))}
			for range 3 {
				if err := b.draw(); err != nil {
					t.Fatal(err)
				}
			}
			screen := display(t, c.out.String(), width)
			if got := strings.Count(screen, id("run", 1)+"  "); got != 1 {
				t.Errorf("%d boards on the screen, want one:\n%s", got, screen)
			}
			if got := strings.Count(screen, "目标"); got == 0 || strings.Count(screen, "STEP") != 1 {
				t.Errorf("%d of the goal's words on the screen, want some, above one head:\n%s", got, screen)
			}
		})
	}
}

// display returns what a terminal shows of s: it knows up, return, clear below, and
// wraps lines that are too long.
func display(t *testing.T, s string, width int) string {
	t.Helper()
	var rows []string
	for s != "" {
		var up int
		if n, _ := fmt.Sscanf(s, "\x1b[%dA", &up); n == 1 {
			if up > len(rows) {
				t.Fatalf("the cursor goes up %d rows, but only %d are there", up, len(rows))
			}
			s = s[strings.IndexByte(s, 'A')+1:]
		}
		if below, ok := strings.CutPrefix(s, "\r\x1b[J"); ok {
			rows, s = rows[:len(rows)-up], below
			continue
		}
		line, more, ok := strings.Cut(s, "\n")
		if !ok {
			t.Fatalf("the screen ends inside a line: %q", s)
		}
		s = more
		row, used := "", 0
		for _, r := range unpainted(line) {
			taken := 1
			if r >= 0x2E80 { // a CJK character, in what these tests show
				taken = 2
			}
			if used+taken > width {
				rows, row, used = append(rows, row), "", 0
			}
			row, used = row+string(r), used+taken
		}
		rows = append(rows, row)
	}
	return strings.Join(rows, "\n") + "\n"
}

// unpainted returns a line without its colours.
func unpainted(line string) string {
	for {
		before, after, ok := strings.Cut(line, "\x1b[")
		if !ok {
			return line
		}
		_, after, _ = strings.Cut(after, "m")
		line = before + after
	}
}

// TestBoardFits draws runs of many steps on small screens.
func TestBoardFits(t *testing.T) {
	t.Parallel()
	d := detail()
	for n := 5; n <= 1000; n++ {
		d.Steps = append(d.Steps, step(n, fmt.Sprintf("step-with-a-long-name-%d", n), "bash", api.StepStatusPending))
	}
	c := newCLI(t, "")
	for _, size := range [][2]int{{200, 50}, {80, 24}, {60, 16}} {
		b := &board{a: c.app, p: *newProgress(d)}
		lines := b.lines(size[0], size[1])
		if got := rows(lines, size[0]); got >= size[1] {
			t.Errorf("lines(%v) fill %d rows, want fewer than the screen has", size, got)
		}
		all := strings.Join(lines, "\n")
		for _, want := range []string{"unit", "ship", "pending", "nofx gate approve " + id("gate", 1)} {
			if !strings.Contains(all, want) {
				t.Errorf("lines(%v) lack %q:\n%s", size, want, all)
			}
		}
		if strings.Contains(all, "\x1b[31m?") {
			t.Errorf("lines(%v) hand on what a gate's message tells the terminal", size)
		}
	}
}

// TestBoardOfManyWaits draws runs of which more waits and fails than a screen holds.
func TestBoardOfManyWaits(t *testing.T) {
	t.Parallel()
	d := waitingDetail()
	for n := 7; n <= 300; n++ {
		s := step(n, fmt.Sprint("signal-", n), "signal", api.StepStatusWaiting)
		s.SignalKey = ptr(fmt.Sprint("key/", n))
		f := step(1000+n, fmt.Sprint("failed-", n), "bash", api.StepStatusFailed)
		f.Reason = ptr(strings.Repeat("why ", 100))
		d.Steps = append(d.Steps, s, f)
	}
	c := newCLI(t, "")
	for _, size := range [][2]int{{200, 50}, {80, 24}, {60, 24}} {
		b := &board{a: c.app, p: *newProgress(d)}
		lines := b.lines(size[0], size[1])
		if got := rows(lines, size[0]); got >= size[1] {
			t.Errorf("lines(%v) fill %d rows, want fewer than the screen has", size, got)
		}
		if all := strings.Join(lines, "\n"); !strings.Contains(all, "more: nofx run show "+id("run", 1)) || !strings.Contains(all, "gate approve") {
			t.Errorf("lines(%v) = %s, want the first that waits, and where the others are", size, all)
		}
	}
}

// TestApply moves a run on by single events.
func TestApply(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		event api.Event
		stale bool
		want  string // status of run and of step 2, its try, and how often it was tried
	}{
		"run":           {event(8, 0, "run.waiting", `{"to":"waiting"}`), false, "waiting running 2 2"},
		"step":          {event(8, 2, "step.retrying", `{"to":"retrying","attempt":3}`), false, "running retrying 3 2"},
		"another try":   {event(8, 2, "step.running", `{"to":"running","attempt":3}`), false, "running running 3 3"},
		"a known try":   {event(7, 2, "step.running", `{"to":"running","attempt":2}`), false, "running running 2 2"},
		"gate":          {event(8, 2, "gate.passed", `{"to":"passed"}`), true, "running running 2 2"},
		"other verbs":   {event(8, 2, "step.progress", `{"percent":4}`), false, "running running 2 2"},
		"unknown noun":  {event(8, 2, "planet.exploded", `{"to":"dust"}`), false, "running running 2 2"},
		"a step unseen": {event(8, 77, "step.ready", `{"to":"ready"}`), true, "running running 2 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProgress(detail())
			if got := p.apply(tt.event); got != tt.stale {
				t.Errorf("apply(%s) = %v, want %v", tt.event.Type, got, tt.stale)
			}
			if got := fmt.Sprintf("%s %s %d %d", p.run.Status, p.steps[1].Status, p.steps[1].Attempt, p.steps[1].Attempts); got != tt.want {
				t.Errorf("after %s: %q, want %q", tt.event.Type, got, tt.want)
			}
		})
	}
}
