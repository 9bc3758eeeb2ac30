package telemetry

import (
	"regexp"
	"strings"
)

// shape is a form of credential. Its hints are lower-case texts at the beginning of the
// credential or right before the secret. At each place that has a hint, in upper or lower
// case, match examines the text that follows.
//
// match gets the text before the hint, the text from it on, and its length. It returns the
// secret part, which is empty if there is none; the search continues at its end. Every
// match is linear in the text that it reads, and reads no text twice, so hostile text costs
// no more than other text.
type shape struct {
	hints []string
	word  bool // the hint begins a word
	match func(before, text string, hint int) span

	// harmless reports whether a match is not a secret, from the text before the hint, the
	// hint, and the secret part.
	harmless func(before, text string, hint int, m span) bool
}

// quotable returns the expression of a value: quoted text, to its end when the quote is
// never closed, or one
// word that begins with none of the bytes of not.
func quotable(not string) string {
	return `\\*(?:"((?:[^"\\]|\\.)*)|'((?:[^'\\]|\\.)*)|([^\s"'&,;` + not + `][^\s"'&,;]*))`
}

// gap is between two arguments of a command, in a shell or in a list of JSON.
const gap = `["'\\]*[\s,]+`

var (
	// assigned is the value that follows a key.
	assigned = behind(`\\*["']?\s*(?:=>|:=|[:=])\s*` + quotable(""))
	// argument is the value that follows an option.
	argument = behind(gap + quotable(`\\-`))
	// header is the rest of the line that follows a key.
	header = behind(`\\*["']?\s*[:=]\s*\\*["']?([^\r\n"']+)`)
)

// optionName matches the text before a hint that ends the long name of an option.
var optionName = regexp.MustCompile(`(?:^|[^A-Za-z0-9-])-{1,2}(?:[A-Za-z0-9]+-)*$`)

// named returns the place of the value that follows a key, or an option of that name.
func named(before, text string, hint int) span {
	m := assigned(before, text, hint)
	if m.from == m.to && optionName.MatchString(before[max(0, len(before)-longestBefore):]+text[:hint-len(strings.TrimLeft(text[:hint], "-"))]) {
		return argument(before, text, hint)
	}
	return m
}

var shapes = []shape{
	{hints: []string{"password", "passwd", "passphrase", "_pass", "-pass", "secret", "token"}, match: named, harmless: ordinary},
	// A shell's PWD is a path, and no password.
	{hints: []string{"pwd"}, match: behind(`\\*["']?\s*(?:=>|[:=])\s*\\*["']?([^\s"'&,;/][^\s"'&,;]*)`), harmless: directory},
	{hints: keys(), match: named, harmless: ordinary},
	{hints: []string{":_auth", "client-key-data", "secret_key_base"}, match: named, harmless: ordinary},
	{hints: []string{"pass"}, word: true, match: named, harmless: passed},
	{hints: []string{"credential", "credentials"}, match: named, harmless: mode},
	{hints: []string{"auth"}, match: behind(`\\*["']?\s*[:=]\s*\\*["']?([A-Za-z0-9+/]{8,})`), harmless: noPair},
	{hints: []string{"basic"}, word: true, match: behind(`\s+([A-Za-z0-9+/]{8,})`), harmless: noPair},
	// The lines of a netrc file, or one for all.
	{hints: []string{"machine", "default"}, word: true, match: behind(`(?:\s+\S+)?(?:(?:\s+(?:login|account)\s+\S+){1,2}\s+password\s+([^\s"']+)|\s+password\s+([^\s"']+)\s+login\s)`), harmless: ordinary},
	{hints: []string{"amz-signature", "amz-credential", "?signature", "&signature", "?sig", "&sig"}, match: assigned},
	{hints: []string{"authorization", "cookie"}, match: header, harmless: remark},
	{hints: []string{"bearer"}, match: behind(`\s+([A-Za-z0-9._~+/=-]{6,})`), harmless: words},
	{hints: []string{"hooks.slack.com/", "discord.com/api/webhooks/", "discordapp.com/api/webhooks/"}, match: behind(`(\S+)`)},
	{hints: []string{"telegram.org/bot"}, match: behind(`([0-9]+(?::|%3[Aa])[A-Za-z0-9_-]+)`)},
	{hints: []string{":aa"}, match: whole(`:AA[A-Za-z0-9_-]{32,}`), harmless: noBot},
	{hints: []string{"://"}, match: userinfo},
	{hints: []string{"-----begin "}, match: pemBlock},
	{hints: []string{"eyj"}, match: jwt},

	{hints: []string{"nofx_live_", "nofx_test_", "nofx_dev_"}, match: whole(`nofx_[a-z]+_[A-Za-z0-9_-]+`)},
	{hints: []string{"akia", "asia", "aroa", "aida"}, match: whole(`[A-Z0-9]{20}`)},
	{hints: []string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, match: whole(`gh[a-z]_[A-Za-z0-9]{20,}`)},
	{hints: []string{"github_pat_"}, match: whole(`github_pat_[A-Za-z0-9_]{20,}`)},
	{hints: []string{"glpat-"}, match: whole(`glpat-[A-Za-z0-9_-]{16,}`)},
	{hints: []string{"xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-", "xapp-"}, match: whole(`x[a-z]{3}-[A-Za-z0-9-]{10,}`)},
	{hints: []string{"sk-", "sk_", "rk_"}, word: true, match: whole(`[sr]k[-_][A-Za-z0-9_-]{16,}`), harmless: words},
	{hints: []string{"aiza"}, match: whole(`AIza[A-Za-z0-9_-]{30,}`)},
	{hints: []string{"npm_"}, match: whole(`npm_[A-Za-z0-9]{30,}`)},
	{hints: []string{"sbp_"}, match: whole(`sbp_[a-f0-9]{30,}`)},
	{hints: []string{"age-secret-key-"}, match: whole(`AGE-SECRET-KEY-[A-Z0-9]+`)},

	{hints: []string{"dop_v1_", "doo_v1_", "dor_v1_"}, match: whole(`do[a-z]_v1_[a-f0-9]{30,}`)},
	{hints: []string{"hf_"}, word: true, match: whole(`hf_[A-Za-z0-9]{20,}`)},
	{hints: []string{"sg."}, word: true, match: whole(`SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}`)},
	// Names of packages have a hyphen sooner.
	{hints: []string{"pypi-"}, match: whole(`pypi-[A-Za-z0-9_]{16,}[A-Za-z0-9_-]*`)},
	{hints: []string{"whsec_"}, match: whole(`whsec_[A-Za-z0-9+/=_-]{16,}`)},
	{hints: []string{"dckr_pat_", "dckr_oat_"}, match: whole(`dckr_[a-z]+_[A-Za-z0-9_-]{16,}`)},
	{hints: []string{"gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-"}, word: true, match: whole(`gl[a-z]+-[A-Za-z0-9_-]{16,}`)},
	{hints: []string{"glsa_", "glc_"}, word: true, match: whole(`gl[a-z]+_[A-Za-z0-9+/=_]{20,}`)},
	{hints: []string{"gsk_", "xai-", "pplx-"}, word: true, match: whole(`[a-z]+[-_][A-Za-z0-9]{30,}`)},
	{hints: []string{"nvapi-"}, word: true, match: whole(`nvapi-[A-Za-z0-9_-]{40,}`)},
	{hints: []string{"hvs.", "hvb.", "hvr."}, word: true, match: whole(`hv[sbr]\.[A-Za-z0-9_-]{20,}`)},
	{hints: []string{"atlasv1."}, match: whole(`atlasv1\.[A-Za-z0-9_=-]{20,}`)},
	{hints: []string{"shpat_", "shpca_", "shppa_", "shpss_"}, match: whole(`shp[a-z]+_[A-Fa-f0-9]{30,}`)},
	{hints: []string{"dapi"}, word: true, match: whole(`dapi[a-f0-9]{32}`)},
	{hints: []string{"gocspx-"}, match: whole(`GOCSPX-[A-Za-z0-9_-]{20,}`)},
	{hints: []string{"ya29."}, word: true, match: whole(`ya29\.[A-Za-z0-9_-]{20,}`)},
	{hints: []string{"lin_api_", "lin_oauth_"}, word: true, match: whole(`lin_[a-z]+_[A-Za-z0-9]{30,}`)},
	{hints: []string{"rubygems_"}, match: whole(`rubygems_[a-f0-9]{40,}`)},
	{hints: []string{"atatt3", "atctt3"}, match: whole(`AT[AC]TT3[A-Za-z0-9_=-]{20,}`)},
	{hints: []string{"tskey-"}, match: whole(`tskey-[a-z]+-[A-Za-z0-9-]{16,}`)},
	{hints: []string{"pmak-"}, match: whole(`PMAK-[a-f0-9]{20,}-[a-f0-9]{20,}`)},
	{hints: []string{"sntrys_", "sntryu_"}, match: whole(`sntry[su]_[A-Za-z0-9+/=_]{30,}`)},
	{hints: []string{"pscale_"}, match: whole(`pscale_[a-z]+_[A-Za-z0-9_=.-]{30,}`)},
	{hints: []string{"dp.pt.", "dp.st.", "dp.ct."}, word: true, match: whole(`dp\.[a-z]+\.[A-Za-z0-9_.-]{40,}`)},
	{hints: []string{"sb_secret_"}, match: whole(`sb_secret_[A-Za-z0-9_-]{16,}`)},
	{hints: []string{"xkeysib-"}, match: whole(`xkeysib-[a-f0-9]{40,}-[A-Za-z0-9]{10,}`)},
	{hints: []string{"figd_"}, word: true, match: whole(`figd_[A-Za-z0-9_-]{20,}`)},
	{hints: []string{"ntn_"}, word: true, match: whole(`ntn_[A-Za-z0-9]{30,}`)},
	{hints: []string{"r8_"}, word: true, match: whole(`r8_[A-Za-z0-9]{30,}`)},
	{hints: []string{"nrak-"}, match: whole(`NRAK-[A-Z0-9]{20,}`)},
	{hints: []string{"lsv2_pt_", "lsv2_sk_"}, match: whole(`lsv2_[a-z]+_[a-f0-9]{30,}(?:_[a-f0-9]+)?`)},
	{hints: []string{"bkua_"}, match: whole(`bkua_[a-f0-9]{30,}`)},
	{hints: []string{"ccipat_"}, match: whole(`CCIPAT_[A-Za-z0-9_]{20,}`)},
	{hints: []string{"pul-"}, word: true, match: whole(`pul-[a-f0-9]{40}`)},
	{hints: []string{"sq0csp-", "sq0atp-", "sq0idp-"}, match: whole(`sq0[a-z]+-[A-Za-z0-9_-]{20,}`)},
	{hints: []string{"clojars_"}, match: whole(`CLOJARS_[a-z0-9]{40,}`)},
	{hints: []string{"oy2"}, word: true, match: whole(`oy2[a-z0-9]{43}\b`)},
	{hints: digits("sk"), word: true, match: whole(`SK[a-f0-9]{32}\b`)},
	{hints: []string{"key-"}, word: true, match: whole(`key-[a-f0-9]{32}\b`), harmless: joined},

	{hints: []string{"curl"}, word: true, match: given(`(?:-[A-Za-z]*u(?:`+gap+`)?|--(?:proxy-)?user(?:=|`+gap+`))`,
		`\\*(?:'[^':]*:([^']+)|"[^":]*:([^"\\]+)|[^\s"':]*:([^\s"'\\]+))`)},
	{hints: []string{"mysql", "mariadb"}, word: true, match: given(`-p`, shellWord)},
	{hints: []string{"sshpass", "docker login", "podman login"}, word: true, match: given(`-p(?:`+gap+`)?`, shellWord)},
	{hints: []string{"redis-cli"}, word: true, match: given(`-a`+gap, shellWord)},
}

// shellWord is a word of a shell, or of a list of JSON.
const shellWord = `\\*(?:'([^']+)|"([^"\\]+)|([^\s"'\\]+))`

// commandEnd is what may follow the name of a command before its arguments.
var commandEnd = regexp.MustCompile(`^[a-z_-]*(?:\.exe)?["'\\]*[\s,]`)

// line is the rest of a shell's line, which continues after a backslash.
var line = regexp.MustCompile(`^(?:[^\n\\]|\\\r?\n|\\)*`)

// given matches value after option in the rest of the line that names a command. The group
// of value that took part is secret.
func given(option, value string) func(string, string, int) span {
	match := behind(`(?:[^\n\\]|\\\r?\n|\\)*?[ \t"']` + option + value)
	return func(before, text string, hint int) span {
		if !commandEnd.MatchString(text[hint:]) {
			return span{hint, hint}
		}
		m := match(before, text, hint)
		if m.from == m.to { // so no other command in this line has any
			end := len(line.FindString(text))
			return span{end, end}
		}
		return m
	}
}

// keys returns the spellings of the names of secret keys.
func keys() []string {
	var all []string
	for _, of := range []string{"api", "access", "private", "secret", "signing", "encryption", "account", "role"} {
		for _, sep := range []string{"", "_", "-"} {
			all = append(all, of+sep+"key", of+sep+"key"+sep+"id")
		}
	}
	return all
}

// digits returns the hints that begin with start and a hexadecimal digit.
func digits(start string) []string {
	var all []string
	for _, c := range "0123456789abcdef" {
		all = append(all, start+string(c))
	}
	return all
}

// whole matches pattern from the hint on; all of it is secret.
func whole(pattern string) func(string, string, int) span {
	re := regexp.MustCompile(`^(?:` + pattern + `)`)
	return func(_, text string, hint int) span {
		if m := re.FindStringIndex(text); m != nil {
			return span{0, m[1]}
		}
		return span{hint, hint}
	}
}

// behind matches pattern right after the hint; the group that matched is the secret.
func behind(pattern string) func(string, string, int) span {
	re := regexp.MustCompile(`^(?:` + pattern + `)`)
	return func(_, text string, hint int) span {
		m := re.FindStringSubmatchIndex(text[hint:])
		for g := 2; g < len(m); g += 2 {
			if m[g] >= 0 {
				return span{hint + m[g], hint + m[g+1]}
			}
		}
		return span{hint, hint}
	}
}

// userinfo returns the place of the text between :// and @. It ends at the last @ before
// the path; where it has a colon, at the last @ of the word, because URLs end up in error
// messages when their password contains an unescaped slash.
func userinfo(before, text string, hint int) span {
	none := span{hint, hint}
	if webPort(before, text[hint:]) {
		return none
	}
	rest := text[hint:]
	end := strings.IndexAny(rest, ":/?# \t\r\n\"'<>")
	if end >= 0 && rest[end] == ':' {
		end = strings.IndexAny(rest, " \t\r\n\"'<>")
	}
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	switch {
	case at < 0:
		return span{hint + end, hint + end} // and no other URL in there has one
	case loginName(before, rest[:at]):
		return none
	}
	return span{hint, hint + at}
}

// pemBlock returns the place of a block of PEM with its first and its last line, or of all
// that there is
// where the last line is missing.
func pemBlock(_, text string, hint int) span {
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

// jwt returns the place of three or five parts of base64. Where the first part is not followed by
// others, nothing in it is a token either.
func jwt(_, text string, _ int) span {
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
	used  [hintSlots]bool // rules out most text
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

// hintSlot returns the slot of a hint that begins with three lower-case bytes.
func hintSlot(a, b, c byte) int {
	return (int(a)<<7 ^ int(b)<<4 ^ int(c)) & (hintSlots - 1)
}

// secretShapes returns the parts of s that look like credentials.
func secretShapes(s string) []span {
	var found []span
	var next []int // for each hint, the place where its search continues
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
			m := h.shape.match(s[:i], s[i:], len(h.text))
			switch {
			case m.from == m.to || reference.MatchString(s[i+m.from:i+m.to]):
			case h.shape.harmless != nil && h.shape.harmless(s[:i], s[i:], len(h.text), m):
				m.to = len(h.text)
			default:
				secret := span{i + m.from, i + m.to}
				if n, _, ok := jsonNumber(s, secret); ok {
					secret = n
				}
				found = append(found, secret)
			}
			next[h.index] = i + max(m.to, 1)
		}
	}
	return found
}

// hasLower reports whether s begins with hint, in upper or lower case.
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
