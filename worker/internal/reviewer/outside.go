package reviewer

import (
	"strconv"
	"strings"

	"nofx.dev/shared/fault"
)

// headers are how lines of a diff begin that belong to no hunk.
var headers = []string{
	"diff -", "index ", "old mode ", "new mode ", "deleted file mode ", "new file mode ",
	"similarity index ", "dissimilarity index ", "rename ", "copy ", "--- ", "+++ ", "Binary files ", "Files ",
	"@@ -", `\ `, "Index: ", "=====",
}

// maxHeader is the longest line with two paths, quoted as git does.
const maxHeader = 8*maxPath + 32

// understood returns an error for hunks that are cut off, and for lines that a parser of
// diffs passes over although somebody may have meant them as a change: other forms of diff,
// and text between files.
// Before the first file, and after the signature of a mail, any text may stand.
func understood(text string) error {
	free := true          // whether any text may stand here
	var before, after int // lines of the hunk that are still to come
	number, begun := 0, 0 // of the line, and of the last heading of a hunk
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if number++; number > maxLines {
			return fault.New(fault.Invalid, "too-large", "the diff has more than %d lines", maxLines)
		}
		if before > 0 || after > 0 {
			switch {
			case strings.HasPrefix(line, "+"):
				after--
			case strings.HasPrefix(line, "-"):
				before--
			case line == "", line == "\r", strings.HasPrefix(line, " "):
				before--
				after--
			case !strings.HasPrefix(line, `\`):
				return badDiff("line %d: %.80q is no line of the hunk that begins at line %d and has more lines", number, line, begun)
			}
			continue
		}
		switch {
		case strings.HasPrefix(line, "diff --cc "), strings.HasPrefix(line, "diff --combined "), strings.HasPrefix(line, "@@@"):
			return badDiff("line %d: this is the combined diff of a merge; compare with one of the parents", number)
		case strings.HasPrefix(line, "diff --git "):
			if !prefixed(strings.TrimPrefix(line, "diff --git ")) {
				return badDiff("line %d: its paths have no prefixes such as a/ and b/; make it with git diff --src-prefix=a/ --dst-prefix=b/", number)
			}
			if len(line) > maxHeader { // comparing its halves takes the square of its length
				return badDiff("line %d: its paths have %d bytes; at most %d", number, len(line), maxHeader)
			}
			free = false
		case strings.HasPrefix(line, "@@ -"):
			free = false
			begun = number
			if before, after = counts(line); before < 0 || after < 0 {
				return badDiff("line %d: %.80q is no heading of a hunk", number, line)
			}
		case line == "GIT binary patch", line == "-- ":
			free = true
		case free:
		case line != "" && line != "\r" && !known(line):
			return badDiff("line %d: %.80q is no part of a diff", number, line)
		}
	}
	if before > 0 || after > 0 {
		return badDiff("line %d: the hunk that begins here has more lines than are there", begun)
	}
	return nil
}

func known(line string) bool {
	for _, h := range headers {
		if strings.HasPrefix(line, h) {
			return true
		}
	}
	return false
}

// prefixed reports whether the names of a diff --git line begin with a folder of one
// letter or digit, as git writes them (a/, or i/, w/, c/, o/, 1/).
func prefixed(names string) bool {
	names = strings.TrimPrefix(names, `"`)
	return len(names) > 2 && names[1] == '/'
}

// counts returns how many lines of the base and of the head a hunk has, and -1 for
// what cannot be read.
func counts(heading string) (before, after int) {
	was, rest, _ := strings.Cut(strings.TrimPrefix(heading, "@@ -"), " +")
	now, _, _ := strings.Cut(rest, " @@")
	return count(was), count(now)
}

func count(span string) int {
	_, n, found := strings.Cut(span, ",")
	if !found {
		return 1
	}
	lines, err := strconv.Atoi(n)
	if err != nil {
		return -1
	}
	return lines
}
