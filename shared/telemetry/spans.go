package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The queue of ended spans: its limit, and the longest time that a span waits for its
// batch. A crash loses at most the spans of the last second.
const (
	maxQueuedSpans = 8192
	exportEvery    = time.Second
	exportTimeout  = 10 * time.Second
)

// queue is the span processor between the program and the exporter. An ended span never
// blocks the program: when maxQueuedSpans wait, it is dropped and counted. The SDK's
// batching does the rest. Its own limit is never reached, since the SDK counts dropped
// spans only internally.
type queue struct {
	batch   sdktrace.SpanProcessor
	waiting atomic.Int64
	stopped atomic.Bool
	metrics *Metrics
}

func newQueue(exporter sdktrace.SpanExporter, cfg Config) *queue {
	q := &queue{metrics: cfg.Metrics}
	q.batch = sdktrace.NewBatchSpanProcessor(
		&export{next: exporter, queue: q, log: cfg.Log, redactor: cfg.Redactor},
		sdktrace.WithMaxQueueSize(maxQueuedSpans), sdktrace.WithMaxExportBatchSize(512),
		sdktrace.WithBatchTimeout(exportEvery), sdktrace.WithExportTimeout(exportTimeout))
	return q
}

func (q *queue) OnStart(ctx context.Context, s sdktrace.ReadWriteSpan) {
	s.SetAttributes(scopeAttributes(ctx)...)
}

func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	switch {
	case !s.SpanContext().IsSampled():
	case q.stopped.Load():
		q.metrics.SpansDropped.Inc("shutdown")
	case q.waiting.Add(1) > maxQueuedSpans:
		q.waiting.Add(-1)
		q.metrics.SpansDropped.Inc("queue_full")
	default:
		q.batch.OnEnd(s)
	}
}

func (q *queue) Shutdown(ctx context.Context) error {
	q.stopped.Store(true)
	return q.batch.Shutdown(ctx)
}

func (q *queue) ForceFlush(ctx context.Context) error { return q.batch.ForceFlush(ctx) }

// export is the exporter with the redactor before it and its failures counted.
type export struct {
	next     sdktrace.SpanExporter
	queue    *queue
	log      *slog.Logger
	redactor *Redactor
	failing  atomic.Bool
}

func (e *export) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer e.queue.waiting.Add(-int64(len(spans)))
	clean := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, s := range spans {
		clean[i] = cleanSpan{s, e.redactor}
	}
	err := e.next.ExportSpans(ctx, clean)
	if err != nil {
		e.queue.metrics.ExportErrors.Inc()
		e.queue.metrics.SpansDropped.Add(float64(len(spans)), "export_failed")
	}
	// One line when it breaks and one when it works again, however long it lasts.
	if failing := err != nil; e.failing.Swap(failing) != failing {
		if failing {
			e.log.WarnContext(ctx, "export of traces fails", "error", err)
		} else {
			e.log.InfoContext(ctx, "export of traces works again")
		}
	}
	return nil
}

func (e *export) Shutdown(ctx context.Context) error { return e.next.Shutdown(ctx) }

// cleanSpan is a span whose texts have passed the redactor.
type cleanSpan struct {
	sdktrace.ReadOnlySpan
	redactor *Redactor
}

func (s cleanSpan) Name() string { return s.redactor.String(s.ReadOnlySpan.Name()) }

func (s cleanSpan) Attributes() []attribute.KeyValue { return s.clean(s.ReadOnlySpan.Attributes()) }

func (s cleanSpan) Status() sdktrace.Status {
	status := s.ReadOnlySpan.Status()
	status.Description = s.redactor.String(status.Description)
	return status
}

func (s cleanSpan) Events() []sdktrace.Event {
	events := slices.Clone(s.ReadOnlySpan.Events())
	for i := range events {
		events[i].Name = s.redactor.String(events[i].Name)
		events[i].Attributes = s.clean(events[i].Attributes)
	}
	return events
}

func (s cleanSpan) Links() []sdktrace.Link {
	links := slices.Clone(s.ReadOnlySpan.Links())
	for i := range links {
		links[i].Attributes = s.clean(links[i].Attributes)
	}
	return links
}

func (s cleanSpan) clean(kv []attribute.KeyValue) []attribute.KeyValue {
	kv = slices.Clone(kv)
	for i, a := range kv {
		switch a.Value.Type() {
		case attribute.STRING:
			kv[i] = a.Key.String(s.redactor.String(a.Value.AsString()))
		case attribute.STRINGSLICE:
			texts := slices.Clone(a.Value.AsStringSlice())
			for j := range texts {
				texts[j] = s.redactor.String(texts[j])
			}
			kv[i] = a.Key.StringSlice(texts)
		case attribute.BYTESLICE, attribute.SLICE, attribute.MAP:
			kv[i] = a.Key.String(s.redactor.String(a.Value.String()))
		}
	}
	return kv
}
