package reviewer

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

// SARIF 2.1.0, as far as a review has something to say in it.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Versions    []sarifVersion    `json:"versionControlProvenance,omitempty"`
		Results     []sarifResult     `json:"results"`
		ColumnKind  string            `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID string `json:"id"`
	}
	sarifInvocation struct {
		Successful    bool                `json:"executionSuccessful"`
		Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNotification struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifVersion struct {
		Repository string `json:"repositoryUri"`
		Revision   string `json:"revisionId,omitempty"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"fingerprints"`
		Fixes        []sarifFix        `json:"fixes,omitempty"`
		Properties   map[string]any    `json:"properties"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
		EndLine   int `json:"endLine,omitempty"`
	}
	sarifFix struct {
		Changes []sarifChange `json:"artifactChanges"`
	}
	sarifChange struct {
		Artifact     sarifArtifact      `json:"artifactLocation"`
		Replacements []sarifReplacement `json:"replacements"`
	}
	sarifReplacement struct {
		Deleted  sarifRegion `json:"deletedRegion"`
		Inserted sarifText   `json:"insertedContent"`
	}
)

// sarif returns the findings as SARIF. A deleted line has no place in the head, so it is
// given as a finding of its file, with the line among the properties.
func (v *pass) sarif() sarifLog {
	findings := v.open()
	rules := []sarifRule{}
	for _, f := range findings {
		if id := ruleOf(f); !slices.Contains(rules, sarifRule{id}) {
			rules = append(rules, sarifRule{id})
		}
	}
	invocation := sarifInvocation{Successful: v.out.Result.Verdict != review.Error}
	for _, w := range v.out.Result.Warnings {
		invocation.Notifications = append(invocation.Notifications, sarifNotification{"warning", sarifText{inertLine(w.Detail, maxReason, v.Redact)}})
	}
	for _, e := range v.errors {
		invocation.Notifications = append(invocation.Notifications, sarifNotification{"error", sarifText{inertLine(e.Detail, maxReason, v.Redact)}})
	}
	run := sarifRun{
		Tool: sarifTool{sarifDriver{"nofx", rules}}, Invocations: []sarifInvocation{invocation}, Results: []sarifResult{}, ColumnKind: "utf16CodeUnits",
	}
	for _, f := range findings {
		at := sarifPhysical{Artifact: sarifArtifact{uri(f.Anchor.Path)}}
		if f.Anchor.Side == review.Right && f.Anchor.Line > 0 {
			at.Region = &sarifRegion{cmp.Or(f.Anchor.StartLine, f.Anchor.Line), f.Anchor.Line}
		}
		r := sarifResult{
			RuleID: ruleOf(f), RuleIndex: slices.Index(rules, sarifRule{ruleOf(f)}), Level: level(f.Severity),
			Message: sarifText{f.Title + "\n\n" + f.Body}, Locations: []sarifLocation{{at}},
			Fingerprints: map[string]string{"nofx/" + strings.TrimPrefix(review.FingerprintVersion, "fp"): f.Fingerprint},
			Properties:   map[string]any{"category": f.Category, "severity": f.Severity, "confidence": f.Confidence, "side": f.Anchor.Side, "line": f.Anchor.Line},
		}
		if f.Suggestion != nil && at.Region != nil {
			r.Fixes = []sarifFix{{[]sarifChange{{at.Artifact, []sarifReplacement{{*at.Region, sarifText{*f.Suggestion}}}}}}}
		}
		run.Results = append(run.Results, r)
	}
	return sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}
}

// open returns the open findings. Those that this review did not see again have no line, since
// theirs is one of an earlier head.
func (v *pass) open() []review.Finding {
	all := slices.Clone(v.out.Open)
	for i := range all {
		seen := func(o review.Occurrence) bool { return o.Finding.Fingerprint == all[i].Fingerprint }
		if !slices.ContainsFunc(v.out.Occurrences, seen) {
			all[i].Anchor.StartLine, all[i].Anchor.Line, all[i].Suggestion = 0, 0, nil
		}
	}
	return all
}

func ruleOf(f review.Finding) string { return cmp.Or(f.RuleID, string(f.Category)) }

// uri returns a path as a relative reference.
func uri(path string) string { return (&url.URL{Path: path}).String() }

func level(s review.Severity) string {
	switch s {
	case review.Critical, review.High:
		return "error"
	case review.Medium:
		return "warning"
	}
	return "note"
}
