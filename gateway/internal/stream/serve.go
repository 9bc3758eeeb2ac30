package stream

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// Request is a request for a stream of events.
type Request struct {
	Tenant     uuid.UUID
	Run        uuid.UUID   // the stream of one run; uuid.Nil: the tenant's feed
	Runs       []uuid.UUID // of a feed: only these
	Project    string      // of a feed: only its
	Types      []string    // exact, or a family: gate.*
	After      Cursor
	Resumed    bool // After was given, so that a gap must be reported
	UntilFinal bool // of a run: end after the last terminal event of a run that has ended

	// Check reports whether the caller may still read; see [Hub.Open].
	Check func(context.Context) error
}

func (q *Request) source() source {
	return source{tenant: q.Tenant, run: q.Run}
}

// filter returns the filter for the replay of a feed; wants makes the final decision on
// each event.
func (q *Request) filter() postgres.FeedFilter {
	return postgres.FeedFilter{Runs: q.Runs, Types: q.Types, Project: q.Project, Within: searchWithin}
}

func (q *Request) wants(f *frame) bool {
	return (len(q.Runs) == 0 || slices.Contains(q.Runs, f.run)) && (q.Project == "" || f.project == q.Project) && matches(q.Types, f.typ)
}

// matches reports whether typ is one of types, or whether there are none.
func matches(types []string, typ string) bool {
	return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool {
		family, ok := strings.CutSuffix(t, "*")
		return t == typ || ok && strings.HasPrefix(typ, family)
	})
}

// finalTypes are those of [frame.final].
var finalTypes = []string{"run.succeeded", "run.failed", "run.cancelled"}

// Serve answers r with the stream that q asks for, until it ends. It returns an error only
// before anything was answered: fault.NotFound for an unknown run, fault.Unavailable when
// the database does not answer. It answers 204 when no event will follow and there is no
// gap to report.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, q Request) error {
	s := &subscription{hub: h, q: q, src: q.source()}
	gap, over, err := s.start(r.Context())
	if err != nil {
		return err
	}
	if over && gap != api.StreamControlReasonExpired {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	s.conn = h.Open(w, r, q.Check)
	defer s.conn.Close()
	h.cfg.Metrics.SSEConnections.Add(1, s.src.name())
	defer h.cfg.Metrics.SSEConnections.Add(-1, s.src.name())
	s.trace(r.Context(), "sse.open", "")

	cursor := s.src.format(s.pos)
	s.conn.Moved(cursor)
	s.conn.Frame("", "stream.ready", api.StreamControl{Cursor: &cursor, Resumed: &q.Resumed})
	if gap != "" {
		s.gap(gap, q.After)
	}
	reason := api.StreamControlReasonFinal
	err = s.conn.Flush() // a search may take its time
	if err == nil && !over {
		reason, err = s.run(r.Context())
	}
	if err == nil {
		s.conn.End(reason)
	}
	s.trace(r.Context(), "sse.close", reason)
	return nil
}

// subscription is one reader.
type subscription struct {
	hub    *Hub
	conn   *Conn
	q      Request
	src    source
	root   trace.SpanContext // of the run
	pos    Cursor            // read up to here
	live   *topic            // nil while it replays
	behind time.Time         // since when a live reader has not caught up
	sent   int
}

// start finds the beginning of a run's stream; for a feed, the first read does. A cursor
// ahead of all events, for example after a database was restored, is a gap, and the stream
// continues from now. A cursor before the stored events is a gap, too, and the stream
// begins with the oldest stored event. over reports that the run's end lies before the
// cursor and the client wants no later events.
func (s *subscription) start(ctx context.Context) (gap api.StreamControlReason, over bool, err error) {
	db, q := s.hub.cfg.Store, s.q
	s.pos = q.After
	if q.Run == uuid.Nil {
		_, err := db.FeedHead(ctx, q.Tenant) // that it can be read is known before the answer begins
		return "", false, err
	}
	r, err := db.Run(ctx, q.Tenant, q.Run)
	if err != nil {
		return "", false, err
	}
	if remote, ok := telemetry.WithTraceparent(context.Background(), r.Traceparent); ok {
		s.root = trace.SpanContextFromContext(remote)
	}
	switch {
	case q.After.Seq > r.EventSeq:
		gap, s.pos.Seq = api.StreamControlReasonAhead, r.EventSeq
	case r.PrunedSeq != nil && q.After.Seq < *r.PrunedSeq:
		gap, s.pos.Seq = api.StreamControlReasonExpired, *r.PrunedSeq
	}
	if q.UntilFinal {
		over, err = s.endsBefore(ctx, r.State, s.pos)
	}
	return gap, over, err
}

// endsBefore reports whether the end of the run, which is in that state, lies at or
// before a cursor. A run that was retried, or whose gate was waived, has more ends
// than one, and only the last one of a run that has ended now is its end.
func (s *subscription) endsBefore(ctx context.Context, state run.State, at Cursor) (bool, error) {
	if !run.RunMachine.Terminal(state) {
		return false, nil
	}
	ends, err := s.hub.cfg.Store.Events(ctx, s.q.Tenant, s.q.Run, at.Seq, finalTypes, 1)
	return err == nil && len(ends) == 0, err
}

// ends reports whether f is the end of the run as it is now.
func (s *subscription) ends(ctx context.Context, f *frame) (bool, error) {
	if !s.q.UntilFinal || !f.final() {
		return false, nil
	}
	r, err := s.hub.cfg.Store.Run(ctx, s.q.Tenant, s.q.Run)
	if err != nil {
		return false, err
	}
	return s.endsBefore(ctx, r.State, f.at)
}

// gap reports to the reader that the events after a cursor are missing, and where the
// stream continues.
func (s *subscription) gap(reason api.StreamControlReason, requested Cursor) {
	from, at := s.src.format(requested), s.src.format(s.pos)
	control := api.StreamControl{Requested: &from, Reason: &reason}
	if reason == api.StreamControlReasonExpired {
		control.Oldest = &at
	}
	s.conn.Frame(at, "stream.gap", control)
}

// trace records a short span: none is open as long as a stream.
func (s *subscription) trace(ctx context.Context, name string, reason api.StreamControlReason) {
	if s.q.Run != uuid.Nil {
		ctx = telemetry.WithScope(ctx, telemetry.Scope{RunID: run.RunID.Format(s.q.Run)})
	}
	_, span := otel.Tracer("nofx.dev/gateway/internal/stream").Start(ctx, name,
		trace.WithLinks(trace.Link{SpanContext: s.root}), trace.WithAttributes(
			attribute.String("nofx.stream", s.src.name()), attribute.String("nofx.cursor", s.src.format(s.pos)),
			attribute.String("nofx.reason", string(reason)), attribute.Int("nofx.sent", s.sent)))
	span.End()
}

// run delivers events until the stream has to end, and returns the reason, or an error when
// the reader has gone.
func (s *subscription) run(ctx context.Context) (api.StreamControlReason, error) {
	defer s.leave()
	for {
		frames, next, changed, err := s.next(ctx)
		if gap, lost := postgres.GapOf(err); lost {
			behind := s.pos
			s.pos = gap.From
			s.gap(api.StreamControlReason(gap.Reason), behind)
			next, changed, err = s.pos, always, nil
		}
		if err != nil {
			// The database is away. The reader need not notice.
			changed, next = nil, s.pos
		}
		for i, f := range frames {
			var end bool
			if end, err = s.ends(ctx, f); err != nil {
				frames, next = frames[:i], s.pos // it is asked again
				break
			}
			if s.q.wants(f) {
				s.conn.frame(f, s.src.format(f.at))
				s.hub.cfg.Metrics.SSEEventsSent.Inc(f.typ)
				s.sent++
			}
			s.pos = f.at
			if end {
				s.conn.Moved(s.src.format(s.pos))
				return api.StreamControlReasonFinal, nil
			}
		}
		if s.pos != next {
			s.pos = next
			s.conn.Moved(s.src.format(next))
		}
		if err := s.conn.Flush(); err != nil {
			return "", err
		}
		var poll time.Duration
		switch {
		case err != nil:
			poll = s.hub.cfg.Limits.PollIdle
		case changed != nil && len(frames) == 0: // caught up
			s.behind = time.Time{}
		case !s.behind.IsZero() && time.Since(s.behind) > s.hub.cfg.Limits.WriteTimeout:
			return api.StreamControlReasonSlowConsumer, nil
		default:
			changed = always // there may be more at once
		}
		if end, err := s.conn.Wait(changed, poll); end != "" || err != nil {
			return end, err
		}
	}
}

var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// next returns the next frames: from the database while it has full pages, then from the
// topic, and again from the database for a reader that fell out of the ring.
func (s *subscription) next(ctx context.Context) (frames []*frame, next Cursor, changed <-chan struct{}, err error) {
	if s.live != nil {
		frames, next, changed, ok := s.live.after(s.pos)
		if ok {
			return frames, next, changed, nil
		}
		s.leave()
		if s.behind.IsZero() {
			s.behind = time.Now()
		}
	}
	frames, next, more, err := s.src.read(ctx, s.hub.cfg.Store, s.pos, s.q.filter())
	if err == nil && !more {
		s.live = s.hub.join(s.src, next)
	}
	return frames, next, nil, err
}

func (s *subscription) leave() {
	if s.live != nil {
		s.hub.leave(s.live)
		s.live = nil
	}
}
