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

func (m *Trees) taken(ctx context.Context, c Conflict, take Take, base, ours, theirs *tree.Entry) (*tree.Entry, error) {
	e := tree.Entry{Name: c.Path[strings.LastIndexByte(c.Path, '/')+1:], Mode: tree.File}
	for _, side := range []*tree.Entry{theirs, ours} {
		if isFile(side) {
			e.Mode = side.Mode
		}
	}
	switch take.Side {
	case Ours:
		return ours, nil
	case Theirs:
		return theirs, nil
	case Base:
		return base, nil
	case Both:
		texts, err := m.texts(ctx, ours, theirs)
		if err != nil {
			return nil, err
		}
		if texts == nil {
			return nil, fault.New(fault.Invalid, "invalid-field", "%s is not text on both sides", c.Path)
		}
		before := ""
		if was, err := m.texts(ctx, base); err != nil {
			return nil, err
		} else if was != nil {
			before = was[0]
		}
		if base != nil && ours.Mode == base.Mode {
			e.Mode = theirs.Mode
		}
		return m.make(e, []byte(bothTexts(before, texts[0], texts[1]))), nil
	}
	if take.Entry == nil {
		return m.make(e, take.Content), nil
	}
	e.Digest, e.Size = take.Entry.Digest, take.Entry.Size
	return &e, nil
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
