package run

import (
	"fmt"
	"iter"

	"github.com/bmatcuk/doublestar/v4"
)

// maxAlternatives is how many alternatives a pattern may have: each may have to be
// matched with every file.
const maxAlternatives = 1000

// Alternatives yields, in order, the patterns without braces that a valid doublestar
// pattern stands for: a/*.xml and b/*.xml for {a,b}/*.xml.
func Alternatives(pattern string) iter.Seq[string] {
	return func(yield func(string) bool) { expand("", pattern, yield) }
}

// expand yields the alternatives of pattern, each after a text without braces, until yield
// returns false.
func expand(before, pattern string, yield func(string) bool) bool {
	begin, ends := braces(pattern)
	if len(ends) == 0 {
		return yield(before + pattern)
	}
	before, behind := before+pattern[:begin], pattern[ends[len(ends)-1]+1:]
	for _, end := range ends {
		if !expand(before, pattern[begin+1:end]+behind, yield) {
			return false
		}
		begin = end
	}
	return true
}

// braces returns where the first braces of a pattern open, and where their branches
// end; none where there are no braces.
func braces(pattern string) (begin int, ends []int) {
	depth := 0
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\':
			i++
		case c == '[': // in a class braces and commas are characters
			for i++; i < len(pattern) && pattern[i] != ']'; i++ {
				if pattern[i] == '\\' {
					i++
				}
			}
		case c == '{':
			if depth++; depth == 1 {
				begin = i
			}
		case c == ',' && depth == 1:
			ends = append(ends, i)
		case c == '}' && depth > 0:
			if depth--; depth == 0 {
				return begin, append(ends, i)
			}
		}
	}
	return 0, nil
}

// manyAlternatives is the message for a pattern that has [tooMany] alternatives.
var manyAlternatives = fmt.Sprintf("its braces stand for more than %d alternatives", maxAlternatives)

func tooMany(pattern string) bool {
	n := 0
	for range Alternatives(pattern) {
		if n++; n > maxAlternatives {
			return true
		}
	}
	return false
}

// badGlob returns why p is not a pattern of paths in a workspace, or "".
func badGlob(p string) string {
	switch {
	case BadPath(p) != "":
		return BadPath(p)
	case !doublestar.ValidatePattern(p):
		return "is not a pattern"
	case tooMany(p):
		return manyAlternatives
	}
	for path := range Alternatives(p) {
		if detail := BadPath(path); detail != "" {
			return fmt.Sprintf("its braces stand for %q, which %s", path, detail)
		}
	}
	return ""
}

// glob checks a pattern of paths in the workspace.
func (c *checker) glob(at, p string) {
	if c.open(p) {
		return
	}
	if detail := badGlob(p); detail != "" {
		c.add(at, detail)
	}
}
