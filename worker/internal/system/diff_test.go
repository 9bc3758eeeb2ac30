package system_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/diff"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// compared is a run whose steps have left files, and the checkpoints after each.
type compared struct {
	*hosttest.Bundle
	run  run.Run
	post map[string]run.Checkpoint // by step
}

func setupDiff(t *testing.T, steps ...run.PlanStep) *compared {
	t.Helper()
	b := hosttest.Setup(t)
	b.Worker(t, func(c *host.Config) { c.Queues = []string{run.StepQueue, run.MaintenanceQueue} })
	c := &compared{b, b.Create(t, steps...), map[string]run.Checkpoint{}}
	d := b.Until(t, c.run.ID, run.Succeeded, run.Failed)
	list, err := b.DB.Checkpoints(b.Ctx, b.TenantID, c.run.ID, 0, 200)
	if err != nil {
		t.Fatal(err)
	}
	for _, ck := range list {
		for _, s := range d.Steps {
			if ck.StepID != nil && s.ID == *ck.StepID && ck.Kind == run.PostCheckpoint {
				c.post[s.Name] = ck
			}
		}
	}
	return c
}

// compute has a worker compute a diff, and returns the run that did.
func (c *compared) compute(t *testing.T, key string, in run.DiffInputs) postgres.RunDetail {
	t.Helper()
	p, err := run.SystemPlan(run.ToolDiff, "diff", in)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.DB.StartWork(c.Ctx, c.TenantID, postgres.Work{Key: key, Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartWork() = %v", err)
	}
	return c.Until(t, r.ID, run.Succeeded, run.Failed)
}

// stored returns a diff, and its document and patch as they are stored.
func (c *compared) stored(t *testing.T, from, to uuid.UUID, in run.DiffInputs) (d postgres.Diff, doc diff.Document, patch string) {
	t.Helper()
	d, err := c.DB.Diff(c.Ctx, c.TenantID, from, to, in.Options())
	if err != nil {
		t.Fatalf("Diff() = %v", err)
	}
	for form, digest := range map[string]tree.Digest{"json": d.JSON, "patch": d.Patch} {
		r, err := c.Blobs.Open(c.Ctx, blob.DiffKey(c.TenantID, digest, d.Copy, form), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if form == "patch" {
			b, err := io.ReadAll(r)
			if err != nil || int64(len(b)) != d.PatchBytes || tree.Sum(b) != digest {
				t.Errorf("patch = %d bytes, %v, want %d of its digest", len(b), err, d.PatchBytes)
			}
			patch = string(b)
			continue
		}
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil || int64(len(b)) != d.JSONBytes {
			t.Errorf("document = %d bytes, %v, want %d", len(b), err, d.JSONBytes)
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
	}
	return d, doc, patch
}

func idOf(ck run.Checkpoint) string { return run.CheckpointID.Format(ck.ID) }

func TestDiff(t *testing.T) {
	t.Parallel()
	c := setupDiff(t,
		hosttest.Script("one", "mkdir d && echo a >d/x && echo same >d/y && seq 3 >n"),
		hosttest.Script("two", "echo b >d/x && seq 4 >n && mv d/y z && echo k=v >>$NOFX_OUTPUT", "one"))
	in := run.DiffInputs{From: idOf(c.post["one"]), To: idOf(c.post["two"])}
	if r := c.compute(t, "1", in); r.Run.State != run.Succeeded || r.Run.Kind != run.SystemRun {
		t.Fatalf("sys:diff = %s %s %s, want it succeeded", r.Run.Kind, r.Run.State, r.Run.Reason)
	}
	d, doc, patch := c.stored(t, c.post["one"].ID, c.post["two"].ID, in)
	if d.Files != 3 || d.LinesAdded != 2 || d.LinesDeleted != 1 || d.Truncated || d.Lost {
		t.Errorf("Diff() = %+v, want 3 files, 2 lines added and 1 deleted", d)
	}
	if want := "3 files changed; two succeeded"; doc.Summary.Text != want || doc.From.Digest != c.post["one"].Digest || doc.To.Checkpoint != in.To {
		t.Errorf("diff of %+v to %+v: %q, want %q", doc.From, doc.To, doc.Summary.Text, want)
	}
	if !strings.Contains(patch, "--- a/d/x\n+++ b/d/x\n@@ -1 +1 @@\n-a\n+b\n") || !strings.Contains(patch, "rename from d/y\nrename to z\n") {
		t.Errorf("patch =\n%s", patch)
	}

	// The time before the first checkpoint, one folder only, and both ends the same.
	all := run.DiffInputs{To: in.To, Path: "d"}
	c.compute(t, "2", all)
	if _, doc, _ = c.stored(t, uuid.Nil, c.post["two"].ID, all); len(doc.Files) != 1 || doc.Files[0].Path != "d/x" || doc.Files[0].Status != diff.Added || doc.From.Checkpoint != "" {
		t.Errorf("diff with nothing, of d: %+v, want d/x added", doc.Files)
	}
	same := run.DiffInputs{From: in.To, To: in.To}
	c.compute(t, "3", same)
	if _, doc, _ = c.stored(t, c.post["two"].ID, c.post["two"].ID, same); doc.Summary.Text != "nothing changed" {
		t.Errorf("diff with itself: %q, want nothing changed", doc.Summary.Text)
	}
	// Asked again, as by an attempt after a crash, it stays as it is.
	c.compute(t, "4", in)
	if again, _, _ := c.stored(t, c.post["one"].ID, c.post["two"].ID, in); again != d {
		t.Errorf("Diff() = %+v after a second run, want %+v", again, d)
	}
	// An object that storage has lost is computed anew.
	if err := c.Blobs.Delete(c.Ctx, blob.DiffKey(c.TenantID, d.Patch, d.Copy, "patch")); err != nil {
		t.Fatal(err)
	}
	if err := c.DB.LoseDiff(c.Ctx, c.TenantID, d, blob.DiffKey(c.TenantID, d.Patch, d.Copy, "patch")); err != nil {
		t.Fatal(err)
	}
	if lost, err := c.DB.Diff(c.Ctx, c.TenantID, d.From, d.To, d.Options); err != nil || !lost.Lost || lost.Losses != 1 {
		t.Errorf("Diff() = %+v, %v, want it lost once", lost, err)
	}
	c.compute(t, "5", in)
	if again, _, second := c.stored(t, c.post["one"].ID, c.post["two"].ID, in); again.Lost || second != patch {
		t.Errorf("Diff() = %+v after it was lost, want it stored", again)
	}
}

func TestDiffRefuses(t *testing.T) {
	t.Parallel()
	c := setupDiff(t, hosttest.Script("one", "echo a >x"), hosttest.Script("two", "echo b >x", "one"))
	good := run.DiffInputs{From: idOf(c.post["one"]), To: idOf(c.post["two"])}
	for key, in := range map[string]run.DiffInputs{
		"unknown": {To: run.CheckpointID.Format(run.NewID())}, "no id": {From: "x", To: good.To}, "beyond": {From: good.From, To: good.To, First: 7},
	} {
		if r := c.compute(t, key, in); r.Run.State != run.Failed || r.Run.FailureClass != run.ClassInvalid {
			t.Errorf("sys:diff(%s) = %s %s %s, want it failed as invalid", key, r.Run.State, r.Run.FailureClass, r.Run.Reason)
		}
	}
	// Purged bytes are left out, lost ones end it.
	a, b := tree.Sum([]byte("a\n")), tree.Sum([]byte("b\n"))
	if _, err := c.Admin.Exec(c.Ctx, "UPDATE nofx.blob SET state = 'tombstone', purged_at = now(), purged_by = 'x', reason = 'x' WHERE sha256 = $1", a[:]); err != nil {
		t.Fatal(err)
	}
	c.compute(t, "purged", good)
	if _, doc, _ := c.stored(t, c.post["one"].ID, c.post["two"].ID, good); len(doc.Files) != 1 || doc.Files[0].Kind != diff.Redacted {
		t.Errorf("diff of purged bytes: %+v, want it redacted", doc.Files)
	}
	if _, err := c.Admin.Exec(c.Ctx, "DELETE FROM nofx.blob WHERE sha256 = $1", b[:]); err != nil {
		t.Fatal(err)
	}
	lost := run.DiffInputs{To: good.To}
	if r := c.compute(t, "lost", lost); r.Run.State != run.Failed || !strings.Contains(r.Run.Reason, "object-gone: ") {
		t.Errorf("sys:diff(lost) = %s %s, want object-gone", r.Run.State, r.Run.Reason)
	}
	if _, err := c.DB.Diff(c.Ctx, c.TenantID, uuid.Nil, c.post["two"].ID, lost.Options()); !errors.Is(err, fault.NotFound) {
		t.Errorf("Diff(lost) = %v, want NotFound", err)
	}
	// Another tenant has no such checkpoints.
	if _, _, err := c.DB.CheckpointContent(c.Ctx, uuid.New(), c.post["one"].ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("CheckpointContent(foreign) = %v, want NotFound", err)
	}
}
