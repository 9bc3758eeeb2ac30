package sieve

import "unicode/utf8"

// Tail keeps the end of what is written to it, clean and redacted.
type Tail struct {
	sieve Sieve
	most  int
	kept  []byte
}

// NewTail makes a Tail of at most n bytes.
func NewTail(n int, redact func(string) string) *Tail { return &Tail{sieve: New(redact), most: n} }

func (t *Tail) Write(p []byte) (int, error) {
	t.keep(t.sieve.Pass(p))
	return len(p), nil
}

func (t *Tail) keep(text []byte) {
	t.kept = append(t.kept, text[max(0, len(text)-t.most):]...)
	if len(t.kept) > 4*t.most {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.most:]...)
	}
}

// End returns the end of all that was written. Nothing is written after it.
func (t *Tail) End() string {
	t.keep(t.sieve.End())
	from := max(0, len(t.kept)-t.most)
	for from < len(t.kept) && !utf8.RuneStart(t.kept[from]) {
		from++
	}
	return string(t.kept[from:])
}

// Beginning returns the first bytes of s, at most n, of whole characters.
func Beginning(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
