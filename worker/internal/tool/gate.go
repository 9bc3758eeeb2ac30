package tool

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sieve"
)

// How much the evidence of a gate shows, in bytes.
const (
	maxCommand = 4 << 10
	maxOutput  = 8 << 10 // of the end of its output
)

// gate runs a command in the workspace and judges by its exit code: 0 passes. Its
// time limit, a signal and a tool that is missing say nothing about the code, so
// they are the verdict Error, never a pass. It runs as `bash -e -o pipefail`,
// else `go test ./... | tee log` would pass whatever the tests say.
//
// A step without a command takes that of its gate's name in the workspace's
// nofx.json. Where a report is asked for, the command has to write it, and both have
// to be without fault: an exit code of 0 beside failures in the report does not pass,
// and a report that is missing, older than the command, cannot be read or holds no test is
// the verdict Error.
//
// Evidence: command, exit_code, output (its end, redacted), duration_ms, and where it
// applies source, the file that the command is from; report, its format, path, counts
// and worst items; reason, which a pass has if all tests were skipped; and missing, the
// name of the tool that is not there.
// Output: verdict.
func (b *Box) gate(ctx context.Context, c Call, in run.GateInputs) (r Result, err error) {
	ctx, span := tracer().Start(ctx, "gate "+strings.TrimPrefix(c.Tool, run.GateFamily))
	defer func() {
		span.SetAttributes(telemetry.VerdictKey.String(string(r.Verdict)))
		span.End()
	}()
	root, err := os.OpenRoot(c.Workspace)
	if err != nil {
		return Result{}, Failuref(run.ClassInfrastructure, "open workspace: %w", err)
	}
	defer root.Close()
	r.Evidence = map[string]any{}
	if in.Command == "" {
		if in, err = ownGate(root, strings.TrimPrefix(c.Tool, run.GateFamily), in); err != nil {
			return r.decide(run.Error, err.Error()), nil
		}
		r.Evidence["source"] = edit.GatesFile
	}
	if in.Report != nil {
		if err := clearReport(root, in.Report.Path); err != nil {
			return r.decide(run.Error, err.Error()), nil
		}
	}
	scratch, err := openScratch(c)
	if err != nil {
		return Result{}, err
	}
	defer scratch.Close()
	var begun time.Time
	if in.Report != nil {
		if begun, err = beginning(ctx, scratch); ctx.Err() != nil {
			return Result{}, ended(ctx)
		} else if err != nil {
			return Result{}, Failuref(run.ClassInfrastructure, "mark the beginning: %w", err)
		}
	}
	end := sieve.NewTail(maxOutput, b.cfg.Redactor.String)
	start := time.Now()
	exit, err := b.script(ctx, c, scratch, script{
		text: in.Command, options: []string{"-e", "-o", "pipefail"}, env: in.Env, out: io.MultiWriter(c.Log, end),
	})
	output := end.End()
	r.Usage = usage(exit)
	maps.Copy(r.Evidence, map[string]any{
		"command":     sieve.Beginning(b.masked(in.Command), maxCommand),
		"output":      output,
		"duration_ms": time.Since(start).Milliseconds(),
	})
	if err != nil {
		f, ok := errors.AsType[*Failure](err)
		if !ok || f.Class != run.ClassTimeout {
			return r, err
		}
		return r.decide(run.Error, f.Reason), nil
	}
	r.ExitCode = exitCode(exit)
	r.Evidence["exit_code"] = *r.ExitCode
	verdict, missing := judge(exit), notRunOf(exit, output)
	if missing != "" {
		r.Evidence["missing"] = missing
	}
	if in.Report == nil || verdict == run.Error {
		return r.decide(verdict, howEnded("the command", exit, missing)), nil
	}
	return b.judgeReport(r, root, *in.Report, begun, exit), nil
}

// judge returns the verdict of a command's end.
func judge(exit sandbox.Exit) run.State {
	switch {
	case exit.Signal != 0 || exit.Code == notFound || exit.Code == notExecutable:
		return run.Error
	case exit.Code == 0:
		return run.Passed
	}
	return run.Failed
}

// decide completes the result of a gate.
func (r Result) decide(verdict run.State, reason string) Result {
	r.Verdict = verdict
	r.Outputs = map[string]any{"verdict": string(verdict)}
	if verdict != run.Passed {
		r.Evidence["reason"] = reason
	}
	return r
}
