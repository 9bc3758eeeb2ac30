package main

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestCells(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int{
		"": 0, "goal": 4, "目标": 4, "カナ": 4, "한글": 4, "ｱ": 1, "é": 1, "e\u0301": 1, "…": 1, "±": 1, "🚀": 2, "\u2601\ufe0f": 2, "👍🏽": 4,
	} {
		if got := cells(s); got != want {
			t.Errorf("cells(%q) = %d, want %d", s, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"goal", 4, "goal"}, {"goals", 4, "goa…"}, {"目标", 4, "目标"}, {"目标", 3, "目…"}, {"目标的", 4, "目…"}, {"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
		{"goal", 1, "…"}, {"目", 1, "…"}, {"", 0, ""},
	} {
		if got := shorten(tt.in, tt.n); got != tt.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
}

func TestRowsOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line    string
		columns int
		want    int
	}{
		{"", 4, 1}, {"abcd", 4, 1}, {"abcde", 4, 2}, {"目标", 4, 1}, {"目标的", 4, 2},
		{"a目标", 4, 2}, // 标 does not fit beside a and 目
		{"目", 1, 1},
	} {
		if got := rowsOf(tt.line, tt.columns); got != tt.want {
			t.Errorf("rowsOf(%q, %d) = %d, want %d", tt.line, tt.columns, got, tt.want)
		}
	}
}

// What is shortened fits, in one row, and what is padded is filled.
func TestShortenedFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, n := clean(rapid.String().Draw(t, "s")), rapid.IntRange(1, 30).Draw(t, "n")
		short := shorten(s, n)
		if cells(short) > n || rowsOf(short, n) != 1 {
			t.Fatalf("shorten(%q, %d) = %q of %d cells, want it to fit", s, n, short, cells(short))
		}
		if got := cells(pad(short, n)); got != n {
			t.Fatalf("pad(%q, %d) takes %d cells, want %d", short, n, got, n)
		}
	})
}

func TestSized(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		width, height int
		err           error
		want          [2]int
	}{
		{120, 50, nil, [2]int{120, 50}}, {0, 0, nil, [2]int{80, 24}}, {0, 50, nil, [2]int{80, 24}}, {120, 0, nil, [2]int{80, 24}},
		{0, 0, errors.New("no terminal"), [2]int{80, 24}},
	} {
		width, height := sized(tt.width, tt.height, tt.err)
		if got := [2]int{width, height}; got != tt.want {
			t.Errorf("sized(%d, %d, %v) = %v, want %v", tt.width, tt.height, tt.err, got, tt.want)
		}
	}
}
