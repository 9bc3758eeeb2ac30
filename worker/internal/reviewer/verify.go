package reviewer

import (
	"encoding/json"
	"fmt"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
)

// CheckSchema is that of the second pass, which looks at what the first one found.
var CheckSchema = llm.MustSchema("review_checks", `{
  "type": "object",
  "additionalProperties": false,
  "required": ["schema", "checks"],
  "properties": {
    "schema": {"type": "integer", "enum": [1]},
    "checks": {
      "type": "array",
      "maxItems": 30,
      "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["finding", "true", "actionable", "severity", "confidence"],
        "properties": {
          "finding": {"type": "integer", "minimum": 1, "description": "The number of the finding"},
          "true": {"type": "boolean", "description": "Whether the code that is shown bears it out"},
          "actionable": {"type": "boolean", "description": "Whether its author can do something about it in this change"},
          "severity": {"type": "string", "enum": ["critical", "high", "medium", "low", "info"]},
          "confidence": {"type": "number", "minimum": 0, "maximum": 1}
        }
      }
    }
  }
}`)

type checks struct {
	Checks []struct {
		Finding    int             `json:"finding"`
		True       bool            `json:"true"`
		Actionable bool            `json:"actionable"`
		Severity   review.Severity `json:"severity"`
		Confidence float64         `json:"confidence"`
	} `json:"checks"`
}

// verifySystem is all that a model is told in the second pass.
const verifySystem = `You check findings about a change of source code and answer with JSON of the given schema, one check for each finding.
- You are shown the parts of the diff that they are about, then the findings, numbered from 1. In a part, each line begins with a side (L is the old file, R the new one) and a number, then a mark: + added, - deleted, a space for unchanged.
- true: the code that is shown bears the finding out. actionable: its author can do something about it in this change. severity and confidence as you see them.
- Judge each by the code alone, not by how it is worded.`

// verifyRequest returns what a model is asked about the findings of a chunk.
func (c Chunk) verifyRequest(found []review.Finding) (llm.Request, error) {
	r := llm.Request{System: verifySystem, Schema: CheckSchema, MaxTokens: answerTokens / 2}
	type item struct {
		Finding  int           `json:"finding"`
		Place    review.Anchor `json:"place"`
		Category string        `json:"category"`
		Severity string        `json:"severity"`
		Title    string        `json:"title"`
		Body     string        `json:"body"`
	}
	items := make([]item, len(found))
	for i, f := range found {
		items[i] = item{i + 1, f.Anchor, string(f.Category), string(f.Severity), f.Title, f.Body}
	}
	text, err := json.MarshalIndent(items, "", " ")
	if err != nil {
		return r, fmt.Errorf("findings as JSON: %w", err)
	}
	for _, part := range c.Parts {
		r.Parts = append(r.Parts, llm.Part{Name: part.Path, Text: part.text, Untrusted: true})
	}
	r.Parts = append(r.Parts, llm.Part{Name: "findings", Text: string(text), Untrusted: true}, llm.Part{Text: "Check these findings."})
	return r, nil
}

// verified returns the findings that an answer of the second pass leaves. It may drop and
// lower them, and nothing else.
func verified(found []review.Finding, text string, n *Counts) ([]review.Finding, error) {
	if err := CheckSchema.Check(text); err != nil {
		return found, err
	}
	var a checks
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return found, fmt.Errorf("cannot be read: %w", err)
	}
	dropped, lowered := map[int]bool{}, map[int]bool{}
	left := append([]review.Finding(nil), found...)
	for _, c := range a.Checks {
		i := c.Finding - 1
		if i >= len(left) {
			continue
		}
		if !c.True || !c.Actionable {
			dropped[i] = true
			continue
		}
		f := &left[i]
		if f.Severity.Reaches(c.Severity) && f.Severity != c.Severity || c.Confidence < f.Confidence {
			lowered[i] = true
		}
		if f.Severity.Reaches(c.Severity) {
			f.Severity = c.Severity
		}
		f.Confidence = min(f.Confidence, c.Confidence)
	}
	kept := left[:0]
	for i, f := range left {
		if !dropped[i] {
			kept = append(kept, f)
			if lowered[i] {
				n.Lowered++
			}
		}
	}
	n.Dropped += len(dropped)
	return kept, nil
}
