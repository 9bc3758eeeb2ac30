package codehosttest

import (
	"crypto/sha1" // git's own name of a blob
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

// Token is the credential of our account.
var Token = "ghs_" + strings.Repeat("canary", 6)

// API returns the address of GitHub's API over this forge, as of an enterprise server.
func (f *Forge) API() string {
	return f.serve(f.handler()) + "/api/v3"
}

// serve serves a handler until the end of the test, and returns the address.
func (f *Forge) serve(h http.Handler) string {
	s := httptest.NewServer(h)
	f.tb.Cleanup(func() {
		f.end()
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

func (f *Forge) handler() http.Handler {
	const repo = "/api/v3/repos/" + Repository
	pull := fmt.Sprintf("%s/pulls/%d", repo, Number)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/graphql", f.serveGraphQL)
	mux.HandleFunc("GET "+pull, f.servePull)
	mux.HandleFunc("GET "+pull+"/files", f.serveFiles)
	mux.HandleFunc("GET "+pull+"/reviews", f.serveReviews)
	mux.HandleFunc("POST "+pull+"/reviews", f.serveReview)
	mux.HandleFunc("GET "+pull+"/reviews/{id}/comments", f.serveReviewComments)
	mux.HandleFunc("DELETE "+pull+"/reviews/{id}", f.serveDiscard)
	mux.HandleFunc("POST "+pull+"/comments", f.serveReply)
	mux.HandleFunc("GET "+pull+"/comments", f.serveComments)
	mux.HandleFunc("POST "+repo+"/statuses/{sha}", f.serveStatus)
	mux.HandleFunc("GET "+repo+"/contents/{path...}", f.serveContents)
	mux.HandleFunc("GET "+repo+"/git/trees/{sha}", f.serveTree)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+Token {
			refuse(http.StatusUnauthorized, "Bad credentials").write(w)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

// write answers with the refusal. A lost answer is that of a proxy.
func (r *Refusal) write(w http.ResponseWriter) {
	if r.Silent {
		<-r.done
		panic(http.ErrAbortHandler)
	}
	for name, values := range r.Header {
		w.Header()[name] = values
	}
	answer := object{"message": r.Message}
	if strings.Contains(r.Message, "rate limit") {
		answer["documentation_url"] = "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"
	}
	writeJSON(w, r.Status, answer)
}

// answer runs an operation and answers.
func (f *Forge) answer(w http.ResponseWriter, op string, status int, effect func() (any, *Refusal)) {
	var got any
	no := f.do(op, func() (no *Refusal) {
		got, no = effect()
		return no
	})
	if no != nil {
		no.write(w)
		return
	}
	writeJSON(w, status, got)
}

func (f *Forge) servePull(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "diff") {
		var text string
		if no := f.do("diff", func() *Refusal { text = f.diff(); return nil }); no != nil {
			no.write(w)
			return
		}
		_, _ = w.Write([]byte(text)) // the client is gone
		return
	}
	f.answer(w, "get", http.StatusOK, func() (any, *Refusal) { return f.pull(), nil })
}

func (f *Forge) diff() string {
	if f.head == f.repo.next {
		return f.repo.nextDiff
	}
	return f.repo.diff
}

// Texts of the pull request.
const (
	Title = "Add <b>lines</b> & more"
	Body  = "Why: a < b && c <!-- hidden -->"
)

func (f *Forge) pull() object {
	return object{
		"number": Number, "title": Title, "body": Body, "state": "open", "draft": false, "merged": false, "html_url": f.url(""),
		"user": object{"login": f.author},
		"head": object{"sha": f.head, "ref": "topic"}, "base": object{"sha": f.repo.base, "ref": "main"},
	}
}

// page returns the range of a page of n things.
func page(q url.Values, n int) (from, to int) {
	size, number := 30, 1
	if v, err := strconv.Atoi(q.Get("per_page")); err == nil {
		size = v
	}
	if v, err := strconv.Atoi(q.Get("page")); err == nil {
		number = v
	}
	from = min((number-1)*size, n)
	return from, min(from+size, n)
}

func (f *Forge) serveFiles(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "files", http.StatusOK, func() (any, *Refusal) {
		from, to := page(r.URL.Query(), len(f.repo.files))
		return f.changed()[from:to], nil
	})
}

func (f *Forge) changed() []object {
	all := []object{}
	for _, c := range f.repo.files {
		o := object{"filename": c.path, "status": c.status, "additions": c.added, "deletions": c.deleted, "changes": c.added + c.deleted}
		if c.patch != "" {
			o["patch"] = c.patch
		}
		if c.old != "" {
			o["previous_filename"] = c.old
		}
		all = append(all, o)
	}
	return all
}

func (f *Forge) reviewList() []object {
	all := []object{}
	for _, v := range f.reviews {
		if v.state == "PENDING" && v.author != Me {
			continue
		}
		all = append(all, object{"id": v.id, "state": v.state, "body": v.body, "html_url": f.url("#pullrequestreview-%d", v.id), "commit_id": v.commit, "user": object{"login": v.author}})
	}
	return all
}

func (f *Forge) serveReviews(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "reviews", http.StatusOK, func() (any, *Refusal) {
		all := f.reviewList()
		from, to := page(r.URL.Query(), len(all))
		return all[from:to], nil
	})
}

func (f *Forge) serveReviewComments(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "review comments", http.StatusOK, func() (any, *Refusal) {
		all := []object{}
		for _, t := range f.threads {
			if c := t.comments[0]; strconv.Itoa(c.review) == r.PathValue("id") {
				all = append(all, object{"id": c.id, "path": t.path, "body": c.body, "user": object{"login": c.author}})
			}
		}
		from, to := page(r.URL.Query(), len(all))
		return all[from:to], nil
	})
}

// serveComments lists what is submitted.
func (f *Forge) serveComments(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "comments", http.StatusOK, func() (any, *Refusal) {
		all := []object{}
		for _, t := range f.threads {
			if v := f.review(t.comments[0].review); v == nil || v.state == "PENDING" {
				continue
			}
			o := object{"id": t.comments[0].id, "path": t.path, "line": nil, "side": t.side, "start_line": nil, "user": object{"login": t.comments[0].author}}
			if f.swap {
				o["side"] = map[string]string{"LEFT": "RIGHT", "RIGHT": "LEFT"}[t.side]
			}
			if t.line > 0 {
				o["line"] = t.line
			}
			if t.start > 0 {
				o["start_line"] = t.start
			}
			all = append(all, o)
		}
		from, to := page(r.URL.Query(), len(all))
		return all[from:to], nil
	})
}

// serveReview makes a review in one go: all of its comments are taken, or nothing is.
func (f *Forge) serveReview(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Commit   string `json:"commit_id"`
		Event    string `json:"event"`
		Body     string `json:"body"`
		Comments []struct {
			Path      string      `json:"path"`
			Body      string      `json:"body"`
			Line      int         `json:"line"`
			Side      review.Side `json:"side"`
			StartLine int         `json:"start_line"`
			StartSide string      `json:"start_side"`
		} `json:"comments"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(http.StatusBadRequest, "Problems parsing JSON").write(w)
		return
	}
	f.answer(w, "at once", http.StatusOK, func() (any, *Refusal) {
		v, no := f.create(Me, in.Commit)
		if no != nil {
			return nil, no
		}
		for _, c := range in.Comments {
			if c.Line == 0 || f.add(v, reviewer.Comment{Path: c.Path, Body: c.Body, Line: c.Line, Side: c.Side, StartLine: c.StartLine}, c.StartSide) == nil {
				f.discard(v)
				return nil, refuse(http.StatusUnprocessableEntity, "Unprocessable Entity: line must be part of the diff")
			}
		}
		if no := f.submit(v, in.Event, in.Body); no != nil {
			f.discard(v)
			return nil, no
		}
		return object{"id": v.id}, nil
	})
}

func (f *Forge) serveDiscard(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "delete by REST", http.StatusOK, func() (any, *Refusal) {
		id, _ := strconv.Atoi(r.PathValue("id"))
		return object{"id": id}, f.discard(f.review(id))
	})
}

func (f *Forge) serveReply(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Body string `json:"body"`
		To   int    `json:"in_reply_to"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(http.StatusBadRequest, "Problems parsing JSON").write(w)
		return
	}
	f.answer(w, "reply", http.StatusCreated, func() (any, *Refusal) { return f.reply(in.To, in.Body) })
}

func (f *Forge) reply(to int, body string) (any, *Refusal) {
	t := f.threadOf(to)
	if t == nil || body == "" {
		return nil, refuse(http.StatusNotFound, "Not Found")
	}
	c := &remark{id: f.id(), author: Me, body: body}
	t.comments = append(t.comments, c)
	return object{"id": c.id, "html_url": f.url("#discussion_r%d", c.id)}, nil
}

func (f *Forge) serveStatus(w http.ResponseWriter, r *http.Request) {
	var in struct {
		State       string `json:"state"`
		Context     string `json:"context"`
		Description string `json:"description"`
		URL         string `json:"target_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(http.StatusBadRequest, "Problems parsing JSON").write(w)
		return
	}
	f.answer(w, "status", http.StatusCreated, func() (any, *Refusal) {
		known := map[string]bool{"success": true, "failure": true, "error": true, "pending": true}
		if sha := r.PathValue("sha"); !known[in.State] || in.Context != "nofx/llm-review" || len([]rune(in.Description)) > 140 || sha != f.repo.head && sha != f.repo.next {
			return nil, refuse(http.StatusUnprocessableEntity, "Validation Failed")
		}
		f.statuses = append(f.statuses, reviewer.Status{State: in.State, Description: in.Description, URL: in.URL})
		return object{"id": f.id(), "state": in.State}, nil
	})
}

func blobSHA(content []byte) string {
	sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...)) // as above
	return hex.EncodeToString(sum[:])
}

func (f *Forge) serveContents(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "file", http.StatusOK, func() (any, *Refusal) {
		path := r.PathValue("path")
		content, there := f.repo.content[r.URL.Query().Get("ref")][path]
		if !there {
			return nil, refuse(http.StatusNotFound, "Not Found")
		}
		name := path[strings.LastIndex(path, "/")+1:]
		return object{"type": "file", "encoding": "base64", "name": name, "path": path, "size": len(content), "sha": blobSHA(content), "content": base64.StdEncoding.EncodeToString(content)}, nil
	})
}

func (f *Forge) serveTree(w http.ResponseWriter, r *http.Request) {
	f.answer(w, "tree", http.StatusOK, func() (any, *Refusal) {
		entries := []object{}
		for path, content := range f.repo.content[r.PathValue("sha")] {
			entries = append(entries, object{"path": path, "type": "blob", "mode": "100644", "sha": blobSHA(content)})
		}
		return object{"sha": r.PathValue("sha"), "tree": entries, "truncated": false}, nil
	})
}
