package reviewer

import "nofx.dev/shared/review"

// Plan is what a review posts on a forge: the exact texts, decided and stored before the
// first call (REVIEW.md §7.3).
type Plan struct {
	ReviewID       string       `json:"review_id"` // public form
	HeadSHA        string       `json:"head_sha"`
	RequestChanges bool         `json:"request_changes"` // else the review is a comment
	TakeBack       bool         `json:"take_back"`       // what an earlier review has requested
	Summary        string       `json:"summary"`
	Comments       []Comment    `json:"comments"`
	Resolutions    []Resolution `json:"resolutions"`
	Status         Status       `json:"status"`
	Report         *Report      `json:"report,omitempty"` // where the forge takes one
}

// Comment is a line comment, or one of a whole file.
type Comment struct {
	Fingerprint string      `json:"fingerprint"` // of the finding
	Path        string      `json:"path"`
	Side        review.Side `json:"side,omitempty"`
	StartLine   int         `json:"start_line,omitempty"` // 0: one line only
	Line        int         `json:"line,omitempty"`       // 0: of the file
	Body        string      `json:"body"`
}

// Resolution ends a thread of an earlier review whose finding is fixed.
type Resolution struct {
	Fingerprint string `json:"fingerprint"`
	ThreadID    string `json:"thread_id"`
	CommentID   string `json:"comment_id,omitempty"`
	Reply       string `json:"reply"` // names the commit that fixed it
}

// Status is the commit status nofx/llm-review, which blocks a merge on the forge.
type Status struct {
	State       string `json:"state"` // success, failure, error or pending
	Description string `json:"description"`
	URL         string `json:"url,omitempty"`
}

// Report is what a forge shows of a commit beside the conversation.
type Report struct {
	Title       string       `json:"title"`
	Details     string       `json:"details"`
	Rows        []Row        `json:"rows"`
	Annotations []Annotation `json:"annotations"`
}

// Row is a number with its name.
type Row struct {
	Title string `json:"title"`
	Value int    `json:"value"`
}

// Annotation is an open finding of a report.
type Annotation struct {
	Fingerprint string          `json:"fingerprint"`
	Path        string          `json:"path"`
	Line        int             `json:"line,omitempty"` // at the head; 0: of the file
	Category    review.Category `json:"category"`
	Severity    review.Severity `json:"severity"`
	Title       string          `json:"title"`
	Body        string          `json:"body"`
}
