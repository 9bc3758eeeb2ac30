package run

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const maxRef = 255 // characters

// BadRef returns why s cannot name a branch, tag or commit, or "". It accepts the names
// that git-check-ref-format accepts, except those that git would read as options.
func BadRef(s string) string {
	switch i := strings.IndexFunc(s, func(c rune) bool { return strings.ContainsRune(`:~^?*[\`, c) }); {
	case s == "":
		return "is required"
	case BadText(s) != "":
		return BadText(s)
	case utf8.RuneCountInString(s) > maxRef:
		return fmt.Sprintf("is longer than %d characters", maxRef)
	case s[0] == '-':
		return "begins with -"
	case strings.Contains(s, " "):
		return "has a space"
	case strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return "has a control character"
	case i >= 0:
		return fmt.Sprintf("has %q, which the name of a branch or tag cannot have", s[i:i+1])
	case s == "@":
		return "is only @; leave the ref out for HEAD"
	case strings.HasSuffix(s, "."):
		return "ends with ."
	}
	for _, part := range []string{"..", "@{"} {
		if strings.Contains(s, part) {
			return fmt.Sprintf("has %q, which the name of a branch or tag cannot have", part)
		}
	}
	for part := range strings.SplitSeq(s, "/") {
		switch {
		case part == "":
			return "has an empty part between slashes"
		case part[0] == '.':
			return fmt.Sprintf("has the part %q, which begins with .", part)
		case strings.HasSuffix(part, ".lock"):
			return fmt.Sprintf("has the part %q, which ends with .lock", part)
		}
	}
	return ""
}
