package main

import (
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
// River's can listen. Until then that does without prepared statements, and for good
// where no notification arrives: it may lead through a transaction pooler, whatever its
// setting promises.
func openPools(ctx context.Context, cfg settings, m *telemetry.Metrics, connected func()) (_ *pools, err error) {
	open := func(a postgres.Address, pooled bool, conns int32) (*postgres.DB, error) {
		db, err := postgres.Open(ctx, postgres.Config{
			URL: a.URL, Role: a.Role, MaxConns: conns, Pooled: pooled, Connected: connected,
			JobMiddleware: []rivertype.Middleware{telemetry.NewCarrier(m)},
		})
		if err != nil {
			return nil, a.Explain(err)
		}
		err = db.Ready(ctx)
		if err == nil {
			err = db.KeepsSessions(ctx)
		}
		if err != nil {
			db.Close()
			return nil, a.Explain(err)
		}
		return db, nil
	}
	p := &pools{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	main := postgres.Address{Setting: "DATABASE_URL", URL: cfg.DatabaseURL, Role: postgres.WorkerRole}
	if p.work, err = open(main, cfg.Pooled, int32(min(max(cfg.Concurrency, 4), 16))); err != nil {
		return nil, err
	}
	if p.heartbeat, err = open(main, cfg.Pooled, 2); err != nil {
		return nil, err
	}
	listen, pooled := main, cfg.Pooled
	if cfg.ListenURL != "" {
		listen, pooled = postgres.Address{Setting: "NOFX_DATABASE_LISTEN_URL", URL: cfg.ListenURL, Role: postgres.WorkerRole}, false
	}
	if p.river, err = open(listen, true, 5); err != nil {
		return nil, err
	}
	if p.listensNot = p.river.Listens(ctx); p.listensNot == nil && !pooled {
		p.river.Close()
		p.river, err = open(listen, false, 5)
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
