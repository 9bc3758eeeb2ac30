package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// chain is what somebody who needs steps in order writes on River in an hour:
// two tables, and per step one transaction that updates the step, notes an
// event, enqueues the next step and completes the job. It has no HTTP, tenants,
// leases, fences, checkpoints, traces or guards, and its workers are in this
// process: what it does per second is what those may cost us.
type chain struct {
	admin    string
	database string
	pool     *pgxpool.Pool
	river    *river.Client[pgx.Tx]
	started  bool

	submitted, ended atomic.Int64
	failure          atomic.Pointer[error] // the first one of a step
}

const chainTables = `
	CREATE TABLE step (run_id uuid, idx int, state text NOT NULL DEFAULT 'pending', done_at timestamptz, PRIMARY KEY (run_id, idx));
	CREATE TABLE event (run_id uuid, seq int, type text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (run_id, seq));`

// chainStep is the job of one step of a run that has Steps of them.
type chainStep struct {
	RunID uuid.UUID `json:"run_id"`
	Index int       `json:"index"`
	Steps int       `json:"steps"`
}

func (chainStep) Kind() string { return "chain_step" }

// newChain makes a database on the server of admin and starts so many workers on
// it. close drops it.
func newChain(ctx context.Context, admin string, workers int) (_ *chain, err error) {
	c := &chain{admin: admin, database: "bench_chain_" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	if err := execute(ctx, admin, "CREATE DATABASE "+c.database); err != nil {
		return nil, fmt.Errorf("make the database of the chain: %w", err)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	cfg, err := pgxpool.ParseConfig(admin)
	if err != nil {
		return nil, fmt.Errorf("read the database address: %w", err)
	}
	cfg.ConnConfig.Database = c.database
	cfg.MaxConns = int32(workers + 8)
	if c.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	migrator, err := rivermigrate.New(riverpgxv5.New(c.pool), &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, fmt.Errorf("tables of River for the chain: %w", err)
	}
	if _, err := c.pool.Exec(ctx, chainTables); err != nil {
		return nil, fmt.Errorf("tables of the chain: %w", err)
	}
	set := river.NewWorkers()
	river.AddWorker(set, river.WorkFunc(c.work))
	c.river, err = river.NewClient(riverpgxv5.New(c.pool), &river.Config{
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers:       set,
		FetchCooldown: 10 * time.Millisecond, // as our workers have it
		Logger:        quiet,
	})
	if err != nil {
		return nil, err
	}
	// River must outlive ctx until close.
	if err := c.river.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("start River for the chain: %w", err)
	}
	c.started = true
	return c, nil
}

// stop ends the workers; runs can still be submitted.
func (c *chain) stop(ctx context.Context) error {
	if !c.started {
		return nil
	}
	c.started = false
	return c.river.Stop(ctx)
}

func (c *chain) close() {
	// Also when the caller's context has ended: that is when one stops.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c.stop(ctx) //nolint:errcheck // the database goes next
	if c.pool != nil {
		c.pool.Close()
	}
	execute(ctx, c.admin, "DROP DATABASE IF EXISTS "+c.database+" WITH (FORCE)") //nolint:errcheck // the server is stopped next
}

// execute runs one statement on a connection of its own.
func execute(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// work does one step: the transaction that the comparison is about.
func (c *chain) work(ctx context.Context, j *river.Job[chainStep]) error {
	last := j.Args.Index == j.Args.Steps-1
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE step SET state = 'succeeded', done_at = clock_timestamp() WHERE run_id = $1 AND idx = $2`,
			j.Args.RunID, j.Args.Index); err != nil {
			return err
		}
		what := "step.succeeded"
		if last {
			what = "run.succeeded"
		}
		if _, err := tx.Exec(ctx, `INSERT INTO event (run_id, seq, type) VALUES ($1, $2, $3)`, j.Args.RunID, j.Args.Index+2, what); err != nil {
			return err
		}
		if !last {
			next := j.Args
			next.Index++
			if _, err := c.river.InsertTx(ctx, tx, next, nil); err != nil {
				return err
			}
		}
		_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, j)
		return err
	})
	switch {
	case err != nil && ctx.Err() == nil:
		c.failure.CompareAndSwap(nil, &err)
	case err == nil && last:
		c.ended.Add(1)
	}
	return err
}

// submit accepts a run: its steps, an event and the first job.
func (c *chain) submit(ctx context.Context, steps int) error {
	return c.insert(ctx, steps, func(tx pgx.Tx, first chainStep) error {
		_, err := c.river.InsertTx(ctx, tx, first, nil)
		return err
	})
}

// submitBare does what submit does, with a job row written as any other row: what Postgres
// alone allows. Nobody is told of the job.
func (c *chain) submitBare(ctx context.Context, steps int) error {
	return c.insert(ctx, steps, func(tx pgx.Tx, first chainStep) error {
		_, err := tx.Exec(ctx, `INSERT INTO river_job (args, kind, max_attempts, queue) VALUES ($1, $2, 25, 'default')`, first, first.Kind())
		return err
	})
}

func (c *chain) insert(ctx context.Context, steps int, enqueue func(pgx.Tx, chainStep) error) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	c.submitted.Add(1)
	err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO step (run_id, idx) SELECT $1, generate_series(0, $2 - 1)`, id, steps); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO event (run_id, seq, type) VALUES ($1, 1, 'run.created')`, id); err != nil {
			return err
		}
		return enqueue(tx, chainStep{RunID: id, Steps: steps})
	})
	if err != nil {
		c.submitted.Add(-1)
	}
	return err
}

func (c *chain) live(context.Context) (int, error) {
	if failure := c.failure.Load(); failure != nil {
		return 0, fmt.Errorf("a step of the chain: %w", *failure)
	}
	ended := c.ended.Load() // first, so that no more have ended than were submitted
	return int(c.submitted.Load() - ended), nil
}

func (c *chain) now(ctx context.Context) (at time.Time, err error) {
	err = c.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at)
	return at, err
}

func (c *chain) finished(ctx context.Context, from, to time.Time) (n int, err error) {
	err = c.pool.QueryRow(ctx, `SELECT count(*) FROM event WHERE type = 'run.succeeded' AND at >= $1 AND at < $2`, from, to).Scan(&n)
	return n, err
}

func (c *chain) startDelays(ctx context.Context, from time.Time) ([]float64, error) {
	return column(ctx, c.pool, `
		SELECT 1000 * extract(epoch FROM s.done_at - e.at)::float8 FROM event e JOIN step s ON s.run_id = e.run_id AND s.idx = 0
		WHERE e.seq = 1 AND e.at >= $1 AND s.done_at IS NOT NULL`, from)
}

func (c *chain) nextDelays(ctx context.Context, from time.Time) ([]float64, error) {
	return column(ctx, c.pool, `
		SELECT 1000 * extract(epoch FROM n.done_at - s.done_at)::float8 FROM step s JOIN step n ON n.run_id = s.run_id AND n.idx = s.idx + 1
		WHERE s.done_at >= $1 AND n.done_at IS NOT NULL`, from)
}

func (c *chain) sessions(ctx context.Context) ([]int, error) { return sessions(ctx, c.pool, "true") }

// column reads numbers, of which there must be some.
func column(ctx context.Context, db *pgxpool.Pool, sql string, args ...any) ([]float64, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[float64])
	if err == nil && len(numbers) == 0 {
		err = errors.New("nothing was measured")
	}
	return numbers, err
}
