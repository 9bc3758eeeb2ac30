package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
)

// newCall returns a call of tool in folders of its own.
func newCall(t *testing.T, tool string, inputs any) (Call, *buffer) {
	t.Helper()
	raw, err := json.Marshal(inputs)
	if err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	return Call{
		RunID: "run_1", StepID: "step_2", Name: "build", Tool: tool, Traceparent: "00-aa-bb-01",
		Spec:      run.Spec{Inputs: raw, TimeoutS: 60},
		Workspace: t.TempDir(), Scratch: t.TempDir(), Log: log,
	}, log
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // signalled by each write, if set
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.more != nil {
		select {
		case b.more <- struct{}{}:
		default:
		}
	}
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func developer(cfg Config) *Box {
	cfg.Sandbox = sandboxtest.Bare()
	return New(cfg)
}

// wantFailure checks class and reason of an error.
func wantFailure(t *testing.T, what string, err error, class run.FailureClass, reason string) {
	t.Helper()
	f, ok := errors.AsType[*Failure](err)
	if !ok || f.Class != class || !strings.Contains(f.Reason, reason) {
		t.Errorf("Run(%s) = %v, want a failure of class %s that says %q", what, err, class, reason)
	}
}

func writeTo(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestS31_CodeIsRefusedBelowTheMinimum checks that no tool runs code without a sandbox, or in
// one below the least tier.
func TestS31_CodeIsRefusedBelowTheMinimum(t *testing.T) {
	t.Parallel()
	for tool, inputs := range map[string]any{
		"bash":         run.BashInputs{Script: "touch ran"},
		"gate:unit":    run.GateInputs{Command: "touch ran"},
		"git:checkout": run.CheckoutInputs{URL: "file:///repo"},
	} {
		for _, box := range []*Box{New(Config{}), New(Config{MinTier: 1}), New(Config{Sandbox: sandboxtest.Bare(), MinTier: 1})} {
			c, _ := newCall(t, tool, inputs)
			_, err := box.Run(t.Context(), c)
			why := box.CodeRefused()
			if why == "" {
				t.Errorf("CodeRefused() at tier %d with minimum %d = nothing, want why", box.Tier(), box.cfg.MinTier)
			}
			wantFailure(t, tool, err, run.ClassPolicy, why)
			if _, err := os.Stat(filepath.Join(c.Workspace, "ran")); err == nil {
				t.Errorf("%s ran all the same", tool)
			}
		}
	}
}

// A worker says itself whether it runs code, and what lets it.
func TestCodeRefused(t *testing.T) {
	t.Parallel()
	if got, tier := New(Config{MinTier: 2}).CodeRefused(), New(Config{MinTier: 2}).TierWanted(); !strings.Contains(got, "NOFX_SANDBOX_MIN_TIER") || tier != 2 {
		t.Errorf("CodeRefused(), TierWanted() = %q, %d, want why, the setting, and 2", got, tier)
	}
	if got, tier := developer(Config{}).CodeRefused(), developer(Config{}).TierWanted(); got != "" || tier != 0 {
		t.Errorf("CodeRefused(), TierWanted() with a sandbox = %q, %d, want nothing", got, tier)
	}
}

func TestWrongCalls(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ tool, inputs, reason string }{
		{"bash", `{"script":"true","shell":"zsh"}`, "unknown input"},
		{"bash", `[]`, "inputs"},
		{"gate:llm_review", `{}`, "its handler has the database"},
		{"codegen:x", `{}`, `no tool "codegen:x"`},
	} {
		c, _ := newCall(t, tt.tool, json.RawMessage(tt.inputs))
		_, err := developer(Config{}).Run(t.Context(), c)
		wantFailure(t, tt.tool+" "+tt.inputs, err, run.ClassInvalid, tt.reason)
	}
}

func TestTimeLimitIsAFailureAndCancelIsNot(t *testing.T) {
	t.Parallel()
	endless := run.BashInputs{Script: "trap '' TERM; echo up; while :; do sleep 1000; done"}
	t.Run("time limit", func(t *testing.T) {
		t.Parallel()
		c, log := newCall(t, "bash", endless)
		c.Spec.TimeoutS = 1
		start := time.Now()
		r, err := developer(Config{}).Run(t.Context(), c)
		wantFailure(t, "endless", err, run.ClassTimeout, "time limit of 1s")
		if took := time.Since(start); took < time.Second || r.Usage.RunMillis < 1000 {
			t.Errorf("Run took %v, usage %+v, want 1 s at least", took, r.Usage)
		}
		if log.String() != "up\n" {
			t.Errorf("log = %q, want what was printed before", log)
		}
	})
	t.Run("fenced", func(t *testing.T) {
		t.Parallel()
		c, log := newCall(t, "bash", endless)
		log.more = make(chan struct{}, 1)
		lost := fault.New(fault.Fenced, "", "the lease is lost")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-log.more; cancel(lost) }()
		if _, err := developer(Config{}).Run(ctx, c); err != error(lost) {
			t.Errorf("Run(fenced) = %v, want the context's cause", err)
		}
	})
}

// Not parallel: failpoints are armed for the whole process.
func TestFailpointStandsBeforeTheWork(t *testing.T) {
	arm := func(spec string) {
		env := map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": spec}
		if err := failpoint.Init(func(name string) string { return env[name] }, slog.New(slog.DiscardHandler), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { arm("") })
	arm("mid_exec=error")
	c, log := newCall(t, "bash", run.BashInputs{Script: "echo ran"})
	if _, err := developer(Config{}).Run(t.Context(), c); !errors.Is(err, failpoint.ErrInjected) || log.String() != "" {
		t.Errorf("Run = %v with log %q, want %v and nothing run", err, log, failpoint.ErrInjected)
	}
}

func TestWaits(t *testing.T) {
	t.Parallel()
	hour, one := 3600, 1
	for _, tt := range []struct {
		tool   string
		inputs any
		want   *Wait
	}{
		{"sleep", run.SleepInputs{}, nil},
		{"sleep", run.SleepInputs{DurationS: 0.25}, &Wait{Kind: TimerWait, Until: 250 * time.Millisecond}},
		{"manual:deploy", run.ManualInputs{Message: "Deploy?"}, &Wait{Kind: ApprovalWait, Until: 24 * time.Hour, Message: "Deploy?", Approvals: 1}},
		{"manual:ok", run.ManualInputs{Message: "m", ExpiresS: &hour, Approvals: &one}, &Wait{Kind: ApprovalWait, Until: time.Hour, Message: "m", Approvals: 1}},
	} {
		c, _ := newCall(t, tt.tool, tt.inputs)
		r, err := New(Config{}).Run(t.Context(), c)
		if diff := cmp.Diff(tt.want, r.Wait); err != nil || diff != "" {
			t.Errorf("Run(%s %+v) = %v (-want +got):\n%s", tt.tool, tt.inputs, err, diff)
		}
	}
}

// Each row of the tool table has a handler, and each handler a row.
func TestHandlers(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{}
	for _, row := range run.Tools() {
		rows[row.Name] = true
		stored := row.System || row.Name == run.ToolReview // packages system and reviewstep
		if has := handlers[row.Name] != nil; has == stored {
			t.Errorf("tool %s has a handler here: %v, want %v", row.Name, has, !stored)
		}
	}
	for name := range handlers {
		if !rows[name] {
			t.Errorf("handler %s has no row in the tool table", name)
		}
	}
}
