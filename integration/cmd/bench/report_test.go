package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() *report {
	r := &report{Machine: machine{OS: "linux/amd64", CPU: "A CPU", Cores: 2, Settings: map[string]string{"fsync": "on", "synchronous_commit": "on"}}, Seconds: 12}
	r.add(figure{Name: "runs", What: "runs", Unit: "runs/s", Stat: "median", Samples: []float64{100, 300, 210}, Beside: beside("chain", []float64{100, 150, 100}).and("nobody", nil).and("peer", []float64{300, 300, 300}), Pass: 200, Aim: 400})
	r.add(figure{Name: "start-p99", What: "start", Unit: "ms", Stat: "p99", Samples: []float64{5, 900, 7}, Beside: beside("chain", []float64{9, 10}), Pass: 200, Aim: 50})
	r.add(figure{Name: "memory-worker", What: "worker", Unit: "MiB", Stat: "median", Samples: []float64{28}, Pass: 60})
	r.add(figure{Name: "next-loaded-p50", What: "next", Unit: "ms", Stat: "p50", Value: 3})
	return r
}

func TestReportAdd(t *testing.T) {
	t.Parallel()
	type numbers struct {
		Value         float64
		Beside, Ratio []float64
		Goals         string
	}
	var got []numbers
	for _, f := range sample().Figures {
		limit, verdict, aim := f.goals()
		n := numbers{Value: f.Value, Goals: strings.Join([]string{limit, verdict, aim}, ", ")}
		for _, c := range f.Beside {
			n.Beside, n.Ratio = append(n.Beside, c.Value), append(n.Ratio, c.Ratio)
		}
		got = append(got, n)
	}
	want := []numbers{
		{210, []float64{100, 300}, []float64{2, 0.7}, "≥ 200, pass, ≥ 400: no"}, // ratios of the rounds: 1, 2, 2.1 and 0.33, 1, 0.7
		{900, []float64{10}, []float64{90}, "≤ 200, over, ≤ 50: no"},
		{28, nil, nil, "≤ 60, pass, "},
		{3, nil, nil, ", , "},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
}

func TestReportPrint(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := sample().print(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, line := range []string{
		`(?m)^machine   2 cores \(A CPU\)`,
		`(?m)^runs +210 runs/s +100 chain +2\.00 +≥ 200 +pass +≥ 400: no$`,
		`(?m)^ +300 peer +0\.70 *$`,
		`(?m)^next +3 ms +– +– *$`,
		`(?m)^cpu: A CPU$`,
		`(?m)^BenchmarkRuns 1 4761905 ns/op 210\.00 runs/s$`,
		`(?m)^BenchmarkStartP99 1 900000000 ns/op$`,
		`(?m)^BenchmarkMemoryWorker 1 29360128 B$`,
	} {
		if !regexp.MustCompile(line).MatchString(text) {
			t.Errorf("print wrote no line %s in:\n%s", line, text)
		}
	}
	if got := strings.Count(text, "BenchmarkRuns "); got != 3 {
		t.Errorf("print wrote %d lines for the rounds of a median, want 3", got)
	}
	if strings.Contains(text, "NOT DURABLE") {
		t.Errorf("print warns of a durable database:\n%s", text)
	}
	r := sample()
	r.Machine.Settings["fsync"] = "off"
	out.Reset()
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "NOT DURABLE") {
		t.Errorf("print does not warn of fsync=off:\n%s", out.String())
	}
}

func TestReportWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out.json")
	want := sample()
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Errorf("write, then read (-want +got):\n%s", diff)
	}
}

func TestReadMetrics(t *testing.T) {
	t.Parallel()
	got, err := readMetrics(strings.NewReader("# HELP a b\n# TYPE a counter\na 1\nb_sum{kind=\"post\",x=\"y z\"} 2.5e+06\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"a": 1, `b_sum{kind="post",x="y z"}`: 2.5e6}, got); diff != "" {
		t.Errorf("readMetrics (-want +got):\n%s", diff)
	}
	if got, err := readMetrics(strings.NewReader("a b\n")); err == nil {
		t.Errorf("readMetrics(a b) = %v, want an error", got)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want options
		bad  string
	}{
		{args: nil, want: options{seconds: 9, rounds: 3, history: 1_000_000, soakFor: 2 * time.Minute}},
		{args: []string{"--json", "f", "--seconds", "3", "post", "runs"}, want: options{json: "f", seconds: 3, rounds: 3, history: 1_000_000, soakFor: 2 * time.Minute, only: []string{"post", "runs"}}},
		{args: []string{"runs", "--rounds", "1"}, want: options{seconds: 9, rounds: 1, history: 1_000_000, soakFor: 2 * time.Minute, only: []string{"runs"}}},
		{args: []string{"--history", "5000", "--soak", "20m", "scale", "soak"}, want: options{seconds: 9, rounds: 3, history: 5000, soakFor: 20 * time.Minute, only: []string{"scale", "soak"}}},
		{args: []string{"memory", "trees"}, want: options{seconds: 9, rounds: 3, history: 1_000_000, soakFor: 2 * time.Minute, only: []string{"memory", "checkpoint", "diff", "merge"}}},
		{args: []string{"--history", "10"}, bad: "want 1000 to"},
		{args: []string{"--soak", "1s"}, bad: "want 30s to"},
		{args: []string{"--rounds", "10"}, bad: "want 1 to the 9 of --seconds"},
		{args: []string{"--seconds", "0"}, bad: "want 1 to 600"},
		{args: []string{"everything"}, bad: `unknown measurement "everything"`},
	} {
		var usage bytes.Buffer
		got, err := parse(c.args, &usage)
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("parse(%q) = %v, want an error with %q", c.args, err, c.bad)
			}
			continue
		}
		if err != nil {
			t.Errorf("parse(%q): %v", c.args, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(options{})); diff != "" {
			t.Errorf("parse(%q) (-want +got):\n%s", c.args, diff)
		}
	}
}
