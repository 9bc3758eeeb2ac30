package step

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

func quietKeeper(ttl time.Duration) *keeper {
	return newKeeper(nil, ttl, slog.New(slog.DiscardHandler), telemetry.NewMetrics(prometheus.NewRegistry(), "test"))
}

// A worker may get a step again before it learned that its lease is lost. The attempt
// that it still runs ends, whatever it waits for, and the next one begins after that.
func TestHoldTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := quietKeeper(5 * time.Second)
		id := uuid.New()
		claim := func(fence int64) *postgres.Claim { return &postgres.Claim{StepID: id, Fence: fence} }
		ctx1, lose1 := context.WithCancelCause(t.Context())
		ctx2, lose2 := context.WithCancelCause(t.Context())
		ctx3, lose3 := context.WithCancelCause(t.Context())
		first := k.hold(claim(1), time.Now().Add(-time.Hour), lose1) // no longer young
		waiting := make(chan error, 1)
		go func() { waiting <- k.fresh(ctx1, claim(1)) }() // as a finish does
		asked := k.leases()                                // a heartbeat on its way
		synctest.Wait()

		second := k.hold(claim(3), time.Now(), lose2)
		if err := <-waiting; !errors.Is(err, fault.Fenced) {
			t.Errorf("fresh(first) = %v, want fenced", err)
		}
		if err := context.Cause(ctx1); !errors.Is(err, fault.Fenced) {
			t.Errorf("cause of the first attempt's context = %v, want fenced", err)
		}
		alone := make(chan error, 2)
		go func() { alone <- second.alone(ctx2) }()
		k.confirm(asked, nil, nil, time.Now()) // the answer: lease 1 is lost
		if got := k.leases(); len(got) != 1 || got[0].Fence != 3 {
			t.Errorf("leases() = %v, want that of the second attempt", got)
		}

		third := k.hold(claim(5), time.Now(), lose3)
		if err := <-alone; !errors.Is(err, fault.Fenced) {
			t.Errorf("alone(second) = %v, want fenced", err)
		}
		k.release(second)
		go func() { alone <- third.alone(ctx3) }()
		synctest.Wait()
		select {
		case err := <-alone:
			t.Errorf("alone(third) = %v while the first attempt runs, want it to wait", err)
		default:
		}
		k.release(first)
		if err := <-alone; err != nil {
			t.Errorf("alone(third) = %v when the others have ended, want nil", err)
		}
		if err := k.fresh(ctx3, claim(5)); err != nil {
			t.Errorf("fresh(third) = %v, want nil", err)
		}
		k.release(third)
		if len(k.held) != 0 {
			t.Errorf("held = %v at the end, want nothing", k.held)
		}
	})
}

// What another transaction has locked is neither renewed nor lost.
func TestConfirm(t *testing.T) {
	t.Parallel()
	k := quietKeeper(5 * time.Second)
	long := time.Now().Add(-time.Hour)
	var claims []*postgres.Claim
	var lost []bool
	for i := range 3 {
		c := &postgres.Claim{StepID: uuid.New(), Fence: 1}
		claims, lost = append(claims, c), append(lost, false)
		k.hold(c, long, func(error) { lost[i] = true })
	}
	k.confirm(k.leases(), []uuid.UUID{claims[0].StepID}, []uuid.UUID{claims[1].StepID}, time.Now())
	for i, want := range []struct{ young, lost bool }{{true, false}, {false, false}, {false, true}} {
		h := k.held[claims[i].StepID]
		if got := h.renewed != long; got != want.young || lost[i] != want.lost || h.lost != want.lost {
			t.Errorf("lease %d: renewed %v, lost %v, want %v and %v", i, got, lost[i], want.young, want.lost)
		}
	}
}

// An outage of the database costs no work, however long it lasts up to the limit and
// however it looks from here: refused connections or a network that swallows
// everything. All workers go on with what they ran, nothing runs twice, and nothing is
// left behind.
func TestOutageCostsNoWork(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*proxy){"refused": (*proxy).refuse, "swallowed": (*proxy).swallow} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			dir := t.TempDir()
			p := newProxy(t, b.AppURL)
			var workers []*Worker
			for range 2 {
				w, _ := b.worker(t, func(c *Config) {
					c.Concurrency = 2
					for _, db := range []**postgres.DB{&c.Work, &c.River, &c.Heartbeat} {
						*db = b.Open(t, postgres.Config{URL: p.url, Patience: 2 * time.Second})
					}
				})
				workers = append(workers, w)
			}
			b.waitFor(t, "the server is older than a lease", "SELECT pg_postmaster_start_time() < clock_timestamp() - interval '5 s'")
			steps := []run.PlanStep{}
			for _, n := range []string{"a", "b", "c", "d"} {
				steps = append(steps, script(n, "echo $$ >> "+filepath.Join(dir, "began-"+n)+"; until [ -e "+filepath.Join(dir, "release")+" ]; do sleep 0.05; done"))
				steps[len(steps)-1].DependsOn = []string{}
			}
			r := b.create(t, steps...)
			b.waitFor(t, "all four run", "SELECT count(*) = 4 FROM nofx.step_lease")
			cut(p)
			// Until every lease has run out for a second: whoever came back first could take them.
			b.waitFor(t, "the leases have run out", "SELECT count(*) = 4 FROM nofx.step_lease WHERE lease_until < clock_timestamp() - interval '1 s'")
			p.heal()
			b.waitFor(t, "all leases are renewed", "SELECT count(*) = 4 FROM nofx.step_lease WHERE lease_until > clock_timestamp()")
			if err := os.WriteFile(filepath.Join(dir, "release"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			d := b.until(t, r.ID, run.Succeeded)
			for _, s := range d.Steps {
				began, err := os.ReadFile(filepath.Join(dir, "began-"+s.Name))
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(string(began), "\n"); n != 1 || s.Attempt != 1 {
					t.Errorf("step %s ran %d times in %d attempts, want once", s.Name, n, s.Attempt)
				}
			}
			if n := b.one(t, "SELECT sum(lost_leases) FROM nofx.step"); n != 0 {
				t.Errorf("lost leases = %d, want 0", n)
			}
			b.waitFor(t, "no job is left running", "SELECT count(*) = 0 FROM river.river_job WHERE state = 'running'")
			for _, w := range workers {
				if n := len(w.keeper.leases()); n != 0 {
					t.Errorf("%s holds %d leases at the end, want none", w.id, n)
				}
			}
		})
	}
}

// waitFor asks a question of the database until the answer is yes.
func (b *bundle) waitFor(t *testing.T, what, question string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for yes := false; ; {
		if err := b.Admin.QueryRow(ctx, question).Scan(&yes); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if yes {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited a minute until %s", what)
		}
	}
}
