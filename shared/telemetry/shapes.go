package telemetry

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// shape is a form of credential. Its hints are lower-case text that it begins
// with, or that stands right before the secret; at each place that has one, in
// whatever case, match looks at what follows.
//
// match gets the text from the hint on, and the length of the hint. It returns
// the secret part, which is empty where there is none; the search goes on at its
// end. Every match is linear in what it passes, so hostile text costs no more
// than other text.
type shape struct {
	hints []string
	word  bool // the hint begins a word
	match func(text string, hint int) span

	// harmless tells what match found by mistake, by what stands before the hint, in
	// it, and as the secret part.
	harmless func(before, text string, hint int, m span) bool
}

// named is the value that follows a key: quoted text, to its end when the quote
// is never closed, or one word. The quotes may be escaped, as in JSON in a string.
var named = behind(`\\*["']?\s*(?:=>|:=|[:=])\s*\\*(?:"((?:[^"\\]|\\.)*)|'((?:[^'\\]|\\.)*)|([^\s"'&,;]+))`)

// header is the rest of the line that follows a key.
var header = behind(`\\*["']?\s*[:=]\s*\\*["']?([^\r\n"']+)`)

var shapes = []shape{
	{hints: []string{"password", "passwd", "passphrase", "_pass", "-pass", "secret", "token"}, match: named, harmless: ordinary},
	// A shell's PWD is a path, and no password.
	{hints: []string{"pwd"}, match: behind(`\\*["']?\s*(?:=>|[:=])\s*\\*["']?([^\s"'&,;/][^\s"'&,;]*)`)},
	{hints: keys(), match: named},
	{hints: []string{"amz-signature", "amz-credential", "?signature", "&signature", "?sig", "&sig"}, match: named},
	{hints: []string{"authorization", "cookie"}, match: header},
	{hints: []string{"bearer"}, match: behind(`\s+([A-Za-z0-9._~+/=-]{6,})`)},
	{hints: []string{"hooks.slack.com/"}, match: behind(`(\S+)`)},
	{hints: []string{"://"}, match: userinfo, harmless: hostPort},
	{hints: []string{"-----begin "}, match: pemBlock},
	{hints: []string{"eyj"}, match: jwt},

	{hints: []string{"nofx_live_", "nofx_test_", "nofx_dev_"}, match: whole(`nofx_[a-z]+_[A-Za-z0-9_-]+`)},
	{hints: []string{"akia", "asia", "aroa", "aida"}, match: whole(`[A-Z0-9]{20}`)},
	{hints: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, match: whole(`gh[a-z]_[A-Za-z0-9]{20,}`)},
	{hints: []string{"github_pat_"}, match: whole(`github_pat_[A-Za-z0-9_]{20,}`)},
	{hints: []string{"glpat-"}, match: whole(`glpat-[A-Za-z0-9_-]{16,}`)},
	{hints: []string{"xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-", "xapp-"}, match: whole(`x[a-z]{3}-[A-Za-z0-9-]{10,}`)},
	{hints: []string{"sk-", "sk_", "rk_"}, word: true, match: whole(`[sr]k[-_][A-Za-z0-9_-]{16,}`)},
	{hints: []string{"aiza"}, match: whole(`AIza[A-Za-z0-9_-]{30,}`)},
	{hints: []string{"npm_"}, match: whole(`npm_[A-Za-z0-9]{30,}`)},
	{hints: []string{"sbp_"}, match: whole(`sbp_[a-f0-9]{30,}`)},
	{hints: []string{"age-secret-key-"}, match: whole(`AGE-SECRET-KEY-[A-Z0-9]+`)},
}

// keys are the spellings of the names of secret keys.
func keys() []string {
	var all []string
	for _, of := range []string{"api", "access", "private", "secret", "signing", "encryption", "account", "role"} {
		for _, sep := range []string{"", "_", "-"} {
			all = append(all, of+sep+"key", of+sep+"key"+sep+"id")
		}
	}
	return all
}

// whole matches pattern from the hint on; all of it is secret.
func whole(pattern string) func(string, int) span {
	re := regexp.MustCompile(`^(?:` + pattern + `)`)
	return func(text string, hint int) span {
		if m := re.FindStringIndex(text); m != nil {
			return span{0, m[1]}
		}
		return span{hint, hint}
	}
}

// behind matches pattern right behind the hint; the group that took part is secret.
func behind(pattern string) func(string, int) span {
	re := regexp.MustCompile(`^(?:` + pattern + `)`)
	return func(text string, hint int) span {
		m := re.FindStringSubmatchIndex(text[hint:])
		for g := 2; g < len(m); g += 2 {
			if m[g] >= 0 {
				return span{hint + m[g], hint + m[g+1]}
			}
		}
		return span{hint, hint}
	}
}

// userinfo is what stands between :// and @. It ends at the last @ before the
// path; where it has a colon, at the last @ of the word, because a password with
// a bare slash is what brings such a URL into an error message.
func userinfo(text string, hint int) span {
	end := strings.IndexAny(text, " \t\r\n\"'<>")
	if end < 0 {
		end = len(text)
	}
	word := text[hint:end]
	if path := strings.IndexAny(word, "/?#"); path >= 0 && !strings.Contains(word[:path], ":") {
		word = word[:path]
	}
	at := strings.LastIndexByte(word, '@')
	return span{hint, hint + max(0, at)}
}

// webAuthority is a host, perhaps with a port, up to the path. A name of one word counts
// only with a port, before a path that begins with an @: else it may be a user's.
var webAuthority = regexp.MustCompile(`(?i)^(?:(?:localhost|\[[0-9a-f:.]+\]|[a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::([1-9][0-9]{0,4}))?[/?#]|[a-z0-9-]+:([1-9][0-9]{0,4})/@)`)

// hostPort reports that what looks like user and password is the host and port of a
// web address with an @ in its path.
func hostPort(before, text string, hint int, _ span) bool {
	before = strings.ToLower(before[max(0, len(before)-len("https")):])
	if !strings.HasSuffix(before, "http") && !strings.HasSuffix(before, "https") && !strings.HasSuffix(before, "ws") && !strings.HasSuffix(before, "wss") {
		return false
	}
	m := webAuthority.FindStringSubmatch(text[hint:])
	if m == nil {
		return false
	}
	_, err := strconv.ParseUint(cmp.Or(m[1], m[2], "80"), 10, 16)
	return err == nil
}

var (
	operator = regexp.MustCompile(`^[=:<>!&|(){}\[\]]{1,2}$`)
	literal  = regexp.MustCompile(`^(?:true|false|null|nil|none|None|undefined)[)\]}.]*$`)
	// counted is what is counted, or done, as passed, and the result.
	counted = regexp.MustCompile(`(?i)(?:^|[^a-z0-9])(?:tests|checks|cases|specs|suites|steps|gates|jobs|builds|assertions|total|num|count|did|first|second)$`)
	result  = regexp.MustCompile(`^(?:[0-9]{1,5}(?:[./][0-9]{1,5})?%?|true|false|yes|no)[)\]}.]*$`)
	// unexpected begins what a parser says of a token of the text that it reads.
	unexpected = regexp.MustCompile(`(?i)unexpected\s$`)
	parsed     = regexp.MustCompile(`^[^0-9]{1,15}$`)
)

// longestBefore is how much of what stands before a hint is looked at.
const longestBefore = 32

// ordinary reports that the bare word which follows the name of a secret is none: an
// operator, a literal of a language, a count of what passed, or what a parser read.
func ordinary(before, text string, hint int, m span) bool {
	value := text[m.from:m.to]
	if quote := text[m.from-1]; quote == '"' || quote == '\'' {
		return false
	}
	before = before[max(0, len(before)-longestBefore):]
	switch {
	case operator.MatchString(value) || literal.MatchString(value):
		return true
	case hasLower(text[1:], "pass") && hint == len("_pass"):
		return counted.MatchString(before) && result.MatchString(value)
	case hasLower(text, "token"):
		return unexpected.MatchString(before) && parsed.MatchString(value)
	}
	return false
}

// pemBlock is a block of PEM with its first and its last line, or all that there is
// where the last line is missing.
func pemBlock(text string, hint int) span {
	at := pemLine(text, "-----BEGIN ")
	if at == 0 {
		return span{hint, hint}
	}
	for {
		i := strings.Index(text[at:], "-----END ")
		if i < 0 {
			return span{0, len(text)}
		}
		at += i
		if end := pemLine(text[at:], "-----END "); end > 0 {
			return span{0, at + end}
		}
		at++
	}
}

// pemLine returns the length of a line like -----BEGIN X----- that text begins with, or 0.
func pemLine(text, start string) int {
	label, ok := strings.CutPrefix(text, start)
	if !ok {
		return 0
	}
	n := len(label) - len(strings.TrimLeft(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "))
	if n == 0 || !strings.HasPrefix(label[n:], "-----") {
		return 0
	}
	return len(start) + n + len("-----")
}

var (
	jwtShape = regexp.MustCompile(`^eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){1,3}`)
	jwtPart  = regexp.MustCompile(`^[A-Za-z0-9_-]+`)
)

// jwt is three or five parts of base64. Where the first part is not followed by
// others, nothing in it is a token either.
func jwt(text string, _ int) span {
	if m := jwtShape.FindStringIndex(text); m != nil {
		return span{0, m[1]}
	}
	end := len(jwtPart.FindString(text))
	return span{end, end}
}

// hint is one hint of a shape.
type hint struct {
	text  string
	index int // among all hints
	shape *shape
}

// hintTable has all hints by a hash of their first three bytes, so that one pass over
// a text finds all of them.
type hintTable struct {
	used  [hintSlots]bool // most text needs no other look
	slots [hintSlots][]hint
	count int
}

const hintSlots = 1 << 12

var hints = func() *hintTable {
	t := &hintTable{}
	for i := range shapes {
		for _, text := range shapes[i].hints {
			slot := hintSlot(text[0], text[1], text[2])
			t.used[slot] = true
			t.slots[slot] = append(t.slots[slot], hint{text, t.count, &shapes[i]})
			t.count++
		}
	}
	return t
}()

// hintSlot is where a hint is that begins with three lower-case bytes.
func hintSlot(a, b, c byte) int {
	return (int(a)<<7 ^ int(b)<<4 ^ int(c)) & (hintSlots - 1)
}

// secretShapes returns the parts of s that look like credentials.
func secretShapes(s string) []span {
	var found []span
	var next []int // for each hint, where it is looked for again
	for i := 0; i+2 < len(s); i++ {
		slot := hintSlot(lower[s[i]], lower[s[i+1]], lower[s[i+2]])
		if !hints.used[slot] {
			continue
		}
		for _, h := range hints.slots[slot] {
			if !hasLower(s[i:], h.text) {
				continue
			}
			if next == nil {
				next = make([]int, hints.count)
			}
			if i < next[h.index] || h.shape.word && i > 0 && isWord(s[i-1]) {
				continue
			}
			m := h.shape.match(s[i:], len(h.text))
			switch {
			case m.from == m.to:
			case h.shape.harmless != nil && h.shape.harmless(s[:i], s[i:], len(h.text), m):
				m.to = len(h.text)
			default:
				found = append(found, span{i + m.from, i + m.to})
			}
			next[h.index] = i + max(m.to, 1)
		}
	}
	return found
}

// hasLower reports whether s begins with hint, in whatever case.
func hasLower(s, hint string) bool {
	if len(s) < len(hint) {
		return false
	}
	for i := range len(hint) {
		if lower[s[i]] != hint[i] {
			return false
		}
	}
	return true
}

// lower is each byte as a lower-case letter if it is one of ASCII.
var lower = func() (table [256]byte) {
	for i := range table {
		table[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			table[i] += 'a' - 'A'
		}
	}
	return table
}()

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
