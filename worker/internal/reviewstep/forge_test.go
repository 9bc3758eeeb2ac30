package reviewstep_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/codehost"
	"nofx.dev/worker/internal/codehost/codehosttest"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/host/hosttest"
	"nofx.dev/worker/internal/reviewer"
	"nofx.dev/worker/internal/reviewstep"
)

// pullRequest is the pull request of a forge, reviewed by workers that reach it through an
// MCP server.
type pullRequest struct {
	*hosttest.Bundle
	*model
	forge *codehosttest.Forge
	url   string
	token string          // of the worker itself
	tools func(*mcp.Tool) // changes what the server announces
}

func newPullRequest(t *testing.T) *pullRequest {
	t.Helper()
	p := &pullRequest{Bundle: hosttest.Setup(t), model: newModel(), forge: codehosttest.NewForge(t), token: codehosttest.Token}
	p.words = []string{"added 11", "one"}
	p.url = (&codehosttest.Double{Forge: p.forge, Profile: codehosttest.GitHub20, Tools: func(tool *mcp.Tool) {
		if p.tools != nil {
			p.tools(tool)
		}
	}}).URL() + "/mcp"
	return p
}

func (p *pullRequest) serve(c *host.Config) {
	p.model.serve(c)
	cfg := codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: p.token, API: p.forge.API(),
		HTTP: egress.NewListedClient(nil), Pace: -1, Server: codehost.Server{URL: p.url},
	}
	c.Hosts = map[review.Provider]reviewstep.OpenHost{review.GitHub: func(ctx context.Context, t reviewstep.Target) (reviewer.CodeHost, func(), error) {
		cfg := cfg
		cfg.Token, cfg.Pinned = cmp.Or(t.Token, cfg.Token), t.Pinned
		g, err := codehost.OpenGitHub(ctx, cfg)
		if err != nil {
			return nil, nil, err
		}
		return g, g.Close, nil
	}}
}

// start starts a review of a head, "" for the newest.
func (p *pullRequest) start(t *testing.T, head string, edit func(*postgres.NewReview)) review.Review {
	t.Helper()
	n := postgres.NewReview{Project: "default", HeadSHA: head, CreatedBy: "tester",
		Inputs: run.ReviewInputs{Provider: review.GitHub, Repository: codehosttest.Repository, PullRequest: codehosttest.Number, HeadSHA: head}}
	if edit != nil {
		edit(&n)
	}
	raw, err := json.Marshal(n.Inputs)
	if err != nil {
		t.Fatal(err)
	}
	if n.Plan, err = (run.Plan{Goal: "review", Steps: []run.PlanStep{{Name: "review", Tool: run.ToolReview, Inputs: raw}}}).Normalise(); err != nil {
		t.Fatal(err)
	}
	v, _, err := p.DB.StartReview(p.Ctx, p.TenantID, n)
	if err != nil {
		t.Fatalf("StartReview() = %v", err)
	}
	return v
}

// end waits for the end of a review, which does not pass.
func (p *pullRequest) end(t *testing.T, v review.Review) review.Review {
	t.Helper()
	p.Until(t, v.RunID, run.Failed)
	return reviewOf(t, p.Bundle, v.ID)
}

func (p *pullRequest) findings(t *testing.T, id uuid.UUID) []review.Record {
	t.Helper()
	list, err := p.DB.ReviewFindings(p.Ctx, p.TenantID, id, 0, 50)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// want fails unless the forge shows these threads, so many reviews and this status.
func (p *pullRequest) want(t *testing.T, when string, threads []string, reviews int, status string) {
	t.Helper()
	gotThreads, gotReviews, gotStatus := p.forge.State()
	slices.Sort(gotThreads)
	if !slices.Equal(gotThreads, threads) || len(gotReviews) != reviews || gotStatus != status {
		t.Errorf("%s: the forge shows threads %q, reviews %q and status %s, want %q, %d and %s", when, gotThreads, gotReviews, gotStatus, threads, reviews, status)
	}
}

var twoThreads = []string{"main.go:11 RIGHT by nofx-bot, 1", "new.txt:1 RIGHT by nofx-bot, 1"}

// A pull request is reviewed on its forge, once: a rerun posts nothing new, what was dismissed
// stays dismissed, and the policy that the pull request brings along does not count.
func TestReviewOfAPullRequest(t *testing.T) {
	t.Parallel()
	p := newPullRequest(t)
	p.Worker(t, p.serve)
	dry := p.end(t, p.start(t, "", func(n *postgres.NewReview) { n.Inputs.DryRun = true }))
	p.want(t, "after a dry run", nil, 0, "")
	planned := document(t, p.Bundle, dry.ID, reviewer.PlanDocument)

	first := p.end(t, p.start(t, p.forge.Head(), nil))
	if first.Verdict != review.Failed || first.HeadSHA != p.forge.Head() || first.BaseSHA != p.forge.Base() {
		t.Errorf("review = %s of %s on %s, want it failed by the policy of the base", first.Verdict, first.HeadSHA, first.BaseSHA)
	}
	p.want(t, "after the first review", twoThreads, 1, "failure")
	if got := strings.ReplaceAll(document(t, p.Bundle, first.ID, reviewer.PlanDocument), run.ReviewID.Format(first.ID), run.ReviewID.Format(dry.ID)); got != planned {
		t.Errorf("plan = %s, want that of the dry run, %s", got, planned)
	}
	findings := p.findings(t, first.ID)
	for _, f := range findings {
		if f.ThreadID == "" || f.CommentID == "" || f.URL == "" {
			t.Errorf("finding at %s:%d has thread %q, comment %q and url %q, want those of the forge", f.Anchor.Path, f.Anchor.Line, f.ThreadID, f.CommentID, f.URL)
		}
	}
	var account string
	if err := p.Admin.QueryRow(p.Ctx, "SELECT account FROM nofx.review WHERE id = $1", first.ID).Scan(&account); err != nil || account != codehosttest.Me {
		t.Errorf("account of the review = %q, %v, want %s, whose doings on the forge are ours", account, err, codehosttest.Me)
	}
	events := p.events(t, first.RunID, "review.posted")
	if len(events) != 1 || !strings.Contains(events[0], `"posted": 2`) {
		t.Errorf("review.posted = %q, want one of two comments", events)
	}

	if _, err := p.DB.SettleFinding(p.Ctx, p.TenantID, findings[0].UUID, postgres.FindingDecision{Event: "dismiss", Reason: "by design", Scope: review.ScopeThis}); err != nil {
		t.Fatal(err)
	}
	rerun := p.end(t, p.start(t, p.forge.Head(), func(n *postgres.NewReview) { n.RerunOf = &first.ID }))
	if got, _, _ := p.forge.State(); len(got) != 2 {
		t.Errorf("threads after a rerun = %q, want the two from before", got)
	}
	for _, f := range p.findings(t, rerun.ID) {
		want := review.Open
		if f.UUID == findings[0].UUID {
			want = review.Dismissed
		}
		if f.State != want || f.Disposition != review.Duplicate {
			t.Errorf("finding at %s after a rerun = %s, %s, want %s, duplicate", f.Anchor.Path, f.State, f.Disposition, want)
		}
	}
	if n := p.times("main.go"); n != 1 {
		t.Errorf("the model was asked %d times about one text, want once", n)
	}
	p.end(t, p.start(t, p.forge.Head(), func(n *postgres.NewReview) { n.RerunOf, n.Inputs.Reuse = &first.ID, run.ReuseNone }))
	if n := p.times("main.go"); n != 2 {
		t.Errorf("the model was asked %d times, want a second time where nothing is used again", n)
	}
}

// What the base's policy leaves out is as in the one of the repository's binding. What the
// head brings along never counts.
func TestPolicyOfTheBinding(t *testing.T) {
	t.Parallel()
	const (
		lax, strict = "version: 1\nblock: {severity: critical, confidence: 1}\n", "version: 1\nblock: {severity: low, confidence: 0.5}\n"
		silent      = "version: 1\n"
		high        = "version: 1\nblock: {severity: high}\n"
	)
	for name, tt := range map[string]struct {
		severity review.Severity
		bound    string // repository
		policy   string
		base     string // its policy
		want     review.Verdict
		decided  []string // the policies that count, each over the ones before
	}{
		"none, high":                            {review.High, "", "", "", review.Failed, nil},
		"none, low":                             {review.Low, "", "", "", review.Passed, nil},
		"laxer":                                 {review.High, codehosttest.Repository, lax, "", review.Passed, []string{lax}},
		"stricter":                              {review.Low, strings.ToUpper(codehosttest.Repository), strict, "", review.Failed, []string{strict}},
		"of another repository":                 {review.Low, "octo/other", strict, "", review.Passed, nil},
		"the base's is silent":                  {review.High, codehosttest.Repository, lax, silent, review.Passed, []string{lax}},
		"laxer than the base's":                 {review.High, codehosttest.Repository, lax, strict, review.Failed, []string{lax, strict}},
		"stricter than the base's":              {review.Low, codehosttest.Repository, strict, high, review.Passed, []string{strict, high}},
		"that cannot be read":                   {review.Low, codehosttest.Repository, "version: 2\n", "", review.Error, nil},
		"that cannot be read, under the base's": {review.Low, codehosttest.Repository, "version: 2\n", silent, review.Error, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPullRequest(t)
			p.severity = tt.severity
			p.forge.SetPolicy(tt.base)
			if tt.bound != "" {
				r := postgres.Repository{Provider: review.GitHub, Name: tt.bound, Project: "default", Policy: tt.policy, CreatedBy: "tester"}
				if _, err := p.DB.CreateRepository(p.Ctx, p.TenantID, r); err != nil {
					t.Fatal(err)
				}
			}
			p.Worker(t, p.serve)
			v := p.start(t, "", func(n *postgres.NewReview) { n.Inputs.DryRun = true })
			d := p.Until(t, v.RunID, map[bool]run.State{true: run.Succeeded, false: run.Failed}[tt.want == review.Passed])
			v = reviewOf(t, p.Bundle, v.ID)
			decided := review.DefaultPolicy()
			for _, text := range tt.decided {
				var err error
				if decided, err = review.ParsePolicy(text, decided); err != nil {
					t.Fatal(err)
				}
			}
			if v.Verdict != tt.want || v.PolicyHash != decided.Hash() {
				t.Errorf("review = %s by policy %s, want %s by %s (%s)", v.Verdict, v.PolicyHash, tt.want, decided.Hash(), d.Gates[0].Evidence)
			}
		})
	}
}

// The token that a repository names is what reaches the forge, and nothing else has it. One
// that is not there is refused by its name.
func TestCredentialOfTheRepository(t *testing.T) {
	t.Parallel()
	p := newPullRequest(t)
	p.token = "of-no-use"
	coded := base64.StdEncoding.EncodeToString([]byte(codehosttest.Token))
	p.body = "Seen: " + coded + " and " + codehosttest.Token
	dir := t.TempDir()
	bound := postgres.Repository{Provider: review.GitHub, Name: codehosttest.Repository, Project: "default", Credential: "shop", CreatedBy: "tester"}
	if _, err := p.DB.CreateRepository(p.Ctx, p.TenantID, bound); err != nil {
		t.Fatal(err)
	}
	p.Worker(t, func(c *host.Config) {
		p.serve(c)
		c.Credentials = reviewstep.Credentials(dir)
	})
	d := p.Until(t, p.start(t, "", nil).RunID, run.Failed)
	if s := d.Steps[0]; s.FailureClass != run.ClassPolicy || !strings.Contains(s.Reason, `credential "shop"`) {
		t.Errorf("step without the token's file = %s: %s, want policy, and the credential's name", s.FailureClass, s.Reason)
	}

	at := filepath.Join(dir, run.TenantID.Format(p.TenantID), "shop")
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(codehosttest.Token+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	v := p.end(t, p.start(t, p.forge.Head(), nil))
	p.want(t, "with the token of the repository", twoThreads, 1, "failure")
	for name, text := range p.everything(t, v) {
		if strings.HasPrefix(name, "artifact answer") {
			continue // what the model said, which nobody has told the token but this test
		}
		if strings.Contains(text, "canary") || strings.Contains(text, coded[8:40]) {
			t.Errorf("%s has the token:\n%s", name, text)
		}
	}
}

// What a server announces is pinned for its version: another list is refused, and says what
// is different, until an administrator accepts it.
func TestPinnedTools(t *testing.T) {
	t.Parallel()
	p := newPullRequest(t)
	var changed atomic.Bool
	p.tools = func(tool *mcp.Tool) {
		if changed.Load() && tool.Name == "pull_request_read" {
			tool.InputSchema.(map[string]any)["properties"].(map[string]any)["labels"] = map[string]any{"type": "string"}
		}
	}
	p.Worker(t, p.serve)
	dry := func(n *postgres.NewReview) { n.Inputs.DryRun = true }
	first := p.end(t, p.start(t, "", dry))
	again := func() run.Step {
		t.Helper()
		d := p.Until(t, p.start(t, p.forge.Head(), func(n *postgres.NewReview) { n.Inputs.DryRun, n.RerunOf = true, &first.ID }).RunID, run.Failed)
		return d.Steps[0]
	}
	if s := again(); s.FailureClass != run.ClassGateFailed {
		t.Errorf("step with the same tools = %s: %s, want the verdict", s.FailureClass, s.Reason)
	}
	changed.Store(true)
	if s := again(); s.FailureClass != run.ClassPolicy || !strings.Contains(s.Reason, "github-mcp-server 2.0.2") || !strings.Contains(s.Reason, "pull_request_read takes or returns something else") {
		t.Errorf("step with another tool = %s: %s, want policy, the server and the tool", s.FailureClass, s.Reason)
	}
	if err := p.DB.ForgetTools(p.Ctx, p.TenantID, review.Bitbucket); err != nil {
		t.Fatal(err)
	}
	if s := again(); s.FailureClass != run.ClassPolicy {
		t.Errorf("step after tools of another forge were accepted = %s: %s, want policy", s.FailureClass, s.Reason)
	}
	if err := p.DB.ForgetTools(p.Ctx, p.TenantID, review.GitHub); err != nil {
		t.Fatal(err)
	}
	if s := again(); s.FailureClass != run.ClassGateFailed {
		t.Errorf("step after the tools were accepted = %s: %s, want the verdict", s.FailureClass, s.Reason)
	}
}

// everything returns what there is to read of a review: its artifacts, the log of its step,
// and the rows of the database.
func (p *pullRequest) everything(t *testing.T, v review.Review) map[string]string {
	t.Helper()
	all := map[string]string{"log": p.Log(t, v.StepID)}
	list, err := p.DB.ReviewArtifacts(p.Ctx, p.TenantID, v.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		content, err := p.Blobs.Open(p.Ctx, a.Artifact.Key, 0, a.Artifact.Size)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			t.Fatal(err)
		}
		all["artifact "+a.Artifact.Name] = string(text)
	}
	for _, table := range []string{"repository", "review", "finding", "finding_occurrence", "event", "gate", "step", "attempt", "run"} {
		var rows string
		if err := p.Admin.QueryRow(p.Ctx, "SELECT coalesce(string_agg(x::text, E'\\n'), '') FROM nofx."+table+" x").Scan(&rows); err != nil {
			t.Fatal(err)
		}
		all[table] = rows
	}
	return all
}

func (p *pullRequest) events(t *testing.T, id uuid.UUID, name string) (list []string) {
	t.Helper()
	rows, err := p.Admin.Query(p.Ctx, "SELECT data::text FROM nofx.event WHERE run_id = $1 AND type = $2", id, name)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var data string
		if err := rows.Scan(&data); err != nil {
			t.Fatal(err)
		}
		list = append(list, data)
	}
	return list
}

// A head that moves while it is reviewed supersedes the review, and nothing of it is posted.
func TestHeadMoves(t *testing.T) {
	t.Parallel()
	p := newPullRequest(t)
	var once sync.Once
	p.forge.Fail(func(op string) *codehosttest.Refusal {
		if op == "add" {
			once.Do(p.forge.MoveHead)
		}
		return nil
	})
	p.Worker(t, p.serve)
	v := p.end(t, p.start(t, p.forge.Head(), nil))
	if v.State != review.Superseded {
		t.Errorf("review = %s %q, want it superseded", v.State, v.Reason)
	}
	p.want(t, "after the head moved", nil, 0, "")
}

// A worker that is stopped at any operation on the forge leaves one review there, and no
// model is asked again.
func TestStopsWhilePosting(t *testing.T) {
	t.Parallel()
	clean := newPullRequest(t)
	clean.Worker(t, clean.serve)
	clean.end(t, clean.start(t, clean.forge.Head(), nil))
	for at, op := range clean.forge.Ops() {
		if op == "viewer" || op == "diff" || op == "file" {
			continue // reads before anything is posted
		}
		p := newPullRequest(t)
		reached := make(chan struct{})
		n := 0
		p.forge.Fail(func(string) *codehosttest.Refusal {
			if n++; n == at+1 {
				close(reached)
				return &codehosttest.Refusal{Status: http.StatusBadGateway, Silent: true, Done: at%2 == 0} // done or not, nobody hears of it
			}
			return nil
		})
		_, stop := p.Worker(t, p.serve)
		v := p.start(t, p.forge.Head(), nil)
		<-reached
		stop()
		_, stop = p.Worker(t, p.serve)
		v = p.end(t, v)
		if v.State != review.Completed || v.Verdict != review.Failed {
			t.Errorf("stopped at %s: review = %s %s, want it completed and failed", op, v.State, v.Verdict)
		}
		p.want(t, "stopped at "+op, twoThreads, 1, "failure")
		if n := p.times("main.go"); n != 1 {
			t.Errorf("stopped at %s: the model was asked %d times about one text, want once", op, n)
		}
		stop()
	}
}

// A report that the forge refuses is a warning of the review, whose verdict and status stand.
func TestRefusedReport(t *testing.T) {
	t.Parallel()
	p := &pullRequest{Bundle: hosttest.Setup(t), model: newModel(), forge: codehosttest.NewForge(t)}
	p.words = []string{"added 11"}
	b := codehosttest.NewBitbucket(p.forge)
	b.Fail(func(op string) *codehosttest.Refusal {
		if op == "report" {
			return &codehosttest.Refusal{Status: http.StatusForbidden, Message: "Your credentials lack one or more required privilege scopes."}
		}
		return nil
	})
	cfg := codehost.Config{
		Repository: codehosttest.Repository, Number: codehosttest.Number, Token: codehosttest.Token, API: b.API(),
		HTTP: egress.NewListedClient(nil), Pace: -1, Report: true,
	}
	cfg.Server.Command, cfg.Server.Env = b.Double(cfg.API).Stdio("")
	p.Worker(t, func(c *host.Config) {
		p.model.serve(c)
		c.Hosts = map[review.Provider]reviewstep.OpenHost{review.Bitbucket: func(ctx context.Context, _ reviewstep.Target) (reviewer.CodeHost, func(), error) {
			h, err := codehost.OpenBitbucket(ctx, cfg)
			if err != nil {
				return nil, nil, err
			}
			return h, h.Close, nil
		}}
	})
	v := p.end(t, p.start(t, "", func(n *postgres.NewReview) { n.Inputs.Provider = review.Bitbucket }))
	var result review.Result
	if err := json.Unmarshal(v.Result, &result); err != nil {
		t.Fatal(err)
	}
	warned := slices.ContainsFunc(result.Warnings, func(r review.Reason) bool { return r.Code == "report_refused" })
	if v.State != review.Completed || v.Verdict != review.Failed || !warned {
		t.Errorf("review = %s %s with warnings %v, want it completed and failed with report_refused", v.State, v.Verdict, result.Warnings)
	}
	if _, status := b.State(); status != "failure" {
		t.Errorf("status = %s, want failure", status)
	}
	if got := document(t, p.Bundle, v.ID, reviewer.VerdictDocument); !strings.Contains(got, "report_refused") {
		t.Errorf("%s = %s, want it with the warning", reviewer.VerdictDocument, got)
	}
}
