package rules

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/llm"
)

// edits answers a request for file edits with the blocks of its trusted parts.
func edits(r llm.Request) (llm.Response, error) {
	answer := edit.Answer{Files: []edit.File{}}
	at := map[string]int{}
	for _, p := range r.Parts {
		if p.Untrusted {
			continue
		}
		for _, b := range blocks(p.Text) {
			f := b.file()
			if i, ok := at[f.Path]; ok && f.Action == edit.Edit && answer.Files[i].Action == edit.Edit {
				answer.Files[i].Edits = append(answer.Files[i].Edits, f.Edits...)
				continue
			}
			at[f.Path] = len(answer.Files)
			answer.Files = append(answer.Files, f)
		}
	}
	if len(answer.Files) == 0 {
		return llm.Response{Stop: llm.Refusal, Model: Name, Text: "there is no block with path=FILE in the instruction"}, nil
	}
	answer.Summary = fault.Count(len(answer.Files), "file") + " as the instruction says"
	text, err := json.Marshal(answer)
	if err != nil {
		return llm.Response{}, fmt.Errorf("answer as JSON: %w", err)
	}
	return llm.Response{Text: string(text), Stop: llm.End, Model: Name}, nil
}

// block is a fenced block that names a file.
type block struct {
	path   string
	delete bool
	text   string
}

var (
	fence  = regexp.MustCompile("^ {0,3}(`{3,})\\s*([^`]*)$")
	naming = regexp.MustCompile(`(?:^|\s)path=("[^"]+"|\S+)`)
	remove = regexp.MustCompile(`(?:^|\s)delete(?:\s|$)`)
)

// blocks returns the blocks of a text. A block that is not closed does not count.
func blocks(text string) (all []block) {
	var open string
	var b block
	var body strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimRight(line, "\r\n")
		m := fence.FindStringSubmatch(bare)
		switch {
		case open == "" && m != nil:
			open, b = m[1], block{delete: remove.MatchString(m[2])}
			body.Reset()
			if named := naming.FindStringSubmatch(m[2]); named != nil {
				b.path = strings.Trim(named[1], `"`)
			}
		case open != "" && m != nil && strings.TrimSpace(m[2]) == "" && len(m[1]) >= len(open):
			if b.path != "" {
				b.text = body.String()
				all = append(all, b)
			}
			open = ""
		case open != "":
			body.WriteString(line)
		}
	}
	return all
}

var marks = regexp.MustCompile(`(?ms)^<{7} SEARCH\r?\n(.*?)^={7}\r?\n(.*?)^>{7} REPLACE\r?$`)

// file returns the change that a block is. What lies beside the marks of a block with
// some is passed over.
func (b block) file() edit.File {
	if b.delete {
		return edit.File{Path: b.path, Action: edit.Delete}
	}
	found := marks.FindAllStringSubmatch(b.text, -1)
	if found == nil {
		return edit.File{Path: b.path, Action: edit.Write, Content: &b.text}
	}
	f := edit.File{Path: b.path, Action: edit.Edit}
	for _, m := range found {
		f.Edits = append(f.Edits, edit.Replacement{Search: m[1], Replace: m[2]})
	}
	return f
}
