package codehosttest

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// CodeInsights is the report of the head.
type CodeInsights struct {
	Title      string          `json:"title"`
	Details    string          `json:"details"`
	ReportType string          `json:"report_type"`
	Reporter   string          `json:"reporter"`
	Link       string          `json:"link"`
	Result     string          `json:"result"`
	Data       []InsightData   `json:"data"`
	Annotated  []InsightRemark `json:"-"`
}

// InsightData is a row of it.
type InsightData struct {
	Title string `json:"title"`
	Type  string `json:"type"`
	Value any    `json:"value"`
}

// InsightRemark is an annotation of it.
type InsightRemark struct {
	ExternalID string `json:"external_id"`
	Type       string `json:"annotation_type"`
	Summary    string `json:"summary"`
	Details    string `json:"details"`
	Severity   string `json:"severity"`
	Path       string `json:"path"`
	Line       int    `json:"line"`
	Link       string `json:"link"`
	Result     string `json:"result"`
}

func (b *Bitbucket) remarks() []InsightRemark {
	if b.report == nil {
		return nil
	}
	return b.report.Annotated
}

func (b *Bitbucket) ofHead(r *http.Request) *Refusal {
	if sha := r.PathValue("sha"); len(sha) < 12 || !strings.HasPrefix(b.repo.head, sha) && !strings.HasPrefix(b.repo.next, sha) {
		return refuse(http.StatusNotFound, "Commit not found")
	}
	return nil
}

func (b *Bitbucket) setReport(r *http.Request) (any, *Refusal) {
	var in CodeInsights
	if no := cmp.Or(b.ofHead(r), strictly(r, &in)); no != nil {
		return nil, no
	}
	no := cmp.Or(oneOf("report_type", in.ReportType, "SECURITY", "COVERAGE", "TEST", "BUG"),
		oneOf("result", in.Result, "PASSED", "FAILED", "PENDING"), upTo(450, "title", in.Title), upTo(2000, "details", in.Details), upTo(450, "reporter", in.Reporter))
	if no == nil && (in.Title == "" || in.Details == "" || len(in.Data) > 10) {
		no = refuse(http.StatusBadRequest, "title and details are required, and at most 10 rows of data")
	}
	if link, err := url.Parse(in.Link); no == nil && in.Link != "" && (err != nil || link.Host == "") {
		no = refuse(http.StatusBadRequest, "The link field must be a URL.")
	}
	for _, d := range in.Data {
		_, isNumber := d.Value.(float64)
		_, isBool := d.Value.(bool)
		if no == nil {
			no = oneOf("data.type", d.Type, "BOOLEAN", "DATE", "DURATION", "LINK", "NUMBER", "PERCENTAGE", "TEXT")
		}
		if no == nil && (d.Title == "" || d.Type == "NUMBER" && !isNumber || d.Type == "BOOLEAN" && !isBool) {
			no = refuse(http.StatusBadRequest, "data: %+v is invalid", d)
		}
	}
	if no != nil {
		return nil, no
	}
	in.Annotated = b.remarks()
	b.report = &in
	return object{"type": "report", "external_id": "nofx-llm-review"}, nil
}

func (b *Bitbucket) annotate(r *http.Request) (any, *Refusal) {
	var in []InsightRemark
	if no := cmp.Or(b.ofHead(r), strictly(r, &in)); no != nil {
		return nil, no
	}
	if b.report == nil {
		return nil, refuse(http.StatusNotFound, "Report not found")
	}
	if len(in) < 1 || len(in) > 100 {
		return nil, refuse(http.StatusBadRequest, "from 1 to 100 annotations are taken at once, not %d", len(in))
	}
	ids := map[string]bool{}
	for _, a := range in {
		no := cmp.Or(oneOf("annotation_type", a.Type, "VULNERABILITY", "CODE_SMELL", "BUG"), oneOf("severity", a.Severity, "CRITICAL", "HIGH", "MEDIUM", "LOW"),
			oneOf("result", a.Result, "", "PASSED", "FAILED", "SKIPPED", "IGNORED"), upTo(450, "summary", a.Summary), upTo(2000, "details", a.Details), upTo(450, "external_id", a.ExternalID))
		if no == nil && (a.ExternalID == "" || ids[a.ExternalID] || a.Summary == "" || a.Line < 0 || a.Line > 0 && a.Path == "") {
			no = refuse(http.StatusBadRequest, "annotation %+v is invalid", a)
		}
		if no != nil {
			return nil, no
		}
		ids[a.ExternalID] = true
	}
	all := slices.DeleteFunc(slices.Clone(b.report.Annotated), func(a InsightRemark) bool { return ids[a.ExternalID] })
	if len(all)+len(in) > 1000 {
		return nil, refuse(http.StatusBadRequest, "a report has at most 1000 annotations")
	}
	b.report.Annotated = append(all, in...)
	return in, nil
}

func (b *Bitbucket) annotations(r *http.Request) (any, *Refusal) {
	if b.report == nil {
		return nil, refuse(http.StatusNotFound, "Report not found")
	}
	all := []object{}
	for _, a := range b.report.Annotated {
		all = append(all, object{"type": "report_annotation", "external_id": a.ExternalID, "summary": a.Summary})
	}
	return sized(r, all), nil
}

// Report returns the report of Code Insights, or nil, and whether our account requests changes.
func (b *Bitbucket) Report() (report *CodeInsights, changesRequested bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.report, b.requested
}
