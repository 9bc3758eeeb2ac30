package postgres

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
)

// feedState is how far a feed is at one moment.
type feedState struct {
	epochs  []epoch // the current one last
	horizon int64   // transactions before this position have ended
	pruned  int64   // newest position of which an event was deleted; 0: none
}

// epoch is a row of nofx.feed_epoch.
type epoch struct {
	id    int32
	first int64
}

func (s feedState) current() int32 { return s.epochs[len(s.epochs)-1].id }

// head returns the cursor after all transactions that have ended.
func (s feedState) head() FeedCursor { return FeedCursor{Epoch: s.current(), XID: s.horizon} }

// resume returns the place of a cursor in the feed as it is now.
func (s feedState) resume(c FeedCursor) (FeedCursor, error) {
	oldest := FeedCursor{Epoch: s.current()}
	if s.pruned > 0 {
		oldest.XID = s.pruned + 1
	}
	if c == (FeedCursor{}) {
		return oldest, nil
	}
	i := slices.IndexFunc(s.epochs, func(e epoch) bool { return e.id == c.Epoch })
	if i < 0 {
		return c, gap("epoch", s.head(), "this cursor belongs to another database, or to another restored copy of this one; start without a cursor")
	}
	if next := i + 1; next < len(s.epochs) && c.XID >= s.epochs[next].first {
		c = FeedCursor{XID: s.epochs[next].first} // events between them are not in the dump
	}
	c.Epoch = s.current()
	switch {
	case c.XID > max(s.horizon, oldest.XID): // deleted events may be newer than the horizon
		return c, gap("ahead", s.head(), "no event follows this cursor, because its position no longer exists; start without a cursor")
	case c.XID < oldest.XID:
		return c, expired(oldest)
	}
	return c, nil
}

// errRestored says that an epoch has to begin before a feed can be read.
var errRestored = errors.New("the database was restored since the last epoch began")

// feed runs fn on one snapshot of a tenant's feed.
func (db *DB) feed(ctx context.Context, tenant uuid.UUID, fn func(pgx.Tx, feedState) error) error {
	read := func(tx pgx.Tx) error {
		s, err := readFeedState(ctx, tx, tenant)
		if err != nil {
			return err
		}
		return fn(tx, s)
	}
	err := db.snapshot(ctx, tenant, read)
	if !errors.Is(err, errRestored) {
		return err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.begin_epoch()")
		return err
	})
	if err != nil {
		return err
	}
	return db.snapshot(ctx, tenant, read)
}

func readFeedState(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (s feedState, err error) {
	var ids []int32
	var firsts []int64
	var base, xmin, xmax, newest int64
	var here bool
	err = tx.QueryRow(ctx, `SELECT e.ids, e.firsts, e.bases[1], e.here[1],
			pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
			coalesce((SELECT h.xid::text::bigint FROM nofx.event_horizon h WHERE h.tenant_id = $1), 0),
			coalesce((SELECT v.xid::text::bigint FROM nofx.event v WHERE v.tenant_id = $1 ORDER BY v.xid DESC LIMIT 1), 0)
		FROM (SELECT array_agg(id ORDER BY first) AS ids, array_agg(first ORDER BY first) AS firsts,
			array_agg(base ORDER BY first DESC) AS bases, array_agg(here ORDER BY first DESC) AS here FROM nofx.feed_epoch) AS e`,
		tenant).Scan(&ids, &firsts, &base, &here, &xmin, &xmax, &s.pruned, &newest)
	if err != nil {
		return s, err
	}
	if !here || newest >= base+xmax {
		return s, errRestored
	}
	s.horizon = base + xmin
	for i, id := range ids {
		s.epochs = append(s.epochs, epoch{id, firsts[i]})
	}
	return s, nil
}

// Gap is the reason why readers cannot continue from a cursor, and the cause of fault.Gone:
// retention deleted events after the cursor (expired), the feed has not reached the cursor
// (ahead), or the cursor is of another database (epoch). From is the cursor to continue
// from instead.
type Gap struct {
	Reason string
	From   FeedCursor
}

func (g Gap) Error() string { return "gap in the feed: " + g.Reason }

// GapOf returns the gap after the cursor that err refuses, and false for any other error.
func GapOf(err error) (Gap, bool) { return errors.AsType[Gap](err) }

// OldestKept returns the cursor to continue from if err refuses a cursor whose events were
// deleted by retention, and false for any other error.
func OldestKept(err error) (FeedCursor, bool) {
	g, ok := GapOf(err)
	return g.From, ok && g.Reason == "expired"
}

// expired returns the error of a cursor after which events were deleted.
func expired(oldest FeedCursor) error {
	return gap("expired", oldest, "events after this cursor were deleted at the end of their retention")
}

// gap returns the error fault.Gone (cursor-expired).
func gap(reason string, from FeedCursor, detail string) error {
	return fault.New(fault.Gone, "cursor-expired", "%s", detail).Because(Gap{reason, from})
}
