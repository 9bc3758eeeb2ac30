package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/servertest/s3server"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
)

const bucket = "nofx-checkpoint"

var storageServer *s3server.Server

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	ctx := context.Background()
	stop, err := pgtest.Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "start Postgres:", err)
		return 1
	}
	defer stop()
	if storageServer, err = s3server.Start(ctx, s3server.Config{}); err == nil {
		defer storageServer.Stop()
		err = storageServer.MakeBucket(ctx, bucket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	return m.Run()
}

// bundle is one test's database, storage and tenant.
type bundle struct {
	*pgtest.Database
	store  *Store
	tenant uuid.UUID
}

func setup(t *testing.T) *bundle {
	t.Helper()
	d, s := pgtest.New(t), storageServer
	blobs, err := blob.Open(blob.Config{Endpoint: s.Endpoint, Bucket: bucket, Region: s.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey})
	if err != nil {
		t.Fatalf("blob.Open() = %v", err)
	}
	m := telemetry.NewMetrics(prometheus.NewRegistry(), "test")
	return &bundle{Database: d, tenant: d.Tenant(t), store: New(Config{DB: d.Open(t, postgres.Config{Role: postgres.WorkerRole}), Blobs: blobs, Metrics: m, Version: "test"})}
}

// commit inserts the rows of blobs, as the transaction that records a checkpoint does,
// and returns the checkpoint as the parent of another.
func (b *bundle) commit(t *testing.T, ck *postgres.Checkpoint) postgres.Parent {
	t.Helper()
	for _, x := range ck.Blobs {
		var pack []byte
		if x.Pack != nil {
			pack = x.Pack[:]
		}
		_, err := b.Admin.Exec(t.Context(), `INSERT INTO nofx.blob (tenant_id, sha256, size, pack_sha256, off, len)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, b.tenant, x.SHA256[:], x.Size, pack, x.Off, x.Len)
		if err != nil {
			t.Fatalf("insert a blob: %v", err)
		}
	}
	return postgres.Parent{ID: ck.ID, Digest: ck.Digest, Generation: ck.Generation, TreeDigest: ck.TreeDigest, StateDigest: ck.StateDigest, State: ck.State}
}

// Who has no attempt makes checkpoints all the same: of workspaces, and of what two of
// them come to together.
func TestMakerWithoutAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	m := b.store.For(Author{TenantID: b.tenant, RunID: uuid.New(), PlanDigest: "sha256:0"})
	empty, err := m.Pre(ctx, nil)
	if err != nil || empty == nil || empty.Tree != tree.Empty {
		t.Fatalf("Pre(no parents) = %+v, %v, want the empty tree", empty, err)
	}
	from := b.commit(t, empty.Checkpoint)
	save := func(name, content string, vars map[string]json.RawMessage) postgres.Parent {
		t.Helper()
		start, err := m.Pre(ctx, []postgres.Parent{from})
		if err != nil || start == nil {
			t.Fatalf("Pre(one parent) = %v, %v, want a start", start, err)
		}
		dir := t.TempDir()
		w := b.store.Snapshots().Workspace(b.tenant, dir)
		if err := errors.Join(w.Restore(ctx, start.Tree), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
		st := start.State.With(name, StepState{State: "succeeded", Attempt: 1})
		st.Vars = vars
		ck, scan, err := m.Save(ctx, start, run.PostCheckpoint, st, w)
		if err != nil || scan.Tree != ck.TreeDigest || ck.Generation != 3 || ck.BytesNew == 0 || len(ck.Blobs) == 0 {
			t.Fatalf("Save(%s) = %+v, %v, want the third generation with new bytes", name, ck, err)
		}
		return b.commit(t, ck)
	}
	value := func(v string) map[string]json.RawMessage { return map[string]json.RawMessage{"k": json.RawMessage(v)} }
	left, right := save("left", "l", nil), save("right", "r", value("1"))

	joined, conflicts, err := m.Join(ctx, run.PreCheckpoint, []postgres.Parent{left, right})
	if err != nil || len(conflicts) > 0 {
		t.Fatalf("Join(left, right) = %v, %v, want a start", conflicts, err)
	}
	b.commit(t, joined.Checkpoint)
	dir := t.TempDir()
	if err := b.store.Snapshots().Workspace(b.tenant, dir).Restore(ctx, joined.Tree); err != nil {
		t.Fatalf("Restore(the join) = %v", err)
	}
	l, lErr := os.ReadFile(filepath.Join(dir, "left"))
	r, rErr := os.ReadFile(filepath.Join(dir, "right"))
	if string(l)+string(r) != "lr" || len(joined.State.Steps) != 2 || string(joined.State.Vars["k"]) != "1" {
		t.Errorf("Join(left, right) = files %q and %q, %v, %v, state %+v, want those of both", l, r, lErr, rErr, joined.State)
	}
	if want := []uuid.UUID{left.ID, right.ID}; !slices.Equal(joined.Checkpoint.Parents, want) {
		t.Errorf("Join(left, right) has parents %v, want %v", joined.Checkpoint.Parents, want)
	}

	_, conflicts, err = m.Join(ctx, run.PreCheckpoint, []postgres.Parent{right, save("right", "other", value("2"))})
	want := []merge.Conflict{{Path: "right", Kind: merge.Added}, {Pointer: "/vars/k", Kind: merge.Added}}
	if err != nil || !slices.Equal(conflicts, want) {
		t.Errorf("Join(right, another right) = %v, %v, want %v", conflicts, err, want)
	}
}

// Nothing is uploaded for an author that may not any more.
func TestFresh(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx := t.Context()
	lost := errors.New("the lease is lost")
	m := b.store.For(Author{TenantID: b.tenant, RunID: uuid.New(), Fresh: func(context.Context) error { return lost }})
	start, err := m.Pre(ctx, nil)
	if err != nil || start == nil {
		t.Fatalf("Pre() = %v, %v, want a start: it takes no upload", start, err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	large := start.State.With("a", StepState{Outputs: json.RawMessage(`"` + strings.Repeat("x", outputsInline) + `"`)})
	if _, _, err := m.Save(ctx, start, run.PostCheckpoint, start.State, b.store.Snapshots().Workspace(b.tenant, dir)); !errors.Is(err, lost) {
		t.Errorf("Save() = %v, want %v", err, lost)
	}
	if _, err := m.SameTree(ctx, start, run.PostCheckpoint, large, nil); !errors.Is(err, lost) {
		t.Errorf("SameTree(large outputs) = %v, want %v", err, lost)
	}
	if ck, err := m.SameTree(ctx, start, run.PostCheckpoint, start.State, nil); err != nil || ck.BytesNew != 0 {
		t.Errorf("SameTree() = %+v, %v, want a checkpoint without bytes", ck, err)
	}
}

// Pre leaves to Join what takes storage or the database.
func TestPre(t *testing.T) {
	t.Parallel()
	metrics := telemetry.NewMetrics(prometheus.NewRegistry(), "test")
	m := New(Config{Metrics: metrics, Version: "test"}).For(Author{TenantID: uuid.New(), RunID: uuid.New(), Step: "a", Fence: 1})
	at := func(d tree.Digest, state string) postgres.Parent {
		p := postgres.Parent{ID: uuid.New(), Digest: tree.Empty, Generation: 4, TreeDigest: d, StateDigest: tree.EmptyFile}
		if state != "" {
			p.State = []byte(state)
		}
		return p
	}
	one, two := `{"steps":{"one":{"state":"succeeded","attempt":1}},"vars":{}}`, `{"steps":{"two":{"state":"succeeded","attempt":1}},"vars":{}}`
	for name, tt := range map[string]struct {
		parents []postgres.Parent
		steps   int
		want    bool
	}{
		"none":            {nil, 0, true},
		"one":             {[]postgres.Parent{at(tree.EmptyFile, one)}, 1, true},
		"same tree":       {[]postgres.Parent{at(tree.EmptyFile, one), at(tree.EmptyFile, two)}, 2, true},
		"other tree":      {[]postgres.Parent{at(tree.EmptyFile, one), at(tree.Empty, two)}, 0, false},
		"a large state":   {[]postgres.Parent{at(tree.EmptyFile, one), at(tree.EmptyFile, "")}, 0, false},
		"other variables": {[]postgres.Parent{at(tree.EmptyFile, one), at(tree.EmptyFile, `{"steps":{},"vars":{"k":1}}`)}, 0, false},
	} {
		start, err := m.Pre(t.Context(), tt.parents)
		if err != nil || (start != nil) != tt.want {
			t.Errorf("Pre(%s) = %+v, %v, want a start: %t", name, start, err, tt.want)
			continue
		}
		if start == nil {
			continue
		}
		generation := 1
		if len(tt.parents) > 0 {
			generation = 5
		}
		if len(start.State.Steps) != tt.steps || start.Checkpoint.Generation != generation || len(start.Checkpoint.Parents) != len(tt.parents) {
			t.Errorf("Pre(%s) knows %d steps, generation %d, parents %v, want %d, %d, all", name, len(start.State.Steps), start.Checkpoint.Generation, start.Checkpoint.Parents, tt.steps, generation)
		}
	}
}
