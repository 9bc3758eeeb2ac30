package telemetry

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Prefix begins the name of every metric of ours.
const Prefix = "nofx_"

// Metrics are the instruments of a process. Instruments that only the other process uses
// have no values. The values of an instrument's labels are given in the order that its
// comment shows; unknown ones are written as other, and counted.
type Metrics struct {
	QueueWait        *Histogram // queue, kind, first|retry
	QueueInserted    *Counter   // queue, kind, inserted|duplicate
	QueueFinished    *Counter   // queue, kind, outcome
	CarriersRejected *Counter

	WorkerSlots   *Gauge   // queue, max|used
	LeaseLost     *Counter // kind
	LeaseRenewals *Counter // ok|late|lost
	FencedWrites  *Counter
	Recovery      *Histogram

	RunsFinished         *Counter   // status
	RunDuration          *Histogram // status
	Branches             *Counter
	StepDuration         *Histogram // tool, outcome
	StepsFinished        *Counter   // tool, state
	TransitionRejections *Counter   // entity, from, event
	StepEgress           *Counter   // allowed|refused|failed
	EgressBytes          *Counter

	CheckpointBytes   *Histogram // kind
	CheckpointWrite   *Histogram // kind
	CheckpointRestore *Histogram
	DiffDuration      *Histogram
	DiffReplaced      *Counter
	Merges            *Counter // outcome
	GateVerdicts      *Counter // gate, verdict

	LLMDuration *Histogram // provider, model, outcome
	LLMTokens   *Counter   // provider, model, input|output|cached
	LLMCost     *Counter   // provider, model

	ReviewDuration    *Histogram // provider, verdict
	ReviewFindings    *Counter   // severity, disposition
	ReviewResolutions *Counter   // state, by
	ReviewPosts       *Counter   // provider, route, result

	HTTPDuration      *Histogram // method, route, code
	HTTPInFlight      *Gauge
	IdempotentReplays *Counter // route
	SSEConnections    *Gauge   // run|feed
	SSEEventsSent     *Counter // type
	EventsPruned      *Counter
	RunsExpired       *Counter // plan|system
	WebhookDeliveries *Counter // event, result
	BlobsCondemned    *Counter
	PacksRewritten    *Counter
	ObjectsCollected  *Counter // object|orphan
	StorageFindings   *Counter // missing|corrupt|unbacked|orphan
	BytesCollected    *Counter // object|orphan
	ListenerUp        *Gauge

	FailpointHits *Counter // name
	SpansDropped  *Counter // queue_full|export_failed|shutdown
	ExportErrors  *Counter

	reg      prometheus.Registerer
	overflow *Counter
}

// NewMetrics makes the instruments and registers them, the runtime's and the process's own
// metrics included. It must be called once per registry: a second call panics, like a
// mistake in the catalogue.
func NewMetrics(reg prometheus.Registerer, version string) *Metrics {
	m := &Metrics{reg: reg}
	m.overflow = m.counter("metrics_label_overflow_total")

	m.QueueWait = m.histogram("queue_wait_seconds")
	m.QueueInserted = m.counter("queue_inserted_total")
	m.QueueFinished = m.counter("queue_finished_total")
	m.CarriersRejected = m.counter("queue_carriers_rejected_total")
	m.WorkerSlots = m.gauge("worker_slots")
	m.LeaseLost = m.counter("lease_lost_total")
	m.LeaseRenewals = m.counter("lease_renewals_total")
	m.FencedWrites = m.counter("fenced_writes_total")
	m.Recovery = m.histogram("recovery_seconds")
	m.RunsFinished = m.counter("runs_finished_total")
	m.RunDuration = m.histogram("run_duration_seconds")
	m.Branches = m.counter("branches_total")
	m.StepDuration = m.histogram("step_duration_seconds")
	m.StepsFinished = m.counter("steps_finished_total")
	m.TransitionRejections = m.counter("state_transition_rejections_total")
	m.StepEgress = m.counter("step_egress_connections_total")
	m.EgressBytes = m.counter("sandbox_egress_bytes_total")
	m.CheckpointBytes = m.histogram("checkpoint_bytes")
	m.CheckpointWrite = m.histogram("checkpoint_write_seconds")
	m.CheckpointRestore = m.histogram("checkpoint_restore_seconds")
	m.DiffDuration = m.histogram("diff_seconds")
	m.DiffReplaced = m.counter("diff_state_replaced_total")
	m.Merges = m.counter("merges_total")
	m.GateVerdicts = m.counter("gate_verdicts_total")
	m.LLMDuration = m.histogram("llm_request_duration_seconds")
	m.LLMTokens = m.counter("llm_tokens_total")
	m.LLMCost = m.counter("llm_cost_usd_total")
	m.ReviewDuration = m.histogram("review_duration_seconds")
	m.ReviewFindings = m.counter("review_findings_total")
	m.ReviewResolutions = m.counter("review_resolutions_total")
	m.ReviewPosts = m.counter("review_post_total")
	m.HTTPDuration = m.histogram("http_request_duration_seconds")
	m.HTTPInFlight = m.gauge("http_requests_in_flight")
	m.IdempotentReplays = m.counter("idempotent_replays_total")
	m.SSEConnections = m.gauge("sse_connections")
	m.SSEEventsSent = m.counter("sse_events_sent_total")
	m.EventsPruned = m.counter("events_pruned_total")
	m.RunsExpired = m.counter("runs_expired_total")
	m.WebhookDeliveries = m.counter("webhook_deliveries_total")
	m.BlobsCondemned = m.counter("gc_blobs_condemned_total")
	m.PacksRewritten = m.counter("gc_packs_rewritten_total")
	m.ObjectsCollected = m.counter("gc_objects_deleted_total")
	m.StorageFindings = m.counter("storage_findings_total")
	m.BytesCollected = m.counter("gc_bytes_deleted_total")
	m.ListenerUp = m.gauge("listener_up")
	m.FailpointHits = m.counter("failpoint_hits_total")
	m.SpansDropped = m.counter("otel_spans_dropped_total")
	m.ExportErrors = m.counter("otel_export_errors_total")

	m.gauge("build_info").Set(1, cmp.Or(version, "unknown"), revision(), runtime.Version())
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// revision returns the commit that the binary was built from.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func (m *Metrics) counter(name string) *Counter {
	row := lookup(name, CounterType)
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: Prefix + name, Help: row.Help}, row.labelNames())
	m.register(vec)
	c := &Counter{labels: m.guard(row), vec: vec}
	if len(row.Labels) == 0 {
		vec.WithLabelValues() // 0 is a value too
	}
	return c
}

func (m *Metrics) gauge(name string) *Gauge {
	row := lookup(name, GaugeType)
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: Prefix + name, Help: row.Help}, row.labelNames())
	m.register(vec)
	return &Gauge{labels: m.guard(row), vec: vec}
}

func (m *Metrics) histogram(name string) *Histogram {
	row := lookup(name, HistogramType)
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: Prefix + name, Help: row.Help, Buckets: row.Buckets}, row.labelNames())
	m.register(vec)
	return &Histogram{labels: m.guard(row), vec: vec, exemplars: row.Exemplars}
}

func (m *Metrics) register(c prometheus.Collector) { m.reg.MustRegister(c) }

func (m *Metrics) guard(row Metric) *guard {
	return newGuard(row, func() {
		if m.overflow != nil { // nil only while it is being made itself
			m.overflow.Inc(row.Name)
		}
	})
}

// lookup returns the row of the catalogue for an instrument of type t.
func lookup(name string, t Type) Metric {
	for _, row := range Catalogue {
		if row.Name == name && row.Type == t {
			return row
		}
	}
	panic("telemetry: no " + string(t) + " " + name + " in the catalogue")
}

func (m Metric) labelNames() []string {
	names := make([]string, len(m.Labels))
	for i, l := range m.Labels {
		names[i] = l.Name
	}
	return names
}
