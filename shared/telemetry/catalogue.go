package telemetry

// Type is what a metric is.
type Type string

// The types. The value of a Scraped metric is computed when metrics are read.
const (
	CounterType   Type = "counter"
	GaugeType     Type = "gauge"
	HistogramType Type = "histogram"
)

// Metric is one row of the catalogue.
type Metric struct {
	Name      string // without the prefix nofx_
	Type      Type
	Help      string
	Labels    []Label
	Buckets   []float64 // of a histogram
	Exemplars bool      // its samples point at traces
	Scraped   bool      // its value is computed when it is read
}

// The buckets. They contain the bound of each objective exactly; those of waits
// go to an hour, because one that ends at 20 s shows a backed-up queue as 20 s.
var (
	waitBuckets     = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}
	durationBuckets = []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600}
	httpBuckets     = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	lagBuckets      = []float64{.01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30, 60, 300}
	ageBuckets      = []float64{1, 10, 60, 300, 1800, 3600, 14400, 86400, 259200, 604800}
	byteBuckets     = []float64{1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30, 1 << 32, 1 << 34}
)

// Catalogue is every metric of both processes (OBSERVABILITY.md §2). Instruments
// are made from it and from nothing else.
var Catalogue = []Metric{
	{Name: "queue_wait_seconds", Type: HistogramType, Help: "Time from due to claimed. A job is due at the later of its scheduled time and its ready time.", Labels: []Label{queueLabel, kindLabel, attemptLabel}, Buckets: waitBuckets, Exemplars: true},
	{Name: "queue_inserted_total", Type: CounterType, Help: "Jobs enqueued.", Labels: []Label{queueLabel, kindLabel, oneOf("result", "inserted", "duplicate")}},
	{Name: "queue_finished_total", Type: CounterType, Help: "Jobs worked, by outcome.", Labels: []Label{queueLabel, kindLabel, oneOf("outcome", jobOutcomes...)}},
	{Name: "queue_carriers_rejected_total", Type: CounterType, Help: "Jobs whose trace carrier could not be parsed; they continue the root span of the run."},
	{Name: "queue_depth", Type: GaugeType, Help: "Jobs not finished. Every gateway reports the same values: take the maximum.", Labels: []Label{queueLabel, oneOf("state", jobStates...)}, Scraped: true},
	{Name: "queue_oldest_available_age_seconds", Type: GaugeType, Help: "Age of the oldest job that could be worked now, since it was due.", Labels: []Label{queueLabel}, Scraped: true},
	{Name: "queue_stats_up", Type: GaugeType, Help: "1 while the database answers for queue and run gauges; they are absent while it does not.", Scraped: true},

	{Name: "worker_slots", Type: GaugeType, Help: "Steps that a worker may run at once, and steps that it runs.", Labels: []Label{queueLabel, oneOf("state", "max", "used")}},
	{Name: "lease_lost_total", Type: CounterType, Help: "Leases that a worker lost to another worker.", Labels: []Label{kindLabel}},
	{Name: "lease_renewals_total", Type: CounterType, Help: "Requested renewals of leases, each lease counted.", Labels: []Label{oneOf("result", "ok", "late", "lost")}},
	{Name: "fenced_writes_total", Type: CounterType, Help: "Writes refused because their lease was lost."},
	{Name: "recovery_seconds", Type: HistogramType, Help: "Time from the expiry of a lease to the step's next claim.", Buckets: lagBuckets},

	{Name: "runs", Type: GaugeType, Help: "Runs that have not ended. Every gateway reports the same values: take the maximum.", Labels: []Label{oneOf("status", liveRunStates...)}, Scraped: true},
	{Name: "runs_finished_total", Type: CounterType, Help: "Runs that ended.", Labels: []Label{oneOf("status", finalRunStates...)}},
	{Name: "run_duration_seconds", Type: HistogramType, Help: "Time from creation to end.", Labels: []Label{oneOf("status", finalRunStates...)}, Buckets: ageBuckets, Exemplars: true},
	{Name: "branches_total", Type: CounterType, Help: "Branches of runs made; each is a run as well."},
	{Name: "step_duration_seconds", Type: HistogramType, Help: "Time that the tool ran in one attempt.", Labels: []Label{toolLabel, oneOf("outcome", attemptOutcomes...)}, Buckets: durationBuckets, Exemplars: true},
	{Name: "steps_finished_total", Type: CounterType, Help: "Steps that ended.", Labels: []Label{toolLabel, oneOf("state", finalStepStates...)}},
	{Name: "state_transition_rejections_total", Type: CounterType, Help: "Transitions the database refused.", Labels: []Label{oneOf("entity", machines...), oneOf("from", allStates...), oneOf("event", allTransitions...)}},
	{Name: "step_egress_connections_total", Type: CounterType, Help: "Connections that code of steps asked its proxy for: made, refused, or to a host that could not be reached.", Labels: []Label{oneOf("result", "allowed", "refused", "failed")}},
	{Name: "sandbox_egress_bytes_total", Type: CounterType, Help: "Bytes that code of steps sent and received through its proxy."},

	{Name: "checkpoint_bytes", Type: HistogramType, Help: "New bytes stored for a checkpoint.", Labels: []Label{oneOf("kind", checkpointKinds...)}, Buckets: byteBuckets},
	{Name: "checkpoint_write_seconds", Type: HistogramType, Help: "Time to make a checkpoint: to scan the workspace or join others, and to store what is new.", Labels: []Label{oneOf("kind", checkpointKinds...)}, Buckets: durationBuckets},
	{Name: "checkpoint_restore_seconds", Type: HistogramType, Help: "Time to make a workspace equal to the checkpoint that a step starts from.", Buckets: durationBuckets},
	{Name: "diff_seconds", Type: HistogramType, Help: "Time to compute and store what lies between two checkpoints.", Buckets: durationBuckets},
	{Name: "diff_state_replaced_total", Type: CounterType, Help: "Diffs whose operations on the state did not lead to it, so that one replaces it."},
	{Name: "merges_total", Type: CounterType, Help: "Merges committed, by what their computation found.", Labels: []Label{oneOf("outcome", "up_to_date", "fast_forward", "clean", "conflicted")}},
	{Name: "gate_verdicts_total", Type: CounterType, Help: "Gates decided.", Labels: []Label{gateLabel, oneOf("verdict", "passed", "failed", "waived", "expired", "error")}},

	{Name: "llm_request_duration_seconds", Type: HistogramType, Help: "One try at a model, answered or not.", Labels: []Label{providerLabel, modelLabel, oneOf("outcome", llmOutcomes...)}, Buckets: durationBuckets, Exemplars: true},
	{Name: "llm_tokens_total", Type: CounterType, Help: "Tokens used; cached ones are input too.", Labels: []Label{providerLabel, modelLabel, oneOf("direction", "input", "output", "cached")}},
	{Name: "review_duration_seconds", Type: HistogramType, Help: "A review from its step's claim to its verdict.", Labels: []Label{oneOf("provider", "github", "bitbucket", "workspace", "diff"), oneOf("verdict", "passed", "failed", "error")}, Buckets: durationBuckets, Exemplars: true},
	{Name: "review_findings_total", Type: CounterType, Help: "What reviews found, by what became of it.", Labels: []Label{oneOf("severity", "critical", "high", "medium", "low", "info"), oneOf("disposition", "posted", "capped", "demoted", "duplicate", "rejected")}},
	{Name: "review_resolutions_total", Type: CounterType, Help: "Findings that were settled or opened again: by the author of the change, by another person, or by a review that shows it.", Labels: []Label{oneOf("state", "fixed", "resolved", "dismissed", "open"), oneOf("by", "author", "reviewer", "review")}},
	{Name: "review_post_total", Type: CounterType, Help: "Reviews posted on a forge, or tried to.", Labels: []Label{oneOf("provider", "github", "bitbucket"), oneOf("route", "draft", "at_once", "none"), oneOf("result", "complete", "partial", "failed")}},
	{Name: "llm_cost_usd_total", Type: CounterType, Help: "What models cost, as far as their prices are configured.", Labels: []Label{providerLabel, modelLabel}},

	{Name: "http_request_duration_seconds", Type: HistogramType, Help: "Requests of the API; streams are left out.", Labels: []Label{methodLabel, routeLabel, codeLabel}, Buckets: httpBuckets, Exemplars: true},
	{Name: "http_requests_in_flight", Type: GaugeType, Help: "Requests being answered; streams are left out."},
	{Name: "idempotent_replays_total", Type: CounterType, Help: "Requests answered from the stored answer of their key.", Labels: []Label{routeLabel}},
	{Name: "sse_connections", Type: GaugeType, Help: "Open event streams.", Labels: []Label{oneOf("stream", "run", "feed")}},
	{Name: "sse_events_sent_total", Type: CounterType, Help: "Events written to streams, once per stream.", Labels: []Label{oneOf("type", eventTypes...)}},
	{Name: "events_pruned_total", Type: CounterType, Help: "Events deleted because the retention of their run has passed."},
	{Name: "runs_expired_total", Type: CounterType, Help: "Runs deleted because their retention has passed.", Labels: []Label{oneOf("kind", "plan", "system")}},
	{Name: "webhook_deliveries_total", Type: CounterType, Help: "Attempts to deliver events to the endpoints of alerts.", Labels: []Label{oneOf("event", alertEvents...), oneOf("result", "delivered", "pending", "failed", "disabled", "lost")}},
	{Name: "gc_blobs_condemned_total", Type: CounterType, Help: "Blobs that a collection found no checkpoint to name."},
	{Name: "gc_packs_rewritten_total", Type: CounterType, Help: "Packs that a collection wrote again, because little of them was needed."},
	{Name: "gc_objects_deleted_total", Type: CounterType, Help: "Objects that a collection deleted from storage: those that rows did not need any more, and orphans without a row.", Labels: []Label{oneOf("kind", "object", "orphan")}},
	{Name: "storage_findings_total", Type: CounterType, Help: "Objects and blobs that verifications of the storage found wrong.", Labels: []Label{oneOf("kind", "missing", "corrupt", "unbacked", "orphan")}},
	{Name: "gc_bytes_deleted_total", Type: CounterType, Help: "Bytes of the objects that collections deleted from storage.", Labels: []Label{oneOf("kind", "object", "orphan")}},
	{Name: "listener_up", Type: GaugeType, Help: "1 while notifications arrive; 0 is polling only."},
	{Name: "db_pool_connections", Type: GaugeType, Help: "Connections of a pool.", Labels: []Label{oneOf("pool", pools...), oneOf("state", "max", "used", "idle")}, Scraped: true},

	{Name: "failpoint_hits_total", Type: CounterType, Help: "Failpoints hit; in tests only.", Labels: []Label{oneOf("name", failpoints...)}},
	{Name: "otel_spans_dropped_total", Type: CounterType, Help: "Spans that were not exported.", Labels: []Label{oneOf("reason", "queue_full", "export_failed", "shutdown")}},
	{Name: "otel_export_errors_total", Type: CounterType, Help: "Batches of spans that the receiver did not take."},
	{Name: "metrics_label_overflow_total", Type: CounterType, Help: "Label values that the catalogue does not know, written as other.", Labels: []Label{free("metric", 100)}},
	{Name: "build_info", Type: GaugeType, Help: "Always 1; its labels describe the running program.", Labels: []Label{free("version", 1), free("revision", 1), free("go", 1)}},
}
