package reviewer

import (
	"strings"

	"nofx.dev/shared/review"
)

// Anchored says how the place of an answer was found.
type Anchored string

// How it was found.
const (
	Exact      Anchored = "exact"
	Reanchored Anchored = "reanchored" // at the one other line that has the quote
	OfFile     Anchored = "of_file"    // the file is known, the line is not
	Nowhere    Anchored = "nowhere"    // not in what was shown
)

// anchor finds the place of an answer in the files that its author was shown. The quote
// decides: where the line of that number has another text, the place is the one other line
// of the hunk that has it, or else the file. Ranges lie in one hunk on one side, or they
// are only their last line.
func anchor(a Answered, shown map[string]File) (review.Anchor, Anchored) {
	f, ok := shown[a.Path]
	if !ok {
		return review.Anchor{}, Nowhere
	}
	ofFile := review.Anchor{Path: f.Path}
	h, at := f.find(a.Side, a.Line)
	quote := review.Normal(a.Quote)
	how := Exact
	switch {
	case h >= 0 && review.Normal(f.Hunks[h].Lines[at].Text) == quote:
	case quote == "":
		return ofFile, OfFile
	case h >= 0:
		if at = only(f.Hunks[h], quote); at < 0 {
			return ofFile, OfFile
		}
		how = Reanchored
	default:
		if h, at = f.only(quote); h < 0 {
			return ofFile, OfFile
		}
		how = Reanchored
	}
	hunk := f.Hunks[h]
	spot := f.spot(h, at)
	place := review.Anchor{Path: f.Path, Text: review.Normal(hunk.Lines[at].Text), Symbol: spot.symbol, Index: spot.index}
	place.Side, place.Line = hunk.Lines[at].Place()
	if a.StartLine != nil && *a.StartLine < a.Line {
		start := place.Line - (a.Line - *a.StartLine)
		if hunk.find(place.Side, start) >= 0 {
			place.StartLine = start
		}
	}
	return place, how
}

// find returns the index of the line of that side and number, or -1.
func (h Hunk) find(side review.Side, number int) int {
	for i, l := range h.Lines {
		if s, n := l.Place(); s == side && n == number {
			return i
		}
	}
	return -1
}

// find returns the hunk with the line of that side and number, and its index there, or -1.
func (f File) find(side review.Side, number int) (hunk, line int) {
	for i, h := range f.Hunks {
		if j := h.find(side, number); j >= 0 {
			return i, j
		}
	}
	return -1, -1
}

// only returns the index of the one line with that normal text, or -1.
func only(h Hunk, text string) int {
	found := -1
	for i, l := range h.Lines {
		if review.Normal(l.Text) == text {
			if found >= 0 {
				return -1
			}
			found = i
		}
	}
	return found
}

// only returns the hunk and the index of the one line of the file with that normal text, or -1.
func (f File) only(text string) (hunk, line int) {
	hunk, line = -1, -1
	for i, h := range f.Hunks {
		for j, l := range h.Lines {
			if review.Normal(l.Text) == text {
				if hunk >= 0 {
					return -1, -1
				}
				hunk, line = i, j
			}
		}
	}
	return hunk, line
}

// symbolBytes is how much git shows of the line before a hunk.
const symbolBytes = 80

// spot is what tells a line of a file from others with its text, whatever its number.
type spot struct {
	symbol string // what the line is in, as git takes it for the heading of a hunk
	index  int    // how many lines before it have the same side, text and symbol
}

// spot returns that of a line.
func (f File) spot(hunk, line int) spot {
	if f.spots == nil {
		f.spots = spotsOf(f.Hunks)
	}
	return f.spots[hunk][line]
}

// spotsOf returns the spots of all lines of a file, by hunk.
func spotsOf(hunks []Hunk) [][]spot {
	type key struct {
		side         review.Side
		text, symbol string
	}
	seen := map[key]int{}
	all := make([][]spot, len(hunks))
	for i, h := range hunks {
		all[i] = make([]spot, len(h.Lines))
		for j, symbol := range h.symbols() {
			side, _ := h.Lines[j].Place()
			k := key{side, review.Normal(h.Lines[j].Text), symbol}
			all[i][j] = spot{symbol, seen[k]}
			seen[k]++
		}
	}
	return all
}

// symbols returns for each line the nearest line above it, on its side, that begins with a
// letter, be it in the hunk or its heading.
func (h Hunk) symbols() []string {
	all := make([]string, len(h.Lines))
	left, right := h.Heading, h.Heading
	for i, l := range h.Lines {
		all[i] = right
		if l.Mark == Subtracted {
			all[i] = left
		}
		if l.Text == "" || !(l.Text[0]|0x20 >= 'a' && l.Text[0]|0x20 <= 'z' || l.Text[0] == '_' || l.Text[0] == '$') {
			continue
		}
		symbol := strings.TrimSpace(clean(l.Text[:min(len(l.Text), symbolBytes)]))
		if l.Mark != Subtracted {
			right = symbol
		}
		if l.Mark != Addition {
			left = symbol
		}
	}
	return all
}
