package main

import (
	"bytes"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSlope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		x, y []float64
		want float64
	}{
		{[]float64{0, 10, 20, 30}, []float64{5, 7, 9, 11}, 0.2},
		{[]float64{0, 1, 2}, []float64{4, 4, 4}, 0},
		{[]float64{0, 1, 2}, []float64{0, 3, 0}, 0},
		{[]float64{0, 1, 2, 3}, []float64{3, 1, 1, -1}, -1.2},
		{[]float64{7}, []float64{3}, 0},
		{nil, nil, 0},
	} {
		if got := slope(c.x, c.y); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("slope(%v, %v) = %v, want %v", c.x, c.y, got, c.want)
		}
	}
}

func TestWatchTrends(t *testing.T) {
	t.Parallel()
	var w watch
	began := time.Now()
	for i := range 8 {
		w.add(began.Add(time.Duration(i)*10*time.Second), []reading{{"memory", "MiB", float64(20 + i)}, {"files", "files", 9}})
	}
	want := []trend{
		{What: "memory", Unit: "MiB", Samples: []float64{20, 21, 22, 23, 24, 25, 26, 27}, First: 20, Last: 26, PerHour: 360},
		{What: "files", Unit: "files", Samples: []float64{9, 9, 9, 9, 9, 9, 9, 9}, First: 9, Last: 9},
	}
	got := w.trends()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
		t.Errorf("trends (-want +got):\n%s", diff)
	}
	var out bytes.Buffer
	if err := printTrends(&out, append(got, newTrend("rows", "rows", []float64{0, 1}, []float64{0, 5}))); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`(?m)^ *20 +26 +1\.30 +\+360 +memory, MiB$`,
		`(?m)^ *9 +9 +1\.00 +\+0 +files, files$`,
		`(?m)^ *0 +5 +– +\+1\.8e\+04 +rows, rows$`,
	} {
		if !regexp.MustCompile(line).MatchString(out.String()) {
			t.Errorf("printTrends wrote no line %s in:\n%s", line, out.String())
		}
	}
}

// What the watched tables are called and what is told of each.
func TestTables(t *testing.T) {
	t.Parallel()
	c := newTestChain(t)
	if err := execute(t.Context(), server.URL(c.database), `
		CREATE SCHEMA nofx; CREATE SCHEMA river;
		CREATE TABLE nofx.run (id int); CREATE TABLE nofx.other (id int); CREATE TABLE river.river_job (id int)`); err != nil {
		t.Fatal(err)
	}
	list, err := tables(t.Context(), &nofx{db: c.pool})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.what+", "+r.unit)
	}
	want := []string{
		"nofx.run: size for each live row, bytes", "nofx.run: dead rows, rows",
		"river.river_job: size, MiB", "river.river_job: live rows, rows", "river.river_job: dead rows, rows",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}
