package integration_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
	"nofx.dev/shared/servertest/pgserver"
)

// TestBehindPooler runs workers through a real transaction pooler. One that is not told
// of it says which setting is missing and ends; those that are told work, also where the
// address for listening leads through it too, which they find out by themselves.
func TestBehindPooler(t *testing.T) {
	t.Parallel()
	env := filepath.Join(t.TempDir(), "env")
	s := up(t, harness.Config{EnvFile: env})
	pooler, err := pgserver.StartPooler(t.Context(), s.WorkerDB)
	if errors.Is(err, pgserver.ErrNoPooler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("StartPooler() = %v, want a pooler", err)
	}
	t.Cleanup(pooler.Stop)
	pooled := pooler.URL(s.WorkerDB)

	log := s.Log("untold")
	untold := startWorker(t, env, log, "DATABASE_URL="+pooled, "NOFX_WORKSPACE_DIR="+t.TempDir())
	select {
	case <-untold.Done():
	case <-time.After(time.Minute):
		t.Fatal("a worker that is not told of the pooler still runs after a minute")
	}
	if content, err := os.ReadFile(log); err != nil || !bytes.Contains(content, []byte("NOFX_DATABASE_POOLED=true")) {
		t.Errorf("it says %s, %v, want the setting that is missing", content, err)
	}

	for _, name := range []string{"told", "also-told"} {
		startWorker(t, env, s.Log(name), "DATABASE_URL="+pooled, "NOFX_DATABASE_LISTEN_URL="+pooled, "NOFX_DATABASE_POOLED=true", "NOFX_WORKSPACE_DIR="+t.TempDir())
	}
	var runs []api.Run
	for range 10 {
		runs = append(runs, s.create(t, bash("a", "true"), bash("b", "true"), bash("c", "true")).Run)
	}
	for _, r := range runs {
		s.await(t, r.ID, api.RunStatusSucceeded)
	}
	for _, name := range []string{"told", "also-told"} {
		content, err := os.ReadFile(s.Log(name))
		if err != nil || bytes.Contains(content, []byte("prepared statement")) {
			t.Errorf("%s logs %s, %v, want nothing about prepared statements", name, content, err)
		}
	}
}
