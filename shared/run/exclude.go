package run

import (
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"nofx.dev/shared/glob"
)

// Exclude is a pattern of a workspace's excludes. Files and directories that it matches are
// kept out of checkpoints, directories with their whole content.
//
// It is a doublestar pattern, with slashes as in a .gitignore: a pattern that ends with a
// slash matches only directories, and a pattern without a slash at its beginning or inside
// matches names at any depth. A pattern that ends in /** leaves out the content of a
// directory, and keeps the directory.
type Exclude struct {
	pattern  string
	anchored bool // the pattern matches a path, not a name
	dirs     bool
}

// ParseExclude reads a pattern. The problem says why the text is not a pattern, or is "".
func ParseExclude(pattern string) (e Exclude, problem string) {
	text, dirs := strings.CutSuffix(pattern, "/")
	text, rooted := strings.CutPrefix(text, "/")
	e = Exclude{pattern: text, anchored: rooted || strings.Contains(text, "/"), dirs: dirs}
	switch {
	case text == "":
		return e, "must name a file or folder"
	case BadText(text) != "":
		return e, BadText(text)
	case text[0] == '!':
		return e, `cannot bring files back; for a name that begins with !, write \!`
	case glob.Problem(text) != "":
		return e, glob.Problem(text)
	}
	for element := range strings.SplitSeq(text, "/") {
		if element == "" || element == "." || element == ".." {
			return e, "has an empty, . or .. element"
		}
	}
	if strings.HasSuffix(text, "/**") {
		e.pattern += "/*" // ** alone would match the directory too
	}
	return e, ""
}

// Match reports whether the file or directory at a path of the workspace is left out.
func (e Exclude) Match(at string, dir bool) bool {
	if e.dirs && !dir {
		return false
	}
	if !e.anchored {
		at = path.Base(at)
	}
	return doublestar.MatchUnvalidated(e.pattern, at)
}
