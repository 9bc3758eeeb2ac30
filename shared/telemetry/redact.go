package telemetry

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// A Redactor masks secrets in text that is about to leave the process: values it
// was given, in the clear and as base64, hex, URL or JSON text, and anything that
// has the shape of a credential (SECURITY.md §11). Its result is never longer
// than the text. It is immutable, so it may be used from anywhere; nil knows the
// shapes only.
type Redactor struct {
	values []string // every form of every value
}

// shortest is the length below which a value cannot be told from ordinary text.
const shortest = 4

// NewRedactor knows values besides the shapes. Values of less than 4 bytes are
// not looked for.
func NewRedactor(values ...string) *Redactor { return (*Redactor)(nil).With(values...) }

// With is a redactor that knows values besides all that r knows, such as the
// secrets of one run.
func (r *Redactor) With(values ...string) *Redactor {
	all := &Redactor{}
	if r != nil {
		all.values = slices.Clone(r.values)
	}
	for _, v := range values {
		for _, f := range forms(v) {
			if len(f) >= shortest {
				all.values = append(all.values, f)
			}
		}
	}
	slices.Sort(all.values)
	all.values = slices.Compact(all.values)
	return all
}

// forms are the spellings of a value that we look for.
func forms(v string) []string {
	quoted, _ := json.Marshal(v) // a string always marshals
	all := []string{
		v, strings.Trim(string(quoted), `"`),
		url.QueryEscape(v), url.PathEscape(v),
		hex.EncodeToString([]byte(v)), strings.ToUpper(hex.EncodeToString([]byte(v))),
	}
	for shift := range 3 {
		// The part of the base64 text that does not depend on what stands
		// before and after the value, for each way it can be aligned. Four
		// bytes would leave a few letters, which ordinary words have too.
		if len(v) < 2*shortest {
			break
		}
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := enc.EncodeToString(append(make([]byte, shift), v...))
			all = append(all, text[(shift*8+5)/6:(shift+len(v))*8/6])
		}
	}
	return all
}

// span is a part of a text, as byte offsets.
type span struct{ from, to int }

// String is s with every secret masked. All are looked for in s itself, not in
// what an earlier mask left, so that one cannot hide or make another.
func (r *Redactor) String(s string) string {
	found := secretShapes(s)
	if r != nil {
		for _, v := range r.values {
			for at := 0; ; at++ { // occurrences may overlap
				i := strings.Index(s[at:], v)
				if i < 0 {
					break
				}
				at += i
				found = append(found, span{at, at + len(v)})
			}
		}
	}
	if len(found) == 0 {
		return s
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	done, cur := 0, found[0]
	flush := func() {
		out.WriteString(s[done:cur.from])
		out.WriteString(mask(cur.to - cur.from))
		done = cur.to
	}
	for _, next := range found[1:] {
		if next.from <= cur.to {
			cur.to = max(cur.to, next.to)
			continue
		}
		flush()
		cur = next
	}
	flush()
	out.WriteString(s[done:])
	return out.String()
}

const masked = "[redacted]"

// mask stands for n bytes and is no longer than that.
func mask(n int) string {
	if n < len(masked) {
		return "***"[:min(n, 3)]
	}
	return masked
}
