package codehost

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// maxPages bounds what is read page by page, of 100 each.
const maxPages = 100

// readPull calls a method of pull_request_read and decodes what it returns.
func (g *GitHub) readPull(ctx context.Context, method string, more map[string]any, into any) error {
	args := g.pull(more)
	args["method"] = method
	got, err := g.get(ctx, "pull_request_read", args)
	if err != nil {
		return err
	}
	return got.json(into)
}

// Change returns the pull request as it is now.
func (g *GitHub) Change(ctx context.Context) (reviewer.PullRequest, error) {
	var pr struct {
		Number  int    `json:"number"`
		Title   string `json:"title"`
		Body    string `json:"body"`
		State   string `json:"state"`
		Draft   bool   `json:"draft"`
		Merged  bool   `json:"merged"`
		HTMLURL string `json:"html_url"`
		User    struct {
			Login string `json:"login"`
		} `json:"user"`
		Head, Base struct {
			SHA string `json:"sha"`
		}
	}
	if err := g.readPull(ctx, "get", nil, &pr); err != nil {
		return reviewer.PullRequest{}, err
	}
	if pr.Head.SHA == "" || pr.Base.SHA == "" {
		return reviewer.PullRequest{}, fault.New(fault.Unavailable, "bad-answer", "the forge does not name the commits of the pull request")
	}
	state := pr.State
	if pr.Merged {
		state = "merged"
	}
	return reviewer.PullRequest{
		Number: pr.Number, Title: pr.Title, Body: pr.Body, Author: pr.User.Login, URL: pr.HTMLURL,
		State: state, Draft: pr.Draft, Own: g.is(pr.User.Login), BaseSHA: pr.Base.SHA, HeadSHA: pr.Head.SHA,
	}, nil
}

// Files returns the changed files.
func (g *GitHub) Files(ctx context.Context) ([]reviewer.ChangedFile, error) {
	all := []reviewer.ChangedFile{}
	for page := 1; page <= maxPages; page++ {
		var files []struct {
			Filename  string `json:"filename"`
			Status    string `json:"status"`
			Additions int    `json:"additions"`
			Deletions int    `json:"deletions"`
			Patch     string `json:"patch"`
			Previous  string `json:"previous_filename"`
		}
		if err := g.readPull(ctx, "get_files", map[string]any{"page": page, "perPage": 100}, &files); err != nil {
			return nil, err
		}
		for _, f := range files {
			all = append(all, reviewer.ChangedFile{Path: f.Filename, OldPath: f.Previous, Status: f.Status, Added: f.Additions, Deleted: f.Deletions, Patch: f.Patch})
		}
		if len(files) < 100 {
			break
		}
	}
	return all, nil
}

// Diff returns the unified diff.
func (g *GitHub) Diff(ctx context.Context) (string, error) {
	args := g.pull(map[string]any{"method": "get_diff"})
	got, err := g.get(ctx, "pull_request_read", args)
	if err != nil {
		return "", err
	}
	if got.structured == nil {
		return textOf(got.content), nil
	}
	var d struct {
		Diff *string `json:"diff"`
	}
	if err := got.json(&d); err != nil {
		return "", err
	}
	if d.Diff == nil {
		return "", fault.New(fault.Unavailable, "bad-answer", "the forge's answer has no diff")
	}
	return *d.Diff, nil
}

// File returns a file as it is at a commit. What is not a file, or is not there, is
// NotFound; the server also answers with other paths that look like it.
func (g *GitHub) File(ctx context.Context, path, at string) ([]byte, error) {
	owner, repo, _ := strings.Cut(g.cfg.Repository, "/")
	got, err := g.get(ctx, "get_file_contents", map[string]any{"owner": owner, "repo": repo, "path": path, "sha": at})
	if err != nil {
		return nil, err
	}
	parts := got.content
	if got.structured != nil {
		var structured struct {
			Content []json.RawMessage `json:"content"`
		}
		if err := got.json(&structured); err != nil {
			return nil, notAFile(path, at) // a folder is a list
		}
		text, err := json.Marshal(structured)
		if err != nil {
			return nil, badAnswer(err)
		}
		var r mcp.CallToolResult
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, badAnswer(err)
		}
		parts = r.Content
	}
	for _, part := range parts {
		switch part := part.(type) {
		case *mcp.EmbeddedResource:
			if part.Resource == nil {
				continue
			}
			if len(part.Resource.Blob) > 0 {
				return part.Resource.Blob, nil
			}
			return []byte(part.Resource.Text), nil
		case *mcp.ResourceLink:
			return nil, fault.New(fault.Invalid, "file-too-large", "%s is too large to be read", path)
		}
	}
	return nil, notAFile(path, at)
}

func notAFile(path, at string) error {
	return fault.New(fault.NotFound, "not-found", "%s is no file at commit %.12s", path, at)
}

// discussion finds the number of a comment, which is in its address alone.
var discussion = regexp.MustCompile(`#discussion_r(\d+)$`)

// Threads returns the discussions on files and lines.
func (g *GitHub) Threads(ctx context.Context) ([]reviewer.Thread, error) {
	all := []reviewer.Thread{}
	args := map[string]any{"perPage": 100}
	for range maxPages {
		var page struct {
			Threads []struct {
				ID       string `json:"id"`
				Resolved bool   `json:"is_resolved"`
				Outdated bool   `json:"is_outdated"`
				Comments []struct {
					Body      string `json:"body"`
					Path      string `json:"path"`
					Line      int    `json:"line"`
					StartLine int    `json:"start_line"`
					Author    string `json:"author"`
					URL       string `json:"html_url"`
				} `json:"comments"`
			} `json:"review_threads"`
			PageInfo struct {
				HasNextPage bool   `json:"hasNextPage"`
				EndCursor   string `json:"endCursor"`
			} `json:"pageInfo"`
		}
		if err := g.readPull(ctx, "get_review_comments", args, &page); err != nil {
			return nil, err
		}
		for _, t := range page.Threads {
			thread := reviewer.Thread{ID: t.ID, Resolved: t.Resolved, Outdated: t.Outdated}
			for i, c := range t.Comments {
				if i == 0 {
					thread.Path, thread.Line, thread.StartLine = c.Path, c.Line, c.StartLine
				}
				r := reviewer.Remark{Body: c.Body, URL: c.URL, Ours: g.looksOurs(c.Author)}
				if m := discussion.FindStringSubmatch(c.URL); m != nil {
					r.ID = m[1]
				}
				thread.Remarks = append(thread.Remarks, r)
			}
			all = append(all, thread)
		}
		if !page.PageInfo.HasNextPage {
			break
		}
		args["after"] = page.PageInfo.EndCursor
	}
	return all, g.check(ctx, all)
}

// check asks the REST API for what no server says of our threads: whether they are by our
// account or a namesake, and the side of their lines. Drafts are not known there.
func (g *GitHub) check(ctx context.Context, threads []reviewer.Thread) error {
	ours := map[string]*reviewer.Thread{}
	for i, t := range threads {
		if len(t.Remarks) > 0 && t.Remarks[0].Ours {
			ours[t.Remarks[0].ID] = &threads[i]
		}
	}
	for page := 1; page <= maxPages && len(ours) > 0; page++ {
		var some []struct {
			ID        int64       `json:"id"`
			Side      review.Side `json:"side"`
			Line      int         `json:"line"`
			StartLine int         `json:"start_line"`
			User      struct {
				Login string `json:"login"`
			} `json:"user"`
		}
		if err := g.rest.do(ctx, http.MethodGet, g.path("/pulls/%d/comments?per_page=100&page=%d", g.cfg.Number, page), nil, &some); err != nil {
			return err
		}
		for _, c := range some {
			t := ours[strconv.FormatInt(c.ID, 10)]
			if t == nil {
				continue
			}
			t.Remarks[0].Ours = g.is(c.User.Login)
			if c.Line > 0 {
				t.Side, t.StartLine = c.Side, c.StartLine
			}
		}
		if len(some) < 100 {
			break
		}
	}
	return nil
}

// reviewed is a review as the server lists it.
type reviewed struct {
	ID    int64  `json:"id"`
	State string `json:"state"`
	Body  string `json:"body"`
	URL   string `json:"html_url"`
	User  struct {
		Login string `json:"login"`
	} `json:"user"`
}

const pending = "PENDING"

// reviews returns the reviews of our account.
func (g *GitHub) reviews(ctx context.Context) ([]reviewed, error) {
	var all []reviewed
	for page := 1; page <= maxPages; page++ {
		var some []reviewed
		if err := g.readPull(ctx, "get_reviews", map[string]any{"page": page, "perPage": 100}, &some); err != nil {
			return nil, err
		}
		for _, r := range some {
			if g.is(r.User.Login) {
				all = append(all, r)
			}
		}
		if len(some) < 100 {
			break
		}
	}
	return all, nil
}

// Summaries returns the texts of our submitted reviews.
func (g *GitHub) Summaries(ctx context.Context) ([]reviewer.Remark, error) {
	found, err := g.reviews(ctx)
	all := []reviewer.Remark{}
	for _, r := range found {
		if r.State != pending {
			all = append(all, reviewer.Remark{Body: r.Body, URL: r.URL, Ours: true})
		}
	}
	return all, err
}
