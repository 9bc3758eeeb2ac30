package tool

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/report"
	"nofx.dev/worker/internal/sandbox"
)

const (
	maxReport    = 64 << 20 // bytes of a report that are read, in all its files
	maxGatesFile = 64 << 10
)

// gatesFile is a workspace's nofx.json: by the name of a gate, what it runs when its
// step does not say.
type gatesFile struct {
	Schema string                    `json:"$schema"` // for editors
	Gates  map[string]run.GateInputs `json:"gates"`
}

// ownGate returns the inputs with the command of the workspace's own gate of that name, and with
// its report and environment where in has none. Errors are for people.
func ownGate(root *os.Root, name string, in run.GateInputs) (run.GateInputs, error) {
	raw, err := readRegular(root, edit.GatesFile, maxGatesFile)
	var file gatesFile
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return in, fmt.Errorf("%s: %w", edit.GatesFile, err)
	default:
		if file, err = run.Inputs[gatesFile](bytes.TrimPrefix(raw, []byte("\ufeff"))); err != nil { // a byte order mark, as some editors write
			return in, fmt.Errorf("%s cannot be used: %w", edit.GatesFile, err)
		}
	}
	own, ok := file.Gates[name]
	if !ok || own.Command == "" {
		return in, fmt.Errorf(`there is no command: give the step one, or put {"gates": {%q: {"command": "…"}}} into the workspace's %s`, name, edit.GatesFile)
	}
	own, problems := run.PlainGate(own)
	if len(problems) > 0 {
		return in, fmt.Errorf("%s: /gates/%s%s %s", edit.GatesFile, name, problems[0].Pointer, problems[0].Detail)
	}
	in.Command = own.Command
	if in.Report == nil {
		in.Report = own.Report
	}
	if in.Env == nil {
		in.Env = own.Env
	}
	if problems := run.CheckGate(in); len(problems) > 0 {
		return in, fmt.Errorf("%s: /gates/%s%s %s", edit.GatesFile, name, problems[0].Pointer, problems[0].Detail)
	}
	return in, nil
}

// clearReport takes away what lies in a report's place, so that one from before the
// command does not speak for it. A gate changes nothing: what it does to the workspace
// is dropped with its step.
func clearReport(root *os.Root, pattern string) error {
	alternatives, err := reports(root, pattern)
	if err != nil {
		return fmt.Errorf("a report cannot be written to %s: %w", pattern, err)
	}
	for _, a := range alternatives {
		for file := range a.files {
			if err := root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				return fmt.Errorf("a report cannot be written to %s: %w", file, cmp.Or(edit.Reach(root, file), errors.New("it is taken")))
			}
		}
	}
	return nil
}

// beginning returns a time by the file system's clock that is later than all changes
// before the call, and not later than any after it. That clock goes in steps, mostly
// of milliseconds, so it waits for the next one, at most until ctx ends.
func beginning(ctx context.Context, scratch *os.Root) (begun time.Time, err error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	before, err := marked(scratch)
	for begun = before; err == nil && begun.Equal(before); begun, err = marked(scratch) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
	return begun, err
}

// marked returns the time by the file system's clock.
func marked(scratch *os.Root) (time.Time, error) {
	f, err := scratch.Create(markFile)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	if _, err := f.WriteString("now"); err != nil {
		return time.Time{}, err
	}
	return changed(f)
}

// changed returns when a file or its place, mode or owner changed last.
func changed(f *os.File) (time.Time, error) {
	var raw unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &raw)
	return time.Unix(raw.Ctim.Unix()), err
}

// judgeReport returns the verdict of a command that has begun at some time and ended by
// itself, and its report.
func (b *Box) judgeReport(r Result, root *os.Root, in run.GateReport, begun time.Time, exit sandbox.Exit) Result {
	found, err := b.readReports(root, in, begun)
	if err != nil {
		r.Evidence["report"] = map[string]any{"format": in.Format, "path": in.Path}
		return r.decide(run.Error, b.masked(fmt.Sprintf("%s; %v", howEnded("the command", exit, ""), err)))
	}
	r.Evidence["report"] = shown(in, found)
	switch {
	case found.Failures > 0 && exit.Code == 0:
		return r.decide(run.Failed, fmt.Sprintf("the command ended with exit code 0, but by its report %s", found.Says(in)))
	case found.Failures > 0:
		return r.decide(run.Failed, found.Says(in))
	case found.empty != "" && !in.AllowEmpty:
		return r.decide(run.Error, fmt.Sprintf(`%s; %s holds no test; if that is all right, say "allow_empty": true`, howEnded("the command", exit, ""), b.masked(found.empty)))
	case exit.Code != 0:
		return r.decide(run.Failed, howEnded("the command", exit, "")+", though its report shows no failure")
	}
	r = r.decide(run.Passed, "")
	if found.Tests > 0 && found.Skipped == found.Tests {
		r.Evidence["reason"] = "the report has " + fault.Count(found.Tests, "test") + ", and none ran: all were skipped"
	}
	return r
}

// found is the sum of the files that make up a report.
type found struct {
	report.Report
	files int
	empty string // which report holds no test, or ""
}

// shown returns a report as evidence.
func shown(in run.GateReport, r found) map[string]any {
	doc := map[string]any{"format": in.Format, "path": in.Path, "failures": r.Failures}
	if r.files > 1 {
		doc["files"] = r.files
	}
	if r.Findings != nil {
		doc["findings"] = r.Findings
		doc["fail_on"] = cmp.Or(in.FailOn, run.FailLevels[0])
	} else {
		doc["tests"], doc["skipped"] = r.Tests, r.Skipped
	}
	if r.Counted > 0 {
		doc["counted"] = r.Counted
	}
	if r.Flaky > 0 {
		doc["flaky"] = r.Flaky
	}
	if len(r.Items) > 0 {
		doc["items"] = r.Items
	}
	if r.More > 0 {
		doc["more"] = r.More
	}
	return doc
}

// readReports reads the report that in asks for, which several files may make up. Every
// alternative of its path has to be there and to hold tests, each file counts once.
// Errors are for people.
func (b *Box) readReports(root *os.Root, in run.GateReport, begun time.Time) (all found, err error) {
	alternatives, err := reports(root, in.Path)
	if err != nil {
		return all, fmt.Errorf("the report %s cannot be used: %w", in.Path, err)
	}
	left := int64(maxReport)
	tests := map[string]int{} // of each file
	for _, a := range alternatives {
		if len(a.files) == 0 {
			return all, fmt.Errorf("the report %s cannot be used: the command wrote no file that matches", a.pattern)
		}
		held := 0
		for _, p := range slices.Sorted(maps.Keys(a.files)) {
			own := target(root, p)
			if _, known := tests[own]; !known {
				r, err := b.readReport(root, own, in, begun, &left)
				if err != nil {
					return all, fmt.Errorf("the report %s cannot be used: %w", p, err)
				}
				all.Add(r)
				tests[own] = r.Tests
			}
			held += tests[own]
		}
		switch {
		case held > 0 || all.Findings != nil:
		case len(alternatives) == 1:
			all.empty = "the report"
		default:
			all.empty = cmp.Or(all.empty, "the report "+a.pattern)
		}
	}
	all.files = len(tests)
	return all, nil
}

// readReport reads one file, of at most left bytes, and takes them from that. A file of
// before the command is none of its reports: a link or a move may have put it there.
func (b *Box) readReport(root *os.Root, p string, in run.GateReport, begun time.Time, left *int64) (report.Report, error) {
	f, err := edit.Open(root, p)
	if errors.Is(err, fs.ErrNotExist) {
		return report.Report{}, errors.New("the command did not write it")
	}
	if err != nil {
		return report.Report{}, err
	}
	defer f.Close()
	at, err := changed(f)
	if err != nil {
		return report.Report{}, err
	}
	if at.Before(begun) {
		return report.Report{}, errors.New("it was there before the command, which only linked or moved to it")
	}
	info, err := f.Stat()
	if err != nil {
		return report.Report{}, err
	}
	if *left -= info.Size(); *left < 0 {
		return report.Report{}, fmt.Errorf("with it, more than %d bytes would be read", maxReport)
	}
	return report.Parse(in, io.LimitReader(f, info.Size()), b.cfg.Redactor.String)
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
