package reviewer

import (
	"slices"

	"nofx.dev/shared/review"
)

// maxAnnotations is how many findings a report has.
const maxAnnotations = 1000

// report returns what a forge shows beside the conversation: all findings that are open, the
// worst first.
func (v *pass) report(s Status) *Report {
	result := v.out.Result
	r := &Report{
		Title: "Review", Details: s.Description, Annotations: []Annotation{},
		Rows: []Row{{"Files reviewed", len(result.Coverage.Reviewed)}, {"Files not reviewed", len(result.Coverage.Skipped)}},
	}
	open := v.open()
	slices.SortStableFunc(open, func(a, b review.Finding) int {
		switch {
		case a.Severity == b.Severity:
			return 0
		case a.Severity.Reaches(b.Severity):
			return -1
		}
		return 1
	})
	for _, s := range []review.Severity{review.Critical, review.High, review.Medium, review.Low, review.Info} {
		n := 0
		for _, f := range open {
			if f.Severity == s {
				n++
			}
		}
		r.Rows = append(r.Rows, Row{"Open, " + string(s), n})
	}
	for _, f := range open[:min(len(open), maxAnnotations)] {
		a := Annotation{Fingerprint: f.Fingerprint, Path: f.Anchor.Path, Category: f.Category, Severity: f.Severity, Title: f.Title, Body: f.Body}
		if f.Anchor.Side == review.Right {
			a.Line = f.Anchor.Line
		}
		r.Annotations = append(r.Annotations, a)
	}
	return r
}
