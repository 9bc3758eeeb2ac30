package diff

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"nofx.dev/shared/tree"
)

// Files are read in batches of at most so many, and of about so many bytes.
const (
	batchFiles = 256
	batchBytes = 8 << 20
)

// files makes the files of deltas.
type files struct {
	src      Source
	redactor Redactor
}

// batch returns how many of the deltas are read at once.
func batch(deltas []delta) int {
	var size int64
	for i, d := range deltas {
		if i == batchFiles || size > batchBytes {
			return i
		}
		for _, l := range []*leaf{d.from, d.to} {
			if readable(l) {
				size += l.Size
			}
		}
	}
	return len(deltas)
}

// readable reports whether l has text that is read.
func readable(l *leaf) bool { return l != nil && l.Mode != tree.Directory && l.Size <= maxText }

// of returns the files of deltas.
func (f *files) of(ctx context.Context, deltas []delta) ([]File, error) {
	var wanted []tree.Digest
	for _, d := range deltas {
		if d.status() == Renamed || d.status() == Mode {
			continue
		}
		for _, l := range []*leaf{d.from, d.to} {
			if readable(l) {
				wanted = append(wanted, l.Digest)
			}
		}
	}
	contents, err := f.src.Files(ctx, wanted)
	if err != nil {
		return nil, fmt.Errorf("read files: %w", err)
	}
	list := make([]File, len(deltas))
	for i, d := range deltas {
		list[i] = f.file(d, contents)
	}
	return list, nil
}

// file returns the file of one delta.
func (f *files) file(d delta, contents map[tree.Digest][]byte) File {
	out := File{Path: f.mask(d.path()), Status: d.status(), From: contentOf(d.from), To: contentOf(d.to)}
	if out.Status == Renamed {
		out.From.Path = f.mask(d.from.path)
	}
	out.Masked = out.Path != d.path() || out.Status == Renamed && out.From.Path != d.from.path
	out.Kind = f.kind(d, contents)
	switch {
	case out.Status == Renamed || out.Status == Mode:
		out.Kind = kindOf(d.to)
	case out.Kind == Large:
		out.Truncated, out.Reason = true, fmt.Sprintf("larger than %d bytes", maxText)
	case out.Kind == Text || out.Kind == Link:
		f.compare(&out, textOf(d.from, contents), textOf(d.to, contents))
	}
	return out
}

// mask returns s with secrets masked.
func (f *files) mask(s string) string {
	if f.redactor == nil {
		return s
	}
	return f.redactor.String(s)
}

// compare sets what the lines of a file have become.
func (f *files) compare(out *File, from, to string) {
	if max(strings.Count(from, "\n"), strings.Count(to, "\n")) > maxLines {
		out.Truncated, out.Reason = true, fmt.Sprintf("more than %d lines", maxLines)
		return
	}
	var lines Lines
	out.hunks, lines = hunks(from, to)
	out.Lines = &lines
	if out.Status == Type {
		out.removed, _ = hunks(from, "")
		out.created, _ = hunks("", to)
	}
	// Secrets may go over several lines, which a hunk has marks between. They are looked
	// for in the texts, and those far from any change make no difference to the hunks.
	if cleanFrom, cleanTo := f.mask(from), f.mask(to); cleanFrom != from || cleanTo != to {
		clean, _ := hunks(cleanFrom, cleanTo)
		if out.Status == Type {
			out.removed, _ = hunks(cleanFrom, "")
			out.created, _ = hunks("", cleanTo)
		}
		out.Masked = out.Masked || clean != out.hunks || out.Status == Type
		out.hunks = clean
	}
	if out.Unified = out.hunks; !utf8.ValidString(out.hunks) {
		out.Unified, out.Truncated, out.Reason = "", true, "not UTF-8"
	}
}

func contentOf(l *leaf) *Content {
	if l == nil {
		return nil
	}
	return &Content{Sha256: hex.EncodeToString(l.Digest[:]), Size: l.Size, Mode: l.Mode.String()}
}

func textOf(l *leaf, contents map[tree.Digest][]byte) string {
	if l == nil || l.Mode == tree.Directory {
		return ""
	}
	return string(contents[l.Digest])
}

// kindOf returns the kind of a path whose bytes are not looked at.
func kindOf(l *leaf) Kind {
	switch {
	case l.Mode == tree.Directory:
		return Directory
	case l.Mode == tree.Symlink:
		return Link
	case l.Size > maxText:
		return Large
	}
	return Text
}

// kind returns what a path holds, the kind of which least is shown where its sides differ.
func (f *files) kind(d delta, contents map[tree.Digest][]byte) Kind {
	is := map[Kind]bool{}
	for _, l := range []*leaf{d.from, d.to} {
		if l == nil {
			continue
		}
		kind := kindOf(l)
		if content, ok := contents[l.Digest]; readable(l) && !ok {
			kind = Redacted
		} else if kind == Text && isBinary(content) {
			kind = Binary
		}
		is[kind] = true
	}
	for _, kind := range []Kind{Redacted, Large, Binary, Text, Link} {
		if is[kind] {
			return kind
		}
	}
	return Directory
}

// isBinary reports what git would think of a file.
func isBinary(content []byte) bool {
	return bytes.IndexByte(content[:min(len(content), 8000)], 0) >= 0
}
