package reviewer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"

	"nofx.dev/shared/review"
)

// generated are patterns of files that programs write. Nobody mends those by hand.
var generated = []string{
	"**/*.{gen,pb,pb.gw,generated}.*", "**/*_{generated,gen}.*", "**/*_pb2{,_grpc}.py{,i}", "**/*.min.{js,css}", "**/*.{js,css}.map", "**/*.snap",
	"**/go.{sum,work.sum}", "**/{package-lock,npm-shrinkwrap}.json", "**/{yarn,Cargo,poetry,uv,Gemfile,composer,flake,bun,Pipfile}.lock", "**/pnpm-lock.yaml",
	"**/{vendor,node_modules,third_party}/**",
}

// saysGenerated is how a file says that a program wrote it.
var saysGenerated = regexp.MustCompile(`^\W*Code generated .* DO NOT EDIT\.\W*$|^\W*@generated\b`)

// longest is the longest line that is shown, in bytes. A longer one was not written by hand.
const longest = 5000

// choose returns the files that are reviewed, and why the others are not.
func choose(files []File, p review.Policy, redact func(string) string) (chosen []File, skipped []review.Skip) {
	lines := 0
	for _, f := range files {
		reason, detail := whyNot(f, p, redact)
		if reason == "" {
			added, deleted := f.Changed()
			switch n := added + deleted; {
			case len(chosen) == p.Limits.Files:
				reason, detail = review.SkippedLimit, fmt.Sprintf("more than %d files", p.Limits.Files)
			case lines+n > p.Limits.ChangedLines:
				reason, detail = review.SkippedLimit, fmt.Sprintf("its %d changed lines would be more than %d in all", n, p.Limits.ChangedLines)
			default:
				lines += n
			}
		}
		if reason != "" {
			skipped = append(skipped, review.Skip{Path: redact(clean(f.Path)), Reason: reason, Detail: detail})
			continue
		}
		chosen = append(chosen, f)
	}
	return chosen, skipped
}

func whyNot(f File, p review.Policy, redact func(string) string) (reason review.Skipped, detail string) {
	switch {
	case p.Ignores(f.Path):
		return review.SkippedIgnored, "by the policy"
	case f.Submodule:
		return review.SkippedSubmodule, "a commit of another repository"
	case f.Binary:
		return review.SkippedBinary, ""
	case len(f.Hunks) == 0:
		return review.SkippedNoLines, ""
	case !utf8.ValidString(f.Path):
		return review.SkippedUnread, "its name is not UTF-8"
	case redact(f.Path) != f.Path:
		return review.SkippedUnread, "its name has a secret"
	case slices.ContainsFunc(generated, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, f.Path) }):
		return review.SkippedGenerated, "by its name"
	}
	for _, h := range f.Hunks {
		for _, l := range h.Lines {
			if _, n := l.Place(); n <= 10 && saysGenerated.MatchString(l.Text) {
				return review.SkippedGenerated, "as it says itself"
			}
		}
	}
	for _, h := range f.Hunks {
		for _, l := range h.Lines {
			if len(l.Text) > longest {
				return review.SkippedUnread, fmt.Sprintf("a line has more than %d bytes", longest)
			}
		}
	}
	return "", ""
}

// Scrubbed counts what was taken out of a diff before a model sees it.
type Scrubbed struct {
	Secrets   int `json:"secrets"`   // lines with a secret
	Invisible int `json:"invisible"` // characters that nobody sees
}

// scrub returns the files as they are shown: without secrets and without characters that
// nobody sees. Lines stay lines. redact masks secrets.
func scrub(files []File, redact func(string) string) (out []File, n Scrubbed) {
	out = slices.Clone(files)
	for i := range out {
		out[i].Hunks = slices.Clone(out[i].Hunks)
		for j := range out[i].Hunks {
			h := &out[i].Hunks[j]
			texts := make([]string, 0, len(h.Lines)+1)
			for _, l := range h.Lines {
				texts = append(texts, l.Text)
			}
			masked := maskLines(append(texts, h.Heading), redact)
			h.Lines = slices.Clone(h.Lines)
			for k := range h.Lines {
				if masked[k] != h.Lines[k].Text {
					n.Secrets++
				}
				h.Lines[k].Text = visible(masked[k], &n.Invisible)
			}
			h.Heading = strings.TrimSpace(visible(masked[len(h.Lines)], &n.Invisible))
		}
		out[i].spots = spotsOf(out[i].Hunks)
	}
	return out, n
}

// wholly stands for a line that is part of a secret of several lines.
const wholly = "[redacted]"

// maskLines masks secrets in lines, those of several lines too, and returns as many lines.
func maskLines(lines []string, redact func(string) string) []string {
	masked := strings.Split(redact(strings.Join(lines, "\n")), "\n")
	if len(masked) == len(lines) {
		return masked
	}
	// A mask took the place of several lines. What is the same from both ends stays.
	same := func(i, j int) bool { return masked[j] == lines[i] || masked[j] == redact(lines[i]) }
	head, tail := 0, 0
	for head < len(masked) && same(head, head) {
		head++
	}
	for tail < len(masked)-head && same(len(lines)-1-tail, len(masked)-1-tail) {
		tail++
	}
	out := slices.Repeat([]string{wholly}, len(lines))
	copy(out, masked[:head])
	copy(out[len(lines)-tail:], masked[len(masked)-tail:])
	return out
}
