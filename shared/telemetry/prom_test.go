package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/run"
)

// gather reads the registry as a scrape does.
func gather(t *testing.T, reg *prometheus.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatalf("Gather = %v", err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.Label {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}

// values gives the n-th combination of known values of a metric's labels.
func values(row Metric, n int) []string {
	var all []string
	for _, l := range row.Labels {
		known := l.Values
		if len(known) == 0 {
			known = []string{"200"}
		}
		all = append(all, known[n%len(known)])
	}
	return all
}

// moveAll moves every instrument once with each of some label values.
func moveAll(ctx context.Context, m *Metrics, labels func(row Metric) []string) {
	v := reflect.ValueOf(m).Elem()
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		switch in := v.Field(i).Interface().(type) {
		case *Counter:
			in.Inc(labels(in.labels.row)...)
		case *Gauge:
			in.Set(1, labels(in.labels.row)...)
		case *Histogram:
			in.Observe(ctx, 1, labels(in.labels.row)...)
		default:
			panic(fmt.Sprintf("field %s is a %T", v.Type().Field(i).Name, in))
		}
	}
}

// TestCatalogue moves everything there is, with known values and with hostile
// ones, and then reads the registry: it holds what the catalogue says, all of it
// and nothing else, and no label value that the catalogue does not bound.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	m, reg := newTestMetrics()
	m.CollectQueue(func(context.Context) (QueueStats, error) { return QueueStats{}, nil })
	m.CollectPools(func() map[string]PoolStats { return map[string]PoolStats{"requests": {Max: 4}, "what": {Max: 1}} })
	for n := range 40 {
		moveAll(t.Context(), m, func(row Metric) []string { return values(row, n) })
	}
	for n := range 1000 {
		moveAll(t.Context(), m, func(row Metric) []string {
			hostile := make([]string, len(row.Labels))
			for i := range hostile {
				hostile[i] = fmt.Sprintf("run_%032x\x00\xff", n)
			}
			return hostile
		})
	}
	got := families(t, reg)
	rows := map[string]Metric{}
	for _, row := range Catalogue {
		if _, twice := rows[Prefix+row.Name]; twice {
			t.Errorf("%s is in the catalogue twice", row.Name)
		}
		rows[Prefix+row.Name] = row
		if got[Prefix+row.Name] == nil {
			t.Errorf("%s is in the catalogue and nothing makes it", row.Name)
		}
		lint(t, row)
	}
	series := 0
	for name, f := range got {
		row, ok := rows[name]
		if !ok {
			t.Errorf("%s is not in the catalogue", name)
			continue
		}
		if f.GetHelp() != row.Help || strings.ToLower(f.GetType().String()) != string(row.Type) {
			t.Errorf("%s is a %v: %q", name, f.GetType(), f.GetHelp())
		}
		for _, sample := range f.Metric {
			checkSample(t, row, sample)
			series += 1 + len(sample.GetHistogram().GetBucket())
		}
	}
	t.Logf("%d series with every instrument moved", series)
	if got := testutil.ToFloat64(m.overflow.vec.WithLabelValues("steps_finished_total")); got != 2000 {
		t.Errorf("metrics_label_overflow_total{metric=steps_finished_total} = %v, want 2000", got)
	}
}

// families returns our metrics among those of the registry.
func families(t *testing.T, reg *prometheus.Registry) map[string]*dto.MetricFamily {
	all := gather(t, reg)
	maps.DeleteFunc(all, func(name string, _ *dto.MetricFamily) bool {
		return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_")
	})
	return all
}

// lint holds a row to the naming rules of Prometheus and of ours.
func lint(t *testing.T, row Metric) {
	if strings.HasSuffix(row.Name, "_total") != (row.Type == CounterType) {
		t.Errorf("%s is a %s: counters, and only they, end in _total", row.Name, row.Type)
	}
	if (row.Type == HistogramType) != (len(row.Buckets) > 0) || !slices.IsSorted(row.Buckets) {
		t.Errorf("%s is a %s with buckets %v", row.Name, row.Type, row.Buckets)
	}
	if row.Exemplars && row.Type != HistogramType || row.Scraped && row.Type != GaugeType {
		t.Errorf("%s is a %s with exemplars %v, scraped %v", row.Name, row.Type, row.Exemplars, row.Scraped)
	}
	if !strings.HasSuffix(row.Help, ".") {
		t.Errorf("%s has the help %q, want a sentence", row.Name, row.Help)
	}
	for _, l := range row.Labels {
		if slices.Contains([]string{"le", "quantile", "tenant", "tenant_id", "run_id", "step_id", "error", "reason_text"}, l.Name) {
			t.Errorf("%s has a label %s", row.Name, l.Name)
		}
		if len(l.Values) == 0 && l.most == 0 {
			t.Errorf("%s: label %s is unbounded", row.Name, l.Name)
		}
	}
}

func checkSample(t *testing.T, row Metric, sample *dto.Metric) {
	labels := labelsOf(sample)
	if len(labels) != len(row.Labels) {
		t.Errorf("%s has labels %v", row.Name, labels)
	}
	for _, l := range row.Labels {
		v := labels[l.Name]
		if strings.Contains(v, "run_0") || len(v) > 100 {
			t.Errorf("%s{%s=%q}: not bounded", row.Name, l.Name, v)
		}
		if v != other && l.most == 0 && !slices.Contains(l.Values, v) {
			t.Errorf("%s{%s=%q}: not one of %v", row.Name, l.Name, v, l.Values)
		}
	}
	if h := sample.GetHistogram(); h != nil {
		var bounds []float64
		for _, b := range h.Bucket {
			bounds = append(bounds, b.GetUpperBound())
		}
		if diff := cmp.Diff(row.Buckets, bounds); diff != "" {
			t.Errorf("%s buckets (-want +got):\n%s", row.Name, diff)
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		label    Label
		in, want string
		known    bool
	}{
		{toolLabel, "bash", "bash", true},
		{toolLabel, "gate:unit", "gate:unit", true},
		{toolLabel, "gate:my-own", "gate:other", true},
		{toolLabel, "manual:ship-it", "manual:other", true},
		{toolLabel, "curl", other, false},
		{toolLabel, "evil:x", other, false},
		{toolLabel, "", other, false},
		{gateLabel, "gate:unit", "unit", true},
		{gateLabel, "lint", "lint", true},
		{gateLabel, "manual:deploy", other, true},
		{routeLabel, "/api/runs/{run_id}/steps", "/api/runs/{run_id}/steps", true},
		{routeLabel, "/api/runs/:run_id", "/api/runs/:run_id", true},
		{routeLabel, "/api/openapi.yaml", "/api/openapi.yaml", true},
		{routeLabel, "", "none", true},
		{routeLabel, "/api/runs/run_0198f2", other, false},
		{codeLabel, "404", "404", true},
		{codeLabel, "9999", other, false},
		{methodLabel, "BREW", other, false},
	} {
		got, known := tt.label.allow(tt.in)
		if known && tt.label.most == 0 && !slices.Contains(tt.label.Values, got) && got != other {
			t.Errorf("label %s: allow(%q) = %q, which is not among its values", tt.label.Name, tt.in, got)
		}
		if !known {
			got = other
		}
		if got != tt.want || known != tt.known {
			t.Errorf("label %s: allow(%q) = %q, %v, want %q, %v", tt.label.Name, tt.in, got, known, tt.want, tt.known)
		}
	}
}

func TestFreeLabelsAreCapped(t *testing.T) {
	t.Parallel()
	m, reg := newTestMetrics()
	for a := range 26 {
		for b := range 26 {
			m.IdempotentReplays.Inc(fmt.Sprintf("/%c/%c", 'a'+a, 'a'+b))
		}
	}
	if n := len(gather(t, reg)["nofx_idempotent_replays_total"].Metric); n != routeLabel.most+1 {
		t.Errorf("%d series, want %d and one for the rest", n, routeLabel.most)
	}
	if got := testutil.ToFloat64(m.overflow.vec.WithLabelValues("idempotent_replays_total")); got != float64(26*26-routeLabel.most) {
		t.Errorf("%v values overflowed, want %d", got, 26*26-routeLabel.most)
	}
}

// The catalogue names what other packages define; it may not import them.
func TestCatalogueKnowsTheDomain(t *testing.T) {
	t.Parallel()
	text := func(states []run.State) []string {
		var all []string
		for _, s := range states {
			all = append(all, string(s))
		}
		return all
	}
	states, events := map[string]bool{}, map[string]bool{}
	for _, m := range run.Machines {
		if !slices.Contains(machines, m.String()) {
			t.Errorf("machine %s is not known", m.String())
		}
		for _, s := range text(m.States()) {
			states[s] = true
		}
		for _, tr := range m.Transitions() {
			events[tr.Event] = true
		}
	}
	sorted := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	for what, c := range map[string]struct{ want, got []string }{
		"states":      {slices.Sorted(maps.Keys(states)), sorted(allStates)},
		"transitions": {slices.Sorted(maps.Keys(events)), sorted(allTransitions)},
		"run states":  {text(run.RunMachine.States()), append(slices.Clone(liveRunStates), finalRunStates...)},
		"failpoints":  {failpoint.Names(), failpoints},
		"checkpoints": {[]string{string(run.PreCheckpoint), string(run.PostCheckpoint), string(run.GateFailedCheckpoint), string(run.WaitCheckpoint), string(run.InterruptCheckpoint), string(run.EditCheckpoint), string(run.MergeCheckpoint), string(run.ManualCheckpoint)}, checkpointKinds},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-domain +catalogue):\n%s", what, diff)
		}
	}
	types := []string{"stream.end", "stream.gap", "stream.ready"} // which are no events, but sent with them
	for _, e := range run.EventTypes() {
		types = append(types, e.Name)
	}
	if diff := cmp.Diff(sorted(types), sorted(eventTypes)); diff != "" {
		t.Errorf("types of events (-domain +catalogue):\n%s", diff)
	}
	for _, tool := range knownTools {
		if _, known := run.ToolOf(tool); !known {
			t.Errorf("tool %s is none", tool)
		}
	}
	for _, tool := range run.Tools() {
		name := tool.Name
		if strings.HasSuffix(name, ":") {
			name += "ours" // any of the family
		}
		if got, ok := toolLabel.allow(name); !ok {
			t.Errorf("tool %s is written as %q", name, got)
		}
		if !slices.Contains(queues, tool.Queue) {
			t.Errorf("queue %s of %s is not known", tool.Queue, name)
		}
	}
}

func TestExemplarsOnlyOfSampledTraces(t *testing.T) {
	t.Parallel()
	sampled, _ := WithTraceparent(t.Context(), parent)
	unsampled, _ := WithTraceparent(t.Context(), parent[:53]+"00")
	want := map[string]string{"trace_id": parent[3:35], "span_id": parent[36:52]}
	for name, ctx := range map[string]context.Context{"sampled": sampled, "unsampled": unsampled, "none": t.Context()} {
		m, reg := newTestMetrics()
		moveAll(ctx, m, func(row Metric) []string { return values(row, 0) })
		for _, row := range Catalogue {
			if row.Type != HistogramType {
				continue
			}
			var got map[string]string
			for _, b := range gather(t, reg)[Prefix+row.Name].Metric[0].GetHistogram().Bucket {
				if e := b.Exemplar; e != nil {
					got = map[string]string{}
					for _, l := range e.Label {
						got[l.GetName()] = l.GetValue()
					}
				}
			}
			expect := map[string]string(nil)
			if row.Exemplars && trace.SpanContextFromContext(ctx).IsSampled() {
				expect = want
			}
			if diff := cmp.Diff(expect, got); diff != "" {
				t.Errorf("%s, %s: exemplar (-want +got):\n%s", name, row.Name, diff)
			}
		}
	}
}

func TestQueueGauges(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, "")
	var asked int
	var fail error
	answer := QueueStats{
		Depth:     map[string]map[string]int64{"step": {"available": 3}},
		OldestAge: map[string]time.Duration{"step": 90 * time.Second},
		Runs:      map[string]int64{"waiting": 2},
	}
	now := time.Now()
	c := m.newQueueCollector(func(ctx context.Context) (QueueStats, error) {
		asked++
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > statsTimeout {
			t.Errorf("asked with deadline %v, %v", deadline, ok)
		}
		return answer, fail
	})
	c.now = func() time.Time { return now }
	reg.MustRegister(c)
	read := func() map[string]float64 {
		got := map[string]float64{}
		for name, f := range gather(t, reg) {
			for _, s := range f.Metric {
				switch labels := labelsOf(s); name {
				case "nofx_queue_stats_up", "nofx_queue_oldest_available_age_seconds":
					got[name] = s.GetGauge().GetValue()
				case "nofx_queue_depth":
					got["depth "+labels["queue"]+" "+labels["state"]] = s.GetGauge().GetValue()
				case "nofx_runs":
					got["runs "+labels["status"]] = s.GetGauge().GetValue()
				}
			}
		}
		return got
	}
	up := map[string]float64{
		"nofx_queue_stats_up": 1, "nofx_queue_oldest_available_age_seconds": 90,
		"depth step available": 3, "depth step pending": 0, "depth step retryable": 0, "depth step running": 0, "depth step scheduled": 0,
		"depth review available": 0, "depth review pending": 0, "depth review retryable": 0, "depth review running": 0, "depth review scheduled": 0,
		"depth maintenance available": 0, "depth maintenance pending": 0, "depth maintenance retryable": 0, "depth maintenance running": 0, "depth maintenance scheduled": 0,
		"runs queued": 0, "runs running": 0, "runs waiting": 2, "runs paused": 0,
	}
	down := map[string]float64{"nofx_queue_stats_up": 0}
	for _, step := range []struct {
		name  string
		after time.Duration
		fail  error
		want  map[string]float64
		asked int
	}{
		{"first", 0, nil, up, 1},
		{"cached", 9 * time.Second, nil, up, 1},
		{"database gone", 2 * time.Second, errors.New("gone"), down, 2},
		{"still gone", time.Second, errors.New("gone"), down, 3},
		{"back", time.Second, nil, up, 4},
	} {
		now, fail = now.Add(step.after), step.fail
		if diff := cmp.Diff(step.want, read()); diff != "" || asked != step.asked {
			t.Errorf("%s: asked %d times, want %d; gauges (-want +got):\n%s", step.name, asked, step.asked, diff)
		}
	}
}

func TestQueueGaugesDoNotWaitForTheDatabase(t *testing.T) {
	t.Parallel()
	m, reg := newTestMetrics()
	m.CollectQueue(func(ctx context.Context) (QueueStats, error) {
		<-ctx.Done()
		return QueueStats{}, nil // an answer that came too late is none
	})
	got := gather(t, reg)
	if v := got["nofx_queue_stats_up"].Metric[0].GetGauge().GetValue(); v != 0 || got["nofx_queue_depth"] != nil {
		t.Errorf("queue_stats_up = %v, depth %v", v, got["nofx_queue_depth"])
	}
}

func TestPoolGauges(t *testing.T) {
	t.Parallel()
	m, reg := newTestMetrics()
	m.CollectPools(func() map[string]PoolStats { return map[string]PoolStats{"requests": {Max: 8, Used: 3, Idle: 1}} })
	got := map[string]float64{}
	for _, s := range gather(t, reg)["nofx_db_pool_connections"].Metric {
		labels := labelsOf(s)
		got[labels["pool"]+" "+labels["state"]] = s.GetGauge().GetValue()
	}
	if diff := cmp.Diff(map[string]float64{"requests max": 8, "requests used": 3, "requests idle": 1}, got); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
}

func TestInstrumentsComeFromTheCatalogueOnly(t *testing.T) {
	t.Parallel()
	m, _ := newTestMetrics()
	defer func() {
		if recover() == nil {
			t.Error("counter(made_up_total) did not panic")
		}
	}()
	m.counter("made_up_total")
}
