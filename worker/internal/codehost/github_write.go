package codehost

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// whoAmI asks for the account. Unlike GET /user, this works for apps too.
func (g *GitHub) whoAmI(ctx context.Context) error {
	var got struct {
		Data struct {
			Viewer struct {
				Login string `json:"login"`
			} `json:"viewer"`
		} `json:"data"`
	}
	api := g.rest
	if host, enterprise := strings.CutSuffix(api.base, "/v3"); enterprise {
		api.base = host
	}
	if err := api.do(ctx, http.MethodPost, "/graphql", map[string]string{"query": "{viewer{login}}"}, &got); err != nil {
		return err
	}
	if g.account = got.Data.Viewer.Login; g.account == "" {
		return fault.New(fault.Unavailable, "bad-answer", "the forge does not name the account of the credential")
	}
	return nil
}

// path returns the path of the repository in the REST API.
func (g *GitHub) path(format string, args ...any) string {
	return "/repos/" + g.cfg.Repository + fmt.Sprintf(format, args...)
}

// draft returns our pending review, or nil. The forge lists it to its author alone.
func (g *GitHub) draft(ctx context.Context) (*reviewed, error) {
	found, err := g.reviews(ctx)
	for _, r := range found {
		if r.State == pending {
			return &r, err
		}
	}
	return nil, err
}

// Drafts returns the pending review of our account.
func (g *GitHub) Drafts(ctx context.Context) (reviewer.Drafts, error) {
	r, err := g.draft(ctx)
	if err != nil || r == nil {
		return reviewer.Drafts{}, err
	}
	d := reviewer.Drafts{Open: true}
	if r.Body != "" {
		d.Comments = append(d.Comments, reviewer.Comment{Body: r.Body})
	}
	for page := 1; page <= maxPages; page++ {
		var some []struct {
			Path string `json:"path"`
			Body string `json:"body"`
		}
		if err := g.rest.do(ctx, http.MethodGet, g.path("/pulls/%d/reviews/%d/comments?per_page=100&page=%d", g.cfg.Number, r.ID, page), nil, &some); err != nil {
			return d, err
		}
		for _, c := range some {
			d.Comments = append(d.Comments, reviewer.Comment{Path: c.Path, Body: c.Body})
		}
		if len(some) < 100 {
			break
		}
	}
	return d, nil
}

// act calls a method of pull_request_review_write.
func (g *GitHub) act(ctx context.Context, method string, more map[string]any) error {
	args := g.pull(more)
	args["method"] = method
	_, err := g.put(ctx, "pull_request_review_write", args)
	return err
}

// Begin opens a pending review at a commit.
func (g *GitHub) Begin(ctx context.Context, commit string) error {
	if err := g.unchanged(ctx); err != nil {
		return err
	}
	return g.act(ctx, "create", map[string]any{"commitID": commit})
}

// Add adds a comment to the pending review.
func (g *GitHub) Add(ctx context.Context, c reviewer.Comment) error {
	args := g.pull(map[string]any{"path": c.Path, "body": c.Body, "subjectType": "FILE"})
	if c.Line > 0 {
		args["subjectType"], args["line"], args["side"] = "LINE", c.Line, string(c.Side)
		if c.StartLine > 0 {
			args["startLine"], args["startSide"] = c.StartLine, string(c.Side)
		}
	}
	_, err := g.put(ctx, "add_comment_to_pending_review", args)
	return err
}

// Submit publishes the pending review. Its summary is given here: the server drops one that
// is given to create.
func (g *GitHub) Submit(ctx context.Context, summary string, requestChanges bool) error {
	return g.act(ctx, "submit_pending", map[string]any{"event": event(requestChanges), "body": summary})
}

func event(requestChanges bool) string {
	if requestChanges {
		return "REQUEST_CHANGES"
	}
	return "COMMENT"
}

// Discard deletes the pending review. Servers before 2.0 look at the account's first review
// alone, which may have been submitted; then the REST API does it.
func (g *GitHub) Discard(ctx context.Context) error {
	err := g.act(ctx, "delete_pending", nil)
	if err == nil || fault.KindOf(err) != fault.Conflict {
		return err
	}
	r, err := g.draft(ctx)
	if err != nil || r == nil {
		return err
	}
	return g.rest.do(ctx, http.MethodDelete, g.path("/pulls/%d/reviews/%d", g.cfg.Number, r.ID), nil, nil)
}

// PostAtOnce publishes a review in one request of the REST API.
func (g *GitHub) PostAtOnce(ctx context.Context, r reviewer.AtOnce) error {
	type comment struct {
		Path      string      `json:"path"`
		Body      string      `json:"body"`
		Line      int         `json:"line"`
		Side      review.Side `json:"side"`
		StartLine int         `json:"start_line,omitempty"`
		StartSide review.Side `json:"start_side,omitempty"`
	}
	comments := []comment{}
	for _, c := range r.Comments {
		out := comment{Path: c.Path, Body: c.Body, Line: c.Line, Side: c.Side}
		if c.StartLine > 0 {
			out.StartLine, out.StartSide = c.StartLine, c.Side
		}
		comments = append(comments, out)
	}
	return g.rest.do(ctx, http.MethodPost, g.path("/pulls/%d/reviews", g.cfg.Number), map[string]any{
		"commit_id": r.Commit, "event": event(r.RequestChanges), "body": r.Summary, "comments": comments,
	}, nil)
}

// Reply answers the first comment of a thread.
func (g *GitHub) Reply(ctx context.Context, t reviewer.Thread, body string) error {
	if len(t.Remarks) == 0 {
		return fault.New(fault.NotFound, "not-found", "thread %s has no comment", t.ID)
	}
	id, err := strconv.ParseInt(t.Remarks[0].ID, 10, 64)
	if err != nil {
		return fault.New(fault.NotFound, "not-found", "the comment of thread %s has no number", t.ID)
	}
	_, err = g.put(ctx, "add_reply_to_pull_request_comment", g.pull(map[string]any{"commentId": id, "body": body}))
	return err
}

// Resolve marks a thread as resolved; doing it again is no error.
func (g *GitHub) Resolve(ctx context.Context, t reviewer.Thread) error {
	return g.act(ctx, "resolve_thread", map[string]any{"threadId": t.ID})
}

// statusContext is the name of our status, which branch rules may require.
const statusContext = "nofx/llm-review"

// SetStatus sets the status of a commit.
func (g *GitHub) SetStatus(ctx context.Context, commit string, s reviewer.Status) error {
	in := map[string]string{"state": s.State, "context": statusContext, "description": short(s.Description, 140)}
	if s.URL != "" {
		in["target_url"] = s.URL
	}
	err := g.rest.do(ctx, http.MethodPost, g.path("/statuses/%s", commit), in, nil)
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind == fault.NotFound {
		// GitHub answers so to a credential without the permission.
		return fault.New(fault.Forbidden, "forbidden", "the account may not set the status of commit %.12s", commit).Because(err)
	}
	return err
}

// RequestChanges and Report are of other forges: a review itself requests changes.
func (g *GitHub) RequestChanges(context.Context, bool) error {
	return fault.New(fault.Invalid, "not-supported", "GitHub takes it with a review")
}

// Report is as RequestChanges.
func (g *GitHub) Report(context.Context, string, reviewer.Status, reviewer.Report) error {
	return fault.New(fault.Invalid, "not-supported", "GitHub takes no report")
}

// short returns s in at most n runes.
func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
