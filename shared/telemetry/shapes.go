package telemetry

import (
	"regexp"
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
}

// named is the value that follows a key: quoted text, to its end when the quote
// is never closed, or one word. The quotes may be escaped, as in JSON in a string.
var named = behind(`\\*["']?\s*(?:=>|[:=])\s*\\*(?:"((?:[^"\\]|\\.)*)|'((?:[^'\\]|\\.)*)|([^\s"'&,;]+))`)

// header is the rest of the line that follows a key.
var header = behind(`\\*["']?\s*[:=]\s*\\*["']?([^\r\n"']+)`)

var shapes = []shape{
	{hints: []string{"password", "passwd", "passphrase", "_pass", "-pass", "secret", "token"}, match: named},
	// A shell's PWD is a path, and no password.
	{hints: []string{"pwd"}, match: behind(`\\*["']?\s*(?:=>|[:=])\s*\\*["']?([^\s"'&,;/][^\s"'&,;]*)`)},
	{hints: keys(), match: named},
	{hints: []string{"amz-signature", "amz-credential", "?signature", "&signature", "?sig", "&sig"}, match: named},
	{hints: []string{"authorization", "cookie"}, match: header},
	{hints: []string{"bearer"}, match: behind(`\s+([A-Za-z0-9._~+/=-]{6,})`)},
	{hints: []string{"hooks.slack.com/"}, match: behind(`(\S+)`)},
	{hints: []string{"://"}, match: userinfo},
	{hints: []string{"-----begin "}, match: whole(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\z)`)},
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

// secretShapes are the parts of s that look like credentials.
func secretShapes(s string) []span {
	var found []span
	lower := asciiLower(s)
	for _, p := range shapes {
		for _, hint := range p.hints {
			for at := 0; ; {
				i := strings.Index(lower[at:], hint)
				if i < 0 {
					break
				}
				at += i
				if p.word && at > 0 && isWord(s[at-1]) {
					at += len(hint)
					continue
				}
				m := p.match(s[at:], len(hint))
				if m.from < m.to {
					found = append(found, span{at + m.from, at + m.to})
				}
				at += max(m.to, 1)
			}
		}
	}
	return found
}

// asciiLower keeps the length, as strings.ToLower does not.
func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
