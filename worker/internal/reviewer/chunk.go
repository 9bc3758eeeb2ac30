package reviewer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
)

// Chunk is what a model is shown at once.
type Chunk struct {
	Ordinal int         `json:"ordinal"` // from 1
	Hash    string      `json:"hash"`    // of what is shown
	Tokens  int         `json:"tokens"`  // about
	Parts   []ChunkPart `json:"parts"`
}

// ChunkPart is the part of a chunk that is about one file.
type ChunkPart struct {
	Path  string `json:"path"`
	Lines int    `json:"lines"`
	file  File
	text  string // numbered
}

// chunks packs files, by folder, into chunks of about so many tokens. A file or a hunk
// that is larger is split; a folder is never packed with another, so that a change in
// one does not change what is asked about the others.
func chunks(files []File, tokens int) []Chunk {
	var all []Chunk
	for i, f := range files {
		var pieces []Hunk
		for _, h := range f.Hunks {
			pieces = append(pieces, split(h, tokens)...)
		}
		fresh := i == 0 || path.Dir(files[i-1].Path) != path.Dir(f.Path)
		for len(pieces) > 0 {
			n, text := fill(pieces, tokens)
			cost := estimate(f.Path) + estimate(text)
			if last := len(all) - 1; fresh || all[last].Tokens+cost > tokens {
				all = append(all, Chunk{Ordinal: len(all) + 1})
				fresh = false
			}
			c := &all[len(all)-1]
			c.Tokens += cost
			part := ChunkPart{Path: f.Path, file: f, text: text}
			for _, h := range pieces[:n] {
				part.Lines += len(h.Lines)
			}
			c.Parts = append(c.Parts, part)
			pieces = pieces[n:]
		}
	}
	for i := range all {
		all[i].Hash = all[i].hash()
	}
	return all
}

// fill returns how many of the hunks fit, one at least, and their text.
func fill(hunks []Hunk, tokens int) (n int, text string) {
	for n < len(hunks) {
		more := Numbered(hunks[n : n+1])
		if n > 0 && estimate(text)+estimate(more) > tokens {
			break
		}
		text += more
		n++
	}
	return n, text
}

// split returns a hunk in pieces of about so many tokens, each with a heading of its own.
func split(h Hunk, tokens int) []Hunk {
	var all []Hunk
	piece := Hunk{OldStart: h.OldStart, NewStart: h.NewStart, Heading: h.Heading}
	used := 0
	for _, l := range h.Lines {
		cost := estimate(l.Text) + 3
		if used+cost > tokens && len(piece.Lines) > 0 {
			all = append(all, piece)
			piece = Hunk{OldStart: piece.OldStart + piece.OldLines, NewStart: piece.NewStart + piece.NewLines, Heading: h.Heading}
			used = 0
		}
		used += cost
		piece.Lines = append(piece.Lines, l)
		if l.Mark != Addition {
			piece.OldLines++
		}
		if l.Mark != Subtracted {
			piece.NewLines++
		}
	}
	return append(all, piece)
}

func (c Chunk) hash() string {
	h := sha256.New()
	for _, p := range c.Parts {
		fmt.Fprintf(h, "%q\n%s\n", p.Path, p.text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// estimate returns about how many tokens a text has, at three bytes to the token.
func estimate(text string) int { return (len(text) + 2) / 3 }

// PromptVersion changes whenever what a model is told does.
const PromptVersion = "1"

const (
	chunkTokens  = 6000 // of a chunk; models find less in more
	answerTokens = 8000 // of an answer
)

// system is all that a model is told by us. It holds nothing secret.
const system = `You review a change of source code and answer with JSON of the given schema.
- You are shown parts of a diff, one part for each file, named by its path. A hunk begins with "@@ -a,b +c,d @@". Each of its lines begins with a side (L is the old file, R the new one) and a number, then a mark: + added, - deleted, a space for unchanged. The text follows the mark.
- Report what is wrong with the change: mistakes that make it fail, lose data, leak, block or mislead. Do not praise, do not describe, do not guess about code that you do not see.
- Name the line exactly: path as the part is named, side LEFT for L and RIGHT for R, line its number, quote its text without number and mark. A range has start_line before line, both in one hunk.
- confidence is how sure you are that it is true and matters here, from 0 to 1. An empty list of findings is a good answer.
- A suggestion replaces the lines start_line to line of the new file. Give one only if it is complete.
- Where a text shows [redacted], a secret was taken out.`

// request returns what a model is asked about a chunk. The policy is the base's; all that
// comes from the change is untrusted.
func (c Chunk) request(p review.Policy) llm.Request {
	r := llm.Request{System: system, Schema: Schema, MaxTokens: answerTokens}
	given := map[string]bool{}
	for _, part := range c.Parts {
		if rule := p.Instructed(part.Path); rule.Instructions != "" && !given[rule.Match] {
			given[rule.Match] = true
			r.Parts = append(r.Parts, llm.Part{Name: "What the repository says of files that match " + rule.Match, Text: rule.Instructions})
		}
	}
	for _, part := range c.Parts {
		r.Parts = append(r.Parts, llm.Part{Name: part.Path, Text: part.text, Untrusted: true})
	}
	r.Parts = append(r.Parts, llm.Part{Text: "Review these parts."})
	return r
}
