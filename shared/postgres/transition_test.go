package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/machine"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// The machines of package run are the rows of nofx.transition and
// nofx.machine_state.
func TestMachinesMirrorDatabase(t *testing.T) {
	t.Parallel()
	s := setup(t)
	rows, err := s.Admin.Query(s.ctx, `SELECT machine, from_state, event, to_state, needs_lease, needs_reason
		FROM nofx.transition ORDER BY machine COLLATE "C", from_state COLLATE "C", event COLLATE "C"`)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByPos[machine.Transition])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, transitions()); diff != "" {
		t.Errorf("transitions differ from nofx.transition (-table +Go):\n%s", diff)
	}
	for _, m := range run.Machines {
		var want, ends []string
		for _, state := range m.States() {
			want = append(want, string(state))
			if m.Terminal(state) {
				ends = append(ends, string(state))
			}
		}
		slices.Sort(want)
		slices.Sort(ends)
		const sql = `SELECT state FROM nofx.machine_state WHERE machine = $1 AND (terminal OR NOT $2) ORDER BY state COLLATE "C"`
		if got := all[string](t, s, sql, m.String(), false); !slices.Equal(got, want) {
			t.Errorf("states of %s = %v, want %v", m.String(), want, got)
		}
		if got := all[string](t, s, sql, m.String(), true); !slices.Equal(got, ends) {
			t.Errorf("terminal states of %s = %v, want %v", m.String(), ends, got)
		}
	}
	if n := one[int](t, s, "SELECT count(DISTINCT machine) FROM nofx.machine_state"); n != len(run.Machines) {
		t.Errorf("machines in the database = %d, want %d", n, len(run.Machines))
	}
}

// transitions returns the transitions of all machines.
func transitions() (all []machine.Transition) {
	for _, m := range run.Machines {
		all = append(all, m.Transitions()...)
	}
	return all
}

// subject is a row of a machine in some state.
type subject struct {
	machine *machine.Machine
	id      uuid.UUID
	fence   int64
}

// place makes a row of a machine in any state, past the guards: only the edges
// out of it are under test. A running step has its lease, and so has the step of
// a gate. A run has no live step, so that it may end.
func (s *store) place(t *testing.T, m *machine.Machine, state run.State) subject {
	t.Helper()
	r, steps := s.create(t, "a:")
	step := steps["a"].ID
	sub := subject{machine: m}
	forced := []string{"SET LOCAL session_replication_role = replica"}
	set := func(table string, id uuid.UUID, more string) {
		forced = append(forced, fmt.Sprintf("UPDATE nofx.%s SET state = '%s', event = NULL%s WHERE id = '%s'", table, state, more, id))
	}
	switch m {
	case run.RunMachine:
		sub.id = r.ID
		set("run", r.ID, ", ready_steps = 0")
		forced = append(forced, fmt.Sprintf("UPDATE nofx.step SET state = 'skipped' WHERE id = '%s'", step))
	case run.StepMachine:
		c := s.claim(t, step)
		sub.id, sub.fence = step, c.Fence
		set("step", step, ", wait_until = clock_timestamp() + interval '1 hour'")
		// The counters follow, so that they can be counted down again.
		column := "running_steps"
		switch state {
		case run.Pending, run.Ready, run.Running, run.Retrying, run.Waiting, run.Failed:
			column = string(state) + "_steps"
		}
		forced = append(forced, fmt.Sprintf("UPDATE nofx.run SET running_steps = 0 WHERE id = '%s'", r.ID),
			fmt.Sprintf("UPDATE nofx.run SET %s = 1 WHERE id = '%s'", column, r.ID))
		if state != run.Running {
			forced = append(forced, fmt.Sprintf("DELETE FROM nofx.step_lease WHERE step_id = '%s'", step))
		}
	case run.GateMachine:
		c := s.claim(t, step)
		sub.id, sub.fence = run.NewID(), c.Fence
		s.exec(t, `INSERT INTO nofx.gate (tenant_id, id, run_id, step_id, round, name, kind, input_digest, trace_id, expires_at)
			VALUES ($1, $2, $3, $4, 1, 'g', 'manual', 'sha256:in', repeat('0', 32), clock_timestamp() + interval '1 hour')`, s.tenant, sub.id, r.ID, step)
		set("gate", sub.id, "")
	case run.MergeMachine:
		other, _ := s.create(t, "a:")
		sub.id = run.NewID()
		s.exec(t, `INSERT INTO nofx.merge (tenant_id, id, target_run_id, source_run_id, target_head, source_head, target_leaves, source_leaves, base_id, strategy, mode, created_by)
			VALUES ($1, $2, $3, $4, $2, $2, '{}', '{}', $2, 'manual', 'normal', 'tester')`, s.tenant, sub.id, r.ID, other.ID)
		set("merge", sub.id, "")
	case review.Machine, review.FindingMachine:
		c := s.claim(t, step)
		sub.id, sub.fence = run.NewID(), c.Fence
		s.exec(t, `INSERT INTO nofx.review (tenant_id, id, run_id, step_id, provider, change, created_by) VALUES ($1, $2, $3, $4, 'diff', 'c', 'tester')`, s.tenant, sub.id, r.ID, step)
		if m == review.Machine {
			set("review", sub.id, "")
			break
		}
		of := sub.id
		sub.id = run.NewID()
		s.exec(t, `INSERT INTO nofx.finding (tenant_id, id, change, provider, repository, pull_request, fingerprint, path, category, severity, confidence, title, body, anchor, first_review_id, last_review_id)
			VALUES ($1, $2, $3, 'diff', '', 0, $3, 'a', 'style', 'low', 1, 't', 'b', '{}', $4, $4)`, s.tenant, sub.id, sub.id.String(), of)
		scope := ""
		if state == review.Dismissed {
			scope = ", scope = 'this'"
		}
		set("finding", sub.id, scope)
	}
	if err := pgx.BeginFunc(s.ctx, s.Admin, func(tx pgx.Tx) error {
		_, err := tx.Exec(s.ctx, strings.Join(forced, ";"))
		return err
	}); err != nil {
		t.Fatalf("place(%s, %s): %v", m, state, err)
	}
	return sub
}

// in runs sql as a role inside the tenant.
func (s *store) in(ctx context.Context, role, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = pgx.BeginFunc(ctx, s.Admin, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+role+"; SELECT set_config('nofx.tenant_id', '"+s.tenant.String()+"', true)"); err != nil {
			return err
		}
		tag, err = tx.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// allEvents returns the events that some machine knows, and one that none does.
func allEvents() []string {
	events := []string{"bogus"}
	for _, tr := range transitions() {
		if !slices.Contains(events, tr.Event) {
			events = append(events, tr.Event)
		}
	}
	return events
}

func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return fmt.Sprint(err)
}

// By the functions, as their owner, since no login may call all of them, exactly the table passes. A refusal names
// where it stood and what is allowed there.
func TestAllPairsByFunction(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var tried, passed, refused int
	for _, machine := range run.Machines {
		for _, state := range machine.States() {
			sub := s.place(t, machine, state)
			for _, event := range allEvents() {
				what := fmt.Sprintf("%s_transition(%s, %s)", machine, state, event)
				tried++
				edge, legal := edgeOf(machine, state, event)
				if !legal {
					refused++
					s.wantRefusal(t, what, s.transition(sub, event, "because", sub.fence), sub, state, event)
					continue
				}
				passed++
				if edge.NeedsReason {
					if err := s.transition(sub, event, "", sub.fence); sqlState(err) != "NX002" {
						t.Errorf("%s without reason = %v, want NX002", what, err)
					}
				}
				if edge.NeedsLease {
					if err := s.transition(sub, event, "because", sub.fence-1); sqlState(err) != "NX004" {
						t.Errorf("%s under an old fence = %v, want NX004", what, err)
					}
				}
				before := s.eventCount(t, sub)
				if err := s.transition(sub, event, "because", sub.fence); err != nil {
					t.Errorf("%s = %v, want nil", what, err)
				}
				s.wantTaken(t, what, sub, edge, before)
				sub = s.place(t, machine, state) // what an edge has left is not tried again
			}
		}
	}
	t.Logf("by function: %d pairs tried, %d passed, %d refused", tried, passed, refused)
	if passed != len(transitions()) {
		t.Errorf("pairs passed = %d, want the %d of the table", passed, len(transitions()))
	}
}

func (s *store) transition(sub subject, event, reason string, fence int64) error {
	sql := fmt.Sprintf("SELECT nofx.%s_transition($1, $2, nullif($3, ''))", sub.machine.String())
	args := []any{sub.id, event, reason}
	switch sub.machine {
	case run.StepMachine:
		sql, args = strings.Replace(sql, "'')", "''), $4", 1), append(args, fence)
	case run.GateMachine, review.Machine:
		sql, args = strings.Replace(sql, "'')", "''), NULL, $4", 1), append(args, fence)
	}
	_, err := s.in(s.ctx, "nofx_system", sql, args...)
	return err
}

// By raw SQL the application role changes no state at all, and for the tables'
// owner, whom the grants do not stop, the guards let exactly the table pass.
func TestAllPairsByRawSQL(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var tried, passed, refused, denied int
	for _, machine := range run.Machines {
		for _, state := range machine.States() {
			sub := s.place(t, machine, state)
			for _, event := range allEvents() {
				what := fmt.Sprintf("UPDATE %s of %s by %s", machine, state, event)
				edge, legal := edgeOf(machine, state, event)
				to := edge.To
				if !legal {
					to = state
				}
				update := fmt.Sprintf("UPDATE nofx.%s SET state = '%s', event = '%s', version = version + 1, reason = 'because' WHERE id = '%s'",
					machine, to, event, sub.id)
				tried++
				for _, login := range []string{postgres.GatewayRole, postgres.WorkerRole} {
					if _, err := s.in(s.ctx, login, update); sqlState(err) != "42501" {
						t.Errorf("%s as %s = %v, want 42501", what, login, err)
					} else {
						denied++
					}
				}
				if !legal {
					refused++
					_, err := s.in(s.ctx, "nofx_owner", update)
					s.wantRefusal(t, what, err, sub, state, event)
					continue
				}
				passed++
				s.wantGuarded(t, what, sub, edge, update)
				before := s.eventCount(t, sub)
				if tag, err := s.in(s.ctx, "nofx_owner", update); err != nil || tag.RowsAffected() != 1 {
					t.Errorf("%s = %v, %v, want 1 row", what, tag, err)
				}
				s.wantTaken(t, what, sub, edge, before)
				sub = s.place(t, machine, state)
			}
		}
	}
	t.Logf("by raw UPDATE: %d pairs tried; as logins %d denied; as nofx_owner %d passed, %d refused", tried, denied, passed, refused)
	if passed != len(transitions()) {
		t.Errorf("pairs passed = %d, want the %d of the table", passed, len(transitions()))
	}
}

// wantGuarded fails unless the guard stops each way of taking a legal edge
// wrongly.
func (s *store) wantGuarded(t *testing.T, what string, sub subject, edge machine.Transition, update string) {
	t.Helper()
	wrong := run.Succeeded // any state of the machine that the edge does not lead to
	for _, state := range sub.machine.States() {
		if state != edge.To && state != edge.From {
			wrong = state
		}
	}
	tries := map[string]string{
		"NX006 version kept": strings.Replace(update, "version + 1", "version", 1),
		"NX006 version jump": strings.Replace(update, "version + 1", "version + 2", 1),
		"NX006 other state":  strings.Replace(update, "state = '"+string(edge.To)+"'", "state = '"+string(wrong)+"'", 1),
	}
	if sub.machine == run.StepMachine {
		tries["NX006 fence"] = strings.Replace(update, "SET ", "SET fence = fence + 1, ", 1)
	}
	if edge.NeedsReason {
		tries["NX002 no reason"] = strings.Replace(update, "'because'", "NULL", 1)
	}
	for name, sql := range tries {
		if _, err := s.in(s.ctx, "nofx_owner", sql); sqlState(err) != name[:5] {
			t.Errorf("%s, %s = %v, want %s", what, name, err, name[:5])
		}
	}
	if edge.NeedsLease {
		s.exec(t, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() WHERE tenant_id = $1", s.tenant)
		if _, err := s.in(s.ctx, "nofx_owner", update); sqlState(err) != "NX004" {
			t.Errorf("%s without a live lease = %v, want NX004", what, err)
		}
		s.exec(t, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() + interval '1 minute' WHERE tenant_id = $1", s.tenant)
	}
}

func edgeOf(m *machine.Machine, from run.State, event string) (machine.Transition, bool) {
	all := m.Transitions()
	i := slices.IndexFunc(all, func(tr machine.Transition) bool { return tr.From == from && tr.Event == event })
	if i < 0 {
		return machine.Transition{}, false
	}
	return all[i], true
}

func (s *store) wantRefusal(t *testing.T, what string, err error, sub subject, from run.State, event string) {
	t.Helper()
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.Code != "NX001" {
		t.Errorf("%s = %v, want NX001", what, err)
		return
	}
	type refusal struct {
		Machine string
		ID      uuid.UUID
		From    run.State
		Event   string
		Allowed []string
	}
	want := refusal{sub.machine.String(), sub.id, from, event, []string{}}
	for _, tr := range transitions() {
		if tr.Machine == sub.machine.String() && tr.From == from {
			want.Allowed = append(want.Allowed, tr.Event)
		}
	}
	var got refusal
	if err := json.Unmarshal([]byte(pg.Detail), &got); err != nil {
		t.Errorf("%s: detail %q: %v", what, pg.Detail, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: detail (-want +got):\n%s", what, diff)
	}
}

func (s *store) eventCount(t *testing.T, sub subject) int {
	t.Helper()
	return one[int](t, s, "SELECT count(*) FROM nofx.event WHERE "+s.eventsOf(sub), sub.id)
}

func (s *store) eventsOf(sub subject) string {
	switch sub.machine {
	case run.RunMachine:
		return "run_id = $1 AND step_id IS NULL"
	case run.StepMachine:
		return "step_id = $1 AND type LIKE 'step.%'"
	case run.MergeMachine:
		return "data->>'merge_id' = nofx.public_id('mrg', $1)"
	case review.Machine:
		return "data->>'review_id' = nofx.public_id('rev', $1) AND type LIKE 'review.%'"
	case review.FindingMachine:
		return "data->>'finding_id' = nofx.public_id('find', $1)"
	}
	return "data->>'gate_id' = nofx.public_id('gate', $1)"
}

// wantTaken fails unless the row is where the edge leads and one event says so.
func (s *store) wantTaken(t *testing.T, what string, sub subject, edge machine.Transition, before int) {
	t.Helper()
	if got := one[string](t, s, fmt.Sprintf("SELECT state FROM nofx.%s WHERE id = $1", sub.machine), sub.id); got != string(edge.To) {
		t.Errorf("%s: state = %s, want %s", what, got, edge.To)
	}
	if n := s.eventCount(t, sub) - before; n != 1 {
		t.Errorf("%s: %d events, want 1", what, n)
	}
	got := one[string](t, s, `SELECT concat_ws(' ', type, event, from_state, to_state, actor <> '', trace_id = (SELECT r.trace_id FROM nofx.run r WHERE r.id = e.run_id))
		FROM nofx.event e WHERE `+s.eventsOf(sub)+` ORDER BY seq DESC LIMIT 1`, sub.id)
	if want := fmt.Sprintf("%s.%s %s %s %s t t", edge.Machine, edge.To, edge.Event, edge.From, edge.To); got != want {
		t.Errorf("%s: event = %s, want %s", what, got, want)
	}
}

// A person decides manual gates alone: no approval opens a command gate, by
// whatever way, and what is said to be allowed leaves it out.
func TestNobodyApprovesACommandGate(t *testing.T) {
	t.Parallel()
	s := setup(t)
	sub := s.place(t, run.GateMachine, run.Pending)
	s.exec(t, "UPDATE nofx.gate SET kind = 'command'")
	for _, event := range []string{"approve", "reject"} {
		update := fmt.Sprintf("UPDATE nofx.gate SET event = '%s', version = version + 1, reason = 'because'", event)
		_, raw := s.in(s.ctx, "nofx_owner", update)
		for what, err := range map[string]error{"raw": raw, "by function": s.transition(sub, event, "because", sub.fence)} {
			pg, ok := errors.AsType[*pgconn.PgError](err)
			if !ok || pg.Code != "NX001" || !strings.Contains(pg.Detail, `"allowed": ["error", "expire", "fail", "pass", "waive", "withdraw"]`) {
				t.Errorf("%s of a command gate, %s = %v, want NX001 with what is allowed", event, what, err)
			}
		}
	}
}

// A terminal run means terminal steps, whoever writes: neither can a run end
// over a live step, nor a step come back to life below an ended run.
func TestNoRunEndsOverALiveStep(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	for _, sql := range []string{
		"SELECT nofx.run_transition('" + r.ID.String() + "', 'cancel', 'x')",
		"UPDATE nofx.run SET state = 'cancelled', event = 'cancel', version = version + 1, reason = 'x' WHERE id = '" + r.ID.String() + "'",
	} {
		if _, err := s.in(s.ctx, "nofx_system", sql); sqlState(err) != "NX006" {
			t.Errorf("%s over a live step = %v, want NX006", sql, err)
		}
	}
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	_, err := s.in(s.ctx, "nofx_system", "SELECT nofx.step_transition($1, 'reopen', 'x')", steps["a"].ID)
	if sqlState(err) != "NX006" {
		t.Errorf("reopen below a cancelled run = %v, want NX006", err)
	}
	s.wantSound(t)
}

// A claim by whatever way has a lease: without one nobody would ever look at
// the running step again.
func TestEveryClaimHasALease(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:", "b:")
	for name, do := range map[string]func() error{
		"a": func() error {
			_, err := s.in(s.ctx, "nofx_system", "SELECT nofx.step_transition($1, 'claim')", steps["a"].ID)
			return err
		},
		"b": func() error {
			_, err := s.in(s.ctx, "nofx_owner", "UPDATE nofx.step SET event = 'claim', version = version + 1 WHERE id = $1", steps["b"].ID)
			return err
		},
	} {
		if err := do(); err != nil {
			t.Errorf("claim of %s = %v, want nil", name, err)
		}
	}
	s.wantSound(t)
	s.exec(t, "UPDATE nofx.step_lease SET lease_until = clock_timestamp()")
	if made := s.sweep(t, postgres.SweepRules{}); !slices.Equal(made, []string{"lease_expired", "lease_expired"}) {
		t.Errorf("sweep = %v, want both leases expired", made)
	}
}
