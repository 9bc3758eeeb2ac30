package postgres_test

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// tryPairs is the harness inside the database, in a schema of its own. As a login that may do
// what gateways and workers may, it
// does the first statement, and after it each of the second ones, undoing it again. It
// returns how many it tried, in a row without a second, none when the first fails; and
// the seconds that worked, each with what was not sound afterwards or "". p_held says
// that the caller may take edges that need a lease.
const tryPairs = `
CREATE SCHEMA guard;
CREATE FUNCTION guard.broken(p_run uuid, p_held boolean, p_seq bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT string_agg(q.what, '; ') FROM (
		SELECT 'run ' || r.state || ' at version ' || r.version || ' has ' || count(e.seq) || ' events of its state, the last to ' || coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], '-') AS what
		FROM nofx.run r LEFT JOIN nofx.event e ON e.run_id = r.id AND e.event IS NOT NULL AND e.type LIKE 'run.%' WHERE r.id = p_run
		GROUP BY r.id, r.state, r.version HAVING r.version <> 1 + count(e.seq) OR r.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'queued')
		UNION ALL
		SELECT 'step ' || s.state || ' at version ' || s.version || ' has ' || count(e.seq) || ' events of its state'
		FROM nofx.step s LEFT JOIN nofx.event e ON e.run_id = s.run_id AND e.step_id = s.id AND e.event IS NOT NULL AND e.type LIKE 'step.%' WHERE s.run_id = p_run
		GROUP BY s.id, s.state, s.version HAVING s.version <> 1 + count(e.seq) OR s.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'pending')
		UNION ALL
		SELECT 'gate ' || g.state || ' at version ' || g.version || ' has ' || count(e.seq) || ' events of its state'
		FROM nofx.gate g LEFT JOIN nofx.event e ON e.run_id = g.run_id AND e.data->>'gate_id' = nofx.public_id('gate', g.id) AND e.event IS NOT NULL WHERE g.run_id = p_run
		GROUP BY g.id, g.state, g.version HAVING g.version <> 1 + count(e.seq) OR g.state <> coalesce((array_agg(e.to_state ORDER BY e.seq DESC))[1], 'pending')
		UNION ALL
		SELECT 'event_seq is ' || r.event_seq || ' after ' || count(e.seq) || ' events'
		FROM nofx.run r LEFT JOIN nofx.event e ON e.run_id = r.id WHERE r.id = p_run GROUP BY r.id, r.event_seq HAVING r.event_seq <> count(e.seq) OR r.event_seq <> max(e.seq)
		UNION ALL
		SELECT 'the counters of the run are not those of its steps'
		FROM nofx.run r JOIN nofx.step s ON s.run_id = r.id WHERE r.id = p_run GROUP BY r.tenant_id, r.id
		HAVING (r.pending_steps, r.ready_steps, r.running_steps, r.retrying_steps, r.waiting_steps, r.failed_steps) <> (
			count(*) FILTER (WHERE s.state = 'pending'), count(*) FILTER (WHERE s.state = 'ready'), count(*) FILTER (WHERE s.state = 'running'),
			count(*) FILTER (WHERE s.state = 'retrying'), count(*) FILTER (WHERE s.state = 'waiting'), count(*) FILTER (WHERE s.state = 'failed'))
		UNION ALL
		SELECT 'step ' || s.state || ' and its lease' FROM nofx.step s LEFT JOIN nofx.step_lease l ON l.step_id = s.id
		WHERE s.run_id = p_run AND ((s.state = 'running') <> (l.step_id IS NOT NULL) OR l.fence <> s.fence)
		UNION ALL
		SELECT e.type || ' by ' || e.event || ' without the lease' FROM nofx.event e
		JOIN nofx.transition t ON t.machine = split_part(e.type, '.', 1) AND t.from_state = e.from_state AND t.event = e.event AND t.needs_lease
		WHERE e.run_id = p_run AND e.seq > p_seq AND NOT p_held
	) AS q);
END
$$;
CREATE FUNCTION guard.try_pairs(p_tenant text, p_run uuid, p_held boolean, p_first text, p_seconds text[]) RETURNS TABLE (second text, broken text) LANGUAGE plpgsql AS $$
DECLARE
	v_seq bigint := (SELECT event_seq FROM nofx.run WHERE id = p_run);
	v_done text[] := '{}';
	v_broken text[] := '{}';
	v_tries int := 0;
BEGIN
	BEGIN
		PERFORM set_config('nofx.tenant_id', p_tenant, true), set_config('nofx.actor', 'tester', true);
		SET LOCAL ROLE pgtest_both;
		EXECUTE p_first;
		FOREACH second IN ARRAY p_seconds LOOP
			BEGIN
				EXECUTE second;
				RESET ROLE;
				SET LOCAL search_path = public;
				v_done := v_done || second;
				v_broken := v_broken || coalesce(guard.broken(p_run, p_held, v_seq), '');
				RAISE EXCEPTION USING ERRCODE = 'P0999';
			EXCEPTION WHEN OTHERS THEN -- it did nothing, or has been undone
				v_tries := v_tries + 1;
			END;
		END LOOP;
		RAISE EXCEPTION USING ERRCODE = 'P0999';
	EXCEPTION WHEN OTHERS THEN -- the first did nothing, or has been undone
		NULL;
	END;
	IF v_tries NOT IN (0, cardinality(p_seconds)) OR cardinality(v_done) <> cardinality(v_broken) THEN
		RAISE 'the harness lost its way after % tries', v_tries;
	END IF;
	RETURN QUERY SELECT NULL, v_tries::text UNION ALL SELECT * FROM unnest(v_done, v_broken);
END
$$`

// scene is a run whose states are to be changed, and what a caller knows of it.
type scene struct {
	run, step, gate uuid.UUID
	fence, wake     int64
	held            bool // the fence is the step's, and its lease holds
	lapsed          bool // its lease has run out, so that a heartbeat renews it
}

// scenes returns runs in which each machine has something to do.
func (s *store) scenes(t *testing.T) map[string]scene {
	t.Helper()
	claimed := func() (run.Run, *postgres.Claim) {
		r, steps := s.create(t, "a:", "b: a")
		return r, s.claim(t, steps["a"].ID)
	}
	all := map[string]scene{}
	r, steps := s.create(t, "a:", "b: a")
	all["ready"] = scene{run: r.ID, step: steps["a"].ID, wake: 1}
	r, c := claimed()
	all["running"] = scene{run: r.ID, step: c.StepID, fence: c.Fence, held: true}
	r, c = claimed()
	all["running under another fence"] = scene{run: r.ID, step: c.StepID, fence: c.Fence - 1}
	r, c = claimed()
	s.exec(t, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 minute' WHERE step_id = $1", c.StepID)
	all["running, its lease run out"] = scene{run: r.ID, step: c.StepID, fence: c.Fence, lapsed: true}
	r, steps, gate := s.waiting(t)
	all["waiting"] = scene{run: r.ID, step: steps["m"].ID, gate: gate, fence: 1}
	return all
}

// calls returns statements that call a function as somebody would who wants a state
// changed: arguments by their names, each event and kind that there is.
func (sc scene) calls(name string, params, types []string) (calls []string) {
	id := func(id uuid.UUID) string {
		if id == (uuid.UUID{}) {
			return "NULL"
		}
		return "'" + id.String() + "'"
	}
	item := fmt.Sprintf(`{"run_id": "%s", "step_id": "%s", "fence": %d, "wake_seq": %d, "job_id": 1, "delay_s": 0, "reason": "because", "traceparent": "00-%032d-%016d-01", "trace_id": "%032d", "span_id": "%016d"`,
		sc.run, sc.step, sc.fence, sc.wake, 1, 1, 1, 1)
	args := [][]string{{}}
	for i, param := range params {
		var values []string
		switch typ := types[i]; {
		case param == "p_run":
			values = []string{id(sc.run)}
		case param == "p_step":
			values = []string{id(sc.step)}
		case param == "p_gate":
			values = []string{id(sc.gate)}
		case param == "p_steps" && typ == "uuid[]":
			values = []string{"ARRAY[" + id(sc.step) + "]::uuid[]"}
		case param == "p_fences":
			values = []string{fmt.Sprintf("ARRAY[%d]::bigint[]", sc.fence)}
		case param == "p_fence":
			values = []string{fmt.Sprint(sc.fence)}
		case param == "p_event":
			values = eventsOf(name)
		case param == "p_kind":
			values = []string{"'lease'", "'retry'", "'wait'", "'wakeup'"}
		case param == "p_reason":
			values = []string{"'because'"}
		case typ == "interval":
			values = []string{"'1 s'"}
		case typ == "integer":
			values = []string{"10"}
		case typ == "boolean":
			values = []string{"true"}
		case name == "finish_steps" && typ == "jsonb":
			for _, outcome := range []string{"succeed", "fail", "retry", "interrupted"} {
				values = append(values, "'["+item+`, "outcome": "`+outcome+`"}]'`)
			}
			values = append(values, "'["+item+`, "outcome": "wait", "wait": {"kind": "timer", "after_s": 1}}]'`)
		case typ == "jsonb":
			values = []string{"'[" + item + "}]'"}
		default:
			values = []string{"NULL"}
		}
		var next [][]string
		for _, a := range args {
			for _, v := range values {
				next = append(next, append(slices.Clone(a), v+"::"+types[i]))
			}
		}
		args = next
	}
	for _, a := range args {
		calls = append(calls, "SELECT nofx."+name+"("+strings.Join(a, ", ")+")")
	}
	return calls
}

// eventsOf returns the events of the machine that a function moves.
func eventsOf(function string) (events []string) {
	of := run.RunMachine
	for _, m := range run.Machines {
		if strings.Contains(function, m.String()) {
			of = m
		}
	}
	for _, tr := range of.Transitions() {
		if event := "'" + tr.Event + "'"; !slices.Contains(events, event) {
			events = append(events, event)
		}
	}
	return events
}

// TestNoWayAroundTheGuards takes every function that a login may execute, and every
// setting that it may set and that a function of ours reads, or that Postgres knows by
// a list of values, and tries all orders of two: no state changes without its event,
// the run's counters and, where the edge needs it, the lease. Of two calls the first is
// one that works, since one that fails has done nothing.
func TestNoWayAroundTheGuards(t *testing.T) {
	t.Parallel()
	s := setup(t)
	if _, err := s.Admin.Exec(s.ctx, tryPairs); err != nil {
		t.Fatal(err)
	}
	type function struct {
		name          string
		params, types []string
		source        string
	}
	rows, err := s.Admin.Query(s.ctx, `
		SELECT p.proname, coalesce(p.proargnames[1:p.pronargs], '{}'), ARRAY(SELECT format_type(a.t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n) ORDER BY n),
			CASE WHEN has_function_privilege('pgtest_both', p.oid, 'EXECUTE') THEN '' ELSE 'denied' END || pg_get_functiondef(p.oid)
		FROM pg_proc p WHERE p.pronamespace = 'nofx'::regnamespace AND p.prorettype <> 'trigger'::regtype ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	functions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f function, err error) {
		return f, row.Scan(&f.name, &f.params, &f.types, &f.source)
	})
	if err != nil {
		t.Fatal(err)
	}
	// The guards' own settings, as they are read or were once, and those of Postgres.
	settings := []string{"nofx.telling", "nofx.batched"}
	reads := regexp.MustCompile(`'(nofx\.[a-z_]+)'`)
	for _, source := range all[string](t, s, "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'nofx'::regnamespace AND prokind = 'f'") {
		for _, m := range reads.FindAllStringSubmatch(source, -1) {
			if m[1] != "nofx.tenant_id" && !slices.Contains(settings, m[1]) { // in another tenant there is nothing to change
				settings = append(settings, m[1])
			}
		}
	}
	var firsts []string
	for _, name := range settings {
		for _, value := range []string{"on", strings.Repeat("1", 55)} {
			firsts = append(firsts, fmt.Sprintf("SELECT set_config('%s', '%s', true)", name, value))
		}
	}
	general := all[string](t, s, `
		SELECT format('SELECT set_config(%L, %L, true)', s.name, v.value) FROM pg_settings s, LATERAL unnest(
			CASE s.vartype WHEN 'bool' THEN ARRAY[CASE s.setting WHEN 'on' THEN 'off' ELSE 'on' END] ELSE s.enumvals END) AS v (value)
		WHERE s.vartype IN ('bool', 'enum') AND v.value <> s.setting AND s.name NOT LIKE 'enable\_%' AND s.name NOT LIKE '%debug%' AND s.name NOT LIKE 'log\_%'
			AND s.name NOT IN ('default_transaction_isolation', 'transaction_isolation', 'client_min_messages', 'exit_on_error') ORDER BY 1`)

	for name, sc := range s.scenes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls []string
			for _, f := range functions {
				if !strings.HasPrefix(f.source, "denied") {
					calls = append(calls, sc.calls(f.name, f.params, f.types)...)
				}
			}
			var pairs, did int
			try := func(first string, seconds []string) (worked []string) {
				held := sc.held || sc.lapsed && strings.Contains(first, "nofx.heartbeat(")
				rows, err := s.Admin.Query(s.ctx, "SELECT second, broken FROM guard.try_pairs($1, $2, $3, $4, $5)", s.tenant.String(), sc.run, held, first, seconds)
				if err != nil {
					t.Fatal(err)
				}
				var second *string
				var broken string
				if _, err := pgx.ForEachRow(rows, []any{&second, &broken}, func() error {
					if second == nil {
						n, err := strconv.Atoi(broken)
						pairs += n
						return err
					}
					worked = append(worked, *second)
					if broken != "" {
						t.Errorf("%s; %s: %s", first, *second, broken)
					}
					return nil
				}); err != nil {
					t.Fatalf("%s: %v", first, err)
				}
				did += len(worked)
				return worked
			}
			works := try("SELECT", calls)
			for _, first := range slices.Concat(firsts, works) {
				try(first, calls)
				if t.Failed() {
					return // one way is enough, and there are thousands of pairs
				}
			}
			if sc.lapsed {
				for _, first := range general {
					try(first, works)
				}
			}
			t.Logf("%d calls, %d of them work; %d pairs tried, %d of them worked", len(calls), len(works), pairs, did)
			if len(works) < 10 {
				t.Errorf("%d calls work, want more: the test looks at nothing", len(works))
			}
		})
	}
}
