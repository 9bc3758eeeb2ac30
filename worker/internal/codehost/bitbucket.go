package codehost

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// bitbucketServer is bitbucket-mcp 5.0.6, which runs as a child alone. It names itself
// bitbucket-mcp-server 1.0.0, and has no way to be only read through: the rules see to that.
type bitbucketServer struct{}

// rules lists the acts of a session. The server announces more than 40 tools, some of which
// merge and approve.
func (bitbucketServer) rules(c Config, write bool) []rule {
	workspace, repo, _ := strings.Cut(c.Repository, "/")
	of := values{"workspace": one(workspace), "repo_slug": one(repo), "pull_request_id": one(strconv.Itoa(c.Number))}
	if !write {
		return []rule{
			{"getPullRequest", of, nil}, {"getPullRequestDiff", of, nil},
			{"getPullRequestComments", of, values{"all": boolean, "pagelen": positive}},
		}
	}
	text := of.with(values{"content": anyText})
	return []rule{
		{"addPendingPullRequestComment", text.with(values{"inline": inline}), nil},
		{"addPullRequestComment", text, values{"inline": inline}},
		{"publishPendingComments", of, nil},
		{"resolveComment", of.with(values{"comment_id": matches(`^\d+$`)}), nil},
	}
}

// inline is the place of a comment: a path, and at most a line of one side.
var inline = value{shape: "object", is: func(v any) bool {
	at, ok := v.(map[string]any)
	if !ok || !filePath.allows(at["path"]) || len(at) > 2 {
		return false
	}
	for name, n := range at {
		if name != "path" && (name != "to" && name != "from" || !positive.allows(n)) {
			return false
		}
	}
	return true
}}

func (bitbucketServer) header(Config, bool) http.Header { return nil }

// command has no arguments. The server has no log: of a request that fails it would write all,
// with the credential. What it then writes to stderr is dropped.
func (bitbucketServer) command(c Config, dir string, _ bool) (args, env []string) {
	return nil, []string{"BITBUCKET_URL=" + strings.TrimSuffix(c.API, "/"), "BITBUCKET_TOKEN=" + c.Token, "BITBUCKET_LOG_DISABLE=1", "HOME=" + dir}
}

func (bitbucketServer) judge(text string) *fault.Error { return judge(text) }

// Bitbucket is a pull request on Bitbucket.
type Bitbucket struct {
	host

	account string // an account id or UUID: names can be taken by others
}

// OpenBitbucket connects to the MCP server, and finds out which account the credential is
// of. Credentials of a repository are of none: then Account is required.
func OpenBitbucket(ctx context.Context, c Config) (*Bitbucket, error) {
	if workspace, repo, ok := strings.Cut(c.Repository, "/"); !ok || workspace == "" || repo == "" || c.Number < 1 {
		return nil, fault.New(fault.Invalid, "bad-repository", "%q is not workspace/name", c.Repository)
	}
	if c.Server.URL != "" {
		return nil, fault.New(fault.Invalid, "no-server", "the MCP server of Bitbucket is a command")
	}
	b := &Bitbucket{host: host{cfg: c, from: bitbucketServer{}, rest: c.rest(http.Header{"Authorization": {"Bearer " + c.Token}})}, account: c.Account}
	if b.account == "" {
		var me bitbucketUser
		if err := b.rest.do(ctx, http.MethodGet, "/user", nil, &me); err != nil {
			return nil, err
		}
		if b.account = me.UUID; b.account == "" {
			return nil, fault.New(fault.Unavailable, "bad-answer", "the forge does not name the account of the credential")
		}
	}
	if _, err := b.reader(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

type bitbucketUser struct {
	AccountID string `json:"account_id"`
	UUID      string `json:"uuid"`
	Nickname  string `json:"nickname"`
}

func (b *Bitbucket) ours(u bitbucketUser) bool {
	return u.UUID == b.account || u.AccountID == b.account
}

// Account returns the account that the credential is of.
func (b *Bitbucket) Account() string { return b.account }

// Capabilities returns what this server can do on Bitbucket.
func (b *Bitbucket) Capabilities() reviewer.Capabilities {
	return reviewer.Capabilities{DirectIfMixed: true, FilesAtOnce: true, FileAt: true, ChangesApart: true, Report: b.cfg.Report, MaxBody: 30000, MaxComments: 25}
}

// pull returns the arguments that every call has, and more.
func (b *Bitbucket) pull(more map[string]any) map[string]any {
	workspace, repo, _ := strings.Cut(b.cfg.Repository, "/")
	args := map[string]any{"workspace": workspace, "repo_slug": repo, "pull_request_id": strconv.Itoa(b.cfg.Number)}
	for name, v := range more {
		args[name] = v
	}
	return args
}

// path returns the path of the repository in the REST API.
func (b *Bitbucket) path(format string, args ...any) string {
	return "/repositories/" + b.cfg.Repository + fmt.Sprintf(format, args...)
}

// Change returns the pull request as it is now. Bitbucket shortens its commits.
func (b *Bitbucket) Change(ctx context.Context) (reviewer.PullRequest, error) {
	type end struct {
		Commit struct {
			Hash string `json:"hash"`
		} `json:"commit"`
	}
	var pr struct {
		ID          int           `json:"id"`
		Title       string        `json:"title"`
		Description string        `json:"description"`
		State       string        `json:"state"`
		Draft       bool          `json:"draft"`
		Author      bitbucketUser `json:"author"`
		Source      end           `json:"source"`
		Destination end           `json:"destination"`
		Links       links         `json:"links"`
	}
	got, err := b.get(ctx, "getPullRequest", b.pull(nil))
	if err != nil {
		return reviewer.PullRequest{}, err
	}
	if err := got.json(&pr); err != nil {
		return reviewer.PullRequest{}, err
	}
	if pr.Source.Commit.Hash == "" || pr.Destination.Commit.Hash == "" {
		return reviewer.PullRequest{}, fault.New(fault.Unavailable, "bad-answer", "the forge does not name the commits of the pull request")
	}
	state := map[string]string{"OPEN": "open", "MERGED": "merged"}[pr.State]
	if state == "" {
		state = "closed"
	}
	return reviewer.PullRequest{
		Number: pr.ID, Title: pr.Title, Body: pr.Description, Author: pr.Author.Nickname, URL: pr.Links.HTML.Href,
		State: state, Draft: pr.Draft, Own: b.ours(pr.Author), BaseSHA: pr.Destination.Commit.Hash, HeadSHA: pr.Source.Commit.Hash,
	}, nil
}

type links struct {
	HTML struct {
		Href string `json:"href"`
	} `json:"html"`
}

// Files returns the changed files, without patches. The server's own tool shows ten.
func (b *Bitbucket) Files(ctx context.Context) ([]reviewer.ChangedFile, error) {
	all := []reviewer.ChangedFile{}
	for page := 1; page <= maxPages; page++ {
		var some struct {
			Values []struct {
				Status   string `json:"status"`
				Added    int    `json:"lines_added"`
				Removed  int    `json:"lines_removed"`
				Old, New *struct {
					Path string `json:"path"`
				}
			} `json:"values"`
			Next string `json:"next"`
		}
		if err := b.rest.do(ctx, http.MethodGet, b.path("/pullrequests/%d/diffstat?pagelen=100&page=%d", b.cfg.Number, page), nil, &some); err != nil {
			return nil, err
		}
		for _, f := range some.Values {
			c := reviewer.ChangedFile{Status: f.Status, Added: f.Added, Deleted: f.Removed}
			if f.Old != nil {
				c.Path = f.Old.Path
			}
			if f.New != nil {
				if c.Path != "" && c.Path != f.New.Path {
					c.OldPath = c.Path
				}
				c.Path = f.New.Path
			}
			all = append(all, c)
		}
		if some.Next == "" {
			break
		}
	}
	return all, nil
}

// Diff returns the unified diff.
func (b *Bitbucket) Diff(ctx context.Context) (string, error) {
	got, err := b.get(ctx, "getPullRequestDiff", b.pull(nil))
	return textOf(got.content), err
}

// File returns a file as it is at a commit. The server has no tool for it.
func (b *Bitbucket) File(ctx context.Context, path, at string) ([]byte, error) {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if part == "." || part == ".." || part == "" {
			return nil, notAFile(path, at)
		}
		parts[i] = url.PathEscape(part)
	}
	if !commit.allows(at) {
		return nil, notAFile(path, at)
	}
	var meta struct {
		Type string `json:"type"`
	}
	where := b.path("/src/%s/%s", at, strings.Join(parts, "/"))
	if err := b.rest.do(ctx, http.MethodGet, where+"?format=meta", nil, &meta); err != nil {
		return nil, err
	}
	if meta.Type != "commit_file" {
		return nil, notAFile(path, at)
	}
	var content []byte
	err := b.rest.do(ctx, http.MethodGet, where, nil, &content)
	return content, err
}

// bitbucketComment is a comment as the server lists it.
type bitbucketComment struct {
	ID      int64 `json:"id"`
	Content struct {
		Raw string `json:"raw"`
	} `json:"content"`
	User   bitbucketUser `json:"user"`
	Inline *struct {
		Path     string `json:"path"`
		To       int    `json:"to"`
		From     int    `json:"from"`
		Outdated bool   `json:"outdated"`
	} `json:"inline"`
	Parent *struct {
		ID int64 `json:"id"`
	} `json:"parent"`
	Deleted    bool            `json:"deleted"`
	Pending    bool            `json:"pending"`
	Resolution json.RawMessage `json:"resolution"`
	Links      links           `json:"links"`
}

func (b *Bitbucket) comments(ctx context.Context) ([]bitbucketComment, error) {
	got, err := b.get(ctx, "getPullRequestComments", b.pull(map[string]any{"all": true, "pagelen": 100}))
	if err != nil {
		return nil, err
	}
	var all []bitbucketComment
	if err := got.json(&all); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(c bitbucketComment) bool { return c.Deleted }), nil
}

func (b *Bitbucket) remark(c bitbucketComment) reviewer.Remark {
	return reviewer.Remark{ID: strconv.FormatInt(c.ID, 10), Body: c.Content.Raw, URL: c.Links.HTML.Href, Ours: b.ours(c.User)}
}

// place returns the side and line of a comment.
func (c bitbucketComment) place() (review.Side, int) {
	switch {
	case c.Inline == nil:
		return "", 0
	case c.Inline.To > 0:
		return review.Right, c.Inline.To
	case c.Inline.From > 0:
		return review.Left, c.Inline.From
	}
	return "", 0
}

// Threads returns the published discussions on files and lines.
func (b *Bitbucket) Threads(ctx context.Context) ([]reviewer.Thread, error) {
	found, err := b.comments(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(found, func(a, b bitbucketComment) int { return int(a.ID - b.ID) })
	all, root := []reviewer.Thread{}, map[int64]int{}
	for _, c := range found {
		switch {
		case c.Pending:
		case c.Parent != nil:
			if i, there := root[c.Parent.ID]; there { // a reply may be to a reply
				root[c.ID] = i
				all[i].Remarks = append(all[i].Remarks, b.remark(c))
			}
		case c.Inline != nil:
			root[c.ID] = len(all)
			t := reviewer.Thread{ID: strconv.FormatInt(c.ID, 10), Path: c.Inline.Path, Outdated: c.Inline.Outdated, Remarks: []reviewer.Remark{b.remark(c)}}
			t.Side, t.Line = c.place()
			t.Resolved = len(c.Resolution) > 0 && string(c.Resolution) != "null"
			all = append(all, t)
		}
	}
	return all, nil
}

// Summaries returns our comments on the pull request as a whole.
func (b *Bitbucket) Summaries(ctx context.Context) ([]reviewer.Remark, error) {
	found, err := b.comments(ctx)
	all := []reviewer.Remark{}
	for _, c := range found {
		if r := b.remark(c); !c.Pending && c.Parent == nil && c.Inline == nil && r.Ours {
			all = append(all, r)
		}
	}
	return all, err
}

// Drafts returns our comments that are not published.
func (b *Bitbucket) Drafts(ctx context.Context) (reviewer.Drafts, error) {
	found, err := b.comments(ctx)
	d := reviewer.Drafts{}
	for _, c := range found {
		if c.Pending {
			draft := reviewer.Comment{Body: c.Content.Raw}
			if c.Inline != nil {
				draft.Path = c.Inline.Path
				draft.Side, draft.Line = c.place()
			}
			d.Open, d.Comments = true, append(d.Comments, draft)
		}
	}
	return d, err
}
