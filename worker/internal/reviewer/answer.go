package reviewer

import (
	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
)

// MaxAnswered is how many findings one answer of a model may have.
const MaxAnswered = 30

// Answer is what a model says about one chunk of a diff.
type Answer struct {
	Schema   int        `json:"schema"` // 1
	Findings []Answered `json:"findings"`
}

// Answered is one finding as a model answers it. Nothing of it is trusted: see Anchor.
type Answered struct {
	Path       string          `json:"path"`
	Side       review.Side     `json:"side"`
	StartLine  *int            `json:"start_line"` // of a range, nil for one line
	Line       int             `json:"line"`
	Quote      string          `json:"quote"` // the text of that line
	Title      string          `json:"title"`
	Body       string          `json:"body"`
	Category   review.Category `json:"category"`
	Severity   review.Severity `json:"severity"`
	Confidence float64         `json:"confidence"` // 0 to 1
	RuleID     *string         `json:"rule_id"`
	Evidence   []string        `json:"evidence"`
	Suggestion *Suggestion     `json:"suggestion"`
}

// Suggestion is new text for the lines of a finding.
type Suggestion struct {
	Replacement string `json:"replacement"`
}

// Schema is that of an Answer (REVIEW.md §3). Members that may be absent there are
// nullable here, since providers want all members required.
var Schema = llm.MustSchema("review_findings", `{
  "type": "object",
  "additionalProperties": false,
  "required": ["schema", "findings"],
  "properties": {
    "schema": {"type": "integer", "enum": [1]},
    "findings": {
      "type": "array",
      "maxItems": 30,
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["path", "side", "start_line", "line", "quote", "title", "body", "category", "severity", "confidence", "rule_id", "evidence", "suggestion"],
        "properties": {
          "path": {"type": "string", "maxLength": 4096, "description": "The file, as its part is named"},
          "side": {"type": "string", "enum": ["LEFT", "RIGHT"], "description": "LEFT for lines that begin with L, RIGHT for R"},
          "start_line": {"type": ["integer", "null"], "minimum": 1, "description": "First line of a range that ends at line, null for one line"},
          "line": {"type": "integer", "minimum": 1, "description": "The number after L or R"},
          "quote": {"type": "string", "maxLength": 2000, "description": "The exact text of that line, without its number and mark"},
          "title": {"type": "string", "minLength": 1, "maxLength": 120, "description": "What is wrong, in one line"},
          "body": {"type": "string", "minLength": 1, "maxLength": 1000, "description": "Why, when it happens, and how to mend it"},
          "category": {"type": "string", "enum": ["correctness", "security", "concurrency", "performance", "error_handling", "api", "tests", "docs", "style"]},
          "severity": {"type": "string", "enum": ["critical", "high", "medium", "low", "info"]},
          "confidence": {"type": "number", "minimum": 0, "maximum": 1},
          "rule_id": {"type": ["string", "null"], "maxLength": 64},
          "evidence": {"type": ["array", "null"], "maxItems": 10, "items": {"type": "string", "maxLength": 500}},
          "suggestion": {
            "type": ["object", "null"],
            "additionalProperties": false,
            "required": ["replacement"],
            "properties": {"replacement": {"type": "string", "maxLength": 10000, "description": "New text for the lines start_line to line, complete and without numbers"}}
          }
        }
      }
    }
  }
}`)
