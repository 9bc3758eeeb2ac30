package reviewer

import (
	"html"
	"regexp"
	"strings"
)

// Limits of what a model's text becomes, in characters.
const (
	maxTitle = 120
	maxBody  = 1000

	maxReason = 300 // why a review came to what it did
)

var (
	images     = regexp.MustCompile(`!\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])`)
	links      = regexp.MustCompile(`\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])`)
	brackets   = regexp.MustCompile(`\]([(\[:])`)
	references = regexp.MustCompile(`(?m)^[ \t>]*\[[^\]]*\]:.*$`)
	addresses  = regexp.MustCompile(`(?i)<?(?:[\w+.-]*://|\b(?:www\.|mailto:|data:|javascript:))[^\s<>)\]]*>?`)
	mentions   = regexp.MustCompile(`@([\p{L}\p{N}_{/-])`)
	numbers    = regexp.MustCompile(`(#|GH-|!)(\d)`)
	tags       = regexp.MustCompile(`<([\p{L}/!?])`)
	entities   = regexp.MustCompile(`&(#?\w+;)`)
	commands   = regexp.MustCompile(`(?m)^([ \t>*+-]*)/+(\w)`)
	fences     = regexp.MustCompile("(?m)^[ \t>*+-]*(?:`{3,}|~{3,}).*$")
	markers    = regexp.MustCompile(`(?i)\bfp1\s*\.`)
)

// inert returns a text of a model without anything that does more than be read: links,
// images, mentions, HTML, commands of bots, suggestions that a forge offers to apply, and
// our own marker. Secrets are masked, and no more than most characters are left.
func inert(text string, most int, redact func(string) string) string {
	var n int
	lines := strings.Split(strings.ReplaceAll(clean(html.UnescapeString(text)), "\r\n", "\n"), "\n")
	for i := range lines {
		lines[i] = visible(lines[i], &n)
	}
	text = redact(strings.Join(lines, "\n"))
	text = fences.ReplaceAllString(text, "```")
	// What one rule takes out may leave what another takes out: until nothing changes.
	for before := ""; before != text; {
		before = text
		text = references.ReplaceAllString(text, "")
		text = images.ReplaceAllString(text, "$1")
		text = links.ReplaceAllString(text, "$1")
		text = brackets.ReplaceAllString(text, "] $1")
		text = addresses.ReplaceAllString(text, "(link removed)")
		text = mentions.ReplaceAllString(text, "@ $1")
		text = numbers.ReplaceAllString(text, "$1 $2")
		text = tags.ReplaceAllString(text, "< $1")
		text = entities.ReplaceAllString(text, "& $1")
		text = commands.ReplaceAllString(text, "$1$2")
		text = markers.ReplaceAllString(text, "fp1 ")
	}
	text = cut(text, most)
	if strings.Count(text, "```")%2 == 1 { // else what comes after the text would be code, too
		text = strings.ReplaceAll(text, "```", "")
	}
	return strings.TrimSpace(text)
}

// inertLine returns a text of a model in one line.
func inertLine(text string, most int, redact func(string) string) string {
	return inert(strings.Join(strings.Fields(text), " "), most, redact)
}

// cut returns the first characters of a text.
func cut(text string, most int) string {
	n := 0
	for i := range text {
		if n == most {
			return text[:i]
		}
		n++
	}
	return text
}

// code returns a text that others wrote, such as a path, as code in Markdown.
func code(text string) string {
	text = strings.Map(func(r rune) rune {
		if invisible(r) || r == '\t' || r == '`' || r == '|' {
			return '?'
		}
		return r
	}, clean(text))
	return "`" + cut(text, 120) + "`"
}
