package reviewer

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"nofx.dev/shared/review"
)

// CodeHost is one pull request of a forge, read and written as one account of ours. Its
// errors are faults: RateLimited with the wait where the forge says one, Unavailable when
// an answer was lost (what was asked for may have been done), Forbidden, NotFound, Invalid
// when the forge refuses what it was given, and Conflict with one of the codes below.
type CodeHost interface {
	Capabilities() Capabilities
	// Account names our account, as the forge does when it tells who did something.
	Account() string

	Change(ctx context.Context) (PullRequest, error)
	Files(ctx context.Context) ([]ChangedFile, error)
	// Diff returns the unified diff, or an error with CodeTooLarge: then Files has the
	// patches, but for those of binary and huge files.
	Diff(ctx context.Context) (string, error)
	// File returns a file as it is at a commit.
	File(ctx context.Context, path, commit string) ([]byte, error)
	// Threads returns the discussions on files and lines. Drafts of ours may be among them.
	Threads(ctx context.Context) ([]Thread, error)
	// Summaries returns what our account has published about the change as a whole.
	Summaries(ctx context.Context) ([]Remark, error)
	// Drafts returns what our account has written and not published.
	Drafts(ctx context.Context) (Drafts, error)

	// Begin opens a draft at a commit, where drafts are opened at all. An open one is a
	// Conflict with CodePending.
	Begin(ctx context.Context, commit string) error
	// Add adds a comment to the draft; Invalid: the forge does not take it at that place.
	// A draft that is not open is a Conflict with CodeNotPending.
	Add(ctx context.Context, c Comment) error
	// Submit publishes the draft with its summary; Conflict with CodeNotPending as above.
	Submit(ctx context.Context, summary string, requestChanges bool) error
	// Discard deletes the draft, if there is one.
	Discard(ctx context.Context) error
	// PostAtOnce publishes comments and summary without a draft, or fails as a whole. Where
	// it cannot, it leaves out what the forge refuses and publishes the summary last, so that
	// what is absent can be added.
	PostAtOnce(ctx context.Context, r AtOnce) error

	// Reply answers in a thread, in a comment of its own.
	Reply(ctx context.Context, t Thread, body string) error
	Resolve(ctx context.Context, t Thread) error
	SetStatus(ctx context.Context, commit string, s Status) error
	// RequestChanges asks for changes as our account, or takes that back. It does nothing
	// where that is done already, and on a pull request of our own.
	RequestChanges(ctx context.Context, wanted bool) error
	// Report sets the report of a commit beside its pull request, in place of an earlier one.
	Report(ctx context.Context, commit string, s Status, r Report) error
}

// Codes of a Conflict, and of an Invalid diff.
const (
	CodePending    = "pending-review"
	CodeNotPending = "not-pending"
	CodeTooLarge   = "diff-too-large"
)

// Capabilities are where forges differ.
type Capabilities struct {
	Ranges         bool // a comment may be about several lines
	Discard        bool // a draft can be deleted; else what is left of one is used again
	DirectIfMixed  bool // beside foreign drafts, comments are published without one
	FilesAtOnce    bool // PostAtOnce takes comments of files
	Reply          bool
	FileAt         bool // File works
	RequestChanges bool // Submit and PostAtOnce take it
	ChangesApart   bool // RequestChanges works
	Report         bool // Report works
	MaxBody        int  // runes of one text
	MaxComments    int  // of one review
}

// PullRequest is a change as its forge has it.
type PullRequest struct {
	Number  int    `json:"number"`
	Title   string `json:"title"`
	Body    string `json:"body"`
	Author  string `json:"author"`
	URL     string `json:"url"`
	State   string `json:"state"` // open, closed or merged
	Draft   bool   `json:"draft"`
	Own     bool   `json:"own"` // its author is our account, which cannot request changes of itself
	BaseSHA string `json:"base_sha"`
	HeadSHA string `json:"head_sha"`
}

// ChangedFile is a file of a change as its forge lists it.
type ChangedFile struct {
	Path    string `json:"path"`
	OldPath string `json:"old_path,omitempty"` // of a rename
	Status  string `json:"status"`             // added, modified, removed, renamed
	Added   int    `json:"added"`
	Deleted int    `json:"deleted"`
	Patch   string `json:"patch,omitempty"` // hunks without a file header; not of binary and huge files
}

// Unified returns the changes of a file as a part of a unified diff.
func (f ChangedFile) Unified() string {
	from, before, after := f.Path, "a/"+f.Path, "b/"+f.Path
	if f.OldPath != "" {
		from, before = f.OldPath, "a/"+f.OldPath
	}
	var head strings.Builder
	fmt.Fprintf(&head, "diff --git %s %s\n", quoted("a/"+from), quoted("b/"+f.Path))
	switch f.Status {
	case "added":
		head.WriteString("new file mode 100644\n")
		before = "/dev/null"
	case "removed":
		head.WriteString("deleted file mode 100644\n")
		after = "/dev/null"
	case "renamed":
		fmt.Fprintf(&head, "rename from %s\nrename to %s\n", quoted(from), quoted(f.Path))
	}
	fmt.Fprintf(&head, "--- %s\n+++ %s\n%s", quoted(before), quoted(after), f.Patch)
	if !strings.HasSuffix(f.Patch, "\n") {
		head.WriteString("\n")
	}
	return head.String()
}

// quoted returns a path as git writes it.
func quoted(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r == 0x7f }) {
		return strconv.Quote(path)
	}
	return path
}

// Thread is a discussion about a file or some of its lines, the first remark first.
type Thread struct {
	ID        string
	Path      string
	Line      int         // 0: of the file, or not known
	StartLine int         // 0: one line, or not known
	Side      review.Side // "": not known
	Resolved  bool
	Outdated  bool // its lines have changed since
	Remarks   []Remark
}

// Remark is one text on a forge.
type Remark struct {
	ID   string
	Body string // may have come through an escape of HTML
	URL  string
	Ours bool // by our account
}

// Drafts are texts of our account that nobody else sees yet.
type Drafts struct {
	Open     bool // a draft review is open, even if it is empty
	Comments []Comment
}

// AtOnce is a review that is published in one go.
type AtOnce struct {
	Commit         string
	Summary        string
	RequestChanges bool
	Comments       []Comment
}

// SameCommit reports whether two names of a commit mean the same; some forges shorten them.
func SameCommit(a, b string) bool {
	const short = 12
	if len(a) > len(b) {
		a, b = b, a
	}
	return a == b || len(a) >= short && b[:len(a)] == a
}
