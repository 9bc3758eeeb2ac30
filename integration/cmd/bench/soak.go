package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"nofx.dev/integration/harness"
)

// soak loads the system for a while as fast as it goes and watches what must not
// grow with time: the memory, goroutines and files of its processes, its sessions
// with the database, and what tables take beside their live rows. A round of the
// chain before and one after tell how fast the machine was then and now: where both
// systems slow down together, it is the machine.
func (b *bench) soak(ctx context.Context) error {
	before, after := turn{system: b.chain, meter: b.meter}, turn{system: b.chain, meter: b.meter}
	if err := before.round(ctx, b.window); err != nil {
		return err
	}
	every := min(10*time.Second, b.soakFor/24)
	loading, stop := context.WithTimeout(ctx, b.soakFor)
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer stop() // also when it fails
		return hold(loading, b.nofx, inFlight, steps)
	})
	var w watch
	g.Go(func() error {
		defer stop()
		for tick := time.Tick(every); ; {
			select {
			case <-loading.Done():
				return nil
			case <-tick:
			}
			if err := b.look(ctx, &w); err != nil {
				return err
			}
		}
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	trends := w.trends()
	b.report.Trends = append(b.report.Trends, trends...)
	b.report.note("%s of load, looked at every %s", b.soakFor, every)
	rates := trends[0]
	quarter := max(1, len(rates.Samples)/4)
	b.report.add(figure{
		Name: "soak-runs", What: "three-step runs, the last quarter of " + b.soakFor.String(), Unit: "runs/s", Stat: "median",
		Samples: rates.Samples[len(rates.Samples)-quarter:], Beside: beside("the first quarter", rates.Samples[:quarter]),
	})
	if err := settle(ctx, b.nofx); err != nil {
		return err
	}
	if err := after.round(ctx, b.window); err != nil {
		return err
	}
	b.report.add(figure{
		Name: "soak-chain", What: "chain on River after it", Unit: "runs/s", Stat: "median", Samples: after.rates, Beside: beside("before it", before.rates),
	})
	return nil
}

// watch is what was read at which times, in the order of the first reading.
type watch struct {
	began time.Time
	last  time.Time // of the database
	at    []float64 // seconds since began
	names []reading
	all   map[string][]float64 // by what
}

// reading is one value.
type reading struct {
	what, unit string
	value      float64
}

// add notes one look.
func (w *watch) add(at time.Time, list []reading) {
	if w.all == nil {
		w.began, w.names, w.all = at, list, map[string][]float64{}
	}
	w.at = append(w.at, at.Sub(w.began).Seconds())
	for _, r := range list {
		w.all[r.what] = append(w.all[r.what], r.value)
	}
}

func (w *watch) trends() (list []trend) {
	for _, n := range w.names {
		list = append(list, newTrend(n.what, n.unit, w.at, w.all[n.what]))
	}
	return list
}

// look reads everything once; the first look only says since when runs count.
func (b *bench) look(ctx context.Context, w *watch) error {
	now, err := b.nofx.now(ctx)
	if err != nil {
		return err
	}
	since := w.last
	w.last = now
	if since.IsZero() {
		return nil
	}
	ended, err := b.nofx.finished(ctx, since, now)
	if err != nil {
		return err
	}
	list := []reading{{"runs that ended", "runs/s", float64(ended) / now.Sub(since).Seconds()}}
	for _, p := range append([]*harness.Process{b.stack.Gateway}, b.stack.Workers()...) {
		of, err := holdings(ctx, p)
		if err != nil {
			return err
		}
		list = append(list, of...)
	}
	sessions, err := b.nofx.sessions(ctx)
	if err != nil {
		return err
	}
	list = append(list, reading{"sessions with the database", "sessions", float64(len(sessions))})
	of, err := tables(ctx, b.nofx)
	if err != nil {
		return err
	}
	w.add(now, append(list, of...))
	return nil
}

// holdings returns what a process holds.
func holdings(ctx context.Context, p *harness.Process) (list []reading, err error) {
	all, err := scrape(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, m := range []struct {
		metric, what, unit string
		per                float64
	}{
		{"process_resident_memory_bytes", "resident memory", "MiB", 1 << 20},
		{"go_memstats_heap_inuse_bytes", "heap", "MiB", 1 << 20},
		{"go_goroutines", "goroutines", "goroutines", 1},
		{"process_open_fds", "open files", "files", 1},
	} {
		v, ok := all[m.metric]
		if !ok {
			return nil, fmt.Errorf("%s does not tell %s on this system", p.Name(), m.metric)
		}
		list = append(list, reading{p.Name() + ": " + m.what, m.unit, v / m.per})
	}
	return list, nil
}

// Tables that grow with every run are told by their bytes for each row, indexes
// with them; those whose rows come and go by their size and their rows. Rows are
// what the statistics of Postgres believe.
func tables(ctx context.Context, n *nofx) ([]reading, error) {
	growing := []string{"nofx.run", "nofx.step", "nofx.attempt", "nofx.event", "nofx.checkpoint", "nofx.idempotency_key"}
	passing := []string{"nofx.step_lease", "river.river_job"}
	rows, err := n.db.Query(ctx, `
		SELECT format('%s.%s', schemaname, relname), pg_total_relation_size(relid), n_live_tup, n_dead_tup, relid::regclass::text = ANY ($2)
		FROM pg_stat_user_tables WHERE format('%s.%s', schemaname, relname) = ANY ($1) ORDER BY 5, 1`, append(growing, passing...), passing)
	if err != nil {
		return nil, err
	}
	var list []reading
	var table string
	var bytes, live, dead float64
	var comes bool
	_, err = pgx.ForEachRow(rows, []any{&table, &bytes, &live, &dead, &comes}, func() error {
		if comes {
			list = append(list, reading{table + ": size", "MiB", bytes / (1 << 20)}, reading{table + ": live rows", "rows", live})
		} else {
			list = append(list, reading{table + ": size for each live row", "bytes", bytes / max(live, 1)})
		}
		list = append(list, reading{table + ": dead rows", "rows", dead})
		return nil
	})
	return list, err
}
