package main

import (
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line, what string
		n          int
	}{
		{"runs 128", "runs", 128},
		{"enqueue 1000000", "enqueue", 1_000_000},
		{"runs 127", "", 0},
		{"runs 1000001", "", 0},
		{"runs", "", 0},
		{"runs 200 ", "", 0},
		{"stop 200", "", 0},
		{"", "", 0},
	} {
		what, n, err := parse(c.line)
		if what != c.what || n != c.n || (err == nil) != (c.what != "") {
			t.Errorf("parse(%q) = %q, %d, %v, want %q, %d", c.line, what, n, err, c.what, c.n)
		}
	}
}

// Only what ended under full load counts: neither the slow first tenth nor the
// last runs in flight.
func TestRate(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	var ends []time.Time
	for i := range 1000 {
		switch {
		case i < 100, i >= 1000-inFlight+1:
			at = at.Add(time.Second)
		default:
			at = at.Add(10 * time.Millisecond)
		}
		ends = append(ends, at)
	}
	ends[200], ends[300] = ends[300], ends[200] // workers report in any order
	if got := rate(ends); got < 99.9 || got > 100.1 {
		t.Errorf("rate = %v, want 100", got)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	for q, want := range map[float64]float64{0: 1, 0.5: 2, 0.75: 3, 1: 4} {
		if got := quantile([]float64{1, 2, 3, 4}, q); got != want {
			t.Errorf("quantile(1 2 3 4, %v) = %v, want %v", q, got, want)
		}
	}
}
