package alert

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/pause"
)

const (
	atOnce = 128              // deliveries of a worker; the endpoints of one tenant have 40 at most
	every  = time.Second      // looks for what is due
	answer = 10 * time.Second // the longest time of a request
	leave  = 3 * time.Second  // for requests under way when the worker stops
)

// rules have a lease that outlasts a request and the record of its result.
var rules = postgres.AlertRules{Looks: 1000, Each: 2, Lease: 20 * time.Second}

// Config is what a Deliverer works with.
type Config struct {
	Worker    string // its id, on claims
	DB        *postgres.DB
	Keys      *seal.Key
	Egress    egress.Config // what may be reached; no redirect is followed
	PublicURL string        // of the gateway, for links; "": there are none
	Redactor  *telemetry.Redactor
	Metrics   *telemetry.Metrics
	Log       *slog.Logger
}

// Deliverer delivers events to endpoints.
type Deliverer struct {
	Config
	http     *http.Client
	limit    time.Duration // answer
	place    postgres.AlertPlace
	underWay atomic.Int64
	ended    chan struct{} // one of them did
	keyless  string        // why nothing can be signed, as it was logged last
}

// New makes a Deliverer.
func New(cfg Config) *Deliverer {
	cfg.Egress.Stay = true
	return &Deliverer{Config: cfg, http: egress.NewClient(cfg.Egress), limit: answer, ended: make(chan struct{}, 1)}
}

// Run delivers until ctx ends. Requests under way then get a moment to end; what is cut off
// is sent again by another worker.
func (d *Deliverer) Run(ctx context.Context) {
	ctx = postgres.WithActor(ctx, d.Worker)
	sending, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var requests sync.WaitGroup
	for ctx.Err() == nil {
		more, err := d.claim(ctx, func(c postgres.AlertClaim) { requests.Go(func() { d.deliver(sending, c) }) })
		if err != nil && ctx.Err() == nil {
			d.Log.WarnContext(ctx, "look for alerts that are due", "error", err)
		}
		if !more {
			d.wait(ctx)
		}
	}
	defer time.AfterFunc(leave, cut).Stop()
	requests.Wait()
	d.http.CloseIdleConnections()
}

// wait waits for the next look, or until a delivery has ended.
func (d *Deliverer) wait(ctx context.Context) {
	look := time.NewTimer(pause.Jitter(every, 0.2))
	defer look.Stop()
	select {
	case <-look.C:
	case <-d.ended:
	case <-ctx.Done():
	}
}

// claim claims what is due and starts it. more says that there may be more, behind the
// endpoints that it has looked at.
func (d *Deliverer) claim(ctx context.Context, start func(postgres.AlertClaim)) (more bool, err error) {
	free := atOnce - int(d.underWay.Load())
	if free <= 0 || !d.canSign(ctx) {
		return false, nil
	}
	claims, err := d.DB.ClaimAlerts(ctx, d.Worker, &d.place, rules, free)
	if err != nil {
		return false, err
	}
	for _, c := range claims {
		d.underWay.Add(1)
		start(c)
	}
	return len(claims) < free && d.place != postgres.AlertPlace{}, nil
}

// canSign reports whether secrets can be opened, and logs once why not.
func (d *Deliverer) canSign(ctx context.Context) bool {
	err := d.Keys.Ready()
	reason := ""
	if err != nil {
		if reason = err.Error(); reason != d.keyless {
			d.Log.WarnContext(ctx, "alerts wait", "error", err)
		}
	}
	d.keyless = reason
	return err == nil
}

// deliver makes one attempt and records what came of it.
func (d *Deliverer) deliver(ctx context.Context, c postgres.AlertClaim) {
	defer func() {
		d.underWay.Add(-1)
		select {
		case d.ended <- struct{}{}:
		default: // that one has ended is known
		}
	}()
	ctx = telemetry.WithScope(ctx, telemetry.Scope{TenantID: run.TenantID.Format(c.TenantID)})
	result := d.attempt(ctx, c)
	if ctx.Err() != nil {
		return // the worker stops: nobody knows what the receiver has got
	}
	if err := failpoint.Hit(failpoint.AfterEffect); err != nil {
		d.Log.WarnContext(ctx, "alert", "error", err)
		return
	}
	state, err := d.DB.FinishAlert(ctx, d.Worker, c, result)
	log := d.Log.With("endpoint_id", run.AlertID.Format(c.EndpointID), "message_id", run.MessageID.Format(c.ID), "event", c.Event, "attempt", c.Attempt)
	if err != nil {
		log.WarnContext(ctx, "record of an alert", "error", err)
		return
	}
	d.Metrics.WebhookDeliveries.Inc(c.Event, state)
	switch state {
	case "delivered":
		log.DebugContext(ctx, "alert delivered", "code", result.ResponseCode)
	case "disabled":
		log.WarnContext(ctx, "endpoint of alerts disabled", "code", result.ResponseCode, "reason", result.Error)
	default:
		log.InfoContext(ctx, "alert not delivered", "state", state, "code", result.ResponseCode, "reason", result.Error)
	}
}
