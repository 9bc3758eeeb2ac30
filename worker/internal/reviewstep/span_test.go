package reviewstep_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/llm"
)

// busyModel is a model whose first answer is that it has no time.
type busyModel struct {
	*model
	asked atomic.Int32
}

func (m *busyModel) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	if m.asked.Add(1) == 1 {
		return llm.Response{}, fault.New(fault.Unavailable, "overloaded", "no time")
	}
	return m.model.Complete(ctx, r)
}

// The stages of a review are spans below its step's, with each try at a model and each call
// to a forge below them, and nothing of what is reviewed in them.
func TestSpansOfAReview(t *testing.T) {
	t.Parallel()
	p := newPullRequest(t)
	busy := &busyModel{model: p.model}
	p.Worker(t, func(c *host.Config) {
		p.serve(c)
		c.Models = llm.NewClient(llm.Config{Provider: "openai", Models: []llm.Model{busy}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test")})
	})
	v := p.end(t, p.start(t, p.forge.Head(), nil))
	if v.Verdict != review.Failed {
		t.Fatalf("review = %s %s, want failed", v.State, v.Verdict)
	}
	step := slices.DeleteFunc(spans.Ended(), func(s sdktrace.ReadOnlySpan) bool {
		return s.Name() != "step gate:llm_review" || s.SpanContext().TraceID().String() != v.TraceID
	})
	if len(step) != 1 {
		t.Fatalf("spans of the step in trace %s = %d, want 1", v.TraceID, len(step))
	}
	stages := below(step[0].SpanContext().SpanID())
	var names []string
	for _, s := range stages {
		if strings.HasPrefix(s.Name(), "review.") {
			names = append(names, s.Name())
		}
	}
	if want := []string{"review.fetch", "review.chunk", "review.ask", "review.decide", "review.plan", "review.post"}; !slices.Equal(names, want) {
		t.Errorf("stages = %v, want %v", names, want)
	}
	// A name and an outcome that there is below each stage.
	for _, want := range []struct{ stage, span, attributes string }{
		{"review.fetch", "mcp tools/call pull_request_read", "nofx.mcp.is_error=false"},
		{"review.fetch", "mcp tools/call get_file_contents", "nofx.mcp.server=github-mcp-server 2.0.2"},
		{"review.ask", "chat scripted", "error.type=overloaded"},
		{"review.ask", "chat scripted", "nofx.outcome=ok"},
		{"review.ask", "review.verify", ""},
		{"review.verify", "chat scripted", ""},
		{"review.post", "mcp tools/call add_comment_to_pending_review", "nofx.mcp.tool=add_comment_to_pending_review"},
		{"review.post", "mcp tools/call pull_request_review_write", "nofx.mcp.is_error=false"},
		{"review.post", "POST", "http.response.status_code=201"},
	} {
		found := false
		for _, stage := range spans.Ended() {
			if stage.Name() != want.stage || stage.SpanContext().TraceID() != step[0].SpanContext().TraceID() {
				continue
			}
			for _, s := range below(stage.SpanContext().SpanID()) {
				found = found || s.Name() == want.span && strings.Contains(shown(s), want.attributes)
			}
		}
		if !found {
			t.Errorf("below %s there is no %s with %s", want.stage, want.span, want.attributes)
		}
	}
	n := 0
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() != step[0].SpanContext().TraceID() {
			continue
		}
		n++
		for _, secret := range []string{codehosttest.Token, codehosttest.Main, "new.txt", "added 11", "There is a bug", codehosttest.Repository} {
			if strings.Contains(shown(s), secret) {
				t.Errorf("span %s has %q: %s", s.Name(), secret, shown(s))
			}
		}
	}
	if n > 60 {
		t.Errorf("spans of the trace = %d, want at most 60", n)
	}
}

// below returns the children of a span, in the order in which they began.
func below(parent trace.SpanID) []sdktrace.ReadOnlySpan {
	all := slices.DeleteFunc(spans.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Parent().SpanID() != parent })
	slices.SortStableFunc(all, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	return all
}

// shown returns all that a span says.
func shown(s sdktrace.ReadOnlySpan) string {
	return fmt.Sprint(s.Name(), attributes(s), s.Status(), s.Events())
}

func attributes(s sdktrace.ReadOnlySpan) (all []string) {
	for _, a := range s.Attributes() {
		all = append(all, string(a.Key)+"="+a.Value.String())
	}
	return all
}
