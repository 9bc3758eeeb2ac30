// Command worker runs steps: it takes them from the queue, executes their tools,
// writes checkpoints and records what came of them. It is configured by its
// environment alone (config.go) and scales by running more of it.
//
//	worker          takes steps
//	worker config   prints the table of its settings
//	worker sandbox  prints the tier of sandbox that this machine offers
//
// SIGTERM drains: nothing more is taken, running steps get a grace to end, and
// what still runs then is given back. A second SIGTERM skips the grace.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/config"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/process"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/llm/rules"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/tool"
)

const usage = `worker takes steps from the queue and runs them, until SIGTERM. Its settings are
variables of its environment.

usage:
  worker           runs steps
  worker config    prints the settings, their defaults and what they mean, as a
                   Markdown table
  worker sandbox   tries the sandbox and prints the tier that holds here, and for each
                   higher one what it lacks
  worker --version prints the version of this build
`

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 0:
	case args[0] == "help" || slices.Contains(args, "-h") || slices.Contains(args, "-help") || slices.Contains(args, "--help"):
		fmt.Print(usage)
		return
	case len(args) == 1 && args[0] == "config":
		fmt.Print(config.Table[settings]())
		return
	case len(args) == 1 && args[0] == "sandbox":
		if err := tellSandbox(os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		return
	case len(args) == 1 && args[0] == "--version":
		fmt.Println("worker version", process.Version())
		return
	default:
		fmt.Fprintf(os.Stderr, "worker: %q is not understood\n\n%s", strings.Join(args, " "), usage)
		os.Exit(2)
	}
	ctx, hurry := process.Signals()
	if err := serve(ctx, hurry, os.Environ(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

// serve runs a worker until ctx ends and its steps have ended or were given
// back; a hurry that ends skips their grace.
func serve(ctx, hurry context.Context, environ []string, stderr io.Writer) error {
	cfg, unknown, err := config.Load[settings](environ)
	parts, partErr := cfg.parts()
	if err := config.Wrong(unknown, err, partErr, cfg.apart(config.Lookup(environ)), cfg.Sandbox.check(config.Lookup(environ))); err != nil {
		return err
	}
	if err := sandbox.Harden(); err != nil {
		return fmt.Errorf("keep the process's memory to itself: %w", err)
	}
	p, flush, err := process.Start(ctx, "nofx-worker", cfg.Common, environ, unknown, stderr, append(stepSecrets(parts.stepEnv), cfg.ListenURL, cfg.Model.Key)...)
	if err != nil {
		return err
	}
	defer flush()
	outage, log := telemetry.NewOutage("the database", postgres.Silent, p.Log)
	p.Log = log
	pools, err := openPools(ctx, cfg, p.Metrics, outage.Over)
	if err != nil {
		return err
	}
	defer pools.close()
	p.Metrics.CollectPools(pools.stats)
	blobs, err := blob.Open(blob.Config(cfg.S3))
	if err != nil {
		return err
	}
	blobs.LogTo(p.Log)
	if err := blobs.Diagnose(ctx); err != nil { // it may come; until then what needs it is tried again
		p.Log.WarnContext(ctx, "storage cannot be used", "error", err)
	}
	box, err := cfg.Sandbox.open(ctx, cfg.Queues)
	if err != nil {
		p.Log.ErrorContext(ctx, "no code of plans can be run", "error", err)
	}
	if box != nil {
		defer box.Close()
	}
	w, err := newWorker(ctx, p, cfg, parts, pools, blobs, box)
	if err != nil {
		return err
	}
	listener, err := process.Listen("NOFX_METRICS_ADDR", cfg.MetricsAddr)
	if err != nil {
		return err
	}
	p.Log.InfoContext(ctx, "metrics and readiness", "addr", listener.Addr().String())

	// Metrics are served until the last step has ended.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	group.Go(func() error {
		return telemetry.Serve(serving, listener, p.Registry, func(check context.Context) telemetry.Readiness {
			needs := telemetry.Check(check, map[string]func(context.Context) error{"database": pools.work.Ready, "storage": blobs.Ping})
			needs["process"] = nil
			if ctx.Err() != nil {
				needs["process"] = errors.New("it is shutting down")
			}
			keys := pools.work.CheckKey(check, parts.keys)
			if parts.keys == nil { // steps that ask for secrets wait for a worker that has the key
				return telemetry.Readiness{Needs: needs, Wants: map[string]error{"keys": keys}}
			}
			needs["keys"] = keys
			return telemetry.Readiness{Needs: needs}
		})
	})
	err = w.Run(ctx, hurry)
	stopServing()
	if serveErr := group.Wait(); err == nil {
		err = serveErr
	}
	return err
}

// newWorker makes the worker.
func newWorker(ctx context.Context, p *process.Process, cfg settings, parts parts, db *pools, blobs *blob.Store, box *sandbox.Sandbox) (*host.Host, error) {
	if db.listensNot != nil {
		p.Log.WarnContext(ctx, "polling instead of listening", "error", db.listensNot)
		p.Metrics.ListenerUp.Set(0)
	} else {
		p.Metrics.ListenerUp.Set(1)
	}
	models, err := cfg.Model.client(p.Metrics)
	if err != nil {
		return nil, err
	}
	hosts, err := cfg.Forge.hosts()
	if err != nil {
		return nil, err
	}
	reviewers := models
	if reviewers == nil { // rules need no key
		if reviewers, err = (modelSettings{Provider: rules.Name}).client(p.Metrics); err != nil {
			return nil, err
		}
	}
	tools := tool.New(tool.Config{
		StepEnv: parts.stepEnv, GitAllow: parts.repositories, Redactor: p.Redactor,
		Sandbox: box, MinTier: cfg.Sandbox.MinTier,
		HTTP: egress.NewClient(egress.Config{Allow: parts.egress}),
		Network: egress.ProxyConfig{
			Config: egress.Config{Allow: parts.egress}, Bytes: cfg.Sandbox.Egress << 20,
			Tried:  func(r egress.Result) { p.Metrics.StepEgress.Inc(string(r)) },
			Passed: func(bytes int) { p.Metrics.EgressBytes.Add(float64(bytes)) },
		},
		Models: models, ModelTokens: cfg.Model.MaxTokens,
	})
	if box != nil {
		p.Log.InfoContext(ctx, "sandbox", "tier", box.Tier(), "higher", box.Higher())
	}
	machine, _, _ := strings.Cut(p.ID, "/")
	return host.New(host.Config{
		ID: p.ID, PID: os.Getpid(), Host: machine, Version: p.Version,
		Work: db.work, Heartbeat: db.heartbeat, River: db.river, Blobs: blobs,
		Tools: tools, Models: reviewers, Hosts: hosts, Credentials: reviewstep.Credentials(cfg.Forge.TokensDir),
		Alerts: &egress.Config{Allow: parts.egress}, PublicURL: cfg.PublicURL,
		Keys: parts.keys, Redactor: p.Redactor, Metrics: p.Metrics, Log: p.Log,
		Queues: cfg.Queues, Concurrency: cfg.Concurrency, LeaseTTL: cfg.LeaseTTL, DrainGrace: cfg.DrainGrace, Budget: cfg.Budget,
		WorkspaceDir: cfg.WorkspaceDir, PollOnly: db.listensNot != nil,
	})
}

// stepEnv reads the lines NAME=value of NOFX_STEP_ENV. An error shows no line: a value
// may be a secret.
func stepEnv(lines string) (map[string]string, error) {
	env, n := map[string]string{}, 0
	for line := range strings.Lines(lines) {
		n++
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch {
		case !ok:
			return nil, fmt.Errorf("line %d is not NAME=value, for example PATH=/usr/bin:/bin", n)
		case !run.ValidEnvName(name):
			return nil, fmt.Errorf("line %d does not begin with the name of a variable, letters, digits and _, and =, for example PATH=/usr/bin:/bin", n)
		case strings.HasPrefix(name, "NOFX_"):
			return nil, fmt.Errorf("line %d: steps get no variable whose name begins with NOFX_", n)
		}
		env[name] = value
	}
	return env, nil
}

// leastSecret is how long a value of NOFX_STEP_ENV is that is masked, in bytes. Shorter
// ones are mostly switches and numbers, and masking them would spoil every text.
const leastSecret = 8

// stepSecrets returns the values of NOFX_STEP_ENV that are masked wherever they show:
// which of them are secret only the administrator knows. PATH and LANG are in every
// step and are not.
func stepSecrets(env map[string]string) (values []string) {
	for name, value := range env {
		if len(value) >= leastSecret && name != "PATH" && name != "LANG" {
			values = append(values, value)
		}
	}
	return values
}
