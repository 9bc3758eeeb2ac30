// Package tool does the work of steps: one handler per tool family.
//
// A [Box] is handed a [Call], one attempt at one step, and answers with a
// [Result]: outputs, a gate's verdict, or a wait that holds no worker. Work that
// did not succeed is a [Failure] with its class, which decides about retries; a
// context that ended for any other reason than its time limit is returned as it
// is, because then the caller knows better what became of the step. A Box neither
// reads nor writes the database: what it does outside it does through
// [Call.Effect], which remembers. Outputs, evidence and reasons are without secrets
// when they leave it (package sieve).
//
// Handlers: bash.go (bash), gate.go (command gates), write.go (workspace:write),
// unpack.go with untar.go and unzip.go (workspace:unpack), git.go with submodule.go and
// lfs.go (git:checkout), http.go (http), codegen.go (codegen), wait.go (sleep, signal,
// manual:*). What code of a step sees of the world is in env.go; how it is run, in the
// sandbox package; the hosts that it may reach, in network.go. The work of system steps is package system's, which [Box.Within] holds
// to the same limits.
package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sieve"
)

// Call is one attempt at a step, as its tool sees it.
type Call struct {
	RunID, StepID string // public form
	Name, Tool    string
	Spec          run.Spec
	Workspace     string            // absolute, restored; the work happens here
	Scratch       string            // absolute, empty, outside the workspace; the caller drops it afterwards
	Traceparent   string            // of the attempt's span, or ""
	Secrets       map[string]string // for the environment, by name; the Box's redactor knows them
	Signal        json.RawMessage   // the payload of the signal that came; nil before
	Log           io.Writer         // takes stdout and stderr as they come; nil discards
	Artifact      OpenArtifact
	// Effect does an effect of the step, unless an attempt before has recorded
	// it as done: then it is the result of that one. What Do returns is recorded
	// if its error is nil.
	Effect func(context.Context, Effect) (json.RawMessage, error)
}

// Effect is something that a step does outside and that must be done once.
type Effect struct {
	Name   string // what kind, such as http
	Digest string // sha256:<hex> of what is asked for
	// Do does it, under the key by which whoever is asked knows it again. It may
	// be called again for an effect that it did before.
	Do func(ctx context.Context, key string) (json.RawMessage, error)
}

// OpenArtifact opens an artifact of the tenant by its public id. Reading it to its
// end fails where its bytes are not what they were when it became ready.
type OpenArtifact func(ctx context.Context, id string) (content io.ReadCloser, size int64, err error)

// Result is what a tool produced or decided. Beside an error it holds what is
// known all the same, such as exit code and usage.
type Result struct {
	Outputs   map[string]any
	ExitCode  *int
	Usage     run.Usage
	Artifacts []run.Artifact // of system steps: stored, each in an object of its own
	Verdict   run.State      // of gates: Passed, Failed or Error
	Evidence  map[string]any // of gates: why
	Wait      *Wait          // the step is not over, it waits
}

// Wait is what a step waits for. Until counts from when the wait is recorded.
type Wait struct {
	Kind      WaitKind
	Until     time.Duration
	Message   string // approval
	Approvals int    // approval
	Key       string // signal
}

// WaitKind says what ends a wait.
type WaitKind string

// The kinds of wait.
const (
	ApprovalWait WaitKind = "approval" // a person, or expiry after Until
	TimerWait    WaitKind = "timer"    // Until has passed
	SignalWait   WaitKind = "signal"   // a signal under Key, or expiry after Until
)

// Failure is why a step's work did not succeed.
type Failure struct {
	Class  run.FailureClass // tool, timeout, invalid, policy or infrastructure
	Reason string           // one line for people, without output of the step's code
	Err    error            // the cause, for logs; may be nil

	RetryAfter time.Duration // not before that is it worth another attempt
}

func (f *Failure) Error() string { return f.Reason }

func (f *Failure) Unwrap() error { return f.Err }

// Failuref returns a Failure whose reason is formatted as fmt.Errorf does, and whose cause
// is what %w stands for.
func Failuref(class run.FailureClass, format string, args ...any) *Failure {
	err := fmt.Errorf(format, args...)
	return &Failure{Class: class, Reason: err.Error(), Err: errors.Unwrap(err)}
}

// Config is what the administrator decided.
type Config struct {
	StepEnv     map[string]string   // NOFX_STEP_ENV: offered to plans that allow it; its PATH and LANG hold for all steps
	GitAllow    []string            // NOFX_GIT_ALLOW, as ParseGitAllow returns it
	Sandbox     *sandbox.Sandbox    // runs code of plans; nil: such tools are refused
	MinTier     int                 // NOFX_SANDBOX_MIN_TIER: the least tier that code of plans is run in
	Redactor    *telemetry.Redactor // of results, failures and prompts; nil knows shapes only
	Network     egress.ProxyConfig  // of steps whose plan asks for hosts, which it gets for each
	HTTP        *http.Client        // of package egress; nil for one that leads nowhere inside
	Models      *llm.Client         // of codegen; nil for none
	ModelTokens int64               // NOFX_LLM_MAX_TOKENS: what an attempt may use at most
}

// Box holds the tools of a worker. It is safe for concurrent use.
type Box struct{ cfg Config }

// New makes a Box.
func New(cfg Config) *Box {
	if cfg.HTTP == nil {
		cfg.HTTP = egress.NewClient(egress.Config{})
	}
	return &Box{cfg}
}

// Masking returns the Box with another redactor of all that it lets out.
func (b *Box) Masking(r *telemetry.Redactor) *Box {
	cfg := b.cfg
	cfg.Redactor = r
	return &Box{cfg}
}

// CodeRefused returns why tools that run code of plans (bash, gates, git:checkout) are
// refused here, or "" where they run.
func (b *Box) CodeRefused() string {
	if tier := b.Tier(); tier < b.cfg.MinTier {
		return fmt.Sprintf("this worker's sandbox is of tier %d, and NOFX_SANDBOX_MIN_TIER is %d", tier, b.cfg.MinTier)
	}
	if b.cfg.Sandbox == nil {
		return "this worker has no sandbox"
	}
	return ""
}

// TierWanted returns the least tier that code of plans is run in where the sandbox is below
// it, else 0.
func (b *Box) TierWanted() int {
	if b.CodeRefused() == "" {
		return 0
	}
	return max(b.cfg.MinTier, 1)
}

// Tier returns the tier of the sandbox that code of plans is run in, 0 without one.
func (b *Box) Tier() int {
	if b.cfg.Sandbox == nil {
		return 0
	}
	return b.cfg.Sandbox.Tier()
}

// timeUp is the cause of a context whose step used up its time.
type timeUp time.Duration

func (t timeUp) Error() string {
	return fmt.Sprintf("the step's time limit of %v is up", time.Duration(t))
}

func (timeUp) Is(target error) bool { return target == context.DeadlineExceeded }

// Run does the work of c within the step's timeout, and returns when nothing of
// it runs any more. The error is a *Failure, the cause of ctx's end, what Artifact
// said, or that of an armed failpoint.
func (b *Box) Run(ctx context.Context, c Call) (Result, error) {
	row, known := run.ToolOf(c.Tool)
	if !known {
		return Result{}, Failuref(run.ClassInvalid, "this worker has no tool %q", c.Tool)
	}
	if why := b.CodeRefused(); row.Code && why != "" {
		return Result{}, Failuref(run.ClassPolicy, "%s: %s; a retry cannot help before a worker's sandbox does", c.Tool, why)
	}
	handle, ok := handlers[row.Name]
	if !ok {
		return Result{}, Failuref(run.ClassInvalid, "%s is done elsewhere: its handler has the database", c.Tool)
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	return b.Within(ctx, c.Spec, func(ctx context.Context) (Result, error) { return handle(b, ctx, c) })
}

// Within does the work of a step within its timeout, and returns its result without
// secrets. The error of work whose context has ended is the cause of that end, or a
// *Failure with class timeout when the time was up.
func (b *Box) Within(ctx context.Context, spec run.Spec, work func(context.Context) (Result, error)) (Result, error) {
	limit := time.Duration(spec.TimeoutS) * time.Second
	if limit == 0 {
		limit = run.DefaultStepTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, timeUp(limit))
	defer cancel()
	if err := failpoint.Hit(failpoint.MidExec); err != nil {
		return Result{}, err
	}
	start := time.Now()
	r, err := work(ctx)
	r.Usage.RunMillis = time.Since(start).Milliseconds()
	r.Outputs, r.Evidence = b.cfg.Redactor.Members(r.Outputs), b.cfg.Redactor.Members(r.Evidence)
	f, failed := errors.AsType[*Failure](err)
	if err != nil && !failed && ctx.Err() != nil {
		err = ended(ctx)
		f, failed = errors.AsType[*Failure](err)
	}
	if failed {
		masked := *f
		masked.Reason = b.masked(f.Reason)
		return r, &masked
	}
	if err != nil {
		return r, err
	}
	return r, tooLarge(r.Outputs)
}

// masked returns s clean and without secrets. Whoever shortens a text does so after it.
func (b *Box) masked(s string) string { return b.cfg.Redactor.String(sieve.Clean(s)) }

func tracer() trace.Tracer { return otel.Tracer("nofx.dev/worker/internal/tool") }

// handlers has the handler of each row of the tool table.
var handlers = map[string]func(*Box, context.Context, Call) (Result, error){
	run.ToolBash:           handler((*Box).bash),
	run.ToolWorkspaceWrite: handler((*Box).write),
	run.ToolUnpack:         handler((*Box).unpack),
	run.ToolGitCheckout:    handler((*Box).checkout),
	run.ToolHTTP:           handler((*Box).http),
	run.ToolCodegen:        handler((*Box).codegen),
	run.ToolSleep:          handler((*Box).sleep),
	run.ToolSignal:         handler((*Box).signal),
	run.ManualFamily:       handler((*Box).manual),
	run.GateFamily:         handler((*Box).gate),
}

// handler decodes the inputs of a call for who handles them.
func handler[T any](handle func(*Box, context.Context, Call, T) (Result, error)) func(*Box, context.Context, Call) (Result, error) {
	return func(b *Box, ctx context.Context, c Call) (Result, error) {
		in, err := run.Inputs[T](c.Spec.Inputs)
		if err != nil {
			return Result{}, Failuref(run.ClassInvalid, "%w", err)
		}
		return handle(b, ctx, c, in)
	}
}

func tooLarge(outputs map[string]any) error {
	raw, err := json.Marshal(outputs)
	if err != nil {
		return Failuref(run.ClassInvalid, "outputs: %v", err)
	}
	if len(raw) > run.MaxOutputBytes {
		return Failuref(run.ClassInvalid, "the outputs are %d bytes; at most %d", len(raw), run.MaxOutputBytes)
	}
	return nil
}

// run executes a program in the sandbox. A program that ended by itself is no
// error, whatever its exit code.
func (b *Box) run(ctx context.Context, command sandbox.Command) (sandbox.Exit, error) {
	ctx, span := tracer().Start(ctx, "sandbox.exec")
	defer span.End()
	exit, err := b.cfg.Sandbox.Exec(ctx, command)
	span.SetAttributes(
		telemetry.TierKey.Int(b.Tier()), telemetry.ExitCodeKey.Int(exit.Code), telemetry.OutcomeKey.String(outcome(exit, err)),
		telemetry.CPUKey.Int64(exit.CPU.Milliseconds()), telemetry.PeakBytesKey.Int64(exit.MaxRSS))
	switch {
	case err == nil && exit.Over != "":
		return exit, Failuref(run.ClassTool, "%s took more %s than a step may and was ended; the limits are settings of the worker (NOFX_SANDBOX_…)", command.Argv[0], exit.Over)
	case err == nil:
		return exit, nil
	case exit.Killed && ctx.Err() != nil:
		return exit, ended(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return exit, Failuref(run.ClassInfrastructure, "%s is not installed on this worker: %w", command.Argv[0], err)
	}
	return exit, Failuref(run.ClassInfrastructure, "%s could not be run: %w", command.Argv[0], err)
}

// outcome returns how a program's end is told on its span.
func outcome(exit sandbox.Exit, err error) string {
	switch {
	case exit.Killed || exit.Over != "":
		return "killed"
	case err != nil || exit.Code != 0:
		return "error"
	}
	return "ok"
}

// ended returns what the end of ctx means: its time limit is a failure of the step.
func ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return Failuref(run.ClassTimeout, "%w", cause)
	}
	return cause
}

// broken returns an error of this machine's files: a full disk is the worker's
// trouble, everything else that of the paths it was given.
func broken(what string, err error) *Failure {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, errno) {
			return Failuref(run.ClassInfrastructure, "%s: %w", what, err)
		}
	}
	return Failuref(run.ClassInvalid, "%s: %w", what, err)
}

// usage returns what a program consumed.
func usage(e sandbox.Exit) run.Usage {
	return run.Usage{CPUMillis: e.CPU.Milliseconds(), MaxRSSBytes: e.MaxRSS, ReadBytes: e.ReadBytes, WrittenBytes: e.WrittenBytes}
}

// exitCode returns the exit code of e. For a signal it is the number plus 128, as in shells.
func exitCode(e sandbox.Exit) *int {
	code := e.Code
	if e.Signal != 0 {
		code = 128 + int(e.Signal)
	}
	return &code
}
