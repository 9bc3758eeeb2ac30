package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/internal/limit"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
)

// Limits of a request (SECURITY.md §6).
const (
	maxURL         = 8 << 10
	maxHeader      = 16 << 10
	maxBody        = 1 << 20
	handlerTimeout = 30 * time.Second
)

// Config is what a server works with.
type Config struct {
	Store   *postgres.DB
	Blobs   *blob.Store
	Hub     *stream.Hub
	Metrics *telemetry.Metrics
	Log     *slog.Logger

	Redactor *telemetry.Redactor // of goals and reasons; nil knows shapes only

	KeyEnv  KeyEnv // of the keys that are made here
	DevKeys bool   // keys of KeyEnv dev are taken

	Proxies []netip.Prefix // whose X-Forwarded-For counts

	Rate       float64 // requests per second of one key, bursts of twice as many; 0: no limit
	TenantRate float64 // the same of all keys of a tenant

	Streams       int // open at once by one caller; 0: no limit
	TenantStreams int // the same of all keys of a tenant
	TotalStreams  int // the same of all callers
}

// Server answers the API. Make it with [New].
type Server struct {
	Config
	chain    http.Handler
	echo     *echo.Echo
	tracer   trace.Tracer
	keys     *keyring
	rate     *limit.Rates // by key
	shared   *limit.Rates // by tenant
	streams  streams
	trees    *tree.Source
	verifier *verifier
	health   healthCache
	draining atomic.Bool
	routes   map[string]string // by Echo's path: the contract's
}

// operation is a route of the contract. Who may call it says the policy table.
type operation struct {
	id     string // operationId
	method string
	path   string // as in the contract
	handle func(echo.Context, *Principal) error
	// streams says whether a request will be answered by a stream, which has
	// limits of its own.
	streams func(*http.Request) bool
	once    bool          // it takes an Idempotency-Key
	timeout time.Duration // of its handler; 0: handlerTimeout
}

func (s *Server) operations() []operation {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	return []operation{
		{id: "createRun", method: post, path: "/api/runs", handle: s.createRun, once: true},
		{id: "listRuns", method: get, path: "/api/runs", handle: s.listRuns},
		{id: "previewRun", method: post, path: "/api/runs/preview", handle: s.previewRun},
		{id: "getRun", method: get, path: "/api/runs/{run_id}", handle: s.getRun},
		{id: "getTrace", method: get, path: "/api/traces/{trace_id}", handle: s.getTrace},
		{id: "cancelRun", method: post, path: "/api/runs/{run_id}/cancel", handle: s.cancelRun, once: true},
		{id: "pauseRun", method: post, path: "/api/runs/{run_id}/pause", handle: s.pauseRun, once: true},
		{id: "resumeRun", method: post, path: "/api/runs/{run_id}/resume", handle: s.resumeRun, once: true},
		{id: "retryRun", method: post, path: "/api/runs/{run_id}/retry", handle: s.retryRun, once: true},
		{id: "rerunRun", method: post, path: "/api/runs/{run_id}/rerun", handle: s.rerunRun, once: true},

		{id: "listSteps", method: get, path: "/api/runs/{run_id}/steps", handle: s.listSteps},
		{id: "getTimeline", method: get, path: "/api/runs/{run_id}/timeline", handle: s.getTimeline},
		{id: "getStep", method: get, path: "/api/steps/{step_id}", handle: s.getStep},
		{id: "retryStep", method: post, path: "/api/steps/{step_id}/retry", handle: s.retryStep, once: true},
		{id: "getStepLogs", method: get, path: "/api/steps/{step_id}/logs", handle: s.getStepLogs, streams: followsLog, timeout: logTimeout},

		{id: "listRunEvents", method: get, path: "/api/runs/{run_id}/events", handle: s.listRunEvents, streams: acceptsStream},
		{id: "listEvents", method: get, path: "/api/events", handle: s.listEvents, streams: acceptsStream},

		{id: "sendSignal", method: post, path: "/api/signals", handle: s.sendSignal, once: true},
		{id: "listDeadLetters", method: get, path: "/api/dead-letters", handle: s.listDeadLetters},
		{id: "requeueDeadLetters", method: post, path: "/api/dead-letters/requeue", handle: s.requeueDeadLetters},
		{id: "requeueDeadLetter", method: post, path: "/api/dead-letters/{step_id}/requeue", handle: s.requeueDeadLetter, once: true},

		{id: "listGates", method: get, path: "/api/gates", handle: s.listGates},
		{id: "getGate", method: get, path: "/api/gates/{gate_id}", handle: s.getGate},
		{id: "approveGate", method: post, path: "/api/gates/{gate_id}/approve", handle: s.approveGate},
		{id: "rejectGate", method: post, path: "/api/gates/{gate_id}/reject", handle: s.rejectGate},
		{id: "waiveGate", method: post, path: "/api/gates/{gate_id}/waive", handle: s.waiveGate},

		{id: "listCheckpoints", method: get, path: "/api/runs/{run_id}/checkpoints", handle: s.listCheckpoints},
		{id: "getCheckpoint", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}", handle: s.getCheckpoint},
		{id: "listCheckpointFiles", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}/files", handle: s.listCheckpointFiles},
		{id: "getCheckpointFile", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}/file", handle: s.getCheckpointFile},

		{id: "listArtifacts", method: get, path: "/api/runs/{run_id}/artifacts", handle: s.listArtifacts},
		{id: "createArtifact", method: post, path: "/api/artifacts", handle: s.createArtifact, once: true},
		{id: "getArtifact", method: get, path: "/api/artifacts/{artifact_id}", handle: s.getArtifact},
		{id: "completeArtifact", method: post, path: "/api/artifacts/{artifact_id}/complete", handle: s.completeArtifact, timeout: verifyTimeout},

		{id: "listAPIKeys", method: get, path: "/api/api-keys", handle: s.listAPIKeys},
		{id: "createAPIKey", method: post, path: "/api/api-keys", handle: s.createAPIKey},
		{id: "revokeAPIKey", method: del, path: "/api/api-keys/{key_id}", handle: s.revokeAPIKey},
		{id: "whoami", method: get, path: "/api/whoami", handle: s.whoami},

		{id: "listQueues", method: get, path: "/api/queues", handle: s.listQueues},
		{id: "pauseQueue", method: post, path: "/api/queues/{queue_name}/pause", handle: s.pauseQueue},
		{id: "resumeQueue", method: post, path: "/api/queues/{queue_name}/resume", handle: s.resumeQueue},
		{id: "listWorkers", method: get, path: "/api/workers", handle: s.listWorkers},
		{id: "healthz", method: get, path: "/healthz", handle: s.healthz},
		{id: "readyz", method: get, path: "/readyz", handle: s.readyz},
		{id: "getContract", method: get, path: "/api/openapi.yaml", handle: s.getContract},
		{id: "getDocs", method: get, path: "/api/docs", handle: s.getDocs},
		{id: "getDocsAsset", method: get, path: "/api/docs/{asset}", handle: s.getDocsAsset},
	}
}

// New makes a server. An operation without an entry in the policy table is an
// error, so that nothing is ever served that nobody thought about.
func New(cfg Config) (*Server, error) {
	s := &Server{
		Config:   cfg,
		echo:     echo.New(),
		tracer:   otel.Tracer("nofx.dev/gateway/internal/httpapi"),
		keys:     newKeyring(cfg.Store, cfg.DevKeys),
		rate:     limit.NewRates(cfg.Rate, 2*cfg.Rate),
		shared:   limit.NewRates(cfg.TenantRate, 2*cfg.TenantRate),
		streams:  streams{limit.NewSlots(cfg.Streams), limit.NewSlots(cfg.TenantStreams), limit.NewSlots(cfg.TotalStreams)},
		trees:    &tree.Source{Blobs: cfg.Blobs, Locator: locator{cfg.Store}},
		verifier: newVerifier(),
		routes:   map[string]string{},
	}
	s.echo.Pre(s.observe)
	for _, op := range s.operations() {
		rule, ok := policy[op.id]
		if !ok {
			return nil, fmt.Errorf("operation %s (%s %s) has no entry in the policy table", op.id, op.method, op.path)
		}
		path := strings.NewReplacer("{", ":", "}", "").Replace(op.path)
		s.routes[path] = op.path
		s.echo.Add(op.method, path, s.operate(op, rule))
		if op.method == http.MethodGet {
			s.echo.Add(http.MethodHead, path, s.operate(op, rule))
		}
	}
	traced := otelhttp.NewHandler(s.echo, "http",
		otelhttp.WithPublicEndpointFn(func(r *http.Request) bool { return identityOf(r.Context()).principal == nil }))
	s.chain = s.identify(traced)
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.chain.ServeHTTP(w, r) }

// Drain makes readiness fail, so that load balancers look elsewhere.
func (s *Server) Drain() { s.draining.Store(true) }

// Close ends what outlives requests and waits for it. Nothing is served any more.
func (s *Server) Close() { s.verifier.close() }

// HTTP is the server for a listener, with the limits and timeouts of SECURITY.md
// §6. Streams lift its limits for themselves.
func (s *Server) HTTP() *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      handlerTimeout + 30*time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    maxHeader + maxURL, // beyond, Go itself refuses
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
}

// operate is what comes before every handler: who, whether they may, how often,
// and until when.
func (s *Server) operate(op operation, rule rule) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		ctx := r.Context()
		who := identityOf(ctx)
		if !rule.public {
			if who.err != nil {
				return who.err
			}
			if err := rule.allow(who.principal); err != nil {
				return err
			}
			if err := s.throttle(who.principal); err != nil {
				return err
			}
			ctx = postgres.WithActor(ctx, who.principal.Subject)
			ctx = telemetry.WithScope(ctx, telemetry.Scope{TenantID: who.principal.tenantID()})
			trace.SpanFromContext(ctx).SetAttributes(telemetry.TenantIDKey.String(who.principal.tenantID()))
		}
		if len(r.Header.Values("Idempotency-Key")) > 0 && !op.once && op.method != http.MethodGet {
			return badParameter("Idempotency-Key", "not taken by this operation")
		}
		if op.streams != nil && op.streams(r) {
			infoOf(c).stream = true
			release, err := s.openStream(who.principal)
			if err != nil {
				return err
			}
			defer release()
		} else {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, cmp.Or(op.timeout, handlerTimeout))
			defer cancel()
			if op.timeout > handlerTimeout {
				// The server's limits are for the others; that for reading would end this.
				control := http.NewResponseController(c.Response())
				_ = control.SetReadDeadline(time.Time{})
				_ = control.SetWriteDeadline(time.Now().Add(op.timeout + handlerTimeout))
			}
			s.Metrics.HTTPInFlight.Add(1)
			defer s.Metrics.HTTPInFlight.Add(-1)
		}
		c.SetRequest(r.WithContext(ctx))
		return op.handle(c, who.principal)
	}
}
