package postgres_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"

	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// soakQueue has jobs inserted, run and deleted as workers and River's cleaner do it:
// so many times 250, of which those that succeeded are gone eight turns later and one
// in a thousand, which failed, after 24.
func soakQueue(t testing.TB, s *store, turns int) {
	t.Helper()
	s.exec(t, "CREATE TABLE IF NOT EXISTS public.pattern AS SELECT * FROM river.river_job")
	for range turns {
		last := one[int64](t, s, "SELECT max(id) FROM river.river_job")
		s.exec(t, `INSERT INTO river.river_job (args, kind, max_attempts, metadata, queue, priority, state, unique_key, unique_states)
			SELECT args || jsonb_build_object('step_id', gen_random_uuid()), kind, max_attempts,
				metadata || jsonb_build_object('nofx.run_id', gen_random_uuid(), 'traceparent', '00-' || md5(random()::text) || '-' || left(md5(random()::text), 16) || '-01'),
				queue, priority, 'available', sha256(gen_random_uuid()::text::bytea), unique_states
			FROM public.pattern, generate_series(1, 250)`)
		for _, change := range []string{
			"UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() WHERE id > $1",
			`UPDATE river.river_job SET finalized_at = clock_timestamp(),
				state = CASE WHEN id % 1000 = 0 THEN 'discarded' ELSE 'completed' END::river.river_job_state WHERE id > $1`,
			"DELETE FROM river.river_job WHERE id <= $1 - 7 * 250 AND state = 'completed' OR id <= $1 - 23 * 250",
		} {
			s.exec(t, change, last)
			s.exec(t, "VACUUM river.river_job")
		}
	}
}

// queueIndexes returns the bytes of all indexes of River's jobs.
func queueIndexes(t testing.TB, s *store) int64 {
	t.Helper()
	return one[int64](t, s, "SELECT pg_indexes_size('river.river_job')::bigint")
}

// Nobody rebuilds the indexes of River's jobs: workers do not own them. So they may
// not grow with the number of jobs that there have ever been, as they would with the GIN
// indexes that River makes, whose keys stay for good. What a vacuum leaves that came
// late, because of another test's snapshot, is far less.
func TestQueueIndexesStaySmall(t *testing.T) {
	t.Parallel()
	grown := func(prepare string) int64 {
		s := setup(t)
		s.exec(t, prepare)
		s.create(t, "a:") // whose job is the pattern of the others
		soakQueue(t, s, 20)
		early := queueIndexes(t, s)
		soakQueue(t, s, 60)
		late := queueIndexes(t, s)
		s.exec(t, "REINDEX TABLE river.river_job")
		t.Logf("%d KiB after 5,000 jobs, %d after 20,000, %d built anew", early>>10, late>>10, queueIndexes(t, s)>>10)
		return late - early
	}
	rivers := grown("CREATE INDEX ON river.river_job USING gin (args); CREATE INDEX ON river.river_job USING gin (metadata)")
	if ours := grown("SELECT"); 2*ours > rivers {
		t.Errorf("the indexes grow by %d KiB with 15,000 jobs, by %d with River's GIN indexes; want less than half", ours>>10, rivers>>10)
	}
}

// often is a schedule of every few milliseconds that reports each look at it.
type often chan struct{}

func (c often) Next(t time.Time) time.Time {
	select {
	case c <- struct{}{}:
	default:
	}
	return t.Add(20 * time.Millisecond)
}

// River's reindexer, which by default runs at midnight, leaves alone what a worker does
// not own.
func TestRiverRebuildsNoIndex(t *testing.T) {
	t.Parallel()
	s := setup(t)
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[job.Step]) error { return nil }))
	looks := make(often)
	var log bytes.Buffer
	client, err := s.NewQueueClient(river.Config{
		Workers: workers, Queues: map[string]river.QueueConfig{run.StepQueue: {MaxWorkers: 1}},
		ReindexerSchedule: looks, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, postgres.Reserve{})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 { // before the first turn, and after each
		select {
		case <-looks:
		case <-time.After(2 * time.Minute):
			t.Fatal("the reindexer did not have two turns in two minutes")
		}
	}
	if err := client.Stop(s.ctx); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "index") {
		t.Errorf("River logs:\n%swant nothing about indexes", &log)
	}
}
