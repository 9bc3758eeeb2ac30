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

// leaseRules are the rules of EXECUTION.md, Leases and fences, for a TTL. The gap is
// shorter than the TTL by two heartbeats: one that a lease may be old when an outage
// begins, and one until its holder renews it when the outage is over.
func leaseRules(ttl time.Duration) postgres.LeaseRules {
	return postgres.LeaseRules{TTL: ttl, Gap: ttl / 2}
}

// held is a lease of this process, from its claim to the end of the attempt, also
// when it is lost before that. renewed is when its last confirmed renewal was sent, by
// the monotonic clock, so that it never is younger than the database thinks.
type held struct {
	lease   postgres.Lease
	lose    context.CancelCauseFunc
	renewed time.Time
	lost    bool
	change  chan struct{} // closed at the next renewal or loss
	ended   chan struct{} // closed when the attempt has ended
	before  *held         // of an earlier attempt at the step that had not ended when this one was claimed
}

// keeper renews every lease of the process: one statement for all of them,
// every 30 % of the TTL, on connections used for nothing else.
type keeper struct {
	db      *postgres.DB
	rules   postgres.LeaseRules
	log     *slog.Logger
	metrics *telemetry.Metrics

	mu   sync.Mutex
	held map[uuid.UUID]*held // by step: of several, the latest
}

func newKeeper(db *postgres.DB, ttl time.Duration, log *slog.Logger, m *telemetry.Metrics) *keeper {
	return &keeper{db: db, rules: leaseRules(ttl), log: log, metrics: m, held: map[uuid.UUID]*held{}}
}

// hold keeps c's lease until it is released; sent is when the claim was sent. lose is
// called with the cause when the lease is gone. That this worker got the step again
// tells that a lease which it still holds on it is lost.
func (k *keeper) hold(c *postgres.Claim, sent time.Time, lose context.CancelCauseFunc) *held {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := &held{
		lease: postgres.Lease{StepID: c.StepID, Fence: c.Fence}, lose: lose, renewed: sent,
		change: make(chan struct{}), ended: make(chan struct{}), before: k.held[c.StepID],
	}
	if h.before != nil {
		k.drop(h.before)
	}
	k.held[c.StepID] = h
	return h
}

// alone returns when all earlier attempts of this worker at h's step have ended, so
// that the step never runs twice here. The error is ctx's cause.
func (h *held) alone(ctx context.Context) error {
	for b := h.before; b != nil; b = b.before {
		select {
		case <-b.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// release stops renewing a lease whose attempt has ended.
func (k *keeper) release(h *held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[h.lease.StepID] == h {
		delete(k.held, h.lease.StepID)
	}
	close(h.ended)
}

// fresh returns once c's lease is young enough for another effect or upload:
// at most 70 % of the TTL since its last renewal was sent. A process that was
// stopped and continued waits here until a renewal tells whether it still holds
// the lease. The error is fault.Fenced, or ctx's cause.
func (k *keeper) fresh(ctx context.Context, c *postgres.Claim) error {
	for {
		k.mu.Lock()
		h := k.held[c.StepID]
		if h == nil || h.lost || h.lease.Fence != c.Fence {
			k.mu.Unlock()
			return errLeaseLost
		}
		young := time.Since(h.renewed) < k.rules.TTL*7/10
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

// run renews until ctx ends, every 30 % of the TTL, and soon again after a renewal
// that failed: after an outage the leases have run out, or are about to.
func (k *keeper) run(ctx context.Context) {
	for {
		wait := k.rules.TTL * 3 / 10
		if err := k.renew(ctx); err != nil {
			wait = k.rules.TTL / 20
		}
		if pauseFor(ctx, wait) != nil {
			return
		}
	}
}

// renew asks without leases as well: the database learns by it that workers reach it.
func (k *keeper) renew(ctx context.Context) error {
	leases := k.leases()
	sent := time.Now()
	ctx, cancel := context.WithTimeout(ctx, max(time.Second, k.rules.TTL/5))
	defer cancel()
	renewed, locked, err := k.db.Heartbeat(ctx, leases, k.rules)
	if err != nil {
		k.metrics.LeaseRenewals.Add(float64(len(leases)), "late")
		k.log.WarnContext(ctx, "lease renewal", "leases", len(leases), "error", err)
		k.loseSilent()
		return err
	}
	k.confirm(leases, renewed, locked, sent)
	return nil
}

func (k *keeper) leases() []postgres.Lease {
	k.mu.Lock()
	defer k.mu.Unlock()
	leases := make([]postgres.Lease, 0, len(k.held))
	for _, h := range k.held {
		if !h.lost {
			leases = append(leases, h.lease)
		}
	}
	slices.SortFunc(leases, func(a, b postgres.Lease) int { return slices.Compare(a.StepID[:], b.StepID[:]) })
	return leases
}

// confirm notes which of the leases asked for were renewed, and which another
// transaction has locked, a finish that takes long perhaps; the others are lost.
func (k *keeper) confirm(asked []postgres.Lease, renewed, locked []uuid.UUID, sent time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range asked {
		h := k.held[l.StepID]
		switch {
		case h == nil || h.lost || h.lease != l: // released or lost meanwhile
		case slices.Contains(renewed, l.StepID):
			k.metrics.LeaseRenewals.Inc("ok")
			h.renewed = sent
			close(h.change)
			h.change = make(chan struct{})
		case slices.Contains(locked, l.StepID):
			k.metrics.LeaseRenewals.Inc("late")
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

// drop gives a lease up, if it is not yet. The caller holds mu.
func (k *keeper) drop(h *held) {
	if h.lost {
		return
	}
	h.lost = true
	k.metrics.LeaseLost.Inc("step")
	h.lose(errLeaseLost)
	close(h.change)
}
