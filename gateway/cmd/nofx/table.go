package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// table prints rows below a head in columns; each cell is made one clean line. On a
// terminal, a table that is too wide is made to fit: first, columns without any content go,
// then those named by spare, in that order, and then long texts are cut. Ids are never cut,
// since nothing accepts a part of one. Other output gets all columns, whole.
func (a *app) table(w io.Writer, head []string, rows [][]string, spare ...string) {
	all := make([][]string, len(rows)+1)
	all[0] = slices.Clone(head)
	for i, row := range rows {
		all[i+1] = make([]string, len(row))
		for j, cell := range row {
			all[i+1][j] = clean(cell)
		}
	}
	if a.screen != nil {
		width, _ := a.screen()
		fit(all, width, spare)
	}
	for _, row := range all {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
	}
	columns(w, all)
}

// gap is the number of cells between two columns.
const gap = 2

// columns writes rows with the same number of cells, aligned.
func columns(w io.Writer, rows [][]string) {
	widths := widthsOf(rows)
	for _, row := range rows {
		last := len(row) - 1
		for i, cell := range row[:last] {
			fmt.Fprint(w, pad(cell, widths[i]+gap))
		}
		fmt.Fprintln(w, row[last])
	}
}

// widthsOf returns the width of each column.
func widthsOf(rows [][]string) []int {
	var widths []int
	for _, row := range rows {
		widths = append(widths, make([]int, max(len(row)-len(widths), 0))...)
		for i, cell := range row {
			widths[i] = max(widths[i], cells(cell))
		}
	}
	return widths
}

// The least widths to which cells are cut.
const (
	leastText = 16 // of texts, while there are columns to spare
	leastWord = 8  // of anything but an id
)

// handle matches a cell with an id or a digest.
var handle = regexp.MustCompile(`[0-9a-f]{32}`)

// fit makes rows, the first of which is the head, take at most width cells, if it can.
func fit(rows [][]string, width int, spare []string) {
	drop := func(i int) {
		for j, row := range rows {
			rows[j] = slices.Delete(row, i, i+1)
		}
	}
	for i := len(rows[0]) - 1; i >= 0 && total(widthsOf(rows)) > width; i-- {
		if !slices.ContainsFunc(rows[1:], func(row []string) bool { return row[i] != "" }) && len(rows) > 1 {
			drop(i)
		}
	}
	for _, name := range spare {
		if i := slices.Index(rows[0], name); i >= 0 && total(leastOf(rows, false)) > width {
			drop(i)
		}
	}
	widths := widthsOf(rows)
	for _, least := range [][]int{leastOf(rows, false), leastOf(rows, true)} {
		for total(widths) > width {
			widest := -1
			for i, n := range widths {
				if n > least[i] && (widest < 0 || n > widths[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				break
			}
			widths[widest]--
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = shorten(cell, widths[i])
		}
	}
}

// total returns the width of a table with columns of these widths.
func total(widths []int) int {
	n := gap * (len(widths) - 1)
	for _, w := range widths {
		n += w
	}
	return n
}

// leastOf returns the width to which each column may be cut: only those with texts, or all
// but those with ids.
func leastOf(rows [][]string, all bool) []int {
	least := widthsOf(rows)
	for i := range least {
		some := func(is func(string) bool) bool {
			return slices.ContainsFunc(rows[1:], func(row []string) bool { return is(row[i]) })
		}
		switch {
		case some(handle.MatchString):
		case all:
			least[i] = min(least[i], max(leastWord, cells(rows[0][i])))
		case some(sentence):
			least[i] = min(least[i], leastText)
		}
	}
	return least
}

// sentence reports whether a cell has several words, and not just a time.
func sentence(cell string) bool {
	return cells(cell) > len("2006-01-02 15:04:05Z") && strings.Contains(cell, " ")
}
