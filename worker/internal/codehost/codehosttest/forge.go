package codehosttest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"nofx.dev/worker/internal/reviewer"
)

// The one pull request of a forge, and the accounts.
const (
	Repository = "octo/demo"
	Number     = 7
	Me         = "nofx-bot" // whose credential Token is
	Somebody   = "mallory"
)

// Refusal is how a forge fails an operation.
type Refusal struct {
	Status  int // of HTTP
	Message string
	Header  http.Header
	// Done: the operation has its effect, and only the answer is lost.
	Done bool
	// Silent: there is never an answer.
	Silent bool

	done <-chan struct{} // of the forge, until which there is silence
}

// Forge is the state of a pull request.
type Forge struct {
	mu   sync.Mutex
	repo *repository
	tb   testing.TB
	done chan struct{} // closed at the end of the test
	end  func()

	author   string // of the pull request
	head     string
	lines    map[string]commentable
	threads  []*thread
	reviews  []*reviewed
	statuses []reviewer.Status
	ids      int

	ops  []string // asked for, in order
	fail func(op string) *Refusal
	lose func(c reviewer.Comment) bool
	swap bool
}

type reviewed struct {
	id           int
	author, body string
	state        string // PENDING, COMMENTED, CHANGES_REQUESTED
	commit       string
}

type thread struct {
	id       string
	path     string
	line     int
	start    int
	side     string
	resolved bool
	outdated bool
	comments []*remark
}

type remark struct {
	id           int
	review       int
	author, body string
}

// NewForge returns a forge whose pull request has no reviews.
func NewForge(tb testing.TB) *Forge {
	r := theRepository()
	done := make(chan struct{})
	return &Forge{tb: tb, repo: r, author: Somebody, head: r.head, lines: r.lines, ids: 1000, done: done, end: sync.OnceFunc(func() { close(done) })}
}

// Head returns the first head of the pull request.
func (f *Forge) Head() string { return f.repo.head }

// Next returns the head that MoveHead moves the pull request to.
func (f *Forge) Next() string { return f.repo.next }

// Base returns the base of the pull request.
func (f *Forge) Base() string { return f.repo.base }

// SetPolicy gives the base another policy, or with "" none. The head keeps its own.
func (f *Forge) SetPolicy(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := *f.repo // which others share
	r.content = maps.Clone(r.content)
	r.content[r.base] = maps.Clone(r.content[r.base])
	if delete(r.content[r.base], Policy); text != "" {
		r.content[r.base][Policy] = []byte(text)
	}
	f.repo = &r
}

// GitDiff returns the diff as git writes it.
func (f *Forge) GitDiff() string { return f.repo.diff }

// Fail sets what fails operations: nil is none.
func (f *Forge) Fail(fail func(op string) *Refusal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Lose sets which comments are taken wherever they are, and dropped when the review is
// submitted.
func (f *Forge) Lose(lose func(c reviewer.Comment) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = lose
}

// SwapSides makes the forge have comments on the wrong side.
func (f *Forge) SwapSides() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.swap = true
}

// Ops returns the operations so far.
func (f *Forge) Ops() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// SetAuthor makes the pull request one of an account.
func (f *Forge) SetAuthor(account string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.author = account
}

// MoveHead pushes a commit. It may be called from within a Fail function.
func (f *Forge) MoveHead() {
	f.head, f.lines = f.repo.next, f.repo.nextLines
}

// do runs one operation.
func (f *Forge) do(op string, effect func() *Refusal) *Refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op)
	var r *Refusal
	if f.fail != nil {
		r = f.fail(op)
	}
	if r != nil && r.Silent {
		r.done = f.done
	}
	if r != nil && !r.Done {
		return r
	}
	if no := effect(); no != nil {
		return no
	}
	return r
}

func (f *Forge) id() int {
	f.ids++
	return f.ids
}

func refuse(status int, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Message: fmt.Sprintf(format, args...)}
}

// review returns the review with an id that an account may change.
func (f *Forge) review(id int) *reviewed {
	for _, r := range f.reviews {
		if r.id == id {
			return r
		}
	}
	return nil
}

func (f *Forge) pending(account string) *reviewed {
	for _, r := range f.reviews {
		if r.author == account && r.state == "PENDING" {
			return r
		}
	}
	return nil
}

func (f *Forge) create(account, commit string) (*reviewed, *Refusal) {
	if f.pending(account) != nil {
		return nil, refuse(422, "User can only have one pending review per pull request")
	}
	if commit != f.repo.head && commit != f.repo.next {
		return nil, refuse(422, "The commit %s is not part of the pull request", commit)
	}
	r := &reviewed{id: f.id(), author: account, state: "PENDING", commit: commit}
	f.reviews = append(f.reviews, r)
	return r, nil
}

// add adds a thread to a pending review. A place that is not in the diff is none.
func (f *Forge) add(r *reviewed, c reviewer.Comment, startSide string) *thread {
	lost := f.lose != nil && f.lose(c)
	if !lost && !f.inDiff(c, startSide) || len([]rune(c.Body)) > 65536 || c.Body == "" {
		return nil
	}
	t := &thread{id: fmt.Sprintf("PRRT_%d", f.id()), path: c.Path, line: c.Line, start: c.StartLine, side: string(c.Side)}
	t.comments = []*remark{{id: f.id(), review: r.id, author: r.author, body: c.Body}}
	f.threads = append(f.threads, t)
	return t
}

// inDiff reports whether a forge takes a comment: all its lines are in one hunk of its side.
func (f *Forge) inDiff(c reviewer.Comment, startSide string) bool {
	lines, known := f.lines[c.Path]
	if c.Line == 0 {
		return known && c.StartLine == 0 && c.Side == ""
	}
	hunk, shown := lines[string(c.Side)][c.Line]
	if !known || !shown {
		return false
	}
	if c.StartLine == 0 {
		return startSide == ""
	}
	if c.StartLine >= c.Line || startSide != string(c.Side) {
		return false
	}
	for n := c.StartLine; n < c.Line; n++ {
		if lines[startSide][n] != hunk {
			return false
		}
	}
	return true
}

func (f *Forge) submit(r *reviewed, event, body string) *Refusal {
	states := map[string]string{"COMMENT": "COMMENTED", "REQUEST_CHANGES": "CHANGES_REQUESTED"}
	if r == nil || r.state != "PENDING" {
		return refuse(422, "The review is not in the pending state")
	}
	if event == "REQUEST_CHANGES" && f.author == r.author {
		return refuse(422, "Review Can not request changes on your own pull request")
	}
	if states[event] == "" {
		f.tb.Errorf("a review is submitted with event %q", event)
		return refuse(422, "Event %s is invalid", event)
	}
	if len([]rune(body)) > 65536 {
		return refuse(422, "Body is too long (maximum is 65536 characters)")
	}
	r.state, r.body = states[event], body
	if f.lose != nil {
		f.threads = slices.DeleteFunc(f.threads, func(t *thread) bool {
			return t.comments[0].review == r.id && f.lose(t.comment())
		})
	}
	return nil
}

func (t *thread) comment() reviewer.Comment {
	return reviewer.Comment{Path: t.path, Line: t.line, StartLine: t.start, Body: t.comments[0].body}
}

func (f *Forge) discard(r *reviewed) *Refusal {
	if r == nil || r.state != "PENDING" {
		return refuse(422, "The review is not in the pending state")
	}
	f.reviews = slices.DeleteFunc(f.reviews, func(at *reviewed) bool { return at.id == r.id })
	f.threads = slices.DeleteFunc(f.threads, func(t *thread) bool { return t.comments[0].review == r.id })
	return nil
}

// threadOf returns the thread of a comment.
func (f *Forge) threadOf(comment int) *thread {
	for _, t := range f.threads {
		if t.comments[0].id == comment {
			return t
		}
	}
	return nil
}

func (f *Forge) url(format string, args ...any) string {
	return fmt.Sprintf("https://forge.example/%s/pull/%d", Repository, Number) + fmt.Sprintf(format, args...)
}

// AddThread adds a submitted thread of an account on line 5 of Main, and returns its id.
func (f *Forge) AddThread(account, body string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &reviewed{id: f.id(), author: account, state: "COMMENTED", commit: f.head}
	f.reviews = append(f.reviews, r)
	t := &thread{id: fmt.Sprintf("PRRT_%d", f.id()), path: Main, line: 11, side: "RIGHT", comments: []*remark{{id: f.id(), review: r.id, author: account, body: body}}}
	f.threads = append(f.threads, t)
	return t.id
}

// AddDraft opens a pending review of our account with comments on line 11 of Main.
func (f *Forge) AddDraft(bodies ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, _ := f.create(Me, f.head)
	for _, body := range bodies {
		f.add(r, reviewer.Comment{Path: Main, Line: 11, Side: "RIGHT", Body: body}, "")
	}
}

// State returns what everybody sees: "path:line side state by account" per thread, the
// states of reviews, the last status.
func (f *Forge) State() (threads, reviews []string, status string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.threads {
		where := t.path
		if t.line > 0 {
			where += fmt.Sprintf(":%d %s", t.line, t.side)
		}
		if t.start > 0 {
			where = fmt.Sprintf("%s:%d-%d %s", t.path, t.start, t.line, t.side)
		}
		if t.resolved {
			where += " resolved"
		}
		threads = append(threads, fmt.Sprintf("%s by %s, %d", where, t.comments[0].author, len(t.comments)))
	}
	for _, r := range f.reviews {
		reviews = append(reviews, r.state+" by "+r.author)
	}
	if n := len(f.statuses); n > 0 {
		status = f.statuses[n-1].State
	}
	return threads, reviews, status
}

// Bodies returns all texts of an account.
func (f *Forge) Bodies(account string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, r := range f.reviews {
		if r.author == account {
			b.WriteString(r.body + "\n")
		}
	}
	for _, t := range f.threads {
		for _, c := range t.comments {
			if c.author == account {
				b.WriteString(c.body + "\n")
			}
		}
	}
	return b.String()
}
