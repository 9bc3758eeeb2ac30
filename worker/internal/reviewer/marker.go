package reviewer

import (
	"html"
	"regexp"
	"strings"
)

// Every text that is posted ends in a visible marker. It lets a review that was broken off
// find what it has posted already; it counts only in remarks of our own account, since
// anybody can write one (REVIEW.md §4).

const (
	markPrefix = "nofx fp1."
	markOpen   = "<sub>"
	markClose  = "</sub>"
)

// marked finds markers, whether or not the forge or its server kept the tags.
var marked = regexp.MustCompile(`nofx fp1\.([a-z0-9]+)`)

// Marker returns the marker of a finding, whose fingerprint may be written with fp1. or
// without.
func Marker(fingerprint string) string {
	return markOpen + markPrefix + bare(fingerprint) + markClose
}

// SummaryMarker returns the marker of a review's summary.
func SummaryMarker(reviewID string) string {
	return markOpen + "nofx review " + reviewID + markClose
}

func bare(fingerprint string) string { return strings.TrimPrefix(fingerprint, "fp1.") }

// withMarker returns body with its own marker at the end and no other one: a text that came
// from a model must not pass for another finding.
func withMarker(body, fingerprint string, limit int) string {
	mark := Marker(fingerprint)
	body = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(body), mark))
	body = strings.ReplaceAll(body, markPrefix, "nofx fp1 ")
	return cut(body, limit-len(mark)-2) + "\n\n" + mark
}

// markerOf returns the fingerprint that a remark ends in, or "".
func markerOf(body string) string {
	all := marked.FindAllStringSubmatch(html.UnescapeString(body), -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// hasMark reports whether a text has a marker.
func hasMark(body, mark string) bool {
	inner := strings.TrimSuffix(strings.TrimPrefix(mark, markOpen), markClose)
	for _, text := range []string{body, html.UnescapeString(body)} {
		for rest := text; ; {
			_, after, found := strings.Cut(rest, inner)
			if !found {
				break
			}
			if after == "" || !isWord(after[0]) {
				return true
			}
			rest = after
		}
	}
	return false
}

func isWord(c byte) bool {
	return c == '_' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
