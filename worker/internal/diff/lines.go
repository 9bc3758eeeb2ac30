package diff

import (
	"fmt"
	"math"
	"strings"
)

// around is how many equal lines are shown before and after a change.
const around = 3

// most is how many lines a search for the fewest changes goes through before it takes what
// it has: the time of a search grows with the square of it.
const most = 2048

// edit replaces the items of one sequence from a0 to a1 by those of another from b0 to b1.
type edit struct{ a0, a1, b0, b1 int }

// edits returns the fewest changes that make b of a. An item that may have been added or
// deleted at several places counts as the last of them. The items are numbers from 0 to n.
func edits(a, b []int, n int) []edit {
	s := &search{changedA: make([]bool, len(a)), changedB: make([]bool, len(b))}
	start, end := 0, 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	for end < len(a)-start && end < len(b)-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	s.a, s.inA = shared(a, b, start, end, n, s.changedA)
	s.b, s.inB = shared(b, a, start, end, n, s.changedB)
	s.middle = len(s.b) + 1
	s.forward, s.backward = make([]int, len(s.a)+len(s.b)+3), make([]int, len(s.a)+len(s.b)+3)
	s.compare(0, len(s.a), 0, len(s.b))
	return slide(a, b, collect(s.changedA, s.changedB))
}

// shared returns the items of a, without so many at the start and the end, that are in b
// as well, and their indices. The others are marked.
func shared(a, b []int, start, end, n int, marked []bool) (items, indices []int) {
	known := make([]bool, n)
	for _, item := range b[start : len(b)-end] {
		known[item] = true
	}
	for i := start; i < len(a)-end; i++ {
		if !known[a[i]] {
			marked[i] = true
			continue
		}
		items, indices = append(items, a[i]), append(indices, i)
	}
	return items, indices
}

// search finds the fewest changes between two sequences as Myers does, from both ends and
// in space that grows with their length alone.
type search struct {
	a, b               []int
	inA, inB           []int // where the items are in the whole sequences
	changedA, changedB []bool
	forward, backward  []int // by diagonal, x - y + middle: how far along a paths have come
	middle             int
}

func (s *search) compare(a0, a1, b0, b1 int) {
	for a0 < a1 && b0 < b1 && s.a[a0] == s.b[b0] {
		a0, b0 = a0+1, b0+1
	}
	for a0 < a1 && b0 < b1 && s.a[a1-1] == s.b[b1-1] {
		a1, b1 = a1-1, b1-1
	}
	if a0 == a1 || b0 == b1 {
		for i := a0; i < a1; i++ {
			s.changedA[s.inA[i]] = true
		}
		for i := b0; i < b1; i++ {
			s.changedB[s.inB[i]] = true
		}
		return
	}
	x, y := s.split(a0, a1, b0, b1)
	s.compare(a0, x, b0, y)
	s.compare(x, a1, y, b1)
}

// split returns a point on a shortest path from one corner to the other, at which the
// paths from both meet. After very many steps it is the one that came furthest.
func (s *search) split(a0, a1, b0, b1 int) (x, y int) {
	lowest, highest := a0-b1+s.middle, a1-b0+s.middle // diagonals of the rectangle
	first, last := a0-b0+s.middle, a1-b1+s.middle
	f0, f1, l0, l1 := first, first, last, last
	odd := (first-last)%2 != 0
	s.forward[first], s.backward[last] = a0, a1
	for steps := 0; ; steps++ {
		if f0 > lowest {
			f0--
			s.forward[f0-1] = -1
		} else {
			f0++
		}
		if f1 < highest {
			f1++
			s.forward[f1+1] = -1
		} else {
			f1--
		}
		for d := f1; d >= f0; d -= 2 {
			x := max(s.forward[d-1]+1, s.forward[d+1])
			y := x - d + s.middle
			for x < a1 && y < b1 && s.a[x] == s.b[y] {
				x, y = x+1, y+1
			}
			s.forward[d] = x
			if odd && l0 <= d && d <= l1 && s.backward[d] <= x {
				return x, y
			}
		}
		if l0 > lowest {
			l0--
			s.backward[l0-1] = math.MaxInt
		} else {
			l0++
		}
		if l1 < highest {
			l1++
			s.backward[l1+1] = math.MaxInt
		} else {
			l1--
		}
		for d := l1; d >= l0; d -= 2 {
			x := min(s.backward[d-1], s.backward[d+1]-1)
			y := x - d + s.middle
			for x > a0 && y > b0 && s.a[x-1] == s.b[y-1] {
				x, y = x-1, y-1
			}
			s.backward[d] = x
			if !odd && f0 <= d && d <= f1 && x <= s.forward[d] {
				return x, y
			}
		}
		if steps < most {
			continue
		}
		x, y = a0, b0
		for d := f1; d >= f0; d -= 2 {
			if at := min(s.forward[d], a1, b1+d-s.middle); at-d+s.middle >= b0 && 2*at-d+s.middle > x+y {
				x, y = at, at-d+s.middle
			}
		}
		return x, y
	}
}

// collect returns the edits of marked items.
func collect(a, b []bool) (list []edit) {
	for i, j := 0, 0; i < len(a) || j < len(b); {
		e := edit{i, i, j, j}
		for e.a1 < len(a) && a[e.a1] {
			e.a1++
		}
		for e.b1 < len(b) && b[e.b1] {
			e.b1++
		}
		if e.a0 < e.a1 || e.b0 < e.b1 {
			list = append(list, e)
		}
		i, j = e.a1+1, e.b1+1
	}
	return list
}

// slide moves each edit that only adds or only deletes as far to the end as it may be, and
// joins those that meet.
func slide(a, b []int, list []edit) []edit {
	var out []edit // from the last to the first
	for i := len(list) - 1; i >= 0; i-- {
		e := list[i]
		end, next := len(a), edit{-1, -1, -1, -1}
		if len(out) > 0 {
			next = out[len(out)-1]
			end = next.a0
		}
		for e.a0 == e.a1 && e.a1 < end && b[e.b0] == b[e.b1] || e.b0 == e.b1 && e.a1 < end && a[e.a0] == a[e.a1] {
			e = edit{e.a0 + 1, e.a1 + 1, e.b0 + 1, e.b1 + 1}
		}
		if e.a1 == next.a0 && e.b1 == next.b0 {
			out[len(out)-1] = edit{e.a0, next.a1, e.b0, next.b1}
			continue
		}
		out = append(out, e)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// numbered returns the items of both sides as numbers, equal ones as the same, and how many
// differ.
func numbered(a, b []string) (x, y []int, n int) {
	numbers := make(map[string]int, len(a))
	number := func(items []string) []int {
		list := make([]int, len(items))
		for i, item := range items {
			k, ok := numbers[item]
			if !ok {
				k = len(numbers)
				numbers[item] = k
			}
			list[i] = k
		}
		return list
	}
	x, y = number(a), number(b)
	return x, y, len(numbers)
}

// splitLines returns the lines of a text, each with its end.
func splitLines(text string) []string {
	lines := make([]string, 0, strings.Count(text, "\n")+1)
	for line := range strings.Lines(text) {
		lines = append(lines, line)
	}
	return lines
}

// hunks returns the changes between two texts as unified hunks, and the numbers of lines.
func hunks(from, to string) (text string, count Lines) {
	a, b := splitLines(from), splitLines(to)
	x, y, n := numbered(a, b)
	list := edits(x, y, n)
	var out strings.Builder
	for len(list) > 0 {
		together := 1 // edits with no more equal lines between them than are shown of each
		for together < len(list) && list[together].a0-list[together-1].a1 <= 2*around {
			together++
		}
		writeHunk(&out, a, b, list[:together])
		for _, e := range list[:together] {
			count.Deleted += e.a1 - e.a0
			count.Added += e.b1 - e.b0
		}
		list = list[together:]
	}
	return out.String(), count
}

func writeHunk(out *strings.Builder, a, b []string, list []edit) {
	first, last := list[0], list[len(list)-1]
	before, after := min(first.a0, around), min(len(a)-last.a1, around)
	fmt.Fprintf(out, "@@ -%s +%s @@\n", place(first.a0-before, last.a1+after), place(first.b0-before, last.b1+after))
	at := first.a0 - before
	for _, e := range list {
		writeLines(out, ' ', a[at:e.a0])
		writeLines(out, '-', a[e.a0:e.a1])
		writeLines(out, '+', b[e.b0:e.b1])
		at = e.a1
	}
	writeLines(out, ' ', a[at:last.a1+after])
}

// place returns where a hunk is in a file, as its header says it.
func place(start, end int) string {
	switch end - start {
	case 0:
		return fmt.Sprintf("%d,0", start)
	case 1:
		return fmt.Sprint(start + 1)
	}
	return fmt.Sprintf("%d,%d", start+1, end-start)
}

func writeLines(out *strings.Builder, mark byte, lines []string) {
	for _, line := range lines {
		out.WriteByte(mark)
		out.WriteString(line)
		if !strings.HasSuffix(line, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}
