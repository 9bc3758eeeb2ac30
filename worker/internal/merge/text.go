package merge

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff/lcs"
)

// Hunk is a place at which two texts that come from one differ and do not fit together:
// the lines of all three, with their line ends.
type Hunk struct {
	Line               int // of the base, from 1, at which it begins
	Base, Ours, Theirs string
}

// Text merges two texts that come from base, line by line. Edits of both sides that touch
// or overlap, and insertions of both at one point, are a conflict unless both sides made
// the same of these lines: what two people wrote beside each other may not have been meant
// to stand together. Where a change can be read in several ways, as in a run of equal
// lines or when lines changed places, each way must merge, and all to the same text.
//
// With conflicts there is no text.
func Text(base, ours, theirs string) (merged string, conflicts []Hunk) {
	b, o, t := lines(base), lines(ours), lines(theirs)
	merged, conflicts = textOf(b, o, t, lineEdits, nothing)
	if len(conflicts) > 0 {
		return "", conflicts
	}
	again, conflicts := textOf(b, o, t, lineEditsFromEnd, nothing)
	if len(conflicts) == 0 && again != merged {
		conflicts = []Hunk{{Line: 1, Base: base, Ours: ours, Theirs: theirs}}
	}
	if len(conflicts) > 0 {
		return "", conflicts
	}
	return merged, nil
}

// decidedText merges as Text does, and where that is a conflict takes what decide returns.
func decidedText(base, ours, theirs string, decide func(Hunk) string) string {
	b, o, t := lines(base), lines(ours), lines(theirs)
	merged, conflicts := textOf(b, o, t, lineEdits, decide)
	if len(conflicts) > 0 {
		return merged
	}
	again, conflicts := textOf(b, o, t, lineEditsFromEnd, decide)
	if len(conflicts) == 0 && again != merged {
		return decide(Hunk{Base: base, Ours: ours, Theirs: theirs})
	}
	return again
}

// both returns the lines of ours and then those of theirs. A last line of a file without
// an end gets one where lines follow it.
func (h Hunk) both() string {
	if h.Ours != "" && h.Theirs != "" && !strings.HasSuffix(h.Ours, "\n") {
		return h.Ours + "\n" + h.Theirs
	}
	return h.Ours + h.Theirs
}

func nothing(Hunk) string { return "" }

// decisions are what the sides that can be taken make of a place where texts conflict.
var decisions = map[Side]func(Hunk) string{
	Ours:   func(h Hunk) string { return h.Ours },
	Theirs: func(h Hunk) string { return h.Theirs },
	Base:   func(h Hunk) string { return h.Base },
	Both:   Hunk.both,
}

// textOf merges texts by the edits that diff finds. The text has what decide returns at
// the places of conflicts.
func textOf(base, ours, theirs []string, diff func(base, side []string) []edit, decide func(Hunk) string) (merged string, conflicts []Hunk) {
	var out strings.Builder
	at := 0 // lines of base that are in out, or in a conflict
	for _, g := range groups(diff(base, ours), diff(base, theirs)) {
		write(&out, base[at:g.start])
		at = g.end
		was, mine, yours := base[g.start:g.end], g.of(0, base, ours), g.of(1, base, theirs)
		switch {
		case slices.Equal(mine, yours), slices.Equal(was, yours):
			write(&out, mine)
		case slices.Equal(was, mine):
			write(&out, yours)
		default:
			h := Hunk{
				Line: g.start + 1, Base: strings.Join(was, ""), Ours: strings.Join(mine, ""), Theirs: strings.Join(yours, ""),
			}
			conflicts = append(conflicts, h)
			out.WriteString(decide(h))
		}
	}
	write(&out, base[at:])
	return out.String(), conflicts
}

// mergeable reports whether lines of all the texts may be merged: they are UTF-8 without a
// zero byte, and all of their lines end alike.
func mergeable(texts ...string) bool {
	var ends, returns int
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return false
		}
		ends += strings.Count(text, "\n")
		returns += strings.Count(text, "\r\n")
	}
	return returns == 0 || returns == ends
}

// lines returns the lines of a text, each with its end.
func lines(text string) []string {
	return slices.Collect(strings.Lines(text))
}

func write(out *strings.Builder, lines []string) {
	for _, l := range lines {
		out.WriteString(l)
	}
}

// edit replaces the lines of the base from start to end by those of a side from
// replStart to replEnd. It may be any line from first to last that changed in truth.
type edit struct {
	lcs.Diff
	first, last int
	parts       []lcs.Diff // what it consists of, where the diff found it
}

// lineEdits returns how a side differs from the base.
func lineEdits(base, side []string) []edit {
	return widened(base, side, lcs.DiffLines(base, side))
}

// lineEditsFromEnd returns the same as lineEdits, found from the last line on: where lines
// changed places, others of them count as having stayed.
func lineEditsFromEnd(base, side []string) []edit {
	b, s := reversed(base), reversed(side)
	diffs := lcs.DiffLines(b, s)
	slices.Reverse(diffs)
	for i, d := range diffs {
		diffs[i] = lcs.Diff{Start: len(b) - d.End, End: len(b) - d.Start, ReplStart: len(s) - d.ReplEnd, ReplEnd: len(s) - d.ReplStart}
	}
	return widened(base, side, diffs)
}

func reversed(lines []string) []string {
	r := slices.Clone(lines)
	slices.Reverse(r)
	return r
}

// widened returns the edits of diffs with all the places at which each may have happened.
// An edit that may have happened just before the next one of its kind is one with it: the
// two together may have happened at places where neither could alone.
func widened(base, side []string, diffs []lcs.Diff) (list []edit) {
	for _, d := range diffs {
		e := edit{d, d.Start, d.End, []lcs.Diff{d}}
		e.slide(base, side)
		for last := len(list) - 1; last >= 0 && list[last].reaches(e); last = len(list) - 1 {
			before := list[last]
			if k := e.Start - before.End; before.shifts(base, side, k) {
				e.Start, e.ReplStart = before.Start+k, before.ReplStart+k
			}
			e.first = min(before.first, e.first)
			e.parts = append(before.parts, e.parts...)
			e.slide(base, side)
			list = list[:last]
		}
		list = append(list, e)
	}
	return list
}

// shifts reports whether the whole edit, which inserts or deletes, gives the same result k
// lines further down. Of one that consists of others only a part may.
func (e *edit) shifts(base, side []string, k int) bool {
	block := base[e.Start:e.End]
	if e.inserts() {
		block = side[e.ReplStart:e.ReplEnd]
	}
	for i := range k {
		if base[e.End+i] != block[i%len(block)] {
			return false
		}
	}
	return true
}

// slide widens an edit that inserts or deletes a block of lines to all places at which
// that gives the same result: up while the line before is the last one of the block, and
// down while the line behind is its first, the block turning with it.
func (e *edit) slide(base, side []string) {
	block := base[e.Start:e.End]
	switch {
	case e.inserts():
		block = side[e.ReplStart:e.ReplEnd]
	case !e.deletes():
		return
	}
	n, up, down := len(block), e.Start, e.End
	for k := 0; up > 0 && base[up-1] == block[n-1-k%n]; k++ {
		up--
	}
	for k := 0; down < len(base) && base[down] == block[k%n]; k++ {
		down++
	}
	e.first, e.last = min(e.first, up), max(e.last, down)
}

func (e edit) inserts() bool { return e.Start == e.End }

func (e edit) deletes() bool { return e.ReplStart == e.ReplEnd }

// reaches reports whether e may have happened just before next, and both insert or both
// delete.
func (e edit) reaches(next edit) bool {
	return e.last >= next.Start && (e.inserts() && next.inserts() || e.deletes() && next.deletes())
}

// group is the edits of both sides that touch each other, directly or by others between
// them.
type group struct {
	start, end int // lines of the base
	edits      [2][]edit
}

// groups returns the groups of edits, in their order.
func groups(ours, theirs []edit) (list []group) {
	for sides := [2][]edit{ours, theirs}; len(sides[0])+len(sides[1]) > 0; {
		side := 0
		if len(sides[0]) == 0 || len(sides[1]) > 0 && sides[1][0].first < sides[0][0].first {
			side = 1
		}
		e := sides[side][0]
		sides[side] = sides[side][1:]
		if len(list) == 0 || e.first > list[len(list)-1].end {
			list = append(list, group{start: e.first, end: e.last})
		}
		g := &list[len(list)-1]
		g.end = max(g.end, e.last)
		g.edits[side] = append(g.edits[side], e)
	}
	return list
}

// of returns the lines that a side has in the place of those of the group.
func (g group) of(side int, base, text []string) (lines []string) {
	at := g.start
	for _, e := range g.edits[side] {
		for _, d := range e.parts {
			lines = append(append(lines, base[at:d.Start]...), text[d.ReplStart:d.ReplEnd]...)
			at = d.End
		}
	}
	return append(lines, base[at:g.end]...)
}
