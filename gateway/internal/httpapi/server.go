package httpapi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/seal"
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

// Config has the parts and limits of a server.
type Config struct {
	Store   *postgres.DB
	Blobs   *blob.Store
	Hub     *stream.Hub
	Metrics *telemetry.Metrics
	Log     *slog.Logger

	Keys     *seal.Key           // of secrets; nil: there are none
	Redactor *telemetry.Redactor // of goals, reasons and problems; nil knows shapes only

	Identity *identity.Authenticator
	KeyEnv   identity.KeyEnv // of the keys that are made here

	WebhookKey []byte // that the secrets of webhooks are derived from; none: there are no webhooks

	LocalAlerts bool // alerts may go to loopback by http, as in development

	Origins []string // whose scripts may use the API from browsers, as browsers write them
	HTTPS   bool     // clients reach the API by https alone

	Rate       float64 // requests per second of one caller, bursts of twice as many; 0: no limit
	TenantRate float64 // the same for all callers of a tenant

	Streams       int // open at once by one caller; 0: no limit
	TenantStreams int // the same for all callers of a tenant
	TotalStreams  int // the same of all callers
}

// Server answers the API. Make it with [New].
type Server struct {
	Config
	chain    http.Handler
	echo     *echo.Echo
	tracer   trace.Tracer
	rate     *limit.Rates // by caller
	shared   *limit.Rates // by tenant
	streams  streams
	trees    *tree.Source
	health   healthCache
	draining atomic.Bool
	routes   map[string]operation // by Echo's path: the first of it
	asked    map[string]string    // by events of machines that operations ask for, as run.cancel: what clients call them
	scopes   []string             // that operations ask for, sorted; a key with another would get nothing by it
}

// New returns a server. An operation without a rule is an error.
func New(cfg Config) (*Server, error) {
	s := &Server{
		Config:  cfg,
		echo:    echo.New(),
		tracer:  otel.Tracer("nofx.dev/gateway/internal/httpapi"),
		rate:    limit.NewRates(cfg.Rate, 2*cfg.Rate),
		shared:  limit.NewRates(cfg.TenantRate, 2*cfg.TenantRate),
		streams: streams{limit.NewSlots(cfg.Streams), limit.NewSlots(cfg.TenantStreams), limit.NewSlots(cfg.TotalStreams)},
		trees:   &tree.Source{Blobs: cfg.Blobs, Locator: cfg.Store},
		routes:  map[string]operation{},
		asked:   map[string]string{},
	}
	s.echo.Use(s.observe) // after routing, which says how errors are written
	for _, op := range s.operations() {
		if err := s.serve(op); err != nil {
			return nil, err
		}
	}
	traced := otelhttp.NewHandler(s.echo, "http",
		otelhttp.WithPublicEndpointFn(func(r *http.Request) bool { return callerOf(r.Context()).principal == nil }))
	s.chain = s.identify(traced)
	return s, nil
}

// ServeHTTP answers a request. It ends the connection after one in chunks: if that had a
// length too, which Go drops without a word, a proxy may have seen its end elsewhere, and the
// next request was smuggled in it (RFC 9112, section 6.1).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 {
		w.Header().Set("Connection", "close")
	}
	s.chain.ServeHTTP(w, r)
}

// Drain makes readiness fail, so that load balancers look elsewhere.
func (s *Server) Drain() { s.draining.Store(true) }

// HTTP returns the server for a listener, with the limits and timeouts of SECURITY.md §6.
// Streams lift them for themselves.
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

// operate returns the handler of a row with the checks before it: whether the caller may,
// how often, and until when.
func (s *Server) operate(op operation) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		ctx := r.Context()
		who := callerOf(ctx)
		infoOf(c).operation = op
		if !op.rule.public {
			if who.err != nil {
				return who.err
			}
			if err := op.rule.allow(who.principal); err != nil {
				if who.principal != nil && op.privileged() {
					return s.denied(c, who.principal, op, err)
				}
				return err
			}
			if who.principal.Ticket && (op.streams == nil || !op.streams(r)) {
				return fault.New(fault.Unauthenticated, "unauthenticated", "a ticket opens a stream alone: send Accept: text/event-stream, or credentials in the Authorization header")
			}
			if err := s.throttle(who.principal); err != nil {
				return err
			}
			if err := s.confine(c, op, who.principal); err != nil {
				return err
			}
			ctx = actingAs(ctx, who.principal)
			ctx = telemetry.WithScope(ctx, telemetry.Scope{TenantID: who.principal.TenantID()})
			trace.SpanFromContext(ctx).SetAttributes(telemetry.TenantIDKey.String(who.principal.TenantID()))
		}
		if len(r.Header.Values("Idempotency-Key")) > 0 && !op.once && op.method != http.MethodGet {
			return badParameter("Idempotency-Key", "is not accepted by this operation")
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
		err := op.handle(c, who.principal)
		if who.principal != nil && errors.Is(err, fault.Forbidden) { // to an act of supervisors
			if auditErr := s.auditDenied(c, who.principal, op); auditErr != nil {
				return auditErr
			}
		}
		return err
	}
}
