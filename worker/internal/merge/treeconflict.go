package merge

import (
	"context"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// conflict adds a conflict, c with its path and values, and returns what is decided to be
// there instead.
func (m *Trees) conflict(ctx context.Context, at string, c Conflict, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	c.Path = at
	if m.rules.Values {
		c.Base, c.Ours, c.Theirs = valueOf(c.Base, base), valueOf(c.Ours, ours), valueOf(c.Theirs, theirs)
	}
	m.conflicts = append(m.conflicts, c)
	if m.rules.Takes != nil {
		if take, ok := m.rules.Takes(c); ok {
			return m.taken(ctx, c, take, base, ours, theirs)
		}
	}
	m.open++
	return nil, nil
}

// taken returns what a decision about a conflict puts under its path, or nil for nothing. A
// side that is taken for a text counts where the texts conflict, and what else was changed
// in it stays merged; in strict mode, and for all but texts, it counts as a whole.
func (m *Trees) taken(ctx context.Context, c Conflict, take Take, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	if take.Side == Given {
		return m.given(c, take, ours, theirs), nil
	}
	if take.Side == Both {
		texts, err := m.texts(ctx, ours, theirs)
		if err == nil && texts == nil {
			err = fault.New(fault.Invalid, "invalid-field", "%s is not text on both sides", c.Path)
		}
		if err != nil {
			return nil, err
		}
		before := ""
		if was, err := m.texts(ctx, base); err != nil {
			return nil, err
		} else if was != nil {
			before = was[0]
		}
		return m.decided(take.Side, base, ours, theirs, before, texts[0], texts[1]), nil
	}
	if c.Kind == Content && !m.rules.Strict {
		if texts, err := m.texts(ctx, base, ours, theirs); err != nil {
			return nil, err
		} else if texts != nil {
			return m.decided(take.Side, base, ours, theirs, texts[0], texts[1], texts[2]), nil
		}
	}
	return map[Side]*tree.Entry{Ours: ours, Theirs: theirs, Base: base}[take.Side], nil
}

// given returns the file of a take that brings its content.
func (m *Trees) given(c Conflict, take Take, ours, theirs *tree.Entry) *tree.Entry {
	e := tree.Entry{Name: c.Path[strings.LastIndexByte(c.Path, '/')+1:], Mode: tree.File}
	for _, side := range []*tree.Entry{theirs, ours} {
		if isFile(side) {
			e.Mode = side.Mode
		}
	}
	if take.Entry == nil {
		return m.make(e, take.Content)
	}
	e.Digest, e.Size = take.Entry.Digest, take.Entry.Size
	return &e
}

// decided returns the merge of a file's texts, with what side says where they conflict.
func (m *Trees) decided(side Side, base, ours, theirs *tree.Entry, was, mine, yours string) *tree.Entry {
	e := *ours
	if base != nil && ours.Mode == base.Mode {
		e.Mode = theirs.Mode
	}
	return m.make(e, []byte(decidedText(was, mine, yours, decisions[side])))
}

// valueOf returns what a side has under a path; known is what is known of it already.
func valueOf(known *Value, e *tree.Entry) *Value {
	if e == nil {
		return nil
	}
	v := &Value{Entry: e}
	if known != nil {
		v.Excerpt = excerpt(known.Excerpt)
	}
	return v
}

// excerpt returns the beginning of a text, cut between characters.
func excerpt(text string) string {
	if len(text) <= mostExcerpt {
		return text
	}
	return strings.ToValidUTF8(text[:mostExcerpt], "")
}
