package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// corpusCase is a change and what is wrong with it: nothing, for a clean one.
type corpusCase struct {
	Name     string        `json:"name"` // of its file, without .diff
	HeldOut  bool          `json:"held_out"`
	Source   string        `json:"source"`
	Licence  string        `json:"licence"`
	Findings []corpusLabel `json:"findings"`

	file string
}

// corpusLabel is something wrong at a line of the new file.
type corpusLabel struct {
	Path     string `json:"path"`
	Line     int    `json:"line"`
	Rule     string `json:"rule"`
	Category string `json:"category"`
}

func (c corpusCase) half() evalHalf {
	if c.HeldOut {
		return heldOut
	}
	return openHalf
}

// readCorpus reads a folder with cases.json and a diff for each case. All that is wrong with
// it is one error.
func readCorpus(folder string) ([]corpusCase, error) {
	file := filepath.Join(folder, "cases.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("the corpus: %w", err)
	}
	var cases []corpusCase
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields() // a misspelt findings would make the case a clean one
	if err := d.Decode(&cases); err != nil {
		return nil, usagef("the corpus is not a list of cases: %w", inJSON(file, raw, err))
	}
	if len(cases) == 0 {
		return nil, usagef("the corpus has no cases: %s", file)
	}
	var wrong []error
	seen := map[string]bool{}
	for i := range cases {
		c := &cases[i]
		switch {
		case c.Name == "":
			wrong = append(wrong, fmt.Errorf("%s: case %d has no name", file, i+1))
			continue
		case !filepath.IsLocal(c.Name):
			wrong = append(wrong, fmt.Errorf("%s: case %q is not in the folder", file, c.Name))
			continue
		case seen[c.Name]:
			wrong = append(wrong, fmt.Errorf("%s: case %q is there twice", file, c.Name))
		}
		seen[c.Name] = true
		c.file = filepath.Join(folder, c.Name+".diff")
		diff, err := os.ReadFile(c.file)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		wrong = append(wrong, c.check(newLines(string(diff)))...)
	}
	if len(wrong) > 0 {
		const shown = 10
		if more := len(wrong) - shown; more > 0 {
			wrong = append(wrong[:shown:shown], fmt.Errorf("and %d more", more))
		}
		return nil, usagef("the corpus: %w", errors.Join(wrong...))
	}
	return cases, nil
}

// check returns what is wrong with the labels of a case, whose diff shows these lines.
func (c corpusCase) check(shown map[string][]int) (wrong []error) {
	if len(shown) == 0 {
		return []error{fmt.Errorf("%s has no line of a new file", c.file)}
	}
	for _, l := range c.Findings {
		lines, changed := shown[l.Path]
		switch {
		case l.Rule == "" || l.Category == "":
			wrong = append(wrong, fmt.Errorf("%s: the label at %s:%d needs a rule and a category", c.file, l.Path, l.Line))
		case !changed:
			wrong = append(wrong, fmt.Errorf("%s: the label at %s:%d is outside of the diff, which does not change that file", c.file, l.Path, l.Line))
		case !slices.Contains(lines, l.Line):
			wrong = append(wrong, fmt.Errorf("%s: the label at %s:%d is outside of the diff, which shows %s", c.file, l.Path, l.Line, ranges(lines)))
		}
	}
	return wrong
}

// newLines returns the numbers of the lines of new files that a diff of git shows, by path.
func newLines(diff string) map[string][]int {
	shown := map[string][]int{}
	var path string
	var before, after, line int // lines of the hunk that are to come; number of the next new one
	for text := range strings.Lines(diff) {
		switch {
		case before > 0 || after > 0:
			switch text[0] {
			case '-':
				before--
			case '\\': // no newline at the end of the file
			default:
				if text[0] != '+' {
					before--
				}
				shown[path] = append(shown[path], line)
				after, line = after-1, line+1
			}
		case strings.HasPrefix(text, "+++ "):
			path = newPath(strings.TrimSuffix(strings.TrimRight(text[len("+++ "):], "\r\n"), "\t"))
		case strings.HasPrefix(text, "@@ -"):
			fields := strings.Fields(text)
			if len(fields) < 3 {
				continue
			}
			_, before = hunkRange(fields[1])
			line, after = hunkRange(fields[2])
		}
	}
	return shown
}

// newPath returns the path in the name of a new file, which git quotes if it must.
func newPath(name string) string {
	if unquoted, err := strconv.Unquote(name); err == nil {
		name = unquoted
	}
	return strings.TrimPrefix(name, "b/")
}

// hunkRange reads a range such as +12,3; without a length it has one line.
func hunkRange(text string) (first, lines int) {
	at, length, several := strings.Cut(text[1:], ",")
	first, _ = strconv.Atoi(at)
	lines = 1
	if several {
		lines, _ = strconv.Atoi(length)
	}
	return first, lines
}

// ranges returns ascending numbers for people: lines 3–5, 9–9.
func ranges(lines []int) string {
	var list []string
	for i := 0; i < len(lines); {
		j := i + 1
		for j < len(lines) && lines[j] == lines[j-1]+1 {
			j++
		}
		list = append(list, fmt.Sprintf("%d–%d", lines[i], lines[j-1]))
		i = j
	}
	return "lines " + strings.Join(list, ", ")
}
