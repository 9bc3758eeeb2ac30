package sieve

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever pieces come, the log is what Clean makes of the whole.
func TestCleansOverAnyBorders(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		pieces := rapid.SliceOf(rapid.OneOf(
			rapid.SliceOf(rapid.Byte()),
			rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
			rapid.SampledFrom([][]byte{{0}, {0xe2}, {0x82}, {0xac}, {0xf0, 0x9f}, {0x98, 0x80}, {'\n'}, []byte("€")}),
		)).Draw(rt, "pieces")
		var whole []byte
		redacting := New(func(s string) string { return s })
		var plain Sieve
		var got, redacted []byte
		for _, p := range pieces {
			whole = append(whole, p...)
			got = append(got, plain.Pass(p)...)
			redacted = append(redacted, redacting.Pass(p)...)
		}
		got, redacted = append(got, plain.End()...), append(redacted, redacting.End()...)
		want := strings.ReplaceAll(string([]rune(string(whole))), "\x00", "\uFFFD")
		if string(got) != want || string(redacted) != want || Clean(string(whole)) != want {
			rt.Errorf("log of %q = %q, redacting %q, Clean %q, want %q", pieces, got, redacted, Clean(string(whole)), want)
		}
	})
}

var secrets = regexp.MustCompile(`(?s)tok_[a-z0-9]{8,}|pass:\s*\S+|-----BEGIN KEY-----.*?(?:-----END KEY-----|$)`)

func mask(s string) string { return secrets.ReplaceAllString(s, "[x]") }

func TestSecretsAreFoundOverAnyBorders(t *testing.T) {
	t.Parallel()
	texts := []string{
		"before tok_abcdefgh123 after\nnext\n",
		"pass:\n   hidden word\n",
		"-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----\nrest",
		"a\rtok_abcdefgh\rb",
		"never ends tok_abcdefgh",
	}
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.SampledFrom(texts).Draw(rt, "text")
		got := sieved(text, rapid.IntRange(1, 9).Draw(rt, "bytes at a time"))
		if want := mask(text); got != want {
			rt.Errorf("log of %q = %q, want %q", text, got, want)
		}
	})
}

func TestSecretsAreFoundInEndlessLines(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"of words":   strings.Repeat("x y", maxHold/3) + " tok_abcdefgh12345678 tail",
		"at the cut": strings.Repeat("-", maxHold-overlap-4) + "tok_abcdefgh12345678" + strings.Repeat("-", maxHold),
	} {
		for _, n := range []int{4096, maxHold} {
			if got, want := sieved(text, n), mask(text); got != want {
				t.Errorf("log of an endless line %s has %d bytes, want %d as masked in one piece", name, len(got), len(want))
			}
		}
	}
}

// sieved returns text as logged when it comes n bytes at a time.
func sieved(text string, n int) string {
	s := New(mask)
	var got strings.Builder
	for piece := range slices.Chunk([]byte(text), n) {
		got.Write(s.Pass(piece))
	}
	got.Write(s.End())
	return got.String()
}

func TestOneHeldSecretIsBounded(t *testing.T) {
	t.Parallel()
	s := New(mask)
	s.Pass([]byte("-----BEGIN KEY-----\n"))
	for range 300 {
		s.Pass([]byte(strings.Repeat("k", 999) + "\n"))
		if len(s.held) > 2*maxHold {
			t.Fatalf("%d bytes held, want at most %d", len(s.held), 2*maxHold)
		}
	}
}
