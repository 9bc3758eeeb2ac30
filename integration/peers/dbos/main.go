// Command dbos does on DBOS's Go library what the bench has our system do: runs
// of three steps that do nothing, from its queue, on Postgres.
//
//	printf 'runs 1000\nenqueue 1000\n' | DATABASE_URL=postgres://… GOWORK=off go run .
//
// A line of its input says what to measure and how many runs to do it with:
// "runs" has them worked on, "enqueue" only accepted. For each it prints one line
// of JSON. It is a module outside the workspace, so that the library and what that
// needs join no program of ours; `bench` builds it and runs it beside our own.
//
// The library is given what our workers have: as many runs at once, a queue that
// is asked every ten milliseconds (the library's own choice, a second, is for
// other work) and a connection for each run and some more.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// These are the bench's.
const (
	steps    = 3
	clients  = 16
	inFlight = 64
	workers  = 32
	cooldown = 10 * time.Millisecond
)

// result is a line of output: of runs or of enqueue.
type result struct {
	Version string  `json:"version"`
	Runs    int     `json:"runs"`
	CPUMS   float64 `json:"cpu_ms"` // of this process, for each run

	RunsPerS  float64 `json:"runs_per_s,omitempty"`
	StepsPerS float64 `json:"steps_per_s,omitempty"`

	EnqueuePerS  float64 `json:"enqueue_per_s,omitempty"`
	EnqueueP50MS float64 `json:"enqueue_p50_ms,omitempty"`
	EnqueueP99MS float64 `json:"enqueue_p99_ms,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("DATABASE_URL"), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dbos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, database string, in io.Reader, out io.Writer) error {
	if database == "" {
		return errors.New("DATABASE_URL is not set")
	}
	p, err := newPeer(ctx, database)
	if err != nil {
		return err
	}
	defer p.close()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		what, n, err := parse(lines.Text())
		if err != nil {
			return err
		}
		r, err := p.measure(ctx, what, n)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func parse(line string) (what string, n int, err error) {
	what, count, _ := strings.Cut(line, " ")
	n, err = strconv.Atoi(count)
	if what != "runs" && what != "enqueue" || err != nil || n < 2*inFlight || n > 1_000_000 {
		return "", 0, fmt.Errorf("%q: want runs or enqueue, and a number from %d to 1000000", line, 2*inFlight)
	}
	return what, n, nil
}

// peer is the library at work.
type peer struct {
	pool        *pgxpool.Pool
	dbos        dbos.Context
	queue, idle dbos.Queue // the second is listened to by nobody
	ended       chan time.Time
	executed    atomic.Int64 // steps
}

func newPeer(ctx context.Context, database string) (_ *peer, err error) {
	p := &peer{ended: make(chan time.Time, inFlight)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	cfg, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, errors.New("DATABASE_URL is no address of a database")
	}
	cfg.MaxConns = workers + 8
	if p.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	if p.dbos, err = dbos.NewContext(ctx, dbos.Config{
		AppName: "nofx-bench", ApplicationVersion: "1", SystemDBPool: p.pool, Logger: slog.New(slog.DiscardHandler),
	}); err != nil {
		return nil, err
	}
	dbos.RegisterWorkflow(p.dbos, p.work, dbos.WithWorkflowName("noop"))
	dbos.ListenQueues(p.dbos, "work")
	if err := dbos.Launch(p.dbos); err != nil {
		return nil, err
	}
	options := []dbos.QueueOption{dbos.WithWorkerConcurrency(workers), dbos.WithQueueBasePollingInterval(cooldown)}
	if p.queue, err = dbos.RegisterQueue(p.dbos, "work", options...); err != nil {
		return nil, err
	}
	p.idle, err = dbos.RegisterQueue(p.dbos, "idle", options...)
	return p, err
}

func (p *peer) close() {
	if p.dbos != nil {
		dbos.Shutdown(p.dbos, 10*time.Second) //nolint:errcheck // the process ends next
	}
	if p.pool != nil {
		p.pool.Close()
	}
}

// work returns the workflow: steps in order, each recorded by the library.
func (p *peer) work(ctx dbos.Context, goal string) (string, error) {
	for range steps {
		if _, err := dbos.RunAsStep(ctx, func(context.Context) (string, error) {
			p.executed.Add(1)
			return "", nil
		}); err != nil {
			return "", err
		}
	}
	p.ended <- time.Now()
	return "", nil
}

func (p *peer) enqueue(to dbos.Queue) error {
	_, err := dbos.RunWorkflow(p.dbos, p.work, "do nothing", dbos.WithQueue(to))
	return err
}

// measure does what a line of input says.
func (p *peer) measure(ctx context.Context, what string, n int) (result, error) {
	r := result{Version: version(), Runs: n}
	began, err := cpu()
	if err != nil {
		return r, err
	}
	if what == "runs" {
		err = p.runs(ctx, n, &r)
	} else {
		err = p.flood(ctx, n, &r)
	}
	if err != nil {
		return r, err
	}
	ended, err := cpu()
	r.CPUMS = milliseconds(ended-began) / float64(n)
	return r, err
}

// runs does n runs, and checks that all were done.
func (p *peer) runs(ctx context.Context, n int, r *result) error {
	before := p.executed.Load()
	ends, err := p.load(ctx, n)
	if err != nil {
		return err
	}
	if err := p.settled(ctx); err != nil {
		return err
	}
	if got := p.executed.Load() - before; got != int64(steps*n) {
		return fmt.Errorf("%d runs executed %d steps, want %d", n, got, steps*n)
	}
	r.RunsPerS = rate(ends)
	r.StepsPerS = steps * r.RunsPerS
	return nil
}

// load runs n workflows, inFlight at a time, and returns when each ended.
func (p *peer) load(ctx context.Context, n int) ([]time.Time, error) {
	slots := make(chan struct{}, inFlight)
	for range inFlight {
		slots <- struct{}{}
	}
	g, ctx := errgroup.WithContext(ctx)
	var submitted atomic.Int64
	for range clients {
		g.Go(func() error {
			for submitted.Add(1) <= int64(n) {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-slots:
				}
				if err := p.enqueue(p.queue); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ends := make([]time.Time, 0, n)
	g.Go(func() error {
		for len(ends) < n {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case at := <-p.ended:
				ends = append(ends, at)
				slots <- struct{}{}
			}
		}
		return nil
	})
	err := g.Wait()
	return ends, err
}

// settled waits until the library has recorded the outcome of every run that
// was to be worked on, and that all are good.
func (p *peer) settled(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var live, bad int
		if err := p.pool.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE status IN ('ENQUEUED', 'PENDING')), count(*) FILTER (WHERE status NOT IN ('ENQUEUED', 'PENDING'))
			FROM dbos.workflow_status WHERE status <> 'SUCCESS' AND queue_name = 'work'`).Scan(&live, &bad); err != nil {
			return err
		}
		switch {
		case bad > 0:
			return fmt.Errorf("%d runs did not succeed", bad)
		case live == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// flood has all clients enqueue, each at once again, where nobody takes it.
func (p *peer) flood(ctx context.Context, n int, r *result) error {
	began := time.Now()
	var submitted atomic.Int64
	each := make([][]float64, clients)
	g, ctx := errgroup.WithContext(ctx)
	for c := range clients {
		g.Go(func() error {
			for ctx.Err() == nil && submitted.Add(1) <= int64(n) {
				at := time.Now()
				if err := p.enqueue(p.idle); err != nil {
					return err
				}
				each[c] = append(each[c], milliseconds(time.Since(at)))
			}
			return context.Cause(ctx)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := slices.Sorted(slices.Values(slices.Concat(each...)))
	r.EnqueuePerS = float64(n) / time.Since(began).Seconds()
	r.EnqueueP50MS, r.EnqueueP99MS = quantile(took, 0.5), quantile(took, 0.99)
	return nil
}

// rate returns how many a second ended while as many as may be were in flight: not
// as they began, nor when the last were left.
func rate(ends []time.Time) float64 {
	slices.SortFunc(ends, time.Time.Compare)
	first, last := len(ends)/10, len(ends)-inFlight
	return float64(last-first) / ends[last].Sub(ends[first]).Seconds()
}

// quantile returns the quantile by nearest rank, of sorted values.
func quantile(sorted []float64, q float64) float64 {
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cpu returns what this process has used.
func cpu() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}
