package identity

import (
	"regexp"
	"strings"
	"testing"
)

var tokenShape = regexp.MustCompile(`^nofx_(live|test|dev)_[0-9a-f]{32}_[0-9A-Za-z]{49}$`)

func TestS04_Token(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 200 {
		for _, env := range []KeyEnv{LiveKey, TestKey, DevKey} {
			token := NewToken(env)
			if !tokenShape.MatchString(token.Text) || seen[token.Text] || !strings.HasPrefix(token.Text, token.Prefix+"_") {
				t.Fatalf("NewToken(%s) = %q, want a new match of %v", env, token.Text, tokenShape)
			}
			seen[token.Text] = true
			if gotEnv, id, ok := parseToken(token.Text); !ok || gotEnv != env || id != token.ID {
				t.Fatalf("parseToken(%q) = %s, %s, %v, want %s, %s, true", token.Text, gotEnv, id, ok, env, token.ID)
			}
		}
	}
}

// TestS04_TokenTypos checks that any one wrong digit, and any two exchanged ones, are
// noticed without a query.
func TestS04_TokenTypos(t *testing.T) {
	t.Parallel()
	text := NewToken(LiveKey).Text
	for i := range text {
		for _, c := range "09azAZ_-" {
			typo := text[:i] + string(c) + text[i+1:]
			if _, _, ok := parseToken(typo); ok && typo != text {
				t.Errorf("parseToken took %q with digit %d wrong", typo, i)
			}
		}
		if i > 0 && text[i] != text[i-1] {
			typo := text[:i-1] + string(text[i]) + string(text[i-1]) + text[i+1:]
			if _, _, ok := parseToken(typo); ok {
				t.Errorf("parseToken took %q with digits %d and %d exchanged", typo, i-1, i)
			}
		}
	}
	for _, s := range []string{"", "nofx", "nofx_live_", text + "x", text[1:], strings.ToUpper(text), text + "_", " " + text} {
		if _, _, ok := parseToken(s); ok {
			t.Errorf("parseToken(%q) = ok, want refused", s)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken(LiveKey).Text)
	f.Add("nofx_live_00000000000000000000000000000000_0000000000000000000000000000000000000000000000000")
	f.Add("nofx___")
	f.Fuzz(func(t *testing.T, s string) {
		env, id, ok := parseToken(s)
		if !ok {
			return
		}
		if !tokenShape.MatchString(s) || !strings.HasPrefix(s, "nofx_"+string(env)+"_"+strings.ReplaceAll(id.String(), "-", "")) {
			t.Errorf("parseToken(%q) = %s, %s, which is not what it says", s, env, id)
		}
	})
}
