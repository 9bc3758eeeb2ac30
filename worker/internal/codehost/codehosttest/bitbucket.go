package codehosttest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/reviewer"
)

// Bitbucket is the same pull request with Bitbucket's API.
type Bitbucket struct {
	*Forge

	comments  []*bitbucketComment
	requested bool // changes, by our account
	report    *CodeInsights
}

type bitbucketComment struct {
	id, parent        int
	author, body      string
	path              string // "": of the pull request
	to, from          int
	pending, resolved bool
}

// NewBitbucket returns a pull request without comments.
func NewBitbucket(f *Forge) *Bitbucket { return &Bitbucket{Forge: f} }

// UUID returns the id of an account.
func UUID(account string) string { return "{uuid-of-" + account + "}" }

// API returns the address of Bitbucket's API over this pull request.
func (b *Bitbucket) API() string {
	return b.serve(b.handler()) + "/2.0"
}

func (b *Bitbucket) handler() http.Handler {
	const repo = "/2.0/repositories/" + Repository
	pull := fmt.Sprintf("%s/pullrequests/%d", repo, Number)
	mux := http.NewServeMux()
	get := func(path, op string, effect func(r *http.Request) (any, *Refusal)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			b.answer(w, op, http.StatusOK, func() (any, *Refusal) { return effect(r) })
		})
	}
	get("GET /2.0/user", "user", func(*http.Request) (any, *Refusal) { return user(Me), nil })
	get("GET "+pull, "get", func(*http.Request) (any, *Refusal) { return b.pull(), nil })
	get("GET "+pull+"/diffstat", "files", func(r *http.Request) (any, *Refusal) { return b.diffstat(r), nil })
	get("GET "+pull+"/comments", "comments", func(r *http.Request) (any, *Refusal) { return b.list(r), nil })
	get("GET "+pull+"/comments/{id}", "comment", func(r *http.Request) (any, *Refusal) {
		c := b.comment(r.PathValue("id"))
		if c == nil {
			return nil, refuse(http.StatusNotFound, "Not Found")
		}
		return b.shown(c), nil
	})
	get("POST "+pull+"/comments", "add", b.addComment)
	get("PUT "+pull+"/comments/{id}", "publish", b.publish)
	get("POST "+pull+"/comments/{id}/resolve", "resolve", func(r *http.Request) (any, *Refusal) {
		c := b.comment(r.PathValue("id"))
		if c == nil || c.pending || c.resolved {
			return nil, refuse(http.StatusConflict, "it cannot be resolved")
		}
		c.resolved = true
		return object{"type": "pullrequest_comment_resolution"}, nil
	})
	get("POST "+repo+"/commit/{sha}/statuses/build", "status", b.setStatus)
	report := repo + "/commit/{sha}/reports/nofx-llm-review"
	get("PUT "+report, "report", b.setReport)
	get("POST "+report+"/annotations", "annotate", b.annotate)
	get("GET "+report+"/annotations", "annotations", b.annotations)
	get("DELETE "+report+"/annotations/{id}", "unannotate", func(r *http.Request) (any, *Refusal) {
		at := slices.IndexFunc(b.remarks(), func(a InsightRemark) bool { return a.ExternalID == r.PathValue("id") })
		if at < 0 {
			return nil, refuse(http.StatusNotFound, "Not Found")
		}
		b.report.Annotated = slices.Delete(b.report.Annotated, at, at+1)
		return nil, nil
	})
	get("POST "+pull+"/request-changes", "request changes", func(*http.Request) (any, *Refusal) {
		if b.requested || b.author == Me {
			return nil, refuse(http.StatusBadRequest, "changes cannot be requested")
		}
		b.requested = true
		return object{"type": "participant", "state": "changes_requested"}, nil
	})
	get("DELETE "+pull+"/request-changes", "take back", func(*http.Request) (any, *Refusal) {
		if !b.requested {
			return nil, refuse(http.StatusBadRequest, "changes were not requested")
		}
		b.requested = false
		return nil, nil
	})
	mux.HandleFunc("GET "+repo+"/diff/{spec...}", func(w http.ResponseWriter, _ *http.Request) {
		var text string
		if no := b.do("diff", func() *Refusal { text = b.diff(); return nil }); no != nil {
			no.write(w)
			return
		}
		_, _ = w.Write([]byte(text)) // the client is gone
	})
	mux.HandleFunc("GET "+repo+"/src/{commit}/{path...}", b.serveSource)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+Token {
			refuse(http.StatusUnauthorized, "Token is invalid").write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func user(account string) object {
	return object{"type": "user", "uuid": UUID(account), "account_id": "id:" + account, "nickname": account}
}

func (b *Bitbucket) pull() object {
	return object{
		"id": Number, "title": Title, "description": Body, "state": "OPEN", "draft": false, "author": user(b.author), "participants": b.participants(),
		"source": object{"commit": object{"hash": b.head[:12]}}, "destination": object{"commit": object{"hash": b.repo.base[:12]}},
		"links": object{"html": object{"href": b.url("")}},
	}
}

func (b *Bitbucket) participants() []object {
	all := []object{{"user": user(Somebody), "role": "REVIEWER", "approved": false, "state": "changes_requested"}}
	if b.requested {
		all = append(all, object{"user": user(Me), "role": "PARTICIPANT", "approved": false, "state": "changes_requested"})
	}
	return all
}

// strictly decodes a body that has the fields of into and no others.
func strictly(r *http.Request, into any) *Refusal {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return refuse(http.StatusBadRequest, "report-service.general.bad-request: %v", err)
	}
	return nil
}

// oneOf reports a value that is none of those known.
func oneOf(field, value string, known ...string) *Refusal {
	if !slices.Contains(known, value) {
		return refuse(http.StatusBadRequest, "The %s field cannot be %q.", field, value)
	}
	return nil
}

// upTo reports a text that is longer than n characters.
func upTo(n int, field, value string) *Refusal {
	if len([]rune(value)) > n {
		return refuse(http.StatusBadRequest, "The %s field cannot contain more than %d characters.", field, n)
	}
	return nil
}

// sized returns a page of things, with the address of the next.
func sized(r *http.Request, all []object) object {
	q := r.URL.Query()
	size, number := 10, 1
	if n, err := strconv.Atoi(q.Get("pagelen")); err == nil {
		size = n
	}
	if n, err := strconv.Atoi(q.Get("page")); err == nil {
		number = n
	}
	from := min((number-1)*size, len(all))
	to := min(from+size, len(all))
	got := object{"values": all[from:to], "page": number, "pagelen": size}
	if to < len(all) {
		next := *r.URL
		q.Set("page", strconv.Itoa(number+1))
		next.RawQuery, next.Scheme, next.Host = q.Encode(), "http", r.Host
		got["next"] = next.String()
	}
	return got
}

func (b *Bitbucket) diffstat(r *http.Request) any {
	all := []object{}
	for _, c := range b.repo.files {
		o := object{"status": c.status, "lines_added": c.added, "lines_removed": c.deleted, "old": object{"path": c.path}, "new": object{"path": c.path}}
		switch c.status {
		case "added":
			o["old"] = nil
		case "removed":
			o["new"] = nil
		case "renamed":
			o["old"] = object{"path": c.old}
		}
		all = append(all, o)
	}
	return sized(r, all)
}

// list shows drafts of our account alone.
func (b *Bitbucket) list(r *http.Request) any {
	all := []object{}
	for _, c := range b.comments {
		if !c.pending || c.author == Me {
			all = append(all, b.shown(c))
		}
	}
	return sized(r, all)
}

func (b *Bitbucket) shown(c *bitbucketComment) object {
	o := object{
		"id": c.id, "content": object{"raw": c.body, "html": ""}, "user": user(c.author), "deleted": false, "pending": c.pending,
		"links": object{"html": object{"href": b.url("/_/diff#comment-%d", c.id)}},
	}
	if c.path != "" {
		at := object{"path": c.path, "to": nil, "from": nil}
		if c.to > 0 {
			at["to"] = c.to
		}
		if c.from > 0 {
			at["from"] = c.from
		}
		o["inline"] = at
	}
	if c.parent > 0 {
		o["parent"] = object{"id": c.parent}
	}
	if c.resolved {
		o["resolution"] = object{"user": user(Me)}
	}
	return o
}

func (b *Bitbucket) comment(id string) *bitbucketComment {
	for _, c := range b.comments {
		if strconv.Itoa(c.id) == id {
			return c
		}
	}
	return nil
}

// written is a comment as clients write it.
type written struct {
	Content struct {
		Raw string `json:"raw"`
	} `json:"content"`
	Inline *struct {
		Path string `json:"path"`
		To   int    `json:"to"`
		From int    `json:"from"`
	} `json:"inline"`
	Pending bool `json:"pending"`
}

func (b *Bitbucket) addComment(r *http.Request) (any, *Refusal) {
	var in written
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Content.Raw == "" {
		return nil, refuse(http.StatusBadRequest, "content: required")
	}
	c := &bitbucketComment{id: b.id(), author: Me, body: in.Content.Raw, pending: in.Pending}
	if in.Inline != nil {
		c.path, c.to, c.from = in.Inline.Path, in.Inline.To, in.Inline.From
		at := reviewer.Comment{Path: c.path}
		switch {
		case c.to > 0:
			at.Line, at.Side = c.to, review.Right
		case c.from > 0:
			at.Line, at.Side = c.from, review.Left
		}
		if c.to > 0 && c.from > 0 || !b.inDiff(at, "") {
			return nil, refuse(http.StatusBadRequest, "inline: not in the diff")
		}
	}
	b.comments = append(b.comments, c)
	return b.shown(c), nil
}

// publish takes one draft and makes it public; nothing else may be changed by it.
func (b *Bitbucket) publish(r *http.Request) (any, *Refusal) {
	var in written
	c := b.comment(r.PathValue("id"))
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || c == nil || c.author != Me || in.Content.Raw != c.body {
		return nil, refuse(http.StatusBadRequest, "it cannot be published")
	}
	c.pending = in.Pending
	return b.shown(c), nil
}

func (b *Bitbucket) setStatus(r *http.Request) (any, *Refusal) {
	var in struct{ Key, State, Description, URL string }
	states := map[string]string{"SUCCESSFUL": "success", "FAILED": "failure", "INPROGRESS": "pending"}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Key != "nofx/llm-review" || states[in.State] == "" || in.URL == "" {
		return nil, refuse(http.StatusBadRequest, "the status is invalid")
	}
	b.statuses = append(b.statuses, reviewer.Status{State: states[in.State], Description: in.Description, URL: in.URL})
	return object{"key": in.Key}, nil
}

func (b *Bitbucket) serveSource(w http.ResponseWriter, r *http.Request) {
	var content []byte
	no := b.do("file", func() *Refusal {
		for commit, files := range b.repo.content {
			if got, there := files[r.PathValue("path")]; there && strings.HasPrefix(commit, r.PathValue("commit")) {
				content = got
				return nil
			}
		}
		return refuse(http.StatusNotFound, "No such file")
	})
	switch {
	case no != nil:
		no.write(w)
	case r.URL.Query().Get("format") == "meta":
		writeJSON(w, http.StatusOK, object{"type": "commit_file"})
	default:
		_, _ = w.Write(content) // the client is gone
	}
}

// AddComment adds a published comment of an account on line 11 of Main, or a draft of ours,
// and returns its id.
func (b *Bitbucket) AddComment(account, body string, pending bool) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &bitbucketComment{id: b.id(), author: account, body: body, path: Main, to: 11, pending: pending}
	b.comments = append(b.comments, c)
	return strconv.Itoa(c.id)
}

// State returns the comments as Forge.State does, drafts included, and the last status.
func (b *Bitbucket) State() (comments []string, status string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.comments {
		where := c.path
		switch {
		case c.path == "":
			where = "summary"
		case c.to > 0:
			where += fmt.Sprintf(":%d RIGHT", c.to)
		case c.from > 0:
			where += fmt.Sprintf(":%d LEFT", c.from)
		}
		if c.resolved {
			where += " resolved"
		}
		if c.pending {
			where += " draft"
		}
		comments = append(comments, where+" by "+c.author)
	}
	slices.Sort(comments)
	if n := len(b.statuses); n > 0 {
		status = b.statuses[n-1].State
	}
	return comments, status
}

// double is bitbucket-mcp 5.0.6 over the API, with its own errors and none of the forge's.
func (b *Bitbucket) double(api string) caller {
	client := egress.NewListedClient(nil)
	ask := func(ctx context.Context, method, path string, in any) (string, error) {
		var body io.Reader
		if in != nil {
			text, err := json.Marshal(in)
			if err != nil {
				return "", err
			}
			body = strings.NewReader(string(text))
		}
		r, err := http.NewRequestWithContext(ctx, method, api+path, body)
		if err != nil {
			return "", err
		}
		r.Header.Set("Authorization", "Bearer "+Token)
		resp, err := client.Do(r)
		if err != nil {
			return "", err
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode > 299 {
			err = fmt.Errorf("MCP error -32603: Failed to do this: Request failed with status code %d", resp.StatusCode)
		}
		return string(text), err
	}
	pull := fmt.Sprintf("/repositories/%s/pullrequests/%d", Repository, Number)
	comments := func(ctx context.Context) (all []map[string]any, err error) {
		for next := "?pagelen=100"; next != ""; {
			text, err := ask(ctx, http.MethodGet, pull+"/comments"+next, nil)
			if err != nil {
				return nil, err
			}
			var page struct {
				Values []map[string]any `json:"values"`
				Next   string           `json:"next"`
			}
			if err := json.Unmarshal([]byte(text), &page); err != nil {
				return nil, err
			}
			all = append(all, page.Values...)
			_, next, _ = strings.Cut(page.Next, "/comments")
		}
		return all, nil
	}
	run := func(ctx context.Context, tool string, args map[string]any) (string, error) {
		comment := func(pending bool) object {
			o := object{"content": object{"raw": args["content"]}}
			if args["inline"] != nil {
				o["inline"] = args["inline"]
			}
			if pending {
				o["pending"] = true
			}
			return o
		}
		encoded := func(v any, err error) (string, error) {
			text, bad := json.MarshalIndent(v, "", "  ")
			if err == nil {
				err = bad
			}
			return string(text), err
		}
		switch tool {
		case "getPullRequest":
			return ask(ctx, http.MethodGet, pull, nil)
		case "getPullRequestDiff":
			return ask(ctx, http.MethodGet, "/repositories/"+Repository+"/diff/x", nil)
		case "getPullRequestComments":
			return encoded(comments(ctx))
		case "addPendingPullRequestComment":
			return ask(ctx, http.MethodPost, pull+"/comments", comment(true))
		case "addPullRequestComment":
			return ask(ctx, http.MethodPost, pull+"/comments", comment(false))
		case "resolveComment":
			return ask(ctx, http.MethodPost, fmt.Sprintf("%s/comments/%v/resolve", pull, args["comment_id"]), nil)
		case "publishPendingComments":
			all, err := comments(ctx)
			if err != nil {
				return "", err
			}
			results := []object{}
			for _, c := range all {
				if c["pending"] != true {
					continue
				}
				o := object{"content": c["content"], "pending": false, "inline": c["inline"]}
				if _, err := ask(ctx, http.MethodPut, fmt.Sprintf("%s/comments/%.0f", pull, c["id"]), o); err != nil {
					results = append(results, object{"commentId": c["id"], "status": "error", "error": strings.TrimPrefix(err.Error(), "MCP error -32603: Failed to do this: ")})
					continue
				}
				results = append(results, object{"commentId": c["id"], "status": "published"})
			}
			if len(results) == 0 {
				return "No pending comments found to publish.", nil
			}
			return encoded(object{"results": results}, nil)
		}
		b.tb.Errorf("%s is called with %v", tool, args)
		return "", fmt.Errorf("unknown tool %s", tool)
	}
	return func(ctx context.Context, tool string, args map[string]any) (*mcp.CallToolResult, error) {
		text, err := run(ctx, tool, args)
		if err != nil {
			return nil, err
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil
	}
}

// Reset takes all comments and statuses away.
func (b *Bitbucket) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.comments, b.statuses, b.ops, b.fail, b.report, b.requested = nil, nil, nil, nil, nil, false
}
