package main

import (
	"context"
	"time"
)

// steps is how many a run of the figures has.
const steps = 3

// inFlight is how many runs the closed loop holds.
const inFlight = 64

// runs measures three-step runs per second: ours from HTTP request to succeeded,
// with all events and checkpoints recorded, the chain's from call to last event.
func (b *bench) runs(ctx context.Context) error {
	var next []float64
	ours, theirs := turn{system: b.nofx, meter: b.meter}, turn{system: b.chain, meter: b.meter}
	var peers turn
	for range b.rounds {
		from, err := b.nofx.now(ctx)
		if err != nil {
			return err
		}
		if err := ours.round(ctx, b.round()); err != nil {
			return err
		}
		delays, err := b.nofx.nextDelays(ctx, from)
		if err != nil {
			return err
		}
		next = append(next, delays...)
		if err := theirs.round(ctx, b.round()); err != nil {
			return err
		}
		if b.peer == nil {
			continue
		}
		if err := b.peerTurn(ctx, &peers); err != nil {
			return err
		}
	}
	b.report.add(figure{
		Name: "runs", What: "three-step runs, HTTP to succeeded, 64 in flight", Unit: "runs/s", Stat: "median", Samples: ours.rates,
		Beside: beside("chain on River", theirs.rates).and(b.peer.name(), peers.rates), Pass: 200, Aim: 400,
	})
	b.report.add(figure{
		Name: "next-loaded-p50", What: "step to next step, under that load, p50", Unit: "ms", Stat: "p50", Value: quantile(next, 0.5),
	})
	b.addCPU("runs-cpu", "a three-step run", ours, theirs, peers)
	return nil
}

// turn is what a system did in its rounds.
type turn struct {
	system system
	meter  *meter
	rates  []float64
	costs  costs
}

// round gives a system one more round of load.
func (t *turn) round(ctx context.Context, window time.Duration) error {
	cost, err := t.meter.during(ctx, t.system, func() error {
		rate, err := throughput(ctx, t.system, inFlight, steps, window)
		t.rates = append(t.rates, rate)
		return err
	})
	t.costs = append(t.costs, cost)
	return err
}

// round returns how long a round is.
func (b *bench) round() time.Duration { return b.window / time.Duration(b.rounds) }

// starts measures how long a run waits on a fleet that has nothing to do.
func (b *bench) starts(ctx context.Context) error {
	const runs = 100
	ours, err := idle(ctx, b.nofx, runs, 1, b.nofx.startDelays)
	if err != nil {
		return err
	}
	theirs, err := idle(ctx, b.chain, runs, 1, b.chain.startDelays)
	if err != nil {
		return err
	}
	b.report.add(figure{
		Name: "start-p50", What: "enqueue to start, idle fleet, p50", Unit: "ms", Stat: "p50", Samples: ours,
		Beside: beside("chain on River", theirs), Pass: 25, Aim: 10,
	})
	b.report.add(figure{
		Name: "start-p99", What: "enqueue to start, idle fleet, p99", Unit: "ms", Stat: "p99", Samples: ours,
		Beside: beside("chain on River", theirs), Pass: 200, Aim: 50,
	})
	return nil
}

// nexts measures how long a step waits for the one before it, with nothing else
// to do.
func (b *bench) nexts(ctx context.Context) error {
	const runs = 30
	ours, err := idle(ctx, b.nofx, runs, steps, b.nofx.nextDelays)
	if err != nil {
		return err
	}
	theirs, err := idle(ctx, b.chain, runs, steps, b.chain.nextDelays)
	if err != nil {
		return err
	}
	b.report.add(figure{
		Name: "next-p50", What: "step to next step, idle fleet, p50", Unit: "ms", Stat: "p50", Samples: ours,
		Beside: beside("chain on River", theirs), Pass: 15, Aim: 5,
	})
	return nil
}

// idle runs plans one by one, after two that do not count, and returns what
// delays says of them.
func idle(ctx context.Context, s system, runs, steps int, delays func(context.Context, time.Time) ([]float64, error)) ([]float64, error) {
	if err := oneByOne(ctx, s, 2, steps); err != nil {
		return nil, err
	}
	from, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	if err := oneByOne(ctx, s, runs, steps); err != nil {
		return nil, err
	}
	return delays(ctx, from)
}
