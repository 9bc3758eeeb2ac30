package edit

import (
	"encoding/json"
	"fmt"

	"nofx.dev/worker/internal/llm"
)

// Limits of an answer and of what a model is shown.
const (
	MaxFiles      = 100       // changed by one answer
	MaxFileBytes  = 1 << 20   // of a file that is changed
	MaxShownBytes = 256 << 10 // of all files that are shown
	maxSummary    = 2000      // bytes
)

// The actions.
const (
	Write  = "write"  // a new file, or all of one that was shown
	Edit   = "edit"   // parts of a file that is there
	Delete = "delete" // a file that is there
)

// Answer is what a model wants changed.
type Answer struct {
	Summary string `json:"summary"` // one line, for people
	Files   []File `json:"files"`
}

// File is a change of one file.
type File struct {
	Path    string        `json:"path"`
	Action  string        `json:"action"`
	Content *string       `json:"content"` // of write, else null
	Edits   []Replacement `json:"edits"`   // of edit, in order, else null
}

// Replacement puts Replace in the place of Search, which occurs exactly once.
type Replacement struct {
	Search  string `json:"search"`
	Replace string `json:"replace"`
}

// Schema is that of an Answer.
var Schema = llm.MustSchema("file_edits", `{
  "type": "object",
  "additionalProperties": false,
  "required": ["summary", "files"],
  "properties": {
    "summary": {"type": "string", "description": "One line that says what was changed"},
    "files": {
      "type": "array",
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["path", "action", "content", "edits"],
        "properties": {
          "path": {"type": "string", "description": "Relative to the workspace, with slashes"},
          "action": {"type": "string", "enum": ["write", "edit", "delete"]},
          "content": {"type": ["string", "null"], "description": "write: the whole file. Else null"},
          "edits": {
            "type": ["array", "null"],
            "description": "edit: replacements, in order. Else null",
            "items": {
              "type": "object",
              "additionalProperties": false,
              "required": ["search", "replace"],
              "properties": {
                "search": {"type": "string", "description": "Text that occurs exactly once in the file, with its white space"},
                "replace": {"type": "string"}
              }
            }
          }
        }
      }
    }
  }
}`)

// Parse reads an answer strictly. What is wrong with it is an *Invalid.
func Parse(text string) (Answer, error) {
	if err := Schema.Check(text); err != nil {
		return Answer{}, &Invalid{[]string{err.Error()}}
	}
	var a Answer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return Answer{}, &Invalid{[]string{"cannot be read"}}
	}
	var wrong Invalid
	if len(a.Files) == 0 {
		wrong.add("files: it changes nothing")
	}
	if len(a.Files) > MaxFiles {
		wrong.add("files: %d files; at most %d", len(a.Files), MaxFiles)
	}
	if len(a.Summary) > maxSummary {
		wrong.add("summary: %d bytes; at most %d", len(a.Summary), maxSummary)
	}
	for i, f := range a.Files {
		if (f.Action == Write) != (f.Content != nil) || (f.Action == Edit) != (len(f.Edits) > 0) {
			wrong.add("files/%d: write has content, edit has edits, delete has neither; what it does not have is null", i)
		}
	}
	return a, wrong.err()
}

// Invalid is an answer that cannot be carried out, in the words for its author.
type Invalid struct{ Problems []string }

// maxProblems is how many are told.
const maxProblems = 20

func (e *Invalid) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0]
	}
	return fmt.Sprintf("%s (and %d more)", e.Problems[0], len(e.Problems)-1)
}

func (e *Invalid) add(format string, args ...any) {
	if len(e.Problems) < maxProblems {
		e.Problems = append(e.Problems, fmt.Sprintf(format, args...))
	}
}

func (e *Invalid) err() error {
	if len(e.Problems) == 0 {
		return nil
	}
	return e
}
