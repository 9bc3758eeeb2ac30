package main

import (
	"context"
	"fmt"
	"time"
)

// scale measures what a run costs with many finished ones behind it, beside the
// same in a database that has few: two stacks on one server, in turn. The figures
// are those of the costs that could grow: a POST, a run alone from its creation to
// its end, the CPU of Postgres for a run under load, and that of a second with
// nothing to do, which is what sweeps and polls read.
func (b *bench) scale(ctx context.Context) error {
	young, err := b.up(ctx, "scale-young", workers, concurrency, nil)
	if err != nil {
		return err
	}
	defer young.close()
	grown, err := b.up(ctx, "scale-grown", workers, concurrency, nil)
	if err != nil {
		return err
	}
	defer grown.close()
	if err := oneByOne(ctx, grown.nofx, 1, steps); err != nil {
		return err
	}
	h, err := newHistory(ctx, grown.stack.AdminURL, b.history)
	if err != nil {
		return err
	}
	defer h.close()
	if err := briefly(ctx, young.nofx); err != nil {
		return err
	}
	if err := execute(ctx, young.stack.AdminURL, "ANALYZE"); err != nil {
		return err
	}
	for _, runs := range sizes(b.history) {
		b.progress(fmt.Sprintf("writing %d finished runs", runs))
		began := time.Now()
		if err := h.grow(ctx, runs, b.progress); err != nil {
			return err
		}
		bytes, err := h.bytes(ctx)
		if err != nil {
			return err
		}
		b.report.note("%s finished runs: %.1f GiB, written in %s", thousands(runs), float64(bytes)/(1<<30), time.Since(began).Round(time.Second))
		if err := b.compare(ctx, runs, young, grown); err != nil {
			return err
		}
	}
	return nil
}

// sizes returns how many finished runs are looked at, up to most.
func sizes(most int) (all []int) {
	for _, n := range []int{1000, 100_000, 1_000_000, 10_000_000} {
		if n < most {
			all = append(all, n)
		}
	}
	return append(all, most)
}

// thousands writes 1000 as 1k.
func thousands(n int) string {
	switch {
	case n%1_000_000 == 0:
		return fmt.Sprint(n/1_000_000, "m")
	case n%1000 == 0:
		return fmt.Sprint(n/1000, "k")
	}
	return fmt.Sprint(n)
}

// costly are samples of what is compared.
type costly struct {
	turn
	create, run, idle []float64
}

// compare measures both in turn.
func (b *bench) compare(ctx context.Context, runs int, young, grown *side) error {
	b.progress(fmt.Sprintf("measuring with %d finished runs", runs))
	var of [2]costly
	for i, s := range []*side{young, grown} {
		of[i].turn = turn{system: s.nofx, meter: s.meter}
	}
	for range b.rounds {
		for i, s := range []*side{young, grown} {
			if err := s.cost(ctx, &of[i], b.round()); err != nil {
				return err
			}
		}
	}
	const flat = 1.25 // times the young one's, at most
	base, now := &of[0], &of[1]
	add := func(name, what, unit, stat string, ours, theirs []float64) {
		if len(ours) == 0 { // CPU that cannot be read here
			return
		}
		f := figure{
			Name: "scale-" + thousands(runs) + "-" + name, What: fmt.Sprintf("%s, %s finished runs", what, thousands(runs)), Unit: unit, Stat: stat,
			Samples: ours, Beside: beside("few", theirs), Pass: flat * median(theirs),
		}
		if f.moreIsBetter() {
			f.Pass = median(theirs) / flat
		}
		b.report.add(f)
	}
	add("create", "POST /api/runs, one at a time", "ms", "p50", now.create, base.create)
	add("alone", "a three-step run, one at a time", "ms", "p50", now.run, base.run)
	add("runs", "three-step runs, 64 in flight", "runs/s", "median", now.rates, base.rates)
	if grown.meter != nil {
		add("cpu", "CPU of Postgres, a three-step run", "ms", "median", now.costs.of(postgres), base.costs.of(postgres))
		add("idle", "CPU of Postgres, a second without work", "ms", "median", now.idle, base.idle)
	}
	return nil
}

// cost adds a round to c.
func (s *side) cost(ctx context.Context, c *costly, window time.Duration) error {
	const alone, rest = 25, 10 * time.Second // CPU is counted in hundredths of a second
	from, err := s.nofx.now(ctx)
	if err != nil {
		return err
	}
	for range alone {
		began := time.Now()
		if err := s.nofx.submit(ctx, steps); err != nil {
			return err
		}
		c.create = append(c.create, milliseconds(time.Since(began)))
		if err := settle(ctx, s.nofx); err != nil {
			return err
		}
	}
	took, err := column(ctx, s.nofx.db, `
		SELECT 1000 * extract(epoch FROM finished_at - created_at)::float8 FROM nofx.run
		WHERE id >= $2 AND created_at >= $1 AND state = 'succeeded'`, from, firstID(from))
	if err != nil {
		return err
	}
	c.run = append(c.run, took...)
	if err := c.round(ctx, window); err != nil || s.meter == nil {
		return err
	}
	used, err := s.meter.around(ctx, s.nofx.sessions, func() error { return pause(ctx, rest) })
	if err != nil {
		return err
	}
	c.idle = append(c.idle, used[postgres]/rest.Seconds())
	return nil
}
