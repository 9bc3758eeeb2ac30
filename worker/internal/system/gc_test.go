package system_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/host/hosttest"
)

// collect has a worker collect garbage, when all that is stored was last used days ago.
func collect(t *testing.T, b *hosttest.Bundle) {
	t.Helper()
	for _, sql := range []string{
		"UPDATE nofx.blob SET last_ref = last_ref - interval '3 days', condemned_at = condemned_at - interval '3 days'",
		"UPDATE nofx.object SET condemned_at = condemned_at - interval '3 days'",
	} {
		if _, err := b.Admin.Exec(b.Ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	p, err := run.SystemPlan(run.ToolGC, "collect", run.GCInputs{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.DB.StartWork(b.Ctx, b.TenantID, postgres.Work{Key: uuid.NewString(), Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartWork() = %v", err)
	}
	b.Until(t, r.ID, run.Succeeded)
}

// What a merge has prepared stays until it is committed, however long that takes: content
// that it made, and an artifact that was taken in the place of both sides, twice.
func TestCollectionKeepsPreparedMerges(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	target := b.Create(t, hosttest.Script("a", `printf '1\n2\n3\n4\n5\n' > text; echo base | tee both > also`), hosttest.Script("b", "sed -i s/1/one/ text; echo ours | tee both > also", "a"))
	d := b.Until(t, target.ID, run.Succeeded)
	var base uuid.UUID
	if err := b.Admin.QueryRow(b.Ctx, "SELECT id FROM nofx.checkpoint WHERE run_id = $1 AND kind = 'post' ORDER BY seq LIMIT 1", d.Run.ID).Scan(&base); err != nil {
		t.Fatal(err)
	}
	source := fork(t, b, base, hosttest.Script("c", "sed -i s/5/five/ text; echo theirs | tee both > also"))
	b.Until(t, source.ID, run.Succeeded)
	m := startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID})
	if m.State != run.Conflicted || m.Unresolved != 2 {
		t.Fatalf("merge = %s with %d open conflicts, want two conflicts", m.State, m.Unresolved)
	}
	artifact := run.NewID()
	content := []byte("taken from an artifact\n")
	sum := tree.Sum(content)
	key := blob.CopyKey(b.TenantID, sum, blob.NewCopy())
	if err := b.Blobs.Put(b.Ctx, key, bytes.NewReader(content), int64(len(content)), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind) SELECT $1, $3, $4, $5, 'blob' WHERE $2::uuid IS NOT NULL",
		"INSERT INTO nofx.artifact (tenant_id, id, name, key, media_type, size_bytes, sha256) VALUES ($1, $2, 'x', $3, 'text/plain', $5, $4)",
	} {
		if _, err := b.Admin.Exec(b.Ctx, sql, b.TenantID, artifact, key, sum[:], len(content)); err != nil {
			t.Fatal(err)
		}
	}
	take := run.TakeArtifact
	var decided []run.MergeResolution
	for _, at := range []string{"both", "also"} {
		decided = append(decided, run.MergeResolution{Unit: run.PathUnit, At: at, Take: &take, ArtifactID: &artifact})
	}
	if _, err := b.DB.ResolveMerge(b.Ctx, b.TenantID, m.ID, decided, nil, "tester"); err != nil {
		t.Fatalf("ResolveMerge() = %v", err)
	}
	if m = computed(t, b, m.ID); m.State != run.Ready {
		t.Fatalf("merge = %s, want it ready", m.State)
	}
	stored := func(when string) {
		t.Helper()
		var n int
		if err := b.Admin.QueryRow(b.Ctx, "SELECT count(*) FROM nofx.object WHERE sha256 = $1", sum[:]).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != 2 {
			t.Errorf("objects of the artifact's content %s = %d, want the artifact's and one of the checkpoint", when, n)
		}
	}
	stored("before a collection")
	for range 3 {
		collect(t, b)
	}
	commit(t, b, m, false)
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, target.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.File(t, d, "text"); got != "one\n2\n3\n4\nfive\n" {
		t.Errorf("merged file = %q, want what both sides changed", got)
	}
	for _, file := range []string{"both", "also"} {
		if got := b.File(t, d, file); got != string(content) {
			t.Errorf("%s = %q, want the artifact's content", file, got)
		}
	}
	stored("after the commit")
}

// purge purges a content and has a worker delete its bytes.
func purge(t *testing.T, b *hosttest.Bundle, content string) {
	t.Helper()
	d := tree.Sum([]byte(content))
	if _, err := b.DB.PurgeBlob(b.Ctx, b.TenantID, d, "leaked"); err != nil {
		t.Fatalf("PurgeBlob() = %v", err)
	}
	erase(t, b, d)
}

// erase has a worker delete the bytes of a content that has a tombstone.
func erase(t *testing.T, b *hosttest.Bundle, d tree.Digest) {
	t.Helper()
	p, err := run.SystemPlan(run.ToolPurge, "purge", run.PurgeInputs{SHA256: hex.EncodeToString(d[:])})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.DB.StartWork(b.Ctx, b.TenantID, postgres.Work{Key: uuid.NewString(), Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartWork() = %v", err)
	}
	b.Until(t, r.ID, run.Succeeded)
}

// A step that goes on in the workspace of the step before it sees no more of purged content
// than one that starts in a new directory, and leaves the same tree.
func TestPurgeReachesWorkspaces(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	r := b.Create(t,
		hosttest.Script("a", "mkdir d && echo secret | tee d/secret > secret; echo kept | tee kept > d/kept"),
		hosttest.Step("ask", "manual:ask", run.ManualInputs{Message: "go?"}, "a"),
		hosttest.Script("b", "echo secret > again; find . -type f | sort", "ask"),
		hosttest.Script("c", "find . -type f | sort", "b"),
	)
	d := b.Until(t, r.ID, run.Waiting)
	purge(t, b, "secret\n")
	// The branch has the steps of the run, and no workspace on the worker.
	other := branch(t, b, r, headOf(t, d), "a")
	trees := map[string][]string{}
	for _, id := range []uuid.UUID{r.ID, other.ID} {
		d := b.Until(t, id, run.Waiting)
		if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[len(d.Gates)-1].ID, postgres.Decision{Event: "approve"}); err != nil {
			t.Fatalf("DecideGate() = %v", err)
		}
		for _, s := range b.Until(t, id, run.Succeeded).Steps {
			if s.Name != "b" && s.Name != "c" {
				continue
			}
			if log := b.Log(t, s.ID); !strings.HasPrefix(log, "[nofx] purged by an administrator") || strings.Contains(log, "\n./secret") || strings.Contains(log, "\n./d/secret") || !strings.Contains(log, "\n./d/kept\n./kept\n") {
				t.Errorf("log of %s of run %s = %q, want what was not purged", s.Name, id, log)
			}
			var digest string
			if err := b.Admin.QueryRow(b.Ctx, "SELECT tree_digest FROM nofx.checkpoint WHERE step_id = $1 AND kind = 'post'", s.ID).Scan(&digest); err != nil {
				t.Fatal(err)
			}
			trees[s.Name] = append(trees[s.Name], digest)
		}
	}
	for name, list := range trees {
		if len(list) != 2 || list[0] != list[1] {
			t.Errorf("%s leaves %v, want the same tree in both runs", name, list)
		}
	}
	if len(trees) != 2 {
		t.Errorf("%d steps ran, want two", len(trees))
	}
}
