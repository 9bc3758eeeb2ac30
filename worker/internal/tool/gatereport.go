package tool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/report"
	"nofx.dev/worker/internal/sandbox"
)

const (
	maxReport    = 64 << 20 // bytes of a report that are read
	maxGatesFile = 64 << 10
)

// gatesFile is a workspace's nofx.json: by the name of a gate, what it runs when its
// step does not say.
type gatesFile struct {
	Gates map[string]run.GateInputs `json:"gates"`
}

// ownGate is in with the command of the workspace's own gate of that name, and with
// its report and environment where in has none. Errors are for people.
func ownGate(root *os.Root, name string, in run.GateInputs) (run.GateInputs, error) {
	raw, err := readRegular(root, edit.GatesFile, maxGatesFile)
	var file gatesFile
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return in, fmt.Errorf("%s: %w", edit.GatesFile, err)
	default:
		if file, err = run.Inputs[gatesFile](raw); err != nil {
			return in, fmt.Errorf("%s cannot be used: %w", edit.GatesFile, err)
		}
	}
	own, ok := file.Gates[name]
	if !ok || own.Command == "" {
		return in, fmt.Errorf(`there is no command: give the step one, or put {"gates": {%q: {"command": "…"}}} into the workspace's %s`, name, edit.GatesFile)
	}
	if problems := run.CheckGate(own); len(problems) > 0 {
		return in, fmt.Errorf("%s: /gates/%s%s %s", edit.GatesFile, name, problems[0].Pointer, problems[0].Detail)
	}
	in.Command = own.Command
	if in.Report == nil {
		in.Report = own.Report
	}
	if in.Env == nil {
		in.Env = own.Env
	}
	return in, nil
}

// clearReport takes away what lies in a report's place, so that one from before the
// command does not speak for it. A gate changes nothing: what it does to the workspace
// is dropped with its step.
func clearReport(root *os.Root, path string) error {
	if err := root.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("a report cannot be written to %s: it is taken", path)
	}
	return nil
}

// judgeReport is the verdict of a command that ended by itself and its report.
func (b *Box) judgeReport(r Result, root *os.Root, in run.GateReport, exit sandbox.Exit) Result {
	found, err := b.readReport(root, in)
	if err != nil {
		r.Evidence["report"] = map[string]any{"format": in.Format, "path": in.Path}
		return r.decide(run.Error, fmt.Sprintf("%s; the report %s cannot be used: %v", howEnded("the command", exit), in.Path, err))
	}
	r.Evidence["report"] = shown(in, found)
	switch {
	case found.Failures > 0 && exit.Code == 0:
		return r.decide(run.Failed, fmt.Sprintf("the command ended with exit code 0, but by its report %s", found.Says(in)))
	case found.Failures > 0:
		return r.decide(run.Failed, found.Says(in))
	case exit.Code != 0:
		return r.decide(run.Failed, howEnded("the command", exit)+", though its report shows no failure")
	}
	return r.decide(run.Passed, "")
}

// shown returns a report as evidence.
func shown(in run.GateReport, r report.Report) map[string]any {
	doc := map[string]any{"format": in.Format, "path": in.Path, "failures": r.Failures}
	if r.Findings != nil {
		doc["findings"] = r.Findings
	} else {
		doc["tests"], doc["skipped"] = r.Tests, r.Skipped
	}
	if len(r.Items) > 0 {
		doc["items"] = r.Items
	}
	if r.More > 0 {
		doc["more"] = r.More
	}
	return doc
}

func (b *Box) readReport(root *os.Root, in run.GateReport) (report.Report, error) {
	f, err := edit.Open(root, in.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return report.Report{}, errors.New("the command did not write it")
	}
	if err != nil {
		return report.Report{}, err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxReport + 1}
	r, err := report.Parse(in, limited, b.cfg.Redactor.String)
	if limited.N <= 0 {
		return report.Report{}, fmt.Errorf("it is larger than %d bytes", maxReport)
	}
	return r, err
}

func readRegular(root *os.Root, path string, limit int64) ([]byte, error) {
	f, err := edit.Open(root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fault.New(fault.Invalid, "too-large", "it is larger than %d bytes", limit)
	}
	return raw, err
}
