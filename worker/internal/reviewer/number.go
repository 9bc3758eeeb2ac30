package reviewer

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Numbered returns hunks in the form in which a model is shown them: the heading of each,
// then its lines, each with side and number, a space, its mark and its text.
func Numbered(hunks []Hunk) string {
	var b strings.Builder
	for _, h := range hunks {
		fmt.Fprintf(&b, "@@ -%d,%d +%d,%d @@", h.OldStart, h.OldLines, h.NewStart, h.NewLines)
		if h.Heading != "" {
			b.WriteString(" " + h.Heading)
		}
		b.WriteByte('\n')
		for _, l := range h.Lines {
			side, number := l.Place()
			fmt.Fprintf(&b, "%c%d %c%s\n", side[0], number, l.Mark, l.Text)
		}
	}
	return b.String()
}

var heading = regexp.MustCompile(`^@@ -(\d{1,10}),(\d{1,10}) \+(\d{1,10}),(\d{1,10}) @@(?: (.*))?$`)

// ReadNumbered reads what Numbered wrote. The error names the line that is not of that form.
func ReadNumbered(text string) ([]Hunk, error) {
	var hunks []Hunk
	var was, now int
	number := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		number++
		if m := heading.FindStringSubmatch(line); m != nil {
			var n [4]int
			for i := range n {
				n[i], _ = strconv.Atoi(m[i+1]) // ten digits at most
			}
			hunks = append(hunks, Hunk{OldStart: n[0], OldLines: n[1], NewStart: n[2], NewLines: n[3], Heading: m[5]})
			was, now = n[0], n[2]
			continue
		}
		if len(hunks) == 0 {
			return nil, fmt.Errorf("line %d is not the heading of a hunk", number)
		}
		l, err := readLine(line, was, now)
		if err != nil {
			return nil, fmt.Errorf("line %d %w", number, err)
		}
		if l.Mark != Addition {
			was++
		}
		if l.Mark != Subtracted {
			now++
		}
		h := &hunks[len(hunks)-1]
		h.Lines = append(h.Lines, l)
	}
	return hunks, nil
}

// readLine reads a line that comes as number was of the base and now of the head.
func readLine(line string, was, now int) (Line, error) {
	place, rest, _ := strings.Cut(line, " ")
	if len(place) < 2 || rest == "" {
		return Line{}, errors.New("has no side, number and mark")
	}
	number, err := strconv.Atoi(place[1:])
	if err != nil {
		return Line{}, errors.New("has no number after its side")
	}
	l := Line{Mark: rest[0], Text: rest[1:]}
	want := now
	switch l.Mark {
	case Context:
		l.Old, l.New = was, now
	case Addition:
		l.New = now
	case Subtracted:
		l.Old, want = was, was
	default:
		return Line{}, fmt.Errorf("has the mark %q", l.Mark)
	}
	if side, _ := l.Place(); place[0] != side[0] || number != want {
		return Line{}, fmt.Errorf("is %s and should be %c%d", place, side[0], want)
	}
	return l, nil
}
