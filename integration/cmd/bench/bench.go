package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"nofx.dev/integration/harness"
)

// measurements are in the order in which they run, whatever the order they are
// asked in: each may stop workers of the stack that they share, and none starts
// one again. Those that are long run only when they are asked for.
var measurements = []struct {
	name    string
	measure func(*bench, context.Context) error
	long    bool
}{
	{"memory", (*bench).memory, false}, // before any load
	{"start", (*bench).starts, false},
	{"next", (*bench).nexts, false},
	{"runs", (*bench).runs, false},
	{"workers", (*bench).workers, false},
	{"sandbox", (*bench).sandboxes, false},
	{"scale", (*bench).scale, true},
	{"soak", (*bench).soak, true},
	{"checkpoint", (*bench).checkpoints, false}, // one worker
	{"diff", (*bench).diffs, false},             // one worker
	{"merge", (*bench).merges, false},           // one worker
	{"branch", (*bench).branches, false},        // one worker, then none
	{"post", (*bench).posts, false},             // no worker
}

// trees are the measurements that have git beside them.
var trees = []string{"checkpoint", "diff", "merge"}

// Both systems run as many steps at once.
const (
	workers     = 2
	concurrency = 16 // of one worker
)

// raised are the limits of the gateway that a load from one key would meet.
var raised = map[string]string{"NOFX_LIMIT_RATE": "0", "NOFX_LIMIT_TENANT_RATE": "0"}

// side is a stack on a database of its own, and what loads and watches it.
type side struct {
	stack *harness.Stack
	nofx  *nofx
	meter *meter // nil: CPU cannot be read here
}

// bench is a stack, a chain and a peer beside it, and what was measured.
type bench struct {
	options
	window   time.Duration // of load, per system
	progress func(string)
	dir      string
	binaries harness.Binaries
	servers  *harness.Servers
	*side
	chain  *chain
	peer   *peer // nil: it could not be built
	report report
}

// start brings both systems up.
func start(ctx context.Context, o options, progress func(string)) (_ *bench, err error) {
	b := &bench{options: o, window: time.Duration(o.seconds) * time.Second, progress: progress}
	defer func() {
		if err != nil {
			b.stop(true)
		}
	}()
	if b.dir, err = os.MkdirTemp("", "nofx-bench-*"); err != nil {
		return nil, err
	}
	if b.binaries, err = harness.Build(ctx, harness.BuildConfig{Dir: filepath.Join(b.dir, "bin"), Progress: progress}); err != nil {
		return nil, err
	}
	// With a directory the servers keep what they are given, so they sync.
	if b.servers, err = harness.StartServers(ctx, harness.ServersConfig{Dir: b.dir, Progress: progress}); err != nil {
		return nil, err
	}
	if b.side, err = b.up(ctx, "stack", workers, concurrency, nil); err != nil {
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
	b.report.Machine, err = inspect(ctx, b.dir, b.nofx.db)
	b.report.Started, b.report.Seconds = time.Now().UTC(), o.seconds
	return b, err
}

// up starts a stack whose workers run so many steps each, with env in their environment. It is
// the caller's to close.
func (b *bench) up(ctx context.Context, name string, workers, concurrency int, env map[string]string) (_ *side, err error) {
	worker := map[string]string{"NOFX_WORKER_CONCURRENCY": fmt.Sprint(concurrency)}
	maps.Copy(worker, env)
	s := &side{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.stack, err = harness.Up(ctx, harness.Config{
		Servers: b.servers, Binaries: b.binaries, Dir: filepath.Join(b.dir, name), Workers: workers, Progress: b.progress,
		GatewayEnv: raised, WorkerEnv: worker,
	}); err != nil {
		return nil, err
	}
	if s.nofx, err = newNOFX(ctx, s.stack.URL, s.stack.APIKey, s.stack.WorkerDB); err != nil {
		return nil, err
	}
	if s.meter, err = newMeter(ctx, s); err != nil {
		b.report.note("CPU of %s was not measured: %v", name, err)
	}
	return s, nil
}

func (s *side) close() {
	if s.nofx != nil {
		s.nofx.close()
	}
	if s.stack != nil {
		s.stack.Stop()
	}
}

// ripen gives the databases some history and their planner its statistics. On
// empty tables sessions make plans that go through a whole tenant, and keep them
// until the first autovacuum, up to a minute later: that minute is not what the
// figures are about.
func (b *bench) ripen(ctx context.Context) error {
	b.progress("giving the databases some history")
	for _, s := range []system{b.nofx, b.chain} {
		if err := briefly(ctx, s); err != nil {
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

// briefly gives a system some runs and waits for their end.
func briefly(ctx context.Context, s system) error {
	loading, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	if err := hold(loading, s, inFlight, steps); err != nil {
		return err
	}
	return settle(ctx, s)
}

// stop ends everything that was started. Without clean the logs are kept.
func (b *bench) stop(clean bool) {
	if b.peer != nil {
		b.peer.close()
	}
	if b.chain != nil {
		b.chain.close()
	}
	if b.side != nil {
		b.side.close()
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

// measure takes the measurements named, all short ones when none is, and gives up
// when they take unreasonably long.
func (b *bench) measure(ctx context.Context, only []string) error {
	errLate := errors.New("this takes too long; something hangs or the machine is overloaded")
	limit := 2*time.Minute + 20*b.window
	if slices.Contains(only, "scale") {
		limit += 20*b.window + time.Duration(b.history)*5*time.Millisecond // a run of history takes half one on an idle machine
	}
	if slices.Contains(only, "soak") {
		limit += b.soakFor
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLate)
	defer cancel()
	for _, m := range measurements {
		if asked := slices.Contains(only, m.name); !asked && (m.long || len(only) > 0) {
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
