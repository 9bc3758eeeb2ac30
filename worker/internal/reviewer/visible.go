package reviewer

import (
	"regexp"
	"strings"
	"unicode"
)

// invisible reports whether people do not see a character where models and compilers do.
func invisible(r rune) bool {
	switch {
	case r == '\t':
		return false
	case unicode.Is(unicode.Cc, r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Variation_Selector, r), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
		return true
	}
	return r == '\u2028' || r == '\u2029'
}

// flags are those of regions, which are spelled in tags.
var flags = regexp.MustCompile(`\x{1F3F4}[\x{E0020}-\x{E007F}]{1,7}`)

// deceives reports whether a text has characters that hide text or show it in another order.
func deceives(text string) bool {
	return strings.ContainsFunc(flags.ReplaceAllString(text, ""), deceptive)
}

// deceptive reports whether a character has hardly another use than to hide text or to
// show it in another order.
func deceptive(r rune) bool {
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || // order
		r >= 0xe0000 && r <= 0xe0fff // tags and selectors that carry text
}

// visible returns text without what nobody sees, and counts it.
func visible(text string, n *int) string {
	return strings.Map(func(r rune) rune {
		if invisible(r) {
			*n++
			return -1
		}
		return r
	}, text)
}
