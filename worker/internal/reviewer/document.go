package reviewer

import (
	"context"
	"encoding/json"
	"fmt"

	"nofx.dev/shared/review"
)

// Document is a piece of a review that people and programs fetch. Its name is its stage in
// the store.
type Document struct {
	Name      string
	MediaType string
	Body      []byte
}

// The documents of a review.
const (
	ChangeDocument   = "change.json"
	CoverageDocument = "coverage.json"
	ChunksDocument   = "chunks.json"
	FindingsDocument = "findings.json"
	VerdictDocument  = "verdict.json"
	PlanDocument     = "plan.json"
	SummaryDocument  = "summary.md"
	SARIFDocument    = "review.sarif"
	RDJSONDocument   = "review.rdjson"
	JSONDocument     = "review.json" // all that programs need in one: verdict, findings and what is posted
	PostedDocument   = "posted.json" // what is on the forge, see Posted
)

// document makes and stores the documents.
func (v *pass) document(ctx context.Context) (err error) {
	ctx, end := Stage(ctx, "plan")
	defer func() { end(err) }()
	v.out.Plan = v.plan()
	files := make([]File, len(v.files))
	copy(files, v.files)
	for i := range files {
		files[i].Path, files[i].OldPath = v.Redact(clean(files[i].Path)), v.Redact(clean(files[i].OldPath))
	}
	fixed := v.out.Fixed
	if fixed == nil {
		fixed = []review.Fix{}
	}
	occurrences := v.out.Occurrences
	if occurrences == nil {
		occurrences = []review.Occurrence{}
	}
	type object = map[string]any
	for _, d := range []struct {
		name, mediaType string
		value           any
	}{
		{ChangeDocument, "application/json", object{
			"schema": 1, "review_id": v.in.ReviewID, "repository": v.in.Repository, "pull_request": v.in.PullRequest,
			"base_sha": v.in.BaseSHA, "head_sha": v.in.HeadSHA, "title": v.Redact(clean(v.in.Title)), "files": files,
			"policy": v.out.Policy, "policy_hash": v.out.Policy.Hash(),
		}},
		{CoverageDocument, "application/json", object{"schema": 1, "coverage": v.out.Result.Coverage, "partial": len(v.out.Result.Coverage.Partial()) > 0}},
		{ChunksDocument, "application/json", object{
			"schema": 1, "prompt_version": PromptVersion, "chunks": orEmpty(v.out.Chunks), "hunks": orEmpty(v.out.Hunks),
			"failures": orEmpty(v.out.Failures), "models": orEmpty(v.out.Models), "scrubbed": v.out.Scrubbed,
		}},
		{FindingsDocument, "application/json", object{"schema": 1, "review_id": v.in.ReviewID, "head_sha": v.in.HeadSHA, "findings": occurrences, "fixed": fixed, "counts": v.out.Counts}},
		{VerdictDocument, "application/json", v.out.Result},
		{PlanDocument, "application/json", v.out.Plan},
		{SummaryDocument, "text/markdown; charset=utf-8", v.out.Plan.Summary},
		{SARIFDocument, "application/sarif+json", v.sarif()},
		{RDJSONDocument, "application/json", v.rdjson()},
		{JSONDocument, "application/json", object{
			"schema": 1, "review_id": v.in.ReviewID, "repository": v.in.Repository, "pull_request": v.in.PullRequest,
			"base_sha": v.in.BaseSHA, "head_sha": v.in.HeadSHA, "policy_hash": v.out.Policy.Hash(), "result": v.out.Result,
			"counts": v.out.Counts, "findings": occurrences, "fixed": fixed, "plan": v.out.Plan,
		}},
	} {
		body, isText := []byte(nil), false
		if text, ok := d.value.(string); ok {
			body, isText = []byte(text), true
		}
		if !isText {
			var err error
			if body, err = json.MarshalIndent(d.value, "", "  "); err != nil {
				return fmt.Errorf("%s as JSON: %w", d.name, err)
			}
		}
		if err := v.keep(ctx, d.name, 0, digest(string(body)), d.mediaType, body); err != nil {
			return err
		}
		v.out.Documents = append(v.out.Documents, Document{d.name, d.mediaType, body})
	}
	return nil
}

// orEmpty returns a list that is [] and not null in JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
