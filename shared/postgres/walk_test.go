package postgres_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// walk is many actors at random on a few runs: workers that claim and finish in
// every way, some of them zombies; people who decide and cancel; sweepers.
type walk struct {
	*store

	mu     sync.Mutex
	runs   []uuid.UUID
	claims []*postgres.Claim // open, also those whose lease is long gone
	gates  []uuid.UUID

	acts, fenced, conflicts atomic.Int64
}

// dag returns a random graph of n steps, edges from earlier to later ones.
func dag(r *rand.Rand, n int) []string {
	lines := make([]string, n)
	for i := range lines {
		var deps []string
		for j := range i {
			if r.IntN(4) == 0 {
				deps = append(deps, fmt.Sprint("s", j))
			}
		}
		lines[i] = fmt.Sprintf("s%d: %s", i, strings.Join(deps, " "))
	}
	return lines
}

// act does one thing at random. Refusals by kind are part of the game; any
// other error ends it.
func (w *walk) act(r *rand.Rand) error {
	w.acts.Add(1)
	err := w.one(r)
	switch {
	case errors.Is(err, fault.Fenced), fault.KindOf(err) == fault.Unavailable && strings.Contains(err.Error(), "the lease has expired"):
		w.fenced.Add(1)
	case errors.Is(err, fault.Conflict):
		w.conflicts.Add(1)
	default:
		return err
	}
	return nil
}

func (w *walk) one(r *rand.Rand) error {
	switch p := r.IntN(1000); {
	case p < 30:
		return w.createSome(r)
	case p < 400:
		return w.claimSome(r)
	case p < 800:
		return w.finishSome(r)
	case p < 880:
		return w.decideSome(r)
	case p < 885:
		w.mu.Lock()
		id := w.runs[r.IntN(len(w.runs))]
		w.mu.Unlock()
		_, err := w.CancelRun(w.ctx, w.tenant, id, postgres.Verb{Reason: "enough"})
		return err
	case p < 900:
		_, err := w.Admin.Exec(w.ctx, `UPDATE nofx.step_lease SET lease_until = clock_timestamp()
			WHERE step_id IN (SELECT step_id FROM nofx.step_lease ORDER BY random() LIMIT 1)`)
		return err
	case p < 950:
		_, err := w.Admin.Exec(w.ctx, `UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 s',
				due_at = CASE state WHEN 'ready' THEN clock_timestamp() - interval '1 s' END, retry_at = CASE state WHEN 'retrying' THEN clock_timestamp() - interval '1 s' END
			WHERE state IN ('ready', 'retrying') AND id IN (SELECT id FROM nofx.step WHERE state IN ('ready', 'retrying') ORDER BY random() LIMIT 1)`)
		return err
	}
	return w.sweepAll()
}

func (w *walk) createSome(r *rand.Rand) error {
	p, err := lines(dag(r, 2+r.IntN(12))...).Normalise()
	if err != nil {
		return err
	}
	made, _, err := w.CreateRun(w.ctx, w.tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "author"})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs = append(w.runs, made.ID)
	return err
}

// claimSome takes any ready step, or tries one that may not be by now.
func (w *walk) claimSome(r *rand.Rand) error {
	var step uuid.UUID
	var seq int64
	err := w.Admin.QueryRow(w.ctx, "SELECT id, wake_seq FROM nofx.step WHERE state = 'ready' OR $1 ORDER BY random() LIMIT 1", r.IntN(20) == 0).Scan(&step, &seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	} else if err != nil {
		return err
	}
	pre := func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) {
		return checkpoint(run.PreCheckpoint), nil
	}
	c, err := w.Claim(w.ctx, wakeUp(w.tenant, step, seq), postgres.Worker{ID: fmt.Sprint("w", r.IntN(3))}, ttl, pre)
	if c != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.claims = append(w.claims, c)
	}
	return err
}

func (w *walk) finishSome(r *rand.Rand) error {
	w.mu.Lock()
	if len(w.claims) == 0 {
		w.mu.Unlock()
		return nil
	}
	// One of the latest, mostly, and some of its run in the same transaction. They
	// stay: some finish twice, some too late.
	first := w.claims[max(0, len(w.claims)-1-r.IntN(min(len(w.claims), 12+r.IntN(40))))]
	claims, more := []*postgres.Claim{first}, r.IntN(4)
	for _, c := range slices.Backward(w.claims) {
		if len(claims) <= more && c.RunID == first.RunID && !slices.ContainsFunc(claims, func(o *postgres.Claim) bool { return o.StepID == c.StepID }) {
			claims = append(claims, c)
		}
	}
	w.mu.Unlock()
	outcomes := []string{"succeed", "succeed", "succeed", "succeed", "succeed", "succeed", "retry", "interrupted", "timer", "approval", "gate failed", "fail"}
	batch := make([]postgres.Finish, len(claims))
	for i, c := range claims {
		f := outcome(c, outcomes[r.IntN(len(outcomes)-r.IntN(2))])
		if f.Outcome == "succeed" {
			f.Checkpoints = append(f.Checkpoints, checkpoint(run.PostCheckpoint))
			if r.IntN(2) == 0 {
				f.Chain = &postgres.Chain{Queue: run.StepQueue, Pre: noCheckpoint}
			}
		}
		batch[i] = f
	}
	done, err := w.FinishSteps(w.ctx, batch, postgres.Worker{ID: fmt.Sprint("w", r.IntN(3))}, ttl)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, d := range done {
		if d.Err == nil && batch[i].Gate != nil {
			w.gates = append(w.gates, batch[i].Gate.ID)
		}
		if d.Next != nil {
			w.claims = append(w.claims, d.Next)
		}
		err = cmp.Or(err, d.Err)
	}
	return err
}

func (w *walk) decideSome(r *rand.Rand) error {
	w.mu.Lock()
	if len(w.gates) == 0 {
		w.mu.Unlock()
		return nil
	}
	gate := w.gates[r.IntN(len(w.gates))]
	w.mu.Unlock()
	_, err := w.decide(gate, []string{"approve", "approve", "waive", "reject"}[r.IntN(4)])
	if errors.Is(err, fault.NotFound) { // of a finish that was sent twice
		return nil
	}
	return err
}

func (w *walk) sweepAll() error {
	rules := postgres.SweepRules{LeaseRules: postgres.LeaseRules{Gap: time.Hour}, Limit: 20, Lost: time.Minute}
	due, err := w.due(w.ctx, rules)
	if err != nil {
		return err
	}
	for _, d := range due {
		if _, err := w.Sweep(w.ctx, d, rules, func() error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// Whatever many actors do at once, the invariants hold: while they do it, and
// when all is quiet.
func TestRandomWalks(t *testing.T) {
	t.Parallel()
	const walks, actors, acts = 4, 8, 400 // some ten thousand transitions
	for i := range walks {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			w := &walk{store: setupWith(t, postgres.Config{MaxConns: actors})}
			first, _ := w.create(t, "s0:")
			w.runs = append(w.runs, first.ID)
			var wg sync.WaitGroup
			for n := range actors {
				r := rand.New(rand.NewPCG(seed, uint64(100+n)))
				wg.Go(func() {
					for range acts {
						if err := w.act(r); err != nil {
							t.Errorf("an actor met %v", err)
							return
						}
					}
				})
			}
			wg.Wait()
			w.wantSound(t)
			total := one[int64](t, w.store, "SELECT count(*) FROM nofx.event WHERE event IS NOT NULL")
			t.Logf("%d acts: %d transitions, %d fenced, %d conflicts; runs end as %v", w.acts.Load(), total, w.fenced.Load(), w.conflicts.Load(),
				all[string](t, w.store, "SELECT count(*) || ' ' || state FROM nofx.run GROUP BY state ORDER BY state"))
			if n := one[int](t, w.store, "SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
				t.Errorf("deadlocks = %d, want 0", n)
			}
			w.finishAll(t)
			w.wantSound(t)
		})
	}
}

// finishAll lets every run come to its end: nothing that happened may have left
// one without a way on.
func (w *walk) finishAll(t *testing.T) {
	t.Helper()
	for range 200 {
		live := all[uuid.UUID](t, w.store, "SELECT id FROM nofx.run WHERE state IN ('queued', 'running', 'waiting')")
		if len(live) == 0 {
			return
		}
		w.exec(t, `UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 hour', due_at = CASE state WHEN 'ready' THEN clock_timestamp() - interval '1 hour' END,
			retry_at = CASE state WHEN 'retrying' THEN clock_timestamp() - interval '1 hour' END WHERE state IN ('ready', 'retrying')`)
		w.exec(t, "UPDATE nofx.step_lease SET lease_until = clock_timestamp()")
		for _, gate := range all[uuid.UUID](t, w.store, "SELECT id FROM nofx.gate WHERE state = 'pending'") {
			if _, err := w.decide(gate, "approve"); err != nil {
				t.Fatalf("DecideGate(%s) = %v, want nil", gate, err)
			}
		}
		// All leases, not a slice of them: a step that lost two is claimed by a worker
		// that holds no other.
		for ok := true; ok; ok = one[bool](t, w.store, "SELECT EXISTS (SELECT FROM nofx.step_lease)") {
			if err := w.sweepAll(); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range all[uuid.UUID](t, w.store, "SELECT id FROM nofx.step WHERE state = 'ready' AND ready_at <= clock_timestamp()") {
			w.do(t, step, "succeed")
		}
	}
	t.Errorf("runs that do not end: %v", all[string](t, w.store, "SELECT r.id || ' ' || r.state || ' ' || string_agg(s.state, ' ') FROM nofx.run r JOIN nofx.step s ON s.run_id = r.id WHERE r.state IN ('queued', 'running', 'waiting') GROUP BY r.tenant_id, r.id"))
}
