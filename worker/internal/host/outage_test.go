package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

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
			p := newProxy(t, b.WorkerURL)
			var workers []*host.Host
			for range 2 {
				w, _ := b.Worker(t, func(c *host.Config) {
					c.Concurrency = 2
					for _, db := range []**postgres.DB{&c.Work, &c.River, &c.Heartbeat} {
						*db = b.Open(t, postgres.Config{URL: p.url, Patience: 2 * time.Second})
					}
				})
				workers = append(workers, w)
			}
			b.Wait(t, "the server is older than a lease", "SELECT pg_postmaster_start_time() < clock_timestamp() - interval '5 s'")
			steps := []run.PlanStep{}
			for _, n := range []string{"a", "b", "c", "d"} {
				steps = append(steps, hosttest.Script(n, "echo $$ >> "+filepath.Join(dir, "began-"+n)+"; until [ -e "+filepath.Join(dir, "release")+" ]; do sleep 0.05; done"))
				steps[len(steps)-1].DependsOn = []string{}
			}
			r := b.Create(t, steps...)
			// Not only claimed: a worker that the answer to a claim has not reached has no work to lose.
			for _, s := range steps {
				eventually(t, "step "+s.Name+" begins", func() bool {
					_, err := os.Stat(filepath.Join(dir, "began-"+s.Name))
					return err == nil
				})
			}
			cut(p)
			// Until every lease has run out for a second: whoever came back first could take them.
			b.Wait(t, "the leases have run out", "SELECT count(*) = 4 FROM nofx.step_lease WHERE lease_until < clock_timestamp() - interval '1 s'")
			p.heal()
			b.Wait(t, "all leases are renewed", "SELECT count(*) = 4 FROM nofx.step_lease WHERE lease_until > clock_timestamp()")
			if err := os.WriteFile(filepath.Join(dir, "release"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			d := b.Until(t, r.ID, run.Succeeded)
			for _, s := range d.Steps {
				began, err := os.ReadFile(filepath.Join(dir, "began-"+s.Name))
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(string(began), "\n"); n != 1 || s.Attempt != 1 {
					t.Errorf("step %s ran %d times in %d attempts, want once", s.Name, n, s.Attempt)
				}
			}
			lost := 0
			if err := b.Admin.QueryRow(b.Ctx, "SELECT sum(lost_leases) FROM nofx.step").Scan(&lost); err != nil || lost != 0 {
				t.Errorf("lost leases = %d, %v, want 0", lost, err)
			}
			b.Wait(t, "no job is left running", "SELECT count(*) = 0 FROM river.river_job WHERE state = 'running'")
			for _, w := range workers {
				if n := w.Leases().Count(); n != 0 {
					t.Errorf("%s holds %d leases at the end, want none", w.ID(), n)
				}
			}
		})
	}
}
