package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// FeedCursor is a place in a tenant's feed: after this event at the position XID,
// which is the id of its transaction plus the base of its epoch. Transactions that
// were still running when the cursor was made come after it.
type FeedCursor struct {
	Epoch int32 // the current one when the cursor was made
	XID   int64
	Run   uuid.UUID
	Seq   int64
}

// AtHead reports whether c, which a read returned, is after all events at that time.
func (c FeedCursor) AtHead() bool { return c.Run == uuid.Nil }

// FeedFilter selects events of a feed; a zero field selects all.
type FeedFilter struct {
	Runs    []uuid.UUID
	Types   []string // as in Events
	Project string   // slug

	Within time.Duration // how long to look
}

func (f FeedFilter) searching() bool { return len(f.Runs)+len(f.Types) > 0 || f.Project != "" }

// FeedHead returns the place in a tenant's feed after which all events come that commit
// from now on.
func (db *DB) FeedHead(ctx context.Context, tenant uuid.UUID) (c FeedCursor, err error) {
	err = db.feed(ctx, tenant, func(_ pgx.Tx, s feedState) error {
		c = s.head()
		return nil
	})
	return c, err
}

// Feed lists the events of a tenant after a cursor, over all its runs, and the
// cursor to go on from, which advances past what the filter skipped. It stays
// behind the oldest transaction still running: a cursor over a plain sequence
// skips what commits late (RELIABILITY.md, R9). The zero cursor is before the
// oldest event of the feed, which begins behind the newest one that was deleted.
// Any other cursor before that is fault.Gone (cursor-expired), as is one that this
// feed has never reached; see [GapOf].
//
// A search that finds little among many events ends after f.Within with what it
// found, perhaps nothing, and next is not yet [FeedCursor.AtHead].
func (db *DB) Feed(ctx context.Context, tenant uuid.UUID, f FeedFilter, after FeedCursor, limit int) (list []run.Event, next FeedCursor, err error) {
	if f.searching() {
		release, err := db.searches.acquire(ctx, tenant)
		if err != nil {
			return nil, after, err
		}
		defer release()
	}
	began := time.Now()
	err = db.feed(ctx, tenant, func(tx pgx.Tx, s feedState) error {
		at, err := s.resume(after)
		if err != nil {
			return err
		}
		list, next = nil, at
		if s.horizon > at.XID {
			next = s.head() // no event of an earlier transaction can be missing
		}
		project, known, err := projectID(ctx, tx, tenant, f.Project)
		if err != nil || !known {
			return err
		}
		scan := f.scan(tenant, project, s.horizon)
		for {
			found, err := scan.next(ctx, tx, at, limit-len(list))
			if err != nil {
				return err
			}
			if list = append(list, found...); len(list) == limit {
				last := list[limit-1]
				next = FeedCursor{at.Epoch, last.XID, last.RunID, last.Seq}
				return nil
			}
			end, err := scan.end(ctx, tx)
			if err != nil || end == nil {
				return err
			}
			at.XID, at.Run, at.Seq = end.XID, end.Run, end.Seq
			if time.Since(began) > f.Within {
				next = at
				return nil
			}
		}
	})
	return list, next, err
}

// feedSlice is the number of events that one statement reads, more than a page has. Events
// are wide, and their index does not have all columns of the filters.
const feedSlice = 5_000

// feedScan reads events in the order of the feed's index, a slice at a time, as
// scan reads runs.
type feedScan struct {
	args  []any  // $1 is the tenant, $2 to $4 after which event, $5 before which position
	sql   string // the events that are wanted
	slice string // selects the places of events; "": all events are wanted
}

const eventSlice = ` FROM nofx.event e
	WHERE e.tenant_id = $1 AND (e.xid, e.run_id, e.seq) > ($2::bigint::text::xid8, $3, $4) AND e.xid < $5::bigint::text::xid8
	ORDER BY e.xid, e.run_id, e.seq`

func (f FeedFilter) scan(tenant uuid.UUID, project *uuid.UUID, horizon int64) *feedScan {
	q := &query{args: []any{tenant, nil, nil, nil, horizon}}
	s := &feedScan{}
	where, ofProject := " WHERE true", ""
	if f.searching() {
		s.slice = "SELECT e.xid::text::bigint, e.run_id, e.seq" + eventSlice
	}
	if len(f.Types) > 0 {
		where += " AND e.type LIKE ANY (" + q.arg(likePatterns(f.Types)) + ")"
	}
	if len(f.Runs) > 0 {
		where += " AND e.run_id = ANY (" + q.arg(f.Runs) + ")"
	}
	if project != nil {
		ofProject = " AND r.project_id = " + q.arg(*project)
	}
	s.sql = "SELECT " + eventColumns("r.slug") + " FROM (SELECT e.*" + eventSlice + fmt.Sprintf(" LIMIT %d", feedSlice) + `) AS e
		JOIN LATERAL (SELECT p.slug FROM nofx.run r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
			WHERE r.tenant_id = $1 AND r.id = e.run_id` + ofProject + ` OFFSET 0) AS r ON true
		LEFT JOIN LATERAL (SELECT s.name FROM nofx.step s WHERE s.tenant_id = $1 AND s.id = e.step_id OFFSET 0) AS s ON true` +
		where + " ORDER BY e.xid, e.run_id, e.seq LIMIT "
	s.args = q.args
	return s
}

// next reads at most limit events of the slice after a cursor.
func (s *feedScan) next(ctx context.Context, tx pgx.Tx, after FeedCursor, limit int) ([]run.Event, error) {
	s.args[1], s.args[2], s.args[3] = after.XID, after.Run, after.Seq
	rows, err := tx.Query(ctx, s.sql+strconv.Itoa(limit), s.args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanEvent)
}

// end returns where the slice that next has read ends, nil when it was not full.
func (s *feedScan) end(ctx context.Context, tx pgx.Tx) (*FeedCursor, error) {
	if s.slice == "" {
		return nil, nil
	}
	var c FeedCursor
	err := tx.QueryRow(ctx, fmt.Sprintf("%s OFFSET %d LIMIT 1", s.slice, feedSlice-1), s.args[:5]...).Scan(&c.XID, &c.Run, &c.Seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &c, err
}
