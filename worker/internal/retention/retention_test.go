package retention

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/servertest/s3server"
	"nofx.dev/shared/telemetry"
)

const bucket = "nofx-retention"

var storage *s3server.Server

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	ctx := context.Background()
	stop, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres:", err)
		return 1
	}
	defer stop()
	if storage, err = s3server.Start(ctx, s3server.Config{}); err == nil {
		defer storage.Stop()
		err = storage.MakeBucket(ctx, bucket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	return m.Run()
}

// bundle is one test's database, storage and cleaner.
type bundle struct {
	*pgtest.Database
	db       *postgres.DB
	blobs    *blob.Store
	cleaner  *Cleaner
	registry *prometheus.Registry
	ctx      context.Context
}

func setup(t *testing.T, edit ...func(*blob.Config)) *bundle {
	t.Helper()
	d := pgtest.New(t)
	cfg := blob.Config{Endpoint: storage.Endpoint, Bucket: bucket, Region: storage.Region, AccessKey: storage.AccessKey, SecretKey: storage.SecretKey}
	for _, fn := range edit {
		fn(&cfg)
	}
	blobs, err := blob.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id, span := uuid.New(), uuid.New()
	ctx := trace.ContextWithSpanContext(postgres.WithActor(t.Context(), "tester"), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(id), SpanID: trace.SpanID(span[:8]), TraceFlags: trace.FlagsSampled,
	}))
	b := &bundle{Database: d, db: d.Open(t, postgres.Config{}), blobs: blobs, registry: prometheus.NewRegistry(), ctx: ctx}
	b.cleaner = New(Config{DB: d.Open(t, postgres.Config{Role: postgres.WorkerRole}), Blobs: blobs, Metrics: telemetry.NewMetrics(b.registry, "test"), Log: slog.New(slog.DiscardHandler)})
	return b
}

// ended makes a run of one step that printed chunks and succeeded, as long ago as
// age, and returns the keys of its log.
func (b *bundle) ended(t *testing.T, tenant uuid.UUID, chunks int, age time.Duration) (id uuid.UUID, keys []string) {
	t.Helper()
	p, err := run.Plan{Goal: "g", Steps: []run.PlanStep{{Name: "a", Tool: run.ToolBash, Inputs: []byte(`{"script":"true"}`)}}}.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	r, steps, err := b.db.CreateRun(b.ctx, tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	w := postgres.Worker{ID: "w", PID: 1}
	c, err := pgtest.Claim(b.ctx, b.db, postgres.Wake{Job: job.Step{TenantID: tenant, StepID: steps[0].ID, WakeSeq: 1}, Span: trace.SpanContextFromContext(b.ctx),
		Pre: func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) { return nil, nil }}, w, time.Minute)
	if err != nil || c == nil {
		t.Fatalf("Claim = %v, %v", c, err)
	}
	for n := 1; n <= chunks; n++ {
		text := fmt.Sprint("line ", n, "\n")
		sum := sha256.Sum256([]byte(text))
		key := blob.LogKey(tenant, r.ID, c.StepID, c.Fence, n)
		if err := b.blobs.Put(b.ctx, key, strings.NewReader(text), int64(len(text)), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := b.db.RecordLogChunk(b.ctx, c, postgres.LogChunk{N: n, Bytes: int64(len(text)), Lines: 1, Key: key, SHA256: sum[:]}); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if _, err := pgtest.FinishStep(b.ctx, b.db, postgres.Finish{Claim: c, Outcome: "succeed", Span: trace.SpanContextFromContext(b.ctx)}, w, time.Minute); err != nil {
		t.Fatal(err)
	}
	b.exec(t, "UPDATE nofx.run SET created_at = created_at - $2::interval, finished_at = finished_at - $2::interval WHERE id = $1", r.ID, age)
	return r.ID, keys
}

func (b *bundle) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := b.Admin.Exec(b.ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (b *bundle) count(t *testing.T, what string) (n int) {
	t.Helper()
	if err := b.Admin.QueryRow(b.ctx, "SELECT count(*) FROM nofx."+what).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// passes runs passes until one has nothing more to do.
func (b *bundle) passes(t *testing.T) (n int) {
	t.Helper()
	for n = 1; n < 100; n++ {
		more, err := b.cleaner.pass(b.ctx)
		if err != nil {
			t.Fatalf("pass = %v", err)
		}
		if !more {
			return n
		}
	}
	t.Fatal("passes go on for ever")
	return n
}

const month = 31 * 24 * time.Hour

// What has expired goes, rows and objects; all else stays.
func TestPass(t *testing.T) {
	t.Parallel()
	b := setup(t)
	mine, theirs := b.Tenant(t), b.Tenant(t)
	b.exec(t, `UPDATE nofx.tenant SET settings = '{"retention_days": 3650}' WHERE tenant_id = $1`, theirs)
	_, gone := b.ended(t, mine, 3, month)
	_, young := b.ended(t, mine, 2, time.Hour)
	_, kept := b.ended(t, theirs, 2, month)
	before := b.count(t, "event")
	b.passes(t)
	if got, want := b.count(t, "event"), before-b.counted(t); got != want || got == before {
		t.Errorf("events left = %d of %d, want %d by events_pruned_total", got, before, want)
	}
	if got := b.count(t, "run"); got != 2 {
		t.Errorf("runs left = %d, want the two that have not expired", got)
	}
	if got := b.count(t, "log_chunk"); got != len(young)+len(kept) {
		t.Errorf("chunks left = %d, want %d", got, len(young)+len(kept))
	}
	for _, key := range gone {
		if _, err := b.blobs.Stat(b.ctx, key); fault.KindOf(err) != fault.Gone {
			t.Errorf("Stat(%s) = %v, want it gone", key, err)
		}
	}
	for _, key := range append(young, kept...) {
		if _, err := b.blobs.Stat(b.ctx, key); err != nil {
			t.Errorf("Stat(%s) = %v, want it there", key, err)
		}
	}
	if got := b.count(t, "object WHERE state = 'condemned'"); got != 0 {
		t.Errorf("condemned objects left = %d, want none", got)
	}
	if got := b.passes(t); got != 1 {
		t.Errorf("passes with nothing to do = %d, want 1", got)
	}
}

// counted returns the value of events_pruned_total.
func (b *bundle) counted(t *testing.T) int {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "nofx_events_pruned_total" {
			return int(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	t.Fatal("no nofx_events_pruned_total")
	return 0
}

// A run with more than a batch, and more runs than a batch, go in several
// transactions, none of which is large.
func TestBatches(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tenant := b.Tenant(t)
	id, _ := b.ended(t, tenant, 1, month)
	b.exec(t, `INSERT INTO nofx.event (tenant_id, run_id, seq, type, data, actor, trace_id, at)
		SELECT tenant_id, id, event_seq + n, 'step.progress', '{}', 'test', trace_id, finished_at FROM nofx.run, generate_series(1, 1000) AS n WHERE id = $1`, id)
	b.exec(t, "UPDATE nofx.run SET event_seq = event_seq + 1000 WHERE id = $1", id)
	b.exec(t, "CREATE TABLE public.deleted (xid xid8, n bigint)")
	b.exec(t, `CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		INSERT INTO public.deleted SELECT pg_current_xact_id(), count(*) FROM old; RETURN NULL; END $$`)
	b.exec(t, "CREATE TRIGGER note AFTER DELETE ON nofx.event REFERENCING OLD TABLE AS old FOR EACH STATEMENT EXECUTE FUNCTION public.note()")
	b.passes(t)
	var most, transactions int
	if err := b.Admin.QueryRow(b.ctx, "SELECT max(n), count(*) FROM (SELECT sum(n) AS n FROM public.deleted GROUP BY xid HAVING sum(n) > 0) AS d").Scan(&most, &transactions); err != nil {
		t.Fatal(err)
	}
	if most > batch || transactions < 1000/batch || b.count(t, "event") != 0 {
		t.Errorf("%d transactions deleted at most %d rows, %d events left; want at most %d rows each and none left", transactions, most, b.count(t, "event"), batch)
	}
}

// A worker that dies or loses its storage between rows and objects leaves
// condemned objects, which a later pass deletes.
func TestStorageAway(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, keys := b.ended(t, b.Tenant(t), 2, month)
	away, err := blob.Open(blob.Config{Endpoint: "http://127.0.0.1:1", Bucket: bucket, AccessKey: "k", SecretKey: "s"})
	if err != nil {
		t.Fatal(err)
	}
	broken := *b.cleaner
	broken.Blobs = away
	if _, err := broken.pass(b.ctx); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("pass without storage = %v, want unavailable", err)
	}
	if rows, objects := b.count(t, "log_chunk"), b.count(t, "object WHERE state = 'condemned'"); rows != 0 || objects != 2 {
		t.Errorf("left: %d chunks, %d condemned objects; want the rows gone and the objects to do", rows, objects)
	}
	b.passes(t)
	for _, key := range keys {
		if _, err := b.blobs.Stat(b.ctx, key); fault.KindOf(err) != fault.Gone {
			t.Errorf("Stat(%s) = %v, want it gone", key, err)
		}
	}
}

// Objects that the storage keeps, however many and old, hold no others up.
func TestObjectsThatStay(t *testing.T) {
	t.Parallel()
	target, err := url.Parse(storage.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	keeping := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/kept/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(keeping.Close)
	b := setup(t, func(c *blob.Config) { c.Endpoint = keeping.URL })
	tenant := b.Tenant(t)
	_, keys := b.ended(t, tenant, 2, month)
	b.exec(t, `INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind, state, created_at)
		SELECT $1, '/kept/' || n, sha256('x'), 1, 'log', 'condemned', clock_timestamp() - interval '1 day' - n * interval '1 s'
		FROM generate_series(1, $2) AS n`, tenant, batch+1)
	if _, err := b.cleaner.pass(b.ctx); err == nil {
		t.Error("pass over objects that all stay = nil, want why")
	}
	if _, err := b.cleaner.pass(b.ctx); err != nil {
		t.Errorf("pass behind them = %v, want nil", err)
	}
	for _, key := range keys {
		if _, err := b.blobs.Stat(b.ctx, key); fault.KindOf(err) != fault.Gone {
			t.Errorf("Stat(%s) = %v, want it gone", key, err)
		}
	}
	if n := b.count(t, "object"); n != batch+1 {
		t.Errorf("%d objects left, want the %d that stay", n, batch+1)
	}
}

// What a client uploaded and did not complete is given up, bytes and all.
func TestUploads(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tenant := b.Tenant(t)
	var keys []string
	for range 2 {
		id := run.NewID()
		key := blob.UploadKey(tenant, id)
		if _, err := b.db.CreateUpload(b.ctx, tenant, run.Artifact{ID: id, Name: "x", Key: key, MediaType: "text/plain", Size: 1, SHA256: make([]byte, 32)}); err != nil {
			t.Fatal(err)
		}
		if err := b.blobs.Put(b.ctx, key, strings.NewReader("x"), 1, blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	b.exec(t, "UPDATE nofx.artifact SET created_at = created_at - interval '25 hours' WHERE key = $1", keys[0])
	b.exec(t, "UPDATE nofx.object SET created_at = created_at - interval '25 hours' WHERE key = $1", keys[0])
	b.passes(t)
	if _, err := b.blobs.Stat(b.ctx, keys[0]); fault.KindOf(err) != fault.Gone {
		t.Errorf("Stat(given up) = %v, want it gone", err)
	}
	if _, err := b.blobs.Stat(b.ctx, keys[1]); err != nil || b.count(t, "artifact") != 1 {
		t.Errorf("Stat(fresh) = %v, %d artifacts; want it there", err, b.count(t, "artifact"))
	}
}

// Signals that nobody waited for go when their time has passed, also more of them
// than a batch.
func TestSignals(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tenant := b.Tenant(t)
	for _, key := range []string{"old", "new"} {
		if _, taken, err := b.db.SendSignal(b.ctx, tenant, key, []byte("1")); taken || err != nil {
			t.Fatalf("SendSignal(%s) = %v, %v, want it kept", key, taken, err)
		}
	}
	b.exec(t, `INSERT INTO nofx.inbox (tenant_id, id, key, payload, sent_by, sent_at, expires_at)
		SELECT tenant_id, gen_random_uuid(), key, payload, sent_by, sent_at, expires_at FROM nofx.inbox, generate_series(1, $1) WHERE key = 'old'`, batch)
	b.exec(t, "UPDATE nofx.inbox SET expires_at = clock_timestamp() WHERE key = 'old'")
	if got := b.passes(t); got != 2 || b.count(t, "inbox") != 1 || b.count(t, "inbox WHERE key = 'new'") != 1 {
		t.Errorf("%d passes, signals left: %d; want 2, and the one in time", got, b.count(t, "inbox"))
	}
}

// Run works by itself and ends with its context.
func TestRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.ended(t, b.Tenant(t), 1, month)
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.cleaner.Run(ctx)
	}()
	tick, late := time.NewTicker(10*time.Millisecond), time.After(2*time.Minute)
	defer tick.Stop()
	for b.count(t, "event") > 0 || b.count(t, "object WHERE kind = 'log'") > 0 {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("nothing was deleted within two minutes")
		}
	}
	cancel()
	<-done
}

// Each tenant that has objects gets a collection a day, one however many workers look.
func TestCollections(t *testing.T) {
	t.Parallel()
	b := setup(t)
	old, empty, young := b.Tenant(t), b.Tenant(t), b.Tenant(t)
	b.exec(t, "INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind) SELECT x, 'k', sha256('x'), 1, 'pack' FROM unnest($1::uuid[]) AS x", []uuid.UUID{old, young})
	b.exec(t, "UPDATE nofx.tenant SET created_at = created_at - interval '25 hours' WHERE tenant_id = ANY ($1)", []uuid.UUID{old, empty})
	look := func() int {
		t.Helper()
		for range 2 { // workers
			if err := New(b.cleaner.Config).collections(context.Background()); err != nil {
				t.Fatalf("collections() = %v", err)
			}
		}
		return b.count(t, "run WHERE kind = 'system' AND work_key = 'sys:gc/all'")
	}
	if n := look(); n != 1 || b.count(t, "run WHERE work_key = 'sys:gc/all' AND tenant_id = '"+old.String()+"'") != 1 {
		t.Errorf("%d collections, want one, of the old tenant", n)
	}
	due := func() int {
		t.Helper()
		list, err := b.db.DueCollections(context.Background(), "sys:gc/all", 10)
		if err != nil {
			t.Fatalf("DueCollections() = %v", err)
		}
		return len(list)
	}
	if n := due(); n != 0 {
		t.Errorf("%d tenants are due after their collection, want none", n)
	}
	b.exec(t, "UPDATE nofx.run SET plan = jsonb_set(plan, '{steps,0,inputs,dry_run}', 'true') WHERE work_key = 'sys:gc/all'")
	if n := due(); n != 1 {
		t.Errorf("%d tenants are due after a dry run, want one", n)
	}
	b.exec(t, "UPDATE nofx.run SET created_at = created_at - interval '25 hours' WHERE work_key = 'sys:gc/all'")
	if n := look(); n != 1 {
		t.Errorf("%d collections while the first has not ended, want no other", n)
	}
}

// Each audit log that has grown is anchored in object storage once a day, whoever looks.
func TestS24_Anchors(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grown, quiet := b.Tenant(t), b.Tenant(t)
	today := time.Now().UTC().Format(time.DateOnly)
	grow := func() {
		t.Helper()
		if err := b.db.AuditDenied(b.ctx, grown, "createAPIKey", "x"); err != nil {
			t.Fatal(err)
		}
	}
	wantAnchors := func(what string, tenant uuid.UUID, want ...string) {
		t.Helper()
		for range 2 { // workers
			if err := New(b.cleaner.Config).anchors(context.Background()); err != nil {
				t.Fatalf("anchors() = %v", err)
			}
		}
		list, err := b.blobs.Anchors(context.Background(), tenant, 31)
		if err != nil {
			t.Fatalf("Anchors() = %v", err)
		}
		got := []string{}
		for _, a := range list {
			if len(a.Hash) != 64 || a.At.IsZero() {
				t.Errorf("anchor = %+v, want the hash and the time of a row", a)
			}
			got = append(got, fmt.Sprint(a.Day, " ", a.Seq))
		}
		if fmt.Sprint(got) != fmt.Sprint(append([]string{}, want...)) {
			t.Errorf("anchors, %s = %v, want %v", what, got, want)
		}
	}
	grow()
	grow()
	wantAnchors("of a log that has grown", grown, today+" 2")
	wantAnchors("of one that has not", quiet)
	grow()
	wantAnchors("on the same day", grown, today+" 2")
	b.exec(t, "UPDATE nofx.audit_head SET anchored_on = anchored_on - 1")
	wantAnchors("on a day that has one", grown, today+" 2") // what is stored stays as it is
	key := blob.AnchorKey(grown, today)
	if err := b.blobs.Delete(context.Background(), key); err != nil {
		t.Fatal(err)
	}
	wantAnchors("once it is a new day", grown, today+" 3")
}
