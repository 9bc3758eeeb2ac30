package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is one thing measured. Its names and units stay, so that two commits
// can be compared.
type figure struct {
	Name    string      `json:"name"`
	What    string      `json:"what"`
	Unit    string      `json:"unit"` // runs/s, ms, MiB or KiB: more is better of the first alone
	Stat    string      `json:"stat"` // what Value is of Samples: median, p50 or p99
	Value   float64     `json:"value"`
	Samples []float64   `json:"samples,omitempty"`
	Beside  comparisons `json:"beside,omitempty"`
	Pass    float64     `json:"pass,omitempty"` // 0: no goal
	Aim     float64     `json:"aim,omitempty"`
}

// comparison is the same measured of what a user would have instead.
type comparison struct {
	What    string    `json:"what"`
	Value   float64   `json:"value"`
	Samples []float64 `json:"samples"`
	Ratio   float64   `json:"ratio"` // ours to this
}

type comparisons []*comparison

func beside(what string, samples []float64) comparisons { return comparisons{}.and(what, samples) }

// and adds one more, unless it was not measured.
func (c comparisons) and(what string, samples []float64) comparisons {
	if len(samples) == 0 {
		return c
	}
	return append(c, &comparison{What: what, Samples: samples})
}

// report is all that a run of this command has to say.
type report struct {
	Machine machine   `json:"machine"`
	Started time.Time `json:"started"`
	Seconds int       `json:"seconds"`
	Notes   []string  `json:"notes,omitempty"`
	Figures []figure  `json:"figures"`
	Trends  []trend   `json:"trends,omitempty"`
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// add computes what follows from the samples. A median's ratio is the median of
// the ratios of rounds, in which both had the same neighbours.
func (r *report) add(f figure) {
	stat := map[string]func([]float64) float64{
		"median": median, "p50": median, "p99": func(v []float64) float64 { return quantile(v, 0.99) },
	}[f.Stat]
	if f.Samples != nil {
		f.Value = stat(f.Samples)
	}
	for _, c := range f.Beside {
		c.Value = stat(c.Samples)
		c.Ratio = f.Value / c.Value
		if f.Stat == "median" {
			c.Ratio = median(ratios(f.Samples, c.Samples))
		}
	}
	r.Figures = append(r.Figures, f)
}

func (f figure) moreIsBetter() bool { return f.Unit == "runs/s" }

// goals returns the pass limit, whether it is kept, and the aim with whether that is
// reached, each "" where there is none.
func (f figure) goals() (limit, verdict, aim string) {
	sign, reaches := "≤", func(want float64) bool { return f.Value <= want }
	if f.moreIsBetter() {
		sign, reaches = "≥", func(want float64) bool { return f.Value >= want }
	}
	if f.Pass != 0 {
		limit, verdict = sign+" "+number(f.Pass), map[bool]string{true: "pass", false: map[bool]string{true: "under", false: "over"}[f.moreIsBetter()]}[reaches(f.Pass)]
	}
	if f.Aim != 0 {
		aim = fmt.Sprintf("%s %s: %s", sign, number(f.Aim), map[bool]string{true: "yes", false: "no"}[reaches(f.Aim)])
	}
	return limit, verdict, aim
}

// number has three digits that say something.
func number(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// print writes the table, then the lines for benchstat.
func (r *report) print(out io.Writer) error {
	if len(r.Figures) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\n%s", r.Machine)
	if !r.Machine.durable() {
		fmt.Fprintln(out, "THE DATABASE IS NOT DURABLE: these figures are not to be quoted")
	}
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tfigure\tbeside\tratio\tlimit\t\taim")
	for _, f := range r.Figures {
		limit, verdict, aim := f.goals()
		goals := strings.Join([]string{limit, verdict, aim}, "\t")
		fmt.Fprintf(t, "%s\t%s %s\t", f.What, number(f.Value), f.Unit)
		if len(f.Beside) == 0 {
			fmt.Fprintf(t, "–\t–\t%s\n", goals)
		}
		for i, c := range f.Beside {
			fmt.Fprintf(t, "%s %s\t%.2f\t", number(c.Value), c.What, c.Ratio)
			if i == 0 {
				fmt.Fprintln(t, goals)
			} else {
				fmt.Fprintln(t)
			}
			if i < len(f.Beside)-1 {
				fmt.Fprint(t, "\t\t") // the next one stands below it
			}
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := printTrends(out, r.Trends); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(out, n)
	}
	return r.printBenchmarks(out)
}

// printBenchmarks writes a line per figure, and one per sample of a median,
// since those were measured one after the other.
func (r *report) printBenchmarks(out io.Writer) error {
	goos, goarch, _ := strings.Cut(r.Machine.OS, "/")
	fmt.Fprintf(out, "\ngoos: %s\ngoarch: %s\npkg: nofx.dev/integration/cmd/bench\ncpu: %s\n", goos, goarch, r.Machine.CPU)
	for _, f := range r.Figures {
		values := []float64{f.Value}
		if f.Stat == "median" {
			values = f.Samples
		}
		for _, v := range values {
			if _, err := fmt.Fprintf(out, "Benchmark%s 1 %s\n", camel(f.Name), benchmarkValue(v, f.Unit)); err != nil {
				return err
			}
		}
	}
	return nil
}

// benchmarkValue returns v in the units that benchstat knows.
func benchmarkValue(v float64, unit string) string {
	switch unit {
	case "ms":
		return fmt.Sprintf("%.0f ns/op", v*1e6)
	case "runs/s":
		return fmt.Sprintf("%.0f ns/op %.2f runs/s", 1e9/v, v)
	case "MiB":
		return fmt.Sprintf("%.0f B", v*(1<<20))
	}
	return fmt.Sprintf("%.0f B", v*(1<<10))
}

// camel makes start-p50 into StartP50.
func camel(name string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(name, "-") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// write keeps all of it as JSON.
func (r *report) write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
