// Command worker runs steps: it takes them from the queue, executes their tools,
// writes checkpoints and records what came of them. It is configured by its
// environment alone (config.go) and scales by running more of it.
//
//	worker          takes steps
//	worker config   prints the table of its settings
//
// SIGTERM drains: nothing more is taken, running steps get a grace to end, and
// what still runs then is given back. A second SIGTERM skips the grace.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/config"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/step"
	"nofx.dev/worker/internal/tool"
)

func main() {
	if len(os.Args) > 1 {
		if os.Args[1] != "config" || len(os.Args) > 2 {
			fmt.Fprintln(os.Stderr, "usage: worker | worker config")
			os.Exit(2)
		}
		fmt.Print(config.Table[settings]())
		return
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancel(context.Background())
	hurry, rush := context.WithCancel(context.Background())
	go func() {
		<-signals
		stop()
		<-signals
		rush()
	}()
	if err := serve(ctx, hurry, os.Environ(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

// serve runs a worker until ctx ends and its steps have ended or were given
// back; a hurry that ends skips their grace.
func serve(ctx, hurry context.Context, environ []string, stderr io.Writer) error {
	cfg, unknown, err := config.Load[settings](environ)
	if err != nil {
		return err
	}
	if err := sandbox.Harden(); err != nil {
		return fmt.Errorf("keep the process's memory to itself: %w", err)
	}
	p, shutdown, err := watch(ctx, cfg, config.Lookup(environ), stderr)
	if err != nil {
		return err
	}
	defer shutdown()
	if len(unknown) > 0 {
		p.log.WarnContext(ctx, "variables that a worker does not know", "names", unknown)
	}
	pools, err := openPools(ctx, cfg, p.metrics)
	if err != nil {
		return err
	}
	defer pools.close()
	p.metrics.CollectPools(pools.stats)
	blobs, err := blob.Open(blob.Config(cfg.S3))
	if err != nil {
		return err
	}
	w, err := p.worker(ctx, cfg, pools, blobs)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.MetricsAddr)
	if err != nil {
		return fmt.Errorf("NOFX_METRICS_ADDR: %w", err)
	}
	p.log.InfoContext(ctx, "metrics and readiness", "addr", listener.Addr().String(), "sandbox_tier", sandbox.Tier())

	// Metrics are served until the last step has ended.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	group.Go(func() error {
		return telemetry.Serve(serving, listener, p.registry, func(check context.Context) map[string]error {
			return map[string]error{"database": pools.work.Ready(check), "storage": blobs.Ping(check), "draining": ctx.Err()}
		})
	})
	err = w.Run(ctx, hurry)
	stopServing()
	if serveErr := group.Wait(); err == nil {
		err = serveErr
	}
	return err
}

// process is what watches this worker.
type process struct {
	id       string
	version  string
	log      *slog.Logger
	redactor *telemetry.Redactor
	registry *prometheus.Registry
	metrics  *telemetry.Metrics
}

// watch sets up logs, metrics, traces and, in tests, failpoints. shutdown
// flushes the traces.
func watch(ctx context.Context, cfg settings, getenv func(string) string, stderr io.Writer) (p process, shutdown func(), err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log)); err != nil {
		return p, nil, fmt.Errorf("NOFX_LOG_LEVEL: %w", err)
	}
	host, _ := os.Hostname()
	p = process{id: host + "/" + run.NewID().String(), version: version(), registry: prometheus.NewRegistry()}
	p.redactor = telemetry.NewRedactor(cfg.DatabaseURL, cfg.ListenURL, cfg.S3.SecretKey)
	p.log = telemetry.NewLogger(stderr, level, p.redactor)
	p.metrics = telemetry.NewMetrics(p.registry, p.version)
	if err := failpoint.Init(getenv, p.log, func(name string) { p.metrics.FailpointHits.Inc(name) }); err != nil {
		return p, nil, err
	}
	flush, err := telemetry.Setup(ctx, telemetry.Config{
		Service: "nofx-worker", Version: p.version, InstanceID: p.id, Env: getenv, Log: p.log, Metrics: p.metrics, Redactor: p.redactor,
	})
	if err != nil {
		return p, nil, err
	}
	return p, func() {
		if err := flush(context.WithoutCancel(ctx)); err != nil {
			p.log.Warn("flush of traces", "error", err)
		}
	}, nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (p process) worker(ctx context.Context, cfg settings, db *pools, blobs *blob.Store) (*step.Worker, error) {
	if err := db.work.Ready(ctx); err != nil {
		return nil, err
	}
	listens := db.river.Listens(ctx)
	if listens != nil {
		p.log.WarnContext(ctx, "polling instead of listening", "error", listens)
		p.metrics.ListenerUp.Set(0)
	} else {
		p.metrics.ListenerUp.Set(1)
	}
	return step.New(step.Config{
		ID: p.id, PID: os.Getpid(), Version: p.version,
		Work: db.work, Heartbeat: db.heartbeat, River: db.river, Blobs: blobs,
		Tools: tool.New(tool.Config{
			StepEnv: stepEnv(cfg.StepEnv), GitAllow: cfg.GitAllow, Development: cfg.Env == "development", Redact: p.redactor.String,
		}),
		Redactor: p.redactor, Metrics: p.metrics, Log: p.log,
		Queues: cfg.Queues, Concurrency: cfg.Concurrency, LeaseTTL: cfg.LeaseTTL, DrainGrace: cfg.DrainGrace,
		WorkspaceDir: cfg.WorkspaceDir, PollOnly: listens != nil,
	})
}

// stepEnv reads lines NAME=value; other lines are nobody's.
func stepEnv(lines string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(lines) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok {
			env[strings.TrimSpace(name)] = value
		}
	}
	return env
}
