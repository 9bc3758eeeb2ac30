package step_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/host/hosttest"
)

// damage changes a byte of an object, or deletes it.
func (b *bundle) damage(t *testing.T, key string, flip bool) {
	t.Helper()
	if !flip {
		if err := b.Blobs.Delete(b.Ctx, key); err != nil {
			t.Fatalf("Delete(%s) = %v", key, err)
		}
		return
	}
	r, err := b.Blobs.Open(b.Ctx, key, 0, -1)
	if err != nil {
		t.Fatalf("Open(%s) = %v", key, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/3] ^= 1
	if err := b.Blobs.Put(b.Ctx, key, bytes.NewReader(raw), int64(len(raw)), blob.PutOptions{}); err != nil {
		t.Fatalf("Put(%s) = %v", key, err)
	}
}

// relay makes a run whose last step starts, on a worker of its own, from what the
// first one stored; between them is what meanwhile does.
func (b *bundle) relay(t *testing.T, meanwhile func(), want run.State) postgres.RunDetail {
	t.Helper()
	_, stop := b.Worker(t, nil)
	r := b.Create(t,
		hosttest.Script("write", "mkdir d && echo small > d/small.txt && head -c 300000 /dev/zero > large"),
		run.PlanStep{Name: "go", Tool: run.ToolSignal, Inputs: json.RawMessage(`{"key":"go"}`), DependsOn: []string{"write"}},
		hosttest.Script("read", "cat d/small.txt && wc -c large", "go"))
	b.Until(t, r.ID, run.Waiting)
	stop()
	meanwhile()
	_, stop = b.Worker(t, nil)
	defer stop()
	if _, _, err := b.DB.SendSignal(b.Ctx, b.TenantID, "go", json.RawMessage(`{}`)); err != nil {
		t.Fatalf("SendSignal() = %v", err)
	}
	return b.Until(t, r.ID, want)
}

// Bytes that storage has lost fail the step that needs them, with their code and an
// event, and whoever stores the same content later stores it anew.
func TestF21_F22_LostBytesAreStoredAnew(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		kind string
		flip bool
		code string
	}{
		"deleted pack":   {"pack", false, "object-gone"},
		"flipped pack":   {"pack", true, "object-corrupt"},
		"deleted object": {"blob", false, "object-gone"},
		"flipped object": {"blob", true, "object-corrupt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			d := b.relay(t, func() {
				for _, key := range b.keys(t, tt.kind) {
					b.damage(t, key, tt.flip)
				}
			}, run.Failed)
			read := d.Steps[2]
			if read.FailureClass != run.ClassInfrastructure || !strings.HasPrefix(read.Reason, tt.code+": ") || read.Attempt != 1 {
				t.Errorf("step = %s (%s) after %d attempts, want infrastructure for %s after 1", read.FailureClass, read.Reason, read.Attempt, tt.code)
			}
			corrupt := b.corrupt(t, d.Run.ID)
			if len(corrupt) != 1 || !strings.Contains(corrupt[0], tt.code) || !strings.Contains(corrupt[0], `"checkpoint_id": "ckpt_`) || !strings.Contains(corrupt[0], `"ancestor_id": "ckpt_`) {
				t.Errorf("events checkpoint.corrupt = %s, want one with the code, the checkpoint and its ancestor", corrupt)
			}
			for range 2 {
				d := b.relay(t, func() {}, run.Succeeded)
				if got := b.File(t, d, "d/small.txt"); got != "small\n" {
					t.Errorf("d/small.txt = %q, want %q", got, "small\n")
				}
			}
		})
	}
}

// keys returns the keys of the stored objects of a kind.
func (b *bundle) keys(t *testing.T, kind string) []string {
	t.Helper()
	rows, err := b.Admin.Query(b.Ctx, "SELECT key FROM nofx.object WHERE kind = $1", kind)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(keys) == 0 {
		t.Fatalf("objects of kind %s = %v, %v, want some", kind, keys, err)
	}
	return keys
}

// corrupt returns the data of a run's events checkpoint.corrupt.
func (b *bundle) corrupt(t *testing.T, id uuid.UUID) (data []string) {
	t.Helper()
	list, err := b.DB.Events(b.Ctx, b.TenantID, id, 0, []string{"checkpoint.corrupt"}, 500)
	if err != nil {
		t.Fatalf("Events() = %v", err)
	}
	for _, e := range list {
		data = append(data, string(e.Data))
	}
	return data
}

// Where several checkpoints are joined, each that lacks bytes is told of.
func TestF22_JoinOfLostBytes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Worker(t, nil)
	r := b.Create(t,
		hosttest.Script("left", "echo l > left.txt"),
		run.PlanStep{Name: "go", Tool: run.ToolSignal, Inputs: json.RawMessage(`{"key":"go"}`), DependsOn: []string{"left"}},
		hosttest.Script("right", "echo r > right.txt"),
		hosttest.Script("both", "cat left.txt right.txt", "go", "right"))
	b.Until(t, r.ID, run.Waiting)
	for _, key := range b.keys(t, "pack") {
		b.damage(t, key, false)
	}
	if _, _, err := b.DB.SendSignal(b.Ctx, b.TenantID, "go", json.RawMessage(`{}`)); err != nil {
		t.Fatalf("SendSignal() = %v", err)
	}
	d := b.Until(t, r.ID, run.Failed)
	if s := d.Steps[3]; !strings.HasPrefix(s.Reason, "object-gone: ") || len(b.corrupt(t, r.ID)) != 2 {
		t.Errorf("step = %s with events %s, want object-gone and one for each parent", s.Reason, b.corrupt(t, r.ID))
	}
}
