package httpapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// TestSearchesLeaveRoom checks that the searches of one tenant, however long they
// take and however many there are, leave connections for the requests of others.
func TestSearchesLeaveRoom(t *testing.T) {
	for table, path := range map[string]string{"event": "/api/events?types=gate.waived", "gate": "/api/gates?name=none", "run_search": "/api/runs?tool=none"} {
		t.Run(path, func(t *testing.T) {
			g := newGateway(t)
			other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleViewer)}
			g.gate(g.claim(g.create(plan(manual)).Steps[0])) // something of each to look at
			unlock := g.lock(table)
			const searches = 40
			var answered, refused atomic.Int32
			var wg sync.WaitGroup
			for range searches {
				wg.Go(func() {
					r := g.get(path)
					answered.Add(1)
					if r.status == http.StatusTooManyRequests {
						refused.Add(1)
						if r.header.Get("Retry-After") == "" {
							t.Error("429 without Retry-After")
						}
					} else if r.status != http.StatusOK {
						t.Errorf("GET %s = %d %s, want 200 or 429", path, r.status, r.body)
					}
				})
			}
			g.eventually("the searches have all connections that they may have", func() bool {
				return g.blocked() == g.cfg.Store.Pool().Config().MaxConns || answered.Load() > searches/2
			})
			if r := g.get("/api/whoami", other); r.status != http.StatusOK {
				t.Errorf("another tenant's GET /api/whoami = %d %s, want 200", r.status, r.body)
			}
			if r := g.get("/api/runs", other); r.status != http.StatusOK {
				t.Errorf("another tenant's GET /api/runs = %d %s, want 200", r.status, r.body)
			}
			unlock()
			wg.Wait()
			if n := refused.Load(); n == 0 || n == searches {
				t.Errorf("%d of %d searches were refused, want some", n, searches)
			}
			g.want(g.get(path), http.StatusOK, "")
		})
	}
}

// TestSearchingStreamsLeaveRoom checks the same of streams with a filter.
func TestSearchingStreamsLeaveRoom(t *testing.T) {
	g := newGateway(t)
	g.create(oneStep)
	g.behindHorizon()
	other := header{"Authorization": "Bearer " + g.newKey(g.pg.Tenant(t), api.RoleViewer)}
	unlock := g.lock("step") // which the search for events alone reads here
	var streams []*frames
	for range 20 {
		f := g.follow("/api/events?types=step.ready")
		if got := f.next(); got.Event != "stream.ready" {
			t.Fatalf("first frame = %+v, want stream.ready", got)
		}
		streams = append(streams, f)
	}
	for range 5 {
		if r := g.get("/api/runs", other); r.status != http.StatusOK {
			t.Errorf("another tenant's GET /api/runs = %d %s, want 200", r.status, r.body)
		}
	}
	unlock()
	for _, f := range streams {
		if got := f.next(); got.Event != "step.ready" {
			t.Errorf("second frame = %+v, want step.ready", got)
		}
	}
}

// TestOthersBesideSearches measures how long a tenant's requests take while another
// asks 40 times at once for what few of its events are, with NOFX_TEST_EVENTS events
// (60,000 if unset) to look at. All of them are answered.
func TestOthersBesideSearches(t *testing.T) {
	events, asked := 60_000, 40
	if n, err := strconv.Atoi(os.Getenv("NOFX_TEST_EVENTS")); err == nil {
		events, asked = n, 400
	}
	g := newGateway(t)
	g.cfg.Store = g.pg.Open(t, postgres.Config{MaxConns: 16, Role: postgres.GatewayRole})
	server, err := New(g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.http = httptest.NewServer(server)
	defer g.http.Close()

	other := g.pg.Tenant(t)
	mine := header{"Authorization": "Bearer " + g.newKey(other, api.RoleOperator)}
	for range 20 {
		g.want(g.do(http.MethodPost, "/api/runs", oneStep, mine), http.StatusCreated, "")
	}
	id := uuidOf(g, run.RunID, g.create(oneStep).Run.ID)
	if _, err := g.pg.Admin.Exec(t.Context(), `INSERT INTO nofx.event (tenant_id, run_id, seq, type, event, from_state, to_state, data, actor, trace_id, xid)
		SELECT e.tenant_id, e.run_id, 100 + n, 'step.succeeded', 'succeed', 'running', 'succeeded', '{"attempt":1}', 'w', e.trace_id, e.xid
		FROM generate_series(1, $2) n, nofx.event e WHERE e.run_id = $1 AND e.seq = 1`, id, events); err != nil {
		t.Fatal(err)
	}
	if _, err := g.pg.Admin.Exec(t.Context(), "VACUUM ANALYZE nofx.event"); err != nil {
		t.Fatal(err)
	}
	p95 := func() time.Duration {
		took := make([]time.Duration, asked)
		for i := range took {
			began := time.Now()
			if r := g.get("/api/runs?limit=20", mine); r.status != http.StatusOK {
				t.Errorf("another tenant's GET /api/runs = %d %s, want 200", r.status, r.body)
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[asked*95/100]
	}
	g.want(g.get("/api/events"), http.StatusOK, "") // the gateway knows both keys, and the pool has a connection
	p95()
	alone := p95()
	var over atomic.Bool
	var pages, refused atomic.Int32
	var clients sync.WaitGroup
	for range 40 {
		clients.Go(func() {
			for path := "/api/events?types=gate.waived"; !over.Load(); {
				switch r := g.get(path); r.status {
				case http.StatusOK:
					pages.Add(1)
					path = "/api/events?types=gate.waived&after=" + decodeAs[api.EventPage](t, r).NextCursor
					if r.header.Get("Link") == "" {
						path = "/api/events?types=gate.waived"
					}
				case http.StatusTooManyRequests:
					refused.Add(1)
				}
			}
		})
	}
	g.eventually("a search is answered", func() bool { return pages.Load() > 0 })
	beside := p95()
	over.Store(true)
	clients.Wait()
	alone = (alone + p95()) / 2 // what else the machine does changes meanwhile
	t.Logf("%d events, 40 searches at once: another tenant's p95 is %s, %s without them, %.1f times; %d pages, %d refused",
		events, beside.Round(time.Microsecond), alone.Round(time.Microsecond), float64(beside)/float64(alone), pages.Load(), refused.Load())
}

// lock blocks whoever reads a row of a table, until unlock is called. It takes no lock
// of the table: that has a transaction id, which would hold up the feeds of all tests.
func (g *gateway) lock(table string) (unlock func()) {
	g.Helper()
	for _, sql := range []string{
		"DO $$ BEGIN EXECUTE format('ALTER ROLE nofx_gateway IN DATABASE %I SET lock_timeout = 0', current_database()); END $$",
		"DO $$ BEGIN EXECUTE format('ALTER ROLE nofx_gateway IN DATABASE %I SET statement_timeout = 0', current_database()); END $$",
		`CREATE FUNCTION public.passes() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END $$`,
		"CREATE POLICY passes ON nofx." + table + " AS RESTRICTIVE FOR SELECT TO nofx_app USING (public.passes())",
	} {
		if _, err := g.pg.Admin.Exec(g.Context(), sql); err != nil {
			g.Fatalf("%s: %v", sql, err)
		}
	}
	g.cfg.Store.Pool().Reset()
	conn, err := g.pg.Admin.Acquire(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	if _, err := conn.Exec(g.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
		g.Fatal(err)
	}
	unlock = sync.OnceFunc(func() {
		_, _ = conn.Exec(context.WithoutCancel(g.Context()), "SELECT pg_advisory_unlock_all()")
		conn.Release()
	})
	g.Cleanup(unlock)
	return unlock
}

// blocked returns how many connections wait for a lock.
func (g *gateway) blocked() (n int32) {
	g.Helper()
	err := g.pg.Admin.QueryRow(g.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n)
	if err != nil {
		g.Fatal(err)
	}
	return n
}

// eventually waits for what nothing signals.
func (g *gateway) eventually(what string, ok func() bool) {
	g.Helper()
	deadline := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-deadline:
			g.Fatalf("%s: not within two minutes", what)
		case <-time.After(time.Millisecond):
		}
	}
}
