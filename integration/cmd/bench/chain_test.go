package main

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/servertest/pgserver"
)

var server *pgserver.Server

func TestMain(m *testing.M) {
	var err error
	if server, err = pgserver.Start(context.Background(), pgserver.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

func newTestChain(t *testing.T) *chain {
	t.Helper()
	c, err := newChain(t.Context(), server.URL(""), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestChain(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), newTestChain(t)
	from, err := c.now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const n = 5
	if err := oneByOne(ctx, c, n, steps); err != nil {
		t.Fatal(err)
	}
	to, err := c.now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.finished(ctx, from, to); err != nil || got != n {
		t.Errorf("finished = %d, %v, want %d", got, err, n)
	}
	if got, err := c.finished(ctx, to, to.Add(time.Hour)); err != nil || got != 0 {
		t.Errorf("finished after the last = %d, %v, want 0", got, err)
	}
	for name, of := range map[string]struct {
		delays func(context.Context, time.Time) ([]float64, error)
		want   int
	}{"startDelays": {c.startDelays, n}, "nextDelays": {c.nextDelays, n * (steps - 1)}} {
		got, err := of.delays(ctx, from)
		if err != nil || len(got) != of.want || quantile(got, 0) < 0 {
			t.Errorf("%s = %v, %v, want %d of at least 0", name, got, err, of.want)
		}
		if got, err := of.delays(ctx, to); err == nil {
			t.Errorf("%s of no runs = %v, want an error", name, got)
		}
	}

	// Each run has its events in order, each step and each job is done.
	rows, err := c.pool.Query(ctx, `SELECT string_agg(type, ' ' ORDER BY seq) FROM event GROUP BY run_id`)
	if err != nil {
		t.Fatal(err)
	}
	histories, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := make([]string, n)
	for i := range want {
		want[i] = "run.created step.succeeded step.succeeded run.succeeded"
	}
	if diff := cmp.Diff(want, histories); diff != "" {
		t.Errorf("events by run (-want +got):\n%s", diff)
	}
	var done, jobs int
	if err := c.pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM step WHERE state = 'succeeded' AND done_at IS NOT NULL),
		(SELECT count(*) FROM river_job WHERE state = 'completed')`).Scan(&done, &jobs); err != nil {
		t.Fatal(err)
	}
	if done != n*steps || jobs != n*steps {
		t.Errorf("%d steps succeeded and %d jobs completed, want %d each", done, jobs, n*steps)
	}
}

func TestChainThroughput(t *testing.T) {
	t.Parallel()
	c := newTestChain(t)
	rate, err := throughput(t.Context(), c, 4, 2, 2*time.Second)
	if err != nil || rate <= 0 {
		t.Errorf("throughput(chain) = %v, %v, want some", rate, err)
	}
	if left, err := c.live(t.Context()); err != nil || left != 0 {
		t.Errorf("throughput left %d runs, %v, want none", left, err)
	}
}

// Both ways to insert leave the same rows; only one tells River's clients.
func TestChainSubmit(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), newTestChain(t)
	if err := c.stop(ctx); err != nil {
		t.Fatal(err)
	}
	for name, submit := range map[string]func(context.Context, int) error{"submit": c.submit, "submitBare": c.submitBare} {
		if _, err := c.pool.Exec(ctx, `TRUNCATE step, event, river_job`); err != nil {
			t.Fatal(err)
		}
		if err := submit(ctx, steps); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var rows string
		if err := c.pool.QueryRow(ctx, `SELECT format('%s %s %s', (SELECT count(*) FROM step), (SELECT string_agg(type, ' ') FROM event),
			(SELECT string_agg(concat_ws(' ', kind, state, queue, args->>'steps', args->>'index'), ', ') FROM river_job))`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if want := "3 run.created chain_step available default 3 0"; rows != want {
			t.Errorf("%s left %q, want %q", name, rows, want)
		}
	}
}

// A step that fails is an error of the measurement, not a slow run.
func TestChainFailure(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), newTestChain(t)
	if _, err := c.pool.Exec(ctx, `ALTER TABLE event ADD CHECK (type <> 'step.succeeded')`); err != nil {
		t.Fatal(err)
	}
	if err := oneByOne(ctx, c, 1, steps); err == nil {
		t.Error("oneByOne of a chain whose steps fail = nil, want an error")
	}
}
