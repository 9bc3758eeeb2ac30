package telemetry

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// Counter is a number that only grows.
type Counter struct {
	labels *guard
	vec    *prometheus.CounterVec
}

// Inc adds one. All methods here panic when the number of label values is not the
// catalogue's.
func (c *Counter) Inc(labels ...string) { c.Add(1, labels...) }

// Add adds n, which is not negative.
func (c *Counter) Add(n float64, labels ...string) {
	c.vec.WithLabelValues(c.labels.allow(labels)...).Add(n)
}

// Gauge is a number that goes up and down.
type Gauge struct {
	labels *guard
	vec    *prometheus.GaugeVec
}

// Set makes the gauge v.
func (g *Gauge) Set(v float64, labels ...string) {
	g.vec.WithLabelValues(g.labels.allow(labels)...).Set(v)
}

// Add adds d, which may be negative.
func (g *Gauge) Add(d float64, labels ...string) {
	g.vec.WithLabelValues(g.labels.allow(labels)...).Add(d)
}

// Histogram counts values by size.
type Histogram struct {
	labels    *guard
	vec       *prometheus.HistogramVec
	exemplars bool
}

// Observe counts v: seconds, or bytes if the name says so. If the catalogue says so and ctx
// is in a sampled trace, the sample refers to its span.
func (h *Histogram) Observe(ctx context.Context, v float64, labels ...string) {
	o := h.vec.WithLabelValues(h.labels.allow(labels)...)
	sc := trace.SpanContextFromContext(ctx)
	if eo, ok := o.(prometheus.ExemplarObserver); ok && h.exemplars && sc.IsValid() && sc.IsSampled() {
		eo.ObserveWithExemplar(v, prometheus.Labels{"trace_id": sc.TraceID().String(), "span_id": sc.SpanID().String()})
		return
	}
	o.Observe(v)
}

// guard keeps the labels of one instrument to what the catalogue allows.
type guard struct {
	row      Metric
	overflow func() // called for each value that became other

	mu   sync.Mutex
	seen []map[string]bool // per label: the values that its fold has admitted
}

func newGuard(row Metric, overflow func()) *guard {
	g := &guard{row: row, overflow: overflow, seen: make([]map[string]bool, len(row.Labels))}
	for i := range g.seen {
		g.seen[i] = map[string]bool{}
	}
	return g
}

// allow returns values with unknown ones replaced.
func (g *guard) allow(values []string) []string {
	if len(values) != len(g.row.Labels) {
		return values // the vector's own error is better than ours
	}
	allowed := make([]string, len(values))
	for i, l := range g.row.Labels {
		v, known := l.allow(values[i])
		if known && l.most > 0 {
			v, known = g.admit(i, v)
		}
		if !known {
			g.overflow()
		}
		allowed[i] = v
	}
	return allowed
}

// admit admits the first most values of a label.
func (g *guard) admit(i int, v string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.seen[i]
	if !seen[v] {
		if len(seen) >= g.row.Labels[i].most {
			return other, false
		}
		seen[v] = true
	}
	return v, true
}
