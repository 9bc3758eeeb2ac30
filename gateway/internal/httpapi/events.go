package httpapi

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

const maxEvents = 500 // of a page

var (
	// A reader of types that do not exist would wait for ever.
	eventTypes = shape{regexp.MustCompile(`^(` + strings.Join(run.EventNouns(), "|") + `)\.([a-z_]+|\*)$`),
		"a list of event types, separated by commas, such as run.succeeded or run.*; the nouns are " + strings.Join(run.EventNouns(), ", ")}
	runIDs = shape{regexp.MustCompile(`^run_[0-9a-f]{32}$`), "a list of run ids, separated by commas; an id is run_ and 32 digits of 0 to 9 and a to f"}
)

// listRunEvents answers the events of a run: a page, or a stream to a client that accepts
// text/event-stream.
func (s *Server) listRunEvents(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	req := stream.Request{Tenant: p.Tenant, Types: q.list("types", 50, eventTypes), Check: s.still(c, p)}
	limit := q.limit(maxEvents)
	req.UntilFinal = oneOf(q, "until", "final") != ""
	var cursor string
	if cursor, req.Resumed = q.resume(c); req.Resumed {
		req.After.Seq, q.cursor = stream.ParseSeq(cursor)
	}
	if err := q.err(); err != nil {
		return err
	}
	var err error
	if req.Run, err = pathID(c, run.RunID, "run_id"); err != nil {
		return err
	}
	if infoOf(c).stream {
		return s.Hub.Serve(c.Response(), c.Request(), req)
	}
	ctx := c.Request().Context()
	events, err := s.Store.Events(ctx, p.Tenant, req.Run, req.After.Seq, req.Types, limit)
	expired := withOldest(err, formatSeq)
	if oldest, lost := postgres.OldestKept(err); lost && !req.Resumed {
		// Without a cursor the page begins with the oldest event that is kept, if any.
		req.After = oldest
		events, err = s.Store.Events(ctx, p.Tenant, req.Run, req.After.Seq, req.Types, limit)
	}
	if err != nil {
		return withOldest(err, formatSeq)
	}
	next := req.After.Seq
	switch n := len(events); {
	case n > 0:
		next = events[n-1].Seq
	case next > 0: // nothing new, or a place that never was
		r, err := s.Store.Run(ctx, p.Tenant, req.Run)
		if err != nil {
			return err
		}
		if next > r.EventSeq {
			return cursorExpired()
		}
		if expired != nil && next == r.EventSeq {
			return expired
		}
	}
	return answerEvents(c, events, len(events) == limit, stream.FormatSeq(next))
}

// listEvents answers the events of all runs of the tenant, as listRunEvents does.
func (s *Server) listEvents(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	req := stream.Request{
		Tenant: p.Tenant, Types: q.list("types", 50, eventTypes), Project: q.slug("project"), Runs: q.runs("run"),
		Check: s.still(c, p),
	}
	limit := q.limit(maxEvents)
	var cursor string
	if cursor, req.Resumed = q.resume(c); req.Resumed {
		req.After, q.cursor = stream.ParseFeed(cursor)
	}
	if err := q.err(); err != nil {
		return err
	}
	if infoOf(c).stream {
		return s.Hub.Serve(c.Response(), c.Request(), req)
	}
	filter := postgres.FeedFilter{Runs: req.Runs, Types: req.Types, Project: req.Project, Within: searchWithin}
	events, next, err := s.Store.Feed(c.Request().Context(), p.Tenant, filter, req.After, limit)
	if err != nil {
		return withOldest(err, stream.FormatFeed)
	}
	return answerEvents(c, events, !next.AtHead(), stream.FormatFeed(next))
}

// resume returns the cursor to go on from; Last-Event-ID has precedence over after.
func (q *query) resume(c echo.Context) (cursor string, given bool) {
	cursor, given = q.text("after")
	if last := c.Request().Header.Get("Last-Event-ID"); last != "" {
		return last, true
	}
	return cursor, given
}

// runs returns the runs that a feed is limited to.
func (q *query) runs(name string) (ids []uuid.UUID) {
	for _, s := range q.list(name, 50, runIDs) {
		if id, err := run.RunID.Parse(s); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

func cursorExpired() error {
	return fault.New(fault.Gone, "cursor-expired", "no event follows this cursor, because its position no longer exists; start without a cursor")
}

func formatSeq(c stream.Cursor) string { return stream.FormatSeq(c.Seq) }

// lostEvents is the error of a cursor behind which events were deleted, with the one from
// which clients can go on.
type lostEvents struct {
	error
	oldest string
}

func (l lostEvents) Unwrap() error { return l.error }

// withOldest returns err, as lostEvents where it is of a cursor that has lost some.
func withOldest(err error, format func(stream.Cursor) string) error {
	if oldest, lost := postgres.OldestKept(err); lost {
		return lostEvents{err, format(oldest)}
	}
	return err
}

// answerEvents answers a page of events, with a link to the next one where more is set.
func answerEvents(c echo.Context, events []run.Event, more bool, next string) error {
	if more {
		linkNext(c, "after", next)
	}
	return answer(c, http.StatusOK, api.EventPage{Items: convert(events, stream.Envelope), NextCursor: next})
}

// followsLog reports whether the caller wants to see a log grow.
func followsLog(r *http.Request) bool {
	return r.Method != http.MethodHead && strings.Contains(r.URL.RawQuery, "follow") && r.URL.Query().Get("follow") == "1"
}
