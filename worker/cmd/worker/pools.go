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

	listensNot error // why notifications do not reach river, if they do not
}

// openPools opens the pools, once the database can be worked with, and finds out whether
// River's can listen. One that notifications do not reach may lead through a transaction
// pooler, whatever its setting promises, so it does without prepared statements.
func openPools(ctx context.Context, cfg settings, m *telemetry.Metrics) (_ *pools, err error) {
	open := func(url string, pooled bool, conns int32) (*postgres.DB, error) {
		return postgres.Open(ctx, postgres.Config{
			URL: url, MaxConns: conns, Pooled: pooled,
			JobMiddleware: []rivertype.Middleware{telemetry.NewCarrier(m)},
		})
	}
	p := &pools{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.work, err = open(cfg.DatabaseURL, cfg.Pooled, int32(min(max(cfg.Concurrency, 4), 16))); err != nil {
		return nil, err
	}
	if err := p.work.Ready(ctx); err != nil {
		return nil, err
	}
	if err := p.work.KeepsSessions(ctx); err != nil {
		return nil, err
	}
	if p.heartbeat, err = open(cfg.DatabaseURL, cfg.Pooled, 2); err != nil {
		return nil, err
	}
	url, pooled := cmp.Or(cfg.ListenURL, cfg.DatabaseURL), cfg.Pooled && cfg.ListenURL == ""
	if p.river, err = open(url, pooled, 5); err != nil {
		return nil, err
	}
	if p.listensNot = p.river.Listens(ctx); p.listensNot != nil && !pooled {
		p.river.Close()
		p.river, err = open(url, true, 5)
	}
	return p, err
}

func (p *pools) close() {
	for _, db := range []*postgres.DB{p.work, p.river, p.heartbeat} {
		if db != nil {
			db.Close()
		}
	}
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
