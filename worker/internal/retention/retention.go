// Package retention deletes what runs have left once the time for it has passed:
// step logs and events, then the whole run unless something needs it, uploads that nobody
// completed, signals that nobody waited for, deliveries of alerts after 30 days, and the
// objects that no row needs any more. It begins the daily collections, and anchors audit logs
// in object storage.
//
// Every worker has a [Cleaner]. They share the work by SKIP LOCKED and need no
// leader; each does a little at a time, so that a backlog of years is worked off
// beside the steps and never in their way. Rows go first and objects after them:
// a crash in between leaves a condemned object, which the next pass deletes, and
// never a row without its bytes. What goes and what stays is in
// migrations/functions/retention.sql.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/pause"
)

// How much one pass does, and how often there is one. A transaction deletes at
// most batch rows; a pass that met a limit is followed by the next after busy.
const (
	batch   = 200
	batches = 50   // of a pass
	looks   = 1000 // runs looked at in a pass
	steps   = 50   // of each run, deleted in one transaction
	whole   = 10   // runs deleted in one transaction
	deletes = 8    // objects deleted at once

	tenants = 20               // whose collections are begun in a pass
	between = 10 * time.Minute // looks for those that are due

	idle = 15 * time.Second
	busy = time.Second
)

// Config is what a Cleaner works with.
type Config struct {
	DB      *postgres.DB
	Blobs   *blob.Store
	Metrics *telemetry.Metrics
	Log     *slog.Logger
}

// Cleaner deletes what has expired.
type Cleaner struct {
	Config
	at     postgres.RunRef // where the look at runs goes on
	behind time.Time       // where that at objects does: after those that stay
	looked time.Time       // when daily was last done
}

// New makes a Cleaner.
func New(cfg Config) *Cleaner { return &Cleaner{Config: cfg} }

// Run cleans until ctx ends.
func (c *Cleaner) Run(ctx context.Context) {
	for {
		more, err := c.pass(ctx)
		if err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "retention", "error", err)
		}
		wait := idle
		if more && err == nil {
			wait = busy
		}
		if pause.For(ctx, pause.Jitter(wait, 0.2)) != nil { // else workers would meet at the same rows
			return
		}
	}
}

// pass does one round of everything. more says that some of it met its limit.
func (c *Cleaner) pass(ctx context.Context) (more bool, err error) {
	pruned, err := c.runs(ctx)
	if err != nil {
		return false, err
	}
	uploads, err := c.DB.ExpireUploads(ctx, batch)
	if err != nil {
		return false, err
	}
	signals, err := c.DB.ExpireSignals(ctx, batch)
	if err != nil {
		return false, err
	}
	system, err := c.DB.ExpireSystemRuns(ctx, batch/4) // each has many rows
	if err != nil {
		return false, err
	}
	c.Metrics.RunsExpired.Add(float64(system), string(run.SystemRun))
	alerts, err := c.DB.ExpireAlerts(ctx, batch)
	if err != nil {
		return false, err
	}
	if err := c.daily(ctx); err != nil {
		return false, err
	}
	objects, err := c.objects(ctx)
	return pruned || uploads == batch || signals == batch || alerts == batch || system == batch/4 || objects, err
}

// runs deletes runs whose retention has passed, or what of them can go.
func (c *Cleaner) runs(ctx context.Context) (more bool, err error) {
	runs, next, err := c.DB.ExpiredRuns(ctx, c.at, looks, batch)
	if err != nil {
		return false, err
	}
	c.at = next
	left := batches
	for len(runs) > 0 && left > 0 {
		tenant := runs[0].Tenant
		var ids []uuid.UUID
		for len(runs) > 0 && runs[0].Tenant == tenant {
			ids = append(ids, runs[0].Run)
			runs = runs[1:]
		}
		if left, err = c.prune(ctx, tenant, ids, left); err != nil {
			return false, err
		}
	}
	if left <= 0 {
		c.at = postgres.RunRef{} // what was not reached is found again
	}
	return left <= 0 || next != (postgres.RunRef{}), nil
}

// daily does what is due each day, once it is time to look for it.
func (c *Cleaner) daily(ctx context.Context) error {
	if time.Since(c.looked) < between {
		return nil
	}
	c.looked = time.Now()
	return errors.Join(c.anchors(ctx), c.collections(ctx))
}

// collections begins the daily collection of tenants whose last one was a day ago: a system
// run, which one worker does whoever asks for it.
func (c *Cleaner) collections(ctx context.Context) error {
	key := run.ToolGC + "/" + run.WholeTenant
	due, err := c.DB.DueCollections(ctx, key, tenants)
	if err != nil {
		return err
	}
	plan, err := run.SystemPlan(run.ToolGC, "collect garbage", run.GCInputs{})
	if err != nil {
		return err
	}
	for _, tenant := range due {
		begun, span := otel.Tracer("nofx.dev/worker/internal/retention").Start(newTrace(ctx), "run.create")
		_, err := c.DB.StartWork(postgres.WithActor(begun, "system"), tenant, postgres.Work{Key: key, Project: "default", Plan: plan, CreatedBy: "system", Again: true})
		span.End()
		if err != nil {
			return fmt.Errorf("begin the collection of tenant %s: %w", tenant, err)
		}
	}
	return nil
}

// newTrace returns ctx in a trace of its own, for a run that nobody has asked for.
func newTrace(ctx context.Context) context.Context {
	id, span := uuid.New(), uuid.New()
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(id), SpanID: trace.SpanID(span[:8]), TraceFlags: trace.FlagsSampled,
	}))
}

// prune deletes what runs of one tenant left, in at most so many transactions, and
// says how many are left.
func (c *Cleaner) prune(ctx context.Context, tenant uuid.UUID, ids []uuid.UUID, left int) (int, error) {
	for ; left > 0; left-- {
		p, err := c.DB.PruneRuns(ctx, tenant, ids, batch)
		if err != nil {
			return left, err
		}
		c.Metrics.EventsPruned.Add(float64(p.Events))
		if p.Events+p.Chunks < batch {
			return c.expire(ctx, tenant, ids, left-1)
		}
	}
	return left, nil
}

// expire deletes pruned runs of one tenant as a whole, unless something needs them, in at
// most so many transactions, and says how many are left.
func (c *Cleaner) expire(ctx context.Context, tenant uuid.UUID, ids []uuid.UUID, left int) (int, error) {
	for some := range slices.Chunk(ids, whole) {
		for more := true; more; left-- {
			if left <= 0 {
				return left, nil
			}
			var gone []uuid.UUID
			var err error
			if gone, more, err = c.DB.ExpireRuns(ctx, tenant, some, steps); err != nil {
				return left, err
			}
			c.Metrics.RunsExpired.Add(float64(len(gone)), string(run.PlanRun))
			for _, id := range gone {
				c.Log.InfoContext(ctx, "run expired", "tenant_id", run.TenantID.Format(tenant), "run_id", run.RunID.Format(id))
			}
		}
	}
	return left, nil
}

// objects deletes objects that no row needs any more. Those that cannot be deleted
// stay, and the next pass goes on behind them, until it is at the end.
func (c *Cleaner) objects(ctx context.Context) (more bool, err error) {
	list, err := c.DB.CondemnedObjects(ctx, c.behind, batch)
	c.behind = time.Time{}
	if err != nil || len(list) == 0 {
		return false, err
	}
	if err := failpoint.Hit(failpoint.InGC); err != nil {
		return false, err
	}
	gone, tried, failed := c.delete(ctx, list)
	if failed != nil {
		c.behind = list[tried-1].CreatedAt
		if len(gone) == 0 {
			return false, failed
		}
		c.Log.WarnContext(ctx, "retention: some objects stay", "objects", tried-len(gone), "error", failed)
	}
	return len(list) == batch, c.DB.ForgetObjects(ctx, gone)
}

// delete deletes objects from storage, each for itself, and says which went, how
// many it tried, and why one of the others did not go. It gives up on a storage
// that seems to be away.
func (c *Cleaner) delete(ctx context.Context, list []postgres.Garbage) (gone []postgres.Garbage, tried int, failed error) {
	var mu sync.Mutex
	away := 0
	var g errgroup.Group
	g.SetLimit(deletes)
	for _, o := range list {
		mu.Lock()
		enough := ctx.Err() != nil || len(gone) == 0 && away >= deletes
		mu.Unlock()
		if enough && tried > 0 {
			break
		}
		tried++
		g.Go(func() error {
			err := c.Blobs.Delete(ctx, o.Key)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				gone = append(gone, o)
				return nil
			}
			failed = err
			if errors.Is(err, fault.Unavailable) {
				away++
			}
			return nil
		})
	}
	_ = g.Wait() // nothing above is an error
	return gone, tried, failed
}
