package reviewer

import (
	"bufio"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

// Limits of a diff that is read at all. What a review reads of it is the policy's to say.
const (
	MaxDiffBytes = 32 << 20
	maxLines     = 500_000
	maxFiles     = 10_000
	maxPath      = 4096
)

// Change is what a diff does to a file.
type Change string

// The changes of a file.
const (
	Modified Change = "modified"
	Added    Change = "added"
	Deleted  Change = "deleted"
	Renamed  Change = "renamed"
	Copied   Change = "copied"
)

// File is one file of a diff.
type File struct {
	Path      string   `json:"path"`               // at the head; of a deleted file, at the base
	OldPath   string   `json:"old_path,omitempty"` // of a renamed or copied file, at the base
	Change    Change   `json:"change"`
	Binary    bool     `json:"binary,omitempty"`
	Submodule bool     `json:"submodule,omitempty"`
	OldMode   string   `json:"old_mode,omitempty"` // octal, where the diff says it
	NewMode   string   `json:"new_mode,omitempty"`
	Hunks     []Hunk   `json:"-"`
	spots     [][]spot // of the lines of the hunks; nil: not looked for yet
}

// Hunk is a part of a file with its changed lines.
type Hunk struct {
	OldStart, OldLines int
	NewStart, NewLines int
	Heading            string // what git shows of the text before the hunk
	Lines              []Line
}

// The marks of lines.
const (
	Context    = ' '
	Addition   = '+'
	Subtracted = '-'
)

// Line is a line of a hunk.
type Line struct {
	Mark     byte
	Old, New int    // its number at the base and at the head, 0 where it is not there
	Text     string // valid UTF-8, without what ends the line
}

// Place returns the side and the number by which a line is named: LEFT for deleted lines,
// RIGHT for all others.
func (l Line) Place() (review.Side, int) {
	if l.Mark == Subtracted {
		return review.Left, l.Old
	}
	return review.Right, l.New
}

// Changed returns how many lines of the file were added and deleted.
func (f File) Changed() (added, deleted int) {
	for _, h := range f.Hunks {
		for _, l := range h.Lines {
			switch l.Mark {
			case Addition:
				added++
			case Subtracted:
				deleted++
			}
		}
	}
	return added, deleted
}

// ParseDiff reads a diff as git makes it, or a unified diff of another program. A text
// without any change is no file and no error. What is not understood is fault.Invalid with
// the number of the line: text that might be a change is not passed over.
func ParseDiff(text string) ([]File, error) {
	if len(text) > MaxDiffBytes {
		return nil, fault.New(fault.Invalid, "too-large", "the diff has %d bytes; at most %d", len(text), MaxDiffBytes)
	}
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return nil, badDiff("it is UTF-16; write it as UTF-8") // as PowerShell redirects
	}
	text = strings.TrimPrefix(text, "\ufeff")
	if head, _, _ := strings.Cut(text, "\n"); strings.HasPrefix(head, "diff ") && strings.HasSuffix(head, "\r") {
		text = strings.ReplaceAll(text, "\r\n", "\n") // written as text by a system that ends lines so
	}
	if err := understood(text); err != nil {
		return nil, err
	}
	parsed, _, err := gitdiff.Parse(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		return nil, badDiff("%s", strings.TrimPrefix(err.Error(), "gitdiff: "))
	}
	if len(parsed) == 0 && strings.TrimSpace(text) != "" {
		return nil, badDiff("it changes no file")
	}
	if len(parsed) > maxFiles {
		return nil, fault.New(fault.Invalid, "too-large", "the diff changes %d files; at most %d", len(parsed), maxFiles)
	}
	files := make([]File, 0, len(parsed))
	at := map[string]int{}
	for _, p := range parsed {
		f, err := newFile(p)
		if err != nil {
			return nil, err
		}
		i, again := at[f.Path]
		switch {
		case !again:
			at[f.Path] = len(files)
			files = append(files, f)
		case files[i].becomes(f):
			files[i] = files[i].as(f)
		default:
			return nil, badDiff("it changes %.200q twice; give one diff from the base to the head", f.Path)
		}
	}
	return files, nil
}

// becomes reports whether a deleted file and one that is added in its place are of different
// kinds, such as a file and a symlink: git shows those as two changes.
func (f File) becomes(other File) bool {
	const permissions = 3 // digits at the end of a mode
	return f.Change == Deleted && other.Change == Added && len(f.OldMode) > permissions && len(other.NewMode) > permissions &&
		f.OldMode[:len(f.OldMode)-permissions] != other.NewMode[:len(other.NewMode)-permissions]
}

// as returns one change of a deleted file and of what it has become. What lines there are
// on either side are reviewed.
func (f File) as(other File) File {
	f.Change, f.NewMode, f.Hunks = Modified, other.NewMode, append(f.Hunks, other.Hunks...)
	f.Submodule = false
	f.Binary = (f.Binary || other.Binary) && len(f.Hunks) == 0
	return f
}

func badDiff(format string, args ...any) error {
	return fault.New(fault.Invalid, "invalid-diff", "the diff cannot be read: "+format, args...)
}

func newFile(p *gitdiff.File) (File, error) {
	f := File{Path: p.NewName, Change: Modified, Binary: p.IsBinary, OldMode: octal(p.OldMode), NewMode: octal(p.NewMode)}
	switch {
	case p.IsNew:
		f.Change = Added
	case p.IsDelete:
		f.Change, f.Path = Deleted, p.OldName
	case p.IsRename:
		f.Change, f.OldPath = Renamed, p.OldName
	case p.IsCopy:
		f.Change, f.OldPath = Copied, p.OldName
	}
	if problem := badPath(f.Path); problem != "" {
		return f, badDiff("the path %.200q %s", f.Path, problem)
	}
	if problem := badPath(f.OldPath); problem != "" && f.OldPath != "" {
		return f, badDiff("the path %.200q %s", f.OldPath, problem)
	}
	f.Submodule = f.OldMode == gitlink || f.NewMode == gitlink
	for i, frag := range p.TextFragments {
		h, err := newHunk(frag)
		if err != nil {
			return f, badDiff("hunk %d of %.200q %s", i+1, f.Path, err)
		}
		if last := len(f.Hunks) - 1; last >= 0 && (h.OldStart < f.Hunks[last].OldStart+f.Hunks[last].OldLines || h.NewStart < f.Hunks[last].NewStart+f.Hunks[last].NewLines) {
			return f, badDiff("hunk %d of %.200q begins before the one above it ends", i+1, f.Path)
		}
		f.Hunks = append(f.Hunks, h)
	}
	return f, nil
}

// gitlink is the mode of a submodule.
const gitlink = "160000"

func octal(m fs.FileMode) string {
	if m == 0 {
		return ""
	}
	return fmt.Sprintf("%06o", uint32(m))
}

func badPath(p string) string {
	switch {
	case p == "":
		return "is empty"
	case len(p) > maxPath:
		return fmt.Sprintf("is longer than %d bytes", maxPath)
	case strings.HasPrefix(p, "/"):
		return "is absolute"
	case strings.ContainsRune(p, 0):
		return "has a NUL"
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "leads out of the repository"
	}
	return ""
}

// maxLine is the highest number of a line, far from where sums overflow.
const maxLine = 1 << 30

func newHunk(frag *gitdiff.TextFragment) (Hunk, error) {
	for _, n := range []int64{frag.OldPosition, frag.OldLines, frag.NewPosition, frag.NewLines} {
		if n < 0 || n > maxLine {
			return Hunk{}, fmt.Errorf("has the number %d in its heading", n)
		}
	}
	h := Hunk{
		OldStart: int(frag.OldPosition), OldLines: int(frag.OldLines),
		NewStart: int(frag.NewPosition), NewLines: int(frag.NewLines),
		Heading: clean(frag.Comment), Lines: make([]Line, 0, len(frag.Lines)),
	}
	if h.OldStart == 0 && h.OldLines > 0 || h.NewStart == 0 && h.NewLines > 0 {
		return Hunk{}, fmt.Errorf("begins at line 0, and lines count from 1")
	}
	was, now := h.OldStart, h.NewStart
	for _, l := range frag.Lines {
		line := Line{Text: clean(strings.TrimSuffix(strings.TrimSuffix(l.Line, "\n"), "\r"))}
		switch l.Op {
		case gitdiff.OpContext:
			line.Mark, line.Old, line.New = Context, was, now
			was++
			now++
		case gitdiff.OpDelete:
			line.Mark, line.Old = Subtracted, was
			was++
		case gitdiff.OpAdd:
			line.Mark, line.New = Addition, now
			now++
		}
		h.Lines = append(h.Lines, line)
	}
	return h, nil
}

// clean returns text as valid UTF-8.
func clean(text string) string { return strings.ToValidUTF8(text, "\ufffd") }
