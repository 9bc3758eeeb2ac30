package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nofx.dev/gateway/api"
)

// connections is a stream that answers one text per connection, then 204. It
// keeps the Last-Event-ID of each.
type connections struct {
	texts []string

	mu    sync.Mutex
	lasts []string
}

func (s *connections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lasts = append(s.lasts, r.Header.Get("Last-Event-ID"))
	if len(s.lasts) > len(s.texts) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	switch text := s.texts[len(s.lasts)-1]; text {
	case "401":
		problem(w, r, http.StatusUnauthorized, api.Problem{Code: api.ProblemCodeUnauthenticated, Detail: "revoked"})
	case "503":
		problem(w, r, http.StatusServiceUnavailable, api.Problem{Code: api.ProblemCodeUnavailable, Detail: "not now"})
	case "break":
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("Content-Type", api.EventStream+"; charset=utf-8")
		_, _ = io.WriteString(w, text)
	}
}

func log(from, to int64) string {
	var s strings.Builder
	for seq := from; seq <= to; seq++ {
		s.WriteString(eventBlock(event(seq, 1, "step.log", `{}`)))
	}
	return s.String()
}

var final = block("", "stream.end", `{"reason":"final"}`)

// TestEventsTail reads one run's stream over connections that fail in every way
// and expects each event once, in order, or a good reason why not.
func TestEventsTail(t *testing.T) {
	t.Parallel()
	half := eventBlock(event(4, 1, "step.log", `{}`))
	half = half[:len(half)/2]
	for name, tt := range map[string]struct {
		texts []string
		args  []string
		want  string // seqs
		lasts []string
		exit  int
		says  string
	}{
		"to the end":       {[]string{log(1, 3) + final}, nil, "1 2 3", []string{""}, exitOK, ""},
		"after":            {[]string{log(6, 7) + final}, []string{"--after", "5"}, "6 7", []string{"5"}, exitOK, ""},
		"cut in a frame":   {[]string{log(1, 3) + half, log(4, 5) + final}, nil, "1 2 3 4 5", []string{"", "3"}, exitOK, "the connection was closed"},
		"told twice":       {[]string{log(1, 3), log(2, 5) + final}, nil, "1 2 3 4 5", []string{"", "3"}, exitOK, ""},
		"one is missing":   {[]string{log(1, 2) + log(4, 5), log(3, 5) + final}, nil, "1 2 3 4 5", []string{"", "2"}, exitOK, "event 4 came after 2"},
		"first is missing": {[]string{log(2, 2), log(1, 2) + final}, nil, "1 2", []string{"", ""}, exitOK, "event 2 came after 0"},
		"old age": {[]string{log(1, 2) + block("", "stream.end", `{"reason":"max_age","resume_after":"2"}`), log(3, 3) + final}, nil,
			"1 2 3", []string{"", "2"}, exitOK, ""},
		"only its place moves": {[]string{log(1, 1) + block("9", "", ""), final}, []string{"--types", "gate.*"}, "1", []string{"", "9"}, exitOK, ""},
		"gone for good": {[]string{log(1, 1), block("", "stream.gap", `{"reason":"expired","requested":"1","oldest":"8"}`) + log(8, 9) + final}, nil,
			"1 8 9", []string{"", "1"}, exitOK, "events are missing at this point (expired)"},
		"closed after the end": {[]string{log(1, 2)}, nil, "1 2", []string{"", "2"}, exitOK, ""},
		"bad gateway meanwhile": {[]string{log(1, 1), "503", "break", log(2, 2) + final}, nil,
			"1 2", []string{"", "1", "1", "1"}, exitOK, "not now"},
		"revoked meanwhile": {[]string{log(1, 1), "401"}, nil, "1", []string{"", "1"}, exitRefused, `"detail":"revoked"`},
		"told to leave":     {[]string{log(1, 1) + block("", "stream.end", `{"reason":"revoked"}`)}, nil, "1", []string{""}, exitFailed, "may no longer read it"},
		"never there":       {[]string{"503"}, nil, "", []string{""}, exitFailed, "not now"},
		"gives up": {append([]string{log(1, 1)}, slices.Repeat([]string{"503"}, 20)...), nil,
			"1", append([]string{""}, slices.Repeat([]string{"1"}, maxFailures-1)...), exitFailed, "not now"},
		"no stream": {[]string{"event: x\ndata: <html>\n\n"}, nil, "", []string{""}, exitFailed, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &connections{texts: tt.texts}
			_, server := newGateway(t, map[string]http.HandlerFunc{"listRunEvents": s.ServeHTTP})
			c := newCLI(t, server.URL)
			args := append([]string{"events", "tail", id("run", 1), "--json"}, tt.args...)
			if got := execute(t.Context(), c.app, args); got != tt.exit {
				t.Errorf("%v = exit %d, want %d: %s", args, got, tt.exit, &c.errOut)
			}
			var got []string
			for line := range strings.Lines(c.out.String()) {
				_, seq, _ := strings.Cut(line, `"seq":`)
				seq, _, _ = strings.Cut(seq, ",")
				got = append(got, seq)
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("%v printed events %q, want %q", args, got, tt.want)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if !slices.Equal(s.lasts, tt.lasts) {
				t.Errorf("%v came back after %q, want %q", args, s.lasts, tt.lasts)
			}
			if !strings.Contains(c.errOut.String(), tt.says) {
				t.Errorf("%v says %q, want %q in it", args, &c.errOut, tt.says)
			}
			for _, d := range c.pauses {
				if d > reconnectMost {
					t.Errorf("%v paused %v, want at most %v", args, d, reconnectMost)
				}
			}
		})
	}
}

// TestEventsTailAll follows the feed of the tenant until it is stopped.
func TestEventsTailAll(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	g, server := newGateway(t, map[string]http.HandlerFunc{"listEvents": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", api.EventStream)
		_, _ = io.WriteString(w, block("c1", "stream.ready", `{"cursor":"c1"}`)+eventBlock(event(1, 0, "run.created", `{"to":"queued"}`)))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}})
	c := newCLI(t, server.URL)
	c.app.out = writerFunc(func(p []byte) (int, error) {
		stop() // Ctrl-C at the first event
		return c.out.Write(p)
	})
	if got := execute(ctx, c.app, []string{"events", "tail", "--project", "default", "--types", "run.*"}); got != exitStopped {
		t.Errorf("events tail = exit %d, want %d: %s", got, exitStopped, &c.errOut)
	}
	if got, want := c.out.String(), "2026-03-04 05:05:28Z  "+id("run", 1)+"  run.created           to=queued  by worker-1\n"; got != want {
		t.Errorf("events tail printed %q, want %q", got, want)
	}
	if got, want := g.requests(), []string{"GET /api/events?types=run.%2A&project=default"}; !slices.Equal(got, want) {
		t.Errorf("requests = %q, want %q", got, want)
	}
}

// TestSilence: a connection on which nothing comes any more is given up.
func TestSilence(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", api.EventStream)
		_, _ = io.WriteString(w, block("1", "x", "{}"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	var notes []string
	ctx, stop := context.WithCancel(t.Context())
	s := stream{
		idle:  20 * time.Millisecond,
		note:  func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) },
		pause: func(context.Context, time.Duration) error { stop(); return ctx.Err() },
		open: func(ctx context.Context, _ string, _ api.RequestEditorFn) (*http.Response, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
			if err != nil {
				return nil, err
			}
			return http.DefaultClient.Do(req)
		},
	}
	if err := s.follow(ctx, "", func(*api.Frame) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("follow(a silent stream) = %v, want %v", err, context.Canceled)
	}
	if want := []string{errIdle.Error() + "; connecting again"}; !slices.Equal(notes, want) {
		t.Errorf("it noted %q, want %q", notes, want)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestLogsFollow follows a log over lost connections: every byte once.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	chunk := func(offset int, text string) string {
		return block(fmt.Sprint(offset+len(text)), "log", fmt.Sprintf(`{"offset":%d,"text":%q}`, offset, text))
	}
	end := block("", "end", `{"offset":9}`)
	for name, texts := range map[string][]string{
		"at once":     {chunk(0, "one\n") + chunk(4, "two\n") + chunk(8, "!") + end},
		"cut":         {chunk(0, "one\n") + chunk(4, "two\n")[:9], chunk(4, "two\n") + chunk(8, "!") + end},
		"told twice":  {chunk(0, "one\n"), chunk(0, "one\n") + chunk(4, "two\n") + chunk(8, "!") + end},
		"with a hole": {chunk(0, "one\n") + chunk(8, "!"), chunk(4, "two\n") + chunk(8, "!") + end},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &connections{texts: texts}
			build := step(1, "build", "bash", api.StepStatusSucceeded)
			g, server := newGateway(t, map[string]http.HandlerFunc{"getStepLogs": s.ServeHTTP, "getStep": answer(http.StatusOK, api.StepDetail{Step: build, Attempts: []api.Attempt{
				{Fence: 1, StartedAt: ago(60), Outcome: ptr("lease_expired"), TraceID: testTrace}, {Fence: 3, StartedAt: ago(50), Outcome: ptr("succeed"), TraceID: testTrace}}})})
			c := newCLI(t, server.URL)
			if got := execute(t.Context(), c.app, []string{"logs", id("step", 1), "-f", "--attempt", "2"}); got != exitOK {
				t.Errorf("logs -f = exit %d, want 0: %s", got, &c.errOut)
			}
			if got, want := c.out.String(), "one\ntwo\n!"; got != want {
				t.Errorf("logs -f printed %q, want %q", got, want)
			}
			if got, want := g.requests()[1], "GET /api/steps/"+id("step", 1)+"/logs?attempt=3&follow=1"; got != want {
				t.Errorf("request = %q, want %q", got, want)
			}
		})
	}
}

// TestLogsFollowGoesOn follows a step over attempts that did not do what they were to
// do, until it has ended: why, and where it goes on.
func TestLogsFollowGoesOn(t *testing.T) {
	t.Parallel()
	attempt := func(fence int64, worker, outcome string) api.Attempt {
		a := api.Attempt{Fence: fence, WorkerID: worker, StartedAt: ago(60), Outcome: optional(outcome), TraceID: testTrace}
		if outcome != "" {
			a.EndedAt = ptr(ago(50))
		}
		return a
	}
	failed := attempt(2, "vm/b", "retry")
	failed.ExitCode = ptr(1)
	done := attempt(7, "vm/c", "succeed")
	type reading struct {
		status   api.StepStatus
		attempts []api.Attempt
	}
	const ready, running, retrying, succeeded = api.StepStatusReady, api.StepStatusRunning, api.StepStatusRetrying, api.StepStatusSucceeded
	for name, tt := range map[string]struct {
		args  []string
		reads []reading // of the step, in turn; the last one stays
		log   string
		exit  int
		want  string
	}{
		"it did it": {nil, []reading{{succeeded, []api.Attempt{attempt(2, "vm/b", "succeed")}}}, "log 2\n", exitOK, ""},
		"worker is lost": {nil, []reading{{running, []api.Attempt{attempt(2, "vm/b", "lease_expired"), attempt(7, "vm/c", "")}}, {succeeded, []api.Attempt{attempt(2, "vm/b", "lease_expired"), done}}},
			"log 2\nlog 7\n", exitOK, "attempt 1 was lost: worker vm/b no longer answered\nattempt 2 runs on worker vm/c\n"},
		"worker stops": {nil, []reading{{ready, []api.Attempt{attempt(2, "vm/b", "interrupted")}}, {ready, []api.Attempt{attempt(2, "vm/b", "interrupted")}}, {succeeded, []api.Attempt{attempt(2, "vm/b", "interrupted"), done}}},
			"log 2\nlog 7\n", exitOK, "attempt 1 was interrupted: worker vm/b was stopped\nthe step is ready\nattempt 2 runs on worker vm/c\n"},
		"tried again": {nil, []reading{{retrying, []api.Attempt{failed}}, {succeeded, []api.Attempt{failed, done}}},
			"log 2\nlog 7\n", exitOK, "attempt 1 ended with exit code 1 (retry)\nthe step is retrying, the next attempt is due at " + clock(ptr(now.Add(8*time.Second))) + "\nattempt 2 runs on worker vm/c\n"},
		"failed": {nil, []reading{{api.StepStatusFailed, []api.Attempt{attempt(2, "vm/b", "fail")}}}, "log 2\n", exitRun, "attempt 1 ended (fail)\nthe step is failed: out of luck\n"},
		"cancelled while it waits": {nil, []reading{{ready, []api.Attempt{attempt(2, "vm/b", "interrupted")}}, {api.StepStatusCancelled, []api.Attempt{attempt(2, "vm/b", "interrupted")}}},
			"log 2\n", exitRun, "attempt 1 was interrupted: worker vm/b was stopped\nthe step is ready\nthe step is cancelled: out of luck\n"},
		"one attempt": {[]string{"--attempt", "1"}, []reading{{running, []api.Attempt{attempt(2, "vm/b", "lease_expired"), attempt(7, "vm/c", "")}}},
			"log 2\n", exitOK, "attempt 1 was lost: worker vm/b no longer answered\nthe step is now at attempt 2: nofx logs " + id("step", 1) + " -f\n"},
		"no such attempt": {[]string{"--attempt", "3"}, []reading{{running, []api.Attempt{failed, done}}}, "", exitNotFound, "error: not found: step build has no attempt 3; it has 1 to 2\n"},
		"skipped":         {nil, []reading{{api.StepStatusSkipped, nil}}, "", exitOK, "step build was skipped: out of luck\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			reads := tt.reads
			_, server := newGateway(t, map[string]http.HandlerFunc{
				"getStep": func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					s := step(1, "build", "bash", reads[0].status)
					s.ReadyAt, s.Reason, s.Attempts = ptr(now.Add(8*time.Second)), ptr("out of luck"), len(reads[0].attempts)
					answer(http.StatusOK, api.StepDetail{Step: s, Attempts: append([]api.Attempt{}, reads[0].attempts...)})(w, r)
					if len(reads) > 1 {
						reads = reads[1:]
					}
				},
				"getStepLogs": func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", api.EventStream)
					if tt.log == "" {
						_, _ = io.WriteString(w, block("", "end", `{"offset":0}`))
						return
					}
					fence := cmp.Or(r.URL.Query().Get("attempt"), "2")
					_, _ = io.WriteString(w, block("6", "log", `{"offset":0,"text":"log `+fence+`\n"}`)+block("6", "end", `{"offset":6,"fence":`+fence+`}`))
				},
			})
			c := newCLI(t, server.URL)
			if got := execute(t.Context(), c.app, append([]string{"logs", id("step", 1), "-f"}, tt.args...)); got != tt.exit || c.out.String() != tt.log {
				t.Errorf("logs -f = exit %d, %q; want %d, %q", got, &c.out, tt.exit, tt.log)
			}
			if got := c.errOut.String(); got != tt.want {
				t.Errorf("logs -f says %q, want %q", got, tt.want)
			}
		})
	}
}

// TestLogsOfARun prints the logs of all steps, and why there is none: each step says
// it, too, when it is asked alone.
func TestLogsOfARun(t *testing.T) {
	t.Parallel()
	d := failedDetail()
	d.Steps[3].Reason = ptr("upstream_failed")
	refused := step(5, "refused", "bash", api.StepStatusFailed)
	refused.Attempts, refused.FailureClass, refused.Reason = 1, ptr(api.FailureClassPolicy), ptr("tool bash is not allowed")
	nap := step(6, "nap", "sleep", api.StepStatusWaiting)
	nap.Attempts = 1
	d.Steps = append(d.Steps, refused, nap, step(7, "later", "bash", api.StepStatusPending))
	answers := map[string]http.HandlerFunc{
		"getRun": answer(http.StatusOK, d),
		"getStep": func(w http.ResponseWriter, r *http.Request) {
			for _, s := range d.Steps {
				if strings.HasSuffix(r.URL.Path, s.ID) {
					answer(http.StatusOK, api.StepDetail{Step: s, Attempts: []api.Attempt{}})(w, r)
				}
			}
		},
		"getStepLogs": func(w http.ResponseWriter, r *http.Request) {
			log := map[string]string{"build": "compiling\nok", "unit": "FAIL\n"}
			for _, s := range d.Steps {
				if strings.Contains(r.URL.Path, s.ID) {
					text(log[s.Name], "text/plain")(w, r)
				}
			}
		},
	}
	_, server := newGateway(t, answers)
	c := newCLI(t, server.URL)
	all := c.transcript(t.Context(), "logs", id("run", 1))
	golden(t, "logs-of-a-run", all)
	for name, want := range map[string]string{
		"announce": "step announce was skipped: a step that it depends on did not succeed\n", "refused": "step refused failed without printing anything (policy): tool bash is not allowed\n",
		"ship": "step ship was cancelled\n", "nap": "step nap is waiting; a step of sleep prints nothing\n", "later": "step later is pending and has not begun yet\n",
	} {
		c := newCLI(t, server.URL)
		if got := execute(t.Context(), c.app, []string{"logs", id("run", 1) + "/" + name}); got != exitOK || c.errOut.String() != want {
			t.Errorf("logs RUN/%s = exit %d, %q, want 0, %q", name, got, &c.errOut, want)
		}
		if !strings.Contains(all, want) {
			t.Errorf("logs RUN = %s, want %q in it", all, want)
		}
	}
}

// TestTailOnTerminals prints events on terminals of any width: no run in every line
// where all are of one, and nothing of them is cut.
func TestTailOnTerminals(t *testing.T) {
	t.Parallel()
	e := event(8, 2, "step.retrying", `{"step":"unit","from":"running","to":"retrying","reason":"the command ended with exit code 1","failure_class":"tool","attempt":1}`)
	stream := eventBlock(e) + eventBlock(event(9, 0, "run.failed", `{"to":"failed"}`)) + final
	serve := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", api.EventStream)
		_, _ = io.WriteString(w, stream)
	}
	for _, width := range []int{60, 120, 250} {
		for name, args := range map[string][]string{"one": {"events", "tail", id("run", 1), "--after", "7"}, "all": {"events", "tail"}} {
			t.Run(fmt.Sprint(name, "-", width), func(t *testing.T) {
				t.Parallel()
				_, server := newGateway(t, map[string]http.HandlerFunc{"listRunEvents": serve, "listEvents": serve})
				c := newCLI(t, server.URL)
				c.screen = func() (int, int) { return width, 24 }
				golden(t, fmt.Sprint("tail-", name, "-", width), c.transcript(t.Context(), args...))
				for line := range strings.Lines(c.out.String()) {
					if n := cells(strings.TrimRight(line, "\n")); n > width && width > 60 {
						t.Errorf("a line of %d on a terminal of %d: %s", n, width, line)
					}
				}
				for _, want := range []string{"2026-03-04", "exit code 1", "failure_class=tool", "by worker-1"} {
					if !strings.Contains(strings.Join(strings.Fields(c.out.String()), " "), want) {
						t.Errorf("at %d columns it lacks %q:\n%s", width, want, &c.out)
					}
				}
				if got := strings.Contains(c.out.String(), id("run", 1)); got != (name == "all") {
					t.Errorf("the run's id in the lines: %v, want %v", got, name == "all")
				}
			})
		}
	}
}
