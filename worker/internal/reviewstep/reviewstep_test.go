package reviewstep_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/reviewer"
)

// spans are all that the tests of this package make.
var spans = tracetest.NewSpanRecorder()

func TestMain(m *testing.M) {
	codehosttest.ServeDouble()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	os.Exit(hosttest.Main(m))
}

// model reports each added line with a word in it.
type model struct {
	mu       sync.Mutex
	words    []string
	severity review.Severity // of what it reports
	body     string          // of it
	asked    map[string]int  // by the names of what was shown
	block    chan struct{}   // what is shown with HANG in it is answered when it is closed
	hung     chan struct{}   // is sent to when something hangs
}

func newModel() *model {
	return &model{words: []string{"BUG"}, severity: review.High, body: "It says so itself.", asked: map[string]int{}, block: make(chan struct{}), hung: make(chan struct{}, 10)}
}

func (*model) Name() string { return "scripted" }

func (m *model) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	answer := reviewer.Answer{Schema: 1, Findings: []reviewer.Answered{}}
	for _, p := range r.Parts {
		if !p.Untrusted {
			continue
		}
		m.mu.Lock()
		m.asked[p.Name]++
		m.mu.Unlock()
		if strings.Contains(p.Text, "HANG") {
			m.hung <- struct{}{}
			select {
			case <-m.block:
			case <-ctx.Done():
				return llm.Response{}, ctx.Err()
			}
		}
		for line := range strings.Lines(p.Text) {
			var n int
			if _, err := fmt.Sscanf(line, "R%d +", &n); err != nil || !slices.ContainsFunc(m.words, func(w string) bool { return strings.Contains(line, w) }) {
				continue
			}
			_, quote, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "+")
			answer.Findings = append(answer.Findings, reviewer.Answered{
				Path: p.Name, Side: review.Right, Line: n, Quote: quote, Title: "There is a bug", Body: m.body,
				Category: review.Correctness, Severity: m.severity, Confidence: 0.9,
			})
		}
	}
	text, err := json.Marshal(answer)
	return llm.Response{Text: string(text), Stop: llm.End, Model: "scripted", Usage: llm.Usage{Input: 100, Output: 10}}, err
}

func (m *model) times(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[name]
}

// serve has workers review with a model.
func (m *model) serve(c *host.Config) {
	c.Queues = []string{run.StepQueue, run.ReviewQueue}
	c.Models = llm.NewClient(llm.Config{Provider: "rules", Models: []llm.Model{m}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test")})
	c.Redactor = telemetry.NewRedactor("c4n4ry-0123456789")
}

func added(path string, lines ...string) string {
	return fmt.Sprintf("diff --git a/%[1]s b/%[1]s\nnew file mode 100644\n--- /dev/null\n+++ b/%[1]s\n@@ -0,0 +1,%[2]d @@\n+%[3]s\n", path, len(lines), strings.Join(lines, "\n+"))
}

// start starts the review of a posted diff.
func start(t *testing.T, b *hosttest.Bundle, diff string) review.Review {
	t.Helper()
	sum := sha256.Sum256([]byte(diff))
	a := run.Artifact{ID: run.NewID(), Name: "diff.patch", Key: blob.CopyKey(b.TenantID, sum, blob.NewCopy()), MediaType: "text/x-diff", Size: int64(len(diff)), SHA256: sum[:]}
	if err := b.Blobs.Put(b.Ctx, a.Key, strings.NewReader(diff), a.Size, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	in := run.ReviewInputs{ArtifactID: run.ArtifactID.Format(a.ID)}
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	p, err := run.Plan{Goal: "review", Steps: []run.PlanStep{{Name: "review", Tool: run.ToolReview, Inputs: raw}}}.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := b.DB.StartReview(b.Ctx, b.TenantID, postgres.NewReview{Project: "default", Plan: p, Inputs: in, Diff: &a, HeadSHA: fmt.Sprintf("%x", sum), CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("StartReview() = %v", err)
	}
	return v
}

func reviewOf(t *testing.T, b *hosttest.Bundle, id uuid.UUID) review.Review {
	t.Helper()
	v, err := b.DB.Review(b.Ctx, b.TenantID, id)
	if err != nil {
		t.Fatalf("Review() = %v", err)
	}
	return v
}

// document returns an artifact of a review.
func document(t *testing.T, b *hosttest.Bundle, id uuid.UUID, stage string) string {
	t.Helper()
	list, err := b.DB.ReviewArtifacts(b.Ctx, b.TenantID, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.Stage != stage {
			continue
		}
		content, err := b.Blobs.Open(b.Ctx, a.Artifact.Key, 0, a.Artifact.Size)
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(content); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	t.Fatalf("review has no artifact %s", stage)
	return ""
}

// A posted diff is reviewed: findings, verdict, artifacts and the gate agree, and a secret is
// in none of them.
func TestReviewOfADiff(t *testing.T) {
	t.Parallel()
	b, m := hosttest.Setup(t), newModel()
	b.Worker(t, m.serve)
	v := start(t, b, added("a.go", "package a", "// BUG here", `const key = "c4n4ry-0123456789"`)+added("b.go", "package b"))
	d := b.Until(t, v.RunID, run.Failed)
	v = reviewOf(t, b, v.ID)
	if v.State != review.Completed || v.Verdict != review.Failed || v.Model != "scripted" || v.Tokens == 0 || v.PolicyHash == "" {
		t.Errorf("review = %+v, want it completed and failed", v)
	}
	findings, err := b.DB.ReviewFindings(b.Ctx, b.TenantID, v.ID, 0, 10)
	if err != nil || len(findings) != 1 || findings[0].Anchor.Path != "a.go" || findings[0].Anchor.Line != 2 || findings[0].State != review.Open || findings[0].Disposition != review.Posted {
		t.Errorf("findings = %+v, %v, want one in line 2 of a.go", findings, err)
	}
	g := d.Gates[0]
	if g.Kind != run.ReviewGate || g.State != run.Failed || !strings.Contains(string(g.Evidence), run.ReviewID.Format(v.ID)) || !strings.Contains(g.Reason, "a.go:2, high: There is a bug") {
		t.Errorf("gate = %s %s %q %s, want the verdict with its reason", g.Kind, g.State, g.Reason, g.Evidence)
	}
	for _, stage := range []string{reviewer.FindingsDocument, reviewer.SARIFDocument, reviewer.SummaryDocument, reviewer.ChangeDocument, "prompt"} {
		if text := document(t, b, v.ID, stage); strings.Contains(text, "c4n4ry") {
			t.Errorf("%s has the secret:\n%s", stage, text)
		}
	}
	var log string
	for _, s := range d.Steps {
		log += b.Log(t, s.ID)
	}
	if !strings.Contains(log, "a.go:2: high: There is a bug (posted)") {
		t.Errorf("log = %q, want the finding", log)
	}
}

// What a run has changed in its workspace is reviewed by a gate of its plan. A dismissed
// finding stays dismissed when the gate is tried again, and the same text is not asked twice.
func TestReviewOfAWorkspace(t *testing.T) {
	t.Parallel()
	b, m := hosttest.Setup(t), newModel()
	b.Worker(t, m.serve)
	r := b.Create(t,
		hosttest.Script("write", "echo 'a BUG' > new.txt; mkdir .nofx; echo 'version: 1\nblock: {severity: critical, confidence: 1}' > .nofx/review.yaml"),
		hosttest.Step("check", run.ToolReview, run.ReviewInputs{Diff: run.WorkspaceDiff}, "write"))
	d := b.Until(t, r.ID, run.Failed)
	list, err := b.DB.Reviews(b.Ctx, b.TenantID, postgres.ReviewFilter{RunID: &r.ID}, 10)
	if err != nil || len(list) != 1 || list[0].Provider != review.Workspace || list[0].Verdict != review.Failed {
		t.Fatalf("reviews = %+v, %v, want one, failed: the policy that the run itself wrote is not the base's", list, err)
	}
	findings, err := b.DB.ReviewFindings(b.Ctx, b.TenantID, list[0].ID, 0, 10)
	if err != nil || len(findings) != 1 {
		t.Fatalf("findings = %+v, %v, want one", findings, err)
	}
	if _, err := b.DB.SettleFinding(b.Ctx, b.TenantID, findings[0].UUID, postgres.FindingDecision{Event: "dismiss", Reason: "no bug", Scope: review.ScopeThis}); err != nil {
		t.Fatal(err)
	}
	asked := m.times("new.txt")
	if _, _, err := b.DB.RetryStep(b.Ctx, b.TenantID, d.Steps[1].ID, true, "dismissed"); err != nil {
		t.Fatal(err)
	}
	b.Until(t, r.ID, run.Succeeded)
	if list, err = b.DB.Reviews(b.Ctx, b.TenantID, postgres.ReviewFilter{RunID: &r.ID}, 10); err != nil || len(list) != 2 || list[0].Verdict != review.Passed {
		t.Errorf("reviews = %+v, %v, want a second one that passed", list, err)
	}
	if n := m.times("new.txt"); n != asked {
		t.Errorf("the model was asked %d times about one text, want %d", n, asked)
	}
}

// A workspace is judged by the policy of the tree that its changes are counted from, in the
// repository's own folder.
func TestPolicyOfAWorkspace(t *testing.T) {
	t.Parallel()
	b, m := hosttest.Setup(t), newModel()
	b.Worker(t, m.serve)
	first := b.Create(t, hosttest.Script("write", "mkdir .nofx; echo 'version: 1\nblock: {severity: critical, confidence: 1}' > .nofx/review.yaml"))
	d := b.Until(t, first.ID, run.Succeeded)
	r := b.Create(t,
		hosttest.Script("write", "echo 'a BUG' > new.txt; mkdir .nofx; echo 'version: 1\nignore: [\"**\"]' > .nofx/review.yaml"),
		hosttest.Step("check", run.ToolReview, run.ReviewInputs{Diff: run.WorkspaceDiff, Against: run.CheckpointID.Format(*d.Run.HeadCheckpointID)}, "write"))
	b.Until(t, r.ID, run.Succeeded)
	list, err := b.DB.Reviews(b.Ctx, b.TenantID, postgres.ReviewFilter{RunID: &r.ID}, 10)
	if err != nil || len(list) != 1 || list[0].Verdict != review.Passed || !strings.Contains(string(list[0].Result), "new.txt") || !strings.Contains(string(list[0].Result), "policy_changed") {
		t.Errorf("reviews = %+v, %v, want one that passed by the policy of the checkpoint, after it has looked at new.txt, and is told that the policy changes", list, err)
	}
}

// A worker that is stopped in the middle costs no answer: the next one asks only for what is
// missing, and there is one review.
func TestReviewGoesOn(t *testing.T) {
	t.Parallel()
	b, m := hosttest.Setup(t), newModel()
	_, stop := b.Worker(t, m.serve)
	long := strings.Repeat("x", 60) + "\n" // so that the two files are not asked about at once
	v := start(t, b, added("a.txt", strings.Split(strings.TrimSpace(strings.Repeat(long, 240)), "\n")...)+added("b.txt", "HANG", "BUG", strings.Repeat("x", 4000)))
	<-m.hung
	for b.Until(t, v.RunID, run.Running); ; { // the other part is answered and stored
		list, err := b.DB.ReviewArtifacts(b.Ctx, b.TenantID, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		if hasAnswer(list) {
			break
		}
	}
	stop()
	before := m.times("a.txt")
	close(m.block)
	b.Worker(t, m.serve)
	b.Until(t, v.RunID, run.Failed)
	if n := m.times("a.txt"); n != before {
		t.Errorf("the model was asked %d times about what was answered, want %d", n, before)
	}
	list, err := b.DB.Reviews(b.Ctx, b.TenantID, postgres.ReviewFilter{}, 10)
	if err != nil || len(list) != 1 || list[0].State != review.Completed {
		t.Errorf("reviews = %+v, %v, want one, completed", list, err)
	}
}

func hasAnswer(list []postgres.ReviewArtifact) bool {
	for _, a := range list {
		if a.Stage == "answer" {
			return true
		}
	}
	return false
}

// Settings of a tenant end reviews with an error, and no model is asked.
func TestReviewSettings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ settings, reason string }{
		"day of tokens": {`{"model_tokens_per_day": 10}`, "budget for models is used up"},
		"policy of all": {`{"reviews_enabled": false}`, "reviews are switched off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, m := hosttest.Setup(t), newModel()
			v := start(t, b, added("a.go", "BUG"))
			if _, err := b.Admin.Exec(b.Ctx, "UPDATE nofx.tenant SET settings = $1", tt.settings); err != nil {
				t.Fatal(err)
			}
			b.Worker(t, m.serve)
			d := b.Until(t, v.RunID, run.Failed)
			if g := d.Gates[0]; g.State != run.Error || !strings.Contains(string(g.Evidence), tt.reason) {
				t.Errorf("gate = %s %s, want an error: %s", g.State, g.Evidence, tt.reason)
			}
			if n := m.times("a.go"); n != 0 {
				t.Errorf("the model was asked %d times, want never", n)
			}
			var tokens int
			if err := b.Admin.QueryRow(b.Ctx, "SELECT coalesce(sum(tokens), 0) FROM nofx.model_spend").Scan(&tokens); err != nil || tokens != 0 {
				t.Errorf("tokens spent = %d, %v, want none", tokens, err)
			}
		})
	}
}
