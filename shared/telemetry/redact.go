package telemetry

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// A Redactor masks secrets in text that is about to leave the process: values it
// was given, in the clear and as base64, hex, URL or JSON text, and anything that
// has the shape of a credential (SECURITY.md §11). Its result is never longer
// than the text. It is immutable, so it may be used from anywhere; nil knows the
// shapes only.
type Redactor struct {
	values []string            // every form of every value
	heads  map[string][]string // the same, by their first shortest bytes
	pairs  [1024]uint64        // a bit for the first two bytes of each, which rules out most text
}

// shortest is the length below which a value cannot be distinguished from ordinary text.
const shortest = 4

// NewRedactor returns a redactor that masks values in addition to the shapes. Values of
// less than 4 bytes are ignored. Each line of a value with several lines is a value, too,
// because programs indent lines and end them in other ways.
func NewRedactor(values ...string) *Redactor { return (*Redactor)(nil).With(values...) }

// With returns a redactor that masks values, such as the secrets of one run, in addition to
// all that r masks.
func (r *Redactor) With(values ...string) *Redactor {
	all := &Redactor{heads: map[string][]string{}}
	if r != nil {
		all.values = slices.Clone(r.values)
	}
	add := func(v string) {
		for _, f := range forms(v) {
			if len(f) >= shortest {
				all.values = append(all.values, f)
			}
		}
	}
	for _, v := range values {
		add(v)
		if lines := strings.FieldsFunc(v, func(c rune) bool { return c == '\n' || c == '\r' }); len(lines) > 1 {
			for _, line := range lines {
				if line = strings.TrimSpace(line); len(line) >= 2*shortest {
					add(line)
				}
			}
		}
	}
	slices.Sort(all.values)
	all.values = slices.Compact(all.values)
	for _, v := range all.values {
		all.heads[v[:shortest]] = append(all.heads[v[:shortest]], v)
		pair := uint16(v[0])<<8 | uint16(v[1])
		all.pairs[pair/64] |= 1 << (pair % 64)
	}
	return all
}

// find returns where the values are in s, in order; they may overlap.
func (r *Redactor) find(s string) (found []span) {
	if r == nil || len(r.values) == 0 {
		return nil
	}
	for i := 0; i+shortest <= len(s); i++ {
		pair := uint16(s[i])<<8 | uint16(s[i+1])
		if r.pairs[pair/64]&(1<<(pair%64)) == 0 {
			continue
		}
		for _, v := range r.heads[s[i:i+shortest]] {
			if strings.HasPrefix(s[i:], v) {
				found = append(found, span{i, i + len(v)})
			}
		}
	}
	return found
}

// forms returns the spellings of a value to search for.
func forms(v string) []string {
	quoted, _ := json.Marshal(v) // a string always marshals
	all := []string{
		v, strings.Trim(string(quoted), `"`),
		url.QueryEscape(v), url.PathEscape(v), strings.ReplaceAll(url.QueryEscape(v), "+", "%20"), // the last as encodeURIComponent
		hex.EncodeToString([]byte(v)), strings.ToUpper(hex.EncodeToString([]byte(v))),
	}
	for shift := range 3 {
		// The part of the base64 text that does not depend on the bytes before and after
		// the value, for each alignment. Four bytes would leave only a few letters, which
		// ordinary words contain, too.
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

// mark is a sequence for a terminal, such as one that sets a colour.
var mark = regexp.MustCompile(`(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]+[0-~]|\x1b[0-Z\\-~]`)

// secrets returns where the secrets are in s, in any order; they may overlap.
func (r *Redactor) secrets(s string) []span { return append(secretShapes(s), r.find(s)...) }

// marked returns where in s the secrets are that have marks in them or next to them.
func (r *Redactor) marked(s string) []span {
	if strings.IndexByte(s, 0x1b) < 0 && !strings.Contains(s, "\u009b") {
		return nil
	}
	var plain strings.Builder
	var pieces []span // from where in plain, and how much longer s is up to there
	done := 0
	for _, m := range append(mark.FindAllStringIndex(s, -1), []int{len(s), len(s)}) {
		pieces = append(pieces, span{plain.Len(), done - plain.Len()})
		plain.WriteString(s[done:m[0]])
		done = m[1]
	}
	origin := func(at int) int {
		after := sort.Search(len(pieces), func(i int) bool { return pieces[i].from > at })
		return at + pieces[after-1].to
	}
	found := r.secrets(plain.String())
	for i, m := range found {
		found[i] = span{origin(m.from), origin(m.to-1) + 1}
	}
	return found
}

// String returns s with every secret masked. Each secret is searched for in s itself, with
// and without its marks, and not in text that is already masked, so that one mask cannot
// hide or create another.
func (r *Redactor) String(s string) string {
	found := append(r.secrets(s), r.marked(s)...)
	if len(found) == 0 {
		return s
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	done, cur := 0, found[0]
	flush := func() {
		out.WriteString(s[done:cur.from])
		if n, quote, ok := jsonNumber(s, cur); ok && n == cur {
			out.WriteString(maskNumber(cur.to-cur.from, quote))
		} else {
			out.WriteString(mask(cur.to - cur.from))
		}
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

// number matches a JSON number and the byte that ends it.
var number = regexp.MustCompile(`^(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?:[\s,}\]]|$)`)

// jsonNumber returns the number at the beginning of the span m of s, if it is the value of
// a member of a JSON document, and the form of quotes in that document: with backslashes if
// the document is itself a string of another document.
func jsonNumber(s string, m span) (n span, quote string, ok bool) {
	before, isMember := strings.CutSuffix(strings.TrimRight(s[:m.from], " \t\r\n["), ":")
	before, isName := strings.CutSuffix(strings.TrimRight(before, " \t\r\n"), `"`)
	if !isMember || !isName {
		return m, "", false
	}
	escapes := len(before) - len(strings.TrimRight(before, `\`))
	quote = s[len(before)-escapes : len(before)+1]
	m.from += len(s[m.from:m.to]) - len(strings.TrimLeft(s[m.from:m.to], "["))
	found := number.FindStringSubmatchIndex(s[m.from:])
	if found == nil {
		return m, "", false
	}
	return span{m.from, m.from + found[3]}, quote, true
}

// maskNumber stands for a number of n bytes in a JSON document and is no longer than
// that: a text, or 0 where no quotes fit.
func maskNumber(n int, quote string) string {
	if n -= 2 * len(quote); n < 0 {
		return "0"
	}
	return quote + mask(n) + quote
}
