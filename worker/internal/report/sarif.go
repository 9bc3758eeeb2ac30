package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// levels of SARIF (§3.27.10); a failing result without one is a warning.
var levels = []string{"error", "warning", "note", "none"}

// kinds of SARIF (§3.27.9); a result without one fails, and one of another has no level.
var kinds = []string{"fail", "pass", "open", "informational", "notApplicable", "review"}

// sarif counts the results that are findings: not what passed or only informs, unless
// its level says otherwise, what was suppressed, or what is gone since a baseline. A run without results, or whose
// tool says that it did not get through, is an error: it found nothing because it
// looked at nothing. So is one that keeps them in other files, which are not read.
func (rep *reading) sarif(r io.Reader) error {
	log, err := readSARIF(r)
	if err != nil {
		return malformed("SARIF", err)
	}
	if log.Version != "2.1.0" {
		return fmt.Errorf("SARIF of version %q; 2.1.0 is read", log.Version)
	}
	if len(log.Runs) == 0 {
		return errors.New("SARIF without runs")
	}
	for _, in := range log.Inline {
		if what := in.what(); what != "" {
			return fmt.Errorf("the SARIF keeps its %s in inlineExternalProperties, which is not read", what)
		}
	}
	rep.Findings = map[string]int{}
	for _, level := range levels {
		rep.Findings[level] = 0
	}
	for i := range log.Runs {
		if err := rep.sarifRun(&log.Runs[i]); err != nil {
			return fmt.Errorf("run %d of the SARIF %w", i, err)
		}
	}
	for _, level := range levels[:slices.Index(levels, failLevel(rep.in))+1] {
		rep.Failures += rep.Findings[level]
	}
	return nil
}

func (rep *reading) sarifRun(run *sarifRun) error {
	if what := run.Elsewhere.what(); what != "" {
		return fmt.Errorf("keeps its %s in other files, which are not read", what)
	}
	if run.Tool.Driver.Name == "" {
		return errors.New("does not name its tool")
	}
	if run.Results == nil {
		return errors.New("has no results, not even none")
	}
	for _, in := range run.Invocations {
		if problem := in.problem(); problem != "" {
			return errors.New("says that its tool " + problem)
		}
	}
	rules := rulesOf(run)
	for i := range run.Results {
		res := &run.Results[i]
		of := rules.of(res)
		level := rules.level(res, of)
		if !slices.Contains(levels, level) {
			return fmt.Errorf("has a result of level %q, which is none of SARIF's", level)
		}
		if !slices.Contains(kinds, res.kind()) {
			return fmt.Errorf("has a result of kind %q, which is none of SARIF's", res.Kind)
		}
		if !res.counts(level) {
			continue
		}
		rep.Findings[level]++
		item := Item{Rule: cmp.Or(res.RuleID, res.Rule.ID), Level: level, Message: rules.message(res, of)}
		if item.Rule == "" && len(of) > 0 {
			item.Rule = of[0].ID
		}
		item.File, item.Line = run.place(res)
		rep.add(item)
	}
	return nil
}

// what returns the name of something that lies elsewhere, or "".
func (e *sarifElsewhere) what() string {
	switch {
	case len(e.Results) > 0:
		return "results"
	case len(e.Invocations) > 0:
		return "invocations"
	case len(e.Extensions) > 0:
		return "extensions"
	case e.Driver != nil:
		return "driver"
	}
	return ""
}

// problem returns how the tool did not get through, or "". An exit code tells nothing
// by itself: many tools end with 1 when they found something.
func (in *sarifInvocation) problem() string {
	switch {
	case in.NotStarted != "":
		return "did not start"
	case in.Signal != "" || in.SignalNumber.Kind() == '0' && !zero(in.SignalNumber):
		return "was ended by a signal"
	case in.Successful != nil && !*in.Successful:
		return "did not get through"
	case in.Successful == nil && bool(in.Execution || in.Configuration) && !zero(in.ExitCode):
		return "met with an error, and not that it got through"
	}
	return ""
}

// zero reports whether v is the number 0.
func zero(v jsontext.Value) bool {
	n, err := strconv.ParseFloat(string(v), 64)
	return err == nil && n == 0
}

// place returns where a result was found.
func (run *sarifRun) place(res *sarifResult) (file string, line int) {
	if len(res.Locations) == 0 {
		return "", 0
	}
	at := res.Locations[0].Physical
	uri := at.Artifact.URI
	if a := pick(run.Artifacts, at.Artifact.Index); uri == "" && a != nil {
		uri = a.Location.URI
	}
	file = strings.TrimPrefix(uri, "file://")
	if name, err := url.PathUnescape(file); err == nil {
		file = name
	}
	return file, at.Region.StartLine
}

// pick returns the element of an index that is one of l's, else nil.
func pick[T any](l list[T], index *int) *T {
	if index == nil || *index < 0 || *index >= len(l) {
		return nil
	}
	return &l[*index]
}

func (r *sarifResult) kind() string { return cmp.Or(r.Kind, kinds[0]) }

// counts reports whether r, which is of some level, is a finding.
func (r *sarifResult) counts(level string) bool {
	if r.kind() != kinds[0] && level == "none" || r.Baseline == "absent" {
		return false
	}
	// Suppressed is what has suppressions and none that is rejected or under review.
	suppressed := len(r.Suppressions) > 0
	for _, s := range r.Suppressions {
		suppressed = suppressed && (s.Status == "" || s.Status == "accepted")
	}
	return !suppressed
}
