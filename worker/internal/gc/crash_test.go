package gc_test

import (
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"nofx.dev/shared/failpoint"
	"nofx.dev/worker/internal/gc"
)

// inject lets a failpoint fail until the test ends, as if the process had died there: what
// comes after it is not done.
func inject(t *testing.T, point string) (release func()) {
	t.Helper()
	env := map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": point + "=error"}
	if err := failpoint.Init(func(k string) string { return env[k] }, slog.New(slog.DiscardHandler), nil); err != nil {
		t.Fatal(err)
	}
	release = func() {
		if err := failpoint.Init(os.Getenv, slog.New(slog.DiscardHandler), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(release)
	return release
}

// A worker that dies in any window leaves no row without its object, and what it leaves in
// storage is collected. Not parallel: failpoints are the process's.
func TestCrashes(t *testing.T) {
	b := setup(t)
	sound := func(when string, orphans int64) {
		t.Helper()
		v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), true)
		if err != nil || !v.Sound() || v.Orphans.N != orphans {
			t.Errorf("%s: Verify(deep) = %+v, %v, want all sound and %d orphans", when, v, err, orphans)
		}
	}
	files := map[string]string{"f": "content", "big": large}
	_, kept := b.saved(t, b.TenantID, map[string]string{"k": "kept"})

	// After a put, before the row.
	r, err := newRun(b.Ctx, b.DB, b.TenantID)
	if err != nil {
		t.Fatal(err)
	}
	c := b.claim(t, r)
	release := inject(t, failpoint.AfterPut)
	if _, err := b.save(t, c, files); !errors.Is(err, failpoint.ErrInjected) {
		t.Fatalf("save() = %v, want the injected error", err)
	}
	release()
	sound("after a put", 1)
	ck, err := b.save(t, c, files)
	if err != nil {
		t.Fatal(err)
	}
	sound("after all puts", 3)
	if report := b.collect(t, b.TenantID, -time.Hour, true); report.Orphans.N != 3 {
		t.Errorf("Collect(dry) = %+v, want the orphans of both saves", report)
	}
	b.commit(t, c, ck)
	sound("after the row", 1)

	// Between rows and objects of the collection.
	b.expire(t, r)
	for range 2 {
		b.age(t, 2*day)
		b.collect(t, b.TenantID, 0, true)
		release = inject(t, failpoint.InGC)
		if _, err := gc.Collect(b.Ctx, b.job(b.work(t, b.TenantID), 0), false); err != nil && !errors.Is(err, failpoint.ErrInjected) {
			t.Fatalf("Collect() = %v, want the injected error", err)
		}
		release()
		if v, err := gc.Verify(b.Ctx, b.job(b.work(t, b.TenantID), 0), true); err != nil || !v.Sound() {
			t.Errorf("in the collection: Verify(deep) = %+v, %v, want all sound", v, err)
		}
	}
	// Between the objects and their rows.
	for _, key := range b.condemned(t) {
		if err := b.Blobs.Delete(b.Ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	sound("after the objects were deleted", 1)
	if report := b.collect(t, b.TenantID, -time.Hour, false); report.Objects.N == 0 || report.Orphans.N != 1 {
		t.Errorf("Collect() = %+v, want it to go on with the objects, and the orphan", report)
	}
	sound("at the end", 0)
	if n := b.count(t, "object WHERE state = 'condemned'"); n != 0 {
		t.Errorf("%d condemned objects have rows, want none", n)
	}
	b.whole(t, b.TenantID, kept)
}

// condemned lists the keys of condemned objects.
func (b *bundle) condemned(t testing.TB) (keys []string) {
	t.Helper()
	rows, err := b.Admin.Query(b.Ctx, "SELECT key FROM nofx.object WHERE state = 'condemned' AND kind IN ('blob', 'pack')")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}
