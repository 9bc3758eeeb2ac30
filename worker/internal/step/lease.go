package step

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
)

// contactLimit is how long work goes on while the database does not answer. An
// outage shorter than that costs no work, as sweepers hold off too.
const contactLimit = 30 * time.Second

// errLeaseLost ends an attempt whose step may run elsewhere by now.
var errLeaseLost = fault.New(fault.Fenced, "fenced", "the lease is lost")

// held is a lease of this process. renewed is when its last confirmed renewal
// was sent, by the monotonic clock, so that it never is younger than the
// database thinks.
type held struct {
	lease   postgres.Lease
	lose    context.CancelCauseFunc
	renewed time.Time
	change  chan struct{} // closed at the next renewal or loss
}

// keeper renews every lease of the process: one statement for all of them,
// every 30 % of the TTL, on connections used for nothing else.
type keeper struct {
	db      *postgres.DB
	ttl     time.Duration
	log     *slog.Logger
	metrics *telemetry.Metrics

	mu   sync.Mutex
	held map[uuid.UUID]*held
}

func newKeeper(db *postgres.DB, ttl time.Duration, log *slog.Logger, m *telemetry.Metrics) *keeper {
	return &keeper{db: db, ttl: ttl, log: log, metrics: m, held: map[uuid.UUID]*held{}}
}

// hold keeps c's lease from now on; sent is when the claim was sent. lose is
// called with the cause when the lease is gone.
func (k *keeper) hold(c *postgres.Claim, sent time.Time, lose context.CancelCauseFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[c.StepID] = &held{
		lease: postgres.Lease{StepID: c.StepID, Fence: c.Fence}, lose: lose, renewed: sent, change: make(chan struct{}),
	}
}

// release stops renewing c's lease.
func (k *keeper) release(c *postgres.Claim) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.held[c.StepID]; h != nil && h.lease.Fence == c.Fence {
		delete(k.held, c.StepID)
	}
}

// fresh returns once c's lease is young enough for another effect or upload:
// at most 70 % of the TTL since its last renewal was sent. A process that was
// stopped and continued waits here until a renewal tells whether it still holds
// the lease. The error is fault.Fenced, or ctx's cause.
func (k *keeper) fresh(ctx context.Context, c *postgres.Claim) error {
	for {
		k.mu.Lock()
		h := k.held[c.StepID]
		if h == nil || h.lease.Fence != c.Fence {
			k.mu.Unlock()
			return errLeaseLost
		}
		young := time.Since(h.renewed) < k.ttl*7/10
		change := h.change
		k.mu.Unlock()
		if young {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run renews until ctx ends.
func (k *keeper) run(ctx context.Context) {
	every := time.NewTicker(k.ttl * 3 / 10)
	defer every.Stop()
	for {
		k.renew(ctx)
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

func (k *keeper) renew(ctx context.Context) {
	leases := k.leases()
	if len(leases) == 0 {
		return
	}
	sent := time.Now()
	ctx, cancel := context.WithTimeout(ctx, max(time.Second, k.ttl/5))
	defer cancel()
	kept, err := k.db.Heartbeat(ctx, leases, k.ttl)
	if err != nil {
		k.metrics.LeaseRenewals.Add(float64(len(leases)), "late")
		k.log.WarnContext(ctx, "lease renewal", "leases", len(leases), "error", err)
		k.loseSilent()
		return
	}
	k.confirm(leases, kept, sent)
}

func (k *keeper) leases() []postgres.Lease {
	k.mu.Lock()
	defer k.mu.Unlock()
	leases := make([]postgres.Lease, 0, len(k.held))
	for _, h := range k.held {
		leases = append(leases, h.lease)
	}
	slices.SortFunc(leases, func(a, b postgres.Lease) int { return slices.Compare(a.StepID[:], b.StepID[:]) })
	return leases
}

// confirm notes which of the leases asked for were kept; the others are lost.
func (k *keeper) confirm(asked []postgres.Lease, kept []uuid.UUID, sent time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range asked {
		h := k.held[l.StepID]
		switch {
		case h == nil || h.lease != l: // released meanwhile
		case slices.Contains(kept, l.StepID):
			k.metrics.LeaseRenewals.Inc("ok")
			h.renewed = sent
			close(h.change)
			h.change = make(chan struct{})
		default:
			k.metrics.LeaseRenewals.Inc("lost")
			k.drop(h)
		}
	}
}

// loseSilent gives up leases for which the database has been silent for too long.
func (k *keeper) loseSilent() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if time.Since(h.renewed) > contactLimit {
			k.drop(h)
		}
	}
}

func (k *keeper) drop(h *held) {
	k.metrics.LeaseLost.Inc("step")
	delete(k.held, h.lease.StepID)
	h.lose(errLeaseLost)
	close(h.change)
}
