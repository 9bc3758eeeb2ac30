package tool

import (
	"unicode/utf8"

	"nofx.dev/worker/internal/steplog"
)

const (
	tailBytes = 8 << 10
	// tailMore is kept before the tail, so that a secret at its start is seen whole.
	tailMore = 4 << 10
)

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = tailBytes + tailMore
	t.kept = append(t.kept, p[max(0, len(p)-most):]...)
	if len(t.kept) > 4*most {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-most:]...)
	}
	return len(p), nil
}

// text is at most tailBytes of clean, redacted text.
func (t *tail) text(redact func(string) string) string {
	kept := t.kept[max(0, len(t.kept)-tailBytes-tailMore):]
	text := redact(steplog.Clean(string(kept)))
	from := max(0, len(text)-tailBytes)
	for from < len(text) && !utf8.RuneStart(text[from]) {
		from++
	}
	return text[from:]
}

// beginning is at most n bytes of whole characters.
func beginning(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
