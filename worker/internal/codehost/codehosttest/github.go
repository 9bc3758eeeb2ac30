package codehosttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// file is the answer of get_file_contents.
type file struct {
	path    string
	content []byte
}

// result gives an answer the form of the generation.
func (d *Double) result(got any) *mcp.CallToolResult {
	old := d.Profile == GitHub110
	text := func(s string) []mcp.Content { return []mcp.Content{&mcp.TextContent{Text: s}} }
	encoded := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	switch got := got.(type) {
	case file:
		resource := &mcp.ResourceContents{URI: "repo://" + Repository + "/contents/" + got.path}
		if utf8.Valid(got.content) && !bytes.Contains(got.content, []byte{0}) {
			resource.MIMEType, resource.Text = "text/plain; charset=utf-8", string(got.content)
		} else {
			resource.MIMEType, resource.Blob = "application/octet-stream", got.content
		}
		r := &mcp.CallToolResult{Content: append(text("successfully downloaded text file"), &mcp.EmbeddedResource{Resource: resource})}
		if !old {
			r.StructuredContent = object{"content": r.Content}
		}
		return r
	case string: // a sentence, or the diff
		if old {
			return &mcp.CallToolResult{Content: text(got)}
		}
		name := "message"
		if strings.HasPrefix(got, "diff ") {
			name = "diff"
		}
		return &mcp.CallToolResult{Content: text(encoded(object{name: got})), StructuredContent: object{name: got}}
	}
	r := &mcp.CallToolResult{Content: text(encoded(got))}
	if !old {
		r.StructuredContent = got
	}
	return r
}

var htmlComment = regexp.MustCompile(`(?s)<!--.*?-->`)

// read gives a text the form in which the generation shows it.
func (d *Double) read(s string) string {
	if d.Profile == GitHub110 {
		return html.EscapeString(htmlComment.ReplaceAllString(s, ""))
	}
	return s
}

// run runs a tool on the forge.
func (d *Double) run(tool string, args map[string]any) (got any, no *Refusal) {
	f := d.Forge
	text := func(name string) string { s, _ := args[name].(string); return s }
	num := func(name string) int { n, _ := args[name].(float64); return int(n) }
	if at := text("owner") + "/" + text("repo"); at != Repository || tool != "get_file_contents" && num("pullNumber") != Number {
		return nil, refuse(http.StatusNotFound, "Not Found")
	}
	do := func(op string, effect func() (any, *Refusal)) {
		no = f.do(op, func() (no *Refusal) {
			got, no = effect()
			return no
		})
	}
	switch tool + " " + text("method") {
	case "pull_request_read get":
		do("get", func() (any, *Refusal) {
			pr := f.pull()
			pr["title"], pr["body"] = d.read(Title), d.read(Body)
			return pr, nil
		})
	case "pull_request_read get_diff":
		do("diff", func() (any, *Refusal) { return f.diff(), nil })
	case "pull_request_read get_files":
		do("files", func() (any, *Refusal) { return paged(f.changed(), num("page"), num("perPage")), nil })
	case "pull_request_read get_reviews":
		do("reviews", func() (any, *Refusal) {
			all := f.reviewList()
			for _, r := range all {
				r["body"] = d.read(r["body"].(string))
			}
			return paged(all, num("page"), num("perPage")), nil
		})
	case "pull_request_read get_review_comments":
		do("threads", func() (any, *Refusal) { return d.threads(num("perPage"), text("after")), nil })
	case "get_file_contents ":
		do("file", func() (any, *Refusal) {
			at := f.repo.content[text("sha")]
			if content, there := at[text("path")]; there {
				return file{text("path"), content}, nil
			}
			for path := range at { // as the servers do
				if strings.HasSuffix(path, text("path")) {
					return "Resolved potential matches in the repository tree (matching files: " + path + ").", nil
				}
			}
			return nil, refuse(http.StatusNotFound, "The path does not point to a file or directory")
		})
	case "pull_request_review_write create":
		do("create", func() (any, *Refusal) {
			_, no := f.create(Me, text("commitID"))
			return "pending pull request created", no
		})
	case "pull_request_review_write submit_pending":
		do("submit", func() (any, *Refusal) {
			r, no := d.pending()
			if no == nil {
				no = f.submit(r, text("event"), text("body"))
			}
			return "pending pull request review successfully submitted", no
		})
	case "pull_request_review_write delete_pending":
		do("delete", func() (any, *Refusal) {
			r, no := d.pending()
			if no == nil {
				no = f.discard(r)
			}
			return "pending pull request review successfully deleted", no
		})
	case "pull_request_review_write resolve_thread":
		do("resolve", func() (any, *Refusal) {
			for _, t := range f.threads {
				if t.id == text("threadId") {
					t.resolved = true
					return "review thread resolved successfully", nil
				}
			}
			return nil, refuse(http.StatusNotFound, "Could not resolve to a node with the global id")
		})
	case "add_comment_to_pending_review ":
		do("add", func() (any, *Refusal) {
			r, no := d.pending()
			if no != nil {
				return nil, no
			}
			c := reviewer.Comment{Path: text("path"), Body: text("body"), Side: review.Side(text("side")), Line: num("line"), StartLine: num("startLine")}
			if f.add(r, c, text("startSide")) == nil {
				return nil, refuse(http.StatusUnprocessableEntity, "Failed to add comment to pending review. Possible reasons:\n\t- The line number doesn't exist in the pull request diff")
			}
			return "pull request review comment successfully added to pending review", nil
		})
	case "add_reply_to_pull_request_comment ":
		do("reply", func() (any, *Refusal) {
			got, no := f.reply(num("commentId"), text("body"))
			if no != nil {
				return nil, no
			}
			return object{"id": fmt.Sprint(got.(object)["id"]), "html_url": got.(object)["html_url"]}, nil
		})
	default:
		f.tb.Errorf("%s is called with %v", tool, args)
		no = refuse(http.StatusBadRequest, "unknown method")
	}
	return got, no
}

// pending returns the review that the server takes for the pending one: before 2.0 it is
// the account's first.
func (d *Double) pending() (*reviewed, *Refusal) {
	f := d.Forge
	if d.Profile == GitHub110 {
		for _, r := range f.reviews {
			if r.author == Me {
				if r.state != "PENDING" {
					return nil, refuse(http.StatusUnprocessableEntity, "The latest review, found at %s is not pending", f.url(""))
				}
				return r, nil
			}
		}
	}
	if r := f.pending(Me); r != nil {
		return r, nil
	}
	return nil, refuse(http.StatusUnprocessableEntity, "No pending review found for the viewer")
}

func paged(all []object, page, size int) []object {
	from := min((page-1)*size, len(all))
	return all[from:min(from+size, len(all))]
}

// threads returns a page of threads in the words of the servers.
func (d *Double) threads(size int, after string) object {
	p := d.Forge.threadPage(size, after)
	all := []object{}
	for _, t := range p["nodes"].([]object) {
		comments := []object{}
		for _, c := range t["comments"].(object)["nodes"].([]object) {
			o := object{"body": d.read(c["body"].(string)), "path": c["path"], "author": c["author"].(object)["login"], "html_url": c["url"]}
			names := map[string]string{"line": "line", "start_line": "startLine", "original_line": "originalLine", "original_start_line": "originalStartLine"}
			for name, of := range names {
				if v := c[of]; v != nil && (name == "line" || d.Profile != GitHub110) {
					o[name] = v
				}
			}
			comments = append(comments, o)
		}
		all = append(all, object{"id": t["id"], "is_resolved": t["isResolved"], "is_outdated": t["isOutdated"], "is_collapsed": t["isCollapsed"], "comments": comments, "total_count": len(comments)})
	}
	return object{"review_threads": all, "totalCount": p["totalCount"], "pageInfo": p["pageInfo"]}
}
