package report

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// maxTag is how long a tag may be, in bytes. An attribute of five is twenty times as
// large in memory; text is as large as it is long.
const maxTag = 1 << 20

// xmlTokens is a decoder of XML whose tags are bounded, and for which a reference to a
// character that XML does not allow is one to U+FFFD. It sees to both as it reads, since
// a tag is one token.
type xmlTokens struct {
	decoder *xml.Decoder
	source  *bufio.Reader
	pending string // read before what the source has

	last    byte // that was read
	known   bool // what kind of token this is
	literal bool // it is one in which references mean nothing, as CDATA
	tag     int  // bytes left of a tag, or -1
}

func newXMLTokens(r io.Reader) *xmlTokens {
	d := &xmlTokens{source: xmlText(r)}
	d.decoder = xml.NewDecoder(tagReader{d})
	return d
}

func (d *xmlTokens) Token() (xml.Token, error) {
	d.known, d.literal, d.tag = false, false, -1
	return d.decoder.Token()
}

// tagReader is what the decoder reads, byte by byte.
type tagReader struct{ *xmlTokens }

func (d tagReader) Read(p []byte) (int, error) { return d.source.Read(p) }

func (d tagReader) ReadByte() (byte, error) {
	c, err := d.next()
	if err != nil {
		return 0, err
	}
	if d.last == '<' && !d.known {
		d.known = true
		d.literal = c == '!' || c == '?'
		if !d.literal {
			d.tag = maxTag
		}
	}
	if d.tag == 0 {
		return 0, errLongTag
	}
	d.tag = max(d.tag-1, -1)
	d.last = c
	return c, nil
}

var errLongTag = fmt.Errorf("a tag has more than %d bytes", maxTag)

// maxReference is how long a reference to a character may be, in bytes.
const maxReference = 32

var reference = regexp.MustCompile(`^#(?:([0-9]+)|x([0-9A-Fa-f]+));`)

// next returns the next byte of the source, where a reference to a character that is not
// allowed has been replaced.
func (d *xmlTokens) next() (byte, error) {
	if d.pending != "" {
		c := d.pending[0]
		d.pending = d.pending[1:]
		return c, nil
	}
	c, err := d.source.ReadByte()
	if err != nil || c != '&' || d.literal {
		return c, err
	}
	ahead, _ := d.source.Peek(maxReference)
	m := reference.FindSubmatch(ahead)
	if m == nil {
		return c, nil
	}
	digits, base := m[1], 10
	if digits == nil {
		digits, base = m[2], 16
	}
	if n, err := strconv.ParseUint(string(digits), base, 31); err != nil || allowed(rune(n)) != rune(n) {
		_, _ = d.source.Discard(len(m[0]))
		d.pending = "#xFFFD;"
	}
	return c, nil
}
