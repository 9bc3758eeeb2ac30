package main

import (
	"strings"

	"github.com/mattn/go-runewidth"
)

// Terminals count in cells, and not every character takes one cell. The width measured here
// is never less than the drawn width: a line that is wider than measured would wrap, and
// the board would lose its position.

// narrowest measures characters of ambiguous width as one cell, in any locale.
var narrowest = runewidth.Condition{StrictEmojiNeutral: true}

// emojiStyle selects the emoji form of the character before it, which takes one more cell
// on terminals that support it.
const emojiStyle = '\ufe0f'

func cellsOf(r rune) int {
	if r == emojiStyle {
		return 1
	}
	return narrowest.RuneWidth(r)
}

// cells returns how many cells s takes in one row.
func cells(s string) (n int) {
	for _, r := range s {
		n += cellsOf(r)
	}
	return n
}

// shorten cuts s to at most n cells, the last one an ellipsis.
func shorten(s string, n int) string {
	if cells(s) <= n {
		return s
	}
	left := n - 1
	for i, r := range s {
		if left -= cellsOf(r); left < 0 {
			return s[:i] + "…"
		}
	}
	return s
}

// pad fills s with blanks to n cells.
func pad(s string, n int) string { return s + strings.Repeat(" ", max(n-cells(s), 0)) }

// rowsOf returns the number of rows that a line takes on a screen of that width. A
// character of two cells leaves the last cell of a row empty and begins the next.
func rowsOf(line string, columns int) int {
	n, used := 1, 0
	for _, r := range line {
		w := cellsOf(r)
		if used+w > columns && used > 0 {
			n, used = n+1, 0
		}
		used += w
	}
	return n
}
