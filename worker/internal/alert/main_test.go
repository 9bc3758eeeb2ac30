package alert_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/alert"
	"nofx.dev/worker/internal/egress"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// bundle is one test's database and tenant, with what deliverers need.
type bundle struct {
	*testing.T
	pg     *pgtest.Database
	db     *postgres.DB // what gateways do, too
	tenant uuid.UUID
	keys   *seal.Key
	roots  *x509.CertPool
	allow  egress.Allow
	log    lockedBuffer
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kek")
	if err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.New("file:"+path, true)
	if err != nil {
		t.Fatal(err)
	}
	pg := pgtest.New(t)
	return &bundle{T: t, pg: pg, db: pg.Open(t, postgres.Config{}), tenant: pg.Tenant(t), keys: keys, roots: x509.NewCertPool(), allow: egress.Allow{}}
}

// lockedBuffer takes the log of several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// received is a request that a receiver got.
type received struct {
	header http.Header
	body   []byte
}

// receiver starts an HTTPS server that deliverers trust and may reach, and returns its URL
// and the requests that it gets. handle answers; nil answers 200.
func (b *bundle) receiver(handle http.HandlerFunc) (address string, requests <-chan received) {
	b.Helper()
	got := make(chan received, 1000)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			b.Errorf("read a request: %v", err)
		}
		got <- received{r.Header, body}
		if handle != nil {
			handle(w, r)
		}
	}))
	b.Cleanup(s.Close)
	b.roots.AddCert(s.Certificate())
	place, err := egress.ParseAllow([]string{s.Listener.Addr().String()})
	if err != nil {
		b.Fatal(err)
	}
	for p := range place {
		b.allow[p] = true
	}
	return s.URL + "/c4n4ry-path", got
}

const aSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// key returns the key that a secret stands for.
func key(secret string) []byte {
	raw, err := base64.StdEncoding.DecodeString(secret[len("whsec_"):])
	if err != nil {
		panic(err)
	}
	return raw
}

func (b *bundle) sealed(secret string) func(postgres.AlertSecret) ([]byte, error) {
	return func(n postgres.AlertSecret) ([]byte, error) { return b.keys.Seal([]byte(secret), n.Bound()...) }
}

// endpoint creates an endpoint with aSecret.
func (b *bundle) endpoint(address string) postgres.AlertEndpoint {
	b.Helper()
	e, err := b.db.CreateAlertEndpoint(b.Context(), b.tenant, postgres.AlertEndpoint{URL: address, Events: run.AlertEvents, CreatedBy: "tester"}, b.sealed(aSecret))
	if err != nil {
		b.Fatalf("CreateAlertEndpoint() = %v", err)
	}
	return e
}

// tell queues n deliveries for an endpoint.
func (b *bundle) tell(e postgres.AlertEndpoint, n int) {
	b.Helper()
	if _, err := b.pg.Admin.Exec(b.Context(), `INSERT INTO nofx.alert_delivery (tenant_id, endpoint_id, id, event, data)
		SELECT $1, $2, gen_random_uuid(), 'run.failed', '{"run_id": "run_7", "status": "failed"}' FROM generate_series(1, $3)`, b.tenant, e.ID, n); err != nil {
		b.Fatal(err)
	}
}

// due makes whatever is pending due at once, also what a worker has.
func (b *bundle) due() {
	b.Helper()
	if _, err := b.pg.Admin.Exec(b.Context(), "UPDATE nofx.alert_delivery SET due_at = clock_timestamp() - interval '1 second' WHERE due_at IS NOT NULL"); err != nil {
		b.Fatal(err)
	}
}

// deliver starts a deliverer, which stops with the test or when stop is called. Receivers
// and endpoints are made before.
func (b *bundle) deliver(edit ...func(*alert.Config, *alert.Deliverer)) (stop func()) {
	b.Helper()
	cfg := alert.Config{
		Worker: "worker-" + uuid.NewString()[:8], DB: b.pg.Open(b.T, postgres.Config{Role: postgres.WorkerRole}), Keys: b.keys, Egress: egress.Config{Allow: b.allow, Roots: b.roots},
		PublicURL: "https://nofx.example.com/", Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test"),
		Log: telemetry.NewLogger(&b.log, slog.LevelDebug, nil),
	}
	for _, fn := range edit {
		fn(&cfg, nil)
	}
	d := alert.New(cfg)
	for _, fn := range edit {
		fn(&cfg, d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	b.Cleanup(stop)
	return stop
}

// until waits until all deliveries to an endpoint have a state and were tried so often, and
// returns them.
func (b *bundle) until(e postgres.AlertEndpoint, state string, attempts int) []postgres.AlertDelivery {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := b.db.AlertDeliveries(ctx, b.tenant, e.ID, nil, 200)
		if err != nil {
			b.Fatalf("AlertDeliveries() = %v", err)
		}
		left := 0
		for _, d := range list {
			if d.State != state && d.State != "pending" {
				b.Fatalf("delivery %+v, want it %s", d, state)
			}
			if d.State != state || d.Attempt != attempts || d.TriedAt == nil || state == "pending" && d.DueAt == nil {
				left++
			}
		}
		if left == 0 {
			return list
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.Fatalf("%d deliveries of %d are not %s after %d attempts: %+v\n%s", left, len(list), state, attempts, list, b.log.String())
		}
	}
}

// get waits for a request.
func (b *bundle) get(requests <-chan received) received {
	b.Helper()
	select {
	case r := <-requests:
		return r
	case <-time.After(2 * time.Minute):
		b.Fatalf("no request has come\n%s", b.log.String())
		return received{}
	}
}

// portOf returns the port of a URL.
func portOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
