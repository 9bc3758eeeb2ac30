package reviewer

import (
	"cmp"
	"fmt"

	"nofx.dev/shared/review"
)

// The format of reviewdog, as far as a review has something to say in it.
type (
	rdResult struct {
		Source      rdSource       `json:"source"`
		Severity    string         `json:"severity"`
		Diagnostics []rdDiagnostic `json:"diagnostics"`
	}
	rdSource struct {
		Name string `json:"name"`
		URL  string `json:"url,omitempty"`
	}
	rdDiagnostic struct {
		Message     string         `json:"message"`
		Location    rdLocation     `json:"location"`
		Severity    string         `json:"severity"`
		Code        rdCode         `json:"code"`
		Suggestions []rdSuggestion `json:"suggestions,omitempty"`
	}
	rdLocation struct {
		Path  string   `json:"path"`
		Range *rdRange `json:"range,omitempty"`
	}
	rdRange struct {
		Start rdPosition  `json:"start"`
		End   *rdPosition `json:"end,omitempty"`
	}
	rdPosition struct {
		Line int `json:"line"`
	}
	rdCode struct {
		Value string `json:"value"`
	}
	rdSuggestion struct {
		Range rdRange `json:"range"`
		Text  string  `json:"text"`
	}
)

// rdjson returns the findings in the format of reviewdog. It knows the head only, so a
// finding about a deleted line is one of its file.
func (v *pass) rdjson() rdResult {
	severity := func(s review.Severity) string {
		return map[string]string{"error": "ERROR", "warning": "WARNING", "note": "INFO"}[level(s)]
	}
	r := rdResult{Source: rdSource{"nofx", v.in.URL}, Severity: "INFO", Diagnostics: []rdDiagnostic{}}
	for _, f := range v.open() {
		d := rdDiagnostic{
			Message: fmt.Sprintf("%s\n\n%s", f.Title, f.Body), Location: rdLocation{Path: f.Anchor.Path},
			Severity: severity(f.Severity), Code: rdCode{ruleOf(f)},
		}
		if f.Anchor.Side == review.Right && f.Anchor.Line > 0 {
			d.Location.Range = &rdRange{rdPosition{cmp.Or(f.Anchor.StartLine, f.Anchor.Line)}, &rdPosition{f.Anchor.Line}}
			if f.Suggestion != nil {
				d.Suggestions = []rdSuggestion{{*d.Location.Range, *f.Suggestion}}
			}
		}
		r.Diagnostics = append(r.Diagnostics, d)
	}
	return r
}
