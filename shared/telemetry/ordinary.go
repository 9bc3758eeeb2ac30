package telemetry

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// reference is a value that only says where a secret is: a variable of a shell, a
// template, the output of a command. A name or a scheme may stand before it. A variable
// without braces is in capitals, or its name says that it is a secret: other text with
// a dollar may be a password.
var reference = regexp.MustCompile(`^(?:[A-Za-z0-9_.${}-]*:|(?i:bearer|basic|token)\s+)?(?:` +
	`\$[A-Z]+(?:_[A-Z0-9]+)*|\$[a-z_]*(?:password|passwd|passphrase|pass|secret|token|key)|` +
	`\$\{[A-Za-z_][A-Za-z0-9_]*(?:\}|:?\?[A-Za-z _-]*\}?)|\$[0-9]|\$\{\{[\sA-Za-z0-9_.-]*(?:\}\})?|\$\([a-z]+|%[A-Z_]+%)[)\]}.]*$`)

// shortName is the name of somebody, and too short and plain for a token.
var shortName = regexp.MustCompile(`^[A-Za-z]{1,12}(?:[._-][A-Za-z]{1,12}){0,2}[0-9]{0,2}$`)

// loginName reports whether what stands before the @ of a URL is just a name, without a
// password: as it always is with these schemes, or because it looks like one.
func loginName(before, user string) bool {
	if strings.Contains(user, ":") {
		return false
	}
	if shortName.MatchString(user) {
		return true
	}
	scheme := before[max(0, len(before)-longestBefore):]
	scheme = strings.ToLower(scheme[strings.LastIndexFunc(scheme, func(c rune) bool { return c > 0x7f || !isWord(byte(c)) })+1:])
	switch scheme {
	case "ssh", "sftp", "ftp", "rsync", "postgres", "postgresql", "mysql", "smb":
		return true
	}
	return false
}

// webAuthority is a host, perhaps with a port, up to the path. A name of one word counts
// only with a port, before a path that begins with an @: else it may be a user's.
var webAuthority = regexp.MustCompile(`(?i)^(?:(?:localhost|\[[0-9a-f:.]+\]|[a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::([1-9][0-9]{0,4}))?[/?#]|[a-z0-9-]+:([1-9][0-9]{0,4})/@)`)

// webPort reports whether what looks like user and password is the host and port of a
// web address, which may have an @ in its path. rest is what follows ://.
func webPort(before, rest string) bool {
	before = strings.ToLower(before[max(0, len(before)-len("https")):])
	if !strings.HasSuffix(before, "http") && !strings.HasSuffix(before, "https") && !strings.HasSuffix(before, "ws") && !strings.HasSuffix(before, "wss") {
		return false
	}
	m := webAuthority.FindStringSubmatch(rest)
	if m == nil {
		return false
	}
	_, err := strconv.ParseUint(cmp.Or(m[1], m[2], "80"), 10, 16)
	return err == nil
}

var (
	operator = regexp.MustCompile(`^(?:[=:<>!&|(){}\[\]]{1,2}|[\[{][)\]}]*)$`)
	literal  = regexp.MustCompile(`^\[*(?:true|false|null|nil|none|None|undefined)[)\]}.]*$`)
	// placeholder matches the placeholder of a value in a usage text.
	placeholder = regexp.MustCompile(`^(?:<[A-Za-z_-]+>?|[A-Z_]*(?:PASSWORD|TOKEN|SECRET|KEY)|(?:[A-Z][a-z]+){0,3}(?:Token|Secret|Key))[)\]}.?>\[]*$`)
	// called is code that gets a secret from elsewhere, up to the first quote. Listed is
	// such code behind a colon, where a password is likelier: its brackets are empty, or
	// end there.
	called = regexp.MustCompile(`^(?:await|new|` + settings + `|` + callee + `[(\[](?:[A-Za-z_.]*|[A-Za-z0-9_.]*[)\]][A-Za-z_.()\[\]}]*))$`)
	listed = regexp.MustCompile(`^(?:await|new|` + settings + `|` + callee + `(?:\(\)[A-Za-z_.()\[\]}]*|[(\[]))$`)
	// counted matches a word for a count or an action, such as passed, and its result.
	counted = regexp.MustCompile(`(?i)(?:^|[^a-z0-9])(?:tests|checks|cases|specs|suites|steps|gates|jobs|builds|assertions|total|num|count|did|first|second)$`)
	result  = regexp.MustCompile(`^(?:[0-9]{1,5}(?:[./][0-9]{1,5})?%?|true|false|yes|no)[)\]}.]*$`)
	// expected matches the end of a parser's message before it quotes a token of its input.
	expected = regexp.MustCompile(`(?i)expected\s$`)
	parsed   = regexp.MustCompile(`^[^0-9]{1,15}$`)
	// few is too small a number for a token: a count, or a place.
	few = regexp.MustCompile(`^[0-9]{1,4}[)\]}.]*$`)
	// said matches the beginning of a remark about a secret, such as cannot be blank, or
	// its type.
	said = regexp.MustCompile(`(?i)^(?:` +
		`is|are|was|were|has|have|had|does|did|can|cannot|could|may|might|must|should|shall|will|would|needs|too|not|no|at|and|or|to|for|from|in|if|when|with|the|an|of|as|` +
		`accepted|blank|changed|denied|empty|expected|expired|incorrect|invalid|mandatory|maximum|minimum|mismatch|missing|needed|optional|ok|refused|rejected|required|reset|revoked|set|unchanged|unknown|unset|updated|valid|wrong|` +
		`flag|option|argument|given|` +
		`any|bool|boolean|bytes|char|int|integer|number|object|str|string|text|varchar)[.:!?)\]}]*$`)
	plain = regexp.MustCompile(`^[A-Za-z]+(?: [a-z]+)*[)\]}.]*$`)
)

// settings matches a member of the objects that usually hold a program's settings.
const settings = `(?:process\.env|import\.meta\.env|env|self|this|cfg|config|settings|secrets)(?:\.[A-Za-z_]{1,32}){1,3}[)\]}]*`

// callee is the name of a function or a list.
const callee = `(?:[A-Za-z_]+|[A-Za-z_]+(?:\.[A-Za-z_][A-Za-z0-9_]*)+)`

var (
	// wordy is text of a few words of a language, in which a token would have more letters
	// or some digits.
	wordy = regexp.MustCompile(`^[A-Za-z][a-z]{0,15}(?:[-_][a-z]{1,15}){0,7}[=.]?$`)
	// outcome matches the result of a pass over something: a word, or its duration.
	outcome = regexp.MustCompile(`^(?:[A-Za-z]{1,15}|[0-9.]{1,6}[a-z%]{0,3})[)\]}.]*$`)
	// stage is one of several.
	stage = regexp.MustCompile(`^[A-Za-z]{1,15}-?[0-9]{1,2}[)\]}.]*$`)
	// place is a directory or a file, of plain words or marked as such.
	place = regexp.MustCompile(`^(?:[A-Za-z]:\\[\w.\\-]*|(?:~|\.{1,2})(?:/[\w./-]*)?|/?` + segment + `(?:/` + segment + `)+/?)[)\]}]*$`)
	// botID is the number of a bot, which stands before its secret.
	botID = regexp.MustCompile(`[0-9]{6,}$`)
)

const segment = `[a-z._-]{1,32}[0-9]{0,2}`

// longestBefore is the number of bytes before a hint that are examined.
const longestBefore = 32

// quoted reports whether the value m of text is in quotes.
func quoted(text string, m span) bool {
	quote := text[m.from-1]
	return quote == '"' || quote == '\''
}

// ordinary reports whether the unquoted word after the name of a secret is not a secret: an
// operator, a literal of a language, a placeholder, the first word of a remark about the
// secret, a count, or input quoted by a parser.
func ordinary(before, text string, hint int, m span) bool {
	if quoted(text, m) {
		return false
	}
	value := text[m.from:m.to]
	before = before[max(0, len(before)-longestBefore):]
	blank := text[m.from-1] == ' ' // and so no assignment of a shell, nor a next line
	switch {
	case blank && text[m.from-2] == '=':
		if called.MatchString(value) {
			return true
		}
	case blank && listed.MatchString(value):
		return true
	}
	switch {
	case operator.MatchString(value) || literal.MatchString(value):
		return true
	case blank && text[m.from-2] != '=' && (said.MatchString(value) || placeholder.MatchString(value)):
		return true
	case hasLower(text[1:], "pass") && hint == len("_pass"):
		return counted.MatchString(before) && result.MatchString(value)
	case hasLower(text, "token"):
		return few.MatchString(value) || expected.MatchString(before) && parsed.MatchString(value)
	}
	return false
}

// remark reports whether the text after the name of a header is a remark about it: for
// cookies a few words, since a cookie has a name and a value; for other headers a remark
// about a secret.
func remark(_, text string, _ int, m span) bool {
	value := text[m.from:m.to]
	if quoted(text, m) || !plain.MatchString(value) {
		return false
	}
	first, _, _ := strings.Cut(value, " ")
	return hasLower(text, "cookie") && first == strings.ToLower(first) || said.MatchString(first)
}

// passed reports whether the text after the word pass is not a password: the result of a
// pass over something, or the name of a test that passed.
func passed(before, text string, hint int, m span) bool {
	value := text[m.from:m.to]
	if result.MatchString(value) || literal.MatchString(value) {
		return true
	}
	if quoted(text, m) || text[m.from-1] != ' ' {
		return false
	}
	over := strings.TrimRight(before[max(0, len(before)-longestBefore):], " _-")
	return strings.HasPrefix(text, "PASS:") || outcome.MatchString(value) || counted.MatchString(over) && stage.MatchString(value) || ordinary(before, text, hint, m)
}

// mode reports whether the text after the word credentials says which credentials to use,
// or where they are.
func mode(before, text string, hint int, m span) bool {
	value := text[m.from:m.to]
	apart := quoted(text, m) || text[m.from-1] == ' '
	return apart && wordy.MatchString(value) || place.MatchString(value) || ordinary(before, text, hint, m)
}

// directory reports whether the text after the name of the working directory is a
// directory.
func directory(before, text string, hint int, m span) bool {
	apart := quoted(text, m) || text[m.from-1] == ' '
	return apart && place.MatchString(text[m.from:m.to]) || ordinary(before, text, hint, m)
}

// words reports whether the text that looks like a token consists of words.
func words(_, text string, _ int, m span) bool { return wordy.MatchString(text[m.from:m.to]) }

// joined reports whether the hint is the beginning of a longer name.
func joined(before, _ string, _ int, _ span) bool {
	return strings.HasSuffix(before, "-") || strings.HasSuffix(before, "_")
}

// noBot reports whether the hint has no number of a bot before it.
func noBot(before, _ string, _ int, _ span) bool {
	return !botID.MatchString(before[max(0, len(before)-longestBefore):])
}

// noPair reports whether the value is not the base64 text of a user and a password.
func noPair(_, text string, _ int, m span) bool {
	value := text[m.from:m.to]
	pair, err := base64.RawStdEncoding.DecodeString(value)
	return err != nil || bytes.IndexByte(pair, ':') < 0 || bytes.IndexFunc(pair, unicode.IsControl) >= 0 || !utf8.Valid(pair)
}
