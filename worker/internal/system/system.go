// Package system does the work of system steps, the single steps of the runs that this
// system makes for itself (EXECUTION.md, "System runs").
//
// A system step reads and writes what is stored: unlike the tools of plans (package tool),
// its handler has the database and the storage. It has no workspace but what it restores,
// and makes no checkpoints of its own run. What it writes
// into the database is written while the transaction holds the step's fence, and can be
// written again, so that a worker that was killed before the step's end costs another
// attempt and nothing else.
//
// A new tool is a row in shared/run, a file here with its handler, and its entry in
// handlers. Handlers: verify.go (sys:verify), checkpoint.go (sys:checkpoint), archive.go
// (sys:archive), bisect.go with search.go (sys:bisect), diff.go (sys:diff), merge.go
// (sys:merge), gc.go (sys:gc, sys:verify-storage, sys:purge).
package system

import (
	"context"
	"io"
	"time"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/tool"
	"nofx.dev/worker/internal/workspace"
)

// Config is what handlers work with.
type Config struct {
	DB          *postgres.DB
	Blobs       *blob.Store
	Checkpoints *checkpoint.Store
	Workspaces  *workspace.Pool
	Tools       *tool.Box // runs the commands of people
	Redactor    *telemetry.Redactor
	Metrics     *telemetry.Metrics
	Grace       time.Duration // of collections; postgres.Grace if it is 0
}

// Tools has the handlers of a worker. It is safe for concurrent use.
type Tools struct{ cfg Config }

// New makes Tools.
func New(cfg Config) *Tools { return &Tools{cfg} }

// Masking returns the Tools with another redactor of all that they let out.
func (t *Tools) Masking(r *telemetry.Redactor) *Tools {
	cfg := t.cfg
	cfg.Redactor, cfg.Tools = r, t.cfg.Tools.Masking(r)
	return &Tools{cfg}
}

// Call is one attempt at a system step.
type Call struct {
	Claim *postgres.Claim
	Log   io.Writer // of the step

	// Fresh returns once the attempt may write, or the error that it may no more.
	Fresh func(context.Context) error
}

// Run does the work of c. An error that is not a [tool.Failure] is one of the
// infrastructure, or the end of ctx.
func (t *Tools) Run(ctx context.Context, c Call) (tool.Result, error) {
	handle, ok := handlers[c.Claim.Tool]
	if !ok {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "this worker has no system tool %q", c.Claim.Tool)
	}
	return handle(t.cfg, ctx, c)
}

// handlers has the handler of each system tool.
var handlers = map[string]func(Config, context.Context, Call) (tool.Result, error){
	run.ToolVerify:        handler(verify),
	run.ToolCheckpoint:    handler(makeCheckpoint),
	run.ToolArchive:       handler(archive),
	run.ToolBisect:        handler(bisect),
	run.ToolDiff:          handler(computeDiff),
	run.ToolMerge:         handler(computeMerge),
	run.ToolGC:            handler(collect),
	run.ToolVerifyStorage: handler(verifyStorage),
	run.ToolPurge:         handler(purge),
}

// handler decodes the inputs of a call for handle.
func handler[T any](handle func(context.Context, Config, Call, T) (tool.Result, error)) func(Config, context.Context, Call) (tool.Result, error) {
	return func(cfg Config, ctx context.Context, c Call) (tool.Result, error) {
		in, err := run.Inputs[T](c.Claim.Spec.Inputs)
		if err != nil {
			return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
		}
		return handle(ctx, cfg, c, in)
	}
}
