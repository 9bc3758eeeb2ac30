package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/lease"
	"nofx.dev/worker/internal/pause"
	"nofx.dev/worker/internal/step"
)

// Settings of a sweep (EXECUTION.md, Leases and fences).
const (
	sweepEvery   = time.Second
	sweepRows    = 200
	promoteAfter = time.Minute
)

// sweeper moves what nobody else will: expired leases, due retries, waits and
// deadlines, ready steps whose wake-up got lost, and those that were parked while their
// tenant had paused their queue; and it deletes what has expired or was left behind.
// Every worker has one; they share the work by SKIP LOCKED and need no leader.
type sweeper struct {
	db      *postgres.DB
	actor   string // of what it moves
	rules   postgres.SweepRules
	place   postgres.SweepPlace // of the look for lost wake-ups
	log     *slog.Logger
	metrics *telemetry.Metrics
}

func newSweeper(db *postgres.DB, actor string, ttl time.Duration, log *slog.Logger, m *telemetry.Metrics) *sweeper {
	return &sweeper{
		db: db, actor: actor, log: log, metrics: m,
		rules: postgres.SweepRules{LeaseRules: lease.Rules(ttl), Lost: step.LostAfter, Limit: sweepRows},
	}
}

// run sweeps until ctx ends, every second ± 20 %.
func (s *sweeper) run(ctx context.Context) {
	ctx = postgres.WithActor(ctx, s.actor)
	for {
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "sweep", "error", err)
		}
		if pause.For(ctx, pause.Jitter(sweepEvery, 0.2)) != nil {
			return
		}
	}
}

// pass looks for everything once. What fails keeps nothing else waiting, unless the
// database is silent.
func (s *sweeper) pass(ctx context.Context) error {
	var failed error
	for _, kind := range postgres.DueKinds {
		due, err := s.db.Due(ctx, kind, s.rules, &s.place)
		if err != nil {
			err = fmt.Errorf("look for what is due as %s: %w", kind, err)
		}
		for _, d := range due {
			oneErr := s.one(ctx, d)
			if postgres.Silent(oneErr) {
				err = oneErr
				break
			}
			if oneErr != nil && ctx.Err() == nil {
				level := slog.LevelError
				if errors.Is(oneErr, fault.Unavailable) { // the next pass finds it again
					level = slog.LevelWarn
				}
				s.log.Log(ctx, level, "sweep of one", "kind", d.Kind, "run_id", run.RunID.Format(d.RunID), "error", oneErr)
			}
		}
		if failed = errors.Join(failed, err); postgres.Silent(err) || ctx.Err() != nil {
			return failed
		}
	}
	parkedErr := s.db.WakeParked(ctx)
	_, err := s.db.DeleteExpired(ctx, sweepRows)
	_, strayErr := s.db.EndStrayJobs(ctx, sweepRows)
	promoteErr := s.db.PromoteJobs(ctx, promoteAfter)
	return errors.Join(failed, parkedErr, err, strayErr, promoteErr)
}

func (s *sweeper) one(ctx context.Context, d postgres.Due) error {
	event, err := s.db.Sweep(ctx, d, s.rules, func() error { return failpoint.Hit("in_sweep") })
	if kind := fault.KindOf(err); kind == fault.Conflict || kind == fault.NotFound {
		return nil // somebody else was there first
	}
	if err != nil {
		return err
	}
	if d.Kind == postgres.DueLease && event != "" {
		s.metrics.LeaseLost.Inc("step")
		s.log.WarnContext(ctx, "lease expired", "run_id", run.RunID.Format(d.RunID), "step_id", run.StepID.Format(*d.StepID), "event", event)
	}
	return nil
}
