package tool

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/bmatcuk/doublestar/v4"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/report"
	"nofx.dev/worker/internal/sandbox"
)

const (
	maxReport    = 64 << 20 // bytes of a report that are read, in all its files
	maxReports   = 10_000   // files of a report
	maxSeen      = 1 << 20  // files and folders that are looked at for them
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
		if file, err = run.Inputs[gatesFile](bytes.TrimPrefix(raw, []byte("\ufeff"))); err != nil { // a byte order mark, as some editors write
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

// reports returns the files that a report's path stands for: itself, or what matches
// it as a glob. Folders do not match, nor does what lies in .git or .nofx.
func reports(root *os.Root, pattern string) (files []string, err error) {
	if !strings.ContainsAny(pattern, `*?[{\`) {
		return []string{pattern}, nil
	}
	base, _ := doublestar.SplitPattern(pattern)
	if err := edit.Reach(root, path.Join(base, "x")); err != nil {
		return nil, err
	}
	entries := 0
	err = fs.WalkDir(root.FS(), base, func(p string, d fs.DirEntry, err error) error {
		entries++
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entries > maxSeen:
			return fmt.Errorf("more than %d files and folders may match", maxSeen)
		case d.IsDir() && (d.Name() == ".git" || d.Name() == ".nofx"):
			return fs.SkipDir
		case d.IsDir() || !doublestar.MatchUnvalidated(pattern, p):
			return nil
		}
		if files = append(files, p); len(files) > maxReports {
			return fmt.Errorf("more than %d files match", maxReports)
		}
		return nil
	})
	return files, err
}

// clearReport takes away what lies in a report's place, so that one from before the
// command does not speak for it. A gate changes nothing: what it does to the workspace
// is dropped with its step.
func clearReport(root *os.Root, pattern string) error {
	files, err := reports(root, pattern)
	if err != nil {
		return fmt.Errorf("a report cannot be written to %s: %w", pattern, err)
	}
	for _, file := range files {
		if err := root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("a report cannot be written to %s: %w", file, cmp.Or(edit.Reach(root, file), errors.New("it is taken")))
		}
	}
	return nil
}

// judgeReport is the verdict of a command that ended by itself and its report.
func (b *Box) judgeReport(r Result, root *os.Root, in run.GateReport, exit sandbox.Exit) Result {
	found, files, err := b.readReports(root, in)
	if err != nil {
		r.Evidence["report"] = map[string]any{"format": in.Format, "path": in.Path}
		return r.decide(run.Error, b.masked(fmt.Sprintf("%s; %v", howEnded("the command", exit, ""), err)))
	}
	r.Evidence["report"] = shown(in, found, files)
	switch {
	case found.Failures > 0 && exit.Code == 0:
		return r.decide(run.Failed, fmt.Sprintf("the command ended with exit code 0, but by its report %s", found.Says(in)))
	case found.Failures > 0:
		return r.decide(run.Failed, found.Says(in))
	case found.Findings == nil && found.Tests == 0 && !in.AllowEmpty:
		return r.decide(run.Error, howEnded("the command", exit, "")+`; the report holds no test; if that is all right, say "allow_empty": true`)
	case exit.Code != 0:
		return r.decide(run.Failed, howEnded("the command", exit, "")+", though its report shows no failure")
	}
	return r.decide(run.Passed, "")
}

// shown returns a report, the sum of those in files, as evidence.
func shown(in run.GateReport, r report.Report, files int) map[string]any {
	doc := map[string]any{"format": in.Format, "path": in.Path, "failures": r.Failures}
	if files > 1 {
		doc["files"] = files
	}
	if r.Findings != nil {
		doc["findings"] = r.Findings
		doc["fail_on"] = cmp.Or(in.FailOn, run.FailLevels[0])
	} else {
		doc["tests"], doc["skipped"] = r.Tests, r.Skipped
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

// readReports reads the report that in asks for, which several files may make up, and
// returns how many. Errors are for people.
func (b *Box) readReports(root *os.Root, in run.GateReport) (sum report.Report, files int, err error) {
	paths, err := reports(root, in.Path)
	if err != nil {
		return sum, 0, fmt.Errorf("the report %s cannot be used: %w", in.Path, err)
	}
	if len(paths) == 0 {
		return sum, 0, fmt.Errorf("the report %s cannot be used: the command wrote no file that matches", in.Path)
	}
	left := int64(maxReport)
	for _, p := range paths {
		r, err := b.readReport(root, p, in, &left)
		if err != nil {
			return sum, 0, fmt.Errorf("the report %s cannot be used: %w", p, err)
		}
		sum.Add(r)
	}
	return sum, len(paths), nil
}

// readReport reads one file, of at most left bytes, and takes them from that.
func (b *Box) readReport(root *os.Root, p string, in run.GateReport, left *int64) (report.Report, error) {
	f, err := edit.Open(root, p)
	if errors.Is(err, fs.ErrNotExist) {
		return report.Report{}, errors.New("the command did not write it")
	}
	if err != nil {
		return report.Report{}, err
	}
	defer f.Close()
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
