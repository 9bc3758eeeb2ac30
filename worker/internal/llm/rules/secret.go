package rules

import (
	"strings"
	"unicode"

	"nofx.dev/shared/review"
)

// secrets are the rules for all languages.
var secrets = []rule{
	{"secret/hard-coded", "A credential is hard-coded",
		"Everyone with a copy of the repository can read it, also after it is deleted, since it stays in the history. Revoke it, and read the new one from the environment or a secret store.",
		review.Security, review.High, 0.85, hardCoded},
}

// begun are beginnings of credentials that nothing else has, with their least length.
var begun = []struct {
	prefix string
	length int
}{
	{"AKIA", 20}, {"ASIA", 20}, {"ghp_", 36}, {"gho_", 36}, {"ghs_", 36}, {"github_pat_", 40}, {"glpat-", 24}, {"xoxb-", 30}, {"xoxp-", 30},
	{"sk_live_", 24}, {"rk_live_", 24}, {"sk-ant-", 30}, {"sk-proj-", 30}, {"AIza", 39}, {"SG.", 60}, {"npm_", 40}, {"-----BEGIN RSA PRIVATE KEY", 0}, {"-----BEGIN PRIVATE KEY", 0}, {"-----BEGIN EC PRIVATE KEY", 0}, {"-----BEGIN OPENSSH PRIVATE KEY", 0},
}

// scrubbed stands where a secret was taken out of what we are shown.
const scrubbed = "[redacted]"

func hardCoded(c *code) (all []hit) {
	if c.test {
		return nil
	}
	for i, t := range c.tokens {
		if t.kind != literal || t.prefix == "/" || len(t.holes) > 0 {
			continue
		}
		if known(t.text) {
			all = append(all, hit{line: t.line})
			continue
		}
		if i < 2 || !c.tokens[i-1].is("=", ":=", ":") {
			continue
		}
		to := c.tokens[i-2]
		if to.is("]") && i >= 4 { // x["password"] = "…"
			to = c.tokens[i-3]
		}
		if to.kind == mark || to.kind == number || !secretName(to.text) || i+1 < len(c.tokens) && c.tokens[i+1].is("+", "%", ".") {
			continue
		}
		if t.text == scrubbed || random(t.text) {
			all = append(all, hit{line: t.line})
		}
	}
	return all
}

func known(s string) bool {
	for _, b := range begun {
		if strings.HasPrefix(s, b.prefix) && len(s) >= b.length && (b.length == 0 || random(s)) {
			return b.length > 0 || len(s) > len(b.prefix)+40
		}
	}
	return false
}

// secretName reports whether a name is one of a secret's value.
func secretName(s string) bool {
	s = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
	for _, end := range []string{"password", "passwd", "pwd", "secret", "secretkey", "apikey", "accesskey", "privatekey", "token", "accesstoken", "authtoken", "clientsecret", "encryptionkey", "signingkey"} {
		if strings.HasSuffix(s, end) {
			return true
		}
	}
	return false
}

// random reports whether a text looks as if nobody had made it up to be read: long, in one
// word, of letters and digits, and no placeholder.
func random(s string) bool {
	if len(s) < 10 || len(s) > 200 {
		return false
	}
	lower := strings.ToLower(s)
	for _, w := range []string{"example", "changeme", "placeholder", "your", "xxxx", "dummy", "sample", "fake", "todo", "test", "redacted", "insert", "none", "password", "secret", "token", "-key", "_key", "http", "127.0.0.1", "localhost", "{", "<", "$", "%", "/", "..."} {
		if strings.Contains(lower, w) {
			return false
		}
	}
	letters, digits, kinds := 0, 0, map[rune]bool{}
	for _, r := range s {
		switch {
		case unicode.IsLetter(r) && r < 128:
			letters++
		case unicode.IsDigit(r):
			digits++
		case !strings.ContainsRune("_-+=!@#^&*.~", r):
			return false
		}
		kinds[r] = true
	}
	return letters >= 4 && digits >= 2 && len(kinds) >= 8
}
