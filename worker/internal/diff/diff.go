package diff

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Compute returns a page of what lies between two checkpoints. A page that begins behind
// the last change is fault.Invalid (bad-cursor). Other errors are those of the source, and
// of states that are none.
func Compute(ctx context.Context, src Source, from, to Checkpoint, opts Options) (*Document, error) {
	if from.ID == "" {
		from.Tree = tree.Empty
	}
	deltas, err := compareTrees(ctx, src, strings.TrimSuffix(opts.Path, "/"), from.Tree, to.Tree)
	if err != nil {
		return nil, err
	}
	if opts.From < 0 || opts.From > 0 && opts.From >= len(deltas) {
		return nil, fault.New(fault.Invalid, "bad-cursor", "the diff has %d changes, and none after %d", len(deltas), opts.From)
	}
	doc := &Document{
		V: run.DiffVersion, From: Side{from.ID, from.Digest}, To: Side{to.ID, to.Digest},
		Files: []File{}, Steps: []Step{}, Sessions: []Session{}, Gates: []Gate{},
	}
	for _, d := range deltas {
		doc.Summary.Files.count(d)
		if d.to != nil && d.to.Mode != tree.Directory {
			doc.Summary.Bytes += d.to.Size
		}
	}
	changes, err := doc.state(from.State, to.State, opts)
	if err != nil {
		return nil, err
	}
	doc.Summary.Text = doc.sentence(changes)
	if opts.From > 0 {
		doc.Steps, doc.Gates, changes = []Step{}, []Gate{}, nil
	}
	if doc.State, err = operations(changes); err != nil {
		return nil, err
	}
	return doc, doc.files(ctx, src, deltas, opts)
}

// state adds what has become of the steps and gates, and returns the changes of the state
// with secrets masked.
func (d *Document) state(from, to []byte, opts Options) ([]change, error) {
	sides := [2]any{}
	for i, doc := range []*[]byte{&from, &to} {
		if *doc == nil {
			*doc = []byte(emptyState)
		}
		var err error
		if sides[i], err = decode(*doc); err != nil {
			return nil, err
		}
	}
	list, replaced, err := checked(between(sides[0], sides[1]), from, sides[0], sides[1])
	if err != nil {
		return nil, fmt.Errorf("operations of a state: %w", err)
	}
	d.Replaced, d.Summary.StateOps = replaced, len(list)
	if s, g := steps(sides[0], sides[1], opts.Gates); len(s)+len(g) > 0 {
		d.Steps, d.Gates = append(d.Steps, s...), append(d.Gates, g...)
	}
	return masked(list, opts.Redactor), nil
}

// files adds the files of the page, as many as it may hold.
func (d *Document) files(ctx context.Context, src Source, deltas []delta, opts Options) error {
	f := &files{src, opts.Redactor}
	head, err := d.Encode()
	if err != nil {
		return err
	}
	size := len(head)
	for at := opts.From; at < len(deltas); {
		n := batch(deltas[at:])
		list, err := f.of(ctx, deltas[at:at+n])
		if err != nil {
			return err
		}
		for i, file := range list {
			b, err := marshal(file)
			if err != nil {
				return err
			}
			if size += len(b) + 1; len(d.Files) == maxFiles || size > cmp.Or(opts.document, maxDocument) && len(d.Files) > 0 {
				next := strconv.Itoa(at + i)
				d.Truncated, d.Next = true, &next
				return nil
			}
			d.Files = append(d.Files, file)
			if file.Lines != nil {
				d.Summary.Lines.Added += file.Lines.Added
				d.Summary.Lines.Deleted += file.Lines.Deleted
			}
		}
		at += n
	}
	return nil
}

// sentence returns the summary for people.
func (d *Document) sentence(changes []change) string {
	var parts []string
	if n := d.Summary.Files.Total(); n > 0 {
		parts = append(parts, fault.Count(n, "file")+" changed")
	}
	vars := 0
	for _, c := range changes {
		name, ok := strings.CutPrefix(c.path, "/vars/")
		if !ok {
			continue
		}
		if vars++; vars > mostNamed {
			continue
		}
		name = "vars." + shortened(unescape.Replace(name))
		switch c.op {
		case "add":
			name += " added"
		case "remove":
			name += " removed"
		default:
			name += " " + shown(c.old) + " to " + shown(c.value)
		}
		parts = append(parts, name)
	}
	if more := vars - mostNamed; more > 0 {
		parts = append(parts, fault.Count(more, "more change")+" of vars")
	}
	for i, s := range d.Steps {
		if i == mostNamed {
			parts = append(parts, fault.Count(len(d.Steps)-i, "more step"))
			break
		}
		if s.To == "" {
			s.To = "removed"
		}
		parts = append(parts, s.Name+" "+s.To)
	}
	if len(parts) == 0 && len(changes) > 0 {
		parts = append(parts, fault.Count(len(changes), "change")+" of the state")
	}
	if len(parts) == 0 {
		return "nothing changed"
	}
	return strings.Join(parts, "; ")
}

// mostNamed is how many variables and steps a summary names.
const mostNamed = 3

// unescape returns a JSON pointer with dots between its parts.
var unescape = strings.NewReplacer("/", ".", "~1", "/", "~0", "~")

// shown returns a value for a sentence.
func shown(v any) string {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	}
	b, err := marshal(v)
	if err != nil {
		return "a value"
	}
	return shortened(string(b))
}

func shortened(s string) string {
	const most = 40
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}
