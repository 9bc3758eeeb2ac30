package postgres

import (
	"context"

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

// FeedFilter selects events of a feed; a zero field selects all.
type FeedFilter struct {
	Runs    []uuid.UUID
	Types   []string // as in Events
	Project string   // slug
}

// FeedHead is the place from which on nothing is missed that commits from now.
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
func (db *DB) Feed(ctx context.Context, tenant uuid.UUID, f FeedFilter, after FeedCursor, limit int) (list []run.Event, next FeedCursor, err error) {
	err = db.feed(ctx, tenant, func(tx pgx.Tx, s feedState) error {
		at, err := s.resume(after)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+eventColumns(projectOfEvent)+`
			WHERE e.tenant_id = $1 AND (e.xid, e.run_id, e.seq) > ($2::bigint::text::xid8, $3, $4) AND e.xid < $5::bigint::text::xid8
			  AND e.type LIKE ANY ($6) AND ($7::uuid[] IS NULL OR e.run_id = ANY ($7))
			  AND ($8 = '' OR e.run_id IN (SELECT r.id FROM nofx.run r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
			                               WHERE r.tenant_id = $1 AND p.slug = $8))
			ORDER BY e.xid, e.run_id, e.seq LIMIT $9`,
			tenant, at.XID, at.Run, at.Seq, s.horizon, likePatterns(f.Types), f.Runs, f.Project, limit)
		if err != nil {
			return err
		}
		if list, err = pgx.CollectRows(rows, scanEvent); err != nil {
			return err
		}
		next = at
		switch {
		case len(list) == limit:
			last := list[len(list)-1]
			next = FeedCursor{at.Epoch, last.XID, last.RunID, last.Seq}
		case s.horizon > at.XID:
			next = s.head() // nothing of a transaction before it is left
		}
		return nil
	})
	return list, next, err
}

const projectOfEvent = `(SELECT p.slug FROM nofx.run r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
	WHERE r.tenant_id = e.tenant_id AND r.id = e.run_id)`
