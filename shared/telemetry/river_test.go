package telemetry

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// inserting answers an insert as River does, with rows that have the metadata
// that the middleware wrote.
func inserting(jobs []*rivertype.JobInsertParams, duplicates ...bool) func(context.Context) ([]*rivertype.JobInsertResult, error) {
	return func(context.Context) ([]*rivertype.JobInsertResult, error) {
		var all []*rivertype.JobInsertResult
		for i, j := range jobs {
			all = append(all, &rivertype.JobInsertResult{
				Job:                      &rivertype.JobRow{ID: int64(i + 1), Kind: j.Kind, Queue: j.Queue, Metadata: j.Metadata, MaxAttempts: 5, Attempt: 1},
				UniqueSkippedAsDuplicate: i < len(duplicates) && duplicates[i],
			})
		}
		return all, nil
	}
}

func TestCarrierKeepsOneTraceThroughTheQueue(t *testing.T) {
	t.Parallel()
	m, _ := newTestMetrics()
	c := NewCarrier(m)
	ctx := WithScope(t.Context(), Scope{TenantID: "ten_1", RunID: "run_1"})
	ctx, request := tracer().Start(ctx, "POST /api/runs", trace.WithSpanKind(trace.SpanKindServer))
	jobs := []*rivertype.JobInsertParams{
		{Kind: "step", Queue: "step", Metadata: []byte(`{"river:other":{"n":1}}`)},
		{Kind: "step", Queue: "step"},
		{Kind: "step", Queue: "step", Metadata: []byte(`{"traceparent":"` + parent + `"}`)},
	}
	results, err := c.InsertMany(ctx, jobs, inserting(jobs, false, true))
	if err != nil {
		t.Fatalf("InsertMany = %v", err)
	}
	request.End()

	due := time.Now()
	row := results[0].Job
	claimed := due.Add(40 * time.Millisecond)
	row.ScheduledAt, row.AttemptedAt = due, &claimed
	var worked context.Context
	if err := c.Work(t.Context(), row, func(ctx context.Context) error {
		worked = ctx
		_, step := tracer().Start(WithScope(ctx, Scope{StepID: "step_1"}), "step bash")
		step.End()
		return nil
	}); err != nil {
		t.Fatalf("Work = %v", err)
	}
	if got := scopeOf(worked); got.RunID != "run_1" {
		t.Errorf("the worker's scope is %+v, want the run", got)
	}

	traceID, _ := IDs(ctx)
	spans := exported.await(t, traceID, 4)
	parents := map[string]string{}
	for name, s := range spans {
		for other, o := range spans {
			if bytes.Equal(s.ParentSpanId, o.SpanId) {
				parents[name] = other
			}
		}
	}
	want := map[string]string{"send step": "POST /api/runs", "process step": "send step", "step bash": "process step"}
	if diff := cmp.Diff(want, parents); diff != "" {
		t.Errorf("parents (-want +got):\n%s", diff)
	}
	process := spans["process step"]
	if spans["send step"].Kind != tracepb.Span_SPAN_KIND_PRODUCER || process.Kind != tracepb.Span_SPAN_KIND_CONSUMER || len(process.Links) != 0 {
		t.Errorf("kinds are %v and %v, links %v", spans["send step"].Kind, process.Kind, process.Links)
	}
	attrs := attributes(process)
	for key, want := range map[string]string{
		"messaging.system": "river", "messaging.destination.name": "step", "messaging.message.id": "1",
		"nofx.job.kind": "step", "nofx.queue.wait_ms": "40", "nofx.outcome": "completed", "nofx.run.id": "run_1",
	} {
		if attrs[key] != want {
			t.Errorf("attribute %s = %q, want %q", key, attrs[key], want)
		}
	}

	var meta map[string]any
	if err := json.Unmarshal(row.Metadata, &meta); err != nil || meta["river:other"] == nil || meta["nofx.run_id"] != "run_1" {
		t.Errorf("metadata = %s, %v", row.Metadata, err)
	}
	if sent := hex.EncodeToString(spans["send step"].SpanId); meta["traceparent"] != fmt.Sprintf("00-%s-%s-01", traceID, sent) {
		t.Errorf("traceparent = %v, want that of the send span %s", meta["traceparent"], sent)
	}
	if string(jobs[2].Metadata) != `{"traceparent":"`+parent+`"}` {
		t.Errorf("a job's own carrier became %s", jobs[2].Metadata)
	}
	for result, want := range map[string]float64{"inserted": 2, "duplicate": 1} {
		if got := testutil.ToFloat64(m.QueueInserted.vec.WithLabelValues("step", "step", result)); got != want {
			t.Errorf("queue_inserted_total{%s} = %v, want %v", result, got, want)
		}
	}
}

func TestCarrierInserts(t *testing.T) {
	t.Parallel()
	m, _ := newTestMetrics()
	c := NewCarrier(m)
	inSpan, _ := WithTraceparent(t.Context(), parent)

	plain := []*rivertype.JobInsertParams{{Kind: "step", Queue: "step", Metadata: []byte(`{}`)}}
	if _, err := c.InsertMany(t.Context(), plain, inserting(plain)); err != nil || string(plain[0].Metadata) != "{}" {
		t.Errorf("InsertMany outside a trace = %v and wrote %s", err, plain[0].Metadata)
	}
	broken := []*rivertype.JobInsertParams{{Kind: "step", Queue: "step", Metadata: []byte(`[`)}}
	if _, err := c.InsertMany(inSpan, broken, func(context.Context) ([]*rivertype.JobInsertResult, error) {
		t.Error("inserted a job whose metadata cannot be read")
		return nil, nil
	}); err == nil {
		t.Error("InsertMany of broken metadata = nil")
	}
	down := errors.New("down")
	jobs := []*rivertype.JobInsertParams{{Kind: "step", Queue: "step"}}
	if _, err := c.InsertMany(inSpan, jobs, func(context.Context) ([]*rivertype.JobInsertResult, error) { return nil, down }); err != down {
		t.Errorf("InsertMany = %v, want %v", err, down)
	}
	if results, err := c.InsertMany(inSpan, nil, inserting(nil)); err != nil || len(results) != 0 {
		t.Errorf("InsertMany of nothing = %v, %v", results, err)
	}

	// What is sampled, and the vendor's state, are the caller's.
	state := "vendor=1"
	remote, _ := extract(t.Context(), parent[:53]+"00", state)
	jobs = []*rivertype.JobInsertParams{{Kind: "step", Queue: "step"}}
	if _, err := c.InsertMany(remote, jobs, inserting(jobs)); err != nil {
		t.Fatal(err)
	}
	var meta struct{ Traceparent, Tracestate string }
	if err := json.Unmarshal(jobs[0].Metadata, &meta); err != nil || meta.Traceparent[53:] != "00" || meta.Traceparent[:36] != parent[:36] || meta.Tracestate != state {
		t.Errorf("metadata of an unsampled trace = %s, %v", jobs[0].Metadata, err)
	}
}

func TestCarrierWithoutAUsableContext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		metadata string
		rejected float64
	}{
		{"", 0},
		{"{}", 0},
		{"null", 0},
		{`{"nofx.run_id":"run_1"}`, 0},
		{"[", 1},
		{"[]", 1},
		{`{"traceparent":7}`, 1},
		{`{"traceparent":""}`, 1},
		{`{"traceparent":"00-junk"}`, 1},
		{`{"traceparent":"00-00000000000000000000000000000000-b7ad6b7169203331-01"}`, 1},
	} {
		m, _ := newTestMetrics()
		row := &rivertype.JobRow{Kind: "step", Queue: "step", Metadata: []byte(tt.metadata), MaxAttempts: 5}
		if err := NewCarrier(m).Work(t.Context(), row, func(ctx context.Context) error {
			if trace.SpanContextFromContext(ctx).IsValid() {
				t.Errorf("Work(%s) began a trace", tt.metadata)
			}
			// This is what a worker does then.
			root, _ := WithTraceparent(ctx, parent)
			return Process(root, row, func(ctx context.Context) error {
				if traceID, spanID := IDs(ctx); traceID != parent[3:35] || spanID == parent[36:52] {
					t.Errorf("Process runs in %s, %s, want a new span of the run's trace", traceID, spanID)
				}
				return nil
			})
		}); err != nil {
			t.Errorf("Work(%s) = %v", tt.metadata, err)
		}
		if got := testutil.ToFloat64(m.CarriersRejected.vec.WithLabelValues()); got != tt.rejected {
			t.Errorf("Work(%s): %v carriers rejected, want %v", tt.metadata, got, tt.rejected)
		}
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, tt := range []struct {
		name    string
		attempt int
		work    func(context.Context) error
		failed  bool
	}{
		{"completed", 1, func(context.Context) error { return nil }, false},
		{"retryable", 1, func(context.Context) error { return boom }, true},
		{"discarded", 5, func(context.Context) error { return boom }, true},
		{"cancelled", 1, func(context.Context) error { return fmt.Errorf("x: %w", rivertype.JobCancel(boom)) }, false},
		{"snoozed", 1, func(context.Context) error { return &rivertype.JobSnoozeError{Duration: time.Second} }, false},
		{"timeout", 1, func(context.Context) error { return context.DeadlineExceeded }, true},
		{"fenced", 1, func(ctx context.Context) error { SetOutcome(ctx, "fenced"); return nil }, false},
		{"panic", 1, func(context.Context) error { panic("boom") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, _ := newTestMetrics()
			ctx, root := tracer().Start(t.Context(), "root")
			root.End()
			row := &rivertype.JobRow{
				Kind: "step", Queue: "step", Attempt: tt.attempt, MaxAttempts: 5,
				Metadata: []byte(`{"traceparent":"` + Inject(ctx) + `"}`),
			}
			func() {
				defer func() {
					if r := recover(); (r != nil) != (tt.name == "panic") {
						t.Errorf("Work panicked with %v", r)
					}
				}()
				_ = NewCarrier(m).Work(t.Context(), row, tt.work)
			}()
			if got := testutil.ToFloat64(m.QueueFinished.vec.WithLabelValues("step", "step", tt.name)); got != 1 {
				t.Errorf("queue_finished_total{outcome=%q} = %v, want 1", tt.name, got)
			}
			traceID, _ := IDs(ctx)
			span := exported.await(t, traceID, 2)["process step"]
			if failed := span.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; failed != tt.failed || attributes(span)["nofx.outcome"] != tt.name {
				t.Errorf("the span has status %v and outcome %q", span.Status, attributes(span)["nofx.outcome"])
			}
		})
	}
}

func FuzzCarrier(f *testing.F) {
	for _, seed := range []string{"", "{}", "[", `{"traceparent":"` + parent + `","tracestate":"a=1"}`, `{"traceparent":null}`} {
		f.Add([]byte(seed))
	}
	m, _ := newTestMetrics()
	f.Fuzz(func(t *testing.T, metadata []byte) {
		row := &rivertype.JobRow{Kind: "step", Queue: "step", Metadata: metadata, MaxAttempts: 5}
		ran := false
		if err := NewCarrier(m).Work(t.Context(), row, func(context.Context) error { ran = true; return nil }); err != nil || !ran {
			t.Errorf("Work(%q) = %v, ran %v", metadata, err, ran)
		}
	})
}
