package reviewer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

// PostState is how far the posting of a plan has come, and how it ended.
type PostState string

// The states. Those from Posted on are ends.
const (
	PostPlanned    PostState = "planned"
	PostDrafting   PostState = "drafting"
	PostSubmitting PostState = "submitting"
	PostSubmitted  PostState = "submitted"

	PostDone       PostState = "posted"
	PostPartial    PostState = "partial" // what is on the forge is not what was planned
	PostSuperseded PostState = "superseded"
	PostBlocked    PostState = "blocked_by_foreign_pending"
)

// Route is how a review got to the forge.
type Route string

// The routes.
const (
	RouteDraft  Route = "draft"   // a draft, comment by comment, then submitted
	RouteAtOnce Route = "at_once" // published in one go, past a draft that was in the way
)

// Places of a posted comment.
const (
	OnLine    = "line"
	OnFile    = "file"
	InSummary = "summary"
)

// Posted is what has been posted of a plan, as it was read back from the forge.
type Posted struct {
	State      PostState       `json:"state"`
	Route      Route           `json:"route,omitempty"`
	SummaryURL string          `json:"summary_url,omitempty"`
	Comments   []PostedComment `json:"comments"`
	Missing    []string        `json:"missing"`    // fingerprints that are not on the forge, or on another line
	Resolved   []string        `json:"resolved"`   // fingerprints whose threads are resolved
	Unresolved []string        `json:"unresolved"` // those that the forge would not resolve, or has no more
	Warnings   []review.Reason `json:"warnings"`   // what the forge refuses beside the review
}

// PostedComment is where the comment of a finding is.
type PostedComment struct {
	Fingerprint string `json:"fingerprint"`
	Place       string `json:"place"`
	ThreadID    string `json:"thread_id,omitempty"`
	CommentID   string `json:"comment_id,omitempty"`
	URL         string `json:"url,omitempty"`
	Line        int    `json:"line,omitempty"`
	StartLine   int    `json:"start_line,omitempty"`
}

// Posting is what Post asks of its caller.
type Posting struct {
	// Fence returns fault.Fenced once the lease is lost. It is asked before a draft is
	// opened and before it is published.
	Fence func(ctx context.Context) error
	// Save stores how far it has come, before each step that others can see.
	Save func(ctx context.Context, p Posted) error
	// Route is what an earlier try has stored.
	Route Route
}

// Post puts a plan on a forge (REVIEW.md §7.3). It may be broken off at any point and begun
// again: what is on the forge says how far it came. An error is one of host, Fence or Save;
// after one that is worth another try, call Post again with the same plan.
func Post(ctx context.Context, host CodeHost, plan Plan, to Posting) (Posted, error) {
	p := &poster{host: host, can: host.Capabilities(), plan: plan, to: to, was: map[string]bool{}}
	p.out = Posted{State: PostPlanned, Route: to.Route, Comments: []PostedComment{}, Missing: []string{}, Resolved: []string{}, Unresolved: []string{}, Warnings: []review.Reason{}}
	err := p.post(ctx)
	return p.out, err
}

// poster posts one plan.
type poster struct {
	host CodeHost
	can  Capabilities
	plan Plan
	to   Posting
	out  Posted

	threads   []Thread
	summaries []Remark
	drafts    []Comment       // of ours, which the next draft has already
	was       map[string]bool // fingerprints of threads that were there before
	moved     bool            // the head is not the plan's any more
	own       bool            // the pull request is of our account
}

func (p *poster) post(ctx context.Context) error {
	first := SummaryMarker(p.plan.ReviewID)
	late := SummaryMarker(p.plan.ReviewID + "-2")
	if err := p.look(ctx); err != nil {
		return err
	}
	if end, err := p.round(ctx, first, p.plan.Summary, p.plan.Comments); end || err != nil {
		return err
	}
	// What the forge has lost at submission gets one more chance, on its file.
	if missing := p.readBack(); len(missing) > 0 && !p.moved {
		again := make([]Comment, len(missing))
		for i, c := range missing {
			again[i] = ofFile(c)
		}
		if end, err := p.round(ctx, late, "Remarks that the forge did not take on their lines.", again); end || err != nil {
			return err
		}
	}
	p.out.Missing = p.missing(p.readBack())
	if err := p.resolve(ctx); err != nil {
		return err
	}
	p.out.State = PostDone
	if len(p.out.Missing) > 0 {
		p.out.State = PostPartial
	}
	return p.finish(ctx)
}

// finish sets the status of the commit, which is an error when the review is not there as
// it was planned, and stores the end.
func (p *poster) finish(ctx context.Context) error {
	status := p.plan.Status
	switch p.out.State {
	case PostPartial:
		status.State, status.Description = "error", fault.Count(len(p.out.Missing), "remark")+" could not be posted"
	case PostBlocked:
		status.State, status.Description = "error", "a pending review of the same account is in the way"
	}
	if status.State != "" && p.out.State != PostSuperseded {
		if err := p.beside(ctx, status); err != nil {
			return err
		}
		if err := p.host.SetStatus(ctx, p.plan.HeadSHA, status); err != nil {
			return fmt.Errorf("set status %s: %w", status.State, err)
		}
	}
	return p.save(ctx, p.out.State)
}

// beside sets what a forge shows beside the conversation. What it refuses is a warning: the
// review and its status stand without it.
func (p *poster) beside(ctx context.Context, s Status) error {
	warn := func(code string, err error) error {
		if err == nil {
			return nil
		}
		if !final(err) && fault.KindOf(err) != fault.Unauthenticated {
			return fmt.Errorf("set what is beside the review: %w", err)
		}
		detail := err.Error()
		if e, ok := errors.AsType[*fault.Error](err); ok {
			detail = e.Detail
		}
		p.out.Warnings = append(p.out.Warnings, review.Reason{Code: code, Detail: detail})
		return nil
	}
	if (p.plan.RequestChanges || p.plan.TakeBack) && p.can.ChangesApart && p.out.State != PostBlocked {
		if err := warn("changes_not_requested", p.host.RequestChanges(ctx, p.plan.RequestChanges)); err != nil {
			return err
		}
	}
	if r := p.plan.Report; r != nil && p.can.Report {
		shown := *r
		shown.Details = s.Description
		return warn("report_refused", p.host.Report(ctx, p.plan.HeadSHA, s, shown))
	}
	return nil
}

// requestsChanges reports whether the review itself requests changes.
func (p *poster) requestsChanges() bool {
	return p.plan.RequestChanges && p.can.RequestChanges && !p.own
}

// round publishes a summary with comments, unless a summary with that marker is there. It
// reports whether the posting is at its end.
func (p *poster) round(ctx context.Context, mark, summary string, comments []Comment) (end bool, err error) {
	if p.published(mark) || summary == "" && len(comments) == 0 && !p.moved {
		return false, nil
	}
	for try := 0; ; try++ {
		direct, end, err := p.clear(ctx, comments)
		if end || err != nil || p.published(mark) {
			return end, err
		}
		if direct || try == 2 { // the forge's own draft cannot be used
			err = p.atOnce(ctx, mark, summary, comments)
		} else {
			end, err = p.drafted(ctx, mark, summary, comments)
		}
		if end {
			return true, err
		}
		if err == nil {
			return false, p.look(ctx)
		}
		if fault.KindOf(err) == fault.Fenced || ctx.Err() != nil {
			return false, err
		}
		// The answer may be lost and the review there all the same. It is never
		// submitted again before that is known.
		if seen := p.look(ctx); seen != nil {
			return false, errors.Join(err, seen)
		}
		if p.published(mark) {
			return false, nil
		}
		if code := codeOf(err); code != CodePending && code != CodeNotPending || try == 2 {
			return false, err
		}
	}
}

// look reads what is on the forge.
func (p *poster) look(ctx context.Context) (err error) {
	pr, err := p.host.Change(ctx)
	if err != nil {
		return fmt.Errorf("read the pull request: %w", err)
	}
	p.moved, p.own = !SameCommit(pr.HeadSHA, p.plan.HeadSHA), pr.Own
	if p.threads, err = p.host.Threads(ctx); err != nil {
		return fmt.Errorf("read its threads: %w", err)
	}
	if p.summaries, err = p.host.Summaries(ctx); err != nil {
		return fmt.Errorf("read its reviews: %w", err)
	}
	return nil
}

// published reports whether a summary with a marker is on the forge.
func (p *poster) published(mark string) bool {
	for _, s := range p.summaries {
		if s.Ours && hasMark(s.Body, mark) {
			return true
		}
	}
	return false
}

// clear takes a draft out of the way that a broken off posting has left, and ends the
// posting when the head has moved or the draft is somebody else's. It reports whether drafts
// are to be left alone.
func (p *poster) clear(ctx context.Context, planned []Comment) (direct, end bool, err error) {
	drafts, err := p.host.Drafts(ctx)
	if err != nil {
		return false, false, fmt.Errorf("read drafts: %w", err)
	}
	if !p.can.Discard {
		// A call that was given up may be publishing them still. What is not a thread
		// after this was a draft before it.
		p.drafts = drafts.Comments
		if err := p.look(ctx); err != nil {
			return false, false, err
		}
	}
	foreign := false
	for _, d := range drafts.Comments {
		// Without our marker a person wrote it, who shares our account. One that is not
		// planned must not be published, and cannot be deleted everywhere.
		fp := markerOf(d.Body)
		foreign = foreign || fp == "" || !p.can.Discard && !hasFingerprint(planned, fp)
	}
	switch {
	case p.moved && drafts.Open && !foreign && p.can.Discard:
		if err := p.host.Discard(ctx); err != nil {
			return false, false, fmt.Errorf("discard a draft: %w", err)
		}
		return false, true, p.end(ctx, PostSuperseded)
	case p.moved:
		return false, true, p.end(ctx, PostSuperseded)
	case foreign && p.can.DirectIfMixed:
		return true, false, nil
	case foreign:
		p.out.State = PostBlocked
		return false, true, p.finish(ctx)
	case drafts.Open && p.can.Discard:
		if err := p.host.Discard(ctx); err != nil {
			return false, false, fmt.Errorf("discard a draft: %w", err)
		}
		// Its comments may have been among the threads.
		return false, false, p.look(ctx)
	}
	return false, false, nil
}

func (p *poster) end(ctx context.Context, state PostState) error {
	p.out.State = state
	return p.save(ctx, state)
}

// drafted publishes by way of a draft. It reports whether the posting is at its end.
func (p *poster) drafted(ctx context.Context, mark, summary string, comments []Comment) (end bool, err error) {
	p.out.Route = RouteDraft
	if err := p.save(ctx, PostDrafting); err != nil {
		return false, err
	}
	if err := p.fence(ctx); err != nil {
		return false, err
	}
	if err := p.host.Begin(ctx, p.plan.HeadSHA); err != nil {
		return false, fmt.Errorf("open a draft: %w", err)
	}
	var left []Comment // for the summary
	for i, c := range p.absent(comments) {
		if hasFingerprint(p.drafts, c.Fingerprint) {
			continue
		}
		if i >= p.can.MaxComments {
			left = append(left, c)
			continue
		}
		taken, err := p.add(ctx, c)
		if err != nil {
			return false, fmt.Errorf("comment on %s: %w", c.Path, err)
		}
		if !taken {
			left = append(left, c)
		}
	}
	pr, err := p.host.Change(ctx)
	if err != nil {
		return false, fmt.Errorf("read the head again: %w", err)
	}
	if p.moved = !SameCommit(pr.HeadSHA, p.plan.HeadSHA); p.moved {
		_, end, err := p.clear(ctx, comments)
		return end, err
	}
	if err := p.save(ctx, PostSubmitting); err != nil {
		return false, err
	}
	if err := p.fence(ctx); err != nil {
		return false, err
	}
	if err := p.host.Submit(ctx, p.summary(mark, summary, left), p.requestsChanges()); err != nil {
		return false, fmt.Errorf("submit the review: %w", err)
	}
	return false, p.save(ctx, PostSubmitted)
}

// add adds a comment to the draft, on its line or else on its file. It reports whether the
// forge has taken it.
func (p *poster) add(ctx context.Context, c Comment) (bool, error) {
	err := p.host.Add(ctx, p.fit(c))
	if fault.KindOf(err) == fault.Invalid && c.Line > 0 {
		err = p.host.Add(ctx, p.fit(ofFile(c)))
	}
	if fault.KindOf(err) == fault.Invalid {
		return false, nil
	}
	return err == nil, err
}

// fit returns a comment as this forge can take it.
func (p *poster) fit(c Comment) Comment {
	c.Body = withMarker(c.Body, c.Fingerprint, p.can.MaxBody)
	if !p.can.Ranges || c.StartLine >= c.Line {
		c.StartLine = 0
	}
	return c
}

// atOnce publishes without a draft. The comments that the forge leaves out are missed when
// it is read back.
func (p *poster) atOnce(ctx context.Context, mark, summary string, comments []Comment) error {
	p.out.Route = RouteAtOnce
	if err := p.save(ctx, PostSubmitting); err != nil {
		return err
	}
	if err := p.fence(ctx); err != nil {
		return err
	}
	r := AtOnce{Commit: p.plan.HeadSHA, RequestChanges: p.requestsChanges()}
	var left []Comment
	for i, c := range p.absent(comments) {
		if i >= p.can.MaxComments || c.Line == 0 && !p.can.FilesAtOnce {
			left = append(left, c)
			continue
		}
		r.Comments = append(r.Comments, p.fit(c))
	}
	r.Summary = p.summary(mark, summary, left)
	err := p.host.PostAtOnce(ctx, r)
	if fault.KindOf(err) == fault.Invalid && len(r.Comments) > 0 {
		// One comment of them is refused, and the forge does not say which.
		r.Summary, r.Comments = p.summary(mark, summary, p.absent(comments)), nil
		err = p.host.PostAtOnce(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("publish the review: %w", err)
	}
	return p.save(ctx, PostSubmitted)
}

// absent returns the comments that are not on the forge, and notes the others.
func (p *poster) absent(comments []Comment) (all []Comment) {
	for _, c := range comments {
		if _, there := p.thread(c.Fingerprint); there {
			p.was[bare(c.Fingerprint)] = true
		} else {
			all = append(all, c)
		}
	}
	return all
}

// thread returns the thread of ours that a finding has.
func (p *poster) thread(fingerprint string) (Thread, bool) {
	for _, t := range p.threads {
		if len(t.Remarks) > 0 && t.Remarks[0].Ours && markerOf(t.Remarks[0].Body) == bare(fingerprint) {
			return t, true
		}
	}
	return Thread{}, false
}

func (p *poster) fence(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return p.to.Fence(ctx)
}

func (p *poster) save(ctx context.Context, state PostState) error {
	p.out.State = state
	if err := p.to.Save(ctx, p.out); err != nil {
		return fmt.Errorf("store what is posted: %w", err)
	}
	return nil
}

func hasFingerprint(comments []Comment, fingerprint string) bool {
	for _, c := range comments {
		if bare(c.Fingerprint) == bare(fingerprint) || markerOf(c.Body) == bare(fingerprint) {
			return true
		}
	}
	return false
}

// ofFile returns a comment of a line as one of its file.
func ofFile(c Comment) Comment {
	if c.Line > 0 {
		c.Body = fmt.Sprintf("%s: %s", place(c), strings.TrimSpace(c.Body))
	}
	c.Line, c.StartLine, c.Side = 0, 0, ""
	return c
}

// codeOf returns the code of a fault.
func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}
