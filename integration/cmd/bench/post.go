package main

import (
	"context"
	"fmt"
	"time"
)

// posts measures how fast runs are accepted, with no worker that takes them:
// beside it the chain's insert with River's InsertTx, and with a plain row in
// its place, which is the limit that this Postgres sets; and the peer's to a queue
// that nobody empties.
func (b *bench) posts(ctx context.Context) error {
	b.keepWorkers(0)
	if err := b.chain.stop(ctx); err != nil {
		return err
	}
	var ours, theirs, peers, bare []float64
	turns := []struct {
		rates  *[]float64
		submit func(context.Context, int) error
	}{{&ours, b.nofx.submit}, {&theirs, b.chain.submit}, {&bare, b.chain.submitBare}}
	for range b.rounds {
		for _, t := range turns {
			rate, err := flood(ctx, b.window/time.Duration(2*b.rounds), func(ctx context.Context) error { return t.submit(ctx, steps) })
			if err != nil {
				return err
			}
			*t.rates = append(*t.rates, rate)
		}
		if b.peer == nil {
			continue
		}
		r, err := b.peer.measure(ctx, "enqueue", peerEnqueue, b.window/time.Duration(2*b.rounds))
		if err != nil {
			return err
		}
		peers = append(peers, r.EnqueuePerS)
	}
	b.report.add(figure{
		Name: "post", What: "POST /api/runs, 16 clients", Unit: "runs/s", Stat: "median", Samples: ours,
		Beside: beside("insert with InsertTx", theirs).and(b.peer.name(), peers), Pass: 600, Aim: 0.6 * median(bare),
	})
	b.report.add(figure{Name: "insert-limit", What: "the same rows by plain inserts: the limit", Unit: "runs/s", Stat: "median", Samples: bare})
	// The aim is a rate that not every machine can be asked for.
	for _, o := range []struct {
		perSecond int
		goal      figure
	}{{200, figure{Pass: 50}}, {1000, figure{Aim: 20}}} {
		if median(ours) < 1.1*float64(o.perSecond) {
			b.report.note("POST /api/runs at %d/s was not tried: the most is %.0f/s", o.perSecond, median(ours))
			continue
		}
		took, err := openLoop(ctx, o.perSecond, b.window/2, func(ctx context.Context) error { return b.nofx.submit(ctx, steps) })
		if err != nil {
			return err
		}
		f := figure{Name: fmt.Sprintf("post-%d-p50", o.perSecond), What: fmt.Sprintf("POST /api/runs at %d/s, p50", o.perSecond), Unit: "ms", Stat: "p50", Samples: took}
		b.report.add(f)
		f.Name, f.What, f.Stat = fmt.Sprintf("post-%d-p99", o.perSecond), fmt.Sprintf("POST /api/runs at %d/s, p99", o.perSecond), "p99"
		f.Pass, f.Aim = o.goal.Pass, o.goal.Aim
		b.report.add(f)
	}
	return nil
}
