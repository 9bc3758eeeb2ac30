package review

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// FingerprintVersion stands before a fingerprint wherever one is shown.
const FingerprintVersion = "fp1"

// Normal returns a line as it is compared: white space at its ends is nothing, and within
// it is one space.
func Normal(line string) string { return strings.Join(strings.Fields(line), " ") }

// Fingerprint returns what identifies a finding across heads: 12 letters and digits. It does not
// depend on the numbers of lines, so a finding that moved with its line is the same one.
func Fingerprint(a Anchor, category Category, title string) string {
	return hash(a.Path, string(category), Normal(a.Text), a.Symbol, strings.Join(tokens(title), " "), strconv.Itoa(a.Index))
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:12]
}

// tokens returns the words of a title in lower case, sorted, each once.
func tokens(title string) []string {
	words := strings.FieldsFunc(strings.ToLower(title), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	slices.Sort(words)
	return slices.Compact(words)
}
