package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Keys of a job's metadata.
const (
	metaTraceparent = "traceparent"
	metaTracestate  = "tracestate"
	metaRunID       = "nofx.run_id"
)

// Carrier takes a trace through the queue: a middleware of River's for the client
// that inserts and for the one that works (OBSERVABILITY.md §1.2).
//
// Inserting writes the context's span into the metadata of each job, under a
// `send <queue>` span of its own. Working makes it the parent, not a link, of a
// `process <queue>` span, so that a run is one trace from the request that caused
// it to its last step.
type Carrier struct{ metrics *Metrics }

// NewCarrier makes the middleware.
func NewCarrier(m *Metrics) *Carrier { return &Carrier{m} }

var (
	_ rivertype.JobInsertMiddleware = (*Carrier)(nil)
	_ rivertype.WorkerMiddleware    = (*Carrier)(nil)
	_ rivertype.Plugin              = (*Carrier)(nil)
)

// IsMiddleware and IsPlugin tell River what this is.
func (c *Carrier) IsMiddleware() bool { return true }
func (c *Carrier) IsPlugin() bool     { return true }

func tracer() trace.Tracer { return otel.Tracer("nofx.dev/shared/telemetry") }

// InsertMany wraps the insert of jobs, as middleware of River. A job that already has a
// traceparent keeps it. Without a span in ctx nothing is written.
func (c *Carrier) InsertMany(ctx context.Context, jobs []*rivertype.JobInsertParams, insert func(context.Context) ([]*rivertype.JobInsertResult, error)) (_ []*rivertype.JobInsertResult, err error) {
	if trace.SpanContextFromContext(ctx).IsValid() && len(jobs) > 0 {
		var span trace.Span
		ctx, span = tracer().Start(ctx, "send "+jobs[0].Queue, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
			messagingSystemKey.String("river"), messagingOperationKey.String("send"),
			messagingQueueKey.String(jobs[0].Queue), messagingBatchKey.Int(len(jobs))))
		defer func() {
			if err != nil {
				fail(span, err, "")
			}
			span.End()
		}()
		if err := inject(ctx, jobs); err != nil {
			return nil, err
		}
	}
	results, err := insert(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		result := "inserted"
		if r.UniqueSkippedAsDuplicate {
			result = "duplicate"
		}
		c.metrics.QueueInserted.Inc(r.Job.Queue, r.Job.Kind, result)
	}
	return results, nil
}

// inject writes the span and the run of ctx into the jobs' metadata.
func inject(ctx context.Context, jobs []*rivertype.JobInsertParams) error {
	carried := propagation.MapCarrier{}
	w3c.Inject(ctx, carried)
	if id := scopeOf(ctx).RunID; id != "" {
		carried[metaRunID] = id
	}
	for _, j := range jobs {
		meta := map[string]json.RawMessage{}
		if len(j.Metadata) > 0 {
			if err := json.Unmarshal(j.Metadata, &meta); err != nil {
				return fmt.Errorf("read the metadata of a %s job: %w", j.Kind, err)
			}
		}
		if _, has := meta[metaTraceparent]; has {
			continue
		}
		for key, value := range carried {
			meta[key], _ = json.Marshal(value) // a string always marshals
		}
		var err error
		if j.Metadata, err = json.Marshal(meta); err != nil {
			return fmt.Errorf("write the metadata of a %s job: %w", j.Kind, err)
		}
	}
	return nil
}

// Work wraps the work of a job, as middleware of River. If the carrier is missing or
// malformed (malformed ones are counted), ctx has no span: the worker then calls [Process]
// with the run's root context, which it reads with the step.
func (c *Carrier) Work(ctx context.Context, job *rivertype.JobRow, work func(context.Context) error) error {
	meta, bad := readCarrier(job.Metadata)
	carried := false
	if meta.Traceparent != nil {
		ctx, carried = extract(ctx, *meta.Traceparent, meta.Tracestate)
		bad = bad || !carried
	}
	if bad {
		c.metrics.CarriersRejected.Inc()
	}
	ctx = WithScope(ctx, Scope{RunID: meta.RunID})
	ctx = context.WithValue(ctx, outcomeKey{}, new(string))

	outcome := "panic" // unless the work returns
	defer func() { c.metrics.QueueFinished.Inc(job.Queue, job.Kind, outcome) }()
	var err error
	if carried {
		err = Process(ctx, job, work)
	} else {
		err = work(ctx)
	}
	outcome = outcomeOf(ctx, job, err)
	return err
}

// carrier is our part of a job's metadata.
type carrier struct {
	Traceparent *string `json:"traceparent"`
	Tracestate  string  `json:"tracestate"`
	RunID       string  `json:"nofx.run_id"`
	Cause       string  `json:"nofx.cause"` // traceparent of the request that caused the job, if it belongs to another trace
}

// readCarrier reads metadata; bad means that it is there and cannot be read.
func readCarrier(metadata []byte) (c carrier, bad bool) {
	if len(metadata) == 0 {
		return carrier{}, false
	}
	if err := json.Unmarshal(metadata, &c); err != nil {
		return carrier{}, true
	}
	return c, false
}

// Process runs work under the span `process <queue>` of the job, whose parent is the span
// of ctx; it links to the request that caused the work, if that belongs to another trace.
// An outcome that is not a failure leaves the span's status unset.
func Process(ctx context.Context, job *rivertype.JobRow, work func(context.Context) error) (err error) {
	ctx, span := tracer().Start(ctx, "process "+job.Queue, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		messagingSystemKey.String("river"), messagingOperationKey.String("process"),
		messagingQueueKey.String(job.Queue), messagingMessageKey.String(strconv.FormatInt(job.ID, 10)),
		JobKindKey.String(job.Kind)))
	if meta, _ := readCarrier(job.Metadata); meta.Cause != "" {
		if cause, ok := extract(context.Background(), meta.Cause, ""); ok {
			span.AddLink(trace.LinkFromContext(cause))
		}
	}
	if job.AttemptedAt != nil {
		span.SetAttributes(QueueWaitKey.Int64(max(0, job.AttemptedAt.Sub(job.ScheduledAt).Milliseconds())))
	}
	outcome := "panic" // unless the work returns
	defer func() {
		span.SetAttributes(OutcomeKey.String(outcome))
		switch outcome {
		case "retryable", "discarded", "timeout", "panic":
			fail(span, err, outcome)
		}
		span.End()
	}()
	err = work(ctx)
	outcome = outcomeOf(ctx, job, err)
	return err
}

type outcomeKey struct{}

// SetOutcome records the outcome of a job if its error does not show it, such as "fenced"
// for a dropped job that returns nil.
func SetOutcome(ctx context.Context, outcome string) {
	if o, ok := ctx.Value(outcomeKey{}).(*string); ok {
		*o = outcome
	}
}

func outcomeOf(ctx context.Context, job *rivertype.JobRow, err error) string {
	if o, ok := ctx.Value(outcomeKey{}).(*string); ok && *o != "" {
		return *o
	}
	var (
		cancel *rivertype.JobCancelError
		snooze *rivertype.JobSnoozeError
	)
	switch {
	case err == nil:
		return "completed"
	case errors.As(err, &cancel):
		return "cancelled"
	case errors.As(err, &snooze):
		return "snoozed"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case job.Attempt >= job.MaxAttempts:
		return "discarded"
	}
	return "retryable"
}

// fail marks a span as failed, by err or, without one, by reason.
func fail(span trace.Span, err error, reason string) {
	if err != nil {
		span.RecordError(err)
		reason = err.Error()
	}
	span.SetStatus(codes.Error, reason)
}
