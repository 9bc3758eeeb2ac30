package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"nofx.dev/integration/harness"
)

// memory measures what the processes hold in memory when they have nothing to do,
// some seconds after their first runs.
func (b *bench) memory(ctx context.Context) error {
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	gateway, err := resident(ctx, b.stack.Gateway)
	if err != nil {
		return err
	}
	var each []float64
	for _, w := range b.stack.Workers() {
		mib, err := resident(ctx, w)
		if err != nil {
			return err
		}
		each = append(each, mib)
	}
	b.report.add(figure{Name: "memory-gateway", What: "idle gateway, resident", Unit: "MiB", Stat: "median", Samples: []float64{gateway}, Pass: 60, Aim: 40})
	b.report.add(figure{Name: "memory-worker", What: "idle worker, resident", Unit: "MiB", Stat: "median", Samples: each, Pass: 60, Aim: 40})
	return nil
}

// resident returns a process's resident memory in MiB.
func resident(ctx context.Context, p *harness.Process) (float64, error) {
	all, err := scrape(ctx, p)
	if err != nil {
		return 0, err
	}
	bytes, ok := all["process_resident_memory_bytes"]
	if !ok {
		return 0, fmt.Errorf("%s does not tell its memory on this system", p.Name())
	}
	return bytes / (1 << 20), nil
}

// scrape reads a process's metrics: values by name and labels, as they are
// written, such as `x_sum{kind="post"}`.
func scrape(ctx context.Context, p *harness.Process) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.MetricsURL(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", p.Name(), resp.Status)
	}
	return readMetrics(resp.Body)
}

func readMetrics(r io.Reader) (map[string]float64, error) {
	all := map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("value of the metric %s: %w", name, err)
		}
		all[name] = v
	}
	return all, lines.Err()
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
