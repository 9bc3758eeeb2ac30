package postgres_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
)

// A database that was just made has no statistics, and a session keeps the plan
// that it makes then. It must look rows up by their keys, not walk its tenant.
func TestPlansOfANewDatabase(t *testing.T) {
	t.Parallel()
	s := setup(t)
	conn, err := s.Admin.Acquire(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for where, index := range map[string]string{
		"run WHERE tenant_id = $1 AND id = $2":                                "run_pkey",
		"step WHERE tenant_id = $1 AND id = $2":                               "step_pkey",
		"step WHERE tenant_id = $1 AND run_id = $2":                           "step_run_id_tenant_id_idx_key",
		"step WHERE tenant_id = $1 AND run_id = $2 ORDER BY idx":              "step_run_id_tenant_id_idx_key",
		"step_dep WHERE tenant_id = $1 AND needs = $2":                        "step_dep_pkey",
		"step_dep WHERE tenant_id = $1 AND step_id = $2":                      "step_dep_step",
		"step_lease WHERE tenant_id = $1 AND step_id = $2":                    "step_lease_pkey",
		"attempt WHERE tenant_id = $1 AND step_id = $2 AND fence = 1":         "attempt_pkey",
		"gate WHERE tenant_id = $1 AND id = $2":                               "gate_pkey",
		"gate WHERE tenant_id = $1 AND run_id = $2":                           "gate_run",
		"gate WHERE tenant_id = $1 AND step_id = $2":                          "gate_step_id_tenant_id_round_key",
		"checkpoint WHERE tenant_id = $1 AND id = $2":                         "checkpoint_pkey",
		"checkpoint WHERE tenant_id = $1 AND run_id = $2 ORDER BY seq":        "checkpoint_run_id_tenant_id_seq_key",
		"artifact WHERE tenant_id = $1 AND id = $2":                           "artifact_pkey",
		"artifact WHERE tenant_id = $1 AND run_id = $2":                       "artifact_run",
		"event WHERE tenant_id = $1 AND run_id = $2 AND seq > 1":              "event_pkey",
		"event WHERE tenant_id = $1 AND run_id = $2 AND seq > 1 ORDER BY seq": "event_pkey",
	} {
		var plan []string
		err := pgx.BeginFunc(s.ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(s.ctx, "SET LOCAL plan_cache_mode = force_generic_plan; PREPARE lookup (uuid, uuid) AS SELECT 1 FROM nofx."+where); err != nil {
				return err
			}
			rows, err := tx.Query(s.ctx, fmt.Sprintf("EXPLAIN EXECUTE lookup ('%s', '%[1]s')", s.tenant))
			if err != nil {
				return err
			}
			if plan, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				return err
			}
			_, err = tx.Exec(s.ctx, "DEALLOCATE lookup")
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		if text := strings.Join(plan, "\n"); !strings.Contains(text, " using "+index+" on ") {
			t.Errorf("%s does not use %s:\n%s", where, index, text)
		}
	}
}

// TestResolvingReadsConflictsOnce decides conflicts of a merge by one look at each: a session
// keeps its plan for any number of decisions, and to compare each of 10,000 conflicts with
// each of 10,000 decisions takes longer than a statement may.
func TestResolvingReadsConflictsOnce(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 1})
	e := s.everything(t)
	_, err := s.ResolveMerge(s.ctx, s.tenant, e.merge, []run.MergeResolution{{Unit: run.PathUnit, At: "a"}}, nil, "tester")
	wantKind(t, "ResolveMerge(of an open merge)", err, fault.Conflict, "illegal-transition")
	var plan []string
	err = pgx.BeginFunc(s.ctx, s.Pool(), func(tx pgx.Tx) error {
		var name string
		if err := tx.QueryRow(s.ctx, "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT c.n, %'").Scan(&name); err != nil {
			return err
		}
		rows, err := tx.Query(s.ctx, fmt.Sprintf("EXPLAIN EXECUTE %s ('%s', '%s')", pgx.Identifier{name}.Sanitize(), s.tenant, e.merge))
		if err != nil {
			return err
		}
		plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "ANY") || strings.Contains(text, "Join") {
		t.Errorf("the plan compares each conflict with each decision:\n%s", text)
	}
}

// What a run reads is its own, however many others its tenant has, from the first
// session of a new database on.
func TestRunsReadNoOthers(t *testing.T) {
	t.Parallel()
	const others = 200 // of three steps; versions of its own rows that have not been cleaned away make a run's figure vary, by far less
	lives := map[string]func(*testing.T, *store){
		"succeeds": func(t *testing.T, s *store) {
			_, steps := s.create(t, "a:", "b: a", "c: b")
			f := outcome(s.claim(t, steps["a"].ID), "succeed")
			for f.Claim != nil {
				f.Checkpoints = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}
				f.Chain = &postgres.Chain{Queue: run.StepQueue, Pre: noCheckpoint}
				done, err := pgtest.FinishStep(s.ctx, s.DB, f, postgres.Worker{ID: "w"}, ttl)
				if err != nil {
					t.Fatal(err)
				}
				f.Claim = done.Next
			}
		},
		"fails and is retried": func(t *testing.T, s *store) {
			r, steps := s.create(t, "a:", "b: a", "c:")
			s.do(t, steps["a"].ID, "fail")
			if _, err := s.RetryRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "again"}); err != nil {
				t.Fatal(err)
			}
			s.do(t, steps["a"].ID, "succeed")
			s.do(t, steps["b"].ID, "succeed")
			s.do(t, steps["c"].ID, "succeed")
		},
	}
	for name, live := range lives {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setupWith(t, postgres.Config{MaxConns: 1})
			for _, table := range all[string](t, s, "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'nofx'::regnamespace AND relkind = 'r'") {
				s.exec(t, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)") // statistics of a handful of rows tell nothing
			}
			read := func() int64 {
				if _, err := s.Pool().Exec(s.ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
					t.Fatal(err)
				}
				return one[int64](t, s, "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE schemaname = 'nofx'")
			}
			live(t, s)
			cost := func() int64 {
				before := read()
				live(t, s)
				return read() - before
			}
			first := cost()
			for range others {
				live(t, s)
			}
			// A transaction in another database of the server may have kept versions of rows
			// from being cleaned away until now.
			last := cost()
			for try := 0; try < 5 && last > first+2*others; try++ {
				s.behindHorizon(t)
				last = cost()
			}
			if first == 0 || last > first+2*others {
				t.Errorf("behind %d runs it reads %d rows, want about the %d of the second run", others, last, first)
			}
		})
	}
}

// Who follows a run asks for its events again and again; its plan, which may have a
// megabyte, is not among them.
func TestEventsReadNoPlan(t *testing.T) {
	t.Parallel()
	s := setupWith(t, postgres.Config{MaxConns: 1})
	text := make([]string, 1000)
	for i := range text {
		text[i] = fmt.Sprint("s", uuid.New(), ":")
	}
	r, _ := s.create(t, text...)
	read := func() int64 {
		if _, err := s.Pool().Exec(s.ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
			t.Fatal(err)
		}
		return one[int64](t, s, "SELECT toast_blks_read + toast_blks_hit FROM pg_statio_user_tables WHERE relid = 'nofx.run'::regclass")
	}
	before := read()
	if _, err := s.Run(s.ctx, s.tenant, r.ID); err != nil {
		t.Fatal(err)
	}
	whole := read()
	if whole == before {
		t.Fatal("the plan of the run is not stored apart from it")
	}
	if list, err := s.Events(s.ctx, s.tenant, r.ID, 0, nil, 10); err != nil || len(list) != 10 {
		t.Fatalf("Events() = %d, %v, want 10", len(list), err)
	}
	if got := read() - whole; got != 0 {
		t.Errorf("Events() reads %d blocks of plans, want none", got)
	}
	_, err := s.Events(s.ctx, s.tenant, uuid.New(), 0, nil, 10)
	wantKind(t, "Events(unknown run)", err, fault.NotFound, "not-found")
}

// A pass of the sweeper reads what is due. The versions of rows that were due once
// cost it something the first time it meets them, and not again and again until a
// vacuum, which a large table sees seldom.
func TestSweepsForgetWhatIsDone(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var text []string
	for i := range 40 {
		text = append(text, fmt.Sprintf("a%d:", i))
	}
	work := func(runs int) {
		for range runs {
			r, _ := s.create(t, text...)
			if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	work(10)
	s.exec(t, "VACUUM (ANALYZE) nofx.run, nofx.step")
	for _, table := range []string{"run", "step"} {
		s.exec(t, "ALTER TABLE nofx."+table+" SET (autovacuum_enabled = off)")
	}
	pass := s.sweeps(t)
	before := pass()
	for range 8 { // the plan that is kept is made by then
		before = min(before, pass())
	}
	work(50)
	// What a transaction may still see is not marked: one that runs anywhere in the
	// server holds back each new snapshot, an older snapshot is an analysis perhaps.
	done := one[string](t, s, "SELECT pg_current_xact_id()::text")
	s.until(t, "nobody sees the database as it was", fmt.Sprintf(`SELECT pg_snapshot_xmin(pg_current_snapshot()) > '%[1]s'::xid8 AND NOT EXISTS (
		SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND age(backend_xmin) > age('%[1]s'::xid))`, done))
	first := pass()
	last := first
	for range 50 { // a page that somebody looks at is marked by the next pass
		// Nor is what a crash might undo. Commits are asynchronous here; one that is not
		// takes along those before it.
		s.exec(t, "BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, '', ''); COMMIT")
		if last = pass(); last <= before+20 { // its two scans of six more leaves of the index, and no row
			return
		}
	}
	t.Errorf("a pass behind 2,000 more steps reads %d blocks (first %d), want about the %d of before", last, first, before)
}

// A session that planned its sweep while there was nothing to do keeps that plan
// when a backlog comes. However long that is, a pass looks at a bounded part of it,
// and at each step that waits by itself.
func TestSweepsBearABacklog(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for _, table := range []string{"nofx.run", "nofx.step", "river.river_job"} {
		s.exec(t, "ALTER TABLE "+table+" SET (autovacuum_enabled = off)") // new statistics would bring a new plan
	}
	pass := s.sweeps(t)
	for range 8 { // the plan that is kept is made by then
		pass()
	}
	const steps, runs = 100, 15
	var text []string
	for i := range steps {
		text = append(text, fmt.Sprintf("a%d:", i))
	}
	for range runs {
		s.create(t, text...)
	}
	if n := pass(); n > 20*200 {
		t.Errorf("a pass over 200 of %d ready steps with jobs reads %d blocks, want at most 20 for each", steps*runs, n)
	}
}

// sweeps answers a function that looks for what is due and says how many blocks that
// read: in one session of a worker, since each plans for itself, once, and planning
// reads blocks too.
func (s *store) sweeps(t *testing.T) func() int {
	t.Helper()
	conn, err := s.Pool().Acquire(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	return func() int {
		rows, err := conn.Query(s.ctx, `EXPLAIN (ANALYZE, BUFFERS) SELECT step_id FROM nofx.due_leases(200, '5s', '1h') UNION ALL SELECT step_id FROM nofx.due_retries(200)
			UNION ALL SELECT step_id FROM nofx.due_waits(200) UNION ALL SELECT step_id FROM nofx.due_runs(200)
			UNION ALL SELECT step_id FROM nofx.lost_wake_ups('-infinity', '00000000-0000-0000-0000-000000000000', 200, '5s')`)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return blocksHit(t, strings.Join(plan, "\n"))
	}
}

// blocksHit returns how many blocks an EXPLAIN (ANALYZE, BUFFERS) says were read.
func blocksHit(t *testing.T, plan string) (n int) {
	t.Helper()
	found := regexp.MustCompile(`shared hit=(\d+)`).FindStringSubmatch(plan)
	if found == nil {
		t.Fatalf("no blocks in %s", plan)
	}
	if _, err := fmt.Sscan(found[1], &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// With many thousand finished runs behind them, the statements that run all
// the time read an index and not a table.
func TestNothingScansHistory(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.history(t, 5_000)
	live, steps := s.create(t, "a:", "b: a")
	s.exec(t, "ANALYZE")
	for name, sql := range map[string]string{
		"backoff":  "SELECT FROM nofx.step WHERE state = 'retrying' AND retry_at <= (SELECT clock_timestamp()) ORDER BY retry_at LIMIT 200",
		"due":      "SELECT FROM nofx.step WHERE state = 'waiting' AND wait_until <= (SELECT clock_timestamp()) ORDER BY wait_until LIMIT 200",
		"ready":    "SELECT FROM nofx.step WHERE due_at <= (SELECT clock_timestamp()) ORDER BY due_at, id LIMIT 200",
		"late":     "SELECT FROM nofx.run WHERE state IN ('queued', 'running', 'waiting', 'paused') AND deadline <= (SELECT clock_timestamp()) ORDER BY deadline LIMIT 200",
		"counts":   "SELECT state, count(*) FROM nofx.run WHERE state IN ('queued', 'running', 'waiting', 'paused') GROUP BY state",
		"runs":     "SELECT FROM nofx.run WHERE tenant_id = '" + s.tenant.String() + "' ORDER BY id DESC LIMIT 50",
		"failed":   "SELECT FROM nofx.run WHERE tenant_id = '" + s.tenant.String() + "' AND state = 'failed' ORDER BY id DESC LIMIT 50",
		"events":   "SELECT FROM nofx.event WHERE tenant_id = '" + s.tenant.String() + "' AND run_id = '" + live.ID.String() + "' AND seq > 1 ORDER BY seq LIMIT 50",
		"feed":     "SELECT FROM nofx.event WHERE tenant_id = '" + s.tenant.String() + "' AND (xid, run_id, seq) > ('1'::xid8, '" + uuid.Nil.String() + "', 0) ORDER BY xid, run_id, seq LIMIT 50",
		"inbox":    "SELECT FROM nofx.gate WHERE tenant_id = '" + s.tenant.String() + "' AND state = 'pending' ORDER BY id LIMIT 50",
		"deps":     "SELECT FROM nofx.step_dep WHERE tenant_id = '" + s.tenant.String() + "' AND needs = '" + steps["a"].ID.String() + "'",
		"expired":  "SELECT FROM nofx.run WHERE (tenant_id, id) > ('" + s.tenant.String() + "', '" + uuid.Nil.String() + "') ORDER BY tenant_id, id LIMIT 1",
		"by trace": "SELECT FROM nofx.run WHERE tenant_id = '" + s.tenant.String() + "' AND trace_id = '" + live.TraceID + "'",
	} {
		// Small tables are scanned whatever indexes they have.
		plan := strings.Join(all[string](t, s, "EXPLAIN "+sql), "\n")
		if strings.Contains(plan, "Seq Scan on run") || strings.Contains(plan, "Seq Scan on step ") || strings.Contains(plan, "Seq Scan on event") {
			t.Errorf("%s scans a table:\n%s", name, plan)
		}
		// What is due may be sorted: how much that is the planner cannot know.
		if strings.Contains(plan, "Sort") && !slices.Contains([]string{"counts", "inbox", "backoff", "due", "late"}, name) {
			t.Errorf("%s sorts:\n%s", name, plan)
		}
	}
}

// The few reviews of a repository are found by its name, however many newer ones there are
// of others.
func TestReviewsOfARepositoryAreFound(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.exec(t, fmt.Sprintf(`
		SET LOCAL session_replication_role = replica;
		INSERT INTO nofx.review (tenant_id, id, run_id, step_id, provider, repository, pull_request, change, created_by)
		SELECT '%s', lpad(to_hex(i), 32, '0')::uuid, md5('run' || i)::uuid, md5('step' || i)::uuid, 'github', CASE WHEN i < 20 THEN 'acme/rare' ELSE 'acme/busy' END, i, 'c' || i, 'x'
		FROM generate_series(1, 5000) AS i`, s.tenant))
	s.exec(t, "ANALYZE nofx.review")
	pages := map[string]postgres.ReviewFilter{"all": {Repository: "acme/rare"}, "of a pull request": {Repository: "acme/rare", PullRequest: 7}, "further": {Repository: "acme/rare", Before: &uuid.Max}}
	for name, f := range pages {
		sql, args := f.Explain(s.tenant, 50)
		if plan := strings.Join(all[string](t, s, "EXPLAIN "+sql, args...), "\n"); !strings.Contains(plan, "review_repository") {
			t.Errorf("reviews of a repository, %s, are not found by it:\n%s", name, plan)
		}
	}
}

// What comes due is found by its index and not by walking it to its end, in the
// functions as they are: a bound that is volatile, as clock_timestamp() is, is a
// filter and no condition of the index.
func TestWhatIsDueIsFoundByItsIndex(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for function, conditions := range map[string][]string{
		"due_retries":       {"step_retrying retry_at"},
		"due_waits":         {"step_waiting wait_until"},
		"due_runs":          {"run_deadline deadline"},
		"lost_wake_ups":     {"step_due due_at"},
		"delete_expired":    {"idempotency_key_expiry expires_at"},
		"expire_uploads":    {"artifact_pending created_at"},
		"condemned_objects": {"object_condemned kind", "object_condemned created_at"},
		"expire_signals":    {"inbox_expiry expires_at"},
	} {
		body := one[string](t, s, "SELECT prosrc FROM pg_proc WHERE pronamespace = 'nofx'::regnamespace AND proname = '"+function+"'")
		for _, begin := range []string{"BEGIN", "RETURN QUERY"} { // of PL/pgSQL, whose one statement is looked at
			if _, rest, found := strings.Cut(body, begin); found {
				body, _, _ = strings.Cut(rest, ";")
			}
		}
		body = regexp.MustCompile(`\bp_limit\b`).ReplaceAllString(body, "200")
		body = regexp.MustCompile(`\bp_rows\b`).ReplaceAllString(body, "200")
		body = regexp.MustCompile(`\bp_at\b`).ReplaceAllString(body, "'-infinity'::timestamptz")
		body = regexp.MustCompile(`\bp_step\b`).ReplaceAllString(body, "'"+uuid.Nil.String()+"'::uuid")
		body = regexp.MustCompile(`\bp_(ttl|lost)\b`).ReplaceAllString(body, "interval '5 s'")
		body = regexp.MustCompile(`\bp_after\b`).ReplaceAllString(body, "'-infinity'::timestamptz")
		var plan string
		err := pgx.BeginFunc(s.ctx, s.Admin, func(tx pgx.Tx) error {
			// Tables that hold nothing are scanned whatever indexes they have.
			if _, err := tx.Exec(s.ctx, "SET LOCAL search_path = nofx, pg_temp; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"); err != nil {
				return err
			}
			rows, err := tx.Query(s.ctx, "EXPLAIN "+body)
			if err != nil {
				return err
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			plan = strings.Join(lines, "\n")
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v", function, err)
		}
		rest := plan
		for _, c := range conditions {
			index, column, _ := strings.Cut(c, " ")
			found := regexp.MustCompile(" using " + index + ` on .*\n *Index Cond: \(.*\b` + column + ` (<=|=) .*`).FindStringIndex(rest)
			if found == nil {
				t.Errorf("%s has no condition on %s of index %s, or not as often:\n%s", function, column, index, plan)
				continue
			}
			rest = rest[:found[0]] + rest[found[1]:]
		}
	}
}
