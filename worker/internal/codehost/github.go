package codehost

import (
	"context"
	"net/http"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// githubServer is github-mcp-server, 1.10 to 2.0. Its tools with pull_requests_granular and
// those of 2025 are others, and refused.
type githubServer struct{}

const (
	readTools  = "pull_request_read,get_file_contents"
	writeTools = "pull_request_review_write,add_comment_to_pending_review,add_reply_to_pull_request_comment"
)

// rules lists the acts of a session. None of them approves, and all of them are about one
// pull request; a thread to resolve is named by an id that was read from it.
func (githubServer) rules(c Config, write bool) []rule {
	owner, repo, _ := strings.Cut(c.Repository, "/")
	in := values{"owner": one(owner), "repo": one(repo)}
	of := in.with(values{"pullNumber": number(c.Number)})
	if !write {
		read := func(method string, may values) rule {
			return rule{"pull_request_read", of.with(values{"method": one(method)}), may}
		}
		paged := values{"page": positive, "perPage": positive}
		return []rule{
			read("get", nil), read("get_diff", nil), read("get_files", paged), read("get_reviews", paged),
			read("get_review_comments", values{"perPage": positive, "after": anyText}),
			{"get_file_contents", in.with(values{"path": filePath, "sha": commit}), nil},
		}
	}
	act := func(method string, must values) rule {
		return rule{"pull_request_review_write", of.with(values{"method": one(method)}).with(must), nil}
	}
	comment := of.with(values{"path": filePath, "body": anyText})
	side := one(string(review.Left), string(review.Right))
	return []rule{
		act("create", values{"commitID": commit}), // with event it would be submitted at once
		act("submit_pending", values{"event": one("COMMENT", "REQUEST_CHANGES"), "body": anyText}),
		act("delete_pending", nil),
		act("resolve_thread", values{"threadId": anyText}),
		{"add_comment_to_pending_review", comment.with(values{"subjectType": one("LINE"), "line": positive, "side": side}), values{"startLine": positive, "startSide": side}},
		{"add_comment_to_pending_review", comment.with(values{"subjectType": one("FILE")}), nil},
		{"add_reply_to_pull_request_comment", of.with(values{"commentId": positive8, "body": anyText}), nil},
	}
}

func (githubServer) header(c Config, write bool) http.Header {
	h := http.Header{"Authorization": {"Bearer " + c.Token}, "X-Mcp-Tools": {writeTools}}
	if !write {
		h.Set("X-Mcp-Tools", readTools)
		h.Set("X-Mcp-Readonly", "true")
	}
	return h
}

// command is for a server whose host is that of the API: none is named for github.com.
func (githubServer) command(c Config, dir string, write bool) (args, env []string) {
	args = []string{"stdio", "--tools", writeTools}
	if !write {
		args = []string{"stdio", "--read-only", "--tools", readTools}
	}
	env = []string{"GITHUB_PERSONAL_ACCESS_TOKEN=" + c.Token, "HOME=" + dir}
	api := strings.TrimSuffix(c.API, "/")
	if host, enterprise := strings.CutSuffix(api, "/api/v3"); enterprise {
		env = append(env, "GITHUB_HOST="+host)
	} else if host, at := strings.CutPrefix(api, "https://api."); at && strings.HasSuffix(host, ".ghe.com") {
		env = append(env, "GITHUB_HOST=https://"+host)
	}
	return args, env
}

func (githubServer) judge(text string) *fault.Error { return judge(text) }

// GitHub is a pull request on GitHub.
type GitHub struct {
	host

	account string
}

// OpenGitHub connects to the MCP server, and finds out which account the credential is of.
func OpenGitHub(ctx context.Context, c Config) (*GitHub, error) {
	if owner, repo, ok := strings.Cut(c.Repository, "/"); !ok || owner == "" || repo == "" || c.Number < 1 {
		return nil, fault.New(fault.Invalid, "bad-repository", "%q is not owner/name", c.Repository)
	}
	g := &GitHub{host: host{cfg: c, from: githubServer{}, rest: c.rest(http.Header{
		"Authorization": {"Bearer " + c.Token}, "Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"},
	})}, account: c.Account}
	if _, err := g.reader(ctx); err != nil {
		return nil, err
	}
	if g.account == "" {
		if err := g.whoAmI(ctx); err != nil {
			g.Close()
			return nil, err
		}
	}
	return g, nil
}

// Account returns the account that the credential is of.
func (g *GitHub) Account() string { return g.account }

// is reports whether a login of the REST API is our account.
func (g *GitHub) is(login string) bool { return strings.EqualFold(login, g.account) }

// looksOurs reports whether a login of the GraphQL API may be our account. There an app
// name[bot] is name, and so is a person of that name.
func (g *GitHub) looksOurs(login string) bool { return g.is(login) || g.is(login+"[bot]") }

// Capabilities returns what GitHub can do.
func (g *GitHub) Capabilities() reviewer.Capabilities {
	return reviewer.Capabilities{Ranges: true, Discard: true, Reply: true, FileAt: true, RequestChanges: true, MaxBody: 60000, MaxComments: 25}
}

// pull returns the arguments that every call about the pull request has, and more.
func (g *GitHub) pull(more map[string]any) map[string]any {
	owner, repo, _ := strings.Cut(g.cfg.Repository, "/")
	args := map[string]any{"owner": owner, "repo": repo, "pullNumber": g.cfg.Number}
	for name, v := range more {
		args[name] = v
	}
	return args
}
