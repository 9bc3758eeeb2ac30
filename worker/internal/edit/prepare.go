package edit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// GatesFile is where a workspace says what its gates run. A model may not change
// how its work is judged.
const GatesFile = "nofx.json"

// Change is one file as it will be.
type Change struct {
	Path    string
	Content []byte // nil deletes it
	mode    fs.FileMode
}

// Prepare returns the changes that an answer comes to, or an *Invalid with all that is
// wrong: paths outside of the workspace or below a link, files twice, a search text
// that is not there exactly once, a whole new content for a file that was not shown,
// or shown with parts of it masked.
func Prepare(root *os.Root, a Answer, shown []Source) ([]Change, error) {
	p := preparer{root: root, shown: map[string]Source{}, paths: map[string]bool{}}
	for _, s := range shown {
		p.shown[s.Path] = s
	}
	changes := make([]Change, 0, len(a.Files))
	for i, f := range a.Files {
		c, problem, err := p.file(f)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			p.wrong.add("files/%d %.200q: %s", i, f.Path, problem)
		}
		changes = append(changes, c)
	}
	for i, f := range a.Files {
		for j, c := range f.Path {
			if c == '/' && p.paths[f.Path[:j]] {
				p.wrong.add("files/%d %.200q: %.200q is one of the files too", i, f.Path, f.Path[:j])
			}
		}
	}
	return changes, p.wrong.err()
}

type preparer struct {
	root  *os.Root
	shown map[string]Source
	paths map[string]bool
	wrong Invalid
}

// file returns one change, or the problem with it. An error is this machine's.
func (p *preparer) file(f File) (c Change, problem string, err error) {
	if problem := badPath(f.Path); problem != "" {
		return c, problem, nil
	}
	if p.paths[f.Path] {
		return c, "is there twice", nil
	}
	p.paths[f.Path] = true
	if link, err := linked(p.root, f.Path); err != nil || link != "" {
		return c, fmt.Sprintf("%q is no folder", link), err
	}
	info, err := p.root.Lstat(f.Path)
	there := err == nil
	switch {
	case err != nil && !isMissing(err):
		return c, "", err
	case there && !info.Mode().IsRegular():
		return c, "is no regular file", nil
	case !there && f.Action != Write:
		return c, "there is no such file", nil
	}
	c = Change{Path: f.Path, mode: 0o644}
	if there {
		c.mode = info.Mode().Perm()
	}
	switch f.Action {
	case Delete:
		return c, "", nil
	case Write:
		was, seen := p.shown[f.Path]
		switch {
		case there && !seen:
			return c, "is there already and was not shown; edit it, or take another path", nil
		case there && was.Masked:
			return c, "was shown with secrets masked, so it can be edited but not written as a whole", nil
		}
		c.Content = []byte(*f.Content)
	case Edit:
		text, err := read(p.root, f.Path, MaxFileBytes)
		if e, ok := errors.AsType[*fault.Error](err); ok {
			return c, e.Detail, nil
		}
		if err != nil || text == nil {
			return c, "is no text", err
		}
		content, problem := replace(string(text), f.Edits)
		if problem != "" {
			return c, problem, nil
		}
		c.Content = []byte(content)
	}
	if len(c.Content) > MaxFileBytes {
		return c, fmt.Sprintf("would have %d bytes; at most %d", len(c.Content), MaxFileBytes), nil
	}
	if problem := run.BadText(string(c.Content)); problem != "" {
		return c, "its text " + problem, nil
	}
	return c, "", nil
}

func badPath(path string) string {
	if problem := run.BadPath(path); problem != "" {
		return "the path " + problem
	}
	switch parts := strings.Split(path, "/"); {
	case slices.ContainsFunc(parts, reserved):
		return "the path has the element .git"
	case path == GatesFile:
		return "what the gates run is not changed here"
	}
	return ""
}

// replace makes the replacements, each on what the one before left.
func replace(text string, edits []Replacement) (_, problem string) {
	for i, e := range edits {
		if e.Search == "" {
			return "", fmt.Sprintf("edits/%d: search is empty", i)
		}
		switch from, to, with, n := e.find(text); {
		case n == 0:
			return "", fmt.Sprintf("edits/%d: the search text is not in the file; white space counts", i)
		case n > 1:
			return "", fmt.Sprintf("edits/%d: the search text is in the file more than once; take more of what is around it", i)
		default:
			text = text[:from] + with + text[to:]
		}
		if len(text) > MaxFileBytes {
			return "", fmt.Sprintf("edits/%d: the file would have more than %d bytes", i, MaxFileBytes)
		}
	}
	return text, ""
}

const lf, crlf = "\n", "\r\n"

// find returns where in text the search text is, what comes there, and whether it is
// there n = 0, 1 or more times. A line is the same whether it ends with LF or CRLF,
// or is the last and has no end; what comes ends its lines as those do in whose place
// it comes. A search text with a CRLF that is in the file means just that.
func (e Replacement) find(text string) (from, to int, with string, n int) {
	if strings.Contains(e.Search, crlf) && strings.Contains(text, e.Search) {
		from, n = findOnce(text, e.Search)
		return from, from + len(e.Search), e.Replace, n
	}
	plain, search := strings.ReplaceAll(text, crlf, lf), strings.ReplaceAll(e.Search, crlf, lf)
	open := plain != "" && !strings.HasSuffix(plain, lf) && strings.HasSuffix(search, lf)
	if open {
		plain += lf
	}
	at, n := findOnce(plain, search)
	if n != 1 {
		return 0, 0, "", n
	}
	end := at + len(search)
	with = e.Replace
	if open && end == len(plain) {
		end--
		with = strings.TrimSuffix(strings.TrimSuffix(with, lf), "\r")
	}
	from, to = offset(text, at), offset(text, end)
	around := text[from:to]
	if !strings.Contains(around, lf) {
		around = text
	}
	if ends := strings.Count(around, lf); ends > 0 {
		with = strings.ReplaceAll(with, crlf, lf)
		if 2*strings.Count(around, crlf) > ends {
			with = strings.ReplaceAll(with, lf, crlf)
		}
	}
	return from, to, with, 1
}

// findOnce returns where part is in text, and 2 if it is there more than once.
func findOnce(text, part string) (at, n int) {
	at = strings.Index(text, part)
	switch {
	case at < 0:
		return 0, 0
	case strings.Contains(text[at+1:], part):
		return at, 2
	}
	return at, 1
}

// offset returns the place in text that is at byte n of it with LF for each CRLF.
func offset(text string, n int) int {
	at := 0
	for ; n > 0; n-- {
		if strings.HasPrefix(text[at:], crlf) {
			at++
		}
		at++
	}
	return at
}

// isMissing reports that there is nothing, or nothing could be below a file.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
