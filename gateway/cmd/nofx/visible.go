package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// visibleWriter writes other people's text to a terminal so that it cannot steer it:
// control characters are shown as cat -v does, ^[ for ESC, and others that are not
// seen as <U+202E>. Lines, tabs and colours are left as they are.
type visibleWriter struct {
	w        io.Writer
	rest     []byte // may be the beginning of something
	coloured bool
}

func (v *visibleWriter) Write(p []byte) (int, error) {
	if err := v.write(append(v.rest, p...), false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes what is left and ends colours that the text began.
func (v *visibleWriter) Close() error {
	if err := v.write(v.rest, true); err != nil || !v.coloured {
		return err
	}
	_, err := io.WriteString(v.w, "\x1b[0m")
	return err
}

func (v *visibleWriter) write(p []byte, end bool) error {
	var out []byte
	for len(p) > 0 {
		n := 1
		switch b := p[0]; {
		case b == '\n' || b == '\t' || b >= ' ' && b < 0x7f:
			out = append(out, b)
		case b == '\r' && len(p) > 1 && p[1] == '\n':
		case b == 0x1b && colour(p) > 0:
			n = colour(p)
			out = append(out, p[:n]...)
			v.coloured = true
		case !end && broken(p):
			n = 0
		case b < ' ' || b == 0x7f:
			out = append(out, '^', b^0x40)
		default:
			var r rune
			if r, n = utf8.DecodeRune(p); hidden(r) {
				out = fmt.Appendf(out, "<U+%04X>", r)
			} else {
				out = utf8.AppendRune(out, r)
			}
		}
		if n == 0 {
			break
		}
		p = p[n:]
	}
	v.rest = append([]byte(nil), p...)
	if len(out) == 0 {
		return nil
	}
	_, err := v.w.Write(out)
	return err
}

// maxColour is how long a sequence of colours may be.
const maxColour = 64

// colour returns the length of a sequence that only sets colours, ESC [ … m, at the
// beginning of p, or 0.
func colour(p []byte) int {
	n := parameters(p)
	if n == 0 || n == len(p) || p[n] != 'm' {
		return 0
	}
	return n + 1
}

// parameters returns the length of such a sequence without its last letter.
func parameters(p []byte) int {
	if len(p) < 2 || p[1] != '[' {
		return 0
	}
	n := 2
	for n < len(p) && n < maxColour && (p[n] >= '0' && p[n] <= '9' || p[n] == ';' || p[n] == ':') {
		n++
	}
	return n
}

// broken reports whether p is the beginning of something that more bytes could end.
func broken(p []byte) bool {
	switch p[0] {
	case '\r':
		return len(p) == 1
	case 0x1b:
		return len(p) == 1 || len(p) < maxColour && parameters(p) == len(p)
	}
	return !utf8.FullRune(p)
}

// hidden reports whether r is not seen and may change how what is around it is seen.
// The joiners within emoji and words do not.
func hidden(r rune) bool {
	const nonJoiner, joiner, line, paragraph = '\u200c', '\u200d', '\u2028', '\u2029'
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) && r != nonJoiner && r != joiner || r == line || r == paragraph
}

// visible returns s as a visibleWriter writes it.
func visible(s string) string {
	var out strings.Builder
	w := visibleWriter{w: &out}
	_, _ = io.WriteString(&w, s)
	_ = w.Close()
	return out.String()
}

// escaped returns JSON that says the same without characters that steer a terminal.
func escaped(json string) string {
	var out strings.Builder
	for _, r := range json {
		switch {
		case r < 0x7f || !hidden(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// foreign has print write text of somebody else to the output: on a terminal so that
// it is harmless, unless raw, and as it is to everything else.
func (a *app) foreign(raw bool, print func(w io.Writer) error) error {
	if raw || !a.terminal {
		return print(a.out)
	}
	w := &visibleWriter{w: a.out}
	err := print(w)
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	return err
}

// printJSON prints one answer or event of the gateway as it came; a terminal gets it
// escaped.
func (a *app) printJSON(raw string) error {
	if a.terminal {
		raw = escaped(raw)
	}
	_, err := fmt.Fprintln(a.out, raw)
	return err
}
