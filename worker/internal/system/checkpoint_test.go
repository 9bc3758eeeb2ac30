package system_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// start starts a system run of a tool on a run.
func start(t *testing.T, b *hosttest.Bundle, tool, key string, subject uuid.UUID, inputs any) run.Run {
	t.Helper()
	p, err := run.SystemPlan(tool, "test", inputs)
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.DB.StartWork(b.Ctx, b.TenantID, postgres.Work{Key: tool + "/" + key, Project: "default", Plan: p, SubjectRunID: &subject, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartWork(%s) = %v", tool, err)
	}
	return r
}

// manual asks for a manual checkpoint of what a run has left by now.
func manual(t *testing.T, b *hosttest.Bundle, runID uuid.UUID, label string) (id uuid.UUID, r run.Run) {
	t.Helper()
	leaves, err := b.DB.Leaves(b.Ctx, b.TenantID, runID)
	if err != nil || len(leaves) == 0 {
		t.Fatalf("Leaves() = %v, %v, want some", leaves, err)
	}
	in := run.CheckpointInputs{RunID: run.RunID.Format(runID), CheckpointID: run.CheckpointID.Format(run.NewID()), Label: label}
	for _, l := range leaves {
		in.Leaves = append(in.Leaves, run.CheckpointID.Format(l))
	}
	if id, err = run.CheckpointID.Parse(in.CheckpointID); err != nil {
		t.Fatal(err)
	}
	return id, start(t, b, run.ToolCheckpoint, in.CheckpointID, runID, in)
}

func serveAll(c *host.Config) { c.Queues = []string{run.StepQueue, run.MaintenanceQueue} }

// A manual checkpoint joins what the finished steps left, and the run goes on without it.
func TestManualCheckpoint(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	for name, tt := range map[string]struct {
		right string
		want  run.State
	}{
		"two that fit":        {"echo r > right", run.Succeeded},
		"two that do not fit": {"echo r > left", run.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := b.Create(t, hosttest.Script("base", "echo b > base"), hosttest.Script("left", "echo l > left", "base"), hosttest.Script("right", tt.right, "base"),
				hosttest.Step("hold", "manual:hold", map[string]any{"message": "go?"}, "base"))
			d := b.Until(t, r.ID, run.Waiting)
			id, made := manual(t, b, r.ID, "before lunch")
			ended := b.Until(t, made.ID, tt.want)
			if tt.want == run.Failed {
				if s := ended.Steps[0]; s.FailureClass != run.ClassWorkspaceConflict || !strings.Contains(s.Reason, "left") || s.Attempts != 1 {
					t.Errorf("step = %s after %d attempts: %q, want workspace_conflict after one, with the path", s.FailureClass, s.Attempts, s.Reason)
				}
				if _, err := b.DB.Checkpoint(b.Ctx, b.TenantID, r.ID, id); !errors.Is(err, fault.NotFound) {
					t.Errorf("Checkpoint() = %v, want none", err)
				}
				return
			}
			ck, err := b.DB.Checkpoint(b.Ctx, b.TenantID, r.ID, id)
			if err != nil || ck.Kind != run.ManualCheckpoint || ck.Label != "before lunch" || ck.StepID != nil || len(ck.Parents) != 3 {
				t.Fatalf("Checkpoint() = %+v, %v, want a manual one of three parents", ck, err)
			}
			if after := b.Until(t, r.ID, run.Waiting); *after.Run.HeadCheckpointID != *d.Run.HeadCheckpointID {
				t.Errorf("head of the run = %v, want %v as before", after.Run.HeadCheckpointID, d.Run.HeadCheckpointID)
			}
			if got := files(t, b, ck.TreeDigest); cmp.Diff([]string{"base", "left", "right"}, got) != "" {
				t.Errorf("files = %v, want those of all three steps", got)
			}
		})
	}
}

// files lists the paths of a tree.
func files(t *testing.T, b *hosttest.Bundle, digest string) (paths []string) {
	t.Helper()
	root, err := tree.ParseDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	err = (&tree.Source{Blobs: b.Blobs, Locator: b.DB}).Tree(b.TenantID, root).Walk(b.Ctx, "", "", func(p string, _ tree.Entry) error {
		paths = append(paths, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// The transaction of a manual checkpoint can be repeated, and needs the step's fence.
func TestManualCheckpointAfterAKilledWorker(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	_, stop := b.Worker(t, nil) // which serves no queue of system steps
	r := b.Create(t, hosttest.Script("a", "echo a > a"))
	b.Until(t, r.ID, run.Succeeded)
	stop()
	id, made := manual(t, b, r.ID, "")
	d, err := b.DB.RunDetail(b.Ctx, b.TenantID, made.ID)
	if err != nil {
		t.Fatal(err)
	}
	dead := claimAs(t, b, d.Steps[0], "worker-dead")
	parents, err := b.DB.Parents(b.Ctx, b.TenantID, []uuid.UUID{*mustRun(t, b, r.ID).HeadCheckpointID})
	if err != nil {
		t.Fatal(err)
	}
	p := parents[0]
	ck := &postgres.Checkpoint{
		ID: id, Kind: run.ManualCheckpoint, Generation: p.Generation + 1, Digest: tree.Sum([]byte("m")), Manifest: []byte("{}"),
		StateDigest: p.StateDigest, State: p.State, TreeDigest: p.TreeDigest, Parents: []uuid.UUID{p.ID},
	}
	for range 2 {
		if err := b.DB.AddCheckpoint(b.Ctx, dead, r.ID, ck); err != nil {
			t.Fatalf("AddCheckpoint() = %v", err)
		}
	}
	if _, err := b.Admin.Exec(b.Ctx, "UPDATE nofx.step_lease SET lease_until = clock_timestamp() - interval '1 second'"); err != nil {
		t.Fatal(err)
	}
	b.Worker(t, serveMaintenance)
	if d := b.Until(t, made.ID, run.Succeeded); d.Steps[0].Attempts != 2 {
		t.Errorf("attempts = %d, want two", d.Steps[0].Attempts)
	}
	list, err := b.DB.Checkpoints(b.Ctx, b.TenantID, r.ID, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []run.CheckpointKind
	for _, c := range list {
		kinds = append(kinds, c.Kind)
	}
	if diff := cmp.Diff([]run.CheckpointKind{run.PreCheckpoint, run.PostCheckpoint, run.ManualCheckpoint}, kinds); diff != "" {
		t.Errorf("checkpoints (-want +got):\n%s", diff)
	}
	ck.ID = run.NewID()
	if err := b.DB.AddCheckpoint(b.Ctx, dead, r.ID, ck); !errors.Is(err, fault.Fenced) {
		t.Errorf("AddCheckpoint(of the dead worker) = %v, want fenced", err)
	}
}

func mustRun(t *testing.T, b *hosttest.Bundle, id uuid.UUID) run.Run {
	t.Helper()
	r, err := b.DB.Run(b.Ctx, b.TenantID, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// An archive holds what the workspace of a checkpoint does: folders, modes, links, empty
// and large files.
func TestArchive(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	r := b.Create(t, hosttest.Script("make", `mkdir -p a/empty; printf x > a/run.sh; chmod 755 a/run.sh; ln -s run.sh a/link; : > nothing
head -c 700000 /dev/zero | tr '\0' z > large`))
	d := b.Until(t, r.ID, run.Succeeded)
	ck := *d.Run.HeadCheckpointID
	in := run.ArchiveInputs{RunID: run.RunID.Format(r.ID), CheckpointID: run.CheckpointID.Format(ck)}
	made := start(t, b, run.ToolArchive, in.CheckpointID, r.ID, in)
	b.Until(t, made.ID, run.Succeeded)
	list, err := b.DB.Artifacts(b.Ctx, b.TenantID, made.ID, nil, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("Artifacts() = %v, %v, want the archive", list, err)
	}
	content, err := b.Blobs.Open(b.Ctx, list[0].Key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	zipped, err := gzip.NewReader(content)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Name, Link string
		Mode, Size int64
		Content    string
	}
	var got []entry
	for packed := tar.NewReader(zipped); ; {
		h, err := packed.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := io.ReadAll(packed)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{h.Name, h.Linkname, h.Mode, h.Size, string(bytes)})
	}
	want := []entry{
		{"a/", "", 0o755, 0, ""}, {"a/empty/", "", 0o755, 0, ""}, {"a/link", "run.sh", 0o777, 0, ""}, {"a/run.sh", "", 0o755, 1, "x"},
		{"large", "", 0o644, 700000, strings.Repeat("z", 700000)}, {"nothing", "", 0o644, 0, ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive (-want +got):\n%.2000s", diff)
	}
	if again := start(t, b, run.ToolArchive, in.CheckpointID, r.ID, in); again.ID != made.ID {
		t.Errorf("archive asked for again = run %s, want %s", again.ID, made.ID)
	}
}
