package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// manyEvents gives a run n events more, of some transactions before its own; every
// thousandth is a waiver.
func (s *store) manyEvents(t testing.TB, r run.Run, n int) {
	t.Helper()
	s.exec(t, `INSERT INTO nofx.event (tenant_id, run_id, seq, type, event, from_state, to_state, data, actor, trace_id, xid)
		SELECT e.tenant_id, e.run_id, 100 + g, CASE g % 1000 WHEN 0 THEN 'gate.waived' ELSE 'step.succeeded' END, 'succeed', 'running', 'succeeded', '{"attempt":1}', 'w', e.trace_id,
			(e.xid::text::bigint - g % 50)::text::xid8
		FROM generate_series(1, $2) g, nofx.event e WHERE e.run_id = $1 AND e.seq = 1`, r.ID, n)
	s.exec(t, "VACUUM ANALYZE nofx.event")
}

// A search of the feed without end says how far it came, and a reader who goes on sees
// every event that is wanted once.
func TestFeedSearchPauses(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.exec(t, "INSERT INTO nofx.project (tenant_id, id, slug) VALUES ($1, $2, 'other')", s.tenant, uuid.New())
	many, _ := s.create(t, "a:")
	s.manyEvents(t, many, 45_000)
	few, _, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "other", Plan: plan(t, "a:"), CreatedBy: "x"})
	if err != nil {
		t.Fatal(err)
	}
	s.untilFed(t)
	for _, tt := range []struct {
		name   string
		filter postgres.FeedFilter
		want   int
	}{
		{"few of them", postgres.FeedFilter{Types: []string{"gate.waived"}}, 45},
		{"a family", postgres.FeedFilter{Types: []string{"gate.*", "run.created"}}, 47},
		{"none", postgres.FeedFilter{Types: []string{"gate.none"}}, 0},
		{"a run", postgres.FeedFilter{Runs: []uuid.UUID{few.ID}}, 2},
		{"a project", postgres.FeedFilter{Project: "other"}, 2},
		{"a project and a type", postgres.FeedFilter{Project: "other", Types: []string{"step.*"}}, 1},
		{"no such project", postgres.FeedFilter{Project: "none"}, 0},
	} {
		for _, limit := range []int{7, 500} { // of the first, a full page may end each slice
			var at postgres.FeedCursor
			seen := map[string]int{}
			pages, paused := 0, 0
			for ; !at.AtHead() || pages == 0; pages++ {
				list, next, err := s.Feed(s.ctx, s.tenant, tt.filter, at, limit)
				if err != nil || len(list) > limit {
					t.Fatalf("Feed(%+v) = %d events, %v, want at most %d", tt.filter, len(list), err, limit)
				}
				for _, e := range list {
					seen[fmt.Sprint(e.RunID, " ", e.Seq)]++
				}
				if len(list) < limit && !next.AtHead() {
					paused++
				}
				at = next
			}
			for e, n := range seen {
				if n > 1 {
					t.Errorf("%s: event %s came %d times", tt.name, e, n)
				}
			}
			if len(seen) != tt.want || tt.filter.Project != "none" && limit > tt.want && paused == 0 {
				t.Errorf("%s, by pages of %d: %d events on %d pages, %d of which ended early; want %d and some that did", tt.name, limit, len(seen), pages, paused, tt.want)
			}
		}
		f := tt.filter
		f.Within = time.Minute
		if list, next, err := s.Feed(s.ctx, s.tenant, f, postgres.FeedCursor{}, 500); err != nil || len(list) != tt.want || !next.AtHead() {
			t.Errorf("%s, with time: %d events, at the head %v, %v, want %d and the head", tt.name, len(list), next.AtHead(), err, tt.want)
		}
	}
}

// The same of gates.
func TestGateSearchPauses(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "m:")
	id := s.do(t, steps["m"].ID, "approval").Gate.ID
	s.exec(t, "ALTER TABLE nofx.gate DISABLE TRIGGER ALL") // gates of no story, and no events of them
	s.exec(t, `INSERT INTO nofx.gate (tenant_id, id, run_id, step_id, round, name, kind, state, input_digest, trace_id)
		SELECT tenant_id, gen_random_uuid(), run_id, step_id, 10 + n, CASE n % 1000 WHEN 0 THEN 'rare' ELSE 'unit' END, 'command', 'pending', 'x', trace_id
		FROM nofx.gate, generate_series(1, 45000) n WHERE id = $1`, id)
	s.exec(t, "VACUUM ANALYZE nofx.gate")
	for _, tt := range []struct {
		filter postgres.GateFilter
		want   int
	}{
		{postgres.GateFilter{Name: "rare"}, 45},
		{postgres.GateFilter{Name: "rare", State: run.Pending, Project: "default"}, 45},
		{postgres.GateFilter{Name: "ok", Kind: run.ManualGate, State: run.Pending}, 1},
		{postgres.GateFilter{Kind: run.ManualGate}, 1},
		{postgres.GateFilter{Name: "none"}, 0},
		{postgres.GateFilter{Project: "none"}, 0},
	} {
		for _, limit := range []int{7, 200} {
			f := tt.filter
			f.Limit = limit
			var ids []string
			paused := 0
			for {
				list, more, err := s.Gates(s.ctx, s.tenant, f)
				if err != nil || len(list) > limit {
					t.Fatalf("Gates(%+v) = %d, %v, want at most %d", f, len(list), err, limit)
				}
				for _, g := range list {
					ids = append(ids, g.ID.String())
				}
				if more == nil {
					break
				}
				if len(list) < limit {
					paused++
				}
				f.After = more
			}
			if len(ids) != tt.want || !slices.IsSorted(ids) || len(slices.Compact(ids)) != tt.want || f.Project != "none" && limit > tt.want && paused == 0 {
				t.Errorf("Gates(%+v) by pages = %d gates, %d pages ended early; want %d, oldest first, and some that did", f, len(ids), paused, tt.want)
			}
		}
	}
}

// Searches of a tenant wait for each other and then give up, those of others go on, and
// so do those of all together.
func TestSearchSlots(t *testing.T) {
	t.Parallel()
	acquire := postgres.NewSearches(16) // 8 for all, 2 for each
	tenants := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	var releases []func()
	for _, tenant := range tenants[:4] {
		for range 2 {
			release, err := acquire(t.Context(), tenant)
			if err != nil {
				t.Fatalf("acquire of a free slot = %v, want nil", err)
			}
			releases = append(releases, release)
		}
	}
	_, err := acquire(t.Context(), tenants[0])
	if e := wantKind(t, "acquire of a tenant that has two", err, fault.RateLimited, "rate-limited"); e.RetryAfter == 0 {
		t.Error("it says not when to come back")
	}
	_, err = acquire(t.Context(), tenants[4])
	if e := wantKind(t, "acquire when all are taken", err, fault.Unavailable, "unavailable"); e.RetryAfter == 0 {
		t.Error("it says not when to come back")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := acquire(gone, tenants[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("acquire of a caller who left = %v, want canceled", err)
	}
	waits := make(chan error)
	go func() {
		release, err := acquire(t.Context(), tenants[0])
		if err == nil {
			release()
		}
		waits <- err
	}()
	for _, release := range releases {
		release()
	}
	if err := <-waits; err != nil {
		t.Errorf("acquire while one is given back = %v, want nil", err)
	}
}
