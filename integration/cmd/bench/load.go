package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// system runs plans of steps that do nothing: ours, or the chain beside it. Its
// times are the database's.
type system interface {
	// submit accepts a run of so many steps.
	submit(ctx context.Context, steps int) error
	// live counts the runs that have not ended. A run that failed is an error:
	// what fails fast must not pass for speed.
	live(ctx context.Context) (int, error)
	now(ctx context.Context) (time.Time, error)
	// finished counts the runs that succeeded in [from, to).
	finished(ctx context.Context, from, to time.Time) (int, error)
	// startDelays are milliseconds from a run's creation to the start of its
	// first step, nextDelays those from a step's end to the start of the next
	// one, of runs since from.
	startDelays(ctx context.Context, from time.Time) ([]float64, error)
	nextDelays(ctx context.Context, from time.Time) ([]float64, error)
	// sessions are the pids of the database's sessions that work for the system.
	sessions(ctx context.Context) ([]int, error)
}

// A closed loop looks so often how many runs are left, and so many clients
// submit what is missing. Each look costs our database a query.
const (
	look    = 10 * time.Millisecond
	clients = 16
)

// hold keeps n runs in flight until ctx ends, then lets them end.
func hold(ctx context.Context, s system, n, steps int) error {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	missing := make(chan struct{}, n)
	var submitting atomic.Int64
	var g errgroup.Group
	for range clients {
		g.Go(func() error {
			for range missing {
				// Not cut off by the end of the load: who knows what of it is recorded.
				err := s.submit(context.WithoutCancel(ctx), steps)
				submitting.Add(-1)
				if err != nil {
					stop()
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(missing)
		tick := time.NewTicker(look)
		defer tick.Stop()
		for {
			select {
			case <-loading.Done():
				return nil
			case <-tick.C:
			}
			// In this order a run may be counted twice, never missed.
			under := int(submitting.Load())
			live, err := s.live(context.WithoutCancel(ctx))
			if err != nil {
				return err
			}
			for range n - live - under {
				submitting.Add(1)
				missing <- struct{}{}
			}
		}
	})
	return g.Wait()
}

// settle waits until no run is left.
func settle(ctx context.Context, s system) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if live, err := s.live(ctx); err != nil || live == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// warmUp is how long a load goes on before it counts.
const warmUp = 1500 * time.Millisecond

// throughput returns how many runs a second end while n are in flight, counted over
// window.
func throughput(ctx context.Context, s system, n, steps int, window time.Duration) (perSecond float64, err error) {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer stop() // also when it fails
		return hold(loading, s, n, steps)
	})
	var from, to time.Time
	g.Go(func() (err error) {
		defer stop()
		if pause(loading, warmUp) != nil {
			return context.Cause(ctx)
		}
		if from, err = s.now(ctx); err != nil {
			return err
		}
		if pause(loading, window) != nil {
			return context.Cause(ctx)
		}
		to, err = s.now(ctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if err := settle(ctx, s); err != nil {
		return 0, err
	}
	ended, err := s.finished(ctx, from, to)
	if err == nil && ended == 0 {
		err = errors.New("no run ended")
	}
	return float64(ended) / to.Sub(from).Seconds(), err
}

// oneByOne submits n runs, each to an idle fleet, at uneven times so that they
// do not fall in step with somebody's timer.
func oneByOne(ctx context.Context, s system, n, steps int) error {
	const least, spread = 20 * time.Millisecond, 100 * time.Millisecond
	for range n {
		if err := pause(ctx, least+rand.N(spread)); err != nil {
			return err
		}
		if err := s.submit(ctx, steps); err != nil {
			return err
		}
		if err := settle(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// flood calls do from all clients, each time at once again, and returns how many
// calls a second ended well.
func flood(ctx context.Context, window time.Duration, do func(context.Context) error) (perSecond float64, err error) {
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range clients {
		g.Go(func() error {
			for time.Since(began) < window {
				if err := do(ctx); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), err
}

// openLoop calls do so many times a second, however long the calls take, and
// returns for each the milliseconds from when it was due to its end: a system
// that stalls is charged for the calls that had to wait.
func openLoop(ctx context.Context, perSecond int, window time.Duration, do func(context.Context) error) ([]float64, error) {
	const most = 512 // at once
	total := int(window.Seconds() * float64(perSecond))
	every := time.Second / time.Duration(perSecond)
	took := make([]float64, total)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(most)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for i := range total {
		due := began.Add(time.Duration(i) * every)
		for time.Now().Before(due) {
			select {
			case <-ctx.Done():
				return nil, g.Wait()
			case <-tick.C:
			}
		}
		g.Go(func() error {
			err := do(ctx)
			took[i] = milliseconds(time.Since(due))
			return err
		})
	}
	err := g.Wait()
	return took, err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
