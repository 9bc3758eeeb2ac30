package report

import (
	"bufio"
	"bytes"
	"io"
	"regexp"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/runes"
	"golang.org/x/text/transform"
)

// unmarked returns r without its byte order mark, and as UTF-8 where that mark tells
// of UTF-16, as some shells write.
func unmarked(r io.Reader) io.Reader {
	return transform.NewReader(r, unicode.BOMOverride(transform.Nop))
}

// maxDeclaration is how far into a document its XML declaration may reach.
const maxDeclaration = 1 << 10

var (
	declaration = regexp.MustCompile(`^\s*<\?xml\s[^>]*\?>`)
	declared    = regexp.MustCompile(`^\s*<\?xml\s[^>]*\bencoding\s*=\s*["']([\w.:-]+)["']`)
)

// xmlText returns an XML document as UTF-8 of the characters that XML allows, without
// its declaration: it has had its use, and version 1.1 reads like 1.0. What cannot be
// decoded or is not allowed becomes U+FFFD, because it is in the output of some test
// and says nothing about the others.
func xmlText(r io.Reader) *bufio.Reader {
	raw := bufio.NewReaderSize(r, maxDeclaration)
	start, _ := raw.Peek(maxDeclaration) // less of it when it is short
	decode := unicode.BOMOverride(charset(start))
	text := bufio.NewReader(transform.NewReader(raw, transform.Chain(decode, runes.Map(allowed))))
	start, _ = text.Peek(maxDeclaration)
	_, _ = text.Discard(len(declaration.Find(start)))
	return text
}

// charset returns how a document that begins like this is decoded if it has no byte order
// mark. A document whose declaration can be read byte by byte is not in UTF-16,
// whatever it declares; one in an unknown charset is read as UTF-8.
func charset(start []byte) transform.Transformer {
	switch {
	case bytes.HasPrefix(start, []byte("<\x00")):
		return unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM).NewDecoder()
	case bytes.HasPrefix(start, []byte("\x00<")):
		return unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM).NewDecoder()
	}
	if m := declared.FindSubmatch(start); m != nil {
		if e, err := htmlindex.Get(string(m[1])); err == nil && !isUTF16(e) {
			return e.NewDecoder()
		}
	}
	return transform.Nop
}

func isUTF16(e encoding.Encoding) bool {
	name, err := htmlindex.Name(e)
	return err == nil && (name == "utf-16le" || name == "utf-16be")
}

// allowed returns r, or U+FFFD where XML 1.0 does not allow it.
func allowed(r rune) rune {
	switch {
	case r == '\t', r == '\n', r == '\r', r >= ' ' && r <= 0xD7FF, r >= 0xE000 && r <= 0xFFFD, r >= 0x10000 && r <= 0x10FFFF:
		return r
	}
	return '\uFFFD'
}
