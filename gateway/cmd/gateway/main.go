// Command gateway serves the HTTP API: it validates requests, records them and
// enqueues their work in Postgres, and streams what happens. It is configured by
// its environment alone (config.go) and scales by running more of it.
//
//	gateway          serves
//	gateway tenant   lists the tenants, makes one and prints its first key (tenant.go)
//	gateway queue    lists the queues of the installation and pauses them for all tenants (queue.go)
//	gateway kek      makes the key that secrets are sealed with (kek.go)
//	gateway config   prints the table of its settings
//
// SIGTERM drains: readiness fails, load balancers get a moment to see it, streams
// end and tell their readers where to go on, requests finish. A second SIGTERM
// skips the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/riverqueue/river/rivertype"
	"golang.org/x/sync/errgroup"

	"nofx.dev/gateway/internal/httpapi"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/config"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/process"
	"nofx.dev/shared/telemetry"
)

// finishTimeout is how long requests may take to finish after SIGTERM.
const finishTimeout = 20 * time.Second

const usage = `gateway serves the HTTP API of NOFX until it gets SIGTERM. Its settings come from the
environment.

usage:
  gateway                     serves
  gateway tenant list         shows the tenants
  gateway tenant create SLUG  makes a tenant and prints its first API key
  gateway queue list          shows queues, what tenants have paused, and workers
  gateway queue pause QUEUE   keeps all workers from a queue; resume ends that
  gateway kek create FILE     makes the key of NOFX_KEK
  gateway config              prints the settings, their defaults and what they mean,
                              as a Markdown table
  gateway --version           prints the version of this build

gateway tenant and gateway queue need DATABASE_URL with an administrator's login;
their --help has details.
`

func main() {
	ctx, hurry := process.Signals()
	err := command(ctx, hurry, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

func command(ctx, hurry context.Context, args, environ []string, stdout, stderr io.Writer) error {
	switch {
	case len(args) == 0:
		return serve(ctx, hurry, environ, stderr)
	case args[0] == "tenant":
		return tenant(ctx, args[1:], environ, stdout, stderr)
	case args[0] == "kek":
		return kek(args[1:], stdout, stderr)
	case args[0] == "queue":
		return queue(ctx, args[1:], environ, stdout, stderr)
	case args[0] == "config" && len(args) == 1:
		_, err := io.WriteString(stdout, settingsTable())
		return err
	case args[0] == "--version" && len(args) == 1:
		_, err := fmt.Fprintln(stdout, "gateway version", process.Version())
		return err
	case asksHelp(args):
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return misused(stderr, "gateway", args, usage)
}

// serve runs a gateway until ctx ends and its requests have finished; a hurry that
// ends cuts them off.
func serve(ctx, hurry context.Context, environ []string, stderr io.Writer) error {
	cfg, unknown, err := config.Load[settings](environ)
	if err := config.Wrong(unknown, err, cfg.check()); err != nil {
		return err
	}
	p, flush, err := process.Start(ctx, "nofx-gateway", cfg.Common, environ, unknown, stderr)
	if err != nil {
		return err
	}
	defer flush()
	outage, log := telemetry.NewOutage("the database", postgres.Silent, p.Log)
	p.Log = log
	db, err := openStore(ctx, p, cfg, outage.Over)
	if err != nil {
		return err
	}
	defer db.Close()
	blobs, err := blob.Open(blob.Config(cfg.S3))
	if err != nil {
		return err
	}
	blobs.LogTo(p.Log)
	if err := blobs.Diagnose(ctx); err != nil { // it may come; until then what needs it is tried again
		p.Log.WarnContext(ctx, "storage cannot be used", "error", err)
	}
	keys, err := cfg.keys()
	if err != nil {
		return err
	}
	if err := db.CheckKey(ctx, keys); err != nil && keys != nil {
		p.Log.WarnContext(ctx, "secrets cannot be used", "error", err)
	}
	hub := stream.NewHub(stream.Config{Store: db, Metrics: p.Metrics, Log: p.Log})
	api, err := httpapi.New(httpapi.Config{
		Store: db, Blobs: blobs, Hub: hub, Metrics: p.Metrics, Log: p.Log, Redactor: p.Redactor,
		Identity:    identity.New(identity.Config{Store: db, DevKeys: cfg.devKeys(), Proxies: cfg.Proxies, Supabase: cfg.supabase(), OIDC: cfg.oidc()}),
		KeyEnv:      cfg.keyEnv(),
		Keys:        keys,
		WebhookKey:  []byte(cfg.WebhookKey),
		LocalAlerts: cfg.Env == "development",
		Origins:     cfg.Origins, HTTPS: strings.HasPrefix(cfg.PublicURL, "https://"),
		Rate: cfg.LimitRate, TenantRate: cfg.TenantRate,
		Streams: cfg.Streams, TenantStreams: cfg.TenantStreams, TotalStreams: cfg.TotalStreams,
	})
	if err != nil {
		return err
	}
	metrics, err := process.Listen("NOFX_METRICS_ADDR", cfg.MetricsAddr)
	if err != nil {
		return err
	}
	listener, err := process.Listen("NOFX_HTTP_ADDR", cfg.HTTPAddr)
	if err != nil {
		metrics.Close()
		return err
	}
	p.Log.InfoContext(ctx, "serving", "addr", listener.Addr().String(), "metrics_addr", metrics.Addr().String(), "dev_keys", cfg.devKeys())

	// The tailer and the metrics outlive the last request.
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	group.Go(func() error { return telemetry.Serve(rest, metrics, p.Registry, api.Ready) })
	group.Go(func() error {
		hub.Run(rest)
		return nil
	})
	err = drain(ctx, hurry, api, hub, listener, cfg.DrainDelay)
	stopRest()
	return errors.Join(err, group.Wait())
}

// drain serves until ctx ends, and then lets go in order: load balancers, streams,
// requests.
func drain(ctx, hurry context.Context, api *httpapi.Server, hub *stream.Hub, listener net.Listener, delay time.Duration) error {
	srv := api.HTTP()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	select {
	case err := <-failed:
		hub.Shutdown()
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	api.Drain()
	select {
	case <-time.After(delay):
	case <-hurry.Done():
	}
	hub.Shutdown()
	finish, cancel := context.WithTimeout(hurry, finishTimeout)
	defer cancel()
	err := srv.Shutdown(finish)
	if err != nil {
		err = fmt.Errorf("requests that did not finish: %w", errors.Join(err, srv.Close()))
	}
	if serveErr := <-failed; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// openStore opens the database and what is measured of it. A database that cannot be
// worked with, or whose role may see every tenant, ends the gateway here.
func openStore(ctx context.Context, p *process.Process, cfg settings, connected func()) (*postgres.DB, error) {
	address := postgres.Address{Setting: "DATABASE_URL", URL: cfg.DatabaseURL, Role: postgres.GatewayRole}
	db, err := postgres.Open(ctx, postgres.Config{
		URL: cfg.DatabaseURL, Role: postgres.GatewayRole, MaxConns: cfg.DBConns, Pooled: cfg.Pooled, Connected: connected,
		JobMiddleware: []rivertype.Middleware{telemetry.NewCarrier(p.Metrics)},
	})
	if err != nil {
		return nil, address.Explain(err)
	}
	if err = db.Ready(ctx); err == nil {
		err = db.KeepsSessions(ctx)
	}
	if err != nil {
		db.Close()
		return nil, address.Explain(err)
	}
	p.Metrics.ListenerUp.Set(0) // streams are polled
	p.Metrics.CollectQueue(func(ctx context.Context) (telemetry.QueueStats, error) { return queueStats(ctx, db) })
	p.Metrics.CollectPools(func() map[string]telemetry.PoolStats {
		s := db.Pool().Stat()
		return map[string]telemetry.PoolStats{"requests": {Max: s.MaxConns(), Used: s.AcquiredConns(), Idle: s.IdleConns()}}
	})
	return db, nil
}

// queueStats returns what the database counts of work that has not ended.
func queueStats(ctx context.Context, db *postgres.DB) (telemetry.QueueStats, error) {
	stats := telemetry.QueueStats{Depth: map[string]map[string]int64{}, OldestAge: map[string]time.Duration{}, Runs: map[string]int64{}}
	depths, err := db.QueueDepths(ctx)
	if err != nil {
		return stats, err
	}
	for _, d := range depths {
		if stats.Depth[d.Queue] == nil {
			stats.Depth[d.Queue] = map[string]int64{}
		}
		stats.Depth[d.Queue][d.State] = d.Count
		if d.State == "available" {
			stats.OldestAge[d.Queue] = d.OldestAge
		}
	}
	runs, err := db.RunCounts(ctx)
	for state, n := range runs {
		stats.Runs[string(state)] = n
	}
	return stats, err
}
