package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// trend is one thing read again and again while a load went on.
type trend struct {
	What    string    `json:"what"`
	Unit    string    `json:"unit"`
	Samples []float64 `json:"samples"`
	First   float64   `json:"first"` // median of the first quarter
	Last    float64   `json:"last"`  // median of the last quarter
	PerHour float64   `json:"per_hour"`
}

// newTrend computes what follows from samples that were read at so many seconds.
func newTrend(what, unit string, at, samples []float64) trend {
	quarter := max(1, len(samples)/4)
	return trend{
		What: what, Unit: unit, Samples: samples,
		First: median(samples[:quarter]), Last: median(samples[len(samples)-quarter:]), PerHour: 3600 * slope(at, samples),
	}
}

// slope returns the slope of the straight line which least squares lay through points; 0
// when they tell of none.
func slope(x, y []float64) float64 {
	mean := func(values []float64) (sum float64) {
		for _, v := range values {
			sum += v / float64(len(values))
		}
		return sum
	}
	mx, my := mean(x), mean(y)
	var xy, xx float64
	for i := range x {
		xy += (x[i] - mx) * (y[i] - my)
		xx += (x[i] - mx) * (x[i] - mx)
	}
	if xx == 0 {
		return 0
	}
	return xy / xx
}

// printTrends writes their table.
func printTrends(out io.Writer, trends []trend) error {
	if len(trends) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.DiscardEmptyColumns)
	fmt.Fprintln(t, "first quarter\tlast quarter\tratio\tper hour\t\t what")
	for _, r := range trends {
		ratio := "–"
		if r.First != 0 {
			ratio = fmt.Sprintf("%.2f", r.Last/r.First)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%+.3g\t\t %s, %s\n", number(r.First), number(r.Last), ratio, r.PerHour, r.What, r.Unit)
	}
	return t.Flush()
}
