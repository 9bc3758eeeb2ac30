package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"nofx.dev/integration/harness"
)

// measurements are in the order in which they run, whatever the order they are
// asked in: each may stop workers, and none starts one again.
var measurements = []struct {
	name    string
	measure func(*bench, context.Context) error
}{
	{"memory", (*bench).memory}, // before any load
	{"start", (*bench).starts},
	{"next", (*bench).nexts},
	{"runs", (*bench).runs},
	{"checkpoint", (*bench).checkpoints}, // one worker
	{"post", (*bench).posts},             // no worker
}

// Both systems run as many steps at once.
const (
	workers     = 2
	concurrency = 16 // of one worker
)

// raised are the limits of the gateway that a load from one key would meet.
var raised = map[string]string{"NOFX_LIMIT_RATE": "0", "NOFX_LIMIT_TENANT_RATE": "0"}

// bench is a stack, a chain and a peer beside it, and what was measured.
type bench struct {
	window   time.Duration // of load, per system
	rounds   int           // how often each system has its turn
	progress func(string)
	dir      string
	servers  *harness.Servers
	stack    *harness.Stack
	nofx     *nofx
	chain    *chain
	peer     *peer  // nil: it could not be built
	meter    *meter // nil: CPU cannot be read here
	report   report
}

// start brings both systems up.
func start(ctx context.Context, o options, progress func(string)) (_ *bench, err error) {
	b := &bench{window: time.Duration(o.seconds) * time.Second, rounds: o.rounds, progress: progress}
	defer func() {
		if err != nil {
			b.stop(true)
		}
	}()
	if b.dir, err = os.MkdirTemp("", "nofx-bench-*"); err != nil {
		return nil, err
	}
	binaries, err := harness.Build(ctx, harness.BuildConfig{Dir: filepath.Join(b.dir, "bin"), Progress: progress})
	if err != nil {
		return nil, err
	}
	// With a directory the servers keep what they are given, so they sync.
	if b.servers, err = harness.StartServers(ctx, harness.ServersConfig{Dir: b.dir, Progress: progress}); err != nil {
		return nil, err
	}
	if b.stack, err = harness.Up(ctx, harness.Config{
		Servers: b.servers, Binaries: binaries, Dir: filepath.Join(b.dir, "stack"), Workers: workers, Progress: progress,
		GatewayEnv: raised, WorkerEnv: map[string]string{"NOFX_WORKER_CONCURRENCY": fmt.Sprint(concurrency)},
	}); err != nil {
		return nil, err
	}
	if b.nofx, err = newNOFX(ctx, b.stack.URL, b.stack.APIKey, b.stack.DatabaseURL); err != nil {
		return nil, err
	}
	if b.chain, err = newChain(ctx, b.stack.AdminURL, workers*concurrency); err != nil {
		return nil, err
	}
	if b.peer, err = newPeer(ctx, b.servers.URL, b.dir, progress); err != nil {
		b.report.note("DBOS was not measured: %v", err)
	}
	if err := b.ripen(ctx); err != nil {
		return nil, fmt.Errorf("first runs: %w", err)
	}
	if b.meter, err = b.newMeter(ctx); err != nil {
		b.report.note("CPU was not measured: %v", err)
	}
	b.report.Machine, err = inspect(ctx, b.dir, b.nofx.db)
	b.report.Started, b.report.Seconds = time.Now().UTC(), o.seconds
	return b, err
}

// ripen gives the databases some history and their planner its statistics. On
// empty tables sessions make plans that go through a whole tenant, and keep them
// until the first autovacuum, up to a minute later: that minute is not what the
// figures are about.
func (b *bench) ripen(ctx context.Context) error {
	b.progress("giving the databases some history")
	for _, s := range []system{b.nofx, b.chain} {
		loading, stop := context.WithTimeout(ctx, 3*time.Second)
		err := hold(loading, s, inFlight, steps)
		stop()
		if err == nil {
			err = settle(ctx, s)
		}
		if err != nil {
			return err
		}
	}
	if err := execute(ctx, b.stack.AdminURL, "ANALYZE"); err != nil {
		return err
	}
	if _, err := b.chain.pool.Exec(ctx, "ANALYZE"); err != nil || b.peer == nil {
		return err
	}
	if _, err := b.peer.measure(ctx, "runs", peerRuns, 3*time.Second); err != nil {
		return err
	}
	return execute(ctx, b.peer.url, "ANALYZE")
}

// stop ends everything that was started. Without clean the logs are kept.
func (b *bench) stop(clean bool) {
	if b.peer != nil {
		b.peer.close()
	}
	if b.chain != nil {
		b.chain.close()
	}
	if b.nofx != nil {
		b.nofx.close()
	}
	if b.stack != nil {
		b.stack.Stop()
	}
	if b.servers != nil {
		b.servers.Stop()
	}
	if b.dir == "" {
		return
	}
	if clean {
		os.RemoveAll(b.dir)
		return
	}
	b.progress("logs are kept in " + filepath.Join(b.dir, "stack", "logs"))
}

// measure takes the measurements named, all when none is, and gives up when they
// take unreasonably long.
func (b *bench) measure(ctx context.Context, only []string) error {
	errLate := errors.New("this takes too long; something hangs or the machine is overloaded")
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute+10*b.window, errLate)
	defer cancel()
	for _, m := range measurements {
		if len(only) > 0 && !slices.Contains(only, m.name) {
			continue
		}
		b.progress("measuring " + m.name)
		if err := m.measure(b, ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
	}
	return nil
}

// keepWorkers stops all workers but the first n.
func (b *bench) keepWorkers(n int) {
	for _, w := range b.stack.Workers()[n:] {
		w.Stop()
	}
}

// pause waits for d, or returns why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
