package host_test

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
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
)

// A worker is listed while it lives, with the steps it runs, says when it drains,
// and is gone when it has stopped.
func TestWorkerIsListed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w, stop := b.Worker(t, func(c *host.Config) { c.Host, c.DrainGrace = "here", time.Minute })
	listed := func(ok func(postgres.WorkerInfo) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(b.Ctx, 2*time.Minute)
		defer cancel()
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			list, err := b.DB.Workers(ctx)
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
		return i.ID == w.ID() && i.PID == os.Getpid() && i.Host == "here" && i.Version == "test" && i.SandboxTier == 0 && i.SlotsMax == 4 && !i.Draining
	})
	release := filepath.Join(t.TempDir(), "release")
	r := b.Create(t, hosttest.Script("one", "until [ -e "+release+" ]; do sleep 0.02; done"))
	b.Until(t, r.ID, run.Running)
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
	if list, err := b.DB.Workers(b.Ctx); err != nil || len(list) != 0 {
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
			b.Worker(t, func(c *host.Config) { c.Blobs = o.blobs })
			waits := func(want string) {
				t.Helper()
				eventually(t, fmt.Sprintf("the worker waits for %q", want), func() bool {
					list, err := b.DB.Workers(b.Ctx)
					return err == nil && len(list) == 1 && list[0].WaitsFor == want
				})
			}
			waits("")
			o.begin(0, everything)
			waits("storage")
			r := b.Create(t, hosttest.Script("build", "echo content > out.txt"))
			eventually(t, "the step says what its worker waits for", func() bool {
				d, err := b.DB.RunDetail(b.Ctx, b.TenantID, r.ID)
				return err == nil && d.Steps[0].WorkerWaitsFor == "storage"
			})
			waits("storage")
			o.end()
			b.Until(t, r.ID, run.Succeeded)
			waits("")
		})
	}
}

// Nothing is taken from a paused queue, neither as a job nor by going on with a run.
func TestPausedQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	w, _ := b.Worker(t, nil)
	events, unsubscribe := w.River().Subscribe(river.EventKindQueuePaused, river.EventKindQueueResumed)
	defer unsubscribe()
	release := filepath.Join(t.TempDir(), "release")
	r := b.Create(t, hosttest.Script("one", "until [ -e "+release+" ]; do sleep 0.02; done"), hosttest.Script("two", "true"))
	b.Until(t, r.ID, run.Running)
	change := func(paused bool) {
		t.Helper()
		var err error
		if admin := b.Open(t, postgres.Config{URL: b.AdminURL}); paused {
			err = admin.PauseQueueForAll(b.Ctx, "step", "moving")
		} else {
			err = admin.ResumeQueueForAll(b.Ctx, "step")
		}
		if err != nil {
			t.Fatalf("Pause- or ResumeQueueForAll(step) = %v, want nil", err)
		}
		select {
		case <-events:
		case <-time.After(2 * time.Minute):
			t.Fatalf("a change of the queue to paused = %v never reached the worker", paused)
		}
		w.Beat(b.Ctx)
	}
	change(true)
	other := b.Create(t, hosttest.Script("alone", "true"))
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Ctx, 2*time.Minute)
	defer cancel()
	for {
		d, err := b.DB.RunDetail(ctx, b.TenantID, r.ID)
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
	if d, err := b.DB.RunDetail(ctx, b.TenantID, other.ID); err != nil || d.Run.State != run.Queued {
		t.Errorf("a run that came meanwhile is %s, %v, want it queued", d.Run.State, err)
	}
	change(false)
	b.Until(t, r.ID, run.Succeeded)
	b.Until(t, other.ID, run.Succeeded)
}

// A tenant's pause keeps workers from its steps, and from nobody else's; those that
// came meanwhile go on after it, more than a request wakes too.
func TestTenantPausesQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := *b
	other.TenantID = b.Tenant(t)
	b.Worker(t, nil)
	release := filepath.Join(t.TempDir(), "release")
	first := b.Create(t, hosttest.Script("one", "until [ -e "+release+" ]; do sleep 0.02; done"), hosttest.Script("two", "true"))
	b.Until(t, first.ID, run.Running)
	if err := b.DB.PauseQueue(b.Ctx, b.TenantID, run.StepQueue, "moving"); err != nil {
		t.Fatalf("PauseQueue() = %v, want nil", err)
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var wide []run.PlanStep
	for i := range 250 {
		step := hosttest.Script(fmt.Sprint("s", i), "")
		step.Tool, step.Inputs, step.DependsOn = run.ToolSleep, []byte(`{"duration_s":0.001}`), []string{}
		wide = append(wide, step)
	}
	second := b.Create(t, wide...)
	other.Until(t, other.Create(t, hosttest.Script("one", "true"), hosttest.Script("two", "true")).ID, run.Succeeded)
	// Once all of them are parked, no wake-up is left but those that a resume gives.
	ctx, cancel := context.WithTimeout(b.Ctx, 2*time.Minute)
	defer cancel()
	for parked := 0; parked < 251; {
		if err := b.Admin.QueryRow(ctx, "SELECT count(*) FROM nofx.step WHERE due_at = 'infinity'").Scan(&parked); err != nil {
			t.Fatalf("%d steps are parked, %v, want 251", parked, err)
		}
	}
	if d, err := b.DB.RunDetail(ctx, b.TenantID, second.ID); err != nil || d.Run.State != run.Queued {
		t.Errorf("a run that came meanwhile is %s, %v, want it queued", d.Run.State, err)
	}
	if err := b.DB.ResumeQueue(b.Ctx, b.TenantID, run.StepQueue, ""); err != nil {
		t.Fatalf("ResumeQueue() = %v, want nil", err)
	}
	b.Until(t, first.ID, run.Succeeded)
	b.Until(t, second.ID, run.Succeeded)
}
