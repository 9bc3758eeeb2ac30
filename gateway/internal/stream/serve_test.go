package stream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// TestReplayThenLive follows a run over the border between what was and what
// comes, to its end and past it.
func TestReplayThenLive(t *testing.T) {
	b := newBench(t, quick)
	r := b.create(700) // more than a page
	b.serve(Request{Run: r.ID, UntilFinal: true})
	f := b.read("")
	ready := controlOf(t, f.want("stream.ready"))
	if *ready.Cursor != "0" || *ready.Resumed {
		t.Errorf("stream.ready = %+v, want a fresh start at 0", ready)
	}
	for header, want := range map[string]string{
		"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no",
	} {
		if got := f.resp.Header.Get(header); got != want {
			t.Errorf("%s = %q, want %q", header, got, want)
		}
	}
	var seq int64
	for {
		got, ok := f.next()
		if !ok {
			t.Fatal("the stream was cut off")
		}
		if got.Event == "stream.end" {
			end := controlOf(t, got)
			if *end.Reason != api.StreamControlReasonFinal || *end.ResumeAfter != FormatSeq(seq) || got.ID != FormatSeq(seq) {
				t.Errorf("stream.end = %+v %+v, want final at %d", got, end, seq)
			}
			break
		}
		seq++
		e := eventOf(t, got)
		if e.Seq != seq || got.ID != FormatSeq(seq) || e.Type != got.Event {
			t.Fatalf("frame = %+v, want seq %d", got, seq)
		}
		if seq == 701 {
			b.cancel(r) // live from here on
		}
	}
	if seq != 701+700+1 {
		t.Errorf("the last seq was %d, want 1402", seq)
	}
	if _, ok := f.next(); ok {
		t.Error("the stream went on after its end")
	}
	if again := b.read(f.last); again.resp.StatusCode != http.StatusNoContent {
		t.Errorf("reconnecting past the end = %d, want 204", again.resp.StatusCode)
	}
	b.eventually("topics are forgotten", func() bool { return len(b.hub.all()) == 0 })
}

// TestEnvelope checks every member of an event as a client sees it.
func TestEnvelope(t *testing.T) {
	t.Parallel()
	id, step, tenant := uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	e := run.Event{RunID: id, TenantID: tenant, Seq: 42, StepID: &step, Type: "step.succeeded", Actor: "worker:1", At: at,
		Data: []byte(`{"a": "<b>"}`), TraceID: "t", SpanID: "s"}
	got := string(source{run: id}.encode(e, Cursor{Seq: 42}).bytes)
	want := `id: 42
event: step.succeeded
data: {"actor":"worker:1","at":"2026-01-02T02:04:05Z","data":{"a":"<b>"},"id":"run_01000000000000000000000000000000.42","run_id":"run_01000000000000000000000000000000","schema":1,"seq":42,"span_id":"s","step_id":"step_02000000000000000000000000000000","tenant_id":"ten_03000000000000000000000000000000","trace_id":"t","type":"step.succeeded"}

`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frame (-want +got):\n%s", diff)
	}
}

// TestFlappingReaders lets readers of both streams leave and come back at random
// while writers write: each reads every event once and in order.
func TestFlappingReaders(t *testing.T) {
	for name, feed := range map[string]bool{"run": false, "feed": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, quick)
			const writers, each = 4, 6
			first := b.create(40)
			q := Request{Run: first.ID}
			want := 40 + 1
			if feed {
				q = Request{}
				want = 41 + writers*each*(3+1+3+1)
			}
			b.serve(q)
			var wg sync.WaitGroup
			if feed {
				for range writers {
					wg.Go(func() {
						for range each {
							b.cancel(b.create(3))
						}
					})
				}
			} else {
				want += 41
				wg.Go(func() { b.cancel(first) })
			}
			for n := range 3 {
				wg.Go(func() { b.flap(uint64(n), want) })
			}
			wg.Wait()
		})
	}
}

// flap reads want events over many connections.
func (b *bench) flap(seed uint64, want int) {
	dice := rand.New(rand.NewPCG(seed, 1))
	last, seen, newest := "", map[string]bool{}, map[string]int64{}
	for len(seen) < want {
		f := b.read(last)
		for range 1 + dice.IntN(30) {
			got, ok := f.next()
			if !ok {
				break
			}
			if got.Event == "stream.ready" {
				continue
			}
			e := eventOf(b, got)
			if seen[e.ID] || e.Seq != newest[e.RunID]+1 {
				b.Errorf("event %s after seq %d of its run (seen %v)", e.ID, newest[e.RunID], seen[e.ID])
				f.leave()
				return
			}
			seen[e.ID], newest[e.RunID] = true, e.Seq
			if len(seen) == want {
				break
			}
		}
		last = f.last
		f.leave()
	}
}

func TestFilters(t *testing.T) {
	b := newBench(t, Limits{PollBusy: time.Millisecond, PollIdle: 5 * time.Millisecond, KeepAlive: 20 * time.Millisecond})
	r, other := b.create(2), b.create(2)
	b.serve(Request{Runs: []uuid.UUID{r.ID}, Types: []string{"run.*"}})
	f := b.read("")
	f.want("stream.ready")
	if e := eventOf(t, f.want("run.created")); e.RunID != run.RunID.Format(r.ID) {
		t.Errorf("event of %s, want of %s", e.RunID, run.RunID.Format(r.ID))
	}
	before := f.last
	b.cancel(other)
	// Nothing of that is shown, but a keep-alive tells how far it was read.
	for f.last == before {
		silent, err := f.frames.Next()
		if err != nil || silent.Data != "" {
			t.Fatalf("frame = %+v, %v, want one without data", silent, err)
		}
		f.last = silent.ID
	}
	moved, err := ParseFeed(f.last)
	if err != nil {
		t.Fatal(err)
	}
	if start, _ := ParseFeed(before); compare(moved, start) <= 0 {
		t.Errorf("the keep-alive's id = %+v, want after %+v", moved, start)
	}
	b.cancel(r)
	if e := eventOf(t, f.want("run.cancelled")); e.RunID != run.RunID.Format(r.ID) {
		t.Errorf("event of %s, want of %s", e.RunID, run.RunID.Format(r.ID))
	}
}

func TestProject(t *testing.T) {
	b := newBench(t, quick)
	b.create(1)
	b.serve(Request{Project: "none", Types: []string{"run.created"}})
	f := b.read("")
	f.want("stream.ready")
	b.hub.Shutdown()
	f.want("stream.end")
}

// TestProjectsShareATopic checks that readers of a tenant's feed cost the tailer
// one query, whatever projects they ask for, and get the events of theirs alone,
// replayed and live.
func TestProjectsShareATopic(t *testing.T) {
	b := newBench(t, quick)
	if _, err := b.pg.Admin.Exec(t.Context(), "INSERT INTO nofx.project (tenant_id, id, slug) VALUES ($1, $2, 'other')", b.tenant, uuid.New()); err != nil {
		t.Fatal(err)
	}
	b.serve(Request{Types: []string{"run.created"}})
	var want [2][2]run.Run // replayed and live, by reader
	projects := []string{"other", "default"}
	for i, project := range projects {
		want[i][0] = b.createIn(project, 1)
	}
	readers := []*reader{b.readOf("other", ""), b.readOf("default", ""), b.readOf("none", "")}
	for _, f := range readers {
		f.want("stream.ready")
	}
	created := func(i, n int) {
		t.Helper()
		if got, want := eventOf(t, readers[i].want("run.created")).RunID, run.RunID.Format(want[i][n].ID); got != want {
			t.Errorf("reader of %s got an event of %s, want of %s", projects[i], got, want)
		}
	}
	created(0, 0)
	created(1, 0)
	b.eventually("all are live", func() bool { return b.hub.readers() == len(readers) })
	if topics := b.hub.all(); len(topics) != 1 {
		t.Errorf("%d readers of one feed have %d topics, want 1", len(readers), len(topics))
	}
	for i, project := range projects {
		want[i][1] = b.createIn(project, 1)
	}
	created(0, 1)
	created(1, 1)
	b.hub.Shutdown()
	readers[2].want("stream.end")
}

// TestUnreadableTopics checks that topics which cannot be read keep no other from
// moving.
func TestUnreadableTopics(t *testing.T) {
	b := newBench(t, quick)
	hub := NewHub(b.hub.cfg) // that polls when we say so
	for range 20 {           // in whatever order they are read
		gone := b.create(1)
		b.cancel(gone)
		b.prune(gone.ID, 1000)
		hub.join(source{tenant: b.tenant, run: gone.ID}, Cursor{})
	}
	r := b.create(1)
	topic := hub.join(source{tenant: b.tenant, run: r.ID}, Cursor{})
	busy, err := hub.poll(t.Context())
	if _, lost := postgres.OldestKept(err); !busy || !lost {
		t.Errorf("poll = busy %v, %v, want busy and the error of those that are gone", busy, err)
	}
	if got := topic.at().Seq; got != r.EventSeq {
		t.Errorf("the topic beside them is at %d, want %d", got, r.EventSeq)
	}
}

func TestGaps(t *testing.T) {
	b := newBench(t, quick)
	r := b.create(1)
	b.serve(Request{Run: r.ID})
	f := b.read("99")
	f.want("stream.ready")
	gap := f.want("stream.gap")
	if c := controlOf(t, gap); *c.Reason != api.StreamControlReasonAhead || *c.Requested != "99" || gap.ID != FormatSeq(r.EventSeq) {
		t.Errorf("stream.gap = %+v, want ahead of %d", gap, r.EventSeq)
	}
	b.cancel(r)
	if e := eventOf(t, f.want("step.cancelled")); e.Seq != r.EventSeq+1 {
		t.Errorf("after the gap came seq %d, want %d", e.Seq, r.EventSeq+1)
	}
}

func TestFeedGap(t *testing.T) {
	b := newBench(t, quick)
	b.create(1)
	b.serve(Request{})
	head, err := b.db.FeedHead(t.Context(), b.tenant)
	if err != nil {
		t.Fatal(err)
	}
	for requested, reason := range map[Cursor]api.StreamControlReason{
		{Epoch: head.Epoch, XID: 1 << 60}:    api.StreamControlReasonAhead,
		{Epoch: head.Epoch%1000 + 1, XID: 1}: api.StreamControlReasonEpoch,
	} {
		f := b.read(FormatFeed(requested))
		f.want("stream.ready")
		gap := f.want("stream.gap")
		if c := controlOf(t, gap); *c.Reason != reason || *c.Requested != FormatFeed(requested) || c.Oldest != nil {
			t.Errorf("stream.gap = %+v, want %s", c, reason)
		}
		if at, err := ParseFeed(gap.ID); err != nil || at.Epoch != head.Epoch || at.XID < head.XID {
			t.Errorf("the stream goes on from %+v, %v, want from now, %+v", at, err, head)
		}
		b.create(1)
		f.want("run.created")
		f.leave()
		<-b.answer
	}
}

// TestFeedOfARestoredDatabase checks that a reader goes on with the cursor that it has
// from before a database was dumped and restored elsewhere, and follows what happens
// there.
func TestFeedOfARestoredDatabase(t *testing.T) {
	b := newBench(t, quick)
	b.pg.SpendIDs(t)
	b.create(1)
	b.serve(Request{Types: []string{"run.*"}})
	f := b.read("")
	f.want("stream.ready")
	f.want("run.created")
	late := b.create(1) // which the reader has not seen
	f.leave()

	r := &bench{T: t, pg: b.pg.Restore(t), tenant: b.tenant, answer: make(chan error, 1000)}
	r.db = r.pg.Open(t, postgres.Config{MaxConns: 8})
	r.start(quick)
	r.serve(Request{Types: []string{"run.*"}})
	f = r.read(f.last)
	f.want("stream.ready")
	if e := eventOf(t, f.want("run.created")); e.RunID != run.RunID.Format(late.ID) {
		t.Errorf("the first event is of run %s, want of %s", e.RunID, run.RunID.Format(late.ID))
	}
	r.cancel(late)
	f.want("run.cancelled")
	again := r.read(f.last)
	again.want("stream.ready")
	r.create(1)
	f.want("run.created")
	again.want("run.created")
}

// prune deletes at most limit of the events of a run that ended, as if it were old.
func (b *bench) prune(id uuid.UUID, limit int) {
	b.Helper()
	if _, err := b.pg.Admin.Exec(b.Context(), "UPDATE nofx.run SET finished_at = clock_timestamp() - interval '31 days' WHERE id = $1", id); err != nil {
		b.Fatal(err)
	}
	if p, err := b.db.PruneRuns(b.Context(), b.tenant, []uuid.UUID{id}, limit); err != nil || p.Events == 0 {
		b.Fatalf("PruneRuns = %+v, %v, want some events", p, err)
	}
}

// Of a run whose events are going, a reader is told what it missed and gets the
// rest; when all are gone, that too.
func TestExpiredRun(t *testing.T) {
	b := newBench(t, quick)
	r := b.create(2)
	b.cancel(r)
	last, err := b.db.Run(t.Context(), b.tenant, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(Request{Run: r.ID, UntilFinal: true})
	expired := func(f *reader, requested, oldest string) {
		t.Helper()
		f.want("stream.ready")
		gap := f.want("stream.gap")
		if c := controlOf(t, gap); *c.Reason != api.StreamControlReasonExpired || *c.Requested != requested || *c.Oldest != oldest || gap.ID != oldest {
			t.Errorf("stream.gap = %+v, want expired, from %s to %s", gap, requested, oldest)
		}
	}
	b.prune(r.ID, 2)
	f := b.read("1")
	expired(f, "1", "2")
	for seq := int64(3); seq <= last.EventSeq; seq++ {
		next, _ := f.next()
		if e := eventOf(t, next); e.Seq != seq {
			t.Errorf("after the gap came seq %d, want %d", e.Seq, seq)
		}
	}
	f.want("stream.end")
	b.prune(r.ID, 1000)
	end := FormatSeq(last.EventSeq)
	f = b.read("")
	expired(f, "0", end)
	if c := controlOf(t, f.want("stream.end")); *c.Reason != api.StreamControlReasonFinal || *c.ResumeAfter != end {
		t.Errorf("stream.end = %+v, want final after %s", c, end)
	}
}

// A reader of a run that is pruned under it is told so.
func TestExpiredUnderReader(t *testing.T) {
	b := newBench(t, quick)
	r := b.create(1)
	b.cancel(r)
	s := &subscription{hub: b.hub, q: Request{Tenant: b.tenant, Run: r.ID}}
	s.src = s.q.source()
	b.prune(r.ID, 2)
	_, _, _, err := s.next(t.Context())
	if oldest, lost := postgres.OldestKept(err); !lost || oldest.Seq != 2 {
		t.Errorf("next = %v, %v, want that events up to 2 are lost", oldest, err)
	}
}

// A cursor of the feed before what was deleted is told so, and the stream goes on
// with what is kept; without a cursor nothing is missing.
func TestExpiredFeed(t *testing.T) {
	b := newBench(t, quick)
	old := b.create(1)
	b.cancel(old)
	b.prune(old.ID, 1000)
	young := b.create(1)
	b.serve(Request{})
	head, err := b.db.FeedHead(t.Context(), b.tenant)
	if err != nil {
		t.Fatal(err)
	}
	f := b.read(FormatFeed(Cursor{Epoch: head.Epoch, XID: 1}))
	f.want("stream.ready")
	if c := controlOf(t, f.want("stream.gap")); *c.Reason != api.StreamControlReasonExpired || c.Oldest == nil {
		t.Errorf("stream.gap = %+v, want expired", c)
	}
	if e := eventOf(t, f.want("run.created")); e.RunID != run.RunID.Format(young.ID) {
		t.Errorf("after the gap came an event of %s, want of %s", e.RunID, run.RunID.Format(young.ID))
	}
	f = b.read("")
	f.want("stream.ready")
	f.want("run.created")
}

func TestUnknownRun(t *testing.T) {
	b := newBench(t, quick)
	b.serve(Request{Run: uuid.New()})
	b.read("")
	if err := <-b.answer; !errors.Is(err, fault.NotFound) {
		t.Errorf("Serve of an unknown run = %v, want not found", err)
	}
}

// TestEnds checks each reason for which the gateway ends a stream by itself, and
// that it says where to go on.
func TestEnds(t *testing.T) {
	t.Parallel()
	keep := func(l Limits) Limits {
		l.PollBusy, l.PollIdle = quick.PollBusy, quick.PollIdle
		return l
	}
	for _, tc := range []struct {
		reason api.StreamControlReason
		limits Limits
		check  func(context.Context) error
		act    func(*bench)
	}{
		{reason: api.StreamControlReasonMaxAge, limits: keep(Limits{MaxAge: 50 * time.Millisecond})},
		{reason: api.StreamControlReasonShutdown, limits: quick, act: func(b *bench) { b.hub.Shutdown() }},
		{reason: api.StreamControlReasonRevoked, limits: keep(Limits{KeepAlive: 10 * time.Millisecond}), check: func(context.Context) error { return errRevoked }},
	} {
		t.Run(string(tc.reason), func(t *testing.T) {
			b := newBench(t, tc.limits)
			r := b.create(1)
			b.serve(Request{Run: r.ID, Check: tc.check})
			f := b.read("")
			f.want("stream.ready")
			f.want("run.created")
			f.want("step.ready")
			if tc.act != nil {
				tc.act(b)
			}
			end := controlOf(t, f.want("stream.end"))
			if *end.Reason != tc.reason || *end.ResumeAfter != "2" {
				t.Errorf("stream.end = %s after %s, want %s after 2", *end.Reason, *end.ResumeAfter, tc.reason)
			}
			if err := <-b.answer; err != nil {
				t.Errorf("Serve = %v, want nil", err)
			}
		})
	}
}

// A run that ended and was retried goes on: the stream of it ends where the run
// does, not where it once did.
func TestRetriedRun(t *testing.T) {
	b := newBench(t, quick)
	r := b.create(1)
	b.cancel(r)
	if _, err := b.db.RetryRun(t.Context(), b.tenant, r.ID, postgres.Verb{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	b.serve(Request{Run: r.ID, UntilFinal: true})
	underWay := b.read("")
	b.cancelOnce(underWay, r)
	over := b.read("") // all of it lies before
	b.cancelOnce(over, run.Run{})
}

// cancelOnce reads a run that was cancelled and retried to the end of its stream.
// After the retry it cancels r, if there is one.
func (b *bench) cancelOnce(f *reader, r run.Run) {
	b.Helper()
	for ends := 0; ; {
		got, ok := f.next()
		switch {
		case !ok:
			b.Fatal("the stream was cut off")
		case got.Event == "run.cancelled":
			ends++
		case got.Event == "stream.end":
			if c := controlOf(b, got); *c.Reason != api.StreamControlReasonFinal || ends != 2 {
				b.Errorf("stream.end = %s after %d ends of the run, want final after 2", *c.Reason, ends)
			}
			return
		case ends == 1 && r.ID != uuid.Nil:
			b.cancel(r)
			r = run.Run{}
		}
	}
}

// TestDatabaseTrouble checks that a reader does not notice when the caller's key
// cannot be checked for a while.
func TestDatabaseTrouble(t *testing.T) {
	asked := make(chan struct{}, 100)
	b := newBench(t, Limits{KeepAlive: 5 * time.Millisecond, PollBusy: time.Millisecond, PollIdle: 5 * time.Millisecond})
	r := b.create(1)
	b.serve(Request{Run: r.ID, Check: func(context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		return fault.New(fault.Unavailable, "unavailable", "down")
	}})
	f := b.read("")
	f.want("stream.ready")
	f.want("run.created")
	f.want("step.ready")
	for range 3 {
		<-asked
	}
	b.cancel(r)
	f.want("step.cancelled")
}

// readers counts those of all topics.
func (h *Hub) readers() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.topics {
		n += t.refs
	}
	return n
}

// TestClientLeaves checks that nothing is left of a reader who went away.
func TestClientLeaves(t *testing.T) {
	b := newBench(t, quick)
	r := b.create(1)
	b.serve(Request{Run: r.ID})
	for range 20 {
		f := b.read("")
		f.want("stream.ready")
		f.leave()
	}
	for range 20 {
		<-b.answer // each Serve returned
	}
	b.eventually("topics are forgotten", func() bool { return len(b.hub.all()) == 0 })
}

// stuck is a connection whose reader stops reading: a write blocks until it is
// let go.
type stuck struct {
	header http.Header
	wrote  chan struct{}
	letGo  chan struct{}
	once   sync.Once
	mu     sync.Mutex
	got    []byte
	after  int
}

func (s *stuck) Header() http.Header              { return s.header }
func (s *stuck) WriteHeader(int)                  {}
func (s *stuck) Flush()                           {}
func (s *stuck) SetWriteDeadline(time.Time) error { return nil }
func (s *stuck) SetReadDeadline(time.Time) error  { return nil }

func (s *stuck) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.got = append(s.got, p...)
	n := len(s.got)
	s.mu.Unlock()
	if n > s.after {
		s.once.Do(func() {
			close(s.wrote)
			<-s.letGo
		})
	}
	return len(p), nil
}

// TestSlowConsumer checks that a reader which falls out of the ring and does not
// catch up is told so, and that the others notice nothing.
func TestSlowConsumer(t *testing.T) {
	limits := quick
	limits.WriteTimeout = time.Nanosecond // whoever is behind is slow
	b := newBench(t, limits)
	r := b.create(300)
	slow := &stuck{header: http.Header{}, wrote: make(chan struct{}), letGo: make(chan struct{})}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	q := Request{Tenant: b.tenant, Run: r.ID, After: Cursor{Seq: r.EventSeq}, Check: func(context.Context) error { return nil }}
	slow.after = 200 // the first bytes pass, the first event does not
	go func() { done <- b.hub.Serve(slow, req, q) }()
	b.eventually("the reader is live", func() bool { return len(b.hub.all()) == 1 })
	b.cancel(r)
	<-slow.wrote
	b.eventually("the ring moved on", func() bool { return b.hub.all()[0].at().Seq == r.EventSeq+301 })
	b.create(1)
	close(slow.letGo)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := string(slow.got); !strings.Contains(got, "slow_consumer") {
		t.Errorf("the slow reader got %d bytes that end %q, want slow_consumer", len(got), got[max(0, len(got)-200):])
	}
}

// TestStuckReader checks that a reader who stops reading for good loses its
// connection after the write deadline.
func TestStuckReader(t *testing.T) {
	limits := quick
	limits.WriteTimeout = 100 * time.Millisecond
	b := newBench(t, limits)
	r := b.create(900) // far more than the buffers between them hold
	b.serve(Request{Run: r.ID})
	conn, err := net.Dial("tcp", b.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-b.answer; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	rest, err := io.ReadAll(conn)
	if strings.Contains(string(rest), FormatSeq(r.EventSeq)+"\n") {
		t.Errorf("the reader got all of it (%d bytes, %v), want to be cut off", len(rest), err)
	}
}

func FuzzParseFeed(f *testing.F) {
	f.Add(FormatFeed(Cursor{}))
	f.Add(FormatFeed(Cursor{Epoch: 1<<31 - 1, XID: 1 << 62, Run: uuid.UUID{255}, Seq: 7}))
	f.Add("ZmVlZDow")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseFeed(s)
		if err == nil && FormatFeed(c) != s {
			t.Errorf("ParseFeed(%q) = %+v, which is %q", s, c, FormatFeed(c))
		}
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseFeed(%q) = %v, want a fault.Invalid", s, err)
		}
	})
}

func FuzzParseSeq(f *testing.F) {
	for _, s := range []string{"0", "1", "01", "-1", "+1", "9223372036854775808", " 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if seq, err := ParseSeq(s); err == nil && (seq < 0 || strconv.FormatInt(seq, 10) != s) {
			t.Errorf("ParseSeq(%q) = %d", s, seq)
		}
	})
}
