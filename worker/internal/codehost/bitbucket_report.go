package codehost

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// Limits of Code Insights, in runes where they are of a text.
const (
	reportName         = "nofx-llm-review"
	annotationsAtOnce  = 100
	annotationsAtMost  = 1000
	annotationSummary  = 450
	annotationDetails  = 2000
	annotationsPerPage = "100"
)

// row is a line of data of a report.
type row struct {
	Title string `json:"title"`
	Type  string `json:"type"`
	Value any    `json:"value"`
}

// annotation is one as Bitbucket takes it, and its own id as it shows it.
type annotation struct {
	ExternalID string `json:"external_id"`
	Type       string `json:"annotation_type"`
	Summary    string `json:"summary"`
	Details    string `json:"details,omitempty"`
	Severity   string `json:"severity"`
	Path       string `json:"path"`
	Line       int    `json:"line,omitempty"`
}

// Report sets the report of Code Insights of a commit. Its annotations have the fingerprints
// of their findings as ids, so that those of an earlier report are replaced; what is left of
// that is deleted.
func (b *Bitbucket) Report(ctx context.Context, commit string, s reviewer.Status, r reviewer.Report) error {
	at := b.path("/commit/%s/reports/%s", commit, reportName)
	in := map[string]any{
		"title": r.Title, "details": short(r.Details, annotationDetails), "report_type": "BUG", "reporter": "nofx", "result": "FAILED",
	}
	passed := s.State == "success"
	if passed {
		in["result"] = "PASSED"
	}
	if s.URL != "" {
		in["link"] = s.URL
	}
	rows := []row{{"Safe to merge", "BOOLEAN", passed}}
	for _, n := range r.Rows {
		rows = append(rows, row{n.Title, "NUMBER", n.Value})
	}
	in["data"] = rows
	if err := b.rest.do(ctx, http.MethodPut, at, in, nil); err != nil {
		return err
	}
	all := make([]annotation, 0, len(r.Annotations))
	wanted := map[string]bool{}
	for _, a := range r.Annotations {
		out := annotation{
			ExternalID: a.Fingerprint, Type: annotationType(a.Category), Severity: annotationSeverity(a.Severity),
			Summary: short(a.Title, annotationSummary), Details: short(a.Body, annotationDetails), Path: a.Path, Line: a.Line,
		}
		if !wanted[out.ExternalID] && len(all) < annotationsAtMost {
			all = append(all, out)
			wanted[out.ExternalID] = true
		}
	}
	if err := b.prune(ctx, at, wanted); err != nil {
		return err
	}
	for some := range slices.Chunk(all, annotationsAtOnce) {
		if err := b.rest.do(ctx, http.MethodPost, at+"/annotations", some, nil); err != nil {
			return err
		}
	}
	return nil
}

// prune deletes the annotations of a report that are not wanted any more.
func (b *Bitbucket) prune(ctx context.Context, at string, wanted map[string]bool) error {
	var stale []string
	for page := 1; page <= maxPages; page++ {
		var some struct {
			Values []struct {
				ExternalID string `json:"external_id"`
			} `json:"values"`
			Next string `json:"next"`
		}
		if err := b.rest.do(ctx, http.MethodGet, fmt.Sprintf("%s/annotations?pagelen=%s&page=%d", at, annotationsPerPage, page), nil, &some); err != nil {
			return err
		}
		for _, a := range some.Values {
			if !wanted[a.ExternalID] {
				stale = append(stale, a.ExternalID)
			}
		}
		if some.Next == "" {
			break
		}
	}
	for _, id := range stale {
		if err := b.rest.do(ctx, http.MethodDelete, at+"/annotations/"+url.PathEscape(id), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func annotationType(c review.Category) string {
	switch c {
	case review.Security:
		return "VULNERABILITY"
	case review.Correctness, review.Concurrency, review.ErrorHandling:
		return "BUG"
	}
	return "CODE_SMELL"
}

// annotationSeverity returns the severity of an annotation, of which there are four.
func annotationSeverity(s review.Severity) string {
	if s == review.Info {
		s = review.Low
	}
	return strings.ToUpper(string(s))
}

// RequestChanges sets or takes back what our account as a reviewer of the pull request has
// to say. It never approves.
func (b *Bitbucket) RequestChanges(ctx context.Context, wanted bool) error {
	at := b.path("/pullrequests/%d", b.cfg.Number)
	var pr struct {
		Author       bitbucketUser `json:"author"`
		Participants []struct {
			User  bitbucketUser `json:"user"`
			State string        `json:"state"` // approved, changes_requested or null
		} `json:"participants"`
	}
	if err := b.rest.do(ctx, http.MethodGet, at, nil, &pr); err != nil {
		return err
	}
	requested := false
	for _, p := range pr.Participants {
		requested = requested || b.ours(p.User) && p.State == "changes_requested"
	}
	if requested == wanted || wanted && b.ours(pr.Author) {
		return nil
	}
	method := http.MethodDelete
	if wanted {
		method = http.MethodPost
	}
	return b.rest.do(ctx, method, at+"/request-changes", nil, nil)
}
