package main

import (
	"cmp"
	"context"

	"github.com/riverqueue/river/rivertype"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
)

// pools are the worker's connections: apart, so that busy steps never keep a
// heartbeat waiting.
type pools struct {
	work      *postgres.DB // claims and finishes
	river     *postgres.DB // River, which also listens
	heartbeat *postgres.DB // renewals and sweeps
}

func openPools(ctx context.Context, cfg settings, m *telemetry.Metrics) (*pools, error) {
	open := func(url string, pooled bool, conns int32) (*postgres.DB, error) {
		return postgres.Open(ctx, postgres.Config{
			URL: url, MaxConns: conns, Pooled: pooled,
			JobMiddleware: []rivertype.Middleware{telemetry.NewCarrier(m)},
		})
	}
	work, err := open(cfg.DatabaseURL, cfg.Pooled, int32(min(max(cfg.Concurrency, 4), 16)))
	if err != nil {
		return nil, err
	}
	river, err := open(cmp.Or(cfg.ListenURL, cfg.DatabaseURL), cfg.Pooled && cfg.ListenURL == "", 5)
	if err != nil {
		work.Close()
		return nil, err
	}
	heartbeat, err := open(cfg.DatabaseURL, cfg.Pooled, 2)
	if err != nil {
		work.Close()
		river.Close()
		return nil, err
	}
	return &pools{work, river, heartbeat}, nil
}

func (p *pools) close() {
	p.work.Close()
	p.river.Close()
	p.heartbeat.Close()
}

func (p *pools) stats() map[string]telemetry.PoolStats {
	return map[string]telemetry.PoolStats{
		"requests": stat(p.work), "river": stat(p.river), "heartbeat": stat(p.heartbeat),
	}
}

func stat(db *postgres.DB) telemetry.PoolStats {
	s := db.Pool().Stat()
	return telemetry.PoolStats{Max: s.MaxConns(), Used: s.AcquiredConns(), Idle: s.IdleConns()}
}
