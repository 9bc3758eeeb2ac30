// Package process is what gateway and worker do alike when they start and stop:
// logs, metrics, traces and, in tests, failpoints from the same settings; and
// signals.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/config"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/telemetry"
)

// Signals returns two contexts: ctx ends with the first SIGINT or SIGTERM, which
// asks the process to drain, and hurry with the second, which skips the waiting.
func Signals() (ctx, hurry context.Context) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, drain := context.WithCancel(context.Background())
	hurry, rush := context.WithCancel(context.Background())
	go func() {
		<-signals
		drain()
		<-signals
		rush()
	}()
	return ctx, hurry
}

// Process is who this process is and what watches it.
type Process struct {
	ID       string // host/uuid, unique among all that ever ran
	Version  string // of the build
	Log      *slog.Logger
	Redactor *telemetry.Redactor // knows the secrets of the settings
	Registry *prometheus.Registry
	Metrics  *telemetry.Metrics
}

// Start sets up what watches a process of that service name. environ has the
// form of os.Environ; unknown, as [config.Load] returns it, is warned about; secrets
// are what the redactor is to know beside those of c. flush sends the traces that are left.
func Start(ctx context.Context, service string, c config.Common, environ, unknown []string, stderr io.Writer, secrets ...string) (p *Process, flush func(), err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log)); err != nil {
		return nil, nil, fmt.Errorf("NOFX_LOG_LEVEL must be debug, info, warn or error")
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("name of the host: %w", err)
	}
	p = &Process{
		ID: host + "/" + uuid.NewString(), Version: Version(), Registry: prometheus.NewRegistry(),
		Redactor: telemetry.NewRedactor(append(secrets, c.DatabaseURL, c.S3.SecretKey)...),
	}
	p.Log = telemetry.NewLogger(stderr, level, p.Redactor)
	p.Metrics = telemetry.NewMetrics(p.Registry, p.Version)
	if len(unknown) > 0 {
		p.Log.WarnContext(ctx, "unknown variables are ignored", "names", unknown)
	}
	getenv := config.Lookup(environ)
	if err := failpoint.Init(getenv, p.Log, func(name string) { p.Metrics.FailpointHits.Inc(name) }); err != nil {
		return nil, nil, err
	}
	shutdown, err := telemetry.Setup(ctx, telemetry.Config{
		Service: service, Version: p.Version, InstanceID: p.ID, Env: getenv, Log: p.Log, Metrics: p.Metrics, Redactor: p.Redactor,
	})
	if err != nil {
		return nil, nil, err
	}
	return p, func() {
		if err := shutdown(context.WithoutCancel(ctx)); err != nil {
			p.Log.Warn("flush traces", "error", err)
		}
	}, nil
}

// Listen listens on addr, which setting has. The error is in words.
func Listen(setting, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	_, malformed := errors.AsType[*net.AddrError](err)
	switch {
	case malformed:
		return nil, fmt.Errorf("%s is not an address to listen on, for example :8080 or 127.0.0.1:8080", setting)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: another process listens on %s; name another port", setting, addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: this user may not listen on %s; name a port above 1023", setting, addr)
	case err != nil:
		return nil, fmt.Errorf("%s: cannot listen on %s: %w", setting, addr, err)
	}
	return l, nil
}

// Version returns the version of this build: a release, or the commit that it was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (info.Main.Version == "" || info.Main.Version == "(devel)") {
			return s.Value
		}
	}
	return cmp.Or(info.Main.Version, "unknown")
}
