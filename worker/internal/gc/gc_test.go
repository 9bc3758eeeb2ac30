package gc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/gc"
	"nofx.dev/worker/internal/host/hosttest"
)

func TestMain(m *testing.M) { os.Exit(hosttest.Main(m)) }

// bundle is one test's database, storage and tenant, with what makes checkpoints.
type bundle struct {
	*hosttest.Bundle
	worker  *postgres.DB
	store   *checkpoint.Store
	metrics *telemetry.Metrics
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := hosttest.Setup(t)
	m := telemetry.NewMetrics(prometheus.NewRegistry(), "test")
	worker := b.Open(t, postgres.Config{Role: postgres.WorkerRole})
	return &bundle{Bundle: b, worker: worker, metrics: m, store: checkpoint.New(checkpoint.Config{DB: worker, Blobs: b.Blobs, Metrics: m, Version: "test"})}
}

func (b *bundle) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := b.Admin.Exec(b.Ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (b *bundle) count(t testing.TB, what string, args ...any) (n int) {
	t.Helper()
	if err := b.Admin.QueryRow(b.Ctx, "SELECT count(*) FROM nofx."+what, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// claim claims the only step of a run.
func (b *bundle) claim(t testing.TB, r run.Run) *postgres.Claim {
	t.Helper()
	c, err := b.tryClaim(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *bundle) tryClaim(r run.Run) (*postgres.Claim, error) {
	d, err := b.DB.RunDetail(b.Ctx, r.TenantID, r.ID)
	if err != nil {
		return nil, err
	}
	c, err := pgtest.Claim(b.Ctx, b.DB, postgres.Wake{
		Job: job.Step{TenantID: r.TenantID, StepID: d.Steps[0].ID, WakeSeq: 1}, Span: trace.SpanContextFromContext(b.Ctx),
		Pre: func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) { return nil, nil },
	}, postgres.Worker{ID: "w", PID: 1}, time.Hour)
	if err == nil && c == nil {
		err = errors.New("no claim")
	}
	return c, err
}

// work starts a step of the tool for the tenant.
func (b *bundle) work(t testing.TB, tenant uuid.UUID) *postgres.Claim {
	t.Helper()
	c, err := b.tryWork(tenant)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *bundle) tryWork(tenant uuid.UUID) (*postgres.Claim, error) {
	p, err := run.SystemPlan(run.ToolGC, "collect", run.GCInputs{})
	if err != nil {
		return nil, err
	}
	r, err := b.DB.StartWork(b.Ctx, tenant, postgres.Work{Key: uuid.NewString(), Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		return nil, err
	}
	return b.tryClaim(r)
}

func (b *bundle) job(c *postgres.Claim, grace time.Duration) gc.Job {
	return gc.Job{
		Config: gc.Config{DB: b.worker, Blobs: b.Blobs, Metrics: b.metrics, Grace: grace},
		Claim:  c, Log: io.Discard, Fresh: func(context.Context) error { return nil },
	}
}

// collect runs a collection for the tenant.
func (b *bundle) collect(t testing.TB, tenant uuid.UUID, grace time.Duration, dry bool) gc.Report {
	t.Helper()
	report, err := gc.Collect(b.Ctx, b.job(b.work(t, tenant), grace), dry)
	if err != nil {
		t.Fatalf("Collect() = %v", err)
	}
	return report
}

// newRun makes a run of one step.
func newRun(ctx context.Context, db *postgres.DB, tenant uuid.UUID) (run.Run, error) {
	p, err := run.Plan{Goal: "g", Steps: []run.PlanStep{{Name: "a", Tool: run.ToolBash, Inputs: []byte(`{"script":"true"}`)}}}.Normalise()
	if err != nil {
		return run.Run{}, err
	}
	r, _, err := db.CreateRun(ctx, tenant, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "tester"})
	return r, err
}

// saved makes a run of one step that has ended with a checkpoint of these files.
func (b *bundle) saved(t testing.TB, tenant uuid.UUID, files map[string]string) (run.Run, *postgres.Checkpoint) {
	t.Helper()
	r, err := newRun(b.Ctx, b.DB, tenant)
	if err != nil {
		t.Fatal(err)
	}
	c := b.claim(t, r)
	ck, err := b.save(t, c, files)
	if err != nil {
		t.Fatal(err)
	}
	b.commit(t, c, ck)
	return r, ck
}

// save stores files as a checkpoint of an attempt, whose row is not there yet.
func (b *bundle) save(t testing.TB, c *postgres.Claim, files map[string]string) (*postgres.Checkpoint, error) {
	dir := t.TempDir()
	for name, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	m := b.store.For(checkpoint.Author{TenantID: c.TenantID, RunID: c.RunID, PlanDigest: "sha256:0"})
	start, err := m.Pre(b.Ctx, nil)
	if err != nil {
		return nil, err
	}
	start.Checkpoint = &postgres.Checkpoint{ID: start.Checkpoint.ID, Digest: start.Checkpoint.Digest}
	st := start.State.With("a", checkpoint.StepState{State: "succeeded", Outputs: []byte(`{"v":"` + strings.Repeat("x", 5000) + `"}`)})
	ck, _, err := m.Save(b.Ctx, start, run.PostCheckpoint, st, b.store.Snapshots().Workspace(c.TenantID, dir))
	if err == nil {
		ck.Parents = nil
	}
	return ck, err
}

func (b *bundle) commit(t testing.TB, c *postgres.Claim, ck *postgres.Checkpoint) {
	t.Helper()
	if _, err := pgtest.FinishStep(b.Ctx, b.DB, postgres.Finish{Claim: c, Outcome: "succeed", Span: trace.SpanContextFromContext(b.Ctx),
		Checkpoints: []*postgres.Checkpoint{ck}}, postgres.Worker{ID: "w", PID: 1}, time.Hour); err != nil {
		t.Fatalf("FinishStep() = %v", err)
	}
}

// expire deletes a run that has ended as if its retention had passed.
func (b *bundle) expire(t testing.TB, r run.Run) {
	t.Helper()
	b.exec(t, "UPDATE nofx.run SET created_at = created_at - interval '31 days', finished_at = finished_at - interval '31 days' WHERE id = $1", r.ID)
	if _, err := b.DB.PruneRuns(b.Ctx, r.TenantID, []uuid.UUID{r.ID}, 1000); err != nil {
		t.Fatal(err)
	}
	if gone, _, err := b.DB.ExpireRuns(b.Ctx, r.TenantID, []uuid.UUID{r.ID}, 1000); err != nil || len(gone) != 1 {
		t.Fatalf("ExpireRuns() = %v, %v, want the run", gone, err)
	}
}

// age makes all that storage knows older by a time.
func (b *bundle) age(t testing.TB, by time.Duration) {
	t.Helper()
	b.exec(t, "UPDATE nofx.blob SET last_ref = last_ref - $1::interval, condemned_at = condemned_at - $1::interval", by)
	b.exec(t, "UPDATE nofx.object SET condemned_at = condemned_at - $1::interval", by)
}

// whole fails unless all content of a checkpoint can be read.
func (b *bundle) whole(t testing.TB, tenant uuid.UUID, ck *postgres.Checkpoint) {
	t.Helper()
	src := &tree.Source{Blobs: b.Blobs, Locator: b.DB}
	dir := t.TempDir()
	if err := b.store.Snapshots().Workspace(tenant, dir).Restore(b.Ctx, ck.TreeDigest); err != nil {
		t.Errorf("Restore(%s) = %v, want all of it there", ck.TreeDigest, err)
	}
	st, err := checkpoint.DecodeState(ck.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range st.Steps {
		if s.OutputsRef == nil {
			continue
		}
		r, err := src.Open(b.Ctx, tenant, *s.OutputsRef)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			t.Errorf("outputs %s = %v, want them there", s.OutputsRef, err)
		}
	}
}

// keys lists what storage holds of a tenant, but for logs.
func (b *bundle) keys(t testing.TB, tenant uuid.UUID) (keys []string) {
	t.Helper()
	if err := b.Blobs.List(b.Ctx, blob.TenantPrefix(tenant), func(page []blob.Listed) error {
		for _, o := range page {
			if !strings.Contains(o.Key, "/log/") {
				keys = append(keys, o.Key)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

const day = 24 * time.Hour

var large = strings.Repeat("large content ", 20_000) // an object of its own

// What no checkpoint names any more goes in two phases, and its objects with it; what one
// names stays, whoever else named it before, and so does all of another tenant.
func TestCollect(t *testing.T) {
	t.Parallel()
	b := setup(t)
	shared := map[string]string{"dir/shared": "shared", "big": large}
	gone, _ := b.saved(t, b.TenantID, map[string]string{"dir/shared": "shared", "big": large, "dir/sub/own": "own", "huge": large + "!"})
	_, kept := b.saved(t, b.TenantID, shared)
	other := b.Tenant(t)
	_, theirs := b.saved(t, other, map[string]string{"dir/sub/own": "own", "huge": large + "!"})
	_, labelled := b.saved(t, b.TenantID, map[string]string{"l": "labelled"})
	b.exec(t, "UPDATE nofx.checkpoint SET label = 'x' WHERE id = $1", labelled.ID)

	all := len(b.keys(t, b.TenantID))
	b.age(t, 2*day)
	if r := b.collect(t, b.TenantID, 0, false); r.Condemned.N+r.Deleted.N+r.Objects.N+r.Orphans.N+r.Lost != 0 || r.Checkpoints != 3 {
		t.Errorf("Collect() with all runs there = %+v, want nothing collected of three checkpoints", r)
	}
	b.expire(t, gone)
	b.age(t, 2*day)
	dry := b.collect(t, b.TenantID, 0, true)
	if dry.Condemned.N == 0 || len(dry.Items.Items) < int(dry.Condemned.N) || b.count(t, "blob WHERE state = 'condemned'") != 0 {
		t.Errorf("Collect(dry) = %+v with %d condemned, want some listed and none condemned", dry, b.count(t, "blob WHERE state = 'condemned'"))
	}
	first := b.collect(t, b.TenantID, 0, false)
	if first.Condemned != dry.Condemned || first.Deleted.N != 0 || first.Objects.N != 0 {
		t.Errorf("first Collect() = %+v, want what the dry one said condemned, %+v, and nothing deleted", first, dry.Condemned)
	}
	if again := b.collect(t, b.TenantID, 0, false); again.Deleted.N != 0 || len(b.keys(t, b.TenantID)) != all {
		t.Errorf("Collect() within the grace = %+v, want nothing deleted", again)
	}
	b.age(t, 2*day)
	second := b.collect(t, b.TenantID, 0, false)
	if second.Deleted != first.Condemned || second.Objects.N == 0 || len(b.keys(t, b.TenantID)) != all-int(second.Objects.N)+int(second.Rewritten.N) {
		t.Errorf("Collect() after the grace = %+v, %d of %d objects left, want the condemned blobs and their objects deleted", second, len(b.keys(t, b.TenantID)), all)
	}
	b.whole(t, b.TenantID, kept)
	b.whole(t, b.TenantID, labelled)
	b.whole(t, other, theirs)
	src := &tree.Source{Blobs: b.Blobs, Locator: b.DB}
	if _, err := src.Open(b.Ctx, b.TenantID, tree.Sum([]byte("own"))); !errors.Is(err, fault.Gone) {
		t.Errorf("Open(collected) = %v, want gone", err)
	}
	v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), true)
	if err != nil || !v.Sound() || v.Orphans.N != 0 || v.Objects.N == 0 {
		t.Errorf("Verify(deep) afterwards = %+v, %v, want all sound", v, err)
	}
}

// A condemned blob that a checkpoint needs again is stored again, elsewhere; one that was
// used shortly before is not condemned; and one whose checkpoint came late is live again.
func TestReuse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	files := map[string]string{"f": "content", "big": large}
	old, _ := b.saved(t, b.TenantID, files)
	b.saved(t, b.TenantID, map[string]string{"x": "x"})
	b.expire(t, old)
	b.age(t, 2*day)

	create := func() *postgres.Claim {
		r, err := newRun(b.Ctx, b.DB, b.TenantID)
		if err != nil {
			t.Fatal(err)
		}
		return b.claim(t, r)
	}
	reusing := create()
	reused, err := b.save(t, reusing, files)
	if err != nil || len(reused.Blobs) != 0 {
		t.Fatalf("save() of what is stored = %d blobs, %v, want none sent", len(reused.Blobs), err)
	}
	if r := b.collect(t, b.TenantID, 0, false); r.Condemned.N != 0 {
		t.Errorf("Collect() while a checkpoint is being written = %+v, want nothing condemned", r)
	}
	b.age(t, 2*day) // as if the checkpoint took so long
	if r := b.collect(t, b.TenantID, 0, false); r.Condemned.N == 0 {
		t.Errorf("Collect() of what nobody has used for the grace = %+v, want it condemned", r)
	}
	again := create()
	stored, err := b.save(t, again, files)
	if err != nil || len(stored.Blobs) == 0 {
		t.Fatalf("save() of what is condemned = %d blobs, %v, want them sent again", len(stored.Blobs), err)
	}
	b.commit(t, reusing, reused)
	if r := b.collect(t, b.TenantID, 0, false); r.Condemned.N+r.Deleted.N != 0 || b.count(t, "blob WHERE state = 'condemned'") != 0 {
		t.Errorf("Collect() once the checkpoint is there = %+v, want all live again", r)
	}
	b.commit(t, again, stored)
	for range 3 {
		b.age(t, 2*day)
		b.collect(t, b.TenantID, 0, false)
	}
	b.whole(t, b.TenantID, reused)
	b.whole(t, b.TenantID, stored)
	if n := b.count(t, "object WHERE tenant_id = $1 AND kind = 'blob' AND sha256 = $2", b.TenantID, sum(large)); n != 1 {
		t.Errorf("%d objects hold the large content, want the copy that nothing names deleted", n)
	}
}

// A pack of which little is needed is written again, once, and the first one goes after the
// grace; a dry run only says so, and small ones are left as they are.
func TestSparsePacks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	noise := func(n int) string { // does not shrink
		raw := make([]byte, n)
		rand.Read(raw)
		return string(raw)
	}
	kept := noise(10_000)
	gone, first := b.saved(t, b.TenantID, map[string]string{"kept": kept, "gone/1": noise(100_000), "gone/2": noise(50_000)})
	_, ck := b.saved(t, b.TenantID, map[string]string{"kept": kept})
	small, _ := b.saved(t, b.TenantID, map[string]string{"x": "x", "y": "y", "z": "z"})
	_, x := b.saved(t, b.TenantID, map[string]string{"x": "x"})
	packs := func(ck *postgres.Checkpoint) string {
		for _, o := range ck.Objects {
			if o.Kind == "pack" {
				return o.Key
			}
		}
		t.Fatal("no pack")
		return ""
	}
	want := gc.Count{N: 1, Bytes: size(t, b, packs(first))}
	b.expire(t, gone)
	b.expire(t, small)
	for range 2 {
		b.age(t, 2*day)
		if r := b.collect(t, b.TenantID, 0, true); r.Rewritten.N != 0 {
			t.Errorf("Collect(dry) while the pack is full = %+v, want none rewritten", r.Rewritten)
		}
		if r := b.collect(t, b.TenantID, 0, false); r.Deleted.N > 0 {
			if r.Rewritten != want {
				t.Errorf("Collect() = %+v rewritten, want the sparse pack alone, %+v", r.Rewritten, want)
			}
		}
	}
	if r := b.collect(t, b.TenantID, 0, false); r.Rewritten.N != 0 {
		t.Errorf("another Collect() = %+v rewritten, want none", r.Rewritten)
	}
	b.age(t, 2*day)
	if r := b.collect(t, b.TenantID, 0, false); r.Objects.N == 0 {
		t.Errorf("Collect() after the grace = %+v, want the first pack deleted", r)
	}
	if _, err := b.Blobs.Stat(b.Ctx, packs(first)); !errors.Is(err, fault.Gone) {
		t.Errorf("Stat(the sparse pack) = %v, want it gone", err)
	}
	b.whole(t, b.TenantID, ck)
	b.whole(t, b.TenantID, x)
	if v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), true); err != nil || !v.Sound() || v.Orphans.N != 0 {
		t.Errorf("Verify(deep) = %+v, %v, want all sound", v, err)
	}
}

func size(t testing.TB, b *bundle, key string) int64 {
	t.Helper()
	info, err := b.Blobs.Stat(b.Ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size
}

// What a client uploaded goes when it is older than runs are kept, unless a run that is not
// over names it, and its object after it. A dry run changes nothing.
func TestClientArtifacts(t *testing.T) {
	t.Parallel()
	b := setup(t)
	add := func(content string, days int) uuid.UUID {
		id, d := run.NewID(), tree.Sum([]byte(content))
		key := blob.CopyKey(b.TenantID, d, blob.NewCopy())
		if err := b.Blobs.Put(b.Ctx, key, strings.NewReader(content), int64(len(content)), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		b.exec(t, "INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind) VALUES ($1, $2, $3, $4, 'blob')", b.TenantID, key, d[:], len(content))
		b.exec(t, `INSERT INTO nofx.artifact (tenant_id, id, name, key, media_type, size_bytes, sha256, created_at)
			VALUES ($1, $2, 'x', $3, 'text/plain', $4, $5, clock_timestamp() - make_interval(days => $6))`, b.TenantID, id, key, len(content), d[:], days)
		return id
	}
	old, young, used := add("old", 31), add("young", 29), add("used", 31)
	p, err := run.Plan{Goal: "g", Steps: []run.PlanStep{{Name: "a", Tool: run.ToolBash,
		Inputs: []byte(`{"script":"true","env":{"A":"` + run.ArtifactID.Format(used) + `"}}`)}}}.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	live, _, err := b.DB.CreateRun(b.Ctx, b.TenantID, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	left := func() (ids []uuid.UUID) {
		t.Helper()
		for _, id := range []uuid.UUID{old, young, used} {
			if _, err := b.DB.Artifact(b.Ctx, b.TenantID, id); err == nil {
				ids = append(ids, id)
			} else if !errors.Is(err, fault.NotFound) {
				t.Fatal(err)
			}
		}
		return ids
	}
	want := gc.Count{N: 1, Bytes: 3}
	if r := b.collect(t, b.TenantID, 0, true); r.Artifacts != want || len(left()) != 3 || r.Items.Items[0].ID != run.ArtifactID.Format(old) {
		t.Errorf("Collect(dry) = %+v with %d artifacts left, want the old one listed, %+v, and all there", r, len(left()), want)
	}
	if r := b.collect(t, b.TenantID, 0, false); r.Artifacts != want || !slices.Equal(left(), []uuid.UUID{young, used}) {
		t.Errorf("Collect() = %+v, left %v, want the old one deleted", r, left())
	}
	if _, err := b.DB.CancelRun(b.Ctx, b.TenantID, live.ID, postgres.Verb{Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	if r := b.collect(t, b.TenantID, 0, false); r.Artifacts.N != 1 || !slices.Equal(left(), []uuid.UUID{young}) {
		t.Errorf("Collect() once the run is over = %+v, left %v, want the one that it named deleted", r, left())
	}
	b.age(t, 2*day)
	b.collect(t, b.TenantID, 0, false)
	if n := len(b.keys(t, b.TenantID)); n != 1 {
		t.Errorf("%d objects left, want the young artifact's", n)
	}
}

// What a crash has left is deleted once it is older than the grace, and what has a row or is
// young is not.
func TestOrphans(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, ck := b.saved(t, b.TenantID, map[string]string{"f": "f", "big": large})
	key := blob.CopyKey(b.TenantID, tree.Sum([]byte("orphan")), blob.NewCopy())
	if err := b.Blobs.Put(b.Ctx, key, bytes.NewReader([]byte("orphan")), 6, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := b.collect(t, b.TenantID, time.Hour, false); r.Orphans.N != 0 {
		t.Errorf("Collect() = %+v, want the young orphan left", r)
	}
	dry := b.collect(t, b.TenantID, -time.Hour, true)
	if want := (gc.Count{N: 1, Bytes: 6}); dry.Orphans != want || len(dry.Items.Items) == 0 {
		t.Errorf("Collect(dry) = %+v, want %+v", dry.Orphans, want)
	}
	v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), false)
	if err != nil || v.Orphans.N != 1 || !v.Sound() {
		t.Errorf("Verify() = %+v, %v, want one orphan and all sound", v, err)
	}
	if r := b.collect(t, b.TenantID, -time.Hour, false); r.Orphans.N != 1 {
		t.Errorf("Collect() = %+v, want the orphan deleted", r)
	}
	if _, err := b.Blobs.Stat(b.Ctx, key); !errors.Is(err, fault.Gone) {
		t.Errorf("Stat(orphan) = %v, want it gone", err)
	}
	b.whole(t, b.TenantID, ck)
}

// A collection that has lost its step changes nothing.
func TestCollectFenced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	old, _ := b.saved(t, b.TenantID, map[string]string{"f": "f"})
	b.expire(t, old)
	b.age(t, 2*day)
	c := *b.work(t, b.TenantID)
	c.Fence--
	if _, err := gc.Collect(b.Ctx, b.job(&c, 0), false); !errors.Is(err, fault.Fenced) {
		t.Errorf("Collect() of a lost step = %v, want fenced", err)
	}
	if n := b.count(t, "blob WHERE state <> 'live'"); n != 0 {
		t.Errorf("%d blobs are condemned, want none", n)
	}
}

// A verification names what is gone and what is not what it was, and a size that is right
// is found out only when the bytes are read.
func TestVerify(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, a := b.saved(t, b.TenantID, map[string]string{"big": large})
	_, c := b.saved(t, b.TenantID, map[string]string{"big": large + "?"})
	own := func(ck *postgres.Checkpoint) string {
		for _, o := range ck.Objects {
			if o.Kind == "blob" {
				return o.Key
			}
		}
		t.Fatal("no object")
		return ""
	}
	if err := b.Blobs.Delete(b.Ctx, own(a)); err != nil {
		t.Fatal(err)
	}
	flipped := []byte(large + "!")
	if err := b.Blobs.Put(b.Ctx, own(c), bytes.NewReader(flipped), int64(len(flipped)), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), false)
	if err != nil || v.Missing.N != 1 || v.Corrupt.N != 0 || v.Sound() || !strings.Contains(fmt.Sprint(v.Items.Items), own(a)) {
		t.Errorf("Verify() = %+v, %v, want the deleted object missing", v, err)
	}
	if v, err = gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), true); err != nil || v.Corrupt.N != 1 || !strings.Contains(fmt.Sprint(v.Items.Items), own(c)) {
		t.Errorf("Verify(deep) = %+v, %v, want the changed object corrupt", v, err)
	}
	if _, ck := b.saved(t, b.TenantID, map[string]string{"big": large, "other": large + "?"}); len(ck.Objects) != 3 {
		t.Errorf("a later checkpoint stored %d objects, want what was lost stored again, and a pack", len(ck.Objects))
	}
}

func sum(content string) []byte {
	d := tree.Sum([]byte(content))
	return d[:]
}

// Purged content can be read by nobody, its bytes are in no object, whatever copies and packs
// there were, all else stays, and no later checkpoint stores it again.
func TestPurge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret, big := "SECRET-"+uuid.NewString(), large+uuid.NewString()
	_, first := b.saved(t, b.TenantID, map[string]string{"dir/.env": secret, "dir/other": "other", "big": big})
	other := b.Tenant(t)
	_, theirs := b.saved(t, other, map[string]string{"dir/.env": secret, "big": big})
	// A second pack holds the same content, as when two steps store it at the same time.
	object, blobs, err := b.store.Snapshots().Repack(b.Ctx, b.TenantID, b.located(t, first, secret, "other"))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(t, "INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind) VALUES ($1, $2, $3, $4, 'pack')", b.TenantID, object.Key, object.SHA256[:], object.Bytes)
	if len(blobs) != 2 {
		t.Fatalf("Repack() = %d blobs, want 2", len(blobs))
	}
	ctx := postgres.WithActor(b.Ctx, "admin")
	for _, content := range []string{secret, big} {
		d := tree.Sum([]byte(content))
		made, err := b.DB.PurgeBlob(ctx, b.TenantID, d, "leaked")
		if err != nil || made.By != "admin" || made.Reason != "leaked" {
			t.Fatalf("PurgeBlob() = %+v, %v", made, err)
		}
		if again, err := b.DB.PurgeBlob(ctx, b.TenantID, d, "twice"); err != nil || again != made {
			t.Errorf("PurgeBlob() again = %+v, %v, want the first, %+v", again, err, made)
		}
		src := &tree.Source{Blobs: b.Blobs, Locator: b.DB}
		if _, err := src.Open(ctx, b.TenantID, d); !errors.Is(err, fault.Gone) || !blob.IsPurged(err) {
			t.Errorf("Open(purged) = %v, want gone, as purged", err)
		}
		for range 2 {
			if _, err := gc.Purge(ctx, b.job(b.work(t, b.TenantID), 0), d); err != nil {
				t.Fatalf("Purge() = %v", err)
			}
		}
	}
	for _, key := range b.keys(t, b.TenantID) {
		r, err := b.Blobs.Open(ctx, key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(secret)) || bytes.Contains(raw, []byte(big)) {
			t.Errorf("object %s still holds purged content", key)
		}
		if strings.Contains(key, "/pack/") {
			list, err := b.store.Snapshots().Packed(ctx, key, int64(len(raw)))
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range list {
				if x.SHA256 == tree.Sum([]byte(secret)) {
					t.Errorf("pack %s still holds purged content", key)
				}
			}
		}
	}
	src := &tree.Source{Blobs: b.Blobs, Locator: b.DB}
	r, err := src.Open(ctx, b.TenantID, tree.Sum([]byte("other")))
	if err != nil {
		t.Errorf("Open(what was in the same pack) = %v, want it there", err)
	} else if raw, err := io.ReadAll(r); err != nil || string(raw) != "other" {
		t.Errorf("what was in the same pack = %q, %v", raw, err)
	}
	b.whole(t, other, theirs)
	dir := t.TempDir()
	w := b.store.Snapshots().Workspace(b.TenantID, dir)
	if err := w.Restore(ctx, first.TreeDigest); err != nil || !slices.Equal(w.Purged, []string{"big", "dir/.env"}) {
		t.Errorf("Restore() = %v without %v, want all but what was purged", err, w.Purged)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "dir/other")); err != nil || string(raw) != "other" {
		t.Errorf("restored file = %q, %v, want the one that was not purged", raw, err)
	}
	if scan, err := w.Scan(ctx, nil); err != nil || scan.Tree == first.TreeDigest {
		t.Errorf("Scan() of what was restored = %v, want another tree than the checkpoint's", err)
	}
	_, later := b.saved(t, b.TenantID, map[string]string{"copy": secret, "new": "new"})
	for _, x := range later.Blobs {
		if x.SHA256 == tree.Sum([]byte(secret)) {
			t.Error("a later checkpoint stored the purged content again")
		}
	}
	for range 3 {
		b.age(t, 2*day)
		if r := b.collect(t, b.TenantID, 0, false); r.Lost != 0 {
			t.Errorf("Collect() = %+v, want purged content not to count as lost", r)
		}
	}
	if v, err := gc.Verify(ctx, b.job(b.work(t, b.TenantID), 0), true); err != nil || !v.Sound() {
		t.Errorf("Verify(deep) = %+v, %v, want all sound", v, err)
	}
	_, err = b.DB.PurgeBlob(ctx, b.TenantID, tree.Sum([]byte("never stored")), "x")
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("PurgeBlob(unknown) = %v, want not found", err)
	}
}

// located returns where contents of a checkpoint are.
func (b *bundle) located(t testing.TB, ck *postgres.Checkpoint, contents ...string) (list []tree.Blob) {
	t.Helper()
	for _, x := range ck.Blobs {
		for _, content := range contents {
			if x.SHA256 == tree.Sum([]byte(content)) {
				list = append(list, x)
			}
		}
	}
	return list
}

// Content that is purged while a checkpoint stores it is deleted by the next collection.
func TestPurgeWhileStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret := "SECRET-" + uuid.NewString()
	b.saved(t, b.TenantID, map[string]string{"x": "x"})
	r, err := newRun(b.Ctx, b.DB, b.TenantID)
	if err != nil {
		t.Fatal(err)
	}
	c := b.claim(t, r)
	ck, err := b.save(t, c, map[string]string{"s": secret, "y": "y"})
	if err != nil {
		t.Fatal(err)
	}
	b.saved(t, b.TenantID, map[string]string{"s": secret})
	if _, err := b.DB.PurgeBlob(b.Ctx, b.TenantID, tree.Sum([]byte(secret)), "leaked"); err != nil {
		t.Fatal(err)
	}
	if _, err := gc.Purge(b.Ctx, b.job(b.work(t, b.TenantID), 0), tree.Sum([]byte(secret))); err != nil {
		t.Fatal(err)
	}
	b.commit(t, c, ck)
	b.collect(t, b.TenantID, 0, false)
	for _, key := range b.keys(t, b.TenantID) {
		if !strings.Contains(key, "/pack/") {
			continue
		}
		info, err := b.Blobs.Stat(b.Ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		list, err := b.store.Snapshots().Packed(b.Ctx, key, info.Size)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			if x.SHA256 == tree.Sum([]byte(secret)) {
				t.Errorf("pack %s still holds what was purged while it was stored", key)
			}
		}
	}
}

// Packs that no row names are deleted by a purge once no attempt runs that may have stored
// them, as those of killed workers, and of steps that edited a branch side by side.
func TestPurgeOfPacksWithoutRow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret := "SECRET-" + uuid.NewString()
	d := tree.Sum([]byte(secret))
	r, err := newRun(b.Ctx, b.DB, b.TenantID)
	if err != nil {
		t.Fatal(err)
	}
	c := b.claim(t, r)
	if _, err := b.save(t, c, map[string]string{"s": secret, "y": "y"}); err != nil { // and not committed
		t.Fatal(err)
	}
	b.saved(t, b.TenantID, map[string]string{"s": secret})
	if _, err := b.DB.PurgeBlob(b.Ctx, b.TenantID, d, "leaked"); err != nil {
		t.Fatal(err)
	}
	unpurged := func() int {
		list, err := b.DB.Unpurged(b.Ctx, b.TenantID)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	purge := b.work(t, b.TenantID)
	if e, err := gc.Purge(b.Ctx, b.job(purge, 0), d); err != nil || e.Pending != 1 || unpurged() != 1 {
		t.Fatalf("Purge(while its attempt runs) = %+v, %v, want one pack left to the next collection", e, err)
	}
	for _, c := range []*postgres.Claim{c, purge} {
		if _, err := pgtest.FinishStep(b.Ctx, b.DB, postgres.Finish{Claim: c, Outcome: "fail", FailureClass: run.ClassTool, Reason: "killed", Span: trace.SpanContextFromContext(b.Ctx)},
			postgres.Worker{ID: "w", PID: 1}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	b.collect(t, b.TenantID, time.Hour, false)
	for _, key := range b.keys(t, b.TenantID) {
		if !strings.Contains(key, "/pack/") {
			continue
		}
		info, err := b.Blobs.Stat(b.Ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		list, err := b.store.Snapshots().Packed(b.Ctx, key, info.Size)
		if err != nil || slices.ContainsFunc(list, func(x tree.Blob) bool { return x.SHA256 == d }) {
			t.Errorf("pack %s still holds purged content, %v", key, err)
		}
	}
	if n := unpurged(); n != 0 {
		t.Errorf("%d purges are not over, want 0", n)
	}
}
