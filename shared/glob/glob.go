// Package glob bounds what patterns of paths may cost. Their braces stand for alternatives,
// each of which may have to be matched with every file, and a few characters can stand for
// more of them than anybody can wait for.
package glob

import (
	"fmt"
	"iter"

	"github.com/bmatcuk/doublestar/v4"
)

// Max is how many alternatives a pattern may have.
const Max = 1000

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

// NoPattern is the problem of a text that is not a doublestar pattern.
const NoPattern = "is not a pattern"

// Problem returns why a text is not a doublestar pattern that may be used, or "".
func Problem(pattern string) string {
	if !doublestar.ValidatePattern(pattern) {
		return NoPattern
	}
	n := 0
	for range Alternatives(pattern) {
		if n++; n > Max {
			return fmt.Sprintf("its braces stand for more than %d alternatives", Max)
		}
	}
	return ""
}
