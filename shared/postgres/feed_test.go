package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A cursor over the feed of a tenant loses nothing and doubles nothing, while
// sixteen writers commit and roll back in any order.
func TestFeedUnderWriters(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 18})
	p := plan(t, "a:", "b: a", "c: a")
	undo := errors.New("roll back")
	var writers sync.WaitGroup
	for n := range 16 {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		writers.Go(func() {
			for i := range 25 {
				fail := r.IntN(4) == 0
				_, _, err := s.Idempotent(s.ctx, s.tenant, postgres.IdempotencyKey{Scope: "x", Key: fmt.Sprint(n, i)}, func(ctx context.Context) (postgres.Answer, error) {
					made, steps, err := s.CreateRun(ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "x"})
					if err == nil && r.IntN(2) == 0 { // a longer transaction, that commits after later ones
						_, err = s.Claim(ctx, wakeUp(s.tenant, steps[0].ID, 1), postgres.Worker{ID: "w"}, ttl, noCheckpoint)
					}
					if err == nil && r.IntN(3) == 0 {
						_, err = s.CancelRun(ctx, s.tenant, made.ID, postgres.Verb{Reason: "enough"})
					}
					if err == nil && fail {
						err = undo
					}
					return postgres.Answer{Status: 200}, err
				})
				if err != nil && !errors.Is(err, undo) {
					t.Errorf("writer: %v", err)
				}
			}
		})
	}
	quiet := make(chan struct{})
	go func() { writers.Wait(); close(quiet) }()

	type place struct {
		run uuid.UUID
		seq int64
	}
	seen := map[place]int{}
	last := map[uuid.UUID]int64{}
	var cursor postgres.FeedCursor
	for done := false; ; {
		list, next, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, cursor, 37)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			seen[place{e.RunID, e.Seq}]++
			if e.Seq != last[e.RunID]+1 {
				t.Errorf("run %s: event %d after %d in the feed", e.RunID, e.Seq, last[e.RunID])
			}
			last[e.RunID] = e.Seq
		}
		cursor = next
		if done && len(list) == 0 {
			break
		}
		select {
		case <-quiet:
			s.behindHorizon(t)
			done = true
		default:
		}
	}
	want := one[int](t, s, "SELECT count(*) FROM nofx.event")
	doubled := 0
	for _, n := range seen {
		doubled += n - 1
	}
	if len(seen) != want || doubled != 0 {
		t.Errorf("feed: %d events, %d of them doubled, want %d and none", len(seen), doubled, want)
	}
	t.Logf("%d events of %d runs", want, len(last))
}

// The events of a run are in the feed in the order of their seqs, also when a
// transaction that is older by its id got the run's lock after a newer one.
func TestFeedKeepsTheOrderOfARun(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, _ := s.create(t, "a:", "b: a")
	s.behindHorizon(t)
	head, err := s.FeedHead(s.ctx, s.tenant)
	if err != nil {
		t.Fatal(err)
	}
	older, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer older.Rollback(s.ctx) //nolint:errcheck // after the commit there is nothing to do
	if _, err := older.Exec(s.ctx, "SELECT pg_current_xact_id(), set_config('nofx.tenant_id', $1, true)", s.tenant.String()); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []func(context.Context, uuid.UUID, uuid.UUID, postgres.Verb) (run.Run, error){s.PauseRun, s.ResumeRun, s.PauseRun} {
		if _, err := verb(s.ctx, s.tenant, r.ID, postgres.Verb{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := older.Exec(s.ctx, "SELECT nofx.end_run($1, 'cancel', 'enough', NULL, 'cancelled')", r.ID); err != nil {
		t.Fatal(err)
	}
	if err := older.Commit(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.behindHorizon(t)
	list, _, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{Runs: []uuid.UUID{r.ID}}, head, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for _, e := range list {
		got = append(got, e.Seq)
	}
	if want := []int64{3, 4, 5, 6, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("seqs in the feed = %v, want %v", got, want)
	}
}

// behindHorizon waits until every event is old enough for the feed: a
// transaction in any database of the server may hold it back for a moment.
func (s *store) behindHorizon(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !one[bool](t, s, "SELECT NOT EXISTS (SELECT FROM nofx.event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()))") {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the feed's horizon does not move on")
		}
	}
}

// What the filters of the feed and of a run's events select, and that a cursor
// passes over the rest.
func TestFeedFilters(t *testing.T) {
	t.Parallel()
	s := setup(t)
	head, err := s.FeedHead(s.ctx, s.tenant)
	if err != nil {
		t.Fatal(err)
	}
	one, steps := s.create(t, "a:")
	s.do(t, steps["a"].ID, "succeed")
	two, _ := s.create(t, "a:")
	s.behindHorizon(t)
	for _, tt := range []struct {
		filter postgres.FeedFilter
		want   int
	}{
		{postgres.FeedFilter{}, 8},
		{postgres.FeedFilter{Runs: []uuid.UUID{two.ID}}, 2},
		{postgres.FeedFilter{Types: []string{"run.*"}}, 4},
		{postgres.FeedFilter{Types: []string{"run.created", "step.ready"}}, 4},
		{postgres.FeedFilter{Types: []string{"%"}}, 0},
		{postgres.FeedFilter{Types: []string{"run_created"}}, 0},
		{postgres.FeedFilter{Project: "default"}, 8},
		{postgres.FeedFilter{Project: "other"}, 0},
	} {
		list, next, err := s.Feed(s.ctx, s.tenant, tt.filter, head, 100)
		if err != nil || len(list) != tt.want {
			t.Errorf("Feed(%+v) = %d events, %v, want %d", tt.filter, len(list), err, tt.want)
		}
		if rest, _, err := s.Feed(s.ctx, s.tenant, postgres.FeedFilter{}, next, 100); err != nil || len(rest) != 0 {
			t.Errorf("Feed(%+v) left %d events behind its cursor, %v, want none", tt.filter, len(rest), err)
		}
	}
	events, err := s.Events(s.ctx, s.tenant, one.ID, 2, []string{"step.*"}, 2)
	if err != nil || len(events) != 2 || events[0].Type != "step.running" || events[0].StepName != "a" || events[1].Seq != 5 {
		t.Errorf("Events(after 2, step.*) = %+v, %v, want running and succeeded", events, err)
	}
	if _, err := s.Events(s.ctx, s.tenant, uuid.New(), 0, nil, 1); !errors.Is(err, fault.NotFound) {
		t.Errorf("Events(unknown run) = %v, want not found", err)
	}
}
