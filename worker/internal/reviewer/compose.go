package reviewer

import (
	"fmt"
	"regexp"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

// maxSummary is how long a summary is at the most, in characters. Forges take a little more.
const maxSummary = 60_000

// plan returns what the review posts.
func (v *pass) plan() Plan {
	result := v.out.Result
	p := Plan{
		ReviewID: v.in.ReviewID, HeadSHA: v.in.HeadSHA,
		RequestChanges: v.out.Policy.RequestChanges && result.Verdict == review.Failed,
		Summary:        v.summary(),
		Comments:       []Comment{}, Resolutions: []Resolution{},
		Status: Status{State: map[review.Verdict]string{review.Passed: "success", review.Failed: "failure", review.Error: "error"}[result.Verdict], URL: v.in.URL},
	}
	p.TakeBack = v.out.Policy.RequestChanges && result.Verdict == review.Passed
	p.Status.Description = cut(v.status(), 140)
	if v.in.Report {
		p.Report = v.report(p.Status)
	}
	for _, o := range v.out.Occurrences {
		if o.Disposition == review.Posted || o.Disposition == review.Demoted {
			p.Comments = append(p.Comments, comment(o.Finding))
		}
	}
	for _, f := range v.out.Fixed {
		if f.Finding.ThreadID != "" {
			p.Resolutions = append(p.Resolutions, Resolution{
				Fingerprint: f.Finding.Fingerprint, ThreadID: f.Finding.ThreadID, CommentID: f.Finding.CommentID, Reply: reply(f),
			})
		}
	}
	return p
}

// reply returns what is said in the thread of a finding that is fixed.
func reply(f review.Fix) string {
	what := "the line is no longer there"
	if f.Evidence.Reason == review.FileDeleted {
		what = "the file is no longer there"
	}
	return fmt.Sprintf("Fixed in %s: %s.\n\n%s", cut(f.Evidence.Head, 40), what, Marker(f.Finding.Fingerprint))
}

// comment returns the comment for a finding.
func comment(f review.Finding) Comment {
	c := Comment{Fingerprint: f.Fingerprint, Path: f.Anchor.Path, Side: f.Anchor.Side, StartLine: f.Anchor.StartLine, Line: f.Anchor.Line}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** (%s, %s, confidence %.2f)\n\n%s\n\n", f.Title, f.Severity, f.Category, f.Confidence, f.Body)
	if f.Suggestion != nil {
		fence := fenceFor(*f.Suggestion)
		fmt.Fprintf(&b, "%ssuggestion\n%s\n%s\n\n", fence, strings.TrimSuffix(*f.Suggestion, "\n"), fence)
	}
	c.Body = b.String() + Marker(f.Fingerprint)
	return c
}

var ticks = regexp.MustCompile("`{3,}")

// fenceFor returns a fence that no line of the text ends.
func fenceFor(text string) string {
	n := 3
	for _, run := range ticks.FindAllString(text, -1) {
		n = max(n, len(run)+1)
	}
	return strings.Repeat("`", n)
}

// status returns the state of the review in one line: warnings first.
func (v *pass) status() string {
	result := v.out.Result
	first := result.Reasons[0].Detail
	if len(result.Warnings) > 0 {
		first = result.Warnings[0].Detail
	}
	return fmt.Sprintf("%s: %s", result.Verdict, inertLine(first, 120, v.Redact))
}

// summary returns the text of the review, in Markdown. It is cut between findings.
func (v *pass) summary() string {
	var b strings.Builder
	result := v.out.Result
	fmt.Fprintf(&b, "## Review: %s\n\n", result.Verdict)
	list := func(heading string, reasons []review.Reason) {
		if len(reasons) == 0 {
			return
		}
		fmt.Fprintf(&b, "**%s**\n\n", heading)
		for i, r := range reasons {
			if i == 20 {
				fmt.Fprintf(&b, "- and %d more\n", len(reasons)-i)
				break
			}
			fmt.Fprintf(&b, "- %s\n", inertLine(r.Detail, 200, v.Redact))
		}
		b.WriteString("\n")
	}
	list("Warnings", result.Warnings)
	list("Why", result.Reasons)
	fmt.Fprintf(&b, "%s reviewed", fault.Count(len(result.Coverage.Reviewed), "file"))
	if n := len(result.Coverage.Skipped); n > 0 {
		fmt.Fprintf(&b, ", %d skipped", n)
	}
	fmt.Fprintf(&b, "; %s open.\n", fault.Count(len(v.out.Open), "finding"))
	v.listFindings(&b)
	if len(v.out.Fixed) > 0 {
		fmt.Fprintf(&b, "\n**Fixed since**\n\n")
		for _, f := range v.out.Fixed[:min(len(v.out.Fixed), 30)] {
			fmt.Fprintf(&b, "- %s in %s\n", f.Finding.Title, code(f.Evidence.Path))
		}
	}
	if skipped := result.Coverage.Skipped; len(skipped) > 0 {
		fmt.Fprintf(&b, "\n<details><summary>Not reviewed</summary>\n\n")
		for i, s := range skipped {
			if i == 50 {
				fmt.Fprintf(&b, "- and %d more\n", len(skipped)-i)
				break
			}
			fmt.Fprintf(&b, "- %s: %s\n", code(s.Path), inertLine(strings.TrimSuffix(string(s.Reason)+", "+s.Detail, ", "), 100, v.Redact))
		}
		b.WriteString("\n</details>\n")
	}
	fmt.Fprintf(&b, "\nOf %s.\n", code(v.in.HeadSHA))
	return b.String()
}

// listFindings lists the findings that have no comment at their line: all open ones where
// nothing is posted, since the change is none of a forge.
func (v *pass) listFindings(b *strings.Builder) {
	heading, nowhere := "Without a comment of their own", v.in.Whole || v.in.PullRequest == 0
	if nowhere {
		heading = "Findings"
	}
	var rest []review.Occurrence
	for _, o := range v.out.Occurrences {
		if o.Disposition == review.Capped || nowhere && o.Finding.State == review.Open && o.Why != review.FoundTwice {
			rest = append(rest, o)
		}
	}
	if len(rest) == 0 {
		return
	}
	fmt.Fprintf(b, "\n**%s**\n\n", heading)
	const room = maxSummary - 30_000 // the rest is for the other lists, at their longest
	for i, o := range rest {
		line := fmt.Sprintf("- %s: **%s**, %s\n", o.Finding.Severity, o.Finding.Title, where(o.Finding.Anchor))
		if len(b.String())+len(line) > room {
			fmt.Fprintf(b, "- and %d more\n", len(rest)-i)
			return
		}
		b.WriteString(line)
	}
}

// where returns a place in Markdown.
func where(a review.Anchor) string {
	switch {
	case a.Line == 0:
		return code(a.Path)
	case a.Side == review.Left:
		return fmt.Sprintf("%s, deleted line %d", code(a.Path), a.Line)
	}
	return fmt.Sprintf("%s, line %d", code(a.Path), a.Line)
}
