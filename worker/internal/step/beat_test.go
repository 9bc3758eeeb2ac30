package step

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/riverqueue/river"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A worker is listed while it lives, with the steps it runs, says when it drains,
// and is gone when it has stopped.
func TestWorkerIsListed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w, stop := b.worker(t, func(c *Config) { c.Host, c.Tier, c.DrainGrace = "here", 2, time.Minute })
	listed := func(ok func(postgres.WorkerInfo) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
		defer cancel()
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			list, err := b.db.Workers(ctx)
			if err != nil {
				t.Fatalf("Workers() = %v, the last was %+v", err, list)
			}
			if len(list) == 1 && ok(list[0]) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("Workers() = %+v, want something else", list)
			}
		}
	}
	listed(func(i postgres.WorkerInfo) bool {
		return i.ID == w.id && i.PID == os.Getpid() && i.Host == "here" && i.Version == "test" && i.SandboxTier == 2 && i.SlotsMax == 4 && !i.Draining
	})
	release := filepath.Join(t.TempDir(), "release")
	r := b.create(t, script("one", "until [ -e "+release+" ]; do sleep 0.02; done"))
	b.until(t, r.ID, run.Running)
	listed(func(i postgres.WorkerInfo) bool { return i.SlotsUsed == 1 })
	stopping := make(chan struct{})
	go func() {
		defer close(stopping)
		stop()
	}()
	listed(func(i postgres.WorkerInfo) bool { return i.Draining })
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-stopping
	if list, err := b.db.Workers(b.ctx); err != nil || len(list) != 0 {
		t.Errorf("Workers() after it stopped = %+v, %v, want none", list, err)
	}
}

// A worker says that it waits for storage, whether storage refuses or does not answer at
// all, with a step at hand or without one, and that it does no more when storage is back.
func TestWorkerWaitsForStorage(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]bool{"refuses": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, o := setup(t), newOutage(t)
			o.hangs = hang
			b.worker(t, func(c *Config) { c.Blobs = o.blobs })
			waits := func(want string) {
				t.Helper()
				eventually(t, fmt.Sprintf("the worker waits for %q", want), func() bool {
					list, err := b.db.Workers(b.ctx)
					return err == nil && len(list) == 1 && list[0].WaitsFor == want
				})
			}
			waits("")
			o.begin(0, everything)
			waits("storage")
			r := b.create(t, script("build", "echo content > out.txt"))
			eventually(t, "the step says what its worker waits for", func() bool {
				d, err := b.db.RunDetail(b.ctx, b.tenant, r.ID)
				return err == nil && d.Steps[0].WorkerWaitsFor == "storage"
			})
			waits("storage")
			o.end()
			b.until(t, r.ID, run.Succeeded)
			waits("")
		})
	}
}

// Nothing is taken from a paused queue, neither as a job nor by going on with a run.
func TestPausedQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w, _ := b.worker(t, nil)
	events, unsubscribe := w.river.Subscribe(river.EventKindQueuePaused, river.EventKindQueueResumed)
	defer unsubscribe()
	release := filepath.Join(t.TempDir(), "release")
	r := b.create(t, script("one", "until [ -e "+release+" ]; do sleep 0.02; done"), script("two", "true"))
	b.until(t, r.ID, run.Running)
	change := func(paused bool) {
		t.Helper()
		var err error
		if admin := b.Open(t, postgres.Config{URL: b.AdminURL}); paused {
			err = admin.PauseQueueForAll(b.ctx, "step", "moving")
		} else {
			err = admin.ResumeQueueForAll(b.ctx, "step")
		}
		if err != nil {
			t.Fatalf("Pause- or ResumeQueueForAll(step) = %v, want nil", err)
		}
		select {
		case <-events:
		case <-time.After(2 * time.Minute):
			t.Fatalf("a change of the queue to paused = %v never reached the worker", paused)
		}
		w.beacon.beat(b.ctx)
	}
	change(true)
	other := b.create(t, script("alone", "true"))
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	for {
		d, err := b.db.RunDetail(ctx, b.tenant, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if d.Steps[0].State == run.Succeeded {
			if d.Steps[1].State != run.Ready || d.Steps[1].Attempt != 0 {
				t.Errorf("two is %s after %d attempts, want it ready and not begun", d.Steps[1].State, d.Steps[1].Attempt)
			}
			break
		}
	}
	if d, err := b.db.RunDetail(ctx, b.tenant, other.ID); err != nil || d.Run.State != run.Queued {
		t.Errorf("a run that came meanwhile is %s, %v, want it queued", d.Run.State, err)
	}
	change(false)
	b.until(t, r.ID, run.Succeeded)
	b.until(t, other.ID, run.Succeeded)
}

// A tenant's pause keeps workers from its steps, and from nobody else's; those that
// came meanwhile go on after it, more than a request wakes too.
func TestTenantPausesQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := *b
	other.tenant = b.Tenant(t)
	b.worker(t, nil)
	release := filepath.Join(t.TempDir(), "release")
	first := b.create(t, script("one", "until [ -e "+release+" ]; do sleep 0.02; done"), script("two", "true"))
	b.until(t, first.ID, run.Running)
	if err := b.db.PauseQueue(b.ctx, b.tenant, run.StepQueue, "moving"); err != nil {
		t.Fatalf("PauseQueue() = %v, want nil", err)
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var wide []run.PlanStep
	for i := range 250 {
		step := script(fmt.Sprint("s", i), "")
		step.Tool, step.Inputs, step.DependsOn = run.ToolSleep, []byte(`{"duration_s":0.001}`), []string{}
		wide = append(wide, step)
	}
	second := b.create(t, wide...)
	other.until(t, other.create(t, script("one", "true"), script("two", "true")).ID, run.Succeeded)
	// Once all of them are parked, no wake-up is left but those that a resume gives.
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	for parked := 0; parked < 251; {
		if err := b.Admin.QueryRow(ctx, "SELECT count(*) FROM nofx.step WHERE due_at = 'infinity'").Scan(&parked); err != nil {
			t.Fatalf("%d steps are parked, %v, want 251", parked, err)
		}
	}
	if d, err := b.db.RunDetail(ctx, b.tenant, second.ID); err != nil || d.Run.State != run.Queued {
		t.Errorf("a run that came meanwhile is %s, %v, want it queued", d.Run.State, err)
	}
	if err := b.db.ResumeQueue(b.ctx, b.tenant, run.StepQueue); err != nil {
		t.Fatalf("ResumeQueue() = %v, want nil", err)
	}
	b.until(t, first.ID, run.Succeeded)
	b.until(t, second.ID, run.Succeeded)
}
