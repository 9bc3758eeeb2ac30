// Package telemetry observes both processes: traces, the carrier of a trace through the
// queue, logs, and metrics.
//
//   - [Setup] installs the tracer provider. Spans are exported only where the
//     standard OTEL_* variables ask for it, but always have valid ids, because rows
//     carry them ([IDs], [Inject], [WithTraceparent]).
//   - [Carrier] is the River middleware that keeps one trace per run: a job carries
//     the context of what enqueued it, and the span of its work is a child of that.
//   - [NewLogger] writes JSON lines with the ids of the context ([WithScope]) and no
//     secrets ([Redactor]).
//   - [Catalogue] is every metric with its labels and their values; [NewMetrics]
//     makes instruments from it and from nothing else, so that no label can grow
//     without bound. [Serve] is the port they are read from.
//
// Names and rules are those of OBSERVABILITY.md. The rest of the tree uses the
// OpenTelemetry API; the SDK is known here alone.
package telemetry
