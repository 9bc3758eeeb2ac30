package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"nofx.dev/gateway/api"
)

// nofx is the system under test: runs come in over HTTP, and its tables say what
// became of them and when.
type nofx struct {
	url, key string
	http     *http.Client
	db       *pgxpool.Pool // sees the rows of the key's tenant
}

func newNOFX(ctx context.Context, url, key, database string) (*nofx, error) {
	n := &nofx{url: url, key: key, http: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 512}, // as many as an open loop may need
		Timeout:   30 * time.Second,
	}}
	client, err := api.NewClientWithResponses(url, api.WithHTTPClient(n.http), api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		n.sign(r)
		return nil
	}))
	if err != nil {
		return nil, err
	}
	who, err := client.WhoamiWithResponse(ctx)
	if err != nil {
		return nil, err
	}
	if who.JSON200 == nil {
		return nil, fmt.Errorf("GET /api/whoami: %s", who.Status())
	}
	tenant, err := uuid.Parse(strings.TrimPrefix(string(who.JSON200.Principal.TenantID), "ten_"))
	if err != nil {
		return nil, fmt.Errorf("id of the tenant: %w", err)
	}
	cfg, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, fmt.Errorf("read the database address: %w", err)
	}
	// Small questions about growing tables are asked while others work, so they
	// go through indexes, whatever the planner thinks of tables it has not yet
	// analysed, or of times and ids that it does not know.
	cfg.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	cfg.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_custom_plan"
	cfg.ConnConfig.RuntimeParams["nofx.tenant_id"] = tenant.String()
	cfg.ConnConfig.RuntimeParams["application_name"] = "bench"
	cfg.MaxConns = 2
	n.db, err = pgxpool.NewWithConfig(ctx, cfg)
	return n, err
}

func (n *nofx) close() { n.db.Close() }

// sign adds the API key to a request.
func (n *nofx) sign(r *http.Request) { r.Header.Set("Authorization", "Bearer "+n.key) }

// noop returns a plan of steps that do nothing, one after the other.
func noop(steps int) map[string]any {
	list := make([]any, steps)
	for i := range list {
		list[i] = map[string]any{"name": fmt.Sprint("s", i), "tool": "sleep", "inputs": map[string]any{"duration_s": 0}}
	}
	return map[string]any{"goal": "do nothing", "steps": list}
}

func (n *nofx) submit(ctx context.Context, steps int) error { return n.post(ctx, noop(steps)) }

// post creates a run as our own clients do, with an Idempotency-Key.
func (n *nofx) post(ctx context.Context, plan map[string]any) error {
	body, err := json.Marshal(map[string]any{"plan": plan})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/api/runs", bytes.NewReader(body))
	if err != nil {
		return err
	}
	n.sign(req)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", rand.Text())
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("POST /api/runs: %s: %.500s", resp.Status, answer)
	}
	return err
}

func (n *nofx) live(ctx context.Context) (live int, err error) {
	var failed int
	err = n.db.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE state NOT IN ('failed', 'cancelled')), count(*) FILTER (WHERE state IN ('failed', 'cancelled'))
		FROM nofx.run WHERE state IN ('queued', 'running', 'waiting', 'paused', 'failed', 'cancelled')`).Scan(&live, &failed)
	if err == nil && failed > 0 {
		err = n.failure(ctx)
	}
	return live, err
}

// failure returns why a run failed.
func (n *nofx) failure(ctx context.Context) error {
	var reason string
	err := n.db.QueryRow(ctx, `SELECT coalesce(reason, state) FROM nofx.run WHERE state IN ('failed', 'cancelled') LIMIT 1`).Scan(&reason)
	if err != nil {
		return err
	}
	return fmt.Errorf("a run failed: %s", reason)
}

func (n *nofx) now(ctx context.Context) (at time.Time, err error) {
	err = n.db.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at)
	return at, err
}

func (n *nofx) finished(ctx context.Context, from, to time.Time) (count int, err error) {
	err = n.db.QueryRow(ctx, `
		SELECT count(*) FROM nofx.run WHERE state = 'succeeded' AND id >= $3 AND finished_at >= $1 AND finished_at < $2`,
		from, to, firstID(from.Add(-time.Hour))).Scan(&count)
	return count, err
}

// firstID comes before the ids of all that was made at a time or later: ids are
// UUIDv7, and tables have indexes by id and not by time.
func firstID(at time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16)
	return id
}

func (n *nofx) startDelays(ctx context.Context, from time.Time) ([]float64, error) {
	return column(ctx, n.db, `
		SELECT 1000 * extract(epoch FROM a.started_at - r.created_at)::float8
		FROM nofx.run r
		JOIN nofx.step s ON s.tenant_id = r.tenant_id AND s.run_id = r.id AND s.idx = 0
		JOIN nofx.attempt a ON a.tenant_id = s.tenant_id AND a.step_id = s.id AND a.fence = 1
		WHERE r.id >= $2 AND r.created_at >= $1`, from, firstID(from))
}

func (n *nofx) nextDelays(ctx context.Context, from time.Time) ([]float64, error) {
	return column(ctx, n.db, `
		SELECT 1000 * extract(epoch FROM a.started_at - s.finished_at)::float8
		FROM nofx.run r
		JOIN nofx.step s ON s.tenant_id = r.tenant_id AND s.run_id = r.id
		JOIN nofx.step n ON n.tenant_id = s.tenant_id AND n.run_id = s.run_id AND n.idx = s.idx + 1
		JOIN nofx.attempt a ON a.tenant_id = n.tenant_id AND a.step_id = n.id AND a.fence = 1
		WHERE r.id >= $2 AND r.created_at >= $1`, from, firstID(from))
}

func (n *nofx) sessions(ctx context.Context) ([]int, error) {
	return sessions(ctx, n.db, "application_name <> 'bench'")
}

// sessions returns the pids of those sessions of clients in db's database that a
// condition is true for. Autovacuum comes when it likes, also in a rest.
func sessions(ctx context.Context, db querier, where string) ([]int, error) {
	rows, err := db.Query(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND `+where)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int])
}

// querier is a connection or a pool of them.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}
