package postgres_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
)

// What the guard and its event cost: a transition against an UPDATE of the same
// columns of a copy of the table, without triggers, one after the other.
func BenchmarkTransition(b *testing.B) {
	s := setup(b)
	_, steps := s.create(b, "a:")
	a := steps["a"].ID
	s.exec(b, "CREATE TABLE public.plain (LIKE nofx.step INCLUDING ALL)")
	s.exec(b, "INSERT INTO public.plain SELECT * FROM nofx.step")
	conn, err := s.Admin.Acquire(s.ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(s.ctx, "SELECT set_config('nofx.tenant_id', $1, false)", s.tenant.String()); err != nil {
		b.Fatal(err)
	}
	timed := func(sql string, args ...any) time.Duration {
		start := time.Now()
		if _, err := conn.Exec(s.ctx, sql, args...); err != nil {
			b.Fatalf("%s: %v", sql, err)
		}
		return time.Since(start)
	}
	cycle := []struct{ event, to string }{{"cancel", "cancelled"}, {"reopen", "pending"}, {"deps_met", "ready"}}
	var plain, raw, function time.Duration
	for i := range b.N {
		e := cycle[i%3]
		const set = " SET state = $3, event = $2, version = version + 1, reason = 'because' WHERE tenant_id = $4 AND id = $1"
		plain += timed("UPDATE public.plain"+set, a, e.event, e.to, s.tenant)
		if i/3%2 == 0 {
			raw += timed("UPDATE nofx.step"+set, a, e.event, e.to, s.tenant)
		} else {
			function += timed("SELECT nofx.step_transition($1, $2, 'because')", a, e.event)
		}
	}
	us := func(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(max(n, 1)) }
	p, r := us(plain, b.N), us(raw, (b.N+1)/2)
	b.ReportMetric(p, "plain-µs/op")
	b.ReportMetric(r, "guarded-µs/op")
	b.ReportMetric(us(function, b.N/2), "function-µs/op")
	b.ReportMetric(r-p, "guard-µs/op")
	b.ReportMetric(r/p, "ratio")
}

// The store's calls in the life of a three-step run as workers make them: its
// first step claimed, each other taken along by the finish before it.
func BenchmarkRun(b *testing.B) {
	s := setupWith(b, postgres.Config{MaxConns: 1})
	p := plan(b, "a:", "b: a", "c: b")
	var create, claim, finish time.Duration
	pre := func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) {
		return checkpoint(run.PreCheckpoint), nil
	}
	w := postgres.Worker{ID: "w"}
	var pid int
	if err := s.Pool().QueryRow(s.ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		b.Fatal(err)
	}
	before := cpu(b, pid)
	for b.Loop() {
		start := time.Now()
		_, steps, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "x"})
		if err != nil {
			b.Fatal(err)
		}
		created := time.Now()
		c, err := s.Claim(s.ctx, wakeUp(s.tenant, steps[0].ID, 1), w, ttl, pre)
		if err != nil || c == nil {
			b.Fatal(c, err)
		}
		claimed := time.Now()
		create, claim = create+created.Sub(start), claim+claimed.Sub(created)
		for range steps {
			f := outcome(c, "succeed")
			f.Checkpoints = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}
			f.Chain = &postgres.Chain{Queue: run.StepQueue, Pre: pre}
			done, err := pgtest.FinishStep(s.ctx, s.DB, f, w, ttl)
			if err != nil {
				b.Fatal(err)
			}
			c = done.Next
		}
		finish += time.Since(claimed)
		if c != nil {
			b.Fatalf("%s was taken after the last step", c.Name)
		}
	}
	b.ReportMetric(float64((cpu(b, pid)-before).Microseconds())/float64(b.N), "cpu-µs")
	b.ReportMetric(float64(create.Microseconds())/float64(b.N), "create-µs")
	b.ReportMetric(float64(claim.Microseconds())/float64(b.N), "claim-µs")
	b.ReportMetric(float64(finish.Microseconds())/float64(3*b.N), "finish-µs")
}

// cpu returns the processor time that a backend has used.
func cpu(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	var ticks time.Duration
	for _, field := range strings.Fields(after)[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

// How the hot calls cost with many finished runs behind them: the figures of
// both sizes should be the same.
func BenchmarkHistory(b *testing.B) {
	for _, finished := range []int{0, 100_000} {
		b.Run(fmt.Sprint(finished), func(b *testing.B) {
			s := setup(b)
			s.history(b, finished)
			rules := postgres.SweepRules{LeaseRules: postgres.LeaseRules{TTL: 0}, Lost: 5 * time.Second, Limit: 200}
			var due, counts, life time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := s.due(s.ctx, rules); err != nil {
					b.Fatal(err)
				}
				due += time.Since(start)
				start = time.Now()
				if _, err := s.RunCounts(s.ctx); err != nil {
					b.Fatal(err)
				}
				counts += time.Since(start)
				start = time.Now()
				_, steps := s.create(b, "a:")
				s.do(b, steps["a"].ID, "succeed")
				life += time.Since(start)
			}
			for name, d := range map[string]time.Duration{"due-µs": due, "counts-µs": counts, "run-µs": life} {
				b.ReportMetric(float64(d.Microseconds())/float64(b.N), name)
			}
		})
	}
}

// history makes finished runs of one step with their events, past the guards.
func (s *store) history(t testing.TB, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	r, steps := s.create(t, "a:")
	s.do(t, steps["a"].ID, "succeed")
	const newRun, newStep = "('1' || lpad(to_hex(g.i), 31, '0'))::uuid", "('2' || lpad(to_hex(g.i), 31, '0'))::uuid"
	copyRows := func(table, where string, id uuid.UUID, values map[string]string) string {
		var to, from []string
		for _, column := range all[string](t, s, "SELECT quote_ident(column_name) FROM information_schema.columns WHERE table_schema = 'nofx' AND table_name = $1 AND is_generated = 'NEVER'", table) {
			value, replaced := values[column]
			if !replaced {
				value = "x." + column
			}
			to, from = append(to, column), append(from, value)
		}
		return fmt.Sprintf("INSERT INTO nofx.%[1]s (%[2]s) SELECT %[3]s FROM nofx.%[1]s x, generate_series(1, %[4]d) AS g (i) WHERE x.%[5]s = '%[6]s'",
			table, strings.Join(to, ", "), strings.Join(from, ", "), n, where, id)
	}
	sql := []string{
		"SET LOCAL session_replication_role = replica",
		copyRows("run", "id", r.ID, map[string]string{"id": newRun, "root_run_id": newRun, "trace_id": "md5('t' || g.i)"}),
		copyRows("step", "id", steps["a"].ID, map[string]string{"id": newStep, "run_id": newRun}),
		copyRows("event", "run_id", r.ID, map[string]string{"run_id": newRun, "step_id": "CASE WHEN x.step_id IS NOT NULL THEN " + newStep + " END"}),
		copyRows("attempt", "step_id", steps["a"].ID, map[string]string{"step_id": newStep}),
	}
	if err := pgx.BeginFunc(s.ctx, s.Admin, func(tx pgx.Tx) error {
		_, err := tx.Exec(s.ctx, strings.Join(sql, ";\n"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "VACUUM ANALYZE")
}

// BenchmarkRetention measures what looking for expired runs costs behind 100,000 runs
// that ended: while none has expired, while all have, and when all are pruned but
// nothing was vacuumed since; and what it costs to prune a batch of 200 rows.
func BenchmarkRetention(b *testing.B) {
	s := setup(b)
	s.history(b, 100_000)
	look := func(name string, want int) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				runs, _, err := s.ExpiredRuns(s.ctx, postgres.RunRef{}, 1000, 200)
				if err != nil || len(runs) != want {
					b.Fatalf("ExpiredRuns = %d, %v, want %d", len(runs), err, want)
				}
			}
		})
	}
	look("look/none", 0)
	s.exec(b, "UPDATE nofx.run SET created_at = created_at - interval '31 days', finished_at = finished_at - interval '31 days'")
	s.exec(b, "VACUUM ANALYZE nofx.run")
	look("look/all", 200)
	b.Run("prune", func(b *testing.B) {
		var rows int64
		for b.Loop() {
			runs, _, err := s.ExpiredRuns(s.ctx, postgres.RunRef{}, 1000, 200)
			if err != nil {
				b.Fatal(err)
			}
			ids := make([]uuid.UUID, len(runs))
			for i, r := range runs {
				ids[i] = r.Run
			}
			p, err := s.PruneRuns(s.ctx, s.tenant, ids, 200)
			if err != nil {
				b.Fatal(err)
			}
			rows += p.Events
		}
		b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	})
	s.exec(b, "DELETE FROM nofx.event WHERE run_id IN (SELECT id FROM nofx.run ORDER BY id LIMIT 99000)")
	look("look/dead", 200)
}

// What sweeping costs the server beside a backlog: all that ten workers look for in a
// second, 400,000 steps ready, against the same of an empty database.
func BenchmarkSweepBacklog(b *testing.B) {
	const workers, backlog = 10, 400_000
	s := setupWith(b, postgres.Config{MaxConns: 1})
	_, steps := s.create(b, "a:")
	var pid int
	if err := s.Pool().QueryRow(s.ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		b.Fatal(err)
	}
	rules := postgres.SweepRules{LeaseRules: calm, Lost: 5 * time.Second, Limit: 200}
	places := make([]postgres.SweepPlace, workers)
	second := func() {
		for w := range workers {
			for _, kind := range postgres.DueKinds {
				due, err := s.Due(s.ctx, kind, rules, &places[w])
				if err != nil || len(due) > 0 {
					b.Fatalf("Due(%s) = %d, %v, want nothing", kind, len(due), err)
				}
			}
			if _, err := s.EndStrayJobs(s.ctx, 200); err != nil {
				b.Fatal(err)
			}
		}
	}
	measure := func() time.Duration {
		const seconds = 50
		second() // plans
		before := cpu(b, pid)
		for range seconds {
			second()
		}
		return (cpu(b, pid) - before) / seconds
	}
	empty := measure()
	s.exec(b, "ALTER TABLE nofx.step DISABLE TRIGGER ALL")
	s.exec(b, fmt.Sprintf(`WITH j AS (
		INSERT INTO river.river_job (args, kind, max_attempts, queue, metadata) SELECT jsonb_build_object('n', g), 'step', 5, 'step', '{}' FROM generate_series(1, %d) g RETURNING id)
		INSERT INTO nofx.step (tenant_id, id, run_id, idx, name, tool, queue, spec, state, version, wake_seq, job_id, deps_left, max_attempts, ready_at, due_at)
		SELECT s.tenant_id, gen_random_uuid(), s.run_id, j.id::int + 10, 'x' || j.id, s.tool, s.queue, s.spec, 'ready', 2, 1, j.id, 0, 1, now() - interval '1 minute', now() - interval '1 minute'
		FROM j, nofx.step s WHERE s.id = '%s'`, backlog, steps["a"].ID))
	s.exec(b, "ALTER TABLE nofx.step ENABLE TRIGGER ALL")
	s.exec(b, "VACUUM ANALYZE nofx.step")
	s.exec(b, "VACUUM ANALYZE river.river_job")
	for b.Loop() {
		behind := measure()
		b.ReportMetric(100*behind.Seconds(), "%-of-a-core")
		b.ReportMetric(100*empty.Seconds(), "%-of-a-core-empty")
		b.ReportMetric(float64(behind)/float64(max(empty, time.Millisecond)), "ratio")
	}
}

// What it costs to cancel a run of a thousand steps and to resume it, against the
// creation of such a run.
func BenchmarkManySteps(b *testing.B) {
	s := setupWith(b, postgres.Config{MaxConns: 1})
	const steps = 1000
	lines := make([]string, steps)
	for i := range lines {
		lines[i] = fmt.Sprintf("s%d:", i)
	}
	p := plan(b, lines...)
	var create, cancel, resume time.Duration
	for b.Loop() {
		start := time.Now()
		r, _, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "x"})
		if err != nil {
			b.Fatal(err)
		}
		created := time.Now()
		if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
			b.Fatal(err)
		}
		cancelled := time.Now()
		if _, err := s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "on"}); err != nil {
			b.Fatal(err)
		}
		create, cancel, resume = create+created.Sub(start), cancel+cancelled.Sub(created), resume+time.Since(cancelled)
	}
	b.ReportMetric(float64(create.Microseconds())/float64(b.N*steps), "create-µs/step")
	b.ReportMetric(float64(cancel)/float64(create), "cancel/create")
	b.ReportMetric(float64(resume)/float64(create), "resume/create")
}
