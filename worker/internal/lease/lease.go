// Package lease keeps the leases that this process holds on steps.
//
// A [Keeper] renews all of them in one statement, every 30 % of their TTL, on connections
// used for nothing else, and ends the attempts whose lease is gone. Who is about to change
// something outside asks [Keeper.Fresh] first, so that a process which was stopped for a
// while does nothing that another worker is doing by now.
package lease

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
	"nofx.dev/worker/internal/pause"
)

// contactLimit is how long work goes on while the database does not answer. An
// outage shorter than that costs no work, as sweepers hold off too.
const contactLimit = 30 * time.Second

// errLost ends an attempt whose step may run elsewhere by now.
var errLost = fault.New(fault.Fenced, "fenced", "the lease is lost")

// Rules returns the rules of EXECUTION.md, Leases and fences, for a TTL. The gap is
// shorter than the TTL by two heartbeats: one that a lease may be old when an outage
// begins, and one until its holder renews it when the outage is over.
func Rules(ttl time.Duration) postgres.LeaseRules {
	return postgres.LeaseRules{TTL: ttl, Gap: ttl / 2}
}

// Held is a lease of this process, from its claim to the end of the attempt, also
// when it is lost before that. renewed is when its last confirmed renewal was sent, by
// the monotonic clock, so that it never is younger than the database thinks.
type Held struct {
	lease   postgres.Lease
	lose    context.CancelCauseFunc
	renewed time.Time
	lost    bool
	change  chan struct{} // closed at the next renewal or loss
	ended   chan struct{} // closed when the attempt has ended
	before  *Held         // of an earlier attempt at the step that had not ended when this one was claimed
}

// Keeper renews every lease of the process. It is safe for concurrent use.
type Keeper struct {
	db      *postgres.DB
	rules   postgres.LeaseRules
	log     *slog.Logger
	metrics *telemetry.Metrics

	mu   sync.Mutex
	held map[uuid.UUID]*Held // by step: of several, the latest
}

// New makes a Keeper, which keeps nothing before Run.
func New(db *postgres.DB, ttl time.Duration, log *slog.Logger, m *telemetry.Metrics) *Keeper {
	return &Keeper{db: db, rules: Rules(ttl), log: log, metrics: m, held: map[uuid.UUID]*Held{}}
}

// Hold keeps c's lease until it is released; sent is when the claim was sent. lose is
// called with the cause when the lease is gone. That this worker got the step again
// tells that a lease which it still holds on it is lost.
func (k *Keeper) Hold(c *postgres.Claim, sent time.Time, lose context.CancelCauseFunc) *Held {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := &Held{
		lease: postgres.Lease{StepID: c.StepID, Fence: c.Fence}, lose: lose, renewed: sent,
		change: make(chan struct{}), ended: make(chan struct{}), before: k.held[c.StepID],
	}
	if h.before != nil {
		k.drop(h.before)
	}
	k.held[c.StepID] = h
	return h
}

// Alone returns when all earlier attempts of this worker at h's step have ended, so
// that the step never runs twice here. The error is ctx's cause.
func (h *Held) Alone(ctx context.Context) error {
	for b := h.before; b != nil; b = b.before {
		select {
		case <-b.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Release stops renewing a lease whose attempt has ended.
func (k *Keeper) Release(h *Held) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held[h.lease.StepID] == h {
		delete(k.held, h.lease.StepID)
	}
	close(h.ended)
}

// Fresh returns once c's lease is young enough for another effect or upload:
// at most 70 % of the TTL since its last renewal was sent. A process that was
// stopped and continued waits here until a renewal tells whether it still holds
// the lease. The error is fault.Fenced, or ctx's cause.
func (k *Keeper) Fresh(ctx context.Context, c *postgres.Claim) error {
	for {
		k.mu.Lock()
		h := k.held[c.StepID]
		if h == nil || h.lost || h.lease.Fence != c.Fence {
			k.mu.Unlock()
			return errLost
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

// Run renews until ctx ends, every 30 % of the TTL, and soon again after a renewal
// that failed: after an outage the leases have run out, or are about to.
func (k *Keeper) Run(ctx context.Context) {
	for {
		wait := k.rules.TTL * 3 / 10
		if err := k.renew(ctx); err != nil {
			wait = k.rules.TTL / 20
		}
		if pause.For(ctx, wait) != nil {
			return
		}
	}
}

// renew asks without leases as well: the database learns by it that workers reach it.
func (k *Keeper) renew(ctx context.Context) error {
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

func (k *Keeper) leases() []postgres.Lease {
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
func (k *Keeper) confirm(asked []postgres.Lease, renewed, locked []uuid.UUID, sent time.Time) {
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
func (k *Keeper) loseSilent() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.held {
		if time.Since(h.renewed) > contactLimit {
			k.drop(h)
		}
	}
}

// Count returns how many leases are held, and not known to be lost.
func (k *Keeper) Count() int { return len(k.leases()) }

// drop gives a lease up, if it is not yet. The caller holds mu.
func (k *Keeper) drop(h *Held) {
	if h.lost {
		return
	}
	h.lost = true
	k.metrics.LeaseLost.Inc("step")
	h.lose(errLost)
	close(h.change)
}
