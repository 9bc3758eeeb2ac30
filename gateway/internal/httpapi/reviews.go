package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// reviewTimeout is how long the step of a review may take: it asks a model about each part
// of the change, and posts comments one by one.
const reviewTimeout = time.Hour

// createReview starts the review of a change: 202 with the review and its run, or 200 with
// the review that there is of the same head.
func (s *Server) createReview(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, body, err := readJSON[api.ReviewRequest](c)
	if codeOf(err) == "too-large" {
		err = fault.New(fault.Invalid, "too-large", "the request is longer than %d bytes: upload the diff (nofx artifact upload FILE, or POST /api/artifacts) and name it by artifact_id", maxBody)
	}
	if err != nil {
		return err
	}
	n, refused := newReview(in)
	if refused == nil && !owns(p, n.Inputs.Provider, n.Inputs.Repository) {
		return fault.New(fault.Forbidden, "forbidden", "your token is for pull requests of %s alone", p.Repository)
	}
	if refused == nil && in.Diff != nil {
		// Bytes before rows. If there is a review already, a collection finds them later.
		if n.Diff, err = s.putDiff(c.Request().Context(), p, *in.Diff); err != nil {
			return err
		}
		n.Inputs.ArtifactID, n.HeadSHA = run.ArtifactID.Format(n.Diff.ID), hex.EncodeToString(n.Diff.SHA256)
	}
	return s.answerOnce(c, p, request{
		body:  body,
		check: func() error { return refused },
		do: func(ctx context.Context) (postgres.Answer, error) {
			if n.Diff == nil && in.ArtifactID != nil {
				if n.HeadSHA, err = s.digestOfUpload(ctx, p, n.Inputs.ArtifactID); err != nil {
					return postgres.Answer{}, err
				}
			}
			if n.Project, err = projectOf(c.Request()); err != nil {
				return postgres.Answer{}, err
			}
			return s.startReview(ctx, c.Request(), p, n)
		},
	})
}

// putDiff stores a posted diff and returns the artifact that it will be.
func (s *Server) putDiff(ctx context.Context, p *identity.Principal, diff string) (*run.Artifact, error) {
	sum := sha256.Sum256([]byte(diff))
	a := run.Artifact{ID: run.NewID(), Name: "change.diff", Key: blob.CopyKey(p.Tenant, sum, blob.NewCopy()), MediaType: "text/x-diff", Size: int64(len(diff)), SHA256: sum[:]}
	return &a, s.Blobs.Put(ctx, a.Key, strings.NewReader(diff), a.Size, blob.PutOptions{})
}

// digestOfUpload returns the digest of an artifact that holds a diff.
func (s *Server) digestOfUpload(ctx context.Context, p *identity.Principal, artifact string) (string, error) {
	id, err := run.ArtifactID.Parse(artifact)
	if err != nil {
		return "", fieldFault("invalid-field", "/artifact_id", "no such artifact")
	}
	a, err := s.Store.Upload(ctx, p.Tenant, id)
	switch {
	case errors.Is(err, fault.NotFound):
		return "", fieldFault("invalid-field", "/artifact_id", "no such artifact")
	case err == nil && a.State != run.Ready:
		return "", fieldFault("invalid-field", "/artifact_id", "the upload of this artifact is not complete")
	}
	return hex.EncodeToString(a.SHA256), err
}

// startReview starts a review with its inputs, and makes the answer that says so.
func (s *Server) startReview(ctx context.Context, r *http.Request, p *identity.Principal, n postgres.NewReview) (postgres.Answer, error) {
	v, created, err := s.beginReview(ctx, r, p, n)
	if err != nil {
		return postgres.Answer{}, err
	}
	made, err := s.Store.Run(ctx, p.Tenant, v.RunID)
	if err != nil {
		return postgres.Answer{}, err
	}
	out := api.CreatedReview{Review: apiReview(v), Run: apiRun(made)}
	a := postgres.Answer{
		Status: http.StatusOK,
		Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "ETag": etag(v.Version), "Location": "/api/reviews/" + out.Review.ID},
		Body:   encode(out),
	}
	if created {
		a.Status, a.Header["Retry-After"] = http.StatusAccepted, "1"
	}
	return a, nil
}

// beginReview starts a review with its inputs, or returns the one that there is.
func (s *Server) beginReview(ctx context.Context, r *http.Request, p *identity.Principal, n postgres.NewReview) (v review.Review, created bool, err error) {
	ctx, span := s.tracer.Start(ctx, "run.create")
	defer span.End()
	inputs, err := json.Marshal(n.Inputs)
	if err != nil {
		return v, false, fmt.Errorf("inputs of a review: %w", err)
	}
	goal := "Review of a diff"
	if n.Inputs.PullRequest > 0 {
		goal = fmt.Sprintf("Review %s#%d", n.Inputs.Repository, n.Inputs.PullRequest)
	}
	n.Plan, err = run.Plan{Goal: s.Redactor.String(goal), Steps: []run.PlanStep{{
		Name: "review", Tool: run.ToolReview, Inputs: inputs, TimeoutS: ptr(int(reviewTimeout.Seconds())),
	}}}.Normalise()
	if err != nil {
		return v, false, err
	}
	n.CorrelationID, n.CreatedBy = r.Header.Get("X-Correlation-Id"), p.Subject
	v, created, err = s.Store.StartReview(ctx, p.Tenant, n)
	if err == nil {
		span.SetAttributes(telemetry.RunIDKey.String(run.RunID.Format(v.RunID)))
	}
	return v, created, err
}

// repositoryShape is that of the contract's RepositoryName. Names of dots alone would be steps
// in the paths of a forge's API.
var repositoryShape = shape{regexp.MustCompile(`^[A-Za-z0-9_.-]{0,99}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{0,99}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$`), "OWNER/NAME"}

// newReview returns the review that in asks for, or all that is wrong with it.
func newReview(in api.ReviewRequest) (n postgres.NewReview, err error) {
	var fields []fault.Field
	bad := func(at, detail string) { fields = append(fields, fault.Field{Pointer: at, Detail: detail}) }
	forge := in.Provider == api.ReviewRequestProviderGithub || in.Provider == api.ReviewRequestProviderBitbucket
	switch {
	case string(in.Provider) == string(review.Workspace):
		bad("/provider", `the workspace of a run is reviewed by a step of its plan: {"tool": "gate:llm_review", "inputs": {"diff": "workspace"}}`)
	case !in.Provider.Valid():
		bad("/provider", "must be github, bitbucket or diff")
	case forge:
		n.Inputs.Provider = review.Provider(in.Provider)
		if in.Diff != nil {
			bad("/diff", "belongs to provider diff")
		}
		if in.ArtifactID != nil {
			bad("/artifact_id", "belongs to provider diff")
		}
	case (in.Diff == nil) == (in.ArtifactID == nil):
		bad("/diff", "one of diff and artifact_id is required")
	case in.Diff != nil && !isUnifiedDiff(*in.Diff):
		bad("/diff", "is no unified diff with the headers of files, as git diff prints it")
	}
	if in.ArtifactID != nil {
		n.Inputs.ArtifactID = *in.ArtifactID
	}
	if in.HeadSha != nil {
		n.Inputs.HeadSHA, n.HeadSHA = *in.HeadSha, *in.HeadSha
		if !forge {
			bad("/head_sha", "belongs to a pull request; the head of a diff is its SHA-256")
		}
	}
	if in.Repository != nil {
		n.Inputs.Repository = *in.Repository
		if !repositoryShape.MatchString(*in.Repository) {
			bad("/repository", "must be "+repositoryShape.words)
		}
	} else if forge || in.PullRequest != nil {
		bad("/repository", "is required: "+repositoryShape.words)
	}
	if in.PullRequest != nil {
		n.Inputs.PullRequest = *in.PullRequest
		if *in.PullRequest < 1 || *in.PullRequest > math.MaxInt32 {
			bad("/pull_request", "must be the number of a pull request")
		}
	} else if forge {
		bad("/pull_request", "is required: the number of a pull request")
	}
	n.Inputs.DryRun = in.DryRun != nil && *in.DryRun
	if in.HeadSha != nil && forge {
		of := commitShape
		if n.Inputs.Provider == review.Bitbucket {
			of = shortShape
		}
		if !of.MatchString(*in.HeadSha) {
			bad("/head_sha", "must be "+of.words)
		}
	}
	if len(fields) > 0 {
		return n, fault.OfFields("invalid-field", fields...)
	}
	return n, nil
}

// shortShape is that of the contract's CommitSHA, and commitShape the one where the forge
// does not shorten it.
var (
	shortShape  = shape{regexp.MustCompile(`^[0-9a-f]{12,64}$`), "the name of a commit, or its first 12 hexadecimal digits or more, in lower case"}
	commitShape = shape{regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`), "the full name of a commit: 40 or 64 hexadecimal digits in lower case"}
)

// fileHeader is what the changes of a file begin with, in the forms of git and of diff -u.
var fileHeader = regexp.MustCompile(`(?m)^(diff --git .+|--- .+\r?\n\+\+\+ .+)$`)

// isUnifiedDiff reports whether a text looks like a unified diff. The worker reads it
// closely.
func isUnifiedDiff(s string) bool { return fileHeader.MatchString(s) }

// rerunReview starts a review of what another one has reviewed.
func (s *Server) rerunReview(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.ReviewID, "review_id")
	if err != nil {
		return err
	}
	in, err := readOptionalJSON[api.ReviewRerun](c)
	if err != nil {
		return err
	}
	return s.answerOnce(c, p, request{
		body: encode(in),
		check: func() error {
			if in.Reuse != nil && !in.Reuse.Valid() {
				return fieldFault("invalid-field", "/reuse", "must be cached or none")
			}
			return nil
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			v, err := s.Store.Review(ctx, p.Tenant, id)
			if err != nil {
				return postgres.Answer{}, err
			}
			n, err := s.rerunOf(ctx, p, v)
			if err != nil {
				return postgres.Answer{}, err
			}
			if in.Reuse != nil && *in.Reuse == api.ReviewRerunReuseNone {
				n.Inputs.Reuse = run.ReuseNone
			}
			return s.startReview(ctx, c.Request(), p, n)
		},
	})
}

// rerunOf returns what reviews again what a review that is over was of.
func (s *Server) rerunOf(ctx context.Context, p *identity.Principal, v review.Review) (n postgres.NewReview, err error) {
	if v.Provider == review.Workspace {
		return n, fault.New(fault.Conflict, "workspace-review", "it reviewed the workspace of run %s: retry its step, or rerun the run", run.RunID.Format(v.RunID))
	}
	if !review.Machine.Terminal(v.State) {
		return n, fault.OfTransition(fault.Transition{Machine: review.Machine.String(), From: string(v.State), Event: "rerun"})
	}
	inputs, project, err := s.Store.ReviewInputs(ctx, p.Tenant, v)
	if err != nil {
		return n, err
	}
	if inputs.Provider != "" {
		inputs.HeadSHA = v.HeadSHA // that of the review, also if a worker found it out
	}
	inputs.Reuse = ""
	return postgres.NewReview{Project: project, Inputs: inputs, HeadSHA: v.HeadSHA, RerunOf: &v.ID}, nil
}

// listReviews answers reviews, newest first.
func (s *Server) listReviews(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	f := postgres.ReviewFilter{
		Repository: q.shaped("repository", repositoryShape), PullRequest: int(q.number("pull_request", 1, math.MaxInt32, 0)),
		State:   string(oneOf(q, "status", review.Machine.States()...)),
		Verdict: string(oneOf(q, "verdict", review.Passed, review.Failed, review.Error, review.Waived)),
		Before:  q.afterID("reviews"),
	}
	if p.Repository != "" {
		if f.Repository != "" && !owns(p, review.GitHub, f.Repository) {
			q.bad("repository", "must be "+p.Repository+", which your token is for")
		}
		f.Provider, f.Repository = review.GitHub, p.Repository
	}
	limit := q.limit(200)
	if text, given := q.text("run"); given {
		id, err := run.RunID.Parse(text)
		if err != nil {
			q.bad("run", "must be the id of a run")
		}
		f.RunID = &id
	}
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.Reviews(c.Request().Context(), p.Tenant, f, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "reviews", list, limit, func(v review.Review) string { return v.ID.String() })
	return answer(c, http.StatusOK, api.ReviewPage{NextCursor: next, Items: convert(list, func(v review.Review) api.Review {
		out := apiReview(v)
		out.Coverage = nil // hundreds of paths
		return out
	})})
}

// getReview answers a review, if asked for once it is over.
func (s *Server) getReview(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	wait := time.Duration(q.number("wait_s", 0, maxWait, 0)) * time.Second
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.ReviewID, "review_id")
	if err != nil {
		return err
	}
	v, err := s.reviewed(c.Request().Context(), p, id, wait)
	if err != nil {
		return err
	}
	setETag(c, v.Version)
	return answer(c, http.StatusOK, api.ReviewAnswer{Review: apiReview(v)})
}

// reviewed returns a review as it is when it is over, or as it was last after wait.
func (s *Server) reviewed(ctx context.Context, p *identity.Principal, id uuid.UUID, wait time.Duration) (v review.Review, err error) {
	err = look(ctx, wait, func() (over bool, err error) {
		v, err = s.Store.Review(ctx, p.Tenant, id)
		return review.Machine.Terminal(v.State), err
	})
	return v, err
}

// Limits of a period for metrics.
const (
	metricsPeriod = 30 * 24 * time.Hour
	maxPeriod     = 366 * 24 * time.Hour
)

// getReviewMetrics answers what became of findings, and what reviews cost.
func (s *Server) getReviewMetrics(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	since, until := q.time("since"), q.time("until")
	period := postgres.ReviewPeriod{Repository: q.shaped("repository", repositoryShape)}
	period.Until = time.Now()
	if until != nil {
		period.Until = *until
	}
	period.Since = period.Until.Add(-metricsPeriod)
	if since != nil {
		period.Since = *since
	}
	if d := period.Until.Sub(period.Since); d < 0 || d > maxPeriod {
		q.bad("since", fmt.Sprintf("must be before until, by at most %d days", int(maxPeriod.Hours()/24)))
	}
	if err := q.err(); err != nil {
		return err
	}
	m, err := s.Store.ReviewMetrics(c.Request().Context(), p.Tenant, period)
	if err != nil {
		return err
	}
	out := api.ReviewMetrics{Since: period.Since.UTC(), Until: period.Until.UTC(), Rules: convert(m.Rules, apiRuleMetrics), Reviews: []api.VerdictMetrics{}, Spending: []api.SpendingMetrics{}}
	for _, v := range m.Verdicts {
		out.Reviews = append(out.Reviews, api.VerdictMetrics{Status: api.ReviewStatus(v.State), Verdict: ptr(api.ReviewVerdict(v.Verdict)), Count: v.Reviews})
	}
	for _, d := range m.Spending {
		spent := api.SpendingMetrics{Model: ptr(d.Model), Reviews: d.Reviews, Tokens: d.Tokens, CostUsd: d.CostUSD}
		spent.Day.Time = d.Day
		out.Spending = append(out.Spending, spent)
	}
	return answer(c, http.StatusOK, out)
}

func apiRuleMetrics(m postgres.RuleMetrics) api.RuleMetrics {
	return api.RuleMetrics{RuleID: ptr(m.RuleID), Category: string(m.Category), Found: m.Found, Open: m.Open, Fixed: m.Fixed, Resolved: m.Resolved, Dismissed: m.Dismissed, Acceptance: m.Acceptance()}
}

func apiReview(v review.Review) api.Review {
	out := api.Review{
		ID: run.ReviewID.Format(v.ID), RunID: run.RunID.Format(v.RunID), StepID: run.StepID.Format(v.StepID),
		Provider: api.ReviewProvider(v.Provider), Repository: ptr(v.Repository), PullRequest: ptr(v.PullRequest), HeadSha: ptr(v.HeadSHA), BaseSha: ptr(v.BaseSHA), DryRun: v.DryRun,
		Status: api.ReviewStatus(v.State), Version: v.Version, Reason: ptr(v.Reason), Verdict: ptr(api.ReviewVerdict(v.Verdict)),
		Reasons: []api.ReviewReason{}, Warnings: []api.ReviewReason{}, Counts: map[string]int{},
		PolicyHash: ptr(v.PolicyHash), Model: ptr(v.Model), Tokens: v.Tokens, CostUsd: v.CostUSD, TraceID: v.TraceID,
		CreatedBy: v.CreatedBy, CreatedAt: v.CreatedAt.UTC(), StartedAt: utc(v.StartedAt), FinishedAt: utc(v.FinishedAt),
	}
	for of, id := range map[**string]*uuid.UUID{&out.RerunOf: v.RerunOf, &out.SupersededBy: v.SupersededBy} {
		if id != nil {
			*of = ptr(run.ReviewID.Format(*id))
		}
	}
	if v.GateID != nil {
		out.GateID = ptr(run.GateID.Format(*v.GateID))
	}
	var result struct {
		Reasons, Warnings []review.Reason
		Coverage          *review.Coverage
		Counts            map[string]int
	}
	if len(v.Result) > 0 && json.NewDecoder(bytes.NewReader(v.Result)).Decode(&result) == nil {
		out.Reasons, out.Warnings = convert(result.Reasons, apiReason), convert(result.Warnings, apiReason)
		if result.Counts != nil {
			out.Counts = result.Counts
		}
		if c := result.Coverage; c != nil {
			out.Coverage = &api.ReviewCoverage{Reviewed: append([]string{}, c.Reviewed...), Skipped: convert(c.Skipped, func(s review.Skip) api.ReviewSkip {
				return api.ReviewSkip{Path: s.Path, Reason: string(s.Reason), Detail: ptr(s.Detail)}
			})}
		}
	}
	return out
}

func apiReason(r review.Reason) api.ReviewReason {
	return api.ReviewReason{Code: r.Code, Detail: r.Detail}
}
