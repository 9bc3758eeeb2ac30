package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

// maxDiff is the size of the largest diff that is read.
const maxDiff = 64 << 20

func (a *app) checkpointDiffCommand() *cobra.Command {
	var params api.DiffCheckpointParams
	var against, path, cursor string
	var stat, unified bool
	c := &cobra.Command{
		Use:   "diff RUN CHECKPOINT",
		Short: "Show what lies between a checkpoint and another one",
		Long: `Show what lies between a checkpoint and its parent, or another one: steps, gates, the
state, and the lines of files. A worker computes it once; the command waits for it.

Secrets are masked. A terminal gets colours, unless NO_COLOR is set; a file or a pipe, such
as one to less, gets none. With --json a large diff is a URL that serves it for 15 minutes.`,
		Example: `  nofx checkpoint diff RUN CHECKPOINT --stat
  nofx checkpoint diff RUN CHECKPOINT --against base --path src
  nofx checkpoint diff RUN CHECKPOINT --unified | git apply`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			params.Against, params.Path, params.Cursor = optional(against), optional(path), optional(cursor)
			if unified && a.json {
				return usagef("--unified is no JSON")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			ask := func() (*http.Response, error) {
				return client.DiffCheckpoint(cmd.Context(), args[0], args[1], &params)
			}
			_, raw, err := await(cmd.Context(), a, "computing the diff", ask, func(d api.CheckpointDiff) string { return deref(d.DiffRunID) })
			if err != nil {
				return err
			}
			paint := painter(a.terminal && a.getenv("NO_COLOR") == "")
			if unified { // computed with the other form
				params.Format = optional(api.DiffCheckpointParamsFormatUnified)
				patch, err := wholeBody(ask())
				if err != nil {
					return err
				}
				if !a.terminal { // a program reads the patch, so nobody would see what is not in it
					for line := range strings.Lines(string(patch)) {
						left, comment := strings.CutPrefix(line, "# ")
						if !comment {
							break
						}
						if strings.HasPrefix(left, "left out: ") {
							fmt.Fprint(a.errOut, left)
						}
					}
				}
				return a.foreign(false, func(w io.Writer) error { return paint.patch(w, string(patch)) })
			}
			if a.json {
				return a.printJSON(strings.TrimRight(string(raw), "\n"))
			}
			d, err := a.diffDocument(cmd.Context(), raw)
			if err != nil {
				return err
			}
			return a.foreign(false, func(w io.Writer) error {
				paint.diff(w, d, !stat)
				return nil
			})
		},
	}
	c.Flags().StringVar(&against, "against", "", "`what` it is compared with: parent (the default), base (of a branch), or a checkpoint")
	c.Flags().StringVar(&path, "path", "", "only this `file`, or the files of this folder")
	c.Flags().BoolVar(&stat, "stat", false, "list the files, without their lines")
	c.Flags().BoolVar(&unified, "unified", false, "print what git apply takes")
	c.Flags().StringVar(&cursor, "cursor", "", "go on at this `place` of a long diff")
	c.MarkFlagsMutuallyExclusive("stat", "unified")
	oneOf(c, "against", "parent", "base")
	return c
}

// wholeBody returns the bytes of a response. A refusal is a *problemError.
func wholeBody(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, fmt.Errorf("fetch the diff: %w", cause(err))
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxDiff))
	if err != nil {
		return nil, fmt.Errorf("read the response: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return nil, refusal(resp, raw)
	}
	return raw, nil
}

// diffDocument is a diff with the values of its state as they came.
type diffDocument struct {
	api.Diff
	State []stateOperation `json:"state"`
}

type stateOperation struct {
	Op, Path   string
	Value, Old json.RawMessage
}

// diffDocument returns the diff of an answer, which may be elsewhere.
func (a *app) diffDocument(ctx context.Context, raw []byte) (d diffDocument, err error) {
	var answer struct {
		Diff *diffDocument
		URL  *string
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return d, fmt.Errorf("the response does not follow the API's contract: %w", err)
	}
	if answer.Diff != nil {
		return *answer.Diff, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, deref(answer.URL), nil)
	if err != nil {
		return d, err
	}
	if raw, err = wholeBody(http.DefaultClient.Do(req)); err != nil {
		return d, err
	}
	return d, json.Unmarshal(raw, &d)
}

// painter colours diffs, if it is true.
type painter bool

// The colours, as git's.
const (
	bold, red, green, yellow, cyan = "1", "31", "32", "33", "36"
)

func (p painter) paint(colour, text string) string {
	if !p || text == "" || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// diff prints a diff for people, with the lines of files if hunks says so.
func (p painter) diff(w io.Writer, d diffDocument, hunks bool) {
	fmt.Fprintln(w, p.paint(bold, clean(d.Summary.Text)))
	p.steps(w, d)
	if len(d.State) > 0 {
		fmt.Fprintln(w, "\nstate")
	}
	for _, op := range d.State {
		p.operation(w, op)
	}
	if len(d.Files) > 0 {
		fmt.Fprintln(w, "\nfiles")
	}
	rows := make([][]string, len(d.Files))
	for i, f := range d.Files {
		rows[i] = []string{"  " + statusLetter(f.Status), linesOf(f), pathOf(f)}
	}
	p.files(w, rows)
	if n := len(d.Files); n > 0 {
		fmt.Fprintf(w, "  %s, %s, %s\n", count(n, "file"), p.paint(green, "+"+strconv.Itoa(d.Summary.Lines.Added)), p.paint(red, "-"+strconv.Itoa(d.Summary.Lines.Deleted)))
	}
	for _, f := range d.Files {
		if hunks && deref(f.Unified) != "" {
			fmt.Fprintln(w, "\n"+p.paint(bold, pathOf(f)))
			p.lines(w, *f.Unified)
		}
	}
	if d.Next != nil {
		fmt.Fprintf(w, "\nmore files: --cursor %s\n", clean(*d.Next))
	}
}

func (p painter) steps(w io.Writer, d diffDocument) {
	if len(d.Steps)+len(d.Gates) > 0 {
		fmt.Fprintln(w, "\nsteps")
	}
	for _, s := range d.Steps {
		from, to := "", cmp.Or(deref(s.To), "not known")
		if s.From != nil {
			from = clean(*s.From) + " to "
		}
		fmt.Fprintf(w, "  %s: %s%s\n", clean(s.Name), from, p.paint(colourOf(to), clean(to)))
	}
	for _, g := range d.Gates {
		fmt.Fprintf(w, "  gate %s: %s\n", clean(g.Name), p.paint(colourOf(g.Verdict), clean(g.Verdict)))
	}
}

// colourOf returns the colour of a step's status or a gate's verdict.
func colourOf(status string) string {
	switch status {
	case "succeeded", "passed", "approve":
		return green
	case "failed", "error", "reject":
		return red
	}
	return yellow
}

// operation prints one change of the state.
func (p painter) operation(w io.Writer, op stateOperation) {
	value, old := shorten(clean(string(op.Value)), 200), shorten(clean(string(op.Old)), 200)
	path := clean(op.Path)
	switch op.Op {
	case "add":
		fmt.Fprintln(w, p.paint(green, "  + "+path+" "+value))
	case "remove":
		fmt.Fprintln(w, p.paint(red, "  - "+path+" "+old))
	default:
		fmt.Fprintf(w, "  ~ %s %s to %s\n", cmp.Or(path, "all of it"), p.paint(red, old), p.paint(green, value))
	}
}

// statusLetter returns a status as git abbreviates it.
func statusLetter(s api.DiffFileStatus) string {
	if s == api.DiffFileStatusMode {
		return "M" // of a mode; the line says which
	}
	return strings.ToUpper(string(s[:1]))
}

// linesOf returns how many lines of a file have changed, or why that is not known.
func linesOf(f api.DiffFile) string {
	switch {
	case f.Lines != nil:
		return fmt.Sprintf("+%d -%d", f.Lines.Added, f.Lines.Deleted)
	case f.Kind != api.DiffFileKindText:
		return string(f.Kind)
	}
	return ""
}

// pathOf returns a file's path with what else has changed of it.
func pathOf(f api.DiffFile) string {
	s := clean(f.Path)
	if f.Status == api.DiffFileStatusRenamed && f.From != nil {
		s = clean(deref(f.From.Path)) + " => " + s
	}
	var more []string
	if f.From != nil && f.To != nil && f.From.Mode != f.To.Mode {
		more = append(more, "mode "+clean(f.From.Mode)+" to "+clean(f.To.Mode))
	}
	if deref(f.Reason) != "" {
		more = append(more, clean(*f.Reason))
	}
	if deref(f.Masked) {
		more = append(more, "secrets are masked")
	}
	if len(more) > 0 {
		s += " (" + strings.Join(more, ", ") + ")"
	}
	return s
}

// files prints aligned rows of status, lines and path.
func (p painter) files(w io.Writer, rows [][]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[1]))
	}
	for _, r := range rows {
		lines := pad(r[1], width)
		if added, deleted, ok := strings.Cut(lines, " -"); ok {
			lines = p.paint(green, added) + " " + p.paint(red, "-"+deleted)
		}
		fmt.Fprintf(w, "%s %s  %s\n", r[0], lines, r[2])
	}
}

// lines prints hunks.
func (p painter) lines(w io.Writer, hunks string) {
	for line := range strings.Lines(hunks) {
		text, end := strings.CutSuffix(line, "\n")
		colour := map[byte]string{'+': green, '-': red, '@': cyan}[line[0]]
		fmt.Fprint(w, p.paint(colour, text))
		if end {
			fmt.Fprintln(w)
		}
	}
}

// patch prints what git apply takes; its heads are bold.
func (p painter) patch(w io.Writer, text string) error {
	if !p {
		_, err := io.WriteString(w, text)
		return err
	}
	head := true // until the first hunk of a file
	for line := range strings.Lines(text) {
		text, _ := strings.CutSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "diff --git "):
			head = true
		case strings.HasPrefix(line, "@@ "):
			head = false
		}
		colour := map[byte]string{'+': green, '-': red, '@': cyan}[line[0]]
		switch {
		case line[0] == '#':
			colour = yellow
		case head:
			colour = bold
		}
		if _, err := fmt.Fprintln(w, p.paint(colour, text)); err != nil {
			return err
		}
	}
	return nil
}
