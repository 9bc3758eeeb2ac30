package postgres_test

import (
	"fmt"
	"sync"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// feedReader follows the feed of a tenant and notes how often it saw each event.
type feedReader struct {
	at   postgres.FeedCursor
	seen map[string]int
}

func newFeedReader() *feedReader { return &feedReader{seen: map[string]int{}} }

// read reads on, at most so many pages of three events, to the end of the feed.
func (f *feedReader) read(t *testing.T, s *store, pages int) {
	t.Helper()
	for range pages {
		list, next, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, f.at, 3)
		if err != nil {
			t.Fatalf("Feed(%+v) = %v", f.at, err)
		}
		for _, e := range list {
			f.seen[fmt.Sprint(e.RunID, " ", e.Seq)]++
		}
		if f.at = next; len(list) == 0 {
			return
		}
	}
}

const wholeFeed = 1_000_000

// wantAll fails unless the reader saw every event of the database once.
func (f *feedReader) wantAll(t *testing.T, s *store, who string) {
	t.Helper()
	missing := 0
	events := all[string](t, s, "SELECT run_id::text || ' ' || seq FROM nofx.event")
	for _, e := range events {
		if f.seen[e] == 0 {
			missing++
		}
	}
	doubled := 0
	for _, n := range f.seen {
		doubled += n - 1
	}
	if missing+doubled > 0 {
		t.Errorf("a reader that %s saw %d of %d events, %d of them again, want each once", who, len(events)-missing, len(events), doubled)
	}
}

// restored returns s after its database was dumped and restored elsewhere.
func (s *store) restored(t *testing.T) *store {
	t.Helper()
	d := s.Database.Restore(t)
	return &store{Database: d, DB: d.Open(t, postgres.Config{MaxConns: 10}), tenant: s.tenant, ctx: s.ctx}
}

// Cursors of before a dump go on in the database that it was restored into, whose
// transaction ids are lower: no event is lost or comes twice, whether the first to come
// is a reader or many writers at once, and after a second restore as well.
func TestFeedOfARestoredDatabase(t *testing.T) {
	t.Parallel()
	for name, readFirst := range map[string]bool{"read first": true, "written first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			s.SpendIDs(t)
			old := s.ended(t)
			s.create(t, "a:", "b:")
			s.untilFed(t)
			begins, halfway, atEnd := newFeedReader(), newFeedReader(), newFeedReader()
			readers := map[string]*feedReader{"began after the restore": begins, "was halfway": halfway, "was at the end": atEnd}
			halfway.read(t, s, 1)
			atEnd.read(t, s, wholeFeed)
			first := atEnd.at

			r := s.restored(t)
			if readFirst {
				for _, f := range readers {
					f.read(t, r, 2)
				}
			}
			var writers sync.WaitGroup
			for range 8 {
				writers.Go(func() {
					if _, _, err := r.CreateRun(r.ctx, r.tenant, postgres.NewRun{Project: "default", Plan: plan(t, "a:"), CreatedBy: "x"}); err != nil {
						t.Errorf("CreateRun() in the restored database = %v", err)
					}
				})
			}
			writers.Wait()
			for range 2 {
				r.create(t, "a:")
				r.untilFed(t)
				for who, f := range readers {
					f.read(t, r, wholeFeed)
					f.wantAll(t, r, who)
				}
				if readFirst {
					break
				}
				r = r.restored(t)
			}
			_, _, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, atEnd.at, 3)
			wantKind(t, "Feed(of a cursor that the restored database made)", err, fault.Gone, "cursor-expired")
			if gap, _ := postgres.GapOf(err); gap.Reason != "epoch" || gap.From.Epoch != first.Epoch {
				t.Errorf("GapOf() = %+v, want that it is of another epoch", gap)
			}

			r.age(t, 31, old.ID)
			r.prune(t, 1000, old.ID)
			_, _, err = r.Feed(r.ctx, r.tenant, postgres.FeedFilter{}, postgres.FeedCursor{Epoch: first.Epoch, XID: 1}, 3)
			oldest, lost := postgres.OldestKept(err)
			if !lost {
				t.Errorf("Feed(of a cursor before what was deleted) = %v, want that events are lost", err)
			}
			kept := newFeedReader()
			kept.at = oldest
			kept.read(t, r, wholeFeed)
			kept.wantAll(t, r, "begins with the oldest kept")
			if list, _, err := r.Feed(r.ctx, r.tenant, postgres.FeedFilter{}, atEnd.at, 3); err != nil || len(list) != 0 {
				t.Errorf("Feed(at the end) after retention = %d events, %v, want none", len(list), err)
			}
		})
	}
}

// Positions that no transaction has reached do not stop a feed, however they came to be
// there.
func TestFeedBehindItsEvents(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.create(t, "a:")
	s.exec(t, "UPDATE nofx.event SET xid = (xid::text::bigint + 1000000000)::text::xid8")
	f := newFeedReader()
	f.read(t, s, wholeFeed)
	f.wantAll(t, s, "began with events of before")
	s.create(t, "a:")
	s.untilFed(t)
	f.read(t, s, wholeFeed)
	f.wantAll(t, s, "went on from there")
}
