package telemetry

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// reference is a value that only says where a secret is: a variable of a shell, a
// template, the output of a command. A name or a scheme may stand before it. A variable
// without braces is in capitals, or its name says that it is a secret: other text with
// a dollar may be a password.
var reference = regexp.MustCompile(`^(?:[A-Za-z0-9_.${}-]*:|(?i:bearer|basic|token)\s+)?(?:` +
	`\$[A-Z]+(?:_[A-Z0-9]+)*|\$[a-z_]*(?:password|passwd|passphrase|pass|secret|token|key)|` +
	`\$\{[A-Za-z_][A-Za-z0-9_]*(?:\}|:?\?[A-Za-z _-]*\}?)|\$[0-9]|\$\{\{[\sA-Za-z0-9_.-]*(?:\}\})?|\$\([a-z]+|%[A-Z_]+%)[)\]}.]*$`)

// loginName reports whether the user of a URL before @, without a password, is just a
// name: with these schemes, or because it is the usual one of a forge.
func loginName(before, user string) bool {
	if user == "git" {
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
	// placeholder is what a usage text has where a value is to be.
	placeholder = regexp.MustCompile(`^(?:<[A-Za-z_-]+>?|[A-Z_]*(?:PASSWORD|TOKEN|SECRET|KEY))[)\]}.]*$`)
	// counted is what is counted, or done, as passed, and the result.
	counted = regexp.MustCompile(`(?i)(?:^|[^a-z0-9])(?:tests|checks|cases|specs|suites|steps|gates|jobs|builds|assertions|total|num|count|did|first|second)$`)
	result  = regexp.MustCompile(`^(?:[0-9]{1,5}(?:[./][0-9]{1,5})?%?|true|false|yes|no)[)\]}.]*$`)
	// expected ends what a parser says before a token of the text that it reads.
	expected = regexp.MustCompile(`(?i)expected\s$`)
	parsed   = regexp.MustCompile(`^[^0-9]{1,15}$`)
	// few is too small a number for a token: a count, or a place.
	few = regexp.MustCompile(`^[0-9]{1,4}[)\]}.]*$`)
	// said begins what is said of a secret, such as cannot be blank, or is its type.
	said = regexp.MustCompile(`(?i)^(?:` +
		`is|are|was|were|has|have|had|does|did|can|cannot|could|may|might|must|should|shall|will|would|needs|too|not|no|at|and|or|to|for|from|in|if|when|with|the|an|of|as|` +
		`accepted|blank|changed|denied|empty|expected|expired|incorrect|invalid|mandatory|maximum|minimum|mismatch|missing|needed|optional|ok|refused|rejected|required|reset|revoked|set|unchanged|unknown|unset|updated|valid|wrong|` +
		`flag|option|argument|given|` +
		`any|bool|boolean|bytes|char|int|integer|number|object|str|string|text|varchar)[.:!?)\]}]*$`)
	plain = regexp.MustCompile(`^[A-Za-z]+(?: [a-z]+)*[)\]}.]*$`)
)

// longestBefore is how much of what stands before a hint is looked at.
const longestBefore = 32

// quoted reports whether the value m of text stands in quotes.
func quoted(text string, m span) bool {
	quote := text[m.from-1]
	return quote == '"' || quote == '\''
}

// ordinary reports that the bare word which follows the name of a secret is none: an
// operator, a literal of a language, a placeholder, the first word of what is said of
// the secret, a count, or what a parser read.
func ordinary(before, text string, hint int, m span) bool {
	if quoted(text, m) {
		return false
	}
	value := text[m.from:m.to]
	before = before[max(0, len(before)-longestBefore):]
	blank := text[m.from-1] == ' ' // and so no assignment of a shell, nor a next line
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

// remark reports that what follows the name of a header is a remark about it: of
// cookies a few words, since a cookie has a name and a value, else what is said of a
// secret.
func remark(_, text string, _ int, m span) bool {
	value := text[m.from:m.to]
	if quoted(text, m) || !plain.MatchString(value) {
		return false
	}
	first, _, _ := strings.Cut(value, " ")
	return hasLower(text, "cookie") && first == strings.ToLower(first) || said.MatchString(first)
}
