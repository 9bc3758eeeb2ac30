package reviewstep

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/reviewer"
	"nofx.dev/worker/internal/tool"
)

// Target is a pull request to open.
type Target struct {
	Repository string
	Number     int
	Token      string // "": the worker's own

	// Pinned returns the tools that a server announced when it was first used in a kind of
	// session, by digest; the first time those are tools.
	Pinned func(ctx context.Context, server, session string, tools map[string]string) (map[string]string, error)
}

// OpenHost opens a pull request on a forge. close ends the sessions with its servers.
type OpenHost func(ctx context.Context, t Target) (host reviewer.CodeHost, close func(), err error)

// superseded is why a review of a pull request ends without a verdict of its own.
type superseded string

func (s superseded) Error() string { return string(s) }

// open opens the pull request of a review, with the token that its repository names.
func (a *attempt) open(ctx context.Context, credential string) error {
	open := a.Hosts[a.review.Provider]
	if open == nil {
		return tool.Failuref(run.ClassPolicy, "this worker has no connector of %s (NOFX_%s_TOKEN)", a.review.Provider, strings.ToUpper(string(a.review.Provider)))
	}
	t := Target{Repository: a.review.Repository, Number: a.review.PullRequest}
	t.Pinned = func(ctx context.Context, server, session string, tools map[string]string) (map[string]string, error) {
		return a.DB.PinTools(ctx, a.call.Claim.TenantID, a.review.Provider, server, session, tools)
	}
	if credential != "" {
		token, err := a.Credentials.Read(a.call.Claim.TenantID, credential)
		if err != nil {
			return err
		}
		t.Token, a.Redactor = token, a.Redactor.With(token)
	}
	host, end, err := open(ctx, t)
	if err != nil {
		return ofForge(err)
	}
	a.host, a.close = host, end
	return nil
}

// pullRequest reads the change of a pull request, as it is at the head that the review is of.
func (a *attempt) pullRequest(ctx context.Context) (*change, error) {
	bound, err := a.DB.NamedRepository(ctx, a.call.Claim.TenantID, a.review.Provider, a.review.Repository)
	if err != nil && !errors.Is(err, fault.NotFound) { // what is not bound has nothing of its own
		return nil, err
	}
	if err := a.open(ctx, bound.Credential); err != nil {
		return nil, err
	}
	pr, err := a.host.Change(ctx)
	if err != nil {
		return nil, ofForge(err)
	}
	if wanted := a.review.HeadSHA; wanted != "" && !reviewer.SameCommit(wanted, pr.HeadSHA) {
		return nil, superseded(fmt.Sprintf("the head is %s by now, not %s", pr.HeadSHA, wanted))
	}
	other, err := a.DB.NoteReviewHead(ctx, a.call.Claim, a.review.ID, pr.HeadSHA, pr.BaseSHA, a.host.Account())
	if err != nil {
		return nil, err
	}
	if other != nil {
		a.review.State = review.Superseded
		return nil, superseded(fmt.Sprintf("head %s has the review %s", pr.HeadSHA, run.ReviewID.Format(*other)))
	}
	c := &change{base: pr.BaseSHA, head: pr.HeadSHA, title: pr.Title, description: pr.Body, bound: bound.Policy}
	if c.diff, c.missing, err = a.diffOf(ctx); err != nil {
		return nil, ofForge(err)
	}
	if !a.host.Capabilities().FileAt {
		c.files = func(context.Context, []string) (map[string]*string, error) { return nil, nil }
		return c, nil
	}
	switch text, err := a.host.File(ctx, review.PolicyPath, pr.BaseSHA); {
	case err == nil:
		policy := string(text)
		c.policy = &policy
	case !errors.Is(err, fault.NotFound):
		return nil, ofForge(err)
	}
	c.files = func(ctx context.Context, paths []string) (map[string]*string, error) {
		files := make(map[string]*string, len(paths))
		for _, p := range paths {
			text, err := a.host.File(ctx, p, pr.HeadSHA)
			switch {
			case err == nil:
				s := string(text)
				files[p] = &s
			case errors.Is(err, fault.NotFound):
				files[p] = nil
			case !errors.Is(err, fault.Invalid): // too large to be of use
				return nil, ofForge(err)
			}
		}
		return files, nil
	}
	return c, nil
}

// diffOf returns the diff of the pull request. Of one that the forge finds too large it is
// put together from its files, as far as the forge gives their lines.
func (a *attempt) diffOf(ctx context.Context) (string, []review.Skip, error) {
	text, err := a.host.Diff(ctx)
	if e, ok := errors.AsType[*fault.Error](err); err == nil || !ok || e.Code != reviewer.CodeTooLarge {
		return text, nil, err
	}
	files, err := a.host.Files(ctx)
	if err != nil {
		return "", nil, err
	}
	var diff strings.Builder
	var missing []review.Skip
	for _, f := range files {
		if f.Patch == "" {
			missing = append(missing, review.Skip{Path: f.Path, Reason: review.SkippedUnread, Detail: "the forge does not show its lines"})
			continue
		}
		diff.WriteString(f.Unified())
	}
	return diff.String(), missing, nil
}

// progress is the input of what is posted: each step of the posting replaces it.
const progress = "progress"

// post puts the plan of a review on its forge, and notes in out what is there. What is not
// there as it was planned makes the verdict an error.
func (a *attempt) post(ctx context.Context, out *reviewer.Outcome) error {
	var before reviewer.Posted // of an attempt before
	raw, found, err := a.store().Load(ctx, reviewer.PostedDocument, 0, progress)
	if err == nil && found {
		err = json.Unmarshal(raw, &before)
	}
	if err != nil {
		return fmt.Errorf("what is posted already: %w", err)
	}
	posting, end := reviewer.Stage(ctx, "post")
	posted, err := reviewer.Post(posting, a.host, out.Plan, reviewer.Posting{
		Fence: a.call.Fresh, Route: before.Route,
		Save: func(ctx context.Context, p reviewer.Posted) error {
			body, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				return fmt.Errorf("what is posted as JSON: %w", err)
			}
			return a.store().Save(ctx, reviewer.PostedDocument, 0, progress, "application/json", body)
		},
	})
	result := map[reviewer.PostState]string{reviewer.PostDone: "complete", reviewer.PostPartial: "partial"}[posted.State]
	if result == "" || err != nil {
		result = "failed"
	}
	end(err, telemetry.OutcomeKey.String(string(posted.State)), telemetry.PostedKey.Int(len(posted.Comments)), telemetry.ResolvedKey.Int(len(posted.Resolved)))
	a.Metrics.ReviewPosts.Inc(string(a.review.Provider), cmp.Or(string(posted.Route), "none"), result)
	if err != nil {
		return ofForge(err)
	}
	if err := failpoint.Hit(failpoint.AfterPost); err != nil {
		return err
	}
	switch posted.State {
	case reviewer.PostSuperseded:
		return superseded("the head moved while the review was posted")
	case reviewer.PostBlocked:
		out.Unposted("blocked_by_foreign_pending", "a pending review of the same account, which is not ours, is in the way")
	case reviewer.PostPartial:
		out.Unposted("partial", fault.Count(len(posted.Missing), "remark")+" of the review could not be posted")
	}
	out.Result.Warnings = append(out.Result.Warnings, posted.Warnings...)
	if posted.State != reviewer.PostDone || len(posted.Warnings) > 0 { // the verdict that was stored before is another one
		body, err := json.MarshalIndent(out.Result, "", "  ")
		if err != nil {
			return fmt.Errorf("verdict as JSON: %w", err)
		}
		if err := a.store().Save(ctx, reviewer.VerdictDocument, 0, string(posted.State), "application/json", body); err != nil {
			return err
		}
	}
	a.posted = &posted
	at := make(map[string]reviewer.PostedComment, len(posted.Comments))
	for _, c := range posted.Comments {
		at[c.Fingerprint] = c
	}
	for i := range out.Occurrences {
		o := &out.Occurrences[i]
		if c, ok := at[o.Finding.Fingerprint]; ok {
			o.Finding.ThreadID, o.Finding.CommentID, o.Finding.URL = c.ThreadID, c.CommentID, c.URL
			if c.Place != reviewer.OnLine && o.Disposition == review.Posted {
				o.Disposition, o.Why = review.Demoted, "the forge did not take it on its line"
			}
		}
	}
	return nil
}

// ofForge returns why a forge did not do its part: what may be over soon is tried again.
func ofForge(err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	f := &tool.Failure{Class: run.ClassInvalid, Reason: "the forge: " + e.Detail, Err: err}
	switch e.Kind {
	case fault.Fenced:
		return err
	case fault.RateLimited, fault.Unavailable, fault.Conflict:
		f.Class, f.RetryAfter = run.ClassInfrastructure, e.RetryAfter
	case fault.Unauthenticated, fault.Forbidden:
		f.Class = run.ClassPolicy
	}
	return f
}
