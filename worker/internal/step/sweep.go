package step

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// Settings of a sweep (EXECUTION.md, Leases and fences).
const (
	sweepEvery = time.Second
	sweepRows  = 200
	lostAfter  = 5 * time.Second
)

// sweeper moves what nobody else will: expired leases, due retries, waits and
// deadlines, and ready steps whose wake-up got lost; and it deletes stored answers
// that have expired. Every worker has one; they
// share the work by SKIP LOCKED and need no leader.
type sweeper struct {
	db      *postgres.DB
	rules   postgres.SweepRules
	log     *slog.Logger
	metrics *telemetry.Metrics

	contact time.Time // of the last answer of the database
	resume  time.Time // leases are left alone until then
}

func newSweeper(db *postgres.DB, ttl time.Duration, log *slog.Logger, m *telemetry.Metrics) *sweeper {
	return &sweeper{
		db: db, log: log, metrics: m, contact: time.Now(),
		rules: postgres.SweepRules{LeaseTTL: ttl, Lost: lostAfter, Limit: sweepRows},
	}
}

// run sweeps until ctx ends, every second ± 20 %.
func (s *sweeper) run(ctx context.Context) {
	for {
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "sweep", "error", err)
		}
		wait := time.NewTimer(time.Duration(float64(sweepEvery) * (0.8 + 0.4*rand.Float64())))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

func (s *sweeper) pass(ctx context.Context) error {
	due, err := s.db.Due(ctx, s.rules)
	if err != nil {
		return err
	}
	// After an outage every lease looks dead; their holders renew first.
	now := time.Now()
	if now.Sub(s.contact) > 2*s.rules.LeaseTTL {
		s.resume = now.Add(2 * s.rules.LeaseTTL)
		s.log.InfoContext(ctx, "leases are left alone after a gap", "gap", now.Sub(s.contact).String())
	}
	s.contact = now
	for _, d := range due {
		if d.Kind == "lease" && now.Before(s.resume) {
			continue
		}
		switch err := s.one(ctx, d); {
		case errors.Is(err, fault.Unavailable) || ctx.Err() != nil:
			return err
		case err != nil: // its own trouble must not keep the others waiting
			s.log.ErrorContext(ctx, "sweep of one", "kind", d.Kind, "run_id", run.RunID.Format(d.RunID), "error", err)
		}
		s.contact = time.Now() // a long pass is no gap
	}
	if _, err = s.db.DeleteExpired(ctx, sweepRows); err == nil {
		s.contact = time.Now()
	}
	return err
}

func (s *sweeper) one(ctx context.Context, d postgres.Due) error {
	event, err := s.db.Sweep(ctx, d, s.rules, func() error { return failpoint.Hit("in_sweep") })
	if kind := fault.KindOf(err); kind == fault.Conflict || kind == fault.NotFound {
		return nil // somebody else was there first
	}
	if err != nil {
		return err
	}
	if d.Kind == "lease" && event != "" {
		s.metrics.LeaseLost.Inc("step")
		s.log.WarnContext(ctx, "lease expired", "run_id", run.RunID.Format(d.RunID), "step_id", run.StepID.Format(*d.StepID), "event", event)
	}
	return nil
}
