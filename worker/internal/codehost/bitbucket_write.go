package codehost

import (
	"context"
	"net/http"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// Begin checks the server: drafts need not be opened.
func (b *Bitbucket) Begin(ctx context.Context, _ string) error { return b.unchanged(ctx) }

// args returns the arguments of a comment. Lines before the change are from, others to.
func (b *Bitbucket) args(c reviewer.Comment) map[string]any {
	at := map[string]any{"path": c.Path}
	switch {
	case c.Line > 0 && c.Side == review.Left:
		at["from"] = c.Line
	case c.Line > 0:
		at["to"] = c.Line
	}
	return b.pull(map[string]any{"content": c.Body, "inline": at})
}

// Add writes a draft.
func (b *Bitbucket) Add(ctx context.Context, c reviewer.Comment) error {
	_, err := b.put(ctx, "addPendingPullRequestComment", b.args(c))
	return err
}

// Submit publishes all drafts of the account, one after another, then the summary.
func (b *Bitbucket) Submit(ctx context.Context, summary string, _ bool) error {
	got, err := b.put(ctx, "publishPendingComments", b.pull(nil))
	if err != nil {
		return err
	}
	if text := textOf(got.content); strings.HasPrefix(text, "{") { // else there were none
		var done struct {
			Results []struct {
				Status string `json:"status"`
				Error  string `json:"error"`
			} `json:"results"`
		}
		if err := got.json(&done); err != nil {
			return err
		}
		for _, r := range done.Results {
			if r.Status != "published" {
				return b.write.fault("publishPendingComments", r.Error)
			}
		}
	}
	return b.note(ctx, summary)
}

// note writes a comment on the pull request as a whole.
func (b *Bitbucket) note(ctx context.Context, text string) error {
	_, err := b.put(ctx, "addPullRequestComment", b.pull(map[string]any{"content": text}))
	return err
}

// PostAtOnce publishes comment by comment, and the summary last.
func (b *Bitbucket) PostAtOnce(ctx context.Context, r reviewer.AtOnce) error {
	if err := b.unchanged(ctx); err != nil {
		return err
	}
	for _, c := range r.Comments {
		if _, err := b.put(ctx, "addPullRequestComment", b.args(c)); err != nil && fault.KindOf(err) != fault.Invalid {
			return err
		}
	}
	return b.note(ctx, r.Summary)
}

// Discard and Reply cannot be done through this server: it refuses to delete, and its
// replies would be new comments.
func (b *Bitbucket) Discard(context.Context) error { return incapable("discard a draft") }

// Reply is as Discard.
func (b *Bitbucket) Reply(context.Context, reviewer.Thread, string) error {
	return incapable("reply in a thread")
}

func incapable(what string) error {
	return fault.New(fault.Invalid, "not-supported", "bitbucket-mcp cannot %s", what)
}

// Resolve marks a thread as resolved.
func (b *Bitbucket) Resolve(ctx context.Context, t reviewer.Thread) error {
	_, err := b.put(ctx, "resolveComment", b.pull(map[string]any{"comment_id": t.ID}))
	return err
}

// SetStatus sets the build status of a commit, which must lead somewhere.
func (b *Bitbucket) SetStatus(ctx context.Context, commit string, s reviewer.Status) error {
	state := map[string]string{"success": "SUCCESSFUL", "failure": "FAILED", "error": "FAILED", "pending": "INPROGRESS"}[s.State]
	at := s.URL
	if at == "" {
		at = "https://bitbucket.org/" + b.cfg.Repository
	}
	return b.rest.do(ctx, http.MethodPost, b.path("/commit/%s/statuses/build", commit), map[string]string{
		"key": statusContext, "name": statusContext, "state": state, "description": short(s.Description, 140), "url": at,
	}, nil)
}
